"""Kernels of other languages and of other makes, each from its start to its end in a job.

How the cluster is reached makes no difference to them, so they run with one way only. `ensure_kernels` installs them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ARGV, eventually, queue_empties

pytestmark = pytest.mark.any_way

#: The environment of kernels that are not the suite's own.
KERNELS = Path(sys.prefix) / "kernels"
IPYKERNEL = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]


@dataclass(frozen=True)
class Make:
    """A make of kernel, and how one speaks to it.

    Attributes
    ----------
    argv : list of str
        What its own kernelspec has.
    keeps : str
        A cell that remembers the number of its job.
    tells : str
        A cell that prints the number that was remembered; without one it prints "none".
    waits : str
        A cell that prints "begun" and goes on for minutes. None for kernels that cannot be interrupted.
    """

    argv: list[str]
    keeps: str
    tells: str
    waits: str | None


def python(argv: list[str], waits: str | None = "print('begun', flush=True)\nimport time\ntime.sleep(600)") -> Make:
    return Make(argv, "import os; x = os.environ['SLURM_JOB_ID']", "print(globals().get('x', 'none'))", waits)


MAKES = {
    "ipykernel": python(ARGV),
    "ipykernel 6": python([str(KERNELS / "bin" / "python"), *IPYKERNEL[1:]]),
    # signals and requests to interrupt a cell are both lost on the wheels of xeus-python, locally too
    "xeus": python([str(KERNELS / "bin" / "python"), "-m", "xpython_launcher", "-f", "{connection_file}"], waits=None),
    "bash": Make(
        [str(KERNELS / "bin" / "python"), "-m", "bash_kernel", "-f", "{connection_file}"],
        "x=$SLURM_JOB_ID",
        "echo ${x:-none}",
        "echo begun; sleep 600",
    ),
    "R": Make(
        ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
        "x <- Sys.getenv('SLURM_JOB_ID')",
        "cat(if (exists('x')) x else 'none')",
        "cat('begun\\n'); Sys.sleep(600)",
    ),
}


@pytest.fixture(params=MAKES)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKES[request.param]


def test_a_kernel_runs_is_interrupted_restarts_and_ends(start, kernelspec, make):
    kernel = start(kernelspec(argv=make.argv), first=make.keeps)
    job_id = kernel.job_id
    assert kernel.run(make.tells) == job_id
    if make.waits:
        assert kernel.interrupt(make.waits)["status"] != "ok"
        assert kernel.run(make.tells) == job_id
    kernel.restart()
    assert kernel.run(make.tells) == "none"
    assert kernel.job_id == job_id
    kernel.manager.shutdown_kernel()
    queue_empties()


def test_its_own_answers_arrive(start, kernelspec):
    kernel = start(kernelspec(argv=MAKES["R"].argv), first="1")
    info = eventually(
        lambda: (reply := kernel.client.kernel_info(reply=True, timeout=30)["content"])["implementation"] and reply,
        "what the kernel says of itself",
    )
    assert info["language_info"]["name"] == "R"
    assert info["implementation"] == "IRkernel"
    assert "Sys.getenv" in kernel.client.complete("Sys.gete", reply=True, timeout=30)["content"]["matches"]


@pytest.mark.parametrize("name", ["xeus", "bash", "R"])
def test_a_kernel_on_ports(start, kernelspec, name):
    make = MAKES[name]
    kernel = start(kernelspec(argv=make.argv, kernel_transport="tcp"), first=make.keeps)
    assert kernel.run(make.tells) == kernel.job_id
    kernel.restart()
    assert kernel.run(make.tells) == "none"


def test_a_kernel_that_is_interrupted_by_a_message(start, kernelspec):
    kernel = start(kernelspec(interrupt_mode="message"))
    assert kernel.interrupt(MAKES["ipykernel"].waits)["ename"] == "KeyboardInterrupt"
    kernel.restart()
    assert kernel.run("1 + 1") == "2"


def test_a_virtual_environment_with_another_ipykernel(start, kernelspec):
    kernel = start(kernelspec(argv=IPYKERNEL, venv=str(KERNELS)))
    version, prefix = kernel.run("import ipykernel, sys; print(ipykernel.__version__, sys.prefix)").split()
    assert version.startswith("6.")
    assert prefix == str(KERNELS)
