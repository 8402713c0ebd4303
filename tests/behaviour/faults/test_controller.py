"""A cluster without its controller, or without its accounting: kernels live on, and the rest is said clearly."""

from __future__ import annotations

import asyncio
import logging
import re
import signal

import pytest
from conftest import (
    QUEUED,
    launching,
    queue,
    queue_empties,
    remove_folders_of_the_killed,
    slurm,
    start_now,
)
from jupyter_client.manager import AsyncKernelManager, KernelManager
from trouble import asked, impatient, jobs_of, plain, told
from watched import ENDLESS, JOB_ID, until, watched

from slurm_provisioner.errors import CommandError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    impatient(monkeypatch)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_a_kernel_lives_on_while_the_controller_is_down(start, kernelspec, commands, hands, caplog):
    kernel = start(kernelspec(slurm_bin=str(commands)))
    job_id, pid = kernel.job_id, kernel.run("import os; os.getpid()")
    before = len(warned(caplog))  # of an answer that was late on a busy machine
    hands.stop("slurmctld")
    asked(commands, 3)
    assert kernel.run("6 * 7") == "42"
    assert kernel.interrupt("print('begun', flush=True)\nwhile True: pass")["ename"] == "KeyboardInterrupt"
    kernel.restart()
    assert kernel.run("import os; os.getpid()") != pid
    warnings = warned(caplog)
    assert [text for text in warnings if "could not be asked" in text] == warnings, "it is said, and nothing else"
    assert len(warnings) == before + 1, "once, not at every poll"

    hands.start("slurmctld")
    asked(commands, 2)
    assert kernel.run("'still here'") == "'still here'"
    assert kernel.job_id == job_id
    kernel.manager.shutdown_kernel()
    queue_empties()


def test_a_crash_is_noticed_and_mended_while_the_controller_is_down(start, kernelspec, commands, hands):
    kernel = start(kernelspec(slurm_bin=str(commands)))
    job_id = kernel.job_id
    hands.stop("slurmctld")
    assert "exit code 3" in told(kernel, "import os; os._exit(3)", alive=False)
    kernel.restart(now=True)
    assert kernel.run(JOB_ID) == job_id


def test_a_kernel_shut_down_while_the_controller_is_down_gives_its_job_back(start, hands):
    kernel = start()
    hands.stop("slurmctld")
    kernel.manager.shutdown_kernel()
    hands.start("slurmctld")
    queue_empties()


@pytest.mark.parametrize("start", ["block", "now"])
def test_a_launch_cancelled_while_the_controller_is_down_leaves_no_job(kernelspec, commands, hands, monkeypatch, start):
    monkeypatch.setattr("slurm_provisioner.cluster.LATER_FIRST", 0.1)

    async def main() -> None:
        manager = AsyncKernelManager(kernel_name=kernelspec(slurm_bin=str(commands), start=start, **QUEUED))
        launch = await launching(manager)
        if start == "now":
            await launch
        hands.stop("slurmctld")
        if start == "now":
            await manager.shutdown_kernel()
        else:
            launch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await launch

    asyncio.run(main())
    asked(commands, 2, "scancel")
    hands.start("slurmctld")
    queue_empties()


def test_a_queued_kernel_is_interrupted_and_restarted_while_the_controller_is_down(kernelspec, commands, hands):
    async def main() -> None:
        async with watched(kernelspec(slurm_bin=str(commands), **QUEUED), queued=True) as kernel:
            cell, other = kernel.cell(JOB_ID), kernel.cell(JOB_ID)
            await cell.shows("its begin time has not come yet")
            await asyncio.to_thread(hands.stop, "slurmctld")
            await cell.shows("Slurm does not answer at the moment")
            await kernel.manager.interrupt_kernel()
            assert "KeyboardInterrupt: interrupted before it ran" in await cell.error(timeout=20)
            assert (await other.end(timeout=20))["status"] == "aborted"

            cell = kernel.cell(JOB_ID)
            await cell.shows("Slurm does not answer at the moment")
            await kernel.manager.restart_kernel()
            assert "KeyboardInterrupt" in await cell.error(timeout=20), "it was asked for before the restart"
            cell = kernel.cell(JOB_ID)
            await asyncio.to_thread(hands.start, "slurmctld")
            await cell.shows("its begin time has not come yet")
            await asyncio.to_thread(start_now, kernel.job_id)
            await cell.end()
            assert cell.printed.strip() == kernel.job_id
            assert cell.shown == {}
            assert jobs_of(kernel.manager) == [kernel.job_id], "it kept its place"

    asyncio.run(main())


def test_a_job_that_ends_while_the_controller_is_down_is_told_once_it_is_back(kernelspec, commands, hands):
    async def main() -> None:
        async with watched(kernelspec(slurm_bin=str(commands))) as kernel:
            cell = await kernel.cell(ENDLESS).begun()
            await asyncio.to_thread(hands.stop, "slurmctld")
            await asyncio.to_thread(hands.signal, kernel.job_id, "supervisor", signal.SIGKILL)
            await asyncio.to_thread(asked, commands, 3)
            await cell.shows("no connection to")
            assert cell.errors == [], "nobody could be asked"
            await asyncio.to_thread(hands.start, "slurmctld")
            assert f"Job {kernel.job_id} on" in await cell.error()

    asyncio.run(main())
    queue_empties()
    remove_folders_of_the_killed()


def test_a_restart_that_needs_a_new_job_without_a_controller_is_tried_again_by_the_next(kernelspec, hands, monkeypatch):
    async def main() -> None:
        async with watched(kernelspec()) as kernel:
            job_id = kernel.job_id
            await asyncio.to_thread(slurm, "scancel", job_id)
            await until(lambda: queue() == [], "the end of the job")
            assert "it was cancelled" in await kernel.cell(ENDLESS).error()
            await asyncio.to_thread(hands.stop, "slurmctld")
            with monkeypatch.context() as impatience:
                impatient(impatience, slurm__SUBMIT_TIMEOUT=2, slurm__COMMAND_TIMEOUT=1, slurm__FIND_PAUSE=0.1)
                await kernel.manager.restart_kernel()
                for _ in range(2):
                    error = await kernel.cell(JOB_ID).error()
                    assert "scontrol ping" in error
                    assert await kernel.manager.is_alive()
            await asyncio.to_thread(hands.start, "slurmctld")
            await kernel.manager.restart_kernel()
            assert await kernel.run(JOB_ID) == kernel.job_id != job_id
            assert jobs_of(kernel.manager) == [job_id, kernel.job_id]
            assert kernel.restarts == 0

    asyncio.run(main())


@pytest.mark.parametrize("patience", [1.0, 60.0], ids=["sbatch is slow to see it", "sbatch says so"])
def test_a_start_without_a_controller_is_one_clear_error(kernelspec, hands, monkeypatch, patience):
    impatient(monkeypatch, slurm__SUBMIT_TIMEOUT=patience, slurm__COMMAND_TIMEOUT=1, slurm__FIND_PAUSE=0.1)
    manager = KernelManager(kernel_name=kernelspec())
    hands.stop("slurmctld")
    with pytest.raises(CommandError, match="controller") as caught:
        manager.start_kernel()
    assert re.search(r"scontrol ping.*start the kernel again", plain(str(caught.value)))
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


def cancelled(kernel) -> None:
    """A job that somebody cancels, and what is to be read of it."""
    slurm("scancel", kernel.job_id)
    error = told(kernel)
    assert re.search(rf"Job {kernel.job_id} on \w+ ended: it was cancelled.*CANCELLED", error)
    queue_empties()


def test_a_cancelled_job_is_explained_without_the_accounting_daemon(start, hands):
    kernel = start()
    hands.stop("slurmdbd")
    cancelled(kernel)


@pytest.mark.parametrize(
    "sacct",
    ["echo 'sacct: error: Slurm accounting storage is disabled' >&2; exit 1", "sleep 600", "exit 0"],
    ids=["off", "silent", "empty"],
)
def test_a_cancelled_job_is_explained_without_sacct(start, kernelspec, commands, sacct):
    commands.fail(sacct, "sacct")
    cancelled(start(kernelspec(slurm_bin=str(commands))))


def test_a_cancelled_job_is_explained_where_there_is_no_sacct(start, kernelspec, commands):
    (commands.folder / "sacct").unlink()
    cancelled(start(kernelspec(slurm_bin=str(commands))))
