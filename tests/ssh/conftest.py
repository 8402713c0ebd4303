"""Logins by a real ssh, to a real sshd on this machine, in both ways that there are.

Every test leaves this process and this machine as they were: no task, process, connection, file or folder of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from login_host import PATIENCE, Laptop, Sshd, environment_of, eventually

from slurm_provisioner.guard import guard
from slurm_provisioner.login_host import LoginHost
from slurm_provisioner.transport.ssh import SshTransport

T = TypeVar("T")

#: In the environment of what a transport starts on this side.
MARK = "TRANSPORT_OF_TEST"
KINDS = ("asyncssh", "openssh")


class LogIn:
    """Has a transport for a coroutine, closes it after, and looks for what it has left.

    Attributes
    ----------
    kind : str
        What the transport is made of.
    """

    def __init__(self, kind: str, sshd: Sshd, laptop: Laptop) -> None:
        self.kind, self.sshd, self.laptop = kind, sshd, laptop

    def host(self, **more: Any) -> LoginHost:
        return LoginHost(**{"host": "hpc", "config": self.laptop.config, "transport": self.kind, **more})

    def __call__(self, main: Callable[[SshTransport], Awaitable[T]], **more: Any) -> T:
        async def within() -> T:
            transport = SshTransport(self.host(**more))
            try:
                return await main(transport)
            finally:
                await transport.aclose()
                left = asyncio.all_tasks() - {asyncio.current_task()}
                assert not left, left
                await happens(lambda: children() <= others, "the end of what was started here")

        before = self.sshd.connections()  # such as the user's own
        others = children()
        os.environ[MARK] = mark = str(self.laptop.folder)
        try:
            result = asyncio.run(within())
        finally:
            del os.environ[MARK]
        eventually(lambda: not local(mark), "the end of what went on by itself")
        eventually(lambda: not self.sshd.commands(), "the end of what was started there")
        eventually(lambda: not set(self.sshd.connections()) - set(before), "the end of connections")
        assert os.listdir(tempfile.gettempdir()) == []
        return result


def children() -> set[int]:
    """This process's own, also those that ended without anybody's having looked, but no servers."""
    found = set()
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{name}/stat").read_text() if name.isdecimal() else ""
            if stat.rpartition(")")[2].split()[1:2] == [str(os.getpid())] and "(sshd)" not in stat:
                found.add(int(name))
    return found


def local(mark: str) -> list[int]:
    """What a transport has started on this side and is alive."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]
    return [pid for pid in pids if f"{MARK}={mark}" in environment_of(pid)]


async def happens(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something of which there is no event, while the loop runs."""
    return await asyncio.to_thread(eventually, condition, what)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends meanwhile
        return False


async def soon(awaitable: Awaitable[T]) -> T:
    """Await what is to happen without any time limit of its own."""
    return await asyncio.wait_for(awaitable, PATIENCE)


# -------------------------------------------------------------------------------- fixtures


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A temporary folder of the test alone, with a path short enough for sockets."""
    folder = tempfile.mkdtemp(prefix="ssh-", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.setenv("TMPDIR", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def guarded() -> None:
    """What lasts as long as this process is there before."""
    guard.add(["true"])()


@pytest.fixture(scope="session", autouse=True)
def own_folder_untouched() -> Iterator[None]:
    """Nothing appears in the folder that ssh keeps for whoever runs this."""
    folder = Path.home() / ".ssh"
    before = sorted(folder.glob("*"))
    yield
    assert sorted(folder.glob("*")) == before


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Have no agent, and a program that would ask people; what it was to ask is in a file, which must not appear."""
    program, questions = tmp_path / "askpass", tmp_path / "questions"
    program.write_text(f'#!/bin/sh\necho "$*" >> {questions}\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("SSH_ASKPASS", str(program))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    monkeypatch.setenv("DISPLAY", ":0")
    yield questions
    assert not questions.exists(), questions.read_text()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """The login host."""
    with Sshd(tmp_path / "hpc") as it:
        yield it


@pytest.fixture
def laptop(tmp_path: Path, sshd: Sshd) -> Laptop:
    """Knows the login host as ``hpc``."""
    it = Laptop(tmp_path / "laptop")
    it.add("hpc", sshd)
    return it


@pytest.fixture(params=KINDS)
def log_in(request: pytest.FixtureRequest, sshd: Sshd, laptop: Laptop) -> LogIn:
    """Has a transport to the login host, made of this or that."""
    return LogIn(request.param, sshd, laptop)
