"""Looks out for files of the cluster: one command there for all who wait, over all breaks of the connection."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import remote
from .connection import Process

__all__ = ["Lookout"]

log = logging.getLogger("slurm_provisioner")

#: Seconds until the command is started again: first, and at most.
RETRY_FIRST, RETRY_LAST = 0.5, 10.0


@dataclass
class _Watch:
    folder: str
    names: Sequence[str]
    news: asyncio.Queue[tuple[str, bytes]] = field(default_factory=asyncio.Queue)
    told: dict[str, bytes] = field(default_factory=dict)


class Lookout:
    """Runs while somebody waits for a file.

    Parameters
    ----------
    start : callable
        Starts the command of `remote.LOOKOUT`; returns it, and its reply, which has not begun.
    """

    def __init__(self, start: Callable[[], Awaitable[tuple[Process, remote.Reply]]]) -> None:
        self._start = start
        self._keys = itertools.count(1)
        self._watches: dict[int, _Watch] = {}
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def news(self, folder: str, names: Sequence[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """Tell of files as `Transport.news` does."""
        key, watch = next(self._keys), _Watch(folder, names)
        self._watches[key] = watch
        if self._keeper is None:
            self._keeper = self._spawn(self._keep())
        self._say(remote.watch_line(key, folder, names))
        try:
            while True:
                yield await watch.news.get()
        finally:
            del self._watches[key]
            if self._watches:
                self._say(remote.drop_line(key))
            else:
                self._end()

    async def aclose(self) -> None:
        """End the command."""
        self._end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self) -> None:
        keeper, self._keeper, self._process = self._keeper, None, None
        if keeper is not None:
            keeper.cancel()

    def _say(self, *lines: bytes) -> None:
        """Tell the command, if it runs; it is told all when it starts."""
        if self._process is not None:
            self._spawn(_write(self._process, b"".join(lines)))

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(coro)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Unexpected error while looking out for files", exc_info=error)
            if task is self._keeper:  # whoever waits next is to have another one
                self._keeper = None

    async def _keep(self) -> None:
        pause = RETRY_FIRST
        while True:
            with contextlib.suppress(OSError):
                process, reply = await self._start()
                try:
                    await self._listen(process, reply)
                    await process.trouble(reply.noise)  # a connection that is no more is to be noticed
                finally:
                    if self._process is process:
                        self._process = None
                    await process.aclose()
                if reply.stdout.begun:
                    pause = RETRY_FIRST
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_LAST)

    async def _listen(self, process: Process, reply: remote.Reply) -> None:
        self._process = process
        self._say(*(remote.watch_line(key, watch.folder, watch.names) for key, watch in self._watches.items()))
        complaints = asyncio.ensure_future(_drain(process))
        try:
            while not reply.stdout.ended and (data := await process.read_stdout()):
                reply.stdout.take(data)
                for line in reply.stdout.lines():
                    self._hear(line)
        finally:
            complaints.cancel()
            await asyncio.gather(complaints, return_exceptions=True)

    def _hear(self, line: bytes) -> None:
        told = remote.read_news(line)
        if told is None or told[0] not in self._watches:
            return
        key, number, content = told
        watch = self._watches[key]
        name = watch.names[number]
        if watch.told.get(name) != content:
            watch.told[name] = content
            watch.news.put_nowait((name, content))


async def _write(process: Process, data: bytes) -> None:
    with contextlib.suppress(OSError):  # a connection that broke: whoever reads notices
        await process.write(data)


async def _drain(process: Process) -> None:
    with contextlib.suppress(OSError):
        while await process.read_stderr():
            pass
