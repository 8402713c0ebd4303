"""The five local endpoints of a kernel, and the pumps behind them.

Clients connect to sockets in a folder that only this user can enter. Each such connection is carried on byte by byte to
the far side, as soon as there is one. ZMQ's frames pass through untouched, and ZMQ itself reconnects when the far side
went away, so that endpoints outlive kernels, connections and jobs.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from .errors import LinkError
from .guard import guard

__all__ = ["CHANNELS", "Endpoints"]

#: The kernel's channels, in the order of their endpoints' numbers, which are their "ports".
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")

#: Bytes read before the far side is there: ZMQ sends a greeting, and more only when that was answered.
EARLY_BUFFER = 2**16
#: Bytes waiting in one direction of one channel before its source is paused.
PUMP_BUFFER = 2**20


class _Half(asyncio.Protocol):
    """One end of a pump: what arrives here is written to the other half, no faster than that one takes it."""

    def __init__(self) -> None:
        self.other: _Half | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def join(self, other: _Half) -> None:
        """Make a pump of two halves; `other` may have been read already."""
        self.other, other.other = other, self

    def resume(self) -> None:
        """Read on, now that the other half is there."""
        assert self.transport is not None
        for data in self._early:
            self.data_received(data)
        self._early.clear()
        self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=PUMP_BUFFER)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
            return
        self._early.append(data)
        if sum(map(len, self._early)) > EARLY_BUFFER:
            assert self.transport is not None
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.other is not None:
            self.other.close()

    def close(self) -> None:
        """Close once everything written has gone out."""
        if self.transport is not None:
            self.transport.close()


class _Accepted(_Half):
    """A client's connection. It is read even before the far side is there, so that its end is noticed."""

    def __init__(self, made: Callable[[_Accepted], asyncio.Task[None]], lost: Callable[[_Accepted], None]) -> None:
        super().__init__()
        self._made = made
        self._lost = lost
        self._dial: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._dial = self._made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._dial is not None:
            self._dial.cancel()
        self._lost(self)


class Endpoints:
    """Where a kernel's clients connect, for as long as the kernel object lives.

    Parameters
    ----------
    dial : callable
        Connects a protocol to the far side of a channel: called with the channel's name and a function that returns
        the protocol. It may wait for the far side to be there.
    """

    def __init__(self, dial: Callable[[str, Callable[[], asyncio.Protocol]], Awaitable[None]]) -> None:
        self._dial_far = dial
        #: The private folder, while they are open; it is removed however this process ends.
        self.directory: str | None = None
        self._unguard: Callable[[], None] = lambda: None
        self._servers: dict[str, asyncio.Server] = {}
        self._ports: dict[str, int] = {}
        self._pumps: set[_Half] = set()
        self._dials: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Bind the endpoints; those that are still there stay as they are.

        jupyter_client removes the files of ipc endpoints at every restart (`KernelManager.cleanup_ipc_files`).
        """
        if self.directory is None:
            self.directory = _private_directory()
            self._unguard = guard.add(["rm", "-rf", "--", self.directory])
        loop = asyncio.get_running_loop()
        for number, channel in enumerate(CHANNELS, 1):

            def accept(channel: str = channel) -> _Half:
                near = _Accepted(lambda near: self._start_dial(channel, near), self._pumps.discard)
                self._pumps.add(near)
                return near

            if not _has_unix_sockets():
                if channel not in self._servers:
                    self._servers[channel] = await loop.create_server(accept, "127.0.0.1", 0)
                    self._ports[channel] = self._servers[channel].sockets[0].getsockname()[1]
                continue
            path = Path(self.directory) / f"k-{number}"
            if channel in self._servers and path.exists():
                continue
            if (old := self._servers.pop(channel, None)) is not None:
                old.close()
            self._servers[channel] = await loop.create_unix_server(accept, path)
            self._ports[channel] = number

    @property
    def info(self) -> dict[str, Any]:
        """Where clients connect, in the terms of Jupyter's connection files."""
        private = _has_unix_sockets()
        return {
            "transport": "ipc" if private else "tcp",
            "ip": f"{self.directory}/k" if private else "127.0.0.1",
            **{f"{channel}_port": port for channel, port in self._ports.items()},
        }

    def hang_up(self) -> None:
        """Close every connection; clients may connect again at once."""
        for half in list(self._pumps):
            half.close()

    async def aclose(self) -> None:
        """Close and remove everything."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        self.hang_up()
        for task in self._dials:
            task.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None
            self._unguard()

    def _start_dial(self, channel: str, near: _Half) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._dial(channel, near))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return task

    async def _dial(self, channel: str, near: _Half) -> None:
        far = _Half()
        far.join(near)
        try:
            await self._dial_far(channel, lambda: far)
        except (OSError, asyncio.TimeoutError, LinkError):
            near.close()  # ZMQ tries again
        except BaseException:
            near.close()
            far.close()
            raise
        else:
            near.resume()


def _has_unix_sockets() -> bool:
    return hasattr(socket, "AF_UNIX")


def _private_directory() -> str:
    """Make a folder for the endpoints that only this user can enter, short enough for a unix socket (107 bytes)."""
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  (mkdtemp makes it private)
        path = tempfile.mkdtemp(prefix="slurm-kernel-", dir=parent)
        if len(path.encode()) + len("/k-1") <= 107:  # noqa: PLR2004  (sun_path)
            return path
        Path(path).rmdir()
    raise LinkError("There is no folder with a path short enough for a unix socket; set TMPDIR to a short one.")
