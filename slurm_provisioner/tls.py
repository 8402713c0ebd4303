"""TLS on a connected socket. asyncio's own has a buffer of 256 KiB for each connection, idle ones too (Python 3.11)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

from .loop import read_pieces, seen

__all__ = ["connect"]

#: Bytes that pass through TLS at a time: its buffers keep the size that they once had.
_PIECE = 2**16
#: Seconds for the other side to take the rest and say goodbye, once a connection is to be closed.
CLOSE_TIMEOUT = 10.0


async def connect(
    sock: socket.socket, context: ssl.SSLContext, channel: str, protocol: asyncio.Protocol
) -> asyncio.Transport:
    """Have a protocol speak through TLS.

    Parameters
    ----------
    sock : socket.socket
        Connected and non-blocking; it is closed with the connection, and if there is none.
    context : ssl.SSLContext
        What we show and accept.
    channel : str
        The name that the other side knows by what is wanted (ALPN).
    protocol : asyncio.Protocol
        Who speaks.

    Raises
    ------
    OSError
        The other side is not the one that was expected, or gone.
    """
    context.set_alpn_protocols([channel])  # a connection takes it over as it is made
    tls = _TLS(context, protocol)
    await asyncio.get_running_loop().create_connection(lambda: tls, sock=sock)
    try:
        await tls.is_up
    except BaseException:
        tls.abort()
        raise
    return tls


class _TLS(asyncio.Protocol, asyncio.Transport):
    """Protocol of a socket's transport, and transport of the protocol that speaks through it."""

    _raw: asyncio.Transport

    def __init__(self, context: ssl.SSLContext, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=False)
        self._protocol = protocol
        self._closing = False
        self._patience: asyncio.TimerHandle | None = None
        #: Done once the other side was found to be the right one.
        self.is_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_up.add_done_callback(seen)  # who wanted the connection may have given it up meanwhile

    # The socket's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._raw = cast(asyncio.Transport, transport)
        read_pieces(transport)
        self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        """Take what came; nothing any more, once we have said goodbye."""
        rest = memoryview(data)
        said: list[bytes] = []
        trouble: ssl.SSLError | None = None
        try:
            while not self._closing:
                piece, rest = rest[:_PIECE], rest[_PIECE:]
                self._incoming.write(piece)
                self._proceed(said)
                if not rest:
                    break
        except ssl.SSLError as error:
            trouble = error
        self._hear(said)
        self._flush()  # the other side is told why
        if trouble is not None:
            self._fail(trouble)

    def _proceed(self, said: list[bytes]) -> None:
        """Shake hands, or add to what was said."""
        try:
            if not self.is_up.done():
                self._tls.do_handshake()
                self.is_up.set_result(None)
                self._flush()
                self._protocol.connection_made(self)
            while not self._closing and (self._incoming.pending or self._tls.pending()):
                if data := self._tls.read(_PIECE):
                    said.append(data)
                else:
                    self._hear(said)
                    self.close()  # the other side has
        except ssl.SSLWantReadError:
            pass

    def _hear(self, said: list[bytes]) -> None:
        """Pass on what was said, at once: each of the records that it came in has a few KiB."""
        if said:
            data = b"".join(said)
            said.clear()
            self._protocol.data_received(data)

    def _fail(self, error: OSError) -> None:
        if not self.is_up.done():
            self.is_up.set_exception(error)
        self._closing = True
        self._raw.close()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    def eof_received(self) -> None:
        """Have the connection closed."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who speaks."""
        self._closing = True
        if self._patience is not None:
            self._patience.cancel()
        if not self.is_up.done():
            self.is_up.set_exception(exc or ConnectionResetError("closed during the handshake"))
        elif not self.is_up.cancelled() and self.is_up.exception() is None:
            self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell who speaks."""
        if self.is_up.done():
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell who speaks."""
        if self.is_up.done():
            self._protocol.resume_writing()

    # Transport of the protocol that speaks

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send some bytes."""
        rest = memoryview(data)
        pieces = []
        try:
            while rest and not self._closing:
                piece, rest = rest[:_PIECE], rest[_PIECE:]
                self._tls.write(piece)
                pieces.append(self._outgoing.read())
        except ssl.SSLError as error:
            self._fail(error)
        if pieces and not self._raw.is_closing():
            self._raw.write(b"".join(pieces))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send some pieces."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Say goodbye, and close once the other side has, too; by force, where it does not.

        A socket that is closed before all is read that still comes for it resets the connection, and the other side
        loses what it has not read.
        """
        if self._closing:
            return
        self._closing = True
        with suppress(ssl.SSLError):  # it has not said goodbye itself
            self._tls.unwrap()
        self._flush()
        self._patience = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._raw.abort)

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._raw.abort()

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._closing

    def pause_reading(self) -> None:
        """Take nothing for a while, but what is in our hands already."""
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        self._raw.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait to be sent."""
        return self._raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set between which numbers of them who speaks is told to pause and to go on."""
        self._raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return something about the connection."""
        found = {"sslcontext": self._tls.context, "ssl_object": self._tls}.get(name)
        return found if found is not None else self._raw.get_extra_info(name, default)
