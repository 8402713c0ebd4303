"""The one thread that all fronts of a process share: it watches their ZMQ sockets, and does what it is asked to.

libzmq tells of news by a file descriptor, and only when a socket that had none gets some. So a socket is looked at
after whatever was done with it, until it has nothing to say.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import zmq

__all__ = ["FrontThread", "acquire", "release"]

T = TypeVar("T")

log = logging.getLogger("slurm_provisioner")

#: Sockets of all kernels of a process, about; libzmq's own limit is 1023.
MAX_SOCKETS = 32_768


class FrontThread:
    """Sockets, timers and commands, on a daemon thread with a ZMQ context of its own."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self.users = 0
        self._selector = selectors.DefaultSelector()
        self._commands: deque[Callable[[], object]] = deque()
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)
        self._waking = threading.Lock()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._watched: dict[zmq.Socket[bytes], Callable[[], bool]] = {}
        self._noisy: dict[zmq.Socket[bytes], None] = {}
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="slurm-provisioner-front", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------- from any thread

    def call(self, command: Callable[[], T]) -> Future[T]:
        """Have a function called on the thread, after those that were given before, whoever awaits its end."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # a caller that is cancelled cannot take it back

        def run() -> None:
            try:
                future.set_result(command())
            except BaseException as error:  # it is the caller's
                future.set_exception(error)

        self._commands.append(run)
        self._wake()
        return future

    def _wake(self) -> None:
        with self._waking, suppress(BlockingIOError):  # it is about to wake up
            if self._button.fileno() >= 0:
                self._button.send(b"!")

    def end(self) -> None:
        """Have the thread end, once it has done what it was given."""
        self.call(lambda: setattr(self, "_ends", True))

    # ------------------------------------------------------------- on the thread

    def watch(self, sock: zmq.Socket[bytes], look: Callable[[], bool]) -> None:
        """Have `look` called when there is news of a socket; it returns whether there may be more."""
        self._watched[sock] = look
        self._selector.register(sock.FD, selectors.EVENT_READ, sock)
        self.touch(sock)

    def touch(self, sock: zmq.Socket[bytes]) -> None:
        """Look at a socket soon: something was done with it."""
        if sock in self._watched:
            self._noisy[sock] = None

    def forget(self, sock: zmq.Socket[bytes]) -> None:
        """Stop watching a socket."""
        if self._watched.pop(sock, None) is not None:
            self._noisy.pop(sock, None)
            self._selector.unregister(sock.FD)

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Have a function called at a time of `time.monotonic`."""
        heapq.heappush(self._timers, (when, next(self._numbers), action))

    def _run(self) -> None:
        while not self._ends:
            for key, _ in self._selector.select(self._pause()):
                if key.data is None:
                    self._hear_bell()
                else:
                    self._noisy[key.data] = None
            while self._commands:
                self._commands.popleft()()
            while self._timers and self._timers[0][0] <= time.monotonic():
                self._guarded(heapq.heappop(self._timers)[2])
            for sock in list(self._noisy):
                look = self._watched.get(sock)
                if look is None or not self._guarded(look):
                    self._noisy.pop(sock, None)
        self._selector.close()
        with self._waking:  # who ended us while we were awake has not rung yet
            self._button.close()
            self._bell.close()
        self.context.term()

    def _pause(self) -> float | None:
        if self._noisy or self._commands:
            return 0
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _hear_bell(self) -> None:
        with suppress(BlockingIOError):
            while self._bell.recv(4096):
                pass

    def _guarded(self, action: Callable[[], Any]) -> bool:
        try:
            return bool(action())
        except Exception:  # one kernel's trouble is not to end the others'
            log.exception("Unexpected error in a kernel's endpoints")
            return False


_lock = threading.Lock()
_thread: FrontThread | None = None


def acquire() -> FrontThread:
    """Return the process's thread, started on first use."""
    global _thread  # noqa: PLW0603
    with _lock:
        if _thread is None:
            _thread = FrontThread()
        _thread.users += 1
        return _thread


def release(thread: FrontThread) -> None:
    """Give the thread back; its last user ends it."""
    global _thread  # noqa: PLW0603
    with _lock:
        thread.users -= 1
        if thread.users == 0:
            if _thread is thread:
                _thread = None
            thread.end()


def _forget_parents() -> None:
    global _thread, _lock
    _thread, _lock = None, threading.Lock()


# a forked child has no such thread
os.register_at_fork(after_in_child=_forget_parents)
