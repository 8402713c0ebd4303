"""The environments of a cluster around real kernels: modules, conda, containers, and jobs of more than one node.

How the cluster is reached makes no difference to them, so they run with one way only. `ensure_modules` installs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import refused
from stand_ins import conda, image

from slurm_provisioner.errors import JobEndedError

pytestmark = pytest.mark.any_way

#: As in the kernelspecs of people: which Python it is, is up to the environment.
ARGV = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]

MODULEFILE = """#%Module1.0
conflict tool
prepend-path PATH {prefix}/bin
setenv TOOL_HOME /opt/tool-{version}
"""


@pytest.fixture
def modulefiles(tmp_path: Path) -> Path:
    folder = tmp_path / "modulefiles"
    (folder / "tool").mkdir(parents=True)
    for version in ("1.0", "2.0"):
        (folder / "tool" / version).write_text(MODULEFILE.format(prefix=sys.prefix, version=version))
    return folder


def python_and_tool(kernel) -> list[str]:
    return kernel.run("import os, sys; print(sys.prefix, os.environ.get('TOOL_HOME'))").split()


def test_a_module_that_the_login_shell_knows(start, kernelspec, profile, modulefiles):
    profile(f"module use {modulefiles}")
    kernel = start(kernelspec(argv=ARGV, modules=["tool/1.0"]))
    assert python_and_tool(kernel) == [sys.prefix, "/opt/tool-1.0"]
    assert kernel.run("!module -t list 2>&1 | grep tool") == "tool/1.0"
    kernel.restart()
    assert python_and_tool(kernel) == [sys.prefix, "/opt/tool-1.0"]


def test_a_module_without_a_login_shell(start, kernelspec, modulefiles):
    kernel = start(kernelspec(argv=ARGV, modules=[str(modulefiles / "tool" / "2.0")], login_shell=False))
    assert python_and_tool(kernel) == [sys.prefix, "/opt/tool-2.0"]


def test_modules_of_ones_own_lines(start, kernelspec, modulefiles):
    kernel = start(kernelspec(argv=ARGV, prologue=[f"module use {modulefiles}", "module load tool"]))
    assert python_and_tool(kernel) == [sys.prefix, "/opt/tool-2.0"]


def test_modules_that_exclude_each_other(kernelspec, profile, modulefiles):
    profile(f"module use {modulefiles}")
    text = refused(JobEndedError, kernelspec(argv=ARGV, modules=["tool/1.0", "tool/2.0"], start="block"))
    assert "module load tool/1.0 tool/2.0" in text
    assert "Conflicting tool is loaded" in text


@pytest.mark.parametrize("how", ["name", "folder"])
def test_a_conda_environment(start, kernelspec, profile, tmp_path, how):
    program = conda(tmp_path, lab=Path(sys.prefix))
    profile(f"export CONDA_EXE={program}")
    kernel = start(kernelspec(argv=ARGV, conda_env="lab" if how == "name" else sys.prefix))
    assert kernel.run("import os, sys; print(sys.prefix, os.environ['CONDA_PREFIX'])") == f"{sys.prefix} {sys.prefix}"
    assert kernel.interrupt("print('begun', flush=True)\nwhile True: pass")["ename"] == "KeyboardInterrupt"


def test_a_conda_environment_that_does_not_exist(kernelspec, profile, tmp_path):
    profile(f"export CONDA_EXE={conda(tmp_path, lab=Path(sys.prefix))}")
    text = refused(JobEndedError, kernelspec(argv=ARGV, conda_env="labb", start="block"))
    assert "Could not find conda environment: labb" in text
    assert "conda activate labb" in text


NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount", "true"]


@pytest.mark.skipif(
    "CI" not in os.environ and subprocess.run(NAMESPACES, check=False).returncode != 0,
    reason="users may not have namespaces here",
)
@pytest.mark.parametrize("step", [False, True], ids=["", "in a job step"])
def test_a_container_sees_its_image_alone(start, kernelspec, tmp_path, step):
    """And what is bound: the folder of the kernel's sockets is nowhere else."""
    config = image(tmp_path, binds=[f"{sys.prefix}:/opt/jupyter"])
    kernel = start(kernelspec(argv=["/opt/jupyter/bin/python", *ARGV[1:]], **config, srun=step))
    assert kernel.run("import sys; print(sys.prefix)") == "/opt/jupyter"
    assert kernel.run(f"import os; os.path.exists({str(tmp_path)!r})") == "False"
    assert kernel.run("print(open('/image').read())") == "a root of its own"
    assert kernel.run("import os; os.getuid()") == str(Path.home().stat().st_uid)
    assert kernel.interrupt("print('begun', flush=True)\nwhile True: pass")["ename"] == "KeyboardInterrupt"
    kernel.restart()
    assert kernel.run("print(open('/image').read())") == "a root of its own"


@pytest.mark.parametrize("step", [False, True], ids=["", "in a job step"])
def test_two_nodes(start, kernelspec, step):
    kernel = start(kernelspec(nodes=2, ntasks=2, srun=step))
    first = kernel.run("import os; print(os.environ['SLURMD_NODENAME'])")
    nodes = kernel.run("!srun printenv SLURMD_NODENAME").split()
    assert len(set(nodes)) == 2
    assert first in nodes
    assert kernel.interrupt("print('begun', flush=True)\nwhile True: pass")["ename"] == "KeyboardInterrupt"
    kernel.restart()
    assert sorted(kernel.run("!srun printenv SLURMD_NODENAME").split()) == sorted(nodes)
