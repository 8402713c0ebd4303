"""sbatch's answer is lost: its job is found by name and used, or it is cancelled; there are never two."""

from __future__ import annotations

import asyncio

import pytest
from conftest import QUEUED, eventually, launching, queue, queue_empties, refused
from jupyter_client.manager import AsyncKernelManager
from trouble import impatient, jobs_of

from slurm_provisioner.errors import CommandError

TIMED_OUT = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"
#: What becomes of the answer, once sbatch has done its work.
LOST = {
    "it hangs": "sleep 600",
    "it answers nothing": "exit 0",
    "it times out": TIMED_OUT,
    "it is killed": "kill -KILL $$",
}
SUBMIT = '"$real" "$@" > /dev/null'


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    impatient(monkeypatch, slurm__SUBMIT_TIMEOUT=5)


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_its_job_is_found_and_used(start, kernelspec, commands, lost):
    commands.fail(f"{SUBMIT}; {lost}", "sbatch")
    kernel = start(kernelspec(slurm_bin=str(commands)))
    assert kernel.run("import os; os.environ['SLURM_JOB_ID']") == f"'{kernel.job_id}'"
    assert [job.split()[0] for job in queue()] == [kernel.job_id]
    assert jobs_of(kernel.manager) == [kernel.job_id]


def late(seconds: float) -> str:
    """The controller takes the job only after sbatch has given up."""
    submission = f'sleep {seconds}; "$real" "${{@:2}}" < "$1"; touch "$1.done"'
    return f"""cat > "$0.script"
real=$real setsid bash -c '{submission}' late "$0.script" "$@" < /dev/null > /dev/null 2>&1 &
{TIMED_OUT}"""


def test_a_job_that_the_controller_takes_late_is_found_and_used(start, kernelspec, commands, monkeypatch):
    monkeypatch.setattr("slurm_provisioner.slurm.FIND_TRIES", 40)
    commands.fail(late(0.7), "sbatch")
    kernel = start(kernelspec(slurm_bin=str(commands)))
    assert kernel.run("6 * 7") == "42"
    assert jobs_of(kernel.manager) == [kernel.job_id]


def test_a_job_that_the_controller_takes_too_late_comes_to_nothing(kernelspec, commands):
    commands.fail(late(15), "sbatch")
    text = refused(CommandError, kernelspec(slurm_bin=str(commands)))
    assert "Socket timed out" in text
    eventually((commands.folder / "sbatch.script.done").exists, "the late job")
    # A new Slurm makes the folder of its log once more; then it waits for a while for what it is to do.
    eventually(lambda: queue() == [], "an empty queue", timeout=60)


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_a_job_that_was_never_submitted_is_one_clear_error(kernelspec, commands, lost):
    commands.fail(lost, "sbatch")
    text = refused(CommandError, kernelspec(slurm_bin=str(commands)))
    assert "sbatch" in text
    assert "→" in text, "it says what to do"
    assert len(commands.calls("sbatch")) == 1


@pytest.mark.parametrize("lost", ["it hangs", "it answers nothing"])
def test_a_launch_cancelled_while_its_job_is_looked_for_leaves_none(kernelspec, commands, lost, monkeypatch):
    commands.fail(f"{SUBMIT}; {LOST[lost]}", "sbatch")
    commands.fail("sleep 1.5", "squeue")
    monkeypatch.setattr("slurm_provisioner.slurm.COMMAND_TIMEOUT", 10.0)

    async def main() -> None:
        manager = AsyncKernelManager(kernel_name=kernelspec(slurm_bin=str(commands), **QUEUED))
        launch = await launching(manager)
        await asyncio.to_thread(eventually, lambda: commands.calls("squeue"), "a search")
        launch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launch

    asyncio.run(main())
    queue_empties()


def test_banners_around_its_answer(start, kernelspec, commands):
    commands.fail('echo "Welcome, job 4711!"; "$real" "$@"; echo "Have a nice day"; echo 5 >&2; exit 0', "sbatch")
    kernel = start(kernelspec(slurm_bin=str(commands)))
    assert kernel.run("import os; os.environ['SLURM_JOB_ID']") == f"'{kernel.job_id}'"
