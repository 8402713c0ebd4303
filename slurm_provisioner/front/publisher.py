"""What iopub's clients are sent, at the pace of the slowest that still reads.

libzmq keeps some messages for each client, more of them wait here, and when too much does, nothing is taken from the
kernel. A client that takes nothing would hold the others up for ever: its connection is cut. It comes back by itself
once it can, as ZMQ's sockets do, and has missed what was published meanwhile. libzmq could drop messages instead, but
also those of a client that reads, and is only not yet done with the last burst.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import zmq

from .messages import Frames
from .thread import FrontThread

__all__ = ["KEPT", "Publisher", "send"]

log = logging.getLogger("slurm_provisioner")

#: Messages that libzmq keeps for each client.
KEPT = 200
#: Bytes that wait here at most, but for a last message.
BACKLOG_BYTES = 2**26
#: Seconds that a client that takes nothing holds the others up.
PATIENCE = 2.0
#: Seconds until clients that were full are tried again; libzmq's word that they are not may come unheard.
RETRY = 0.01


class Publisher:
    """Sends to all subscribers of a socket.

    Parameters
    ----------
    thread : FrontThread
        Where this runs.
    room : callable
        Called when there is room again for what the kernel says.
    """

    def __init__(self, thread: FrontThread, room: Callable[[], None]) -> None:
        self._thread = thread
        self._room = room
        self._sock: zmq.Socket[bytes] | None = None
        self._waiting: deque[tuple[Frames, int]] = deque()
        self._bytes = 0
        self._blocked_since: float | None = None
        self._retry_due = False

    def use(self, sock: zmq.Socket[bytes]) -> None:
        """Send by an XPUB socket, which is yet to be bound."""
        sock.setsockopt(zmq.XPUB_VERBOSE, 1)  # each client is welcomed
        sock.setsockopt(zmq.XPUB_NODROP, 1)
        sock.setsockopt(zmq.SNDHWM, KEPT)
        self._sock = sock

    @property
    def full(self) -> bool:
        """Whether no more is to be taken from the kernel."""
        return self._bytes > BACKLOG_BYTES

    def publish(self, frames: Frames) -> None:
        """Send a message after those that wait."""
        size = sum(map(len, frames))
        self._waiting.append((frames, size))
        self._bytes += size
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as clients take it."""
        if self._sock is None or self._sock.closed:
            return
        was_full = self.full
        while self._waiting and send(self._sock, self._waiting[0][0]):
            self._bytes -= self._waiting.popleft()[1]
            self._blocked_since = None
        self._thread.touch(self._sock)
        if was_full and not self.full:
            self._room()
        if self._waiting:
            self._wait(self._sock)

    def _wait(self, sock: zmq.Socket[bytes]) -> None:
        now = time.monotonic()
        if self._blocked_since is None:
            self._blocked_since = now
        elif now - self._blocked_since > PATIENCE:
            self._blocked_since = now
            _cut_stuck(sock.get_string(zmq.LAST_ENDPOINT))
        if not self._retry_due:
            self._retry_due = True
            self._thread.at(now + RETRY, self._retry)

    def _retry(self) -> None:
        self._retry_due = False
        self.flush()


def send(sock: zmq.Socket[bytes], frames: Frames) -> bool:
    """Send a message, and return True; or return False where that would block."""
    try:
        sock.send_multipart(frames, zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return False
    return True


def _cut_stuck(endpoint: str) -> None:
    """Cut the connections that take nothing, if there are others that would: those had the time to take all."""
    with ExitStack() as stack:
        connections = [stack.enter_context(each) for each in _connections(endpoint)]
        poll = select.poll()
        for each in connections:
            poll.register(each, select.POLLOUT)
        writable = {descriptor for descriptor, _ in poll.poll(0)}
        stuck = [each for each in connections if each.fileno() not in writable]
        if len(stuck) < len(connections):
            for each in stuck:
                log.warning("A client that does not read what its kernel publishes was cut off; it will come back.")
                with suppress(OSError):  # it went by itself
                    each.shutdown(socket.SHUT_RDWR)


def _connections(endpoint: str) -> Iterator[socket.socket]:
    """Yield this process's connections from an endpoint of its own; libzmq does not tell of them."""
    scheme, _, path = endpoint.partition("://")
    host, _, port = path.rpartition(":")
    address = path if scheme == "ipc" else (host, int(port))
    for descriptor in _sockets():
        with suppress(OSError):  # gone meanwhile
            # of a duplicate, it cannot become something else's before it is cut
            found = socket.socket(fileno=os.dup(descriptor))
            if found.getsockname() == address and not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield found
            else:
                found.close()


def _sockets() -> list[int]:
    """Return this process's descriptors of sockets; none where the system does not tell."""
    found = []
    with suppress(FileNotFoundError):
        for path in list(Path("/dev/fd").iterdir()):
            with suppress(OSError):  # it was open for the listing itself
                if stat.S_ISSOCK(os.fstat(int(path.name)).st_mode):
                    found.append(int(path.name))
    return found
