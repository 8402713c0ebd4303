"""What the two kinds of SSH connections have in common."""

from __future__ import annotations

import asyncio
from typing import Protocol

from . import Node, Route

__all__ = ["ALIVE_COUNT", "ALIVE_INTERVAL", "CONNECT_TIMEOUT", "Connection", "Process", "SessionRefusedError"]

#: Seconds to reach a host, and as many to log in.
CONNECT_TIMEOUT = 20.0
#: Seconds of silence after which the other side is asked for a sign of life, and how often in vain.
ALIVE_INTERVAL, ALIVE_COUNT = 10, 3


class SessionRefusedError(OSError):
    """The other side wants no more sessions of this connection for now (MaxSessions in sshd_config(5))."""


class Process(Protocol):
    """A command on the other side."""

    async def write(self, data: bytes) -> None:
        """Give it something to read, and wait until there is room for more."""

    def write_eof(self) -> None:
        """Give it nothing more to read."""

    async def read_stdout(self) -> bytes:
        """Return some of what it prints; b"" at the end."""

    async def read_stderr(self) -> bytes:
        """Return some of its complaints; b"" at the end."""

    async def trouble(self, said: str) -> OSError | None:
        """Return why it ended without having begun, after it said that; None if it is not the connection's fault."""

    async def aclose(self) -> None:
        """Have nothing more to do with it."""


class Connection(Protocol):
    """A connection, for as long as it lasts."""

    lost: asyncio.Event

    async def execute(self, command: str) -> Process:
        """Start a command line in a session of its own, without a terminal.

        Raises
        ------
        SessionRefusedError
            There are too many at the moment.
        LoginHostError
            The connection is gone.
        """

    def route(self, host: str, port: int) -> Route:
        """Return the way from there to a port."""

    async def hop(self, node: Node) -> Connection:
        """Return a connection to a node, by way of this one."""

    async def aclose(self) -> None:
        """Close it, and what was made of it."""
