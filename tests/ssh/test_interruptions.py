"""Connections that break, hosts that go away, and a process of ours that dies."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LogIn, alive, happens, local, soon
from login_host import PATIENCE, Laptop, Sshd, eventually
from test_routes import NODE, Stream, echo, listening

from slurm_provisioner.errors import ConnectionLostError, HostUnreachableError
from slurm_provisioner.transport import Node, Route
from slurm_provisioner.transport.ssh import SshTransport


async def runs_again(transport: SshTransport, word: str) -> None:
    """Have a command run after a break: the first one may be what finds it, and is then said to be lost."""
    try:
        done = await transport.run(["echo", word], timeout=PATIENCE)
    except ConnectionLostError:
        done = await transport.run(["echo", word], timeout=PATIENCE)
    assert done.stdout == f"{word}\n"


async def carries_again(route: Route) -> Stream:
    """Return a stream of a route after a break, once it carries something."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            reader, writer = await asyncio.open_connection(sock=await soon(route.connect()))
        except OSError:
            assert asyncio.get_running_loop().time() < end
        else:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                writer.write(b"x")
                assert await soon(reader.readexactly(1)) == b"x"
                return reader, writer
            writer.close()
            assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.1)


async def ends(stream: Stream) -> None:
    """Wait for the end of a stream that the other side broke."""
    reader, writer = stream
    with contextlib.suppress(ConnectionResetError):
        assert await soon(reader.read()) == b""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def test_a_broken_connection_is_made_again(log_in: LogIn, sshd: Sshd):
    async def main(transport):
        for number in range(3):
            await runs_again(transport, str(number))
            await asyncio.to_thread(sshd.cut)

    log_in(main)
    assert sshd.logins() == 3


def test_after_a_connection_broke_it_may_be_another_machine(log_in: LogIn, sshd: Sshd):
    async def main(transport):
        before = await soon(transport.account())
        transport._settings = dataclasses.replace(transport._settings, machine="another")
        await asyncio.to_thread(sshd.cut)
        await runs_again(transport, "again")
        assert await soon(transport.account()) == before

    log_in(main)


def test_many_find_a_broken_connection_and_make_one(log_in: LogIn, sshd: Sshd):
    async def main(transport):
        await soon(transport.account())
        await asyncio.to_thread(sshd.cut)
        await asyncio.gather(*(runs_again(transport, str(number)) for number in range(10)))

    log_in(main)
    assert sshd.logins() == 2


def test_a_command_whose_connection_breaks_is_lost(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    async def main(transport):
        told = tmp_path / "pid"
        script = f"echo $$ > {told}; exec sleep 600"
        task = asyncio.ensure_future(transport.run(["sh", "-c", script], timeout=10))  # which is its end there, too
        pid = int(await happens(lambda: told.exists() and told.read_text(), "a command"))
        await asyncio.to_thread(sshd.cut)
        with pytest.raises(ConnectionLostError, match="hpc"):
            await soon(task)
        await runs_again(transport, "again")
        await happens(lambda: not alive(pid), "the end of what nobody waits for")

    log_in(main)
    assert sshd.logins() == 2


def test_a_command_that_took_its_own_server_down_is_lost(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    """The connection breaks in the middle of the output, and what had come is not taken for all of it."""

    async def main(transport):
        await soon(transport.account())
        (tmp_path / "pids").write_text(" ".join(map(str, sshd.servers())))
        script = f"printf 'half a'; kill -9 $(cat {tmp_path}/pids); exec sleep 1"
        with pytest.raises(ConnectionLostError):
            await transport.run(["sh", "-c", script], timeout=PATIENCE)
        await runs_again(transport, "again")

    log_in(main)


def test_a_host_that_goes_down_is_unreachable_and_comes_back(log_in: LogIn, sshd: Sshd):
    async def main(transport):
        await transport.run(["true"], timeout=PATIENCE)
        await asyncio.to_thread(sshd.stop)
        with pytest.raises((HostUnreachableError, ConnectionLostError)):
            await transport.run(["true"], timeout=PATIENCE)
        with pytest.raises(HostUnreachableError, match="hpc"):
            await soon(transport.account())
        sshd.start()
        await soon(transport.account())
        assert (await transport.run(["echo", "again"], timeout=PATIENCE)).stdout == "again\n"

    log_in(main)


def test_connections_to_nodes_end_with_that_to_the_host(log_in: LogIn, sshd: Sshd):
    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(NODE, "127.0.0.1", port)
            for _ in range(2):
                stream = await carries_again(route)
                await asyncio.to_thread(sshd.cut)
                await ends(stream)
            route.close()

    log_in(main)
    assert sshd.logins() == 2


@pytest.mark.parametrize("which", ["login host", "node"])
def test_a_way_through_a_nodes_own_server_is_found_again(
    log_in: LogIn, laptop: Laptop, sshd: Sshd, tmp_path: Path, which: str
):
    async def main(transport):
        with Sshd(tmp_path / "node") as node_sshd:
            laptop.add("c1", node_sshd, known=False)
            broken = {"login host": sshd, "node": node_sshd}[which]
            async with listening(echo) as port:
                route = transport.route(Node("c1", (node_sshd.host_key,)), "127.0.0.1", port)
                for _ in range(2):
                    stream = await carries_again(route)
                    await asyncio.to_thread(broken.cut)
                    await ends(stream)
                route.close()
            assert node_sshd.logins() == 2

    log_in(main, via="node")
    assert sshd.logins() == (2 if which == "login host" else 1)


def test_a_host_that_says_nothing_more_holds_nothing_up(log_in: LogIn, sshd: Sshd):
    async def main(transport):
        await soon(transport.account())
        with sshd.frozen():
            with pytest.raises(ConnectionLostError, match="no answer within 1 s"):
                await transport.run(["true"], timeout=1)
            await soon(transport.aclose())

    log_in(main)


# ----------------------------------------------------------------------- a process that dies


PROCESS = """
import asyncio, sys
from slurm_provisioner.login_host import LoginHost
from slurm_provisioner.transport import Node
from slurm_provisioner.transport.ssh import SshTransport

async def main(config, kind, how, file):
    transport = SshTransport(LoginHost(host="hpc", config=config, transport=kind))
    await transport.account()
    take_off = transport.if_we_die(["sh", "-c", "echo $0 >> $1", "it's here", file], ["touch", file + " too"])
    transport.if_we_die(["touch", file + " not"])()
    done = await transport.run(["echo", "ready"], timeout=60)
    if how == "looking":
        async for _ in transport.news(file + "-news", ["a"]):
            print("ready", flush=True)
    print(done.stdout, end="", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    if how == "taken off":
        take_off()
    await transport.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


class Process:
    """A process of its own that has a transport."""

    def __init__(self, log_in: LogIn, how: str, file: Path) -> None:
        argv = [sys.executable, "-c", PROCESS, log_in.laptop.config, log_in.kind, how, str(file)]
        mark = {"TRANSPORT_OF_TEST": str(file)}
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **mark}, start_new_session=True
        )
        self.left: Callable[[], list[int]] = lambda: local(str(file))

    def __enter__(self) -> Process:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        for pid in {self.process.pid, *self.left()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()


def test_what_is_to_be_done_when_we_die_is_done(log_in: LogIn, tmp_path: Path):
    file = tmp_path / "died"
    with Process(log_in, "killed", file) as it:
        assert not file.exists()
        it.process.kill()
        eventually(lambda: Path(f"{file} too").exists(), "what is to be done")
        assert "it's here" in file.read_text().splitlines()
        assert not Path(f"{file} not").exists()


def test_what_was_taken_off_is_not_done(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    file = tmp_path / "died"
    with Process(log_in, "taken off", file) as it:
        it.process.stdin.close()
        assert it.process.wait(PATIENCE) == 0
        eventually(lambda: not (it.left() or sshd.connections() or sshd.commands()), "the end of all of it")
        assert not file.exists()


def test_nothing_outlives_a_process_that_dies(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    file = tmp_path / "died"
    folder = Path(f"{file}-news")
    folder.mkdir()
    (folder / "a").write_text("one")
    with Process(log_in, "looking", file) as it:
        assert sshd.commands() != []
        it.process.kill()
        eventually(lambda: Path(f"{file} too").exists(), "what is to be done")
        eventually(lambda: not sshd.commands(), "the end of what looks for news")
