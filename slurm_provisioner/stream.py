"""A client's connection to the kernel, which outlives the TLS connections that carry it.

A stream joins a local connection here with one to the kernel's socket on the compute node. When the TLS connection
between them is lost, both stay open, both sides go on reading into bounded buffers, and the next TLS connection goes on
at the very byte.

Each TLS connection begins with a greeting of this side: the stream's name, whether the supervisor has never answered
for it and may begin it, the number of this connection in the stream's life, so that an older one that comes late does
not mislead, and how much was received. Frames follow both ways. A header tells how many bytes were received in all, how
many of them were passed on, and how many come now. The supervisor's first header answers the greeting, and what it has
not received is sent again; on a stream's first connection there is nothing to wait for. Neither side ever stops to read
a TLS connection, or acknowledgements would be stuck behind data and each side could wait for the other: it is the
source that reads no more of what the other side cannot pass on.

`END` in place of the number of bytes is an orderly end. A TLS connection that ends without it is lost. A stream that
the supervisor does not know any more is answered with `END`.

`launcher.py` has the other side.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable

__all__ = ["Carrier", "Stream"]

#: Bytes of one direction that are held while nothing can be sent; then their source has to wait.
HELD_BYTES = 2**24
#: The same while there is a connection, until the other side has passed them on: more would only pile up there.
AHEAD_BYTES = 2**21
#: Bytes received after which the other side is told at once, and seconds after which it is told of fewer.
ACK_BYTES, ACK_SECONDS = 2**18, 0.5
#: Bytes waiting to be written to a connection before what they come from is paused.
WRITE_BUFFER = 2**20

#: Name of the stream, whether it may be begun, number of this connection, bytes received, of these passed on.
GREETING = struct.Struct("!16s?IQQ")
#: Bytes received, of these passed on, bytes that follow.
HEADER = struct.Struct("!QQI")
#: In place of the number of bytes: there will be no more.
END = 2**32 - 1


class Stream(asyncio.Protocol):
    """One client's connection, as the protocol of its local end.

    It is read even before there is a TLS connection, so that its end is noticed.

    Parameters
    ----------
    channel : str
        The kernel's channel that it is for.
    name : bytes
        16 bytes that no other stream has.
    made, over : callable
        Called with the stream when the client is connected, and when nothing of it is left.
    """

    def __init__(
        self, channel: str, name: bytes, made: Callable[[Stream], None], over: Callable[[Stream], None]
    ) -> None:
        self.channel = channel
        self.name = name
        #: Whether it is over.
        self.closed = False
        self._made = made
        self._over = over
        self._local: asyncio.Transport | None = None
        self._carrier: Carrier | None = None
        self._connections = 0
        self._known = False
        self._received = self._passed = self._told = 0
        self._taken = self._acknowledged = self._arrived = 0
        self._unsent: deque[bytes] = deque()
        self._sent: deque[bytes] = deque()  # and not acknowledged
        self._ended = self._slow = self._timer = False

    # The client's end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._local = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._made(self)

    def data_received(self, data: bytes) -> None:
        """Take what the client says."""
        self._taken += len(data)
        self._unsent.append(data)
        self.flush()

    def pause_writing(self) -> None:
        """Let the kernel wait for the client."""
        self._slow = True

    def resume_writing(self) -> None:
        """Go on."""
        self._slow = False
        self._passed = self._received
        if self._carrier is not None:
            self._send(0)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell of the client's end after all that it said."""
        self._ended = True
        self.resume_writing()
        if self._connections:  # the supervisor may know of it, and is to hear of the end
            self.flush()
        else:
            self.close()

    # The carrier's end

    def adopt(self, carrier: Carrier) -> None:
        """Go on with a new TLS connection."""
        self.let_go()
        self._carrier = carrier
        self._connections += 1
        greeting = (self.name, not self._known, self._connections, self._received, self._passed)
        carrier.transport.write(GREETING.pack(*greeting))
        self._told = self._received
        carrier.writable = self._connections == 1
        self.flush()

    def let_go(self) -> None:
        """Give up the TLS connection, if there is one, and keep what may not have come through."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.leave().abort()
            self._unsent.extendleft(reversed(self._sent))
            self._sent.clear()
            self.flush()

    def heard(self, total: int, arrived: int, length: int) -> None:
        """Take a header: forget what the other side has received, which may end within a piece sent before a loss."""
        assert self._carrier is not None
        if length == END or not self._acknowledged <= total <= self._taken:
            self.close()
            return
        self._known, self._arrived = True, arrived
        pieces = self._sent or self._unsent
        while pieces and self._acknowledged + len(pieces[0]) <= total:
            self._acknowledged += len(pieces.popleft())
        if not self._sent and self._acknowledged < total:
            self._unsent[0] = self._unsent[0][total - self._acknowledged :]
            self._acknowledged = total
        if not self._carrier.answered:
            self._carrier.answered = self._carrier.writable = True
        self.flush()

    def take(self, data: memoryview) -> None:
        """Pass bytes on to the client."""
        self._received += len(data)
        if not self._ended:
            assert self._local is not None
            self._local.write(data)
        if not self._slow:
            self._passed = self._received

    def acknowledge(self) -> None:
        """Tell how much was received, now or soon."""
        if self._received - self._told >= ACK_BYTES:
            self._send(0)
        elif self._received > self._told and not self._timer:
            self._timer = True
            asyncio.get_running_loop().call_later(ACK_SECONDS, self._acknowledge_late)

    def _acknowledge_late(self) -> None:
        self._timer = False
        if self._carrier is not None and self._received > self._told:
            self._send(0)

    def flush(self) -> None:
        """Send what the TLS connection takes, and read no more than can be held."""
        carrier = self._carrier
        while self._unsent and carrier is not None and carrier.writable:
            data = self._unsent.popleft()
            self._sent.append(data)
            self._send(len(data), data)
        if self._ended and not self._unsent and carrier is not None and carrier.writable and not carrier.ended:
            carrier.ended = True
            self._send(END)
        congested = carrier is not None and bool(self._unsent)
        room = HELD_BYTES if carrier is None else AHEAD_BYTES
        assert self._local is not None
        if congested or self._taken - self._arrived >= room:
            self._local.pause_reading()
        else:
            self._local.resume_reading()

    def _send(self, length: int, data: bytes = b"") -> None:
        assert self._carrier is not None
        self._told = self._received
        header = HEADER.pack(self._received, self._passed, length)
        self._carrier.transport.writelines([header, data] if data else [header])

    def close(self) -> None:
        """Be over, and tell the supervisor if it is connected."""
        if self.closed:
            return
        self.closed = True
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.end()
        assert self._local is not None
        self._local.close()
        self._unsent.clear()
        self._sent.clear()
        self._over(self)


class Carrier(asyncio.Protocol):
    """A TLS connection that carries a stream."""

    transport: asyncio.Transport

    def __init__(self, stream: Stream) -> None:
        #: Set once the connection is no more.
        self.lost = asyncio.Event()
        #: Whether the supervisor has answered the greeting.
        self.answered = False
        #: Whether it may be written to.
        self.writable = False
        #: Whether the end was told on it.
        self.ended = False
        self._stream: Stream | None = stream
        self._head = bytearray()
        self._left = 0

    def leave(self) -> asyncio.Transport:
        """Have nothing more to do with the stream; return the transport, to be closed."""
        self._stream = None
        return self.transport

    def end(self) -> None:
        """Tell that the stream is over."""
        self.transport.write(HEADER.pack(0, 0, END))
        self.leave().close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, unless nobody is left to do it for."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        assert self._stream is not None
        if self._stream.closed:
            self.leave().abort()
        else:
            self._stream.adopt(self)

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        rest = memoryview(data)
        while rest and self._stream is not None:
            wanted = self._left or HEADER.size - len(self._head)
            part, rest = rest[:wanted], rest[wanted:]
            if self._left:
                self._left -= len(part)
                self._stream.take(part)
                continue
            self._head += part
            if len(self._head) == HEADER.size:
                total, arrived, self._left = HEADER.unpack(self._head)
                self._head.clear()
                self._stream.heard(total, arrived, self._left)
        if self._stream is not None:
            self._stream.acknowledge()

    def pause_writing(self) -> None:
        """Let the client wait for the supervisor."""
        self.writable = False

    def resume_writing(self) -> None:
        """Go on."""
        self.writable = True
        if self._stream is not None:
            self._stream.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Leave the stream to the next connection."""
        if self._stream is not None:
            self._stream.let_go()
        self.lost.set()
