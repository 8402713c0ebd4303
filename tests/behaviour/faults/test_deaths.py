"""However a kernel or its job ends: its cells say so and why, and no job is submitted unasked."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Callable

import pytest
from conftest import ARGV, Hands, eventually, queue, queue_empties, remove_folders_of_the_killed, slurm
from kernels import PATIENCE
from trouble import jobs_of, node_of, plain, told, warnings
from watched import ENDLESS, JOB_ID, until, watched

HOG = "x = bytearray(2_000_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1"
#: Prints, and lets ZMQ's own thread send it.
AT_WORK = "import time; print('begun', flush=True); time.sleep(0.2)"
#: Says something past ipykernel, and waits until the thread that passes it on has written it to the job's log.
LAST_WORDS = """
import os, time
os.write(2, b'its last words\\n')
while 'its last words' not in open(f'/proc/{os.getppid()}/fd/2').read(): time.sleep(0.01)
"""
AGAIN = "Restart the kernel to get a new job."


def crashed(name: str, code: str) -> str:
    """Run code that ends a kernel and not its job. Return what its cell says of it."""

    async def main() -> str:
        async with watched(name) as kernel:
            job_id = kernel.job_id
            await kernel.run(LAST_WORDS)
            cell, queued = kernel.cell(f"{AT_WORK}\n{code}"), kernel.cell(JOB_ID)
            error = await cell.error()
            assert "begun" in cell.printed, "its output is kept"
            assert (await queued.end())["status"] == "aborted"
            await until(lambda: kernel.restarts > 0, "the news of the kernel's death")
            assert await kernel.run(JOB_ID) == job_id
            assert kernel.restarts == 1
            assert jobs_of(kernel.manager) == [job_id]
            assert error.startswith(f"KernelDiedError: The kernel in job {job_id} on ")
            return error

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM"),
    ],
    ids=["exit code", "segmentation fault", "kill -9", "kill"],
)
def test_a_kernel_that_dies_is_replaced_in_its_job(kernelspec, caplog, code, how):
    for told_by in (crashed(kernelspec(), code), warnings(caplog)):
        assert how in told_by
        assert "its last words" in told_by


@pytest.mark.one_machine
def test_a_kernel_that_needs_too_much_memory_is_replaced_and_its_cell_says_why(kernelspec, caplog):
    for told_by in (crashed(kernelspec(mem="300M"), HOG), warnings(caplog)):
        assert "memory" in told_by
        assert "`mem`" in told_by


def test_a_kernel_that_cannot_be_replaced_is_tried_again_when_its_user_says_so(kernelspec, tmp_path):
    program = tmp_path / "kernel"

    def install(*lines: str) -> None:
        program.write_text("\n".join(["#!/bin/sh", *lines]))
        program.chmod(0o755)

    good = "exec " + shlex.join(ARGV[:-1]) + ' "$1"'

    async def main() -> None:
        async with watched(kernelspec(argv=[str(program), "{connection_file}"])) as kernel:
            job_id = kernel.job_id
            install("echo No module named nonsense >&2", "exit 7")
            assert "exit code 3" in await kernel.cell("import os; os._exit(3)").error()
            for _ in range(2):
                error = await kernel.cell(JOB_ID).error()
                assert f"Job {job_id} runs on" in error
                assert "its kernel ended with exit code 7: Python has no module nonsense there" in error
            assert kernel.restarts == 1, "nobody tries that again and again"
            assert await kernel.manager.is_alive()
            install(good)
            await kernel.manager.restart_kernel()
            assert await kernel.run(JOB_ID) == job_id
            assert jobs_of(kernel.manager) == [job_id]

    install(good)
    asyncio.run(main())


def test_a_kernel_that_nobody_replaces_gives_its_job_back(start, kernelspec):
    kernel = start(kernelspec(crash_grace="3s"))
    assert "exit code 3" in told(kernel, "import os; os._exit(3)", alive=False)
    queue_empties()
    assert "nobody restarted its kernel in time" in told(kernel)
    kernel.restart(now=True)
    assert kernel.run("6 * 7") == "42"
    assert len(jobs_of(kernel.manager)) == 2


def test_an_automatic_restart_comes_to_nothing_if_the_job_ends_meanwhile(start):
    """Its restarter found the kernel dead a moment before."""
    kernel = start()
    job_id = kernel.job_id
    assert "exit code 3" in told(kernel, "import os; os._exit(3)", alive=False)
    slurm("scancel", job_id)
    with pytest.raises(RuntimeError, match="it was cancelled"):
        kernel.run("1")
    kernel.restart(now=True)
    assert "it was cancelled" in told(kernel)
    assert jobs_of(kernel.manager) == [job_id]
    kernel.restart(now=True)
    assert kernel.run(JOB_ID) == kernel.job_id != job_id


def ended(name: str, fault: Callable[[str], object], *, restart: bool = True, timeout: float = PATIENCE) -> str:
    """Have a fault end the job of a busy kernel. Return what its cell says; there is no other job before a restart."""

    async def main() -> str:
        async with watched(name) as kernel:
            job_id = kernel.job_id
            cell, queued = await kernel.cell(ENDLESS).begun(), kernel.cell(JOB_ID)
            await asyncio.to_thread(fault, job_id)
            error = await cell.error(timeout)
            assert error.startswith(f"JobEndedError: Job {job_id} on ")
            assert error.endswith(AGAIN)
            assert "begun" in cell.printed, "its output is kept"
            assert (await queued.end())["status"] == "aborted"

            later = await kernel.cell(JOB_ID).error()
            assert error.startswith(later.partition("→")[0].strip()), "it is said again"
            assert later.endswith(AGAIN)
            await until(lambda: not any("jupyter" in job for job in queue()), "the end of the job")
            assert await kernel.manager.is_alive()
            assert kernel.restarts == 0, "nobody saw it dead meanwhile"
            assert jobs_of(kernel.manager) == [job_id], "there was no other"

            if restart:
                await kernel.manager.restart_kernel()
                assert await kernel.run(JOB_ID) == kernel.job_id != job_id
                assert jobs_of(kernel.manager) == [job_id, kernel.job_id]
                assert kernel.restarts == 0
            return error

    return asyncio.run(main())


def test_a_cancelled_job(kernelspec):
    error = ended(kernelspec(), lambda job_id: slurm("scancel", job_id))
    assert "it was cancelled" in error
    assert "CANCELLED" in error
    assert "scancel" in error


def test_a_job_cancelled_while_no_cell_runs_says_so_in_the_last_one(kernelspec):
    async def main() -> None:
        async with watched(kernelspec()) as kernel:
            cell = kernel.cell("print('done')")
            assert (await cell.end())["status"] == "ok"
            await asyncio.to_thread(slurm, "scancel", kernel.job_id)
            await until(lambda: "it was cancelled" in cell.printed, "the news of the job's end")
            assert cell.errors == []
            assert AGAIN in plain(cell.printed)
            assert "it was cancelled" in await kernel.cell("1").error()

    asyncio.run(main())


def test_the_users_restart_now_after_a_job_was_cancelled_gets_a_new_one(start):
    kernel = start()
    job_id = kernel.job_id
    slurm("scancel", job_id)
    assert "it was cancelled" in told(kernel)
    kernel.restart(now=True)
    assert kernel.run(JOB_ID) == kernel.job_id != job_id


@pytest.mark.timeout(480)
def test_a_time_limit_is_announced_then_explained_and_the_kernel_gets_its_chance(kernelspec, caplog, tmp_path):
    saved = tmp_path / "saved"
    at_the_end = f"import os, pathlib, signal; path = pathlib.Path({str(saved)!r})\n"
    at_the_end += "signal.signal(signal.SIGTERM, lambda *_: (path.write_text('all of it'), os._exit(0)))"

    async def main() -> None:
        async with watched(kernelspec(time="1", warn_before_end="30s")) as kernel:
            job_id = kernel.job_id
            cell = await kernel.cell(f"{at_the_end}\n{ENDLESS}").begun()  # the first: it shows it, whenever it was said
            warning = await cell.shows("time limit", timeout=100)
            assert warning.startswith(f"Job {job_id} reaches its time limit in ")
            assert "time limit" in warnings(caplog)
            error = await cell.error(timeout=120)
            assert [line for line in cell.lines if "time limit" in line] == [warning], "once"
            assert "it reached its time limit" in error
            assert "TIMEOUT" in error
            assert "`time`" in error
            assert saved.read_text() == "all of it"
            assert jobs_of(kernel.manager) == [job_id]
            assert await kernel.manager.is_alive()

    asyncio.run(main())


def test_a_warning_of_the_end_is_no_error_and_shows_in_the_last_cell(kernelspec, hands):
    async def main() -> None:
        async with watched(kernelspec(warn_before_end="30s")) as kernel:
            cell = kernel.cell("6 * 7")
            await cell.end()
            await asyncio.to_thread(hands.signal, kernel.job_id, "supervisor", signal.SIGUSR1)
            await cell.shows("reaches its time limit")
            assert cell.errors == []
            assert await kernel.run("6 * 7") == "42"

    asyncio.run(main())


@pytest.mark.one_machine
def test_a_job_that_ended_for_want_of_memory_says_so(start, kernelspec):
    kernel = start(kernelspec(mem="300M", crash_grace="3s"))
    assert "memory" in told(kernel, HOG, alive=False)
    queue_empties()
    error = told(kernel)
    assert "it used more memory than it asked for" in error
    assert "`mem`" in error


def test_a_preempted_job(kernelspec):
    preemptors = []

    def preempt(job_id: str) -> None:
        argv = ["sbatch", "--parsable", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 600"]
        preemptors.append(slurm(*argv).strip())
        eventually(lambda: "RUNNING" in slurm("squeue", "-h", "-o%T", f"--jobs={preemptors[0]}"), "a preemption")

    try:
        error = ended(kernelspec(partition="low"), preempt, restart=False)
    finally:
        slurm("scancel", *preemptors)
    assert "PREEMPTED" in error
    assert "higher priority" in error
    assert "`partition`" in error


def requeue(hands: Hands, job_id: str) -> None:
    hands.scontrol("update", f"JobId={job_id}", "Requeue=1")
    hands.scontrol("requeue", job_id)


def test_a_job_that_an_administrator_requeues_does_not_come_back(kernelspec, hands):
    error = ended(kernelspec(), lambda job_id: requeue(hands, job_id))
    assert "Slurm put it back into the queue, where it was cancelled" in error


def set_down(hands: Hands, job_id: str) -> None:
    hands.scontrol("update", f"NodeName={node_of(job_id)}", "State=DOWN", "Reason=test")


def test_a_node_that_fails(kernelspec, hands):
    error = ended(kernelspec(), lambda job_id: set_down(hands, job_id))
    assert "its node failed" in error
    assert "NODE_FAIL" in error


def test_a_supervisor_that_is_killed(kernelspec, hands):
    error = ended(kernelspec(), lambda job_id: hands.signal(job_id, "supervisor", signal.SIGKILL))
    assert "SIGKILL" in error
    remove_folders_of_the_killed()


def test_a_supervisor_that_is_killed_while_cells_are_held(kernelspec, hands):
    async def main() -> None:
        async with watched(kernelspec(argv=["/bin/sleep", "600"]), queued=True) as kernel:
            cell, queued = kernel.cell(JOB_ID), kernel.cell("1")
            await cell.shows("starting the kernel")
            await asyncio.to_thread(hands.signal, kernel.job_id, "supervisor", signal.SIGKILL)
            error = await cell.error()
            assert "ended before its kernel was up" in error
            assert "SIGKILL" in error
            assert (await queued.end())["status"] == "aborted"
            assert cell.shown == {}, "the line about the job is gone"
            assert "SIGKILL" in await kernel.cell("1").error()
            assert await kernel.manager.is_alive()
            assert jobs_of(kernel.manager) == [kernel.job_id]

    asyncio.run(main())
    remove_folders_of_the_killed()


def test_a_kernel_outlives_slurmd_on_its_node(start, hands):
    kernel = start()
    job_id, node = kernel.job_id, node_of(kernel.job_id)
    hands.kill(node)
    assert kernel.run("6 * 7") == "42"
    kernel.restart()
    hands.start(node)
    assert kernel.run(JOB_ID) == job_id
    assert kernel.job_id == job_id


def test_a_kernel_shut_down_without_slurmd_on_its_node_gives_its_job_back(start, hands):
    kernel = start()
    node = node_of(kernel.job_id)
    hands.kill(node)
    kernel.manager.shutdown_kernel()
    hands.start(node)
    queue_empties()


def test_a_kernel_outlives_slurmstepd_and_leaves_nothing(start, hands):
    kernel = start()
    hands.signal(kernel.job_id, "slurmstepd", signal.SIGKILL)
    assert kernel.run("6 * 7") == "42"
    assert kernel.manager.is_alive()
    kernel.manager.shutdown_kernel()
    queue_empties()
