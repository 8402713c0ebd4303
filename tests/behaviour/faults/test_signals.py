"""Signals find their way, and processes that do not listen are ended all the same."""

from __future__ import annotations

import asyncio
import signal
import textwrap
import threading

import pytest
from conftest import eventually, launching, queue, queue_empties, slurm
from jupyter_client.manager import AsyncKernelManager
from stand_ins import container
from trouble import asked, cut_link, impatient, jobs_of, told
from watched import JOB_ID, until, watched

BUSY = "print('begun', flush=True)\nwhile True: pass"
WAITING = "import subprocess\nprint('begun', flush=True)\nsubprocess.run(['sleep', '600'])"


@pytest.fixture(params=["a plain kernel", "a job step", "a container"])
def kernel(request, start, kernelspec, tmp_path):
    config = {"a plain kernel": {}, "a job step": {"srun": True}}.get(request.param)
    return start(kernelspec(**(container(tmp_path) if config is None else config)))


@pytest.mark.parametrize("code", [BUSY, WAITING], ids=["busy", "waiting for a subprocess"])
def test_an_interrupt_goes_by_way_of_slurm_when_the_link_is_down(kernel, monkeypatch, tmp_path, code):
    felt = tmp_path / "felt"
    code = f"try:\n{textwrap.indent(code, '  ')}\nexcept KeyboardInterrupt:\n  open({str(felt)!r}, 'w')\n  raise"
    request = kernel.begin(code)
    with monkeypatch.context() as network:
        cut_link(kernel, network)
        kernel.manager.interrupt_kernel()
        eventually(felt.exists, "the interrupt")
    assert kernel.reply(request)["ename"] == "KeyboardInterrupt"
    kernel.restart()
    assert kernel.run("6 * 7") == "42"


def test_what_a_kernel_says_while_the_link_is_down_arrives(start, monkeypatch, tmp_path):
    kernel, done = start(), tmp_path / "done"
    talk = "print('begun', flush=True)\nfor number in range(3000): print(number, flush=True)"
    request = kernel.begin(f"import pathlib\n{talk}\npathlib.Path({str(done)!r}).touch()")
    with monkeypatch.context() as network:
        cut_link(kernel, network)
        eventually(done.exists, "the end of the cell")
    assert kernel.reply(request)["status"] == "ok"
    text = ""
    while (message := kernel.client.get_iopub_msg(timeout=60))["content"].get("execution_state") != "idle":
        text += message["content"].get("text", "")
    assert text == "".join(f"{number}\n" for number in range(3000))


def test_a_kernel_killed_while_the_link_is_down_leaves_nothing(kernel, monkeypatch):
    cut_link(kernel, monkeypatch)
    kernel.manager.shutdown_kernel(now=True)
    queue_empties()


def test_a_kernel_shut_down_while_the_link_is_down_leaves_nothing(start, monkeypatch):
    kernel = start()
    cut_link(kernel, monkeypatch)
    kernel.manager.shutdown_kernel()
    queue_empties()


def test_a_kernel_that_dies_is_replaced_in_its_job_wherever_it_runs(kernel):
    job_id = kernel.job_id
    assert "exit code 3" in told(kernel, "import os; os._exit(3)", alive=False)
    kernel.restart(now=True)
    assert kernel.run(JOB_ID) == job_id


@pytest.mark.parametrize("now", [False, True], ids=["restart", "restart now"])
def test_a_restart_waits_for_a_link_that_comes_back(start, monkeypatch, now):
    kernel = start()
    job_id = kernel.job_id
    with monkeypatch.context() as network:
        cut_link(kernel, network)
        back = threading.Timer(1, network.undo)
        back.start()
        kernel.restart(now=now)
    back.join()
    assert kernel.run(JOB_ID) == job_id


def test_a_busy_kernel_gets_its_chance_before_it_is_killed(start, tmp_path):
    kernel = start()
    saved = tmp_path / "saved"
    kernel.run("import os, pathlib, signal")
    kernel.run(f"save = lambda *_: (pathlib.Path({str(saved)!r}).write_text('all of it'), os._exit(0))")
    kernel.run("signal.signal(signal.SIGTERM, save)")
    # ipykernel sets SIGINT's handler anew for each cell
    kernel.client.execute("signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('begun', flush=True)\nwhile True: pass")
    while kernel.client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
        pass
    kernel.manager.shutdown_kernel()
    queue_empties()
    assert saved.read_text() == "all of it"


@pytest.mark.parametrize("now", [False, True], ids=["shutdown", "shutdown now"])
@pytest.mark.parametrize("process", ["supervisor", "kernel"])
def test_a_process_that_was_stopped_does_not_keep_the_job(start, hands, process, now):
    kernel = start()
    hands.signal(kernel.job_id, process, signal.SIGSTOP)
    kernel.manager.shutdown_kernel(now=now)
    queue_empties()


def test_a_stopped_kernel_is_replaced_by_a_restart(start, hands):
    kernel = start()
    job_id = kernel.job_id
    hands.signal(job_id, "kernel", signal.SIGSTOP)
    kernel.restart()
    assert kernel.run(JOB_ID) == job_id


def test_a_restart_that_the_supervisor_does_not_answer_is_told_and_can_be_tried_again(start, hands, monkeypatch):
    kernel = start()
    job_id = kernel.job_id
    hands.signal(job_id, "supervisor", signal.SIGSTOP)
    with monkeypatch.context() as impatience:
        impatience.setattr("slurm_provisioner.allocation.RESTART_TIMEOUT", 3.0)
        kernel.restart()
    for _ in range(2):
        error = told(kernel)
        assert "did not answer" in error
        assert "Restart the kernel" in error
    hands.signal(job_id, "supervisor", signal.SIGCONT)
    kernel.restart()
    assert kernel.run(JOB_ID) == job_id
    assert jobs_of(kernel.manager) == [job_id]


def test_a_stuck_job_is_given_back_although_scancel_fails_at_first(start, kernelspec, commands, hands, monkeypatch):
    monkeypatch.setattr("slurm_provisioner.cluster.LATER_FIRST", 0.3)
    kernel = start(kernelspec(slurm_bin=str(commands)))
    hands.signal(kernel.job_id, "supervisor", signal.SIGSTOP)
    fails_thrice = (
        '[ "$(grep -vc signal "$0.calls")" -gt 3 ] || { echo "scancel: error: Socket timed out" >&2; exit 1; }'
    )
    commands.fail(fails_thrice, "scancel")
    kernel.manager.shutdown_kernel(now=True)
    queue_empties()


def test_a_job_that_is_suspended_for_a_while_goes_on(start, kernelspec, commands, hands, monkeypatch):
    impatient(monkeypatch)
    kernel = start(kernelspec(slurm_bin=str(commands)))
    hands.scontrol("suspend", kernel.job_id)
    asked(commands, 3)
    hands.scontrol("resume", kernel.job_id)
    assert kernel.run("6 * 7") == "42"


@pytest.fixture
def no_room():
    """Another job of this user has every node."""
    argv = ["sbatch", "--parsable", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=exec sleep 600"]
    other = slurm(*argv).strip()
    eventually(lambda: "RUNNING" in "".join(queue()), "a job on every node")
    yield lambda: slurm("scancel", other)
    slurm("scancel", other)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_a_signal_to_a_queued_kernel_is_not_kept_for_later(kernelspec, commands, no_room, signum):
    async def main() -> None:
        async with watched(kernelspec(slurm_bin=str(commands)), queued=True) as kernel:
            job_id = kernel.job_id
            await kernel.manager.provisioner.send_signal(signum)
            assert not any("signal" in call for call in commands.calls("scancel"))
            no_room()
            assert await kernel.run(JOB_ID) == job_id
            assert kernel.restarts == 0

    asyncio.run(main())


@pytest.mark.parametrize("start", ["now", "block"])
def test_a_queued_kernel_that_is_shut_down_leaves_no_job(kernelspec, commands, no_room, start):
    async def main() -> None:
        manager = AsyncKernelManager(kernel_name=kernelspec(slurm_bin=str(commands), start=start))
        launch = await launching(manager, "PENDING")
        # jupyter_client trips over the two of them where the launch blocks, which is not ours to mend
        await asyncio.gather(manager.shutdown_kernel(), launch, return_exceptions=True)
        await until(lambda: not any("jupyter" in job for job in queue()), "the end of the job")
        assert not any("signal" in call for call in commands.calls("scancel"))
        await manager.cleanup_resources()

    asyncio.run(main())
