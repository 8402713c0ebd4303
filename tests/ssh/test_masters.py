"""Connections that the ssh program shares: the user's own, and that of a transport."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import LogIn, happens, soon
from login_host import PATIENCE, Laptop, Sshd, eventually, public
from test_routes import connected, echo, listening

from slurm_provisioner.errors import InteractiveLoginError, LoginHostError, LoginRefusedError
from slurm_provisioner.transport import Node


@pytest.fixture
def log_in(sshd: Sshd, laptop: Laptop) -> LogIn:
    """Has a transport that is made of the ssh program; with the other, there is nothing to share."""
    return LogIn("openssh", sshd, laptop)


class Master:
    """A connection that the user has opened."""

    def __init__(self, laptop: Laptop, path: str) -> None:
        self.laptop, self.path = laptop, path

    def open(self) -> None:
        argv = ["ssh", "-F", self.laptop.config, "-fNM", "-S", self.path, "hpc"]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def runs(self) -> bool:
        return self.laptop.ssh("-S", self.path, "-O", "check", "hpc").returncode == 0

    def close(self) -> None:
        self.laptop.ssh("-S", self.path, "-O", "exit", "hpc")


@pytest.fixture
def master(laptop: Laptop, sshd: Sshd) -> Iterator[Master]:
    """A connection of the user's, by which they are in, though nobody else gets in any more."""
    with tempfile.TemporaryDirectory(prefix="master-", dir="/tmp") as folder:
        it = Master(laptop, f"{folder}/s")
        it.open()
        sshd.let_in()
        yield it
        it.close()
        eventually(lambda: not os.listdir(folder), "the master's end")


def test_the_users_own_connection_is_used_and_left(log_in: LogIn, sshd: Sshd, master: Master, tmp_path: Path):
    (tmp_path / "a").write_text("news")

    async def main(transport):
        assert (await soon(transport.account())).home == str(Path.home())
        done = await transport.run(["sh", "-c", "cat; exit 3"], stdin=b"in", timeout=PATIENCE)
        assert (done.returncode, done.stdout, done.stderr) == (3, "in", "")
        async with contextlib.aclosing(transport.news(str(tmp_path), ["a"])) as news:
            assert await soon(anext(news)) == ("a", b"news")
        async with listening(echo) as port:
            route = transport.route(Node("c1"), "127.0.0.1", port)
            async with connected(route) as (reader, writer):
                writer.write(b"x")
                assert await soon(reader.readexactly(1)) == b"x"
            route.close()

    for _ in range(2):
        log_in(main, control_path=master.path)
        assert master.runs()
    assert sshd.logins() == 1


def test_a_connection_that_is_given_up_while_it_is_made_leaves_no_master(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    """It goes to the background before the program ends, which is what we wait for."""
    program, made = tmp_path / "ssh", tmp_path / "made"
    slow = f'ssh "$@"; code=$?; case "$*" in *-fNM*) touch {made}; sleep 600;; esac; exit $code'
    program.write_text(f"#!/bin/sh\n{slow}\n")
    program.chmod(0o755)

    async def main(transport):
        asking = asyncio.ensure_future(transport.account())
        await happens(made.exists, "a master")
        asking.cancel()

    log_in(main, program=str(program))
    assert sshd.logins() == 1


def test_without_the_users_connection_there_is_no_way_in(log_in: LogIn, sshd: Sshd, master: Master):
    async def main(transport):
        with pytest.raises(LoginRefusedError):
            await soon(transport.account())

    log_in(main)
    log_in(main, control_path=f"{master.path}-of-another-world")
    assert master.runs()


def test_a_path_may_have_patterns_of_ssh(log_in: LogIn, sshd: Sshd, laptop: Laptop, master: Master):
    patterns = str(Path(master.path).parent / "%n-%r-%p")
    sshd.let_in(public(laptop.key))
    other = Master(laptop, patterns)
    other.open()
    sshd.let_in()
    try:
        done = log_in(lambda transport: transport.run(["echo", "in"], timeout=PATIENCE), control_path=patterns)
        assert done.stdout == "in\n"
    finally:
        other.close()


def test_a_connection_that_the_configuration_names_is_used(log_in: LogIn, laptop: Laptop, sshd: Sshd, master: Master):
    laptop.prefer(f"Host hpc\n    ControlPath {master.path}")
    done = log_in(lambda transport: transport.run(["echo", "in"], timeout=PATIENCE))
    assert done.stdout == "in\n"
    assert master.runs()


def test_a_connection_that_is_opened_later_is_found(
    log_in: LogIn, laptop: Laptop, sshd: Sshd, tmp_path: Path, master: Master
):
    master.close()

    async def main(transport):
        with pytest.raises(LoginRefusedError):
            await soon(transport.account())
        sshd.let_in(public(laptop.key))
        await asyncio.to_thread(master.open)
        sshd.let_in()
        await soon(transport.account())
        assert (await transport.run(["echo", "in"], timeout=PATIENCE)).stdout == "in\n"
        await transport.aclose()
        assert master.runs()
        await asyncio.to_thread(master.close)

    log_in(main, control_path=master.path)


def test_a_connection_that_ends_is_told_with_how_to_open_it(log_in: LogIn, laptop: Laptop, sshd: Sshd, master: Master):
    async def main(transport):
        await soon(transport.account())
        await asyncio.to_thread(master.close)
        with pytest.raises(LoginHostError):
            await transport.run(["echo", "in"], timeout=PATIENCE)
        with pytest.raises(LoginRefusedError):
            await soon(transport.account())

    log_in(main, control_path=master.path)


def test_who_must_open_a_connection_is_told_how(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    sshd.restart("KbdInteractiveAuthentication yes", "AuthenticationMethods publickey,keyboard-interactive")

    async def main(transport):
        with pytest.raises(InteractiveLoginError) as caught:
            await soon(transport.account())
        assert f"`ssh -fNM -o ServerAliveInterval=15 -S {tmp_path}/s " in " ".join(str(caught.value).split())

    log_in(main, control_path=f"{tmp_path}/s")


def test_a_stale_socket_is_no_connection(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    with tempfile.TemporaryDirectory(prefix="master-", dir="/tmp") as folder:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(f"{folder}/s")  # a master that was killed leaves such a one
        done = log_in(lambda transport: transport.run(["echo", "in"], timeout=PATIENCE), control_path=f"{folder}/s")
        assert done.stdout == "in\n"
        assert os.listdir(folder) == ["s"]


def test_a_connection_of_ones_own_is_not_shared(log_in: LogIn, laptop: Laptop, sshd: Sshd):
    """What the configuration says of masters does not make one that outlives the transport."""
    with tempfile.TemporaryDirectory(prefix="master-", dir="/tmp") as folder:
        laptop.prefer(f"Host hpc\n    ControlMaster auto\n    ControlPersist yes\n    ControlPath {folder}/s")
        done = log_in(lambda transport: transport.run(["echo", "in"], timeout=PATIENCE))
        assert done.stdout == "in\n"
        assert os.listdir(folder) == []
    assert sshd.logins() == 1
