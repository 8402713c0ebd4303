"""Byte streams to ports of compute nodes, through the login host and through nodes themselves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from conftest import LogIn, happens, soon
from login_host import PATIENCE, Laptop, Sshd, make_key, public

from slurm_provisioner.transport import Node, Route
from slurm_provisioner.transport.ssh import SshTransport

#: More than all that is between two ends holds: buffers of sockets, windows of channels.
MUCH = 32_000_000
NODE = Node("c1")
BLOCK = random.Random(1).randbytes(1_000_000)
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(serve: Serve, port: int = 0) -> AsyncIterator[int]:
    """Serve on a port of this machine, which is the compute node as well; the port."""
    done: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done.append(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError):
                await serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await soon(asyncio.gather(*done))
        await server.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


@contextlib.asynccontextmanager
async def connected(route: Route) -> AsyncIterator[Stream]:
    """A connection by a route, as a stream."""
    sock = await soon(route.connect())
    assert sock.getblocking() is False
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class Flood:
    """Sends more than what is between two ends may hold."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.sent = 0
        self.pouring = asyncio.ensure_future(self._pour(writer))

    async def _pour(self, writer: asyncio.StreamWriter) -> None:
        while self.sent < MUCH:
            writer.write(BLOCK)
            await writer.drain()
            self.sent += len(BLOCK)
        writer.write_eof()

    async def is_held_up(self) -> None:
        """Wait until no more is taken; where nothing holds it up, until all is."""
        before = -1
        while before < self.sent < MUCH:
            before = self.sent
            await asyncio.sleep(0.5)  # a pause of a busy machine's ends this sooner, and finds no fault


async def digest(reader: asyncio.StreamReader) -> bytes:
    result = hashlib.sha256()
    while data := await reader.read(1 << 18):
        result.update(data)
    return result.digest()


@contextlib.asynccontextmanager
async def ends(transport: SshTransport, node: Node) -> AsyncIterator[tuple[Stream, Stream]]:
    """Both ends of a connection: here, there."""
    there: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            there.set_result((reader, writer))
            await over.wait()

    async with listening(serve) as port:
        route = transport.route(node, "127.0.0.1", port)
        async with connected(route) as here:
            here[1].write(b"!")
            try:
                yield here, await soon(there)
            finally:
                over.set()
        route.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# ------------------------------------------------------------------------------------ the ways


@pytest.fixture
def node_sshd(tmp_path: Path, laptop: Laptop) -> Iterator[Sshd]:
    """The compute node's own server, whose key no file of the laptop's knows."""
    with Sshd(tmp_path / "node") as it:
        laptop.add("c1", it, known=False)
        yield it


@pytest.fixture(params=["login", "node"])
def via(request: pytest.FixtureRequest, node_sshd: Sshd) -> str:
    return request.param


@pytest.fixture
def node(node_sshd: Sshd) -> Node:
    return Node("c1", (node_sshd.host_key,))


# --------------------------------------------------------------------------------------- bytes


def test_bytes_pass_both_ways(log_in: LogIn, via: str, node: Node):
    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(node, "127.0.0.1", port)
            async with connected(route) as (reader, writer):
                for data in (b"x", bytes(range(256)), b"\n~.\n~?\r\n"):  # what terminals would take for commands, too
                    writer.write(data)
                    assert await soon(reader.readexactly(len(data))) == data
            route.close()

    log_in(main, via=via)


def test_who_speaks_first_does_not_matter(log_in: LogIn):
    async def greet(reader, writer):
        writer.write(b"welcome\n")
        await writer.drain()
        assert await reader.read() == b""

    async def main(transport):
        async with listening(greet) as port:
            route = transport.route(NODE, "127.0.0.1", port)
            async with connected(route) as (reader, _):
                assert await soon(reader.readline()) == b"welcome\n"
            route.close()

    log_in(main)


def test_an_end_passes_and_leaves_the_other_way_open(log_in: LogIn, via: str, node: Node):
    async def answer_at_the_end(reader, writer):
        data = await reader.read()
        writer.write(data.upper())
        await writer.drain()

    async def main(transport):
        async with listening(answer_at_the_end) as port:
            route = transport.route(node, "127.0.0.1", port)
            async with connected(route) as (reader, writer):
                writer.write(b"question")
                writer.write_eof()
                assert await soon(reader.read()) == b"QUESTION"
            route.close()

    log_in(main, via=via)


def test_an_end_from_there_passes_and_leaves_the_other_way_open(log_in: LogIn):
    heard = []

    async def end_first(reader, writer):
        writer.write(b"that is all\n")
        writer.write_eof()
        if data := await reader.read():  # or somebody only looks whether this can be reached
            heard.append(data)

    async def main(transport):
        async with listening(end_first) as port:
            route = transport.route(NODE, "127.0.0.1", port)
            async with connected(route) as (reader, writer):
                assert await soon(reader.read()) == b"that is all\n"
                writer.write(b"and more from here")
                writer.write_eof()
                await happens(lambda: heard, "the end")
            route.close()
        assert heard == [b"and more from here"]

    log_in(main)


def test_megabytes_pass_both_ways_at_once(log_in: LogIn, via: str, node: Node):
    async def send(writer: asyncio.StreamWriter) -> None:
        for _ in range(24):
            writer.write(BLOCK)
            await writer.drain()
        writer.write_eof()

    async def main(transport):
        async with ends(transport, node) as (here, there):
            readers, writers = zip(here, there, strict=True)
            both = asyncio.gather(*map(digest, readers), *map(send, writers))
            told = await asyncio.wait_for(both, 60)
        assert told[:2] == [hashlib.sha256(BLOCK * 24).digest()] * 2

    log_in(main, via=via)


@pytest.mark.parametrize("slow", ["here", "there"])
def test_who_reads_slowly_slows_the_sender_down(log_in: LogIn, via: str, node: Node, slow: str):
    async def main(transport):
        async with ends(transport, node) as (here, there):
            (reader, _), (_, writer) = (here, there) if slow == "here" else (there, here)
            flood = Flood(writer)
            await flood.is_held_up()
            assert flood.sent < MUCH / 2
            result = await asyncio.wait_for(digest(reader), 60)
            await soon(flood.pouring)
            assert result == hashlib.sha256(BLOCK * (MUCH // len(BLOCK))).digest()

    log_in(main, via=via)


def test_one_slow_reader_does_not_hold_up_the_others(log_in: LogIn):
    async def main(transport):
        async with ends(transport, NODE) as (_, (_, writer)):
            flood = Flood(writer)
            await flood.is_held_up()
            async with ends(transport, NODE) as ((reader, _), (_, other)):
                other.write(b"x")
                assert await soon(reader.readexactly(1)) == b"x"
            assert (await transport.run(["echo", "up"], timeout=PATIENCE)).stdout == "up\n"
            flood.pouring.cancel()
            await asyncio.wait([flood.pouring])
            writer.transport.abort()

    log_in(main)


def test_many_connections_by_one_login(log_in: LogIn, sshd: Sshd, node_sshd: Sshd, via: str, node: Node):
    sshd.restart("MaxSessions 2")
    node_sshd.restart("MaxSessions 2")

    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(node, "127.0.0.1", port)

            all_there, there = asyncio.Event(), []

            async def ask(number: int) -> bytes:
                async with connected(route) as (reader, writer):
                    writer.write(b"%d\n" % number)
                    line = await soon(reader.readline())
                    there.append(number)
                    if len(there) == 20:
                        all_there.set()
                    await soon(all_there.wait())
                    return line

            told = await asyncio.gather(*(ask(number) for number in range(20)))
            assert told == [b"%d\n" % number for number in range(20)]
            route.close()

    log_in(main, via=via)
    assert sshd.logins() == 1
    assert node_sshd.logins() == (1 if via == "node" else 0)


def test_a_closed_socket_ends_the_connection_there(log_in: LogIn):
    async def main(transport):
        async with ends(transport, NODE) as ((_, writer), (reader, _)):
            writer.close()
            assert await soon(reader.read()) == b""

    log_in(main)


def test_connections_end_with_the_transport(log_in: LogIn, via: str, node: Node):
    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(node, "127.0.0.1", port)
            async with connected(route) as (reader, _):
                await transport.aclose()
                with contextlib.suppress(ConnectionResetError):
                    assert await soon(reader.read()) == b""

    log_in(main, via=via)


def test_a_closed_route_ends_the_login_on_its_node(log_in: LogIn, node_sshd: Sshd, node: Node):
    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(node, "127.0.0.1", port)
            async with connected(route) as (reader, writer):
                writer.write(b"x")
                await soon(reader.readexactly(1))
            assert node_sshd.connections() != []
            route.close()
            await happens(lambda: not node_sshd.connections(), "the end of the login on the node")
        assert (await transport.run(["echo", "up"], timeout=PATIENCE)).stdout == "up\n"

    log_in(main, via="node")


# -------------------------------------------------------------------------------------- errors


def test_a_port_where_nobody_listens_is_refused(log_in: LogIn, via: str, node: Node):
    async def main(transport):
        port = free_port()
        route = transport.route(node, "127.0.0.1", port)
        with pytest.raises(OSError, match=r"(?i)refused|could not connect"):
            await soon(route.connect())
        async with listening(echo, port), connected(route) as (reader, writer):  # it is not for ever
            writer.write(b"x")
            assert await soon(reader.readexactly(1)) == b"x"
        route.close()

    log_in(main, via=via)


def test_a_name_that_is_no_hosts_cannot_be_reached(log_in: LogIn):
    async def main(transport):
        route = transport.route(NODE, "no-such-host.invalid", 4444)
        with pytest.raises(OSError, match=r".+"):
            await soon(route.connect())
        route.close()

    log_in(main)


@pytest.mark.parametrize("line", ["AllowTcpForwarding no", "PermitOpen none"])
def test_a_login_host_that_forwards_nothing_says_so(log_in: LogIn, sshd: Sshd, line: str):
    sshd.restart(line)

    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(NODE, "127.0.0.1", port)
            with pytest.raises(OSError, match=r"(?i)prohibit|forward|could not connect"):
                await soon(route.connect())
            route.close()
            assert (await transport.run(["echo", "up"], timeout=PATIENCE)).stdout == "up\n"

    log_in(main)


# ------------------------------------------------------------------------ nodes' own servers


def test_a_node_is_reached_through_the_login_host_alone(log_in: LogIn, sshd: Sshd, node_sshd: Sshd, node: Node):
    sshd.restart(f"PermitOpen 127.0.0.1:{node_sshd.port}")

    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(node, "127.0.0.1", port)
            async with connected(route) as (reader, writer):
                writer.write(b"x")
                assert await soon(reader.readexactly(1)) == b"x"
            route.close()

    log_in(main, via="node")
    assert (sshd.logins(), node_sshd.logins()) == (1, 1)


def test_a_node_with_another_key_is_not_logged_in_to(log_in: LogIn, laptop: Laptop, node_sshd: Sshd, tmp_path: Path):
    laptop.know(node_sshd)  # which does not count
    other = Node("c1", (public(make_key(tmp_path / "other")),))

    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(other, "127.0.0.1", port)
            with pytest.raises(OSError, match=r"(?i)key"):
                await soon(route.connect())
            route.close()

    log_in(main, via="node")
    assert node_sshd.logins() == 0


def test_a_node_that_told_no_key_is_one_that_is_known_or_none(log_in: LogIn, laptop: Laptop, node_sshd: Sshd):
    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(Node("c1"), "127.0.0.1", port)
            with pytest.raises(OSError, match="c1 is not known"):
                await soon(route.connect())
            route.close()
            assert node_sshd.logins() == 0
            laptop.know(node_sshd)
            route = transport.route(Node("c1"), "127.0.0.1", port)
            async with connected(route) as (reader, writer):
                writer.write(b"x")
                assert await soon(reader.readexactly(1)) == b"x"
            route.close()

    log_in(main, via="node")
    assert node_sshd.logins() == 1


def test_what_is_known_of_a_nodes_name_does_not_count(
    log_in: LogIn, laptop: Laptop, node_sshd: Sshd, node: Node, tmp_path: Path
):
    wrong = public(make_key(tmp_path / "other"))
    laptop.know(node_sshd, wrong)
    with laptop.known_hosts.open("a") as file:
        file.write(f"c1 {wrong}\n")
    before = laptop.known_hosts.read_text()

    async def main(transport):
        async with listening(echo) as port:
            route = transport.route(Node("c1", (wrong, *node.host_keys)), "127.0.0.1", port)
            async with connected(route) as (reader, writer):
                writer.write(b"x")
                assert await soon(reader.readexactly(1)) == b"x"
            route.close()

    log_in(main, via="node")
    assert laptop.known_hosts.read_text() == before


def test_a_node_that_does_not_let_us_in_says_so(log_in: LogIn, node_sshd: Sshd, node: Node):
    node_sshd.let_in()

    async def main(transport):
        route = transport.route(node, "127.0.0.1", free_port())
        with pytest.raises(OSError, match="c1"):
            await soon(route.connect())
        route.close()
        assert (await transport.run(["echo", "up"], timeout=PATIENCE)).stdout == "up\n"

    log_in(main, via="node")


def test_a_node_whose_server_is_not_there_says_so(log_in: LogIn, node_sshd: Sshd, node: Node):
    node_sshd.stop()

    async def main(transport):
        route = transport.route(node, "127.0.0.1", free_port())
        with pytest.raises(OSError, match=r"c1 cannot be reached: .*(refused|failed)"):
            await soon(route.connect())
        route.close()

    log_in(main, via="node")
