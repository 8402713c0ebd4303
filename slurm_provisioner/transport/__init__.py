"""How commands and byte streams reach a cluster: one small seam, implemented by `local` and `ssh`."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import CommandTimeoutError

__all__ = ["Account", "Completed", "Node", "Route", "Transport", "too_slow"]


@dataclass(frozen=True)
class Account:
    """A user of the cluster.

    Attributes
    ----------
    user : str
        The login name.
    home : str
        The home directory, absolute.
    machine : str
        What submits: its boot and the network that it sees, as by `processes.this_machine`; "" if that is not known.
    """

    user: str
    home: str
    machine: str = ""


@dataclass(frozen=True)
class Completed:
    """A command that ended.

    Attributes
    ----------
    argv : tuple of str
        The command.
    returncode : int
        Its exit code. Where a signal ended it: its number, negative, or by SSH with 128 added, as shells tell it.
    stdout, stderr : str
        Its output, decoded as UTF-8 with undecodable bytes replaced.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Node:
    """A compute node.

    Attributes
    ----------
    name : str
        Slurm's name of it.
    host_keys : tuple of str
        The public keys of its SSH server, one line each, as a job of ours on it has read them.
    """

    name: str
    host_keys: tuple[str, ...] = ()


class Route(Protocol):
    """The way to one port of a compute node."""

    async def connect(self) -> socket.socket:
        """Return a connected, non-blocking stream socket that carries bytes to that port.

        Raises
        ------
        OSError
            It cannot be reached.
        """

    def close(self) -> None:
        """Give up what the way was made of; connections that are open may end."""


class Transport(Protocol):
    """The way to a cluster. Every method may be called by many tasks at once, on the background loop."""

    async def account(self) -> Account:
        """Return who the user is on the cluster, and on which machine."""

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

    def news(self, directory: str, names: Sequence[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """Tell, however long that takes, what is written to some small files: name and content, each time it changes.

        Parameters
        ----------
        directory : str
            Their folder, which may not be there yet.
        names : sequence of str
            Their names. An empty file is no news.
        """

    def route(self, node: Node, host: str, port: int) -> Route:
        """Return the way to a port of a compute node; close it when done.

        Parameters
        ----------
        node : Node
            The node.
        host, port
            Where it listens, as seen from the cluster.
        """

    def if_we_die(self, *argvs: Sequence[str]) -> Callable[[], None]:
        """Have commands run there if this process dies without a word; return what takes them off again."""

    async def aclose(self) -> None:
        """Release everything."""


def too_slow(argv: Sequence[str], timeout: float) -> CommandTimeoutError:
    """Return the error of a command that took longer than it may."""
    return CommandTimeoutError(
        f"{argv[0]} did not answer within {timeout:g} s.",
        argv=argv,
        hint="The controller may be busy or down; `scontrol ping` tells.",
    )
