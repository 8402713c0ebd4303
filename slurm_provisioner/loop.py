"""The event loop that everything long-lived runs on: one daemon thread of our own, and two for what would hold it up.

jupyter_client's blocking managers drive a provisioner with `run_until_complete`, one call at a time, and its
async managers from any loop. A link or a watcher made on such a loop would stop between two calls. So it lives here.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = [
    "LoopThread",
    "background_loop",
    "beside",
    "computed",
    "first",
    "read_pieces",
    "seen",
    "to_the_end",
    "within",
]

T = TypeVar("T")

#: Seconds that the end of the interpreter waits for jobs to be given back.
EXIT_TIMEOUT = 10.0
#: Seconds that a caller's loop may stand still before its call counts as abandoned.
ABANDONED_AFTER = 3.0
#: Seconds that who is cancelled waits for the clean-up of what went on beside the loop.
CLEAN_UP = 3.0
#: Bytes that a connection is read by. For asyncio's 256 KiB, the C library maps memory and gives it back, each time.
READ_BYTES = 2**16


class LoopThread:
    """An asyncio event loop in a daemon thread, another loop for what may stand still, and a thread for what computes.

    Closers registered with `at_exit` run on the loop when the interpreter ends, together at most `EXIT_TIMEOUT`
    seconds.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        #: See `beside`.
        self.programs = asyncio.new_event_loop()
        #: See `computed`.
        self.computing = concurrent.futures.ThreadPoolExecutor(1, "slurm-provisioner-computing")
        self._closers: dict[object, Callable[[], Awaitable[None]]] = {}
        self._calls: dict[asyncio.Task[Any], list[concurrent.futures.Future[Any]]] = {}
        self._thread = _start(self.loop, "slurm-provisioner")
        self._other = _start(self.programs, "slurm-provisioner-programs")
        atexit.register(self.close)

    async def run(self, coro: Coroutine[Any, Any, T], *, undo: Callable[[], None] | None = None) -> T:
        """Run a coroutine on this loop and await its result from any other loop.

        Cancelling the caller cancels the coroutine; its own clean-up then goes on here, whatever the caller's loop
        does.

        Parameters
        ----------
        coro : coroutine
            What to run.
        undo : callable, optional
            Where given, the coroutine is cancelled, too, when the caller's loop stands still for `ABANDONED_AFTER`:
            Ctrl-C in a blocking call raises KeyboardInterrupt out of the loop, and tells the coroutines on it nothing.
            It is called if that is seen only after a good end.
        """
        future = self.submit(coro if undo is None else _unless_abandoned(coro, asyncio.get_running_loop(), undo))
        try:
            return await asyncio.wrap_future(future)
        except BaseException:
            future.cancel()
            raise

    def submit(self, coro: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine on this loop, from any thread."""
        future: list[concurrent.futures.Future[Any]] = []
        future.append(asyncio.run_coroutine_threadsafe(self._call(coro, future), self.loop))
        return future[0]

    async def _call(self, coro: Coroutine[Any, Any, T], future: list[concurrent.futures.Future[Any]]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._calls[task] = future
        try:
            return await coro
        finally:
            del self._calls[task]

    def at_exit(self, owner: object, closer: Callable[[], Awaitable[None]]) -> None:
        """Have `closer` awaited at the end of the interpreter, unless `forget(owner)` came first."""
        self._closers[owner] = closer

    def forget(self, owner: object) -> None:
        """Take `owner`'s closer off."""
        self._closers.pop(owner, None)

    def close(self) -> None:
        """Run the closers and stop the loop. Idempotent; called at the end of the interpreter."""
        atexit.unregister(self.close)
        self.computing.shutdown(wait=False)
        if not self._thread.is_alive():
            return
        with suppress(concurrent.futures.TimeoutError):  # leases end what could not be given back in time
            self.submit(self._close()).result(EXIT_TIMEOUT + 1)
            asyncio.run_coroutine_threadsafe(_end_others(), self.programs).result(EXIT_TIMEOUT)
        for loop, thread in ((self.loop, self._thread), (self.programs, self._other)):
            loop.call_soon_threadsafe(loop.stop)
            thread.join(EXIT_TIMEOUT)
            if not thread.is_alive():
                loop.close()

    async def _close(self) -> None:
        closers = [asyncio.ensure_future(_quietly(closer())) for closer in self._closers.values()]
        # What is cancelled once more does not clean up any more
        ending = [task for task, future in self._calls.items() if future and future[0].cancelled()]
        if closers or ending:
            await asyncio.wait([*closers, *ending], timeout=EXIT_TIMEOUT)
        await _end_others()


def _start(loop: asyncio.AbstractEventLoop, name: str) -> threading.Thread:
    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


async def _end_others() -> None:
    """Cancel all that goes on on this loop, and see it end."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=1)


async def _quietly(awaitable: Awaitable[None]) -> None:
    with suppress(Exception):  # the interpreter is ending: nobody is left to tell
        await awaitable


async def _unless_abandoned(
    coro: Coroutine[Any, Any, T], caller: asyncio.AbstractEventLoop, undo: Callable[[], None]
) -> T:
    task = asyncio.ensure_future(coro)
    try:
        while not task.done():
            beat = asyncio.ensure_future(_stands_still(caller))
            await asyncio.wait([task, beat], return_when=asyncio.FIRST_COMPLETED)
            if beat.done() and beat.result():
                task.cancel()
                break
            beat.cancel()
            await asyncio.wait([task], timeout=ABANDONED_AFTER)
        result = await task
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
    if await _stands_still(caller):
        undo()
    return result


async def _stands_still(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether another loop does nothing for `ABANDONED_AFTER`, though it is not busy."""
    alive = asyncio.Event()
    with suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(_beat, asyncio.get_running_loop(), alive)
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(alive.wait(), ABANDONED_AFTER)
    return not alive.is_set() and not loop.is_running()


def _beat(loop: asyncio.AbstractEventLoop, alive: asyncio.Event) -> None:
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(alive.set)


async def first(*events: asyncio.Event, timeout: float | None = None) -> None:
    """Wait until one of some events is set, or until the time is over: `timeout` in seconds, None for none."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def within(seconds: float, coro: Coroutine[Any, Any, T], undo: Callable[[T], object]) -> T:
    """Await something for a time, and undo what was done where we are cancelled meanwhile.

    `asyncio.wait_for` misses that it was cancelled where the end comes at the same time (before Python 3.12).

    Raises
    ------
    asyncio.TimeoutError
        The time is over.
    """
    task = asyncio.ensure_future(coro)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await _undone(task, undo)
        raise
    if not done:
        await _undone(task, undo)
        raise asyncio.TimeoutError
    return task.result()


async def _undone(task: asyncio.Future[T], undo: Callable[[T], object]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        undo(task.result())


def seen(future: asyncio.Future[Any]) -> None:
    """Take a failure as known, though nobody may wait for it any more: asyncio complains of others."""
    if not future.cancelled():
        future.exception()


async def to_the_end(coro: Coroutine[Any, Any, T]) -> T:
    """Await something to its end even if we are cancelled meanwhile, and be cancelled only then."""
    task = asyncio.ensure_future(coro)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.done():
                raise
            cancelled = error
    if cancelled is not None:
        seen(task)  # being cancelled is what the caller hears of
        raise cancelled
    return task.result()


_lock = threading.Lock()
_current: LoopThread | None = None


def background_loop() -> LoopThread:
    """Return the process's loop thread, started on first use."""
    global _current  # noqa: PLW0603
    with _lock:
        if _current is None or not _current._thread.is_alive():  # noqa: SLF001
            _current = LoopThread()
        return _current


def _forget_after_fork() -> None:
    global _current, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    if _current is not None:
        atexit.unregister(_current.close)
    _current = None


os.register_at_fork(after_in_child=_forget_after_fork)


async def computed(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that computes for milliseconds or more in a thread that is there for that, one call at a time.

    With several such threads, loops would wait for the interpreter behind all of them, 5 ms each
    (`sys.setswitchinterval`).
    """
    return await asyncio.get_running_loop().run_in_executor(background_loop().computing, function, *arguments)


async def beside(coro: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine on a loop that may stand still, as one does that starts a program.

    The thread that starts one waits until it has begun (vfork(2)): for a core, or for the file system where it is.
    Before Python 3.12, other threads do as well (https://github.com/python/cpython/issues/104372).

    Who is cancelled waits for the coroutine's clean-up, for `CLEAN_UP` at most.
    """
    here, there = asyncio.get_running_loop(), background_loop().programs
    over: asyncio.Future[asyncio.Task[T]] = here.create_future()
    tasks: list[asyncio.Task[T]] = []

    def begin() -> None:
        tasks.append(there.create_task(coro))
        tasks[0].add_done_callback(end)

    def give_up() -> None:
        tasks[0].cancel()

    def end(task: asyncio.Task[T]) -> None:
        seen(task)
        with suppress(RuntimeError):  # that loop is closed
            here.call_soon_threadsafe(over.set_result, task)

    there.call_soon_threadsafe(begin)
    try:
        task = await asyncio.shield(over)
    except asyncio.CancelledError:
        there.call_soon_threadsafe(give_up)
        await asyncio.wait([over], timeout=CLEAN_UP)
        raise
    return task.result()


def read_pieces(transport: asyncio.BaseTransport) -> None:
    """Have a socket be read by `READ_BYTES`, which saves up to 0.1 ms each time (asyncio's own transports)."""
    if hasattr(transport, "max_size"):
        transport.max_size = READ_BYTES
