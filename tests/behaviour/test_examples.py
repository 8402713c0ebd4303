"""The examples do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import VIA

from slurm_provisioner.config import KernelConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
KERNELS = sorted(EXAMPLES.glob("kernels/*/kernel.json"))


@pytest.mark.parametrize("path", KERNELS, ids=[path.parent.name for path in KERNELS])
def test_a_kernelspec_is_understood(path):
    stanza = json.loads(path.read_text())["metadata"]["kernel_provisioner"]
    assert stanza["provisioner_name"] == "slurm-provisioner"
    config = KernelConfig.load(stanza["config"])
    assert (config.ssh is not None) == ("laptop" in path.parent.name)


def test_the_demo_notebook_runs_on_a_compute_node(jupyter_home, tmp_path, login):
    name = "slurm-laptop" if login else "slurm-python"
    shutil.copytree(EXAMPLES / "kernels" / name, jupyter_home / "kernels" / name)
    shutil.copy(EXAMPLES / "hello.ipynb", tmp_path)
    if login:  # there is a host and a Python of this machine in place of those that the example has for everybody
        path = jupyter_home / "kernels" / name / "kernel.json"
        spec = json.loads(path.read_text())
        spec["metadata"]["kernel_provisioner"]["config"] |= {**login.stanza(VIA), "venv": sys.prefix}
        path.write_text(json.dumps(spec))
    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / "execute.py"),
            "--kernel",
            name,
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
