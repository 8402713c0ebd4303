"""Streams through a connection of asyncssh to ports that are seen from its other end."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import asyncssh

__all__ = ["Forward"]

#: Bytes that may wait on the way into the connection before their source is paused.
_WRITE_BUFFER = 2**20


class Forward:
    """The way through the connection to a port."""

    def __init__(self, connection: asyncssh.SSHClientConnection, host: str, port: int) -> None:
        self._connection = connection
        self._address = host, port

    async def connect(self) -> socket.socket:
        """Open a stream; what passes through it is one end of a pair of sockets."""
        try:
            channel, far = await self._connection.create_connection(_Far, *self._address)
        except asyncssh.ChannelOpenError as error:
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                raise PermissionError("the host prohibits forwarding to it") from error
            raise ConnectionRefusedError(f"{error.reason or 'the login host refused it'}") from error
        except asyncssh.Error as error:
            raise ConnectionError(str(error)) from error
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            theirs.setblocking(False)
            await asyncio.get_running_loop().create_connection(lambda: _Near(channel, cast(_Far, far)), sock=theirs)
        except BaseException:
            channel.abort()
            ours.close()
            theirs.close()
            raise
        return ours

    def close(self) -> None:
        """Nothing is kept between connections."""


class _Near(asyncio.Protocol):
    """The local end of a stream through the connection."""

    def __init__(self, channel: asyncssh.SSHTCPChannel[bytes], far: _Far) -> None:
        self._channel = channel
        self._far = far

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._channel.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._far.join(transport)

    def data_received(self, data: bytes) -> None:
        if not self._channel.is_closing():
            self._channel.write(data)

    def eof_received(self) -> bool:
        if not self._channel.is_closing():
            self._channel.write_eof()
        return True

    def pause_writing(self) -> None:
        self._channel.pause_reading()

    def resume_writing(self) -> None:
        self._channel.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._channel.close()


class _Far(asyncssh.SSHTCPSession[bytes]):
    """The end of a stream that is in the connection."""

    def __init__(self) -> None:
        self._near: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._ended = self._over = False

    def join(self, near: asyncio.Transport) -> None:
        """Begin: what came early is first."""
        self._near = near
        near.writelines(self._early)
        self._early.clear()
        if self._ended:
            near.write_eof()
        if self._over:
            near.close()

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002
        if self._near is None:
            self._early.append(data)
        else:
            self._near.write(data)

    def eof_received(self) -> bool:
        self._ended = True
        if self._near is not None and not self._near.is_closing():
            self._near.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._over = True
        if self._near is not None:
            self._near.close()

    def pause_writing(self) -> None:
        if self._near is not None:
            self._near.pause_reading()

    def resume_writing(self) -> None:
        if self._near is not None:
            self._near.resume_reading()
