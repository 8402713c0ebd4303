"""A kernel whose job ended, in jupyter_server: how its users come to know why, and to another job when they restart it.

JupyterLab (4.6, `KernelConnection` and `SessionContext`) shows a kernel's `reason` in one case only: a websocket could
not be opened, and the kernel's model says "dead". From then on it never uses that kernel again, and its Restart does
nothing. But every ten seconds it looks which kernel the notebook's session has, and takes up another one.

So when a client was told that the kernel is dead, its sessions get another one, which has no job before its user
restarts it. Were the dead kernel only removed, a page that is loaded would start a kernel for its notebook by itself,
hence a job that nobody asked for.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traitlets import Bunch

__all__ = ["TELL_TIME", "ServedKernel"]

#: Seconds in which clients that were told that the kernel is dead ask why.
TELL_TIME = 2.0
#: Seconds until a successor may be called dead, too: JupyterLab then no longer tries to connect for those who know.
QUIET_TIME = 150.0

#: Why kernels that are about to be started have no job.
_successors: dict[str, str] = {}


class ServedKernel:
    """What jupyter_server and its clients are to think of a kernel; with any other kernel manager there is no need.

    Parameters
    ----------
    manager : jupyter_client.manager.KernelManager or None
        The kernel's manager.
    """

    def __init__(self, manager: Any) -> None:
        served = manager is not None and manager.has_trait("execution_state") and manager.has_trait("reason")
        self._manager: Any = manager if served else None
        self._quiet_until = 0.0
        self._succession: asyncio.Future[None] | None = None
        #: Why there is no kernel, and will be none before its user restarts it; "" otherwise.
        self.lack = ""
        #: The keywords that it was launched with.
        self.keywords: Mapping[str, Any] = {}
        if served:
            manager.observe(self._execution_state_changed, "execution_state")

    def is_successor(self) -> bool:
        """Return whether the kernel, about to be launched for the first time, has to wait for its user's restart."""
        return self._manager is not None and self._manager.kernel_id in _successors

    def wait(self) -> None:
        """Begin as a successor, in the place of a kernel that its users know to be dead."""
        self._manager.stop_restarter()
        self.lack = _successors.pop(self._manager.kernel_id, self.lack)
        self._quiet_until = time.monotonic() + QUIET_TIME

    def failed(self, error: Exception) -> None:
        """Note why there is no kernel."""
        if self._manager is not None:
            self.lack = self._manager.reason = str(error)

    def tell(self, reason: str) -> None:
        """Have the model say why the kernel died, which may be replaced in its job."""
        if self._manager is not None:
            self._manager.reason = reason

    def started(self) -> None:
        """Note that the kernel is up, which jupyter_server does not by itself."""
        if self._manager is not None:
            self._manager.reason = ""
            if self._manager.execution_state == "dead":
                self._manager.execution_state = "starting"

    def stopping(self) -> None:
        """Note that the kernel is being shut down, perhaps for a restart."""
        self.lack = ""

    def refuse(self) -> None:
        """Refuse a websocket, which jupyter_server would hold for a minute to see the kernel come alive.

        Raises
        ------
        HTTPError
            Always.
        """
        from tornado.web import HTTPError  # noqa: PLC0415 (jupyter_server has it; others need not pay)

        self._manager.reason = self.lack
        if time.monotonic() > self._quiet_until:
            self._manager.execution_state = "dead"
        raise HTTPError(503, self.lack)

    def _execution_state_changed(self, change: Bunch) -> None:
        if change.new == "dead":  # so says jupyter_server when it refuses a websocket, too
            asyncio.get_running_loop().call_later(TELL_TIME, self._end_succession)

    def _is_dead(self) -> bool:
        return bool(self.lack) and self._manager.execution_state == "dead"

    def _end_succession(self) -> None:
        if self._is_dead():
            self._succession = asyncio.ensure_future(self._succeed())

    async def _succeed(self) -> None:
        """Give the kernel's sessions another one; without sessions, leave it as it is."""
        old, kernels = self._manager.kernel_id, self._manager.parent
        sessions: Any = getattr(getattr(kernels, "parent", None), "session_manager", None)
        if sessions is None or old not in kernels:
            return
        mine = [session["id"] for session in await sessions.list_sessions() if session["kernel"]["id"] == old]
        if not mine:
            return
        new = str(uuid.uuid4())
        _successors[new] = self.lack
        # the manager's log has whatever goes wrong here; Change Kernel then remains
        await kernels.start_kernel(kernel_id=new, kernel_name=self._manager.kernel_name, **self.keywords)
        if not self._is_dead():  # its user was quicker
            await kernels.shutdown_kernel(new)
            return
        for session in mine:
            await sessions.update_session(session, kernel_id=new)
        await kernels.shutdown_kernel(old)
        await self._manager.cleanup_resources()  # left out by jupyter_client where the last start failed
