"""The server side of a kernel's two connections to the TLS port of its supervisor.

One is the supervisor's own: commands and answers, events, signs of life. It comes back by itself when it breaks. The
other one, which carries the streams to the kernel's sockets, comes and goes with it. Two, because a command is not to
wait behind what a kernel prints.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import logging
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from . import tls
from .carrier import Carrier, Streams
from .errors import LinkError, LoginHostError, RefusedError
from .loop import first, to_the_end, within
from .transport import Node, Route, Transport

__all__ = ["Link", "Listener", "Target"]

#: What the two connections are for.
SUPERVISOR, KERNEL = "supervisor", "kernel"
#: Seconds for one attempt to connect, TLS included.
CONNECT_TIMEOUT = 10.0
#: Seconds between attempts to connect again: first, last.
RETRY_FIRST, RETRY_LAST = 0.2, 10.0
#: Seconds the supervisor has for an answer before the connection counts as broken.
ANSWER_TIMEOUT = 10.0
#: What a connection ends with whose other host was cut off.
_SILENCE = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
#: Bytes of one line of the supervisor channel at most.
LINE_LIMIT = 2**20


#: What is said and heard by a connection to a supervisor.
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Target:
    """Where a supervisor is, and how it and we know each other.

    Attributes
    ----------
    node : Node
        Its node.
    hosts : tuple of str
        Its addresses, any of which may be the one that can be reached.
    port : int
        Its TLS port.
    context : ssl.SSLContext
        What we show, and the one certificate that we accept.
    sign_of_life : float
        Seconds between two signs of life that keep its lease.
    """

    node: Node
    hosts: tuple[str, ...]
    port: int
    context: ssl.SSLContext
    sign_of_life: float


class Listener(Protocol):
    """Who wants to know what a supervisor says."""

    def heard(self, event: Mapping[str, Any]) -> None:
        """Take an event: a dict with the key ``event``."""

    def link_changed(self, connected: bool) -> None:
        """Take the news that the supervisor was reached, or lost."""


class Link:
    """The way to a supervisor, and to its kernel.

    Parameters
    ----------
    transport : Transport
        The way to the compute node.
    log : logging.Logger
        Where connections that fail are told.
    """

    def __init__(self, transport: Transport, log: logging.Logger) -> None:
        self._transport = transport
        self._log = log
        self._streams = Streams()
        self._target: Target | None = None
        self._host: str | None = None
        self._routes: dict[str, Route] = {}
        self._detached = asyncio.Event()
        self._connected = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._keepers: set[asyncio.Task[None]] = set()  # those, too, that are yet to end
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        #: Why the supervisor could not be reached, the last time it was tried; "" if it could.
        self.trouble = ""
        #: Whether the connection was lost without a word of the other host: it may run on, cut off.
        self.lost_in_silence = False
        #: Time of the event loop when something was sent last; nothing renewed the supervisor's lease after it.
        self.last_sent = 0.0

    def connect(self, channel: str, protocol: asyncio.Protocol) -> None:
        """Have a protocol speak with one of the kernel's sockets, as soon as and whenever it can be reached."""
        self._streams.begin(channel, protocol)

    async def _carry(self, host: str) -> None:
        """Keep the streams connected by an address, until the supervisor is lost."""
        pause = RETRY_FIRST
        while host in self._routes:
            carrier = Carrier(self._streams)
            try:
                await self._dial(host, KERNEL, carrier)
                await carrier.lost.wait()
            except (OSError, asyncio.TimeoutError) as error:
                self._log.debug("The kernel's sockets cannot be reached: %s", error)
            finally:
                self._streams.lost(carrier)
            pause = RETRY_FIRST if carrier.answered else min(pause * 2, RETRY_LAST)
            await asyncio.sleep(pause)

    async def _dial(self, host: str, channel: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        assert self._target is not None
        context, route = self._target.context, self._routes[host]

        async def connect() -> asyncio.Transport:
            return await tls.connect(await route.connect(), context, channel, protocol)

        return await within(CONNECT_TIMEOUT, connect(), lambda transport: transport.abort())

    def attach(self, target: Target, listener: Listener) -> None:
        """Connect to a supervisor, and stay connected to it until `detach`."""
        self.detach()
        self._target = target
        self._routes = {host: self._transport.route(target.node, host, target.port) for host in target.hosts}
        self.lost_in_silence, self.last_sent = False, 0.0
        self._detached = asyncio.Event()
        self._keeper = asyncio.ensure_future(self._keep_connected(target, listener))
        self._keepers.add(self._keeper)
        self._keeper.add_done_callback(self._keepers.discard)

    def detach(self) -> None:
        """Let go of the supervisor, and end the streams to its kernel."""
        self._detached.set()
        self._target = self._host = None
        for route in self._routes.values():
            route.close()
        self._routes = {}
        if self._keeper is not None:
            self._keeper.cancel()
        self._keeper = None
        self._streams.hang_up()

    @property
    def connected(self) -> bool:
        """Whether the supervisor can be spoken to right now."""
        return self._connected.is_set()

    async def call(self, do: str, *, timeout: float = ANSWER_TIMEOUT, **fields: Any) -> dict[str, Any]:
        """Have the supervisor do something and return its answer.

        Parameters
        ----------
        do : str
            The command.
        timeout : float
            Seconds for a connection, where there is none right now, and the answer.
        **fields
            The command's own fields.

        Raises
        ------
        RefusedError
            It could not do that.
        LinkError
            It cannot be reached or does not answer.
        """
        try:
            return await asyncio.wait_for(self._call(do, fields), timeout)
        except asyncio.TimeoutError as error:
            self._break_off()  # the next call is not to wait as long
            raise LinkError(f"The supervisor did not answer to {do!r} within {timeout:g} s.") from error

    async def _call(self, do: str, fields: dict[str, Any]) -> dict[str, Any]:
        if self._target is None:
            raise LinkError("There is no job to speak to.")
        await first(self._connected, self._detached)
        if self._writer is None:
            raise LinkError("The job is gone.")
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self.last_sent = asyncio.get_running_loop().time()
            self._writer.write(json.dumps({"id": number, "do": do, **fields}).encode() + b"\n")
            await self._writer.drain()
            result: dict[str, Any] = await answer
        except OSError as error:
            raise LinkError(f"The connection to the supervisor broke: {error}.") from error
        finally:
            del self._answers[number]
        if not result.get("ok"):
            raise RefusedError(f"The supervisor could not {do}: {result.get('error', 'no reason given')}.")
        return result

    async def _keep_connected(self, target: Target, listener: Listener) -> None:
        pause = RETRY_FIRST
        while True:
            likely = self._host or next(iter(target.hosts), "")
            carrying = [asyncio.ensure_future(self._carry(likely))]  # side by side: each takes some round trips
            try:
                reader, writer = await self._reach(target)
                if self._host is not None and self._host != likely:
                    carrying[0].cancel()
                    carrying.append(asyncio.ensure_future(self._carry(self._host)))
            except (OSError, asyncio.TimeoutError) as error:
                words = error.summary.rstrip(".") if isinstance(error, LoginHostError) else str(error)
                self.trouble = words or "no answer"
                self.lost_in_silence &= not isinstance(error, ConnectionRefusedError)  # that is a word of the host
                self._log.debug("The supervisor at %s:%d cannot be reached: %s", target.hosts, target.port, error)
            else:
                pause, self.trouble = RETRY_FIRST, ""
                await self._converse(reader, writer, target.sign_of_life, listener)
            finally:
                carrying[-1].cancel()
                await asyncio.wait(carrying)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_LAST)

    async def _reach(self, target: Target) -> Ends:
        """Try all addresses side by side, the one that worked before alone."""
        hosts = [self._host] if self._host is not None else list(target.hosts)
        attempts = {asyncio.ensure_future(self._open_supervisor(host)): host for host in hosts}
        try:
            made = await _first_made(attempts)
            self._host = attempts[made]
            await _given_up(attempts.keys() - {made})
        except BaseException as error:
            if isinstance(error, Exception):
                self._host = None
            await to_the_end(_given_up(attempts))
            raise
        return made.result()

    async def _open_supervisor(self, host: str) -> Ends:
        reader = asyncio.StreamReader(limit=LINE_LIMIT)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await self._dial(host, SUPERVISOR, protocol)
        return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())

    async def _converse(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sign_of_life: float,
        listener: Listener,
    ) -> None:
        self._writer = writer
        self.lost_in_silence, self.last_sent = False, asyncio.get_running_loop().time()
        self._connected.set()
        listener.link_changed(True)
        lease = asyncio.ensure_future(self._keep_lease(sign_of_life))
        try:
            while line := await reader.readline():
                self._hear(line, listener)
        except OSError as error:
            self.lost_in_silence |= error.errno in _SILENCE
        except Exception:  # what cannot be understood ends the conversation, never our will to have one
            self._log.exception("The supervisor at %s said something strange", self._host)
        finally:
            lease.cancel()
            self._connected.clear()
            self._writer = None
            writer.close()
            self._streams.let_go()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(LinkError("The connection to the supervisor broke."))
            listener.link_changed(False)
            await asyncio.wait([lease])

    def _hear(self, line: bytes, listener: Listener) -> None:
        message = json.loads(line)
        if not isinstance(message, dict):
            raise TypeError(f"no JSON object: {line[:80]!r}")
        if "event" in message:
            listener.heard(message)
        elif (answer := self._answers.get(message.get("re", 0))) is not None and not answer.done():
            answer.set_result(message)

    async def _keep_lease(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await self.call("lease")
            except LinkError:
                return

    def _break_off(self) -> None:
        """End a connection whose other side is silent: a node that vanished sends no end of file.

        Nor would it answer to a TLS goodbye.
        """
        if self._writer is not None and not self._writer.transport.is_closing():
            # an abort after a close fails on some Pythons (3.11.2)
            self.lost_in_silence = True
            self._writer.transport.abort()

    async def aclose(self) -> None:
        """Close everything."""
        self.detach()
        await asyncio.gather(*self._keepers, return_exceptions=True)


async def _first_made(attempts: Collection[asyncio.Task[Ends]]) -> asyncio.Task[Ends]:
    """Return the first of some attempts to connect that comes to something."""
    failure: BaseException = OSError("it announced no address")
    pending = set(attempts)
    while pending:
        done, pending = await asyncio.wait(pending, timeout=CONNECT_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise asyncio.TimeoutError
        for attempt in done:
            if (error := attempt.exception()) is None:
                return attempt
            failure = error
    raise failure


async def _given_up(attempts: Collection[asyncio.Task[Ends]]) -> None:
    """Leave nothing of some attempts to connect, whether they came to something or not."""
    for attempt in attempts:
        attempt.cancel()
    for outcome in await asyncio.gather(*attempts, return_exceptions=True):
        if not isinstance(outcome, BaseException):
            outcome[1].close()
