"""SSH connections made by this process, with the library asyncssh."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncssh

from ..errors import LoginHostError
from ..login_host import JumpHost, LoginHost, NodeHost
from . import Node
from . import login as words
from .connection import ALIVE_COUNT, ALIVE_INTERVAL, CONNECT_TIMEOUT, Process, SessionRefusedError
from .forward import Forward

__all__ = ["Connection", "connect", "find"]

_CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_KNOWN_HOSTS = (
    *("~/.ssh/known_hosts", "~/.ssh/known_hosts2"),
    *("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"),
)
_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa", "~/.ssh/id_ed25519_sk", "~/.ssh/id_ecdsa_sk")
_SSH_PORT = 22
#: Seconds for an orderly end.
CLOSE_TIMEOUT = 2.0


async def connect(login: LoginHost) -> Connection:
    """Connect to a login host, by way of others where ``~/.ssh/config`` says so.

    Raises
    ------
    LoginHostError
        It cannot be used.
    """
    async with AsyncExitStack() as stack:
        client, connection = await _connect(login, login.user, login.port, None, stack)
        return Connection(login, client, connection, stack.pop_all())


async def find(login: LoginHost) -> None:
    """There are none but those that are made here."""


async def _connect(
    login: LoginHost,
    user: str | None,
    port: int | None,
    tunnel: asyncssh.SSHClientConnection | None,
    stack: AsyncExitStack,
    *,
    keys: Sequence[str] = (),
) -> tuple[_Client, asyncssh.SSHClientConnection]:
    given: dict[str, Any] = {"config": await asyncio.to_thread(_configs, login)}
    if user is not None:
        given["username"] = user
    if port is not None:
        given["port"] = port
    client = _Client()
    locked: list[str] = []
    files: list[str] = []
    try:
        # first what the configuration says, without reading any key
        asked = await asyncssh.SSHClientConnectionOptions.construct(host=login.host, client_keys=None, **given)
        if tunnel is None and asked.tunnel:
            tunnel = await _jump(login, str(asked.tunnel), stack)
        identities = [str(path) for path in asked.config.get("IdentityFile", ())]
        present, locked = await asyncio.to_thread(_present, identities)
        files = asked.known_hosts if isinstance(asked.known_hosts, list) else []
        known = _trusted(keys) if keys else await asyncio.to_thread(_known_hosts, files)
        connection = await asyncssh.connect(
            login.host,
            client_factory=lambda: client,
            known_hosts=client.trust(known),
            tunnel=tunnel,
            connect_timeout=CONNECT_TIMEOUT,
            login_timeout=CONNECT_TIMEOUT,
            keepalive_interval=ALIVE_INTERVAL,
            keepalive_count_max=ALIVE_COUNT,
            ignore_encrypted=True,
            agent_forwarding=False,
            x11_forwarding=False,
            request_pty=False,
            **({"client_keys": present} if identities else {}),
            **given,
        )
    except LoginHostError:
        raise
    except asyncssh.HostKeyNotVerifiable as error:
        shown = client.shown or str(error)
        if not client.known:
            raise words.unknown_key(login, shown) from error
        raise words.changed_key(login, shown, client.name, str(files[0]) if files else "") from error
    except asyncssh.PermissionDenied as error:
        raise words.refused(login, client.methods, str(error), locked) from error
    except asyncio.TimeoutError as error:
        raise words.unreachable(login, f"no answer within {CONNECT_TIMEOUT:g} s") from error
    except (OSError, asyncssh.Error, ValueError) as error:
        code = getattr(error, "errno", None)
        if code is not None and code > 0:  # not that of a name server, nor several
            raise words.unreachable(login, os.strerror(code)) from error
        raise words.unreachable(login, str(error).rstrip(".") or type(error).__name__) from error
    stack.push_async_callback(_close, connection)
    return client, connection


async def _jump(login: LoginHost, hosts: str, stack: AsyncExitStack) -> asyncssh.SSHClientConnection:
    """Connect to the last of the hosts of a ProxyJump, each by way of the one before."""
    connection = None
    for hop in hosts.split(","):
        user, _, address = hop.rpartition("@")
        host, _, port = address.rpartition(":") if ":" in address.rpartition("]")[2] else (address, "", "")
        there = JumpHost(
            host=host.strip("[]"), user=user or None, port=int(port) if port else None, config=login.config
        )
        _, connection = await _connect(there, there.user, there.port, connection, stack)
    assert connection is not None, "split returns something"
    return connection


async def _close(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    try:
        await asyncio.wait_for(connection.wait_closed(), CLOSE_TIMEOUT)
    except asyncio.TimeoutError:
        connection.abort()


def _configs(login: LoginHost) -> list[str]:
    if login.config is not None:
        return [str(Path(login.config).expanduser())]
    return [str(path) for path in (Path(name).expanduser() for name in _CONFIGS) if path.is_file()]


def _present(identities: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return those files of keys that are there, and those that take a passphrase: ssh, too, goes on without them."""
    files = [str(path) for path in (Path(name).expanduser() for name in identities) if path.is_file()]
    return files, words.locked_keys(files or _IDENTITIES)


def _known_hosts(configured: Sequence[str]) -> asyncssh.SSHKnownHosts:
    """Return the hosts that ssh knows; a line that cannot be understood is left out, as ssh does."""
    known = asyncssh.SSHKnownHosts()
    for name in configured or _KNOWN_HOSTS:
        try:
            text = Path(name).expanduser().read_text(errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            try:
                known.load(line)
            except ValueError:
                continue
    return known


def _trusted(keys: Sequence[str]) -> asyncssh.SSHKnownHosts:
    known = asyncssh.SSHKnownHosts()
    for key in keys:
        known.load(f"* {key}")
    return known


class _Client(asyncssh.SSHClient):
    """What is seen of a connection."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.methods: list[str] = []
        self.shown = ""
        self.name = ""
        self.known = False
        self._trusted = asyncssh.SSHKnownHosts()

    def trust(self, known: asyncssh.SSHKnownHosts) -> asyncssh.SSHKnownHosts:
        """Note which hosts are known."""
        self._trusted = known
        return known

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.lost.set()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Never take a key that is not known; note whether another one is."""
        self.name = host if port == _SSH_PORT else f"[{host}]:{port}"
        self.shown = f"its key: {key.get_algorithm()} {key.get_fingerprint()}"
        self.known = bool(self._trusted.match(host, addr, port if port != _SSH_PORT else None)[0])
        return False

    def kbdint_auth_requested(self) -> None:
        self.methods.append("keyboard-interactive")

    def password_auth_requested(self) -> None:
        self.methods.append("password")


class Connection:
    """A connection to a login host, or to a node behind it.

    Parameters
    ----------
    login : LoginHost
        The host.
    client, connection
        What asyncssh made.
    stack : AsyncExitStack
        Closes it, and those to hosts in between.
    """

    def __init__(
        self, login: LoginHost, client: _Client, connection: asyncssh.SSHClientConnection, stack: AsyncExitStack
    ) -> None:
        self._login = login
        self._connection = connection
        self._stack = stack
        #: Set once it is no more.
        self.lost = client.lost

    async def execute(self, command: str) -> Process:
        """Start a command in a session of its own."""
        opening = asyncio.ensure_future(self._connection.create_process(command, encoding=None))
        try:
            process = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)  # asyncssh would leave the session open
            raise
        except asyncssh.ChannelOpenError as error:
            if self.lost.is_set():
                raise words.lost(self._login, error.reason) from error
            raise SessionRefusedError(error.reason) from error
        except (asyncssh.Error, OSError) as error:
            raise words.lost(self._login, str(error)) from error
        return _Process(process, self._login)

    def route(self, host: str, port: int) -> Forward:
        """Return the way from there to a port."""
        return Forward(self._connection, host, port)

    async def hop(self, node: Node) -> Connection:
        """Connect to a node by way of this connection."""
        there = NodeHost.behind(self._login, node.name)
        user = str(self._connection.get_extra_info("username"))
        async with AsyncExitStack() as stack:
            client, connection = await _connect(there, user, None, self._connection, stack, keys=node.host_keys)
            return Connection(there, client, connection, stack.pop_all())

    async def aclose(self) -> None:
        """Close it."""
        await self._stack.aclose()


def _close_late(opening: asyncio.Task[asyncssh.SSHClientProcess[bytes]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class _Process:
    """A command's streams, as of a process of `asyncio`."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes], login: LoginHost) -> None:
        self._process = process
        self._login = login
        self._trouble: LoginHostError | None = None

    async def write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        try:
            await self._process.stdin.drain()
        except asyncssh.Error as error:
            raise BrokenPipeError(str(error)) from error

    def write_eof(self) -> None:
        self._process.stdin.write_eof()

    async def read_stdout(self) -> bytes:
        return await self._read(self._process.stdout)

    async def read_stderr(self) -> bytes:
        return await self._read(self._process.stderr)

    async def _read(self, stream: asyncssh.SSHReader[bytes]) -> bytes:
        try:
            return await stream.read(2**16)
        except asyncssh.Error as error:
            self._trouble = words.lost(self._login, str(error))
            raise ConnectionResetError(str(error)) from error

    async def trouble(self, said: str) -> OSError | None:  # noqa: ARG002
        return self._trouble

    async def aclose(self) -> None:
        self._process.close()
