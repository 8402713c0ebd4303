"""The near ends of a kernel's link: five local sockets, for its front.

They are in a folder that only this user can enter. Each connection to one of them is a stream, which is carried on to
the kernel while its job can be reached. ZMQ's frames pass through untouched, and ZMQ itself reconnects where a kernel
has ended, so that these sockets outlive kernels, connections and jobs.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from .folder import PrivateFolder, connection_info, private_folder
from .stream import Stream

__all__ = ["CHANNELS", "Endpoints"]

#: The kernel's channels, in the order of their endpoints' numbers, which are their "ports".
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")

#: Turns of the event loop until a connection that waited is accepted and made. asyncio forgets the socket of one that
#: is not, when its server is closed (Python 3.11, `Server._attach`).
_TURNS = 4


class Endpoints:
    """Where a kernel's front connects, for as long as the kernel object lives.

    Parameters
    ----------
    carry : callable
        Keeps a stream connected to the kernel until it is cancelled. Only called between `connect` and `disconnect`.
    """

    def __init__(self, carry: Callable[[Stream], Coroutine[Any, Any, None]]) -> None:
        self._carry = carry
        self._folder: PrivateFolder | None = None
        self._servers: dict[str, asyncio.Server] = {}
        self._ports: dict[str, int] = {}
        self._connected = self._closed = False
        self._streams: dict[Stream, asyncio.Task[None] | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # A supervisor knows by the first half of a stream's name which others are of the same server side.
        ours = secrets.token_bytes(8)
        self._names = (ours + number.to_bytes(8, "big") for number in itertools.count(1))

    async def open(self) -> None:
        """Bind the sockets that are not bound yet."""
        loop = asyncio.get_running_loop()
        if not self._servers:
            self._folder = private_folder()
        for number, channel in enumerate(CHANNELS, 1):
            if channel in self._servers:
                continue

            def accept(channel: str = channel) -> Stream:
                return Stream(channel, next(self._names), self._begin, self._end)

            if self._folder is None:
                server = await loop.create_server(accept, "127.0.0.1", 0, start_serving=False)
                self._ports[channel] = server.sockets[0].getsockname()[1]
            else:
                path = Path(self._folder.path) / f"k-{number}"
                server = await loop.create_unix_server(accept, path, start_serving=False)
                self._ports[channel] = number
            self._servers[channel] = server  # before anything is awaited: a cancelled launch is to leave none behind
        for server in self._servers.values():
            await server.start_serving()

    @property
    def directory(self) -> str | None:
        """The private folder, while they are open; it is removed however this process ends."""
        return self._folder.path if self._folder is not None else None

    @property
    def info(self) -> dict[str, Any]:
        """Where they are, in the terms of Jupyter's connection files."""
        return connection_info(self._folder, self._ports)

    def connect(self) -> None:
        """Carry all streams on: the job can be reached."""
        self._connected = True
        for stream in list(self._streams):
            self._begin(stream)

    def disconnect(self) -> None:
        """Let go of connections that may be broken; the streams wait for the next ones."""
        self._connected = False
        for stream, task in self._streams.items():
            if task is not None:
                task.cancel()
            stream.let_go()

    def hang_up(self) -> None:
        """End all streams; the front may connect again at once."""
        self._connected = False
        for stream in list(self._streams):
            stream.close()

    async def aclose(self) -> None:
        """Close and remove everything."""
        if self._folder is not None:
            self._folder.remove()  # nobody connects any more
            self._folder = None
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        self._closed = True
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        self.hang_up()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, stream: Stream) -> None:
        self._streams[stream] = None
        if self._closed:  # it was accepted a moment before, and is made only now
            stream.close()
        elif self._connected:
            task = self._streams[stream] = asyncio.ensure_future(self._carry(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _end(self, stream: Stream) -> None:
        task = self._streams.pop(stream)
        if task is not None:
            task.cancel()
