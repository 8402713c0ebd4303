"""The transport of a machine outside the cluster: commands and streams go through one SSH connection.

A login host lets a connection have some ten sessions at a time (MaxSessions in sshd_config(5)). Commands take turns;
one session looks out for files, for all kernels; streams need none.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import secrets
import socket
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace

from ..errors import CommandNotFoundError, CommandTimeoutError, LoginHostError
from ..guard import guard
from ..login_host import LoginHost
from . import Account, Completed, Node, Route, remote, too_slow
from . import login as words
from .connection import Connection, Process, SessionRefusedError
from .lasting import Lasting
from .lookout import Lookout
from .sessions import Sessions

__all__ = ["SshTransport"]

#: Seconds for the startup files of a login shell, which may ask half the world.
SETTINGS_TIMEOUT = 30.0
#: A connection that was silent for so many seconds is tried before something new is begun, and the seconds for that.
SILENT_AFTER, SIGN_TIMEOUT = 10.0, 5.0
#: Seconds between two looks at the clock, and how many more than that make a sleep.
NAP, SLEPT = 5.0, 10.0
#: Seconds for commands that were given up to be gone there, and until it is tried again whether they are.
GONE_TIMEOUT, SESSION_PAUSE = 5.0, 0.25
#: Seconds that one command looks out for files; then there is another. It may not notice that we are gone.
LOOKOUT_TIME = 3600.0
#: Bytes of a command's input that are sent at a time.
CHUNK = 2**16


class _Hop:
    """The connection to a node, and how many ways lead over it."""

    def __init__(self, lasting: Lasting) -> None:
        self.lasting = lasting
        self.users = 0


class SshTransport:
    """Commands and connections by way of a login host.

    Parameters
    ----------
    login : LoginHost
        The login host.
    """

    def __init__(self, login: LoginHost) -> None:
        self._login = login
        self._lasting = Lasting(f"the login host {login.host}", self._connect, self._find)
        self._settings: remote.Settings | None = None
        self._asked: Connection | None = None  # by which they were told
        self._sessions = Sessions()
        self._lookout = Lookout(self._look_out)
        self._hops: dict[Node, _Hop] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._heard = 0.0
        self._awake: asyncio.Task[None] | None = None

    async def account(self) -> Account:
        """Return who the user is there, and on which machine. The login host is tried, whatever was found before."""
        connection = await self._lasting.get(wanted=True)
        if asyncio.get_running_loop().time() - self._heard > SILENT_AFTER and not await self._answers(connection):
            connection = await self._lasting.get(wanted=True)
        assert self._settings is not None, "a connection comes with them"
        if connection is not self._asked:  # it may lead to another machine of that name
            told = await self._ask(connection, login=False)
            self._settings = replace(self._settings, machine=told.machine if told is not None else "")
            self._asked = connection
        return Account(self._settings.user, self._settings.home, self._settings.machine)

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command, with the settings of a login shell of the user, and whatever shell that is."""
        try:
            connection = await asyncio.wait_for(self._lasting.get(), timeout)
        except asyncio.TimeoutError as error:
            raise words.unreachable(self._login, f"no answer within {timeout:g} s") from error
        return await self._run(connection, argv, stdin, timeout)

    def news(self, directory: str, names: Sequence[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """Have one command look out for the files of all kernels."""
        return self._lookout.news(directory, names)

    def route(self, node: Node, host: str, port: int) -> Route:
        """Return the way to a port from the login host, or from the node itself."""
        if self._login.via == "login":
            return _Way(self._lasting, host, port, lambda: None)
        hop = self._hops.get(node)
        if hop is None:
            hop = self._hops[node] = _Hop(Lasting(f"node {node.name}", lambda: self._hop(node)))
        hop.users += 1
        return _Way(hop.lasting, host, port, lambda: self._leave(node, hop))

    def if_we_die(self, *argvs: Sequence[str]) -> Callable[[], None]:
        """Leave it to the guard of this process, which logs in anew."""
        farewell = [sys.executable, "-m", "slurm_provisioner.transport.farewell"]
        return guard.add(
            [*farewell, self._login.model_dump_json(exclude_none=True), *(json.dumps([*argv]) for argv in argvs)]
        )

    async def aclose(self) -> None:
        """Close the connection."""
        await self._lookout.aclose()
        hops = [hop.lasting for hop in self._hops.values()]
        self._hops.clear()
        await asyncio.gather(*(hop.aclose() for hop in hops), *self._closing)
        await self._lasting.aclose()
        if self._awake is not None:
            self._awake.cancel()
            await asyncio.gather(self._awake, return_exceptions=True)

    async def _connect(self) -> Connection:
        module = await asyncio.to_thread(importlib.import_module, f".{self._login.transport}", __package__)
        connection: Connection = await module.connect(self._login)
        return await self._welcome(connection)

    async def _find(self) -> Connection | None:
        module = await asyncio.to_thread(importlib.import_module, f".{self._login.transport}", __package__)
        connection: Connection | None = await module.find(self._login)
        return None if connection is None else await self._welcome(connection)

    async def _welcome(self, connection: Connection) -> Connection:
        if self._settings is None:
            try:
                self._settings = await self._ask_settings(connection)
            except BaseException:
                await connection.aclose()
                raise
            self._asked = connection
        self._sessions.begin_anew()
        if self._awake is None:
            self._awake = asyncio.ensure_future(self._notice_sleep())
        return connection

    async def _answers(self, connection: Connection) -> bool:
        """Try a connection; drop it if nothing comes back."""
        try:
            await self._run(connection, ["true"], b"", SIGN_TIMEOUT)
        except (CommandTimeoutError, LoginHostError):
            self._lasting.drop(connection)
            return False
        return True

    async def _notice_sleep(self) -> None:
        """Try the connection after this machine has slept: the other side may have given it up long ago."""
        while True:
            before = time.time()
            await asyncio.sleep(NAP)
            if time.time() - before > NAP + SLEPT and self._lasting.now is not None:
                await self._answers(self._lasting.now)

    async def _ask_settings(self, connection: Connection) -> remote.Settings:
        for login in (True, False):
            if (settings := await self._ask(connection, login=login)) is not None:
                return settings
        raise words.mute(self._login, "")

    async def _ask(self, connection: Connection, *, login: bool) -> remote.Settings | None:
        mark = f"settings-{secrets.token_hex(8)}"
        with contextlib.suppress(CommandTimeoutError):
            done = await self._run(connection, remote.settings_argv(mark, login=login), b"", SETTINGS_TIMEOUT)
            return remote.read_settings(done.stdout, mark)
        return None

    async def _hop(self, node: Node) -> Connection:
        return await (await self._lasting.get()).hop(node)

    def _leave(self, node: Node, hop: _Hop) -> None:
        hop.users -= 1
        if hop.users == 0 and self._hops.get(node) is hop:
            del self._hops[node]
            task = asyncio.ensure_future(hop.lasting.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _run(self, connection: Connection, argv: Sequence[str], stdin: bytes, timeout: float) -> Completed:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout + GONE_TIMEOUT
        while True:
            reply = remote.Reply()
            async with self._sessions.turn():
                try:
                    await asyncio.wait_for(self._converse(connection, argv, stdin, timeout, reply), timeout)
                except asyncio.TimeoutError as error:
                    if not reply.stdout.begun:  # though it may do what it was told
                        raise words.lost(self._login, f"no answer within {timeout:g} s") from error
                    raise too_slow(argv, timeout) from error
                except SessionRefusedError as error:
                    if not self._sessions.refused():
                        if self._settings is None or loop.time() > end:
                            raise words.mute(self._login, str(error)) from error
                        await asyncio.sleep(SESSION_PAUSE)  # those of commands that we gave up count until they end
                    continue
            break
        if reply.code == remote.MISSING:
            raise CommandNotFoundError(
                f"The command {argv[0]} cannot be run on {self._login.host}: there is no such program.",
                argv=argv,
                hint="Is this a login node of the cluster? Set `slurm_bin` to the folder of Slurm's commands.",
            )
        self._heard = loop.time()
        return Completed(tuple(argv), int(reply.code), reply.stdout.text, reply.stderr.text)

    async def _converse(
        self, connection: Connection, argv: Sequence[str], stdin: bytes, timeout: float, reply: remote.Reply
    ) -> None:
        line = remote.wrap(argv, reply.mark, seconds=timeout, settings=self._settings)
        process = await connection.execute(remote.COMMAND)
        try:
            await self._exchange(process, line + stdin, reply)
            if not reply.code:
                raise await self._failure(connection, process, reply)
        finally:
            await process.aclose()

    async def _exchange(self, process: Process, stdin: bytes, reply: remote.Reply) -> None:
        """Give a command what it reads, and take what it prints, until it has ended."""

        async def take(read: Callable[[], Awaitable[bytes]], part: remote.Marked) -> None:
            while not part.ended and (data := await read()):
                part.take(data)

        feeding = asyncio.ensure_future(_feed(process, stdin))
        takers = [
            asyncio.ensure_future(take(process.read_stdout, reply.stdout)),
            asyncio.ensure_future(take(process.read_stderr, reply.stderr)),
        ]
        try:
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(*takers)
        finally:
            for task in (feeding, *takers):
                task.cancel()
            await asyncio.gather(feeding, *takers, return_exceptions=True)

    async def _failure(self, connection: Connection, process: Process, reply: remote.Reply) -> OSError:
        noise = reply.noise
        trouble = await process.trouble(noise)
        if isinstance(trouble, SessionRefusedError):
            return trouble
        if trouble is not None or connection.lost.is_set() or reply.stdout.begun:
            return trouble or words.lost(self._login)
        return words.mute(self._login, noise)

    async def _look_out(self) -> tuple[Process, remote.Reply]:
        connection = await self._lasting.get()
        reply = remote.Reply()
        process = await connection.execute(remote.COMMAND)
        argv = ["sh", "-c", remote.LOOKOUT]
        try:
            await process.write(remote.wrap(argv, reply.mark, seconds=LOOKOUT_TIME, settings=self._settings))
        except BaseException:
            await process.aclose()
            raise
        return process, reply


async def _feed(process: Process, stdin: bytes) -> None:
    with contextlib.suppress(OSError):  # a command need not read all
        for begin in range(0, len(stdin), CHUNK):
            await process.write(stdin[begin : begin + CHUNK])
        process.write_eof()


class _Way:
    """The way to a port, over all breaks of the connection that it leads through."""

    def __init__(self, lasting: Lasting, host: str, port: int, done: Callable[[], None]) -> None:
        self._lasting = lasting
        self._address = host, port
        self._done = done
        self._connection: Connection | None = None
        self._route: Route | None = None
        self._closed = False

    async def connect(self) -> socket.socket:
        connection = await self._lasting.get()
        if self._route is None or connection is not self._connection:
            self._connection, self._route = connection, connection.route(*self._address)
        return await self._route.connect()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._route is not None:
            self._route.close()
        self._done()
