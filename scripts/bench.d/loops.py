"""What holds up event loops: how late they are, how long one turn of theirs takes, and whose code that was.

A turn is what a loop does from one look at what has happened to the next. A busy machine makes one long that did
little: the time for which the thread got no core is known to the kernel (schedstat), and is not counted. Nor is what
the measurement's own clients compute, which a server has not. A thread that has the interpreter's lock and gets no core
holds up all others: of a long turn it is told for how long each of them had none meanwhile.
"""

from __future__ import annotations

import _posixsubprocess
import asyncio
import gc
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Beat", "Holds", "Turns"]

_OWNERS = {"slurm_provisioner": "this package", "jupyter_client": "jupyter_client"}
_HERE = str(Path(__file__).parent)
CLIENT = "the bench's client"
#: Turns that take longer are counted, seconds.
STALL = 0.02


class Beat:
    """How late an event loop is with what is due, milliseconds."""

    PAUSE = 0.002

    def __init__(self) -> None:
        self._late: list[float] = []
        self._task = asyncio.ensure_future(self._beat())

    async def _beat(self) -> None:
        while True:
            due = time.perf_counter() + self.PAUSE
            await asyncio.sleep(self.PAUSE)
            self._late.append((time.perf_counter() - due) * 1000)

    def stop(self) -> dict[str, float]:
        """Return how late it was."""
        self._task.cancel()
        late = sorted(self._late)
        return {"median": late[len(late) // 2], "99 %": late[int(len(late) * 0.99)], "most": late[-1]}


class _Waits:
    """How long threads of this process have waited for a core in all, seconds."""

    #: Seconds between two looks.
    PAUSE = 0.001

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._at, self._last = 0.0, dict[str, float]()

    def follow_all(self) -> None:
        """Follow the threads that there are now."""
        for thread in threading.enumerate():
            if thread.name not in self._files and thread.native_id is not None:
                self._files[thread.name] = os.open(f"/proc/self/task/{thread.native_id}/schedstat", os.O_RDONLY)

    def now(self) -> dict[str, float]:
        return {name: _no_core(file) for name, file in self._files.items()}

    def lately(self) -> dict[str, float]:
        """Return what it was a moment ago."""
        if time.perf_counter() - self._at > self.PAUSE:
            self._at, self._last = time.perf_counter(), self.now()
        return self._last


def _no_core(schedstat: int) -> float:
    try:
        return int(os.pread(schedstat, 100, 0).split()[1]) / 1e9
    except OSError:  # that thread has ended
        return 0.0


@dataclass
class _Loop:
    """One thread's loop. All times are seconds."""

    name: str
    schedstat: int
    waits: _Waits
    before: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0
    waited: float = 0.0
    computed: float = 0.0
    owners: dict[str, float] = field(default_factory=dict)
    #: The longest turn, without waits for a core; the turn that computed most; the callback that did.
    longest: tuple[float, dict[str, float]] = (0.0, {})
    unheld: tuple[float, dict[str, float]] = (0.0, {})  # the same without what holds up all threads
    most: tuple[float, dict[str, float]] = (0.0, {})
    callback: tuple[float, str, str] = (0.0, "", "")
    stalls: int = 0

    def forget(self) -> None:
        self.longest = self.unheld = self.most = (0.0, {})
        self.callback, self.stalls = (0.0, "", ""), 0

    def begins(self) -> None:
        self.before = self.waits.lately()
        self.wall, self.computed, self.waited = time.perf_counter(), time.thread_time(), _no_core(self.schedstat)
        self.owners = {}

    def ends(self) -> None:
        if not self.wall:
            return
        computed = time.thread_time() - self.computed
        held = time.perf_counter() - self.wall
        holds: dict[str, float] = {}
        waits: dict[str, float] = {}
        if held > STALL / 4:
            holds = Holds.within(self.wall, self.wall + held)
            held -= _no_core(self.schedstat) - self.waited
            waits = {
                f"{name} without a core": waited - self.before.get(name, waited)
                for name, waited in self.waits.now().items()
                if name != self.name
            }
        computed, held = (max(0.0, each - self.owners.get(CLIENT, 0.0)) for each in (computed, held))
        owners = {**self.owners, **holds, **waits}
        self.longest = max(self.longest, (held, owners), key=lambda turn: turn[0])
        # who computes is not held up, but by garbage
        unheld = max(computed - holds.get("collecting garbage", 0.0), held - sum(holds.values()), 0.0)
        self.unheld = max(self.unheld, (unheld, owners), key=lambda turn: turn[0])
        self.most = max(self.most, (computed, self.owners), key=lambda turn: turn[0])
        self.stalls += held > STALL

    def ran(self, seconds: float, owner: str, name: str) -> None:
        self.owners[owner] = self.owners.get(owner, 0.0) + seconds
        if seconds > self.callback[0] and owner != CLIENT:
            self.callback = (seconds, owner, name)

    def told(self) -> dict[str, Any]:
        def turn(what: tuple[float, dict[str, float]]) -> dict[str, Any]:
            return {"ms": what[0] * 1000, "of": {owner: each * 1000 for owner, each in what[1].items()}}

        seconds, owner, name = self.callback
        return {
            "longest turn": turn(self.longest),
            "longest turn, but for holds": turn(self.unheld),
            "turn that computed most": turn(self.most),
            "callback that computed most": {"ms": seconds * 1000, "of": owner, "name": name},
            "turns over 20 ms": self.stalls,
        }


@dataclass
class _Span:
    """A time in which all threads are held up, or one. Known while it lasts: who is held up may tell of it first."""

    begin: float
    end: float = math.inf
    thread: int | None = None


class Holds:
    """What holds up all threads of this process at once, whoever needs it: the collection of garbage, and each start of
    a program, which before Python 3.12 keeps the interpreter's lock until the program has begun.
    """

    #: Whether who starts a program is held up alone: https://github.com/python/cpython/issues/104372
    ALONE = sys.version_info >= (3, 12)

    spans: ClassVar[dict[str, list[_Span]]] = {"collecting garbage": [], "starting a program": []}

    def __init__(self) -> None:
        gc.callbacks.append(self._collects)
        module: Any = subprocess if hasattr(subprocess, "_fork_exec") else _posixsubprocess
        name = "_fork_exec" if module is subprocess else "fork_exec"
        setattr(module, name, self._timed(getattr(module, name)))

    def _collects(self, phase: str, _: Any) -> None:
        spans = self.spans["collecting garbage"]
        if phase == "start":
            spans.append(_Span(time.perf_counter()))
        elif spans:  # else it had begun before `begin`
            spans[-1].end = time.perf_counter()

    def _timed(self, fork_exec: Callable[..., int]) -> Callable[..., int]:
        def timed(*args: Any) -> int:
            span = _Span(time.perf_counter(), thread=threading.get_ident() if self.ALONE else None)
            self.spans["starting a program"].append(span)
            try:
                return fork_exec(*args)
            finally:
                span.end = time.perf_counter()

        return timed

    def begin(self) -> None:
        """Forget what was."""
        for spans in self.spans.values():
            spans.clear()

    def told(self) -> dict[str, dict[str, float]]:
        """Return how often each was, milliseconds of the longest, and of all together."""
        took = {
            what: [span.end - span.begin for span in spans if span.end < math.inf] for what, spans in self.spans.items()
        }
        return {
            what: {"times": len(each), "longest": max(each, default=0.0) * 1000, "all": sum(each) * 1000}
            for what, each in took.items()
        }

    @classmethod
    def within(cls, begin: float, end: float) -> dict[str, float]:
        """Return the seconds of each in which this thread was held up in a span of time."""
        concerned = (None, threading.get_ident())
        shares = {
            what: sum(
                max(0.0, min(end, span.end) - max(begin, span.begin))
                for span in spans[-100:]
                if span.thread in concerned
            )
            for what, spans in cls.spans.items()
        }
        return {what: share for what, share in shares.items() if share}


class Turns:
    """All turns of all asyncio loops of this process, from now on."""

    def __init__(self) -> None:
        self._loops: dict[str, _Loop] = {}
        self._waits = _Waits()
        events: Any = asyncio.events.Handle
        base: Any = asyncio.base_events.BaseEventLoop
        run, once = events._run, base._run_once

        def measured(handle: Any) -> None:
            loop = self._loops.get(threading.current_thread().name)
            owner, name = _whose(handle._callback)
            began = time.thread_time()
            run(handle)
            if loop is not None:
                loop.ran(time.thread_time() - began, owner, name)

        def first_turn(loop: Any) -> None:
            if "select" not in vars(loop._selector):
                self._follow(loop)
            once(loop)

        events._run, base._run_once = measured, first_turn

    def _follow(self, loop: Any) -> None:
        thread, select = threading.current_thread(), loop._selector.select
        schedstat = os.open(f"/proc/self/task/{thread.native_id}/schedstat", os.O_RDONLY)
        known = _Loop(thread.name, schedstat, self._waits)
        self._loops[thread.name] = known

        def look(timeout: float | None = None) -> Any:
            known.ends()
            events = select(timeout)
            known.begins()
            return events

        loop._selector.select = look

    def begin(self) -> None:
        """Forget what was."""
        self._waits.follow_all()
        for loop in self._loops.values():
            loop.forget()

    def told(self) -> dict[str, dict[str, Any]]:
        """Return what there was, by thread.

        Left out are clients, which have no names of their own, and the loop that is there to stand still while a
        program begins.
        """
        left_out = ("Thread-", "slurm-provisioner-programs")
        return {name: loop.told() for name, loop in self._loops.items() if not name.startswith(left_out)}


def _whose(callback: Any) -> tuple[str, str]:
    """Return who made a callback, and its name: for a task, the innermost coroutine of somebody's."""
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        function = getattr(callback, "func", callback)
        module = getattr(function, "__module__", None) or type(task).__module__
        if module.startswith("zmq"):  # nothing else of a server has sockets of zmq on a loop
            return CLIENT, module
        return _OWNERS.get(module.partition(".")[0], module), getattr(function, "__qualname__", repr(function))
    found = ("asyncio", task.get_name())
    inner: Any = task.get_coro()
    while (code := getattr(inner, "cr_code", None)) is not None:
        if code.co_name == "first_result":
            return CLIENT, code.co_name
        parts = code.co_filename.split("/")
        owner = next((owner for name, owner in _OWNERS.items() if name in parts), "")
        owner = owner or ("the bench" if code.co_filename.startswith(_HERE) else "")
        found = (owner, code.co_qualname if hasattr(code, "co_qualname") else code.co_name) if owner else found
        inner = inner.cr_await
    return found
