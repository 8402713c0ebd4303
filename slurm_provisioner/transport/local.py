"""The transport of a login node: commands are processes, streams are TCP connections."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from ..environment import clean_environment
from ..errors import CommandError, CommandNotFoundError
from ..guard import guard
from ..loop import beside, within
from ..processes import this_machine
from . import Account, Completed, Node, Route, too_slow
from .children import end
from .scout import Scouts

__all__ = ["LocalTransport"]

#: Seconds for a killed command to be gone.
KILL_TIMEOUT = 2.0

# As the supervisor does on its side: silence and pauses in seconds, probes, milliseconds unanswered.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 75_000}


class LocalTransport:
    """Commands and connections made by this process itself."""

    def __init__(self) -> None:
        self._scouts = Scouts()

    async def account(self) -> Account:
        """Return who runs this process, and where."""
        return Account(getpass.getuser(), str(Path.home()), this_machine())

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command as a process of its own session, so that a Ctrl-C in the terminal does not reach it."""
        try:
            return await within(timeout, beside(_run(argv, stdin)), lambda _: None)
        except asyncio.TimeoutError as error:
            raise too_slow(argv, timeout) from error

    def news(self, directory: str, names: Sequence[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """Look again and again, in a worker thread: a hanging file system must not stop the loop."""
        return self._scouts.news(directory, names)

    def route(self, node: Node, host: str, port: int) -> Route:  # noqa: ARG002  (the network knows the way)
        """Return the way by TCP, whatever address family the host has."""
        return _Route(host, port)

    def if_we_die(self, *argvs: Sequence[str]) -> Callable[[], None]:
        """Leave it to the guard of this process."""
        return guard.add(*argvs)

    async def aclose(self) -> None:
        """Nothing is kept between calls."""


async def _run(argv: Sequence[str], stdin: bytes) -> Completed:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(os.environ),
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise CommandNotFoundError(
            f"The command {argv[0]} cannot be run: {error.strerror}.",
            argv=argv,
            hint="Is this a login node of the cluster? Set `slurm_bin` to the folder of Slurm's commands.",
        ) from error
    except (OSError, RuntimeError) as error:  # no process, memory, descriptor or thread left to be had
        raise CommandError(f"{argv[0]} could not be started: {error}.", argv=argv) from error
    try:
        stdout, stderr = await process.communicate(stdin)
    finally:
        await end(process, KILL_TIMEOUT)
    assert process.returncode is not None
    return Completed(
        argv=tuple(argv),
        returncode=process.returncode,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
    )


class _Route:
    """The way by TCP."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port

    async def connect(self) -> socket.socket:
        """Try one address after another."""
        loop = asyncio.get_running_loop()
        last: OSError = OSError(f"{self._address[0]} has no address")
        for family, kind, proto, _, address in await _addresses(*self._address):
            sock = socket.socket(family, kind, proto)
            try:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                _keep_alive(sock)
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise last

    def close(self) -> None:
        """Nothing is kept."""


async def _addresses(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    try:  # most nodes tell a number, which takes no name server and no thread
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    try:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except RuntimeError as error:  # the interpreter is ending: there are no threads any more
        raise OSError(str(error)) from error


def _keep_alive(sock: socket.socket) -> None:
    """Have TCP notice within about a minute that the other host is gone: some channels only ever receive."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if (option := getattr(socket, name, None)) is not None:  # Linux has them all
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
