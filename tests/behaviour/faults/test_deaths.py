"""However a kernel or its job ends: it is noticed, explained where the user looks, and nothing starts again unasked."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest
from conftest import Hands, eventually, queue, queue_empties, remove_folders_of_the_killed, slurm
from tools import node_of, warnings
from watched import until, watched

from slurm_provisioner.errors import JobEndedError

HOG = "x = bytearray(2_000_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1"


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
    ids=["exit code", "segmentation fault", "kill -9"],
)
def test_a_kernel_that_dies_is_replaced_in_its_job(kernelspec, caplog, code, how):
    async def main() -> None:
        async with watched(kernelspec()) as kernel:
            await kernel.run("import os; os.write(2, b'its last words\\n')")
            kernel.client.execute(code)
            await kernel.restarted()
            assert await kernel.run("import os; os.environ['SLURM_JOB_ID']") == f"'{kernel.job_id}'"
            assert kernel.restarts == 1
            assert len(queue()) == 1

            told = warnings(caplog)
            assert how in told
            assert kernel.job_id in told
            assert "its last words" in told

    asyncio.run(main())


def test_a_kernel_that_nobody_replaces_gives_its_job_back(start, kernelspec):
    kernel = start(kernelspec(crash_grace="1s"))
    kernel.client.execute("import os; os._exit(3)")
    queue_empties()
    assert not kernel.manager.is_alive()


def ended(name: str, fault: Callable[[str], object]) -> str:
    """Have a fault end the job of a watched kernel. Return the reason that is shown; no other job may follow."""

    async def main() -> str:
        async with watched(name) as kernel:
            await asyncio.to_thread(fault, kernel.job_id)
            reason = await kernel.reason()
            await until(lambda: not any("jupyter" in job for job in queue()), "the end of the job, and no other")
            assert kernel.restarts == 1
            assert kernel.job_id in reason
            return reason

    return asyncio.run(main())


def test_a_cancelled_job(kernelspec):
    reason = ended(kernelspec(), lambda job_id: slurm("scancel", job_id))
    assert "it was cancelled" in reason
    assert "CANCELLED" in reason
    assert "scancel" in reason


@pytest.mark.timeout(240)
def test_a_time_limit_is_announced_then_explained_and_the_kernel_gets_its_chance(kernelspec, caplog, tmp_path):
    saved = tmp_path / "saved"
    at_the_end = f"import os, pathlib, signal; path = pathlib.Path({str(saved)!r})\n"
    at_the_end += "signal.signal(signal.SIGTERM, lambda *_: (path.write_text('all of it'), os._exit(0)))"

    async def main() -> str:
        async with watched(kernelspec(time="1", warn_before_end="30s")) as kernel:
            await kernel.run(at_the_end)
            await until(lambda: "time limit" in warnings(caplog), "a warning", timeout=100)
            assert kernel.job_id in warnings(caplog)
            assert await kernel.run("'still here'") == "'still here'"
            reason = await kernel.reason(timeout=120)
            assert kernel.restarts == 1
            return reason

    reason = asyncio.run(main())
    assert "it reached its time limit" in reason
    assert "TIMEOUT" in reason
    assert "`time`" in reason
    assert saved.read_text() == "all of it"
    assert queue() == []


def test_a_kernel_that_needs_too_much_memory_is_replaced_and_the_log_says_why(kernelspec, caplog):
    async def main() -> None:
        async with watched(kernelspec(mem="300M")) as kernel:
            kernel.client.execute(HOG)
            await kernel.restarted()
            assert await kernel.run("import os; os.environ['SLURM_JOB_ID']") == f"'{kernel.job_id}'"
            told = warnings(caplog)
            assert kernel.job_id in told
            assert "memory" in told
            assert "`mem`" in told

    asyncio.run(main())


def test_a_job_that_ended_for_want_of_memory_says_so(start, kernelspec):
    kernel = start(kernelspec(mem="300M", crash_grace="1s"))
    kernel.client.execute(HOG)
    queue_empties()
    assert not kernel.manager.is_alive()
    with pytest.raises(JobEndedError) as caught:
        kernel.manager.restart_kernel(now=True)
    assert "it used more memory than it asked for" in str(caught.value)
    assert "`mem`" in str(caught.value)


def test_a_preempted_job(kernelspec):
    preemptors = []

    def preempt(job_id: str) -> None:
        argv = ["sbatch", "--parsable", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 600"]
        preemptors.append(slurm(*argv).strip())
        eventually(lambda: "RUNNING" in slurm("squeue", "-h", "-o%T", f"--jobs={preemptors[0]}"), "a preemption")

    try:
        reason = ended(kernelspec(partition="low"), preempt)
    finally:
        slurm("scancel", *preemptors)
    assert "PREEMPTED" in reason
    assert "higher priority" in reason
    assert "`partition`" in reason


def requeue(hands: Hands, job_id: str) -> None:
    hands.scontrol("update", f"JobId={job_id}", "Requeue=1")
    hands.scontrol("requeue", job_id)


def test_a_job_that_an_administrator_requeues_does_not_come_back(kernelspec, hands):
    reason = ended(kernelspec(), lambda job_id: requeue(hands, job_id))
    assert "queue" in reason.splitlines()[0]


def test_the_users_restart_after_a_requeue_gets_a_job_of_its_own(start, hands):
    kernel = start()
    job_id = kernel.job_id
    requeue(hands, job_id)
    eventually(lambda: not kernel.manager.is_alive(), "the news of the job's end")
    kernel.restart()
    assert kernel.run("6 * 7") == "42"
    assert kernel.job_id != job_id
    eventually(lambda: [job.split()[0] for job in queue()] == [kernel.job_id], "the end of the old job")


def set_down(hands: Hands, job_id: str) -> None:
    hands.scontrol("update", f"NodeName={node_of(job_id)}", "State=DOWN", "Reason=test")


def test_a_node_that_fails(kernelspec, hands):
    reason = ended(kernelspec(), lambda job_id: set_down(hands, job_id))
    assert "its node failed" in reason
    assert "NODE_FAIL" in reason


def test_a_supervisor_that_is_killed(kernelspec, hands):
    reason = ended(kernelspec(), lambda job_id: hands.signal(job_id, "supervisor", signal.SIGKILL))
    assert "SIGKILL" in reason
    remove_folders_of_the_killed()


def test_the_users_restart_after_the_supervisor_was_killed_gets_a_new_job(start, hands):
    kernel = start()
    job_id = kernel.job_id
    hands.signal(job_id, "supervisor", signal.SIGKILL)
    eventually(lambda: not kernel.manager.is_alive(), "the news of the job's end")
    kernel.restart()
    assert kernel.job_id != job_id
    assert kernel.run("6 * 7") == "42"
    assert len(queue()) == 1
    remove_folders_of_the_killed()


def test_a_kernel_outlives_slurmd_on_its_node(start, hands):
    kernel = start()
    job_id, node = kernel.job_id, node_of(kernel.job_id)
    hands.kill(node)
    assert kernel.run("6 * 7") == "42"
    kernel.restart()
    hands.start(node)
    assert kernel.run("6 * 7") == "42"
    assert kernel.manager.is_alive()
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
