"""The examples do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import VIA, eventually, slurm
from stand_ins import conda

from slurm_provisioner.config import KernelConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
KERNELS = sorted(EXAMPLES.glob("kernels/*/kernel.json"))
#: Makes the examples' jobs fit on a small cluster, and asks for no modules that it has not.
SMALL = {"TIME": "10", "MEM": "500M", "CPUS_PER_TASK": "1", "MODULES": "[]"}


@pytest.mark.parametrize("path", KERNELS, ids=[path.parent.name for path in KERNELS])
def test_a_kernelspec_is_understood(path):
    stanza = json.loads(path.read_text())["metadata"]["kernel_provisioner"]
    assert stanza["provisioner_name"] == "slurm-provisioner"
    config = KernelConfig.load(stanza["config"])
    assert config.time
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


@pytest.fixture
def example(jupyter_home, monkeypatch):
    """Install an example's kernelspec, and return its name."""
    for name, value in SMALL.items():
        monkeypatch.setenv(f"KERNEL_SLURM_{name}", value)

    def install(name):
        shutil.copytree(EXAMPLES / "kernels" / name, jupyter_home / "kernels" / name)
        return name

    return install


@pytest.fixture
def execute(example, tmp_path):
    """Execute an example's notebook with its own kernel, and return what its cells print."""

    def execute(name):
        shutil.copy(EXAMPLES / name, tmp_path)
        example(json.loads((EXAMPLES / name).read_text())["metadata"]["kernelspec"]["name"])
        argv = [sys.executable, str(EXAMPLES / "execute.py"), name]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return execute


@pytest.fixture
def lab(profile, tmp_path):
    """A conda environment of that name."""
    profile(f"export CONDA_EXE={conda(tmp_path, lab=Path(sys.prefix))}")


@pytest.mark.any_way
def test_the_notebook_of_two_nodes(execute):
    shown = execute("multi-node.ipynb")
    hosts = re.findall(r"^ +([01]): (\S+)$", shown, re.MULTILINE)
    assert sorted(task for task, _ in hosts) == ["0", "0", "1", "1"]
    kernel = re.search(r"the kernel: (\S+)", shown)[1]
    nodes = {node for _, node in hosts[2:]}
    assert len(nodes) == 2
    assert kernel in nodes


@pytest.mark.any_way
def test_the_notebook_of_engines_on_every_node(execute):
    shown = execute("parallel.ipynb")
    first, second = re.search(r"^ +\['(\S+)', '(\S+)'\]$", shown, re.MULTILINE).groups()
    assert first != second
    assert "[0, 1, 4, 9, 16, 25, 36, 49]" in shown


@pytest.mark.any_way
def test_the_notebook_of_a_gpu(execute):
    shown = execute("gpu.ipynb")
    assert re.search(r"CUDA_VISIBLE_DEVICES: \d", shown)
    assert "There is no NVIDIA driver on this node." in shown or shutil.which("nvidia-smi")


@pytest.mark.any_way
def test_the_notebook_of_long_work_goes_on_where_it_was(execute, tmp_path):
    (tmp_path / "long-job.json").write_text(json.dumps({"step": 90, "sum": 4095}))
    shown = execute("long-job.ipynb")
    assert "begins at step 90" in shown
    assert "done: {'step': 100, 'sum': 5050}" in shown


@pytest.mark.any_way
def test_the_notebook_of_long_work_saves_it_when_the_job_ends(start, example, tmp_path):
    kernel = start(example("slurm-python"), cwd=str(tmp_path))
    cells = json.loads((EXAMPLES / "long-job.ipynb").read_text())["cells"]
    *first, work = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for cell in first:
        kernel.run(cell)
    kernel.begin("print('begun', flush=True)\n" + work)
    slurm("scancel", kernel.job_id)
    saved = tmp_path / "long-job.json"
    eventually(saved.exists, "what was saved")
    state = json.loads(saved.read_text())
    assert 0 <= state["step"] < 100
    assert state["sum"] == state["step"] * (state["step"] + 1) // 2


@pytest.mark.any_way
@pytest.mark.parametrize(
    ("name", "code", "shown"),
    [
        ("slurm-persistent", "1 + 1", "2"),
        ("slurm-gpu", "import os; print(os.environ['OMP_NUM_THREADS'])", "1"),
        ("slurm-r", "cat(R.version$language)", "R"),
        ("slurm-conda", "import os; print(os.environ['CONDA_PREFIX'])", sys.prefix),
    ],
)
@pytest.mark.usefixtures("lab")
def test_a_kernelspec_whose_environment_is_there_runs(start, example, name, code, shown):
    assert start(example(name), first=code).run(code) == shown
