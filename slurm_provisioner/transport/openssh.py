"""SSH connections made by the ``ssh`` program, which knows every way to log in, with its ControlMaster.

One master holds the connection: the user's own where there is one, else one of ours, which ends by itself soon after
this process. All that is done goes through its socket. Sources: ssh(1), ssh_config(5).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import LoginHostError
from ..folder import PrivateFolder
from ..login_host import LoginHost, NodeHost
from ..loop import seen, to_the_end
from . import Node
from . import login as words
from .children import end
from .connection import ALIVE_COUNT, ALIVE_INTERVAL, CONNECT_TIMEOUT, Process, SessionRefusedError

__all__ = ["Connection", "connect", "find"]

#: Seconds for what the master does without asking the other side, and for a command of ours to be gone.
LOCAL_TIMEOUT = 10.0
#: Seconds that a master of ours is kept when nothing goes through it: it outlives a process that was killed so long.
MASTER_REST = 60
#: Characters that ssh adds to the path of a master's socket while it makes it, and our name of it.
_ROOM = 24

_MASTER = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "ControlPersist": str(MASTER_REST),
    "ServerAliveInterval": str(ALIVE_INTERVAL),
    "ServerAliveCountMax": str(ALIVE_COUNT),
    "ConnectTimeout": f"{CONNECT_TIMEOUT:g}",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "StreamLocalBindMask": "0177",
}
#: What ssh says of a connection that what it leads through has ended.
_UNSAID = "UNKNOWN port"
# With a master there is nothing more to configure; without one, ssh must not connect by itself.
_GUEST = ["-F", "none", "-o", "BatchMode=yes", "-o", "ProxyCommand=false"]


async def connect(login: LoginHost) -> Connection:
    """Return the user's own connection to a login host, or a new one.

    Raises
    ------
    LoginHostError
        It cannot be used.
    """
    if (found := await find(login)) is not None:
        return found
    folder = PrivateFolder(room=_ROOM)
    path = f"{folder.path}/ssh"
    connection = Connection(login, path, folder, ours=True)
    try:
        await _start_master(login, path, {})
    except BaseException:
        await to_the_end(connection.aclose())  # the master may have gone to the background before we gave it up
        raise
    return connection


async def find(login: LoginHost) -> Connection | None:
    """Return the user's own connection to a login host, if there is one. The host hears nothing of it."""
    path = await _find_master(login)
    return None if path is None else Connection(login, path, PrivateFolder(room=_ROOM), ours=False)


async def _find_master(login: LoginHost) -> str | None:
    """Return the socket of a connection that the user has opened."""
    for given in [["-S", login.control_path]] if login.control_path else [[], ["-S", words.CONTROL_PATH]]:
        code, _, _ = await _ssh(login, [*_options(login), *given, "-O", "check", login.address])
        if code == 0:
            return await _setting(login, "controlpath", *given) or None
    return None


async def _setting(login: LoginHost, name: str, *options: str) -> str:
    """Return what the configuration says of something; "" if it says nothing."""
    _, told, _ = await _ssh(login, [*_options(login), *options, "-G", login.address])
    match = re.search(f"^{name} (.+)$", told, re.MULTILINE)
    return match[1] if match else ""


async def _start_master(login: LoginHost, path: str, options: Mapping[str, str]) -> None:
    settings = [part for name, value in {**options, **_MASTER}.items() for part in ("-o", f"{name}={value}")]
    argv = [*_options(login), "-fNMTax", "-S", path.replace("%", "%%"), *settings, login.address]
    code, _, stderr = await _ssh(login, argv, 2 * CONNECT_TIMEOUT)
    if code is None:
        raise words.unreachable(login, f"no answer within {2 * CONNECT_TIMEOUT:g} s")
    if code != 0 and _UNSAID in stderr:  # a master that is to persist has its ProxyJump be silent
        loud = [*_options(login), "-Tax", "-o", "ControlPersist=no", *settings, "-S", "none", login.address, "true"]
        again, _, said = await _ssh(login, loud, 2 * CONNECT_TIMEOUT)
        stderr = said if again else stderr
    if code != 0:
        raise words.from_stderr(login, stderr, await _locked(login))


async def _locked(login: LoginHost) -> list[str]:
    _, told, _ = await _ssh(login, [*_options(login), "-G", login.address])
    return await asyncio.to_thread(words.locked_keys, re.findall("^identityfile (.+)$", told, re.MULTILINE))


def _options(login: LoginHost) -> list[str]:
    config = ["-F", _expanded(login.config)] if login.config else []
    return [*config, *(["-p", str(login.port)] if login.port else [])]


def _expanded(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111  (a name without a folder stays one)


async def _ssh(login: LoginHost, argv: Sequence[str], timeout: float = LOCAL_TIMEOUT) -> tuple[int | None, str, str]:
    """Run the program to its end; return exit code, None if there was none in time, output and complaints."""
    process = await _spawn(login, argv, asyncio.subprocess.DEVNULL)
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), timeout)
    except asyncio.TimeoutError:
        return None, "", ""
    finally:
        await end(process, LOCAL_TIMEOUT)
    return process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")


async def _spawn(login: LoginHost, argv: Sequence[str], stdin: int) -> asyncio.subprocess.Process:
    program = _expanded(login.program)
    try:
        return await asyncio.create_subprocess_exec(
            program,
            *argv,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "SSH_ASKPASS_REQUIRE": "never", "LC_ALL": "C"},
            start_new_session=True,
        )
    except (OSError, RuntimeError) as error:  # there is no such program, or no process or thread left to be had
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise LoginHostError(
            f"The program {login.program} cannot be run: {why}.",
            host=login.host,
            hint='Install OpenSSH\'s client, set `program`, or use "transport": "asyncssh".',
        ) from error


class Connection:
    """The connection of a master.

    Parameters
    ----------
    login : LoginHost
        Where it goes.
    path : str
        The master's socket.
    folder : PrivateFolder
        For our own sockets; removed at the end.
    ours : bool
        Whether we started the master.
    """

    def __init__(self, login: LoginHost, path: str, folder: PrivateFolder, *, ours: bool) -> None:
        #: Where it goes.
        self.login = login
        self._master = [*_GUEST, "-S", path.replace("%", "%%")]
        self._folder = folder
        self._ours = ours
        if ours:
            folder.if_we_die([_expanded(login.program), *self._master, "-O", "exit", login.host])
        self._numbers = itertools.count(1)
        self._routes: set[_Route] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Set once it is no more, which is noticed when it is used.
        self.lost = asyncio.Event()

    async def execute(self, command: str) -> Process:
        """Start a command in a session of its own."""
        argv = [*self._master, "-Tax", self.login.host, command]
        return _Process(self, await _spawn(self.login, argv, asyncio.subprocess.PIPE))

    def route(self, host: str, port: int) -> _Route:
        """Return the way from there to a port."""
        route = _Route(self, f"{self._folder.path}/f-{next(self._numbers)}", host, port)
        self._routes.add(route)
        return route

    async def hop(self, node: Node) -> Connection:
        """Connect to a node by way of this connection."""
        there = NodeHost.behind(self.login, node.name)
        folder = PrivateFolder(room=_ROOM)
        path = f"{folder.path}/ssh"
        connection = Connection(there, path, folder, ours=True)
        try:
            through = [self.login.program, *self._master, "-W", "[%h]:%p", self.login.host]
            options = {"ProxyCommand": " ".join(map(shlex.quote, through))}
            if there.user is None:  # the same as there, whoever that is by the configuration
                options["User"] = await _setting(self.login, "user")
            if node.host_keys:
                known_hosts = Path(folder.path) / "known_hosts"
                lines = "".join(f"{node.name} {key}\n" for key in node.host_keys)
                await asyncio.to_thread(known_hosts.write_text, lines)
                options |= {
                    "UserKnownHostsFile": str(known_hosts),
                    "GlobalKnownHostsFile": "/dev/null",
                    "HostKeyAlias": node.name,
                    "VerifyHostKeyDNS": "no",
                    "IgnoreUnknown": "KnownHostsCommand",  # as the next one is to older programs
                    "KnownHostsCommand": "none",
                }
            await _start_master(there, path, options)
        except BaseException as error:
            await to_the_end(connection.aclose())
            if isinstance(error, LoginHostError):
                await self.alive()  # it may be this connection that is gone, which nothing else tells of
            raise
        return connection

    async def control(self, *words: str, timeout: float = LOCAL_TIMEOUT) -> tuple[int | None, str]:
        """Have the master do something; return an exit code and what was complained of."""
        code, _, stderr = await _ssh(self.login, [*self._master, *words, self.login.host], timeout)
        return code, stderr

    async def alive(self) -> bool:
        """Look whether the master is there; note if it is not."""
        code, _ = await self.control("-O", "check")
        if code != 0:
            self.lost.set()
        return code == 0

    def forget(self, route: _Route, *words: str) -> None:
        """Have the master give up what it did for a route."""
        self._routes.discard(route)
        if words and not self.lost.is_set():
            task = asyncio.ensure_future(self._give_up(words))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _give_up(self, words: Sequence[str]) -> None:
        with contextlib.suppress(LoginHostError):
            await self.control(*words)

    async def aclose(self) -> None:
        """Close it, unless it is the user's."""
        self.lost.set()
        try:
            if self._ours:
                await self._give_up(["-O", "exit"])
            else:
                while self._routes:
                    await self._give_up(self._routes.pop().undoing)
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            self._folder.remove()


class _Process:
    """A command, by way of the process that speaks with the master."""

    def __init__(self, connection: Connection, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._connection = connection
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr

    async def write(self, data: bytes) -> None:
        self._stdin.write(data)
        await self._stdin.drain()

    def write_eof(self) -> None:
        self._stdin.write_eof()

    async def read_stdout(self) -> bytes:
        return await self._stdout.read(2**16)

    async def read_stderr(self) -> bytes:
        return await self._stderr.read(2**16)

    async def trouble(self, said: str) -> OSError | None:
        if not await self._connection.alive():
            lines = [line.strip() for line in said.splitlines() if line.strip() and _UNSAID not in line]
            return words.lost(self._connection.login, lines[-1].rstrip(".") if lines else "")
        if "refused by peer" in said:
            return SessionRefusedError(said.strip())
        return None

    async def aclose(self) -> None:
        self._stdin.close()
        await end(self._process, LOCAL_TIMEOUT)


class _Route:
    """The way through the master to a port: a socket of its own in our private folder."""

    def __init__(self, connection: Connection, path: str, host: str, port: int) -> None:
        self._connection = connection
        self._path = path
        self._host, self._port = host, port
        self._made: asyncio.Task[None] | None = None

    @property
    def _forward(self) -> list[str]:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return ["-L", f"{self._path}:{host}:{self._port}"]

    @property
    def undoing(self) -> list[str]:
        """What the master is to do at the end."""
        return ["-O", "cancel", *self._forward]

    async def connect(self) -> socket.socket:
        if self._made is None or (self._made.done() and (self._made.cancelled() or self._made.exception() is not None)):
            self._made = asyncio.ensure_future(self._make())
            self._made.add_done_callback(seen)  # whoever still waits for it hears of it
        await asyncio.shield(self._made)
        near = socket.socket(socket.AF_UNIX)
        try:
            near.setblocking(False)
            await asyncio.get_running_loop().sock_connect(near, self._path)
        except OSError:
            near.close()
            await self._connection.alive()
            raise
        except BaseException:
            near.close()
            raise
        return near

    async def _make(self) -> None:
        # The master says nothing of a connection that it cannot make, so the way is tried first.
        host = f"[{self._host}]" if ":" in self._host else self._host
        code, _ = await self._connection.control("-W", f"{host}:{self._port}", timeout=CONNECT_TIMEOUT)
        if code == 0:
            code, _ = await self._connection.control("-O", "forward", *self._forward)
        if code != 0:
            await self._connection.alive()
            raise ConnectionRefusedError(f"the {self._connection.login.role} could not connect to it")

    def close(self) -> None:
        """Take the socket away again."""
        made = self._made is not None and self._made.done() and not self._made.cancelled()
        if self._made is not None and not self._made.done():
            self._made.cancel()
        self._connection.forget(self, *(self.undoing if made else ()))
