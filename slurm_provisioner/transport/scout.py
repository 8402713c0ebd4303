"""Looks for files that appear in folders of this machine: one worker thread for all folders of one place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["Scouts"]

#: Seconds between two looks for a file: quick while somebody waits at the screen, never later than 0.25 s.
FIRST_LOOK, LAST_LOOK, GROWTH = 0.02, 0.25, 1.05
#: Folders whose turn would come within so much of their pause are looked at together.
TOGETHER = 0.3

News = list[tuple[str, bytes]]


class Scouts:
    """Those who look, one for each place: a file system that hangs holds nobody else up.

    They look again and again: shared file systems tell nobody of what another machine has written.
    """

    def __init__(self) -> None:
        self._scouts: dict[Path, _Scout] = {}

    async def news(self, directory: str, names: Sequence[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield the name and content of each file that appears or changes, for ever."""
        place = Path(directory).parent
        scout = self._scouts.setdefault(place, _Scout())
        look = scout.begin(directory, names)
        try:
            while True:
                yield await look.news.get()
        finally:
            if scout.leave(look):
                self._scouts.pop(place, None)


class _Look:
    """A folder that is looked at."""

    def __init__(self, directory: str, names: Sequence[str]) -> None:
        self.directory = directory
        self.known = dict.fromkeys(names, b"")
        self.news: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.pause = FIRST_LOOK
        self.due = asyncio.get_running_loop().time()

    def saw(self, news: News, now: float) -> None:
        """Take what was seen."""
        self.pause = FIRST_LOOK if news else min(self.pause * GROWTH, LAST_LOOK)
        self.due = now + self.pause
        for name, content in news:
            self.known[name] = content
            self.news.put_nowait((name, content))


class _Scout:
    """Looks at folders while there are any."""

    def __init__(self) -> None:
        self._looks: set[_Look] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self, directory: str, names: Sequence[str]) -> _Look:
        """Look at a folder, too."""
        look = _Look(directory, names)
        self._looks.add(look)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._scout())
        return look

    def leave(self, look: _Look) -> bool:
        """Look at it no more; return whether there is none left."""
        self._looks.discard(look)
        if not self._looks and self._task is not None:
            self._task.cancel()
            self._task = None
        return not self._looks

    async def _scout(self) -> None:
        loop = asyncio.get_running_loop()
        while self._looks:
            self._wake.clear()
            now = loop.time()
            pause = min(look.due for look in self._looks) - now
            if pause > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                continue
            due = [look for look in self._looks if look.due - now <= look.pause * TOGETHER]
            try:
                seen = await asyncio.to_thread(_look_at, [(look.directory, look.known) for look in due])
            except RuntimeError:  # no thread is left to be had right now: the limit of a login node
                seen = [[] for _ in due]
            for look, news in zip(due, seen, strict=True):
                look.saw(news, loop.time())


def _look_at(folders: Sequence[tuple[str, Mapping[str, bytes]]]) -> list[News]:
    return [_news(directory, known) for directory, known in folders]


def _news(directory: str, known: Mapping[str, bytes]) -> News:
    # Listing the folder makes an NFS client ask the server; opening a name that it believes missing does not.
    try:
        present = set(os.listdir(directory))  # noqa: PTH208  (names are all that is wanted)
    except OSError:
        return []
    news = []
    for name in known.keys() & present:
        with suppress(OSError):
            content = (Path(directory) / name).read_bytes()
            if content and content != known[name]:
                news.append((name, content))
    return news
