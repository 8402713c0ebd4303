"""The five endpoints of one kernel, as the background loop sees them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import SlurmProvisionerError
from ..folder import connection_info, private_folder
from . import notice, thread
from .messages import Codec
from .sockets import CHANNELS, Sockets
from .standin import Listener

__all__ = ["Front"]

T = TypeVar("T")

log = logging.getLogger("slurm_provisioner")


class Front:
    """Where a kernel's clients connect, for as long as the kernel object lives.

    Belongs to the background loop; what it does happens on the fronts' thread, in the order of the calls.

    Parameters
    ----------
    key : bytes
        The key of the kernel's session.
    signature_scheme : str
        Such as ``hmac-sha256``.
    info : mapping
        What ``kernel_info_reply`` says until the kernel itself was heard.
    listener : Listener
        Who wants to know when there is a kernel, and whether somebody waits for it; called on the loop.
    """

    def __init__(self, key: bytes, signature_scheme: str, info: Mapping[str, Any], listener: Listener) -> None:
        codec = Codec(key, signature_scheme)
        self._folder = private_folder()
        self._thread = thread.acquire()
        self._sockets = Sockets(self._thread, codec, info, _OnLoop(listener))
        self._ports: dict[str, int] = {}
        self._closed = False

    async def open(self) -> None:
        """Bind the endpoints; those that are still there stay as they are."""
        self._ports = await self._ask(lambda: self._sockets.open(self._folder.path if self._folder else None))

    @property
    def endpoints(self) -> dict[str, Any]:
        """Where clients connect, in the terms of Jupyter's connection files."""
        return connection_info(self._folder, self._ports)

    def tell(self, line: str) -> None:
        """Have cells that wait for the kernel show where its job is."""
        self._do(lambda: self._sockets.standin.tell(line))

    def attach(self, endpoints: Mapping[str, Any]) -> None:
        """Connect to a kernel that was started; as soon as it answers, clients speak with it.

        Parameters
        ----------
        endpoints : mapping
            Where it is, in the terms of Jupyter's connection files.
        """
        joint = "-" if endpoints["transport"] == "ipc" else ":"
        where = f"{endpoints['transport']}://{endpoints['ip']}{joint}"
        addresses = {channel: f"{where}{endpoints[f'{channel}_port']}" for channel in CHANNELS}
        self._do(lambda: self._sockets.attach(addresses))

    async def hear_out(self) -> None:
        """Wait until all has come that a kernel said before its end, which has connections of its own; or a second."""
        await asyncio.wrap_future(await self._ask(self._sockets.last_words))

    async def detach(self, line: str, error: SlurmProvisionerError | None) -> None:
        """Let go of a kernel that ended, for another one to come.

        Parameters
        ----------
        line : str
            What waiting cells show from now on.
        error : SlurmProvisionerError or None
            What a running cell ends with; None if the user wanted the kernel's end.
        """
        why = notice.failure(error) if error is not None else None

        def detach() -> None:
            self._sockets.drain()
            self._sockets.standin.detach(line, why)
            self._sockets.tick_when_due()

        await self._ask(detach)

    async def end(self, error: SlurmProvisionerError) -> None:
        """Answer every request with an error from now on, those that are open first."""

        def end() -> None:
            self._sockets.drain()
            self._sockets.standin.end(notice.failure(error), notice.failure(error, brief=True))

        await self._ask(end)

    def lost(self, line: str) -> None:
        """Have running cells show that the kernel cannot be reached."""
        self._do(lambda: self._sockets.standin.lost(line))

    def found(self, line: str) -> None:
        """Have them show that it can be reached again."""
        self._do(lambda: self._sockets.standin.found(line))

    def warn(self, line: str) -> None:
        """Show something once, in the cells that run, else in the one that ran last."""
        self._do(lambda: self._sockets.standin.warn(line))

    async def interrupt(self) -> bool:
        """Interrupt cells that wait for a kernel; return False if there is a kernel, which is to be interrupted."""

        def interrupt() -> bool:
            done = self._sockets.standin.interrupt()
            self._sockets.tick_when_due()
            return done

        return await self._ask(interrupt)

    async def aclose(self) -> None:
        """Close and remove the endpoints."""
        if self._closed:
            return
        closed = self._thread.call(self._sockets.close)
        self._closed = True
        thread.release(self._thread)
        try:
            await asyncio.wrap_future(closed)
        finally:
            if self._folder is not None:
                self._folder.remove()

    async def _ask(self, command: Callable[[], T]) -> T:
        if self._closed:
            raise RuntimeError("These endpoints were closed.")
        return await asyncio.wrap_future(self._thread.call(command))

    def _do(self, command: Callable[[], Any]) -> None:
        if not self._closed:
            self._thread.call(command).add_done_callback(_tell_trouble)


class _OnLoop:
    """A listener on the background loop."""

    def __init__(self, listener: Listener) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener

    def up(self, info: Mapping[str, Any]) -> None:
        self._loop.call_soon_threadsafe(self._listener.up, info)

    def watched(self, whether: bool) -> None:
        self._loop.call_soon_threadsafe(self._listener.watched, whether)


def _tell_trouble(future: Future[Any]) -> None:
    if (error := future.exception()) is not None:
        log.error("Unexpected error in a kernel's endpoints", exc_info=error)
