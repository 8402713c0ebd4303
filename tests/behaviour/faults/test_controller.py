"""A cluster without its controller, or without its accounting: kernels live on, and the rest is said clearly."""

from __future__ import annotations

import asyncio
import logging
import re
import signal

import pytest
from conftest import eventually, launching, queue, queue_empties, remove_folders_of_the_killed, slurm
from jupyter_client.manager import AsyncKernelManager, KernelManager
from tools import QUEUED, asked, impatient

from slurm_provisioner.errors import CommandError, JobEndedError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    impatient(monkeypatch)


def test_a_kernel_lives_on_while_the_controller_is_down(start, kernelspec, commands, hands, caplog):
    kernel = start(kernelspec(slurm_bin=str(commands)))
    job_id, pid = kernel.job_id, kernel.run("import os; os.getpid()")
    hands.stop("slurmctld")
    asked(commands, 3)
    assert kernel.manager.is_alive()
    assert kernel.run("6 * 7") == "42"
    assert kernel.interrupt("print('begun', flush=True)\nwhile True: pass")["ename"] == "KeyboardInterrupt"
    kernel.restart()
    assert kernel.run("import os; os.getpid()") != pid
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [text for text in warnings if "could not be asked" in text] == warnings, "it is said, and nothing else"
    assert len(warnings) == 1, "once, not at every poll"

    hands.start("slurmctld")
    asked(commands, 2)
    assert kernel.manager.is_alive()
    assert kernel.run("'still here'") == "'still here'"
    assert kernel.job_id == job_id
    kernel.manager.shutdown_kernel()
    queue_empties()


def test_a_crash_is_noticed_and_mended_while_the_controller_is_down(start, kernelspec, commands, hands):
    kernel = start(kernelspec(slurm_bin=str(commands)))
    job_id = kernel.job_id
    hands.stop("slurmctld")
    kernel.client.execute("import os; os._exit(3)")
    eventually(lambda: not kernel.manager.is_alive(), "the news of the kernel's death")
    kernel.restart(now=True)
    assert kernel.run("import os; os.environ['SLURM_JOB_ID']") == f"'{job_id}'"


def test_a_kernel_shut_down_while_the_controller_is_down_gives_its_job_back(start, hands):
    kernel = start()
    hands.stop("slurmctld")
    kernel.manager.shutdown_kernel()
    hands.start("slurmctld")
    queue_empties()


def test_a_launch_cancelled_while_the_controller_is_down_leaves_no_job(kernelspec, commands, hands, monkeypatch):
    monkeypatch.setattr("slurm_provisioner.cluster.CANCEL_FIRST", 0.1)

    async def main() -> None:
        manager = AsyncKernelManager(kernel_name=kernelspec(slurm_bin=str(commands), **QUEUED))
        launch = await launching(manager)
        hands.stop("slurmctld")
        launch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launch

    asyncio.run(main())
    asked(commands, 2, "scancel")
    hands.start("slurmctld")
    queue_empties()


def test_a_job_that_ends_while_the_controller_is_down_is_dead_once_it_is_back(
    start, kernelspec, commands, hands, caplog
):
    kernel = start(kernelspec(slurm_bin=str(commands)))
    hands.stop("slurmctld")
    hands.signal(kernel.job_id, "supervisor", signal.SIGKILL)
    asked(commands, 3)
    assert kernel.manager.is_alive(), "nobody could be asked"
    hands.start("slurmctld")
    eventually(lambda: not kernel.manager.is_alive(), "the news of the job's end")
    eventually(lambda: f"Job {kernel.job_id} on" in caplog.text, "a word about it")
    queue_empties()
    remove_folders_of_the_killed()


@pytest.mark.parametrize("patience", [1.0, 60.0], ids=["sbatch is slow to see it", "sbatch says so"])
def test_a_start_without_a_controller_is_one_clear_error(kernelspec, hands, monkeypatch, patience):
    impatient(monkeypatch, slurm__SUBMIT_TIMEOUT=patience, slurm__COMMAND_TIMEOUT=1, slurm__FIND_PAUSE=0.1)
    manager = KernelManager(kernel_name=kernelspec())
    hands.stop("slurmctld")
    with pytest.raises(CommandError, match="controller") as caught:
        manager.start_kernel()
    assert re.search(r"(?s)scontrol ping.*start\s+the\s+kernel\s+again", str(caught.value))
    hands.start("slurmctld")
    assert queue() == []


def test_kernels_come_and_go_without_the_accounting_daemon(start, hands):
    hands.stop("slurmdbd")
    kernel = start()
    assert kernel.run("6 * 7") == "42"
    kernel.restart()
    assert kernel.run("6 * 7") == "42"
    kernel.manager.shutdown_kernel()
    queue_empties()


def cancelled(kernel, caplog) -> None:
    """A job that somebody cancels, and what is to be read of it."""
    slurm("scancel", kernel.job_id)
    eventually(lambda: not kernel.manager.is_alive(), "the news of the job's end")
    eventually(lambda: "it was cancelled" in caplog.text, "a word about it")
    with pytest.raises(JobEndedError, match=rf"(?s)Job {kernel.job_id} on \w+ ended: it was cancelled.*CANCELLED"):
        kernel.manager.restart_kernel(now=True)
    queue_empties()


def test_a_cancelled_job_is_explained_without_the_accounting_daemon(start, hands, caplog):
    kernel = start()
    hands.stop("slurmdbd")
    cancelled(kernel, caplog)


@pytest.mark.parametrize(
    "sacct",
    ["echo 'sacct: error: Slurm accounting storage is disabled' >&2; exit 1", "sleep 600", "exit 0"],
    ids=["off", "silent", "empty"],
)
def test_a_cancelled_job_is_explained_without_sacct(start, kernelspec, commands, caplog, sacct):
    commands.fail(sacct, "sacct")
    cancelled(start(kernelspec(slurm_bin=str(commands))), caplog)


def test_a_cancelled_job_is_explained_where_there_is_no_sacct(start, kernelspec, commands, caplog):
    (commands.folder / "sacct").unlink()
    cancelled(start(kernelspec(slurm_bin=str(commands))), caplog)
