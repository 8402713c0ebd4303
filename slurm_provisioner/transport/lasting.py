"""A connection that is made when it is needed, shared by all who need it, and made again after it was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import HostUnreachableError, LoginHostError, LoginRefusedError
from .connection import Connection

__all__ = ["Lasting"]

log = logging.getLogger("slurm_provisioner")
T = TypeVar("T")

#: Seconds until a host that could not be reached is tried again unasked: first, and at most.
RETRY_FIRST, RETRY_LAST = 1.0, 10.0
#: The same for a host that did not let us in: a few more tries, and it may take us for an intruder.
RETRY_REFUSED = 300.0


class Lasting:
    """A connection over all its breaks.

    Parameters
    ----------
    name : str
        Of the host, for the log.
    make : callable
        Makes the connection.
    find : callable
        Returns one that the user has made, or None; asked for in between, where we are not let in.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Awaitable[Connection]],
        find: Callable[[], Awaitable[Connection | None]] | None = None,
    ) -> None:
        self._name = name
        self._make = make
        self._find = find or _nothing
        self._now: Connection | None = None
        self._making: asyncio.Task[Connection] | None = None
        self._pause = RETRY_FIRST
        self._not_before = self._no_look_before = 0.0
        self._trouble: LoginHostError | None = None
        self._told = self._closed = self._looking = False
        self._closing: set[asyncio.Task[None]] = set()

    async def get(self, *, wanted: bool = False) -> Connection:
        """Return the connection.

        Parameters
        ----------
        wanted : bool
            Whether somebody waits for it: then it is tried at once, however often that failed.

        Raises
        ------
        LoginHostError
            There is none, and none could be made.
        """
        if self._closed:
            raise HostUnreachableError(f"The connection to {self._name} is not wanted any more.", host=self._name)
        if self._now is not None and self._now.lost.is_set():
            self.drop(self._now)
        if self._now is not None:
            return self._now
        if wanted and self._looking and self._making is not None and not self._making.done():
            await asyncio.wait([self._making])
            return await self.get(wanted=True)
        if self._making is None:
            now = asyncio.get_running_loop().time()
            early = self._trouble is not None and not wanted and now < self._not_before
            if early and now < self._no_look_before:
                assert self._trouble is not None, "or it would not be early"
                raise self._trouble.with_traceback(None)
            self._looking = early
            self._making = asyncio.ensure_future(self._look() if early else self._connect())
            self._making.add_done_callback(self._made)
        return await asyncio.shield(self._making)

    @property
    def now(self) -> Connection | None:
        """The connection, if there is one."""
        return self._now

    def drop(self, connection: Connection) -> None:
        """Close a connection that is of no use any more."""
        if connection is not self._now:
            return
        self._now = None
        log.warning("The connection to %s was lost; it is made again when it is needed.", self._name)
        self._told = True
        task = asyncio.ensure_future(connection.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close it for good."""
        self._closed = True
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        now, self._now = self._now, None
        if now is not None:
            await now.aclose()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _connect(self) -> Connection:
        try:
            connection = await _only_these_errors(self._name, self._make())
        except LoginHostError as error:
            self._trouble = error
            pause = RETRY_REFUSED if isinstance(error, LoginRefusedError) else self._pause
            self._not_before = asyncio.get_running_loop().time() + pause
            self._pause = min(2 * self._pause, RETRY_LAST)
            self._no_look_before = asyncio.get_running_loop().time() + self._pause
            raise
        return self._have(connection)

    async def _look(self) -> Connection:
        assert self._trouble is not None, "or it would be made"
        self._no_look_before = asyncio.get_running_loop().time() + RETRY_LAST
        if (connection := await _only_these_errors(self._name, self._find())) is None:
            raise self._trouble.with_traceback(None)
        return self._have(connection)

    def _have(self, connection: Connection) -> Connection:
        self._trouble, self._pause, self._now = None, RETRY_FIRST, connection
        if self._told:
            log.warning("The connection to %s is back.", self._name)
            self._told = False
        return connection

    def _made(self, task: asyncio.Task[Connection]) -> None:
        self._making = None
        if not task.cancelled():
            task.exception()  # whoever waits for it hears of it; there may be nobody any more


async def _only_these_errors(name: str, made: Awaitable[T]) -> T:
    """Have whatever goes wrong told as what everybody expects who needs a connection."""
    try:
        return await made
    except LoginHostError:
        raise
    except Exception as error:
        log.debug("Unexpected error with the connection to %s", name, exc_info=True)
        why = str(error).rstrip(".") or type(error).__name__
        raise HostUnreachableError(f"There is no connection to {name}: {why}.", host=name) from error


async def _nothing() -> None:
    pass
