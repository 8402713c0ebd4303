"""The job behind one kernel object: one after another, over restarts, with endpoints that stay.

Everything here runs on the background loop, but for the plain attributes that `poll` reads.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from typing import Any

from . import cluster
from .allocation import Allocation
from .cluster import Place
from .config import KernelConfig
from .errors import SlurmProvisionerError
from .link import Link
from .loop import to_the_end
from .request import KernelCommand

__all__ = ["KernelJob"]


class KernelJob:
    """What jupyter_client's kernel object has instead of a process.

    Parameters
    ----------
    config : KernelConfig
        What to ask Slurm for.
    kernel_id : str
        Jupyter's id of the kernel.
    log : logging.Logger
        Where the kernel's story is told.
    """

    def __init__(self, config: KernelConfig, kernel_id: str, log: logging.Logger) -> None:
        self._kernel_id = kernel_id
        self._log = log
        self._cluster = cluster.acquire(Place(config.clusters or "", config.slurm_bin or ""))
        self._link = Link(self._cluster.transport, log)
        #: The current job; None before the first one, and after a launch that failed.
        self.allocation: Allocation | None = None
        #: Whether everything was given back.
        self.closed = False
        self._giving_back: asyncio.Future[None] | None = None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the kernel process, negative for a signal; None while it is not known to have ended."""
        if self.closed:
            return -int(signal.SIGTERM)
        return self.allocation.record.exit_code if self.allocation is not None else None

    @property
    def obituary(self) -> str:
        """Why there is no kernel any more, for people; "" while there may be one, or its end was wanted."""
        return self.allocation.record.obituary if self.allocation is not None else ""

    @property
    def job_id(self) -> str | None:
        """Slurm's id of the job, if there is one."""
        return (self.allocation.record.job_id or None) if self.allocation is not None else None

    async def open(self) -> dict[str, Any]:
        """Return the kernel's endpoints, which hold what connects to them until there is a kernel."""
        await self._link.open()
        return self._link.endpoints

    async def launch(self, config: KernelConfig, command: KernelCommand, *, new_job: bool) -> dict[str, Any]:
        """Start a kernel: in the job if there is one, else in a new one. Return its endpoints.

        Parameters
        ----------
        config : KernelConfig
            What to ask Slurm for.
        command : KernelCommand
            What to run.
        new_job : bool
            Whether a job that ended may be followed by a new one: the user's choice, never Jupyter's.

        Raises
        ------
        JobEndedError
            The job ended, and there may be no new one.
        SlurmProvisionerError
            There is no kernel. A job submitted for it is cancelled.
        """
        endpoints = await self.open()
        now = self.allocation
        if now is not None and not now.record.over:
            try:
                await now.restart(command)
            except asyncio.CancelledError:
                await to_the_end(now.end())
                raise
            except SlurmProvisionerError:
                if not now.record.over:  # the allocation is kept, for another try; it may have been waited for long
                    raise
            else:
                return endpoints
        if now is not None and not new_job:
            raise await now.end_error()
        await self._submit(config, command)
        return endpoints

    async def _submit(self, config: KernelConfig, command: KernelCommand) -> None:
        not_before = 0.0
        if self.allocation is not None:
            await self.allocation.end()
            not_before = self.allocation.may_run_until
            wait = not_before - asyncio.get_running_loop().time()
            if wait > 0:
                self._log.warning(
                    "Node %s was lost. What may still run there ends by itself within %d s (`lease`); the new job "
                    "starts after that, so that no two kernels write your files.",
                    self.allocation.record.node,
                    wait,
                )
        self.allocation = Allocation(self._cluster, self._link, config, self._kernel_id, self._log)
        try:
            await self.allocation.start(command, not_before=not_before)
        except BaseException:
            self.allocation = None
            raise

    def info(self) -> dict[str, Any] | None:
        """Return what another process needs to take the kernel over, fit for JSON; None if there is no kernel."""
        now = self.allocation
        if now is None or now.record.over or not now.record.up.is_set():
            return None
        return now.info()

    async def adopt(self, config: KernelConfig, info: Mapping[str, Any]) -> dict[str, Any]:
        """Take over the kernel of another process. Return its new endpoints.

        Raises
        ------
        ConfigError
            That is not what `info` returned.
        """
        await self._link.open()
        self.allocation = Allocation(self._cluster, self._link, config, self._kernel_id, self._log)
        await self.allocation.adopt(info)
        return self._link.endpoints

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group; without a kernel, do nothing. Never raises."""
        if self.allocation is not None:
            await self.allocation.signal(signum)

    def expect_exit(self) -> None:
        """Take the kernel's coming end as wanted."""
        if self.allocation is not None:
            self.allocation.record.stopping = True

    async def wait(self) -> int:
        """Wait for the end of the kernel process and return its exit code."""
        return await self.allocation.wait() if self.allocation is not None else 0

    async def leave(self) -> None:
        """Let go of a persistent kernel: its job goes on."""
        now, self.allocation = self.allocation, None
        if now is not None:
            now.leave()
        await to_the_end(self._close())

    async def give_back(self) -> None:
        """End the job, close everything, and remove the run directory unless it tells of a failure.

        It is done once, to its end, whoever asks for it and is cancelled meanwhile.
        """
        if self._giving_back is None:
            self._giving_back = asyncio.ensure_future(self._give_back())
        await asyncio.shield(self._giving_back)

    async def _give_back(self) -> None:
        now, self.allocation = self.allocation, None
        try:
            if now is not None:
                ended_by_itself = now.record.over
                await now.end()
                await now.tidy(keep_log=ended_by_itself)
        finally:
            await self._close()

    async def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        await self._link.aclose()
        await cluster.release(self._cluster)
