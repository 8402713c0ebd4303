"""The server side's link to a supervisor, and a wire between them that breaks as a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisors import Job

from slurm_provisioner.credentials import Identity, client_context
from slurm_provisioner.link import Link, Target
from slurm_provisioner.transport import Node
from slurm_provisioner.transport.local import LocalTransport


def sockets(pid: int) -> int:
    """Number of sockets that a process has open."""
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found += os.readlink(file).startswith("socket:")
    return found


class Connection:
    """A TCP connection through the wire."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter, budget: float) -> None:
        self.ends = near, far
        self.budget = budget  # bytes that it carries before it breaks
        self.flows = asyncio.Event()
        self.flows.set()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            await self.flows.wait()
            writer.write(data[: int(min(self.budget, len(data)))])
            await writer.drain()
            self.budget -= len(data)
            if self.budget < 0:
                return

    def cut(self, *, reset: bool = False) -> None:
        for end in self.ends:
            if reset and not end.transport.is_closing():
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()


class Wire:
    """A proxy before a supervisor's port."""

    def __init__(self, address: tuple[str, int], budgets: Iterator[float] | None = None) -> None:
        self.address = address
        self.budgets = budgets
        self.up = True
        self.carried = 0
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def carry(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        self.tasks.add(task := asyncio.current_task())
        task.add_done_callback(self.tasks.discard)
        if not self.up:
            near.transport.abort()
            return
        try:
            far_reader, far = await asyncio.open_connection(*self.address)
        except BaseException:
            near.transport.abort()
            raise
        self.carried += 1
        connection = Connection(near, far, next(self.budgets) if self.budgets else float("inf"))
        self.connections.add(connection)
        ways = [connection.pump(near_reader, far), connection.pump(far_reader, near)]
        ways = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.connections.discard(connection)
            connection.cut(reset=self.carried % 2 == 0)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    def cut(self, *, up: bool) -> None:
        """Break every connection, and let others be made or not."""
        self.up = up
        for connection in list(self.connections):
            connection.cut()

    def fall_silent(self) -> None:
        """Carry nothing any more on the connections that there are."""
        for connection in self.connections:
            connection.flows.clear()


class Linked:
    """A link to a job's supervisor, by a wire."""

    def __init__(self, job: Job, budgets: Iterator[float] | None = None) -> None:
        self.job = job
        self.wire = Wire(job.address, budgets)
        self.link = Link(LocalTransport(), logging.getLogger("test"))
        self.changed = asyncio.Event()

    def heard(self, event: object) -> None:
        """Events are of no interest here."""

    def link_changed(self, connected: bool) -> None:
        self.changed.set()

    async def __aenter__(self) -> Linked:
        port = await self.wire.open()
        ours, theirs = self.job.credentials["server"], self.job.credentials["node"]
        context = client_context(Identity(ours.certificate, ours.private_key), theirs.certificate)
        self.link.attach(Target(Node("n1"), ("127.0.0.1",), port, context, 60), self)
        await self.until(lambda: self.link.connected)
        while self.link._streams._carrier is None:  # of which nobody is told
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.aclose()
        await self.wire.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something about the link."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def lose(self) -> None:
        """Cut the wire."""
        self.wire.cut(up=False)
        await self.until(lambda: not self.link.connected)

    async def client(self, channel: str = "shell") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return speak(self.link, channel)


def speak(link: Link, channel: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to one of the kernel's sockets."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    link.connect(channel, protocol)
    return reader, asyncio.StreamWriter(protocol._transport, protocol, reader, asyncio.get_running_loop())
