"""What a user reads when there is no kernel: what happened, the evidence, what to do. And nothing is left of it."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import eventually, launching, queue, queue_empties, refused, remove_folders_of_the_killed, slurm
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient import NotebookClient

from slurm_provisioner.errors import (
    CommandNotFoundError,
    ConfigError,
    JobEndedError,
    KernelStartError,
    NodeUnreachableError,
    QueueTimeoutError,
    StartTimeoutError,
    SubmissionError,
)
from slurm_provisioner.transport.local import LocalTransport
from slurm_provisioner.transport.ssh import SshTransport


@pytest.fixture(autouse=True)
def errors_are_raised(monkeypatch):
    """Cells tell them, too: see test_stand_in."""
    monkeypatch.setenv("KERNEL_SLURM_START", "block")


async def cancelled(name: str, state: str = "") -> None:
    """Cancel a launch at that moment."""
    launch = await launching(AsyncKernelManager(kernel_name=name), state)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch


@pytest.mark.parametrize(
    ("config", "reason", "hint"),
    [
        ({"partition": "nope"}, "invalid partition", "sinfo -s"),
        ({"account": "nope"}, "invalid account", "sacctmgr"),
        ({"gres": "gpu:h900:1", "partition": "gpu"}, "node configuration is not available", "what the nodes have"),
        ({"gres": "warpdrive:1"}, "generic resource", "`gres`"),
        ({"time": "30-00:00:00"}, "time limit", "`time`"),
        ({"mem": "900T"}, "memory", "`mem`"),
        ({"nodes": 50}, "node", "what the nodes have"),
    ],
    ids=["partition", "account", "GPU type", "resource", "time limit", "memory", "nodes"],
)
def test_slurm_refuses(kernelspec, config, reason, hint):
    text = refused(SubmissionError, kernelspec(**config))
    assert re.search(reason, text, re.IGNORECASE)
    assert "command: sbatch --parsable (exit code 1)" in text
    assert hint in text


def test_a_misspelt_field(kernelspec):
    text = refused(ConfigError, kernelspec(partitoin="debug"))
    assert "partitoin" in text
    assert "partition" in text


def test_a_broken_override(kernelspec):
    text = refused(ConfigError, kernelspec(), env={**os.environ, "KERNEL_SLURM_TIME": "tomorrow"})
    assert "KERNEL_SLURM_TIME" in text


def test_no_slurm_here(kernelspec, monkeypatch, tmp_path):
    for program in ("sh", "mkdir", "rm", "chmod", "readlink", "id", "env", "tail"):
        (tmp_path / program).symlink_to(f"/usr/bin/{program}")
    name = kernelspec(ssh=None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandNotFoundError, match="login node"):
        KernelManager(kernel_name=name).start_kernel()


def test_a_kernel_that_is_not_installed(kernelspec):
    name = kernelspec(argv=["/usr/bin/python3", "-m", "no_such_kernel", "-f", "{connection_file}"])
    text = refused(KernelStartError, name)
    assert "no module no_such_kernel" in text
    assert "No module named no_such_kernel" in text


def test_a_command_that_does_not_exist(kernelspec):
    text = refused(JobEndedError, kernelspec(argv=["/opt/nothing/kernel", "{connection_file}"]))
    assert "/opt/nothing/kernel" in text
    assert "argv" in text


def test_a_module_that_does_not_exist(kernelspec):
    text = refused(JobEndedError, kernelspec(modules=["no-such-module/1.0"]))
    assert "environment could not be set up" in text
    assert "modules" in text


def test_a_venv_that_does_not_exist(kernelspec):
    text = refused(JobEndedError, kernelspec(venv="~/no/such/venv"))
    assert "no/such/venv" in text


def test_a_prologue_that_fails(kernelspec):
    text = refused(JobEndedError, kernelspec(prologue=["echo preparing", "cat /no/such/file"]))
    assert "preparing" in text
    assert "/no/such/file" in text
    assert "prologue" in text


def test_no_python_for_the_supervisor(kernelspec):
    text = refused(JobEndedError, kernelspec(python="python2.0"))
    assert "python2.0" in text
    assert "`python`" in text


@pytest.mark.one_machine
def test_too_little_memory(kernelspec):
    hog = "x = bytearray(2_000_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(60)"
    with pytest.raises((JobEndedError, KernelStartError)) as caught:
        KernelManager(
            kernel_name=kernelspec(argv=[sys.executable, "-c", hog, "{connection_file}"], mem="100M")
        ).start_kernel()
    assert "mem" in str(caught.value)
    remove_folders_of_the_killed()  # where there are no cgroups, Slurm ends the supervisor, too


def test_a_port_that_cannot_be_bound(kernelspec):
    text = refused(JobEndedError, kernelspec(address="192.0.2.1"))
    assert "192.0.2.1" in text
    assert "`address`" in text


def test_a_node_that_cannot_be_reached(kernelspec, monkeypatch):
    class Firewall:
        async def connect(self):
            raise OSError(errno.EHOSTUNREACH, "No route to host")

        def close(self):
            pass

    for transport in (LocalTransport, SshTransport):
        monkeypatch.setattr(transport, "route", lambda *_: Firewall())
    monkeypatch.setattr("slurm_provisioner.allocation.REACH_TIMEOUT", 2)
    text = refused(NodeUnreachableError, kernelspec())
    assert re.search(r"[\d.]+( or \w+)?, port \d+, cannot be reached", text)
    assert "No route to host" in text
    assert "`port_range`" in text


def test_a_time_limit_before_the_kernel_is_up(kernelspec):
    async def main() -> str:
        manager = AsyncKernelManager(kernel_name=kernelspec(argv=["/bin/sleep", "600"]))
        launch = await launching(manager, "RUNNING")
        slurm("scontrol", "update", f"JobId={queue()[0].split()[0]}", "EndTime=now+1")
        with pytest.raises(JobEndedError) as caught:
            await launch
        return str(caught.value)

    text = asyncio.run(main())
    assert "it reached its time limit" in text
    assert "TIMEOUT" in text
    assert "`time`" in text


def test_a_kernel_that_never_comes_up(kernelspec):
    text = refused(StartTimeoutError, kernelspec(argv=["/bin/sleep", "600"], start_timeout="3s"))
    assert "start_timeout" in text


def test_a_queue_that_is_too_long(kernelspec):
    text = refused(QueueTimeoutError, kernelspec(sbatch={"begin": "now+1hour"}, queue_timeout="2s"))
    assert "PENDING (BeginTime)" in text
    assert "queue_timeout" in text


def test_a_launch_cancelled_while_queued_leaves_no_job(kernelspec):
    name = kernelspec(sbatch={"begin": "now+1hour"})
    asyncio.run(cancelled(name))
    queue_empties()


def test_a_launch_cancelled_while_it_starts_leaves_no_job(kernelspec):
    name = kernelspec(argv=["/bin/sleep", "600"])
    asyncio.run(cancelled(name, "RUNNING"))
    queue_empties()


#: sbatch does its work, and then keeps its answer: as long as we would wait for it, or longer.
SLOW_SBATCH = 'answer=$("$real" "$@"); sleep {seconds}; echo "$answer"; exit'


@pytest.mark.parametrize("seconds", [2, 12])
def test_a_launch_cancelled_before_sbatch_answers_leaves_no_job(kernelspec, commands, seconds):
    commands.fail(SLOW_SBATCH.format(seconds=seconds), "sbatch")
    name = kernelspec(slurm_bin=str(commands), sbatch={"begin": "now+1hour"})
    asyncio.run(cancelled(name))
    queue_empties()


def test_ctrl_c_on_a_script_that_waits_for_its_kernel_leaves_no_job(kernelspec):
    name = kernelspec(sbatch={"begin": "now+1hour"})
    script = f"from jupyter_client.manager import KernelManager; KernelManager(kernel_name={name!r}).start_kernel()"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    eventually(queue, "a job")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in stderr
    queue_empties()


def test_a_job_cancelled_while_queued(kernelspec):
    async def main() -> str:
        manager = AsyncKernelManager(kernel_name=kernelspec(sbatch={"begin": "now+1hour"}))
        launch = await launching(manager)
        slurm("scancel", queue()[0].split()[0])
        with pytest.raises(JobEndedError) as caught:
            await launch
        return str(caught.value)

    assert "it was cancelled" in asyncio.run(main())


def test_a_kernel_shut_down_while_its_job_is_queued_says_so(kernelspec):
    async def main() -> str:
        manager = AsyncKernelManager(kernel_name=kernelspec(sbatch={"begin": "now+1hour"}))
        launch = await launching(manager)
        await manager.provisioner.cleanup()
        with pytest.raises(JobEndedError) as caught:
            await launch
        return str(caught.value)

    assert "the start was interrupted" in asyncio.run(main())
    queue_empties()


def test_nbclient_shows_the_reason(kernelspec):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    with pytest.raises(SubmissionError, match="partition"):
        NotebookClient(notebook, kernel_name=kernelspec(partition="nope")).execute()


def test_a_kept_run_directory_tells_more(kernelspec):
    refused(JobEndedError, kernelspec(prologue=["echo a trace of it", "false"]))
    logs = [path for path in (Path.home() / ".slurm_provisioner").glob("*/job.log") if "a trace" in path.read_text()]
    assert logs
    for log in logs:
        assert [path.name for path in log.parent.glob("*.json")] == ["about.json"], "no keys are kept"
        shutil.rmtree(log.parent)


def test_a_refused_job_leaves_no_files(kernelspec):
    state_dir = Path.home() / "a state dir"
    refused(SubmissionError, kernelspec(partition="nope", state_dir="~/a state dir"))
    assert list(state_dir.iterdir()) == []
    state_dir.rmdir()
