"""The examples do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_demo_notebook_runs_on_a_compute_node(jupyter_home, tmp_path):
    shutil.copytree(EXAMPLES / "kernels" / "slurm-python", jupyter_home / "kernels" / "slurm-python")
    shutil.copy(EXAMPLES / "hello.ipynb", tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / "execute.py"),
            "--kernel",
            "slurm-python",
            str(tmp_path / "hello.ipynb"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"node: +\w+", done.stdout)
    job_id = re.search(r"job: +(\d+)", done.stdout)[1]
    assert f"Job {job_id} was submitted" in done.stdout
    assert job_id in done.stdout.partition("squeue")[0] or "jupyter-" in done.stdout
