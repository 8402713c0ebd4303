"""Connections to the kernel's sockets, which outlive the TLS connection that carries them all.

A stream joins a protocol here with the kernel's socket on the compute node. When the TLS connection between them is
lost, both stay, both sides go on taking what is said into bounded buffers, and the next TLS connection goes on at the
very byte.

Each TLS connection begins with a greeting of this side: its name, which others of the same kernel do not have, and the
number of this connection, so that an older one that comes late does not mislead. Frames follow both ways. The header of
a frame tells the stream's number, how many bytes of it were received in all, how many of them were passed on, and how
many come now. The first frame of each stream on a connection opens it: it tells the kernel's channel, and whether the
supervisor has never answered for the stream and may begin it. The supervisor's first header answers that, and what it
has not received is sent again; on a stream's first connection there is nothing to wait for. Neither side ever stops to
read a TLS connection, or acknowledgements would be stuck behind data and each side could wait for the other: it is the
source that says no more than what the other side can pass on.

`END` in place of the number of bytes is an orderly end, which the other side answers likewise. A TLS connection that
ends is lost. A stream that the supervisor does not know any more is answered with `END`.

`launcher.py` has the other side.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import struct
from typing import Any, cast

from .stream import END, Stream

__all__ = ["Carrier", "Streams"]

#: Bytes received after which the other side is told at once, and seconds after which it is told of fewer.
ACK_BYTES, ACK_SECONDS = 2**18, 0.5
#: Bytes waiting to be written to a connection before what they come from is paused: a stream's few are not to wait
#: behind many of another one.
WRITE_BUFFER = 2**18
#: Bytes up to which a frame is copied, for one write in place of two.
_SMALL = 2**14

#: Name of this side, number of this connection.
GREETING = struct.Struct("!8sI")
#: Number of the stream; to open it, the number of its channel, and whether it may begin; bytes received, of these
#: passed on, bytes that follow.
HEADER = struct.Struct("!IB?QQI")


class Streams:
    """All streams to a kernel, and the TLS connection that carries them while there is one."""

    def __init__(self) -> None:
        self._name = secrets.token_bytes(8)
        self._numbers = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._carrier: Carrier | None = None
        self._connections = 0

    def begin(self, channel: str, protocol: asyncio.Protocol) -> None:
        """Have a protocol speak with the kernel, now or once there is a connection."""
        number = next(self._numbers)
        stream = self._streams[number] = Stream(number, channel, protocol, self._over)
        protocol.connection_made(stream)
        if self._carrier is not None:
            stream.adopt(self._carrier)

    def _over(self, stream: Stream) -> None:
        del self._streams[stream.number]

    def get(self, number: int) -> Stream | None:
        """Return a stream that is not over."""
        return self._streams.get(number)

    def all(self) -> list[Stream]:
        """Return those that there are."""
        return list(self._streams.values())

    def adopt(self, carrier: Carrier) -> None:
        """Go on with a new TLS connection."""
        self.let_go()
        self._carrier = carrier
        self._connections += 1
        carrier.transport.write(GREETING.pack(self._name, self._connections))
        for stream in self.all():
            stream.adopt(carrier)

    def lost(self, carrier: Carrier) -> None:
        """Take the end of a TLS connection."""
        if carrier is self._carrier:
            self.let_go()

    def let_go(self) -> None:
        """Give up the TLS connection, if there is one; the streams wait for the next."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.transport.abort()
            for stream in self.all():
                stream.let_go()

    def hang_up(self) -> None:
        """End all streams, and the TLS connection once the supervisor was told."""
        carrier, self._carrier = self._carrier, None
        for stream in self.all():
            stream.hang_up()
        if carrier is not None:
            carrier.transport.close()


class Carrier(asyncio.Protocol):
    """A TLS connection that carries streams."""

    transport: asyncio.Transport

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        #: Set once the connection is no more.
        self.lost = asyncio.Event()
        #: Whether the supervisor has sent anything.
        self.answered = False
        #: Whether it may be written to.
        self.writable = True
        self._stream: Stream | None = None  # whose frame this is
        self._head = b""
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def send(self, stream: Stream, length: int, data: bytes = b"", *, opens: int = 0, fresh: bool = False) -> None:
        """Send a frame."""
        header = HEADER.pack(stream.number, opens, fresh, *stream.counts(), length)
        if len(data) <= _SMALL:
            self.transport.write(header + data)
        else:
            self.transport.write(header)
            self.transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._streams.adopt(self)

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        self.answered = True
        at, size = 0, len(data)
        while at < size:
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                if self._stream is not None:
                    self._take(self._stream, part)
            elif not self._head and size - at >= HEADER.size:
                self._hear(HEADER.unpack_from(data, at))
                at += HEADER.size
            else:
                part = data[at : at + HEADER.size - len(self._head)]
                at += len(part)
                self._head += part
                if len(self._head) == HEADER.size:
                    self._hear(HEADER.unpack(self._head))
                    self._head = b""

    def _hear(self, header: tuple[Any, ...]) -> None:
        number, _, _, total, arrived, length = header
        self._left = 0 if length == END else length
        self._stream = self._streams.get(number)  # what still comes for one that is over is dropped
        if self._stream is not None:
            self._stream.heard(total, arrived, length)

    def _take(self, stream: Stream, data: bytes) -> None:
        """Pass bytes on, and tell how many were received: at once if it is much, else soon."""
        stream.take(data)
        if stream.untold >= ACK_BYTES:
            self.send(stream, 0)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        self._timer = None
        for stream in self._streams.all():
            if stream.untold and not self.transport.is_closing():
                self.send(stream, 0)

    def pause_writing(self) -> None:
        """Let who speaks wait for the supervisor."""
        self.writable = False

    def resume_writing(self) -> None:
        """Go on."""
        self.writable = True
        for stream in self._streams.all():
            stream.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Leave the streams to the next connection."""
        if self._timer is not None:
            self._timer.cancel()
        self.lost.set()
        self._streams.lost(self)
