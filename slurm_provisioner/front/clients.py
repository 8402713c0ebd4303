"""The sockets that clients connect to: one that answers each of them, and one that publishes to all.

What is published goes at the pace of the slowest client that still reads: when too much waits for one, nothing is taken
from the kernel. A client that takes nothing would hold the others up for ever: its connection is cut. It comes back by
itself once it can, as ZeroMQ's sockets do, and has missed what was published meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from collections.abc import Callable, Sequence

from . import zmtp
from .peer import Peer

__all__ = ["Publisher", "Router"]

log = logging.getLogger("slurm_provisioner")

#: Bytes that wait for a client at most, but for a last message, before nothing more is published.
BACKLOG_BYTES = 2**26
#: Seconds that a client that takes nothing holds the others up.
PATIENCE = 2.0
#: Bytes of replies and questions that wait for a client before another one ends its connection.
REPLY_BYTES = 2**28
#: Seconds in which what was sent last may still go out.
LINGER = 0.5


class _Socket:
    """What listens for clients, and their connections."""

    KIND = ""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._peers: set[Peer] = set()
        self._held = self._closed = False

    async def open(self, path: str | None) -> int:
        """Listen, at a path or on loopback; return the port, 0 for a path."""
        loop = asyncio.get_running_loop()
        if self._server is None:
            # known before anything is awaited: what is cancelled is to leave nothing behind
            if path is None:
                self._server = await loop.create_server(self._accept, "127.0.0.1", 0, start_serving=False)
            else:
                self._server = await loop.create_unix_server(self._accept, path, start_serving=False)
        await self._server.start_serving()
        return 0 if path is not None else int(self._server.sockets[0].getsockname()[1])

    def _accept(self) -> Peer:
        peer = Peer(self.KIND, self, waiting=self._patience)
        self._peers.add(peer)
        if self._closed:
            peer.close()
        return peer

    @property
    def _patience(self) -> int:
        """Bytes that wait for a client before it counts as slow."""
        return sys.maxsize

    def hold(self, whether: bool) -> None:
        """Take nothing from any client for a while: what they send waits at their own end."""
        if self._held != whether:
            self._held = whether
            for peer in self._peers:
                if peer.ready:
                    peer.hold(whether)

    def is_ready(self, peer: Peer) -> None:
        """Take a client."""
        if self._held:
            peer.hold(True)

    def received(self, peer: Peer, messages: list[bytes]) -> None:
        """Take what it says."""
        raise NotImplementedError

    def paused(self, peer: Peer) -> None:
        """Take the news that it is slow."""

    def resumed(self, peer: Peer) -> None:
        """Take the news that it has caught up."""

    def lost(self, peer: Peer) -> None:
        """Take its end."""
        self._peers.discard(peer)

    def close(self) -> None:
        """Listen no more, and end all connections."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for peer in self._peers:
            peer.close()
            if peer.size:
                asyncio.get_running_loop().call_later(LINGER, peer.abort)
        self._peers.clear()


class Router(_Socket):
    """Answers each client, which is known by its socket's name.

    Parameters
    ----------
    received : callable
        Called with each message, packed, of which the first frame is the name of its sender.
    """

    KIND = "ROUTER"

    def __init__(self, received: Callable[[bytes], None]) -> None:
        super().__init__()
        self._take = received
        self._by_name: dict[bytes, Peer] = {}

    def is_ready(self, peer: Peer) -> None:
        """Take a client; one that comes back by its name takes the place of what it was (`ZMQ_ROUTER_HANDOVER`)."""
        super().is_ready(peer)
        peer.identity = peer.identity or b"\0" + uuid.uuid4().bytes
        if (former := self._by_name.get(peer.identity)) is not None:
            former.abort()
        self._by_name[peer.identity] = peer

    def received(self, peer: Peer, messages: list[bytes]) -> None:
        """Pass on what a client says."""
        for message in messages:
            self._take(zmtp.addressed(peer.identity, message))

    def send(self, message: bytes) -> None:
        """Send a packed message to the client that its first frame names, if that is still there."""
        name, rest = zmtp.split(message)
        peer = self._by_name.get(name)
        if peer is None:
            return
        if peer.size > REPLY_BYTES:
            log.warning("A client that does not read the replies to its requests was cut off; it will come back.")
            peer.abort()
        peer.send(rest)

    def lost(self, peer: Peer) -> None:
        """Forget a client."""
        super().lost(peer)
        if self._by_name.get(peer.identity) is peer:
            del self._by_name[peer.identity]


class Publisher(_Socket):
    """Publishes to all clients that want it.

    Parameters
    ----------
    subscribed : callable
        Called with the topic of each new subscription.
    full : callable
        Called with whether no more is to be taken from the kernel for now.
    """

    KIND = "XPUB"

    def __init__(self, subscribed: Callable[[bytes], None], full: Callable[[bool], None]) -> None:
        super().__init__()
        self._subscribed = subscribed
        self._full = full
        self._topics: dict[Peer, list[bytes]] = {}
        self._slow: set[Peer] = set()
        self._waited: dict[Peer, int] = {}  # bytes for each client when they were looked at last
        self._look: asyncio.TimerHandle | None = None

    @property
    def _patience(self) -> int:
        return BACKLOG_BYTES

    def publish(self, messages: Sequence[bytes]) -> None:
        """Send packed messages to all that want them."""
        for peer, topics in list(self._topics.items()):
            wanted = messages
            if b"" not in topics:  # all of it, as Jupyter's clients say
                wanted = [each for each in messages if zmtp.first(each).startswith(tuple(topics))]
            peer.send(b"".join(wanted))

    def is_ready(self, peer: Peer) -> None:
        """Take a client, which is yet to say what it wants."""
        super().is_ready(peer)
        self._topics[peer] = []

    def received(self, peer: Peer, messages: list[bytes]) -> None:
        """Take what a client wants to hear, or no longer wants to."""
        topics = self._topics[peer]
        for said in map(zmtp.first, messages):
            what, topic = said[:1], said[1:]
            if what == b"\1":
                topics.append(topic)
                self._subscribed(topic)
            elif what == b"\0" and topic in topics:
                topics.remove(topic)

    def paused(self, peer: Peer) -> None:
        """Have the others wait for a client, for a while."""
        if not self._slow:
            self._full(True)
        self._slow.add(peer)
        if self._look is None:
            self._look_again()
        self._waited[peer] = peer.size

    def _look_again(self) -> None:
        self._waited = {peer: peer.size for peer in self._topics}
        self._look = asyncio.get_running_loop().call_later(PATIENCE, self._cut_stuck)

    def _cut_stuck(self) -> None:
        """Cut clients that take nothing, if there are others that do, or would."""
        stuck = {peer for peer in self._topics if 0 < self._waited.get(peer, sys.maxsize) <= peer.size}
        if len(stuck) < len(self._topics):
            for peer in self._slow & stuck:
                log.warning("A client that does not read what its kernel publishes was cut off; it will come back.")
                peer.abort()
        self._look_again()

    def resumed(self, peer: Peer) -> None:
        """Go on, once the last client has caught up."""
        if peer in self._slow:
            self._slow.remove(peer)
            if self._slow:
                return
            if self._look is not None:
                self._look.cancel()
                self._look = None
            self._waited.clear()
            self._full(False)

    def lost(self, peer: Peer) -> None:
        """Forget a client."""
        super().lost(peer)
        self._topics.pop(peer, None)
        self.resumed(peer)

    def close(self) -> None:
        """Listen no more, and end all connections."""
        super().close()
        if self._look is not None:
            self._look.cancel()
