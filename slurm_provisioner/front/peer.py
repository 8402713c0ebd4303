"""One connection of a ZeroMQ socket of ours: what clients connect to, and what goes to the kernel."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, cast

from ..loop import read_pieces
from . import zmtp
from .zmtp import Command, Decoder, ProtocolError

__all__ = ["HANDSHAKE_TIMEOUT", "Owner", "Peer"]

log = logging.getLogger("slurm_provisioner")

#: Seconds until the other side has to have said who it is, as libzmq has it (`ZMQ_HANDSHAKE_IVL`).
HANDSHAKE_TIMEOUT = 30.0

#: Which types of sockets speak with which.
_PARTNERS = {
    b"ROUTER": (b"DEALER", b"REQ", b"ROUTER"),
    b"XPUB": (b"SUB", b"XSUB"),
    b"DEALER": (b"ROUTER", b"REP", b"DEALER"),
    b"SUB": (b"PUB", b"XPUB"),
}


class Owner(Protocol):
    """The socket that a connection is one of."""

    def is_ready(self, peer: Peer) -> None:
        """Take the news that messages can be sent."""

    def received(self, peer: Peer, messages: list[bytes]) -> None:
        """Take messages, packed as they came."""

    def paused(self, peer: Peer) -> None:
        """Take the news that the other side is slow: what is sent to it piles up."""

    def resumed(self, peer: Peer) -> None:
        """Take the news that it has caught up."""

    def lost(self, peer: Peer) -> None:
        """Take the end of a connection, which may not have been ready yet."""


class Peer(asyncio.Protocol):
    """The protocol of a connection.

    Parameters
    ----------
    kind : str
        The type of our socket.
    owner : Owner
        Who wants to know.
    label : str
        What the owner calls it.
    identity : bytes
        The name that our socket goes by.
    waiting : int
        Bytes that wait for the other side before it counts as slow.
    """

    def __init__(self, kind: str, owner: Owner, *, label: str = "", identity: bytes = b"", waiting: int) -> None:
        self._kind = kind
        self._owner: Owner | None = owner
        self.label = label
        self._ours = identity
        self._waiting = waiting
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None
        #: The name of the other side's socket, which may be empty.
        self.identity = b""
        #: Whether messages can be sent.
        self.ready = False

    @property
    def size(self) -> int:
        """Bytes that wait to be sent."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, message: bytes) -> None:
        """Send a message, packed as `zmtp.pack` does."""
        if self.ready and self._transport is not None and not self._transport.is_closing():
            self._transport.write(memoryview(message))  # of which Python 3.11 copies less

    def hold(self, whether: bool) -> None:
        """Take nothing from the other side for a while."""
        if self._transport is not None and not self._transport.is_closing():
            if whether:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def close(self) -> None:
        """Have nothing more to do with it; what was sent still goes out, and what has come is taken."""
        if self._transport is not None:
            self._transport.close()
        self._leave()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> Owner | None:
        owner, self._owner = self._owner, None
        self.ready = False
        if self._patience is not None:
            self._patience.cancel()
        return owner

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        if self._owner is None:
            self._transport.abort()
            return
        read_pieces(transport)
        self._transport.set_write_buffer_limits(high=self._waiting)
        self._transport.write(zmtp.GREETING + zmtp.ready(self._kind, self._ours))
        self._patience = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, self.abort)

    def data_received(self, data: bytes) -> None:
        """Take what the other side says."""
        messages: list[bytes] = []
        try:
            for each in self._decoder.feed(data):
                if isinstance(each, Command):
                    self._pass_on(messages)
                    self._obey(each)
                elif self.ready:
                    messages.append(each)
                elif self._owner is not None:
                    raise ProtocolError("a message before READY")  # noqa: TRY301
            self._pass_on(messages)
        except ProtocolError as error:
            self._pass_on(messages)
            log.warning("A connection to a %s socket was cut: %s.", self._kind, error)
            self.abort()

    def _pass_on(self, messages: list[bytes]) -> None:
        """Pass on together what came together."""
        if messages and self._owner is not None:
            self._owner.received(self, messages.copy())
            messages.clear()

    def _obey(self, command: Command) -> None:
        if self._owner is None:
            return
        if not self.ready:
            self._shake_hands(command)
        elif command.name == b"PING":
            self.send(zmtp.pong(command))
        elif command.name in (b"SUBSCRIBE", b"CANCEL"):  # as of ZMTP 3.1, though we greeted with 3.0
            self._owner.received(self, [zmtp.pack([bytes([command.name == b"SUBSCRIBE"]) + command.body])])

    def _shake_hands(self, command: Command) -> None:
        if command.name != b"READY":
            raise ProtocolError(f"{command.name!r} instead of READY")
        properties = command.properties()
        kind = properties.get(b"socket-type", b"")
        if kind not in _PARTNERS[self._kind.encode()]:
            raise ProtocolError(f"it is connected to a {kind!r}")
        self.identity = properties.get(b"identity", b"")
        self.ready = True
        assert self._owner is not None
        assert self._patience is not None
        self._patience.cancel()
        self._owner.is_ready(self)

    def pause_writing(self) -> None:
        """Tell that the other side is slow."""
        if self._owner is not None:
            self._owner.paused(self)

    def resume_writing(self) -> None:
        """Tell that it has caught up."""
        if self._owner is not None:
            self._owner.resumed(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell of its end."""
        self._transport = None  # asyncio's fails to abort what has closed by itself
        if (owner := self._leave()) is not None:
            owner.lost(self)
