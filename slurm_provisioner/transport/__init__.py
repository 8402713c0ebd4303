"""How commands and byte streams reach a cluster: one small seam, implemented by `local`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Account", "Completed", "Transport"]


@dataclass(frozen=True)
class Account:
    """A user of the cluster.

    Attributes
    ----------
    user : str
        The login name.
    home : str
        The home directory, absolute.
    """

    user: str
    home: str


@dataclass(frozen=True)
class Completed:
    """A command that ended.

    Attributes
    ----------
    argv : tuple of str
        The command.
    returncode : int
        Its exit code, negative for a signal.
    stdout, stderr : str
        Its output, decoded as UTF-8 with undecodable bytes replaced.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class Transport(Protocol):
    """The way to a cluster. Every method may be called by many tasks at once, on the background loop."""

    async def account(self) -> Account:
        """Return who the user is on the cluster."""

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command there, to its end.

        Parameters
        ----------
        argv : sequence of str
            The command; never a shell line.
        stdin : bytes
            What it reads.
        timeout : float
            Seconds it may take.

        Raises
        ------
        CommandNotFoundError
            There is no such program.
        CommandTimeoutError
            It did not end in time; it has been killed.
        """

    async def await_file(self, directory: str, known: Mapping[str, bytes]) -> tuple[str, bytes]:
        """Wait, however long, for news in one of some small files; return its name and content.

        Parameters
        ----------
        directory : str
            Their folder, which may not be there yet.
        known : mapping of str to bytes
            Their names, and what was last read of each. An empty file is no news.
        """

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connected, non-blocking stream socket that carries bytes to `host:port` as seen from the cluster.

        Raises
        ------
        OSError
            It cannot be reached.
        """

    def if_we_die(self, *argvs: Sequence[str]) -> Callable[[], None]:
        """Have commands run there if this process dies without a word; return what takes them off again."""

    async def aclose(self) -> None:
        """Release everything."""
