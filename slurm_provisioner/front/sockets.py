"""The sockets of one kernel: those that clients connect to, and those that go to the kernel's end of the link.

Runs on the front's thread. What clients send waits here, in their own queues, while the kernel takes no more.
What the kernel publishes waits for clients that are slow, within bounds, as its own socket would have it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import zmq

from ..endpoints import CHANNELS
from .messages import Codec, Frames
from .publisher import KEPT, Publisher, send
from .standin import Listener, StandIn, State
from .thread import FrontThread

__all__ = ["CHANNELS", "Sockets"]

log = logging.getLogger("slurm_provisioner")

_NEAR = {"shell": zmq.ROUTER, "iopub": zmq.XPUB, "stdin": zmq.ROUTER, "control": zmq.ROUTER, "hb": zmq.ROUTER}
_FAR = {"shell": zmq.DEALER, "iopub": zmq.SUB, "stdin": zmq.DEALER, "control": zmq.DEALER, "hb": zmq.DEALER}

#: Where a kernel's last words are, and the seconds that are allowed for them to come.
_LAST_WORDS, LAST_WORDS = ("shell", "iopub"), 1.0
#: Messages taken from a socket before others have their turn.
TURN = 64
#: Messages with replies and questions that libzmq keeps for a client that does not read.
REPLIES = 10_000
#: Milliseconds in which what was sent last may still go out.
LINGER = 500


class Sockets:
    """A kernel's endpoints, and the way to the kernel itself.

    Parameters
    ----------
    thread : FrontThread
        Where this runs.
    codec : Codec
        Reads and makes messages.
    info : mapping
        What ``kernel_info_reply`` says until the kernel was heard.
    listener : Listener
        Who wants to know when there is a kernel, and whether somebody waits for it.
    """

    def __init__(self, thread: FrontThread, codec: Codec, info: Mapping[str, Any], listener: Listener) -> None:
        self._thread = thread
        self.standin = StandIn(codec, self._to_clients, self._to_kernel, info, listener)
        self._near: dict[str, zmq.Socket[bytes]] = {}
        self._far: dict[str, zmq.Socket[bytes]] = {}
        self._ports: dict[str, int] = {}
        self._outbox: dict[str, deque[Frames]] = {channel: deque() for channel in CHANNELS}
        self._publisher = Publisher(thread, self._read_on)
        self._tick_at = 0.0
        self._monitors: list[zmq.Socket[bytes]] = []
        self._speaking: set[str] = set()
        self._heard_out: list[Future[None]] = []

    # -------------------------------------------------------------------- life

    def open(self, directory: str | None) -> dict[str, int]:
        """Bind the endpoints, or give those a name again whose name was removed; return their "ports".

        Parameters
        ----------
        directory : str or None
            A private folder for ipc; None for tcp on loopback.
        """
        for number, channel in enumerate(CHANNELS, 1):
            if channel not in self._near:
                self._near[channel] = self._make(_NEAR[channel], linger=LINGER)
                self._prepare(channel, self._near[channel])
                self._thread.watch(self._near[channel], lambda channel=channel: self._from_client(channel))  # type: ignore[misc]
                if directory is None:
                    self._ports[channel] = self._near[channel].bind_to_random_port("tcp://127.0.0.1")
                else:
                    self._near[channel].bind(f"ipc://{directory}/{channel}")
                    self._ports[channel] = number
            if directory is not None:
                _link(Path(directory, f"k-{number}"), channel)
        self.tick_when_due()
        return dict(self._ports)

    def _prepare(self, channel: str, sock: zmq.Socket[bytes]) -> None:
        if channel == "iopub":
            self._publisher.use(sock)
        else:
            sock.setsockopt(zmq.ROUTER_HANDOVER, 1)  # as kernels have it: a client comes back by its name
            sock.setsockopt(zmq.SNDHWM, REPLIES)

    def attach(self, endpoints: Mapping[str, str]) -> None:
        """Connect to a kernel that was started; once it answers, it is heard.

        Parameters
        ----------
        endpoints : mapping
            An address for each channel.
        """
        self._leave()
        name = uuid.uuid4().bytes.replace(b"\0", b"0")  # the same everywhere: the kernel asks on stdin who ran a cell
        for channel, address in endpoints.items():
            sock = self._far[channel] = self._make(_FAR[channel], linger=0)
            if channel == "iopub":
                sock.setsockopt(zmq.RCVHWM, KEPT)  # read at once, but for clients that are slow
                sock.subscribe(b"")
            else:
                sock.setsockopt(zmq.ROUTING_ID, name)
            if channel in _LAST_WORDS:
                self._speaking.add(channel)
                monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
                self._monitors.append(monitor)
                self._thread.watch(monitor, lambda channel=channel, of=monitor: self._hung_up(channel, of))  # type: ignore[misc]
            sock.connect(address)
            self._thread.watch(sock, lambda channel=channel: self._from_kernel(channel))  # type: ignore[misc]
        self.standin.attach()
        self.tick_when_due()

    def _hung_up(self, channel: str, monitor: zmq.Socket[bytes]) -> bool:
        """Note that the kernel's end of a connection was closed: what it said before has come."""
        if _receive(monitor) is None:
            return False
        self._speaking.discard(channel)
        if not self._speaking:
            self._all_heard()
        return True

    def last_words(self) -> Future[None]:
        """Return what is done once all has come that a kernel said before its end, or after a while."""
        heard: Future[None] = Future()
        self._heard_out.append(heard)
        if self._speaking:
            self._thread.at(time.monotonic() + LAST_WORDS, self._all_heard)
        else:
            self._all_heard()
        return heard

    def _all_heard(self) -> None:
        for heard in self._heard_out:
            if heard.set_running_or_notify_cancel():
                heard.set_result(None)
        self._heard_out.clear()

    def drain(self) -> None:
        """Take what the kernel said last, then let go of it."""
        for channel in ("iopub", "shell", "control"):
            if channel in self._far:
                while self._from_kernel(channel):
                    pass
        self._leave()

    def _leave(self) -> None:
        for sock in self._far.values():
            self._thread.forget(sock)
            sock.disable_monitor()
            sock.close()
        for monitor in self._monitors:  # after that: libzmq would wait for ever to tell a closed one of a hang-up
            self._thread.forget(monitor)
            monitor.close()
        self._monitors.clear()
        self._far.clear()
        self._speaking.clear()
        self._all_heard()
        for waiting in self._outbox.values():
            waiting.clear()
        for sock in self._near.values():
            self._thread.touch(sock)  # its messages may have waited for the kernel to take more

    def close(self) -> None:
        """Close everything."""
        self._leave()
        self._publisher.flush()
        for sock in self._near.values():
            self._thread.forget(sock)
            sock.close()
        self._near.clear()

    def _make(self, kind: int, *, linger: int) -> zmq.Socket[bytes]:
        sock: zmq.Socket[bytes] = self._thread.context.socket(kind)
        sock.setsockopt(zmq.LINGER, linger)
        return sock

    # --------------------------------------------------------------- from clients

    def _from_client(self, channel: str) -> bool:
        """Take what clients sent; return whether there may be more."""
        sock = self._near[channel]
        if channel == "iopub":
            self._publisher.flush()  # clients may have taken something
        for _ in range(TURN):
            if self._outbox[channel]:  # the kernel takes no more: clients wait, and it wakes us
                return _later(sock)
            frames = _receive(sock)
            if frames is None:
                return False
            if channel == "iopub":
                self._subscribed(bytes(frames[0]))
            elif channel == "hb":
                self._heartbeat(frames)
            else:
                self._hear(self.standin.from_client, channel, frames)
        return True

    def _hear(self, handle: Callable[[str, Frames], None], channel: str, frames: Frames) -> None:
        try:
            handle(channel, frames)
        except Exception:  # those behind it are not to wait for ever
            log.exception("A message on the %s channel was dropped: unexpected error", channel)
        self.tick_when_due()

    def _subscribed(self, message: bytes) -> None:
        if message[:1] == b"\1":
            self.standin.welcome(message[1:])

    def _heartbeat(self, frames: Frames) -> None:
        if self.standin.state is State.RUNNING and not self.standin.is_lost:
            self._to_kernel("hb", frames)
        else:
            self._to_clients("hb", frames)

    # ------------------------------------------------------------ from the kernel

    def _from_kernel(self, channel: str) -> bool:
        """Take what the kernel sent and give it what waits; return whether there may be more."""
        self._flush(channel)
        sock = self._far.get(channel)
        if sock is None:
            return False
        for _ in range(TURN):
            if channel == "iopub" and self._publisher.full:
                return _later(sock)  # the link and the kernel's own queue hold the rest
            frames = _receive(sock)
            if frames is None:
                return False
            if channel == "hb" or (channel in ("iopub", "stdin") and self.standin.state is State.RUNNING):
                self._to_clients(channel, frames)
            else:
                self._hear(self.standin.from_kernel, channel, frames)
        return True

    def _read_on(self) -> None:
        if "iopub" in self._far:
            self._thread.touch(self._far["iopub"])

    # ------------------------------------------------------------------- sending

    def _to_kernel(self, channel: str, frames: Frames) -> None:
        if self.standin.state is State.ATTACHING:  # a probe: clients are not to wait behind it, and another one follows
            send(self._far[channel], frames)
            self._thread.touch(self._far[channel])
        else:
            self._outbox[channel].append(frames)
            self._flush(channel)

    def _flush(self, channel: str) -> None:
        sock, waiting = self._far.get(channel), self._outbox[channel]
        if sock is None or not waiting:
            return
        while waiting and send(sock, waiting[0]):
            waiting.popleft()
        self._thread.touch(sock)
        if not waiting:
            self._thread.touch(self._near[channel])

    def _to_clients(self, channel: str, frames: Frames) -> None:
        if channel == "iopub":
            self._publisher.publish(frames)
        elif (sock := self._near.get(channel)) is not None:
            send(sock, frames)
            self._thread.touch(sock)

    # ---------------------------------------------------------------------- time

    def tick_when_due(self) -> None:
        """Have the stand-in's timer run."""
        due = self.standin.due
        if due is not None and due != self._tick_at:
            self._tick_at = due
            self._thread.at(due, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self.standin.due == due and self._near:
            self.standin.tick()
            self.tick_when_due()


def _link(name: Path, target: str) -> None:
    """Have clients find a socket by a name that jupyter_client removes at restarts (`cleanup_ipc_files`).

    To bind it anew would break the connections that there are, as libzmq has it, and what is under way in them.
    """
    if not name.is_symlink():
        name.symlink_to(target)


def _receive(sock: zmq.Socket[bytes]) -> Frames | None:
    try:
        return sock.recv_multipart(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None


def _later(sock: zmq.Socket[bytes]) -> bool:
    """Leave what a socket has to whoever touches it again."""
    sock.getsockopt(zmq.EVENTS)  # takes note of the news: its descriptor would wake us again and again
    return False
