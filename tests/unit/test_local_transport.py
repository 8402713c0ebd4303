"""Commands, files and connections on the machine itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from slurm_provisioner import loop as loop_module
from slurm_provisioner.environment import clean_environment
from slurm_provisioner.errors import CommandError, CommandNotFoundError, CommandTimeoutError
from slurm_provisioner.loop import background_loop
from slurm_provisioner.transport import Node
from slurm_provisioner.transport.local import LocalTransport


def run(coro):
    return asyncio.run(coro)


def test_a_command_with_all_its_parts():
    done = run(LocalTransport().run(["sh", "-c", "cat; echo oops >&2; exit 3"], stdin=b"in\xff", timeout=60))
    assert (done.returncode, done.stdout, done.stderr) == (3, "in�", "oops\n")


def test_a_command_that_reads_nothing_is_no_error_of_anybody():
    complaints = []

    async def unread():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        done = await LocalTransport().run(["false"], stdin=bytes(1 << 20), timeout=60)
        gc.collect()  # asyncio complains when a future is gone
        return done.returncode

    assert run(unread()) == 1
    assert complaints == []


def test_a_missing_command_says_what_to_do():
    with pytest.raises(CommandNotFoundError, match="sbatch-of-another-world") as caught:
        run(LocalTransport().run(["sbatch-of-another-world"], timeout=60))
    assert "slurm_bin" in str(caught.value)


def test_a_machine_that_can_start_no_process_is_an_error_of_the_command(monkeypatch):
    async def exhausted(*args, **kwargs):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", exhausted)
    with pytest.raises(CommandError, match="could not be started"):
        run(LocalTransport().run(["squeue"], timeout=60))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends meanwhile
        return False


def ends(pid: int) -> None:
    """See a process end: a signal that was sent takes its time."""
    begin = time.monotonic()
    while alive(pid):
        assert time.monotonic() < begin + 60
        time.sleep(0.01)


def test_a_late_command_is_killed_with_its_children(tmp_path):
    script = f"sleep 600 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(CommandTimeoutError):
        run(LocalTransport().run(["sh", "-c", script], timeout=5))
    ends(int((tmp_path / "pid").read_text()))


def test_a_cancelled_command_is_killed(tmp_path):
    async def cancelled():
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        script = f"echo $$ > {fifo}; exec sleep 600"
        task = asyncio.ensure_future(LocalTransport().run(["sh", "-c", script], timeout=60))
        pid = int(await asyncio.to_thread(fifo.read_text))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return pid

    ends(run(cancelled()))


class SlowStart(subprocess.Popen):
    """A program on a file system that does not answer, until `answers` is set."""

    answers: threading.Event
    begun: threading.Event
    processes: list[subprocess.Popen]

    def __init__(self, *args, **kwargs):
        self.begun.set()
        assert self.answers.wait(60)
        super().__init__(*args, **kwargs)
        self.processes.append(self)


@pytest.fixture
def slow_start(monkeypatch):
    for name, value in {"answers": threading.Event(), "begun": threading.Event(), "processes": []}.items():
        monkeypatch.setattr(SlowStart, name, value, raising=False)
    monkeypatch.setattr(subprocess, "Popen", SlowStart)
    yield SlowStart
    SlowStart.answers.set()


def test_a_program_that_takes_long_to_begin_holds_nobody_up(slow_start):
    async def main():
        task = asyncio.ensure_future(background_loop().run(LocalTransport().run(["echo", "begun"], timeout=60)))
        assert await asyncio.to_thread(slow_start.begun.wait, 60)
        await background_loop().run(asyncio.sleep(0))
        slow_start.answers.set()
        return (await task).stdout

    assert run(main()) == "begun\n"


def test_a_program_that_does_not_begin_is_late_and_ended_once_it_does(slow_start, monkeypatch):
    monkeypatch.setattr(loop_module, "CLEAN_UP", 0.05)
    with pytest.raises(CommandTimeoutError):
        run(LocalTransport().run(["sleep", "600"], timeout=0.05))
    assert not slow_start.processes
    slow_start.answers.set()
    begin = time.monotonic()
    while not slow_start.processes:
        assert time.monotonic() < begin + 60
        time.sleep(0.01)
    ends(slow_start.processes[0].pid)


def test_what_changes_slurms_commands_is_taken_out():
    environ = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "1",
        "SBATCH_PARTITION": "x",
        "SQUEUE_FORMAT": "y",
        "SLURM_TIME_FORMAT": "relative",
    }
    ours = {"SLURM_TIME_FORMAT": "%s"}
    assert clean_environment(environ) == {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", **ours}


def test_a_file_is_seen_when_it_appears(tmp_path):
    async def appear():
        async with contextlib.aclosing(LocalTransport().news(str(tmp_path / "later"), ("a", "b"))) as news:
            waiting = asyncio.ensure_future(anext(news))
            await asyncio.sleep(0)
            (tmp_path / "later").mkdir()
            (tmp_path / "later" / "c").write_text("not this")
            (tmp_path / "later" / "a").write_text("")
            (tmp_path / "tmp").write_text("content")
            (tmp_path / "tmp").rename(tmp_path / "later" / "b")
            return await asyncio.wait_for(waiting, 60)

    assert run(appear()) == ("b", b"content")


def test_a_file_is_seen_when_it_changes(tmp_path):
    async def change():
        for name, content in {"a": "old", "b": "older"}.items():
            (tmp_path / name).write_text(content)
        async with contextlib.aclosing(LocalTransport().news(str(tmp_path), ("a", "b"))) as news:
            assert {await anext(news), await anext(news)} == {("a", b"old"), ("b", b"older")}
            waiting = asyncio.ensure_future(anext(news))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.1)
            (tmp_path / "a").write_text("")  # about to be written
            with (tmp_path / "b").open("a") as file:
                file.write(", new")
            return await asyncio.wait_for(waiting, 60)

    assert run(change()) == ("b", b"older, new")


def test_connections():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        route = LocalTransport().route(Node("n1"), "127.0.0.1", port)
        sock = run(route.connect())
        with sock:
            assert sock.getpeername() == ("127.0.0.1", port)
            assert not sock.getblocking()
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    with pytest.raises(OSError, match="Connect call failed"):
        run(route.connect())
    route.close()
