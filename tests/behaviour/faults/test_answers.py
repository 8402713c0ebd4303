"""Whatever Slurm's commands answer: a healthy kernel is never taken for dead, and a dead one for healthy no longer than
they lie."""

from __future__ import annotations

import asyncio
import signal

import pytest
from conftest import control, queue, queue_empties, remove_folders_of_the_killed, slurm
from trouble import asked, impatient, jobs_of, told
from watched import ENDLESS, watched

INVALID = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
#: What a command does instead of its work, as lines of bash.
LIES = {
    "no answer": "sleep 600",
    "nothing": "exit 0",
    "invalid job id": INVALID,
    "an error": "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
    "an error and exit code 0": "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 0",
    "garbled": "printf '\\377\\376\\0\\1 \\x1f\\x1f\\x1f\\x1f\\n\\xc3\\x28'; exit 0",
    "half of it": '"$real" "$@" | head -c 25; exit 0',
    "an unknown state": '"$real" "$@" | sed -E \'s/RUNNING|COMPLETING|FAILED/LEVITATING/g\'; exit 0',
    "a state cut short": '"$real" "$@" | sed -E \'s/RUNNING|COMPLETING|FAILED/CA/g\'; exit 0',
    "a banner": "printf '*** Maintenance 2001-02-03 ***\\nJob 1: FAILED CANCELLED\\n'; printf 'be warned\\n' >&2",
    "killed": "kill -KILL $$",
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    impatient(monkeypatch, slurm__COMMAND_TIMEOUT=1.0, watcher__VANISHED_AFTER=1.0)


def lives_on_and_is_found_when_cancelled(kernel, commands, lie, *liars) -> None:
    commands.fail(lie, *liars)
    asked(commands, 5)
    assert kernel.run("6 * 7", timeout=20) == "42"
    assert "RUNNING" in control(kernel.job_id), "nobody cancelled it"
    commands.behave()
    slurm("scancel", kernel.job_id)
    assert "it was cancelled" in told(kernel)
    queue_empties()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_healthy_kernel_lives_on_whatever_slurm_says(start, kernelspec, commands, lie):
    kernel = start(kernelspec(slurm_bin=str(commands)))
    lives_on_and_is_found_when_cancelled(kernel, commands, lie, "squeue", "scontrol", "sacct")


@pytest.mark.parametrize("lie", ["nothing", "invalid job id"])
def test_a_healthy_kernel_lives_on_when_squeue_alone_forgets_it(start, kernelspec, commands, lie):
    kernel = start(kernelspec(slurm_bin=str(commands)))
    lives_on_and_is_found_when_cancelled(kernel, commands, LIES[lie], "squeue")


@pytest.mark.parametrize("lie", ["no answer", "an unknown state", "an error", "half of it"])
def test_a_dead_job_is_found_once_slurm_can_tell(kernelspec, commands, hands, lie):
    async def main() -> None:
        async with watched(kernelspec(slurm_bin=str(commands))) as kernel:
            cell = await kernel.cell(ENDLESS).begun()
            commands.fail(LIES[lie], "squeue", "scontrol", "sacct")
            hands.signal(kernel.job_id, "supervisor", signal.SIGKILL)
            await asyncio.to_thread(asked, commands, 5)
            assert cell.reply is None, "nobody could tell"
            assert cell.errors == []
            commands.behave()
            assert "SIGKILL" in await cell.error()
            assert jobs_of(kernel.manager) == [kernel.job_id]

    asyncio.run(main())
    remove_folders_of_the_killed()


def test_a_job_that_nobody_remembers_is_dead_after_a_while(start, kernelspec, commands, hands):
    kernel = start(kernelspec(slurm_bin=str(commands)))
    commands.fail(LIES["invalid job id"], "squeue", "scontrol", "sacct")
    hands.signal(kernel.job_id, "supervisor", signal.SIGKILL)
    assert "Slurm no longer knows it" in told(kernel)
    remove_folders_of_the_killed()


@pytest.mark.parametrize("lie", ["no answer", "nothing", "garbled", "an unknown state"])
def test_a_kernel_starts_whatever_squeue_says(start, kernelspec, commands, lie):
    commands.fail(LIES[lie].replace("RUNNING", "PENDING"), "squeue")
    kernel = start(kernelspec(slurm_bin=str(commands)))
    assert kernel.run("6 * 7") == "42"
    assert len(queue()) == 1
