"""The connections to a kernel's sockets, for as long as there is a kernel behind them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from . import zmtp
from .peer import Peer

__all__ = ["Connect", "KernelSide"]

#: Connects a protocol to one of the kernel's channels, at once or later.
Connect = Callable[[str, asyncio.Protocol], object]

#: What is connected by which type of socket; what is said on the first is to come through before the last.
_KINDS = {"control": "DEALER", "shell": "DEALER", "stdin": "DEALER", "hb": "DEALER", "iopub": "SUB"}
#: Where a kernel's last words are, and its first ones.
_SPEAKING = ("shell", "iopub")
#: Bytes that wait for the kernel before clients have to wait, too.
WAITING = 2**16
#: Seconds until a connection that was lost is made again: first, and at most.
RECONNECT_FIRST, RECONNECT_LAST = 0.1, 5.0


class KernelSide:
    """The way to a kernel.

    Parameters
    ----------
    received : callable
        Called with a channel, and messages that came by it, packed as they came.
    slow : callable
        Called with a channel, and whether the kernel takes no more by it for now.
    """

    def __init__(self, received: Callable[[str, list[bytes]], None], slow: Callable[[str, bool], None]) -> None:
        self._received = received
        self._slow = slow
        self._connect: Connect | None = None
        self._peers: dict[str, Peer] = {}
        self._redials: dict[str, asyncio.TimerHandle] = {}
        self._pauses: dict[str, float] = {}
        self._early: dict[str, list[bytes]] = {}
        self._probe: bytes | None = None
        self._full: set[str] = set()
        self._speaking: set[str] = set()
        self._silent = asyncio.Event()

    def attach(self, connect: Connect) -> None:
        """Connect to a kernel."""
        self._connect = connect
        self._speaking = set(_SPEAKING)
        self._silent.clear()
        self._full.clear()
        self._pauses = dict.fromkeys(_KINDS, RECONNECT_FIRST)
        self._early = {channel: [] for channel in _KINDS}
        # the same everywhere: the kernel asks on stdin who ran a cell
        self._name = uuid.uuid4().bytes.replace(b"\0", b"0")
        for channel in _KINDS:
            self._dial(channel)

    def _dial(self, channel: str) -> None:
        name = b"" if channel == "iopub" else self._name
        peer = self._peers[channel] = Peer(_KINDS[channel], self, label=channel, identity=name, waiting=WAITING)
        assert self._connect is not None
        self._connect(channel, peer)

    def leave(self) -> None:
        """Let go of it."""
        for redial in self._redials.values():
            redial.cancel()
        self._redials.clear()
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
        self._early.clear()
        self._probe = None
        self._silent.set()

    def send(self, channel: str, message: bytes) -> None:
        """Send a packed message, once that can be done."""
        peer = self._peers.get(channel)
        if peer is not None and peer.ready:
            peer.send(message)
        elif peer is not None:
            self._early[channel].append(message)
            self._full.add(channel)
        if channel in self._full:
            self._slow(channel, True)

    def probe(self, message: bytes) -> None:
        """Send a message on shell when its effects can be heard on iopub, unless another one comes before that."""
        self._probe = message
        if "shell" not in self._full and all(
            channel in self._peers and self._peers[channel].ready for channel in _SPEAKING
        ):
            self._probe = None
            self.send("shell", message)

    def hold(self, channel: str, whether: bool) -> None:
        """Take nothing from a channel for a while, or go on."""
        if channel in self._peers:
            self._peers[channel].hold(whether)

    async def hear_out(self, seconds: float) -> None:
        """Wait until all has come that a kernel said before its end, which hangs up; or for so long."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._silent.wait(), seconds)

    # The owner of the connections

    def is_ready(self, peer: Peer) -> None:
        """Have the kernel's ear."""
        channel = peer.label
        self._pauses[channel] = RECONNECT_FIRST
        if channel == "iopub":
            peer.send(zmtp.pack([b"\1"]))  # all of it
        early, self._early[channel] = self._early[channel], []
        self.resumed(peer)
        for message in early:
            self.send(channel, message)
        if self._probe is not None:
            self.probe(self._probe)

    def received(self, peer: Peer, messages: list[bytes]) -> None:
        """Take what it says."""
        self._received(peer.label, messages)

    def paused(self, peer: Peer) -> None:
        """Have clients wait for it."""
        self._full.add(peer.label)
        self._slow(peer.label, True)

    def resumed(self, peer: Peer) -> None:
        """Have them wait no longer."""
        self._full.discard(peer.label)
        self._slow(peer.label, False)

    def lost(self, peer: Peer) -> None:
        """Come back, as ZeroMQ's sockets do."""
        channel = peer.label
        self._full.discard(channel)
        self._speaking.discard(channel)
        if not self._speaking:
            self._silent.set()
        pause = self._pauses[channel]
        self._pauses[channel] = min(2 * pause, RECONNECT_LAST)
        self._redials[channel] = asyncio.get_running_loop().call_later(pause, partial(self._dial, channel))
