"""The endpoints of one kernel: clients on one side, on the other the stand-in or the kernel itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import SlurmProvisionerError
from ..folder import private_folder
from ..loop import to_the_end
from ..stream import CHANNELS
from . import notice
from .clients import Publisher, Router
from .kernel import Connect, KernelSide
from .messages import Codec
from .standin import Listener, StandIn, State

__all__ = ["Front"]

log = logging.getLogger("slurm_provisioner")

#: Seconds that are allowed for a kernel's last words to come.
LAST_WORDS = 1.0
#: Turns of the event loop until a connection that waited is accepted and made. asyncio forgets the socket of one that
#: is not, when its server is closed (Python 3.11, `Server._attach`).
_TURNS = 4


class Front:
    """Where a kernel's clients connect, for as long as the kernel object lives. Belongs to the background loop.

    Parameters
    ----------
    key : bytes
        The key of the kernel's session.
    signature_scheme : str
        Such as ``hmac-sha256``.
    info : mapping
        What ``kernel_info_reply`` says until the kernel itself was heard.
    listener : Listener
        Who wants to know when there is a kernel, and whether somebody waits for it.
    """

    def __init__(self, key: bytes, signature_scheme: str, info: Mapping[str, Any], listener: Listener) -> None:
        codec = Codec(key, signature_scheme)
        self._folder = private_folder()
        self._standin = StandIn(codec, self._to_clients, self._to_kernel, info, listener)
        self._kernel = KernelSide(self._from_kernel, self._hold_clients)
        self._publisher = Publisher(self._standin.welcome, self._hold_kernel)
        self._routers = {
            channel: Router(partial(self._from_client, channel)) for channel in CHANNELS if channel != "iopub"
        }
        self._ports: dict[str, int] = {}
        self._tick: asyncio.TimerHandle | None = None
        self._full = self._closed = False

    # -------------------------------------------------------------------- life

    async def open(self) -> None:
        """Bind the endpoints, or give those a name again whose name was removed."""
        self._check()
        for number, channel in enumerate(CHANNELS, 1):
            sock = self._publisher if channel == "iopub" else self._routers[channel]
            if self._folder is None:
                self._ports[channel] = await sock.open(None)
            else:
                await sock.open(f"{self._folder.path}/{channel}")
                self._ports[channel] = number
                _link(Path(self._folder.path, f"k-{number}"), channel)
        self._tick_when_due()

    @property
    def endpoints(self) -> dict[str, Any]:
        """Where clients connect, in the terms of Jupyter's connection files."""
        return {
            "transport": "ipc" if self._folder else "tcp",
            "ip": f"{self._folder.path}/k" if self._folder else "127.0.0.1",
            **{f"{channel}_port": port for channel, port in self._ports.items()},
        }

    async def aclose(self) -> None:
        """Close and remove the endpoints."""
        if not self._closed:
            self._closed = True
            await to_the_end(self._close())

    async def _close(self) -> None:
        self._kernel.leave()
        if self._tick is not None:
            self._tick.cancel()
        if self._folder is not None:
            self._folder.remove()  # nobody connects any more
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for sock in (*self._routers.values(), self._publisher):
            sock.close()

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("These endpoints were closed.")

    # --------------------------------------------------------------- from the job

    def tell(self, line: str) -> None:
        """Have cells that wait for the kernel show where its job is."""
        self._standin.tell(line)

    def attach(self, connect: Connect) -> None:
        """Connect to a kernel that was started; as soon as it answers, clients speak with it.

        Parameters
        ----------
        connect : callable
            Connects a protocol to one of its channels, at once or later.
        """
        if self._closed:
            return
        self._let_go()
        self._kernel.attach(connect)
        self._standin.attach()
        self._tick_when_due()

    async def hear_out(self) -> None:
        """Wait until all has come that a kernel said before its end, which has connections of its own; or a second."""
        await self._kernel.hear_out(LAST_WORDS)

    def detach(self, line: str, error: SlurmProvisionerError | None) -> None:
        """Let go of a kernel that ended, for another one to come.

        Parameters
        ----------
        line : str
            What waiting cells show from now on.
        error : SlurmProvisionerError or None
            What a running cell ends with; None if the user wanted the kernel's end.
        """
        self._check()
        self._let_go()
        self._standin.detach(line, notice.failure(error) if error is not None else None)
        self._tick_when_due()

    def end(self, error: SlurmProvisionerError) -> None:
        """Answer every request with an error from now on, those that are open first."""
        self._check()
        self._let_go()
        self._standin.end(notice.failure(error), notice.failure(error, brief=True))
        self._tick_when_due()

    def _let_go(self) -> None:
        """Take what the kernel said last, then leave it."""
        self._kernel.hold("iopub", False)
        self._kernel.leave()
        for router in self._routers.values():
            router.hold(False)  # the kernel may have taken no more

    def lost(self, line: str) -> None:
        """Have running cells show that the kernel cannot be reached."""
        self._standin.lost(line)

    def found(self, line: str) -> None:
        """Have them show that it can be reached again."""
        self._standin.found(line)

    def warn(self, line: Callable[[], str]) -> None:
        """Show something once, in the cells that run, else in the one that ran last, or else in the next.

        Parameters
        ----------
        line : callable
            Returns it as it is to be read now.
        """
        self._standin.warn(line)

    def interrupt(self) -> bool:
        """Interrupt cells that wait for a kernel; return False if there is a kernel, which is to be interrupted."""
        self._check()
        done = self._standin.interrupt()
        self._tick_when_due()
        return done

    # ------------------------------------------------------------------- messages

    def _from_client(self, channel: str, message: bytes) -> None:
        if channel != "hb":
            self._hear(self._standin.from_client, channel, message)
        elif self._standin.state is State.RUNNING and not self._standin.is_lost:
            self._kernel.send(channel, message)
        else:
            self._routers[channel].send(message)

    def _from_kernel(self, channel: str, messages: list[bytes]) -> None:
        if channel == "iopub" and self._standin.state is State.RUNNING:
            self._publisher.publish(messages)
            if self._full:
                self._kernel.hold("iopub", True)  # its connection may be another one than was held
            return
        for message in messages:
            if channel == "hb" or (channel == "stdin" and self._standin.state is State.RUNNING):
                self._routers[channel].send(message)
            else:
                self._hear(self._standin.from_kernel, channel, message)

    def _hear(self, handle: Callable[[str, bytes], None], channel: str, message: bytes) -> None:
        try:
            handle(channel, message)
        except Exception:  # those behind it are not to wait for ever
            log.exception("A message on the %s channel was dropped: unexpected error", channel)
        self._tick_when_due()

    def _to_kernel(self, channel: str, message: bytes) -> None:
        if self._standin.state is State.ATTACHING:
            self._kernel.probe(message)
        else:
            self._kernel.send(channel, message)

    def _to_clients(self, channel: str, message: bytes) -> None:
        if channel == "iopub":
            self._publisher.publish([message])
        else:
            self._routers[channel].send(message)

    def _hold_clients(self, channel: str, whether: bool) -> None:
        if channel in self._routers and (self._standin.state is State.RUNNING or not whether):
            self._routers[channel].hold(whether)

    def _hold_kernel(self, whether: bool) -> None:
        self._full = whether
        self._kernel.hold("iopub", whether)

    # ----------------------------------------------------------------------- time

    def _tick_when_due(self) -> None:
        """Have the stand-in's timer run."""
        due = self._standin.due
        if self._tick is not None and (due is None or due != self._tick.when()):
            self._tick.cancel()
            self._tick = None
        if due is not None and self._tick is None and not self._closed:
            self._tick = asyncio.get_running_loop().call_at(due, self._do_what_is_due)

    def _do_what_is_due(self) -> None:
        self._tick = None
        self._standin.tick()
        self._tick_when_due()


def _link(name: Path, target: str) -> None:
    """Have clients find a socket by a name that jupyter_client removes at restarts (`cleanup_ipc_files`).

    To bind it anew would leave the connections that there are with nobody.
    """
    if not name.is_symlink():
        name.symlink_to(target)
