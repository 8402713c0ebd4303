"""Whose turn it is to have a session of a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Sessions"]

#: Sessions for commands at a time; sshd allows 10 unless the site says otherwise (MaxSessions).
MOST = 8


class Sessions:
    """Lets as many in as the other side does, which is found out."""

    def __init__(self) -> None:
        self._most = MOST
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until another session may be opened, and have it counted."""
        while self._open >= self._most:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._next()

    def refused(self) -> bool:
        """Take note that the other side wanted no more; return whether it may when another session has ended."""
        self._most = max(1, min(self._most, self._open - 1))
        return self._open > 1

    def begin_anew(self) -> None:
        """Forget what the other side of a former connection wanted."""
        self._most = MOST
        self._next()

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
