"""A connection to one of the kernel's sockets, which outlives the TLS connections that carry it: see `carrier.py`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

__all__ = ["CHANNELS", "END", "Stream"]

#: The kernel's channels, in the order of their numbers, here and in the terms of Jupyter's ipc endpoints.
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
#: Bytes of one direction that are held while nothing can be sent; then their source has to wait.
HELD_BYTES = 2**24
#: The same while there is a connection, until the other side has passed them on: more would only pile up there.
AHEAD_BYTES = 2**21
#: In place of the number of bytes that follow: there will be no more.
END = 2**32 - 1


class Carries(Protocol):
    """A TLS connection that carries streams."""

    writable: bool

    def send(self, stream: Stream, length: int, data: bytes = b"", *, opens: int = 0, fresh: bool = False) -> None:
        """Send a frame."""


class Stream(asyncio.Transport):
    """A connection to one of the kernel's sockets, as the transport of a protocol.

    Parameters
    ----------
    number : int
        Its number, which no other one of this side has.
    channel : str
        The kernel's channel that it is for.
    protocol : asyncio.Protocol
        Who speaks.
    over : callable
        Called with the stream when nothing of it is left.
    """

    def __init__(self, number: int, channel: str, protocol: asyncio.Protocol, over: Callable[[Stream], None]) -> None:
        super().__init__()
        self.number = number
        self._channel = CHANNELS.index(channel) + 1
        self._protocol = protocol
        self._over = over
        self._carrier: Carries | None = None
        self._writable = False  # as far as this stream goes: what came through before is known
        self._carried = self._known = False
        self._received = self._passed = self._told = 0
        self._taken = self._acknowledged = self._arrived = 0
        self._unsent: deque[bytes] = deque()
        self._sent: deque[bytes] = deque()  # and not acknowledged
        self._inbox: deque[bytes] = deque()  # while the protocol takes nothing
        self._paused = self._closed = self._lost = self._ended = self._full = False

    # The transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Say something."""
        if data and not self._closed:
            self._taken += len(data)
            self._unsent.append(bytes(data))
            self.flush()

    def pause_reading(self) -> None:
        """Take nothing for a while: the kernel waits."""
        self._paused = True

    def resume_reading(self) -> None:
        """Go on."""
        if self._paused:
            self._paused = False
            asyncio.get_running_loop().call_soon(self._catch_up)  # who asks for it is not ready yet

    def _catch_up(self) -> None:
        while self._inbox and not self._paused:
            self._pass_on(self._inbox.popleft())
        if not self._inbox and self._passed < self._received:
            self._passed = self._received
            if self._carrier is not None:
                self._send(0)

    def is_reading(self) -> bool:
        """Whether anything is taken."""
        return not self._paused

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the kernel has not taken yet."""
        return self._taken - self._arrived

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing: when who speaks has to pause is the streams' own affair."""

    def is_closing(self) -> bool:
        """Whether nothing can be said any more."""
        return self._closed

    def close(self) -> None:
        """Say no more; what was said still goes its way, and what has come is taken."""
        if self._closed:
            return
        self._closed = True
        self._lose()
        if self._carried:  # the supervisor may know of it, and is to hear of the end
            self.flush()
        else:
            self._over(self)

    def abort(self) -> None:
        """Say no more, not even what has not gone its way yet."""
        if self._carrier is not None:  # else the supervisor may have got some of it
            self._taken -= sum(map(len, self._unsent))
            self._unsent.clear()
        self.close()

    def _lose(self) -> None:
        if self._lost:
            return
        while self._inbox:
            self._pass_on(self._inbox.popleft())
        self._lost = True
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    # The carrier

    def adopt(self, carrier: Carries) -> None:
        """Go on with a new TLS connection."""
        self._carrier = carrier
        self._writable, self._ended = not self._carried, False
        self._carried = True
        carrier.send(self, 0, opens=self._channel, fresh=not self._known)
        self.flush()

    def let_go(self) -> None:
        """Wait for another TLS connection, and keep what may not have come through."""
        self._carrier = None
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self.flush()

    def heard(self, total: int, arrived: int, length: int) -> None:
        """Take a header: forget what the other side has received, which may end within a piece sent before a loss."""
        if length == END or not self._acknowledged <= total <= self._taken:
            self.hang_up()
            return
        self._known = self._writable = True
        self._arrived = arrived
        pieces = self._sent or self._unsent
        while pieces and self._acknowledged + len(pieces[0]) <= total:
            self._acknowledged += len(pieces.popleft())
        if not self._sent and self._acknowledged < total:
            self._unsent[0] = self._unsent[0][total - self._acknowledged :]
            self._acknowledged = total
        self.flush()

    def take(self, data: bytes) -> None:
        """Pass bytes on to who speaks."""
        self._received += len(data)
        if self._paused or self._inbox:
            self._inbox.append(data)
        else:
            self._pass_on(data)
            self._passed = self._received

    def _pass_on(self, data: bytes) -> None:
        if not self._lost:
            self._protocol.data_received(data)

    def counts(self) -> tuple[int, int]:
        """Return how many bytes were received, and passed on; the other side is about to be told."""
        self._told = self._received
        return self._received, self._passed

    @property
    def untold(self) -> int:
        """Bytes that were received, and the other side does not know it."""
        return self._received - self._told

    def flush(self) -> None:
        """Send what the TLS connection takes, and hear no more than can be held."""
        while self._unsent and self._can_send:
            data = self._unsent.popleft()
            self._sent.append(data)
            self._send(len(data), data)
        if self._closed and not self._unsent and not self._ended and self._can_send:
            self._ended = True
            self._send(END)
        room = HELD_BYTES if self._carrier is None else AHEAD_BYTES
        full = (self._carrier is not None and bool(self._unsent)) or self._taken - self._arrived >= room
        if full != self._full and not self._lost:
            self._full = full
            (self._protocol.pause_writing if full else self._protocol.resume_writing)()

    @property
    def _can_send(self) -> bool:
        return self._carrier is not None and self._carrier.writable and self._writable

    def _send(self, length: int, data: bytes = b"") -> None:
        assert self._carrier is not None
        self._carrier.send(self, length, data)

    def hang_up(self) -> None:
        """Be over, and tell the supervisor if it is connected; who speaks gets what has come."""
        self._closed = True
        self._lose()
        if self._carrier is not None and not self._ended:
            self._send(END)
        self._unsent.clear()
        self._sent.clear()
        self._over(self)
