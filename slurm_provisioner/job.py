"""The job behind one kernel object: one after another, over restarts, with endpoints that stay.

Everything here runs on the background loop, but for the plain attributes that `poll` reads.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from . import cluster, kernel_info
from .allocation import Allocation
from .cluster import Place
from .config import KernelConfig
from .errors import SlurmProvisionerError
from .herald import Herald, KernelIdentity
from .link import Link
from .loop import seen, to_the_end
from .request import KernelCommand

__all__ = ["KernelJob"]


class KernelJob:
    """What jupyter_client's kernel object has instead of a process.

    Parameters
    ----------
    config : KernelConfig
        What to ask Slurm for.
    kernel : KernelIdentity
        Which kernel it is.
    log : logging.Logger
        Where the kernel's story is told.
    """

    def __init__(self, config: KernelConfig, kernel: KernelIdentity, log: logging.Logger) -> None:
        self._kernel = kernel
        self._log = log
        self._cluster = cluster.acquire(Place(config.clusters or "", config.slurm_bin or "", config.ssh))
        self._link = Link(self._cluster.transport, log)
        self._herald: Herald | None = None
        self._rise: asyncio.Task[None] | None = None
        self._fence = (0.0, "")  # until when a kernel of a former job may run on, and the lost node where
        #: The current job; None before the first one.
        self.allocation: Allocation | None = None
        #: Whether the kernel's end is wanted.
        self.stopping = False
        #: Whether everything was given back.
        self.closed = False
        self._giving_back: asyncio.Future[None] | None = None
        self._launching = asyncio.Lock()

    @property
    def exit_code(self) -> int | None:
        """Exit code of the kernel process, negative for a signal; None while a client would get an answer.

        Once the job has ended, the answer says why, and there is no new job before the user restarts the kernel.
        """
        if self.closed:
            return -int(signal.SIGTERM)
        if not self.stopping:
            return self._herald.exit_code if self._herald is not None else None
        if self.allocation is None or not self.allocation.record.up.is_set():
            return 0  # there is no kernel to be waited for
        return self.allocation.record.exit_code

    @property
    def crashed(self) -> bool:
        """Whether the kernel ended by itself in a job that goes on, or went on for a while."""
        return self._herald is not None and self._herald.exit_code is not None

    @property
    def job_id(self) -> str | None:
        """Slurm's id of the job, if there is one."""
        return (self.allocation.record.job_id or None) if self.allocation is not None else None

    # ------------------------------------------------------------------- launch

    async def launch(self, config: KernelConfig, command: KernelCommand, *, new_job: bool) -> dict[str, Any]:
        """Start a kernel: in the job if there is one, else in a new one. Return where its clients connect.

        They are heard at once; a job in the queue keeps its place there. Only the first launch raises: later ones have
        clients who are told, and the user's restart tries again.

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
        SlurmProvisionerError
            There is no job, or, with ``start: block``, no kernel. A job submitted for it is cancelled.
        """
        herald, endpoints = await self._open()
        first, self.stopping = self.allocation is None, False
        try:
            async with self._turn():
                await self._start(herald, config, command, new_job=new_job)
            if config.start == "block" and self._rise is not None:
                await asyncio.shield(self._rise)  # a launch that is cancelled is given back by whoever wanted it
        except SlurmProvisionerError as error:
            if first:
                raise
            self._log.warning("%s", error)
            herald.end(error)
        return endpoints

    async def wait_until_up(self) -> None:
        """Wait until the kernel of the last launch is up.

        Raises
        ------
        SlurmProvisionerError
            There is none, and why.
        """
        if self._rise is not None:
            await asyncio.shield(self._rise)

    async def _open(self) -> tuple[Herald, dict[str, Any]]:
        """Bind the endpoints, and give those a name again whose files jupyter_client has removed."""
        async with self._turn():
            info = await asyncio.to_thread(kernel_info.load, self._kernel.kernelspec) if self._herald is None else {}
            async with self._cluster.opening:
                if self._herald is None:
                    self._herald = Herald(self._kernel, info, self._link, self._log)
                await self._herald.front.open()
            return self._herald, self._herald.front.endpoints

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Have nothing closed meanwhile, and be cancelled if that has begun."""
        async with self._launching:
            self._go_on()
            yield

    def _go_on(self) -> None:
        if self._giving_back is not None:
            raise asyncio.CancelledError

    async def _start(self, herald: Herald, config: KernelConfig, command: KernelCommand, *, new_job: bool) -> None:
        now = self.allocation
        if now is not None and not now.record.over and await self._start_again(herald, now, command):
            return
        if now is not None and not new_job:
            raise await now.end_error()
        herald.expect()
        await self._submit(herald, config, command)

    async def _start_again(self, herald: Herald, now: Allocation, command: KernelCommand) -> bool:
        """Start a kernel in a job that goes on; return False if it does not go on."""
        if not self.crashed:  # else clients know it, and what they ask for since is for the new kernel
            herald.expect()
        if self._rise is not None and not self._rise.done():
            if not now.record.reached.is_set():
                return True  # it is on its way already
            self._rise.cancel()
            self._rise = None
        try:
            await now.restart(command)
        except asyncio.CancelledError:
            await to_the_end(now.end())
            raise
        except SlurmProvisionerError:
            if now.record.over:
                return False
            raise  # the allocation is kept, for another try; it may have been waited for long
        herald.begin()
        return True

    async def _submit(self, herald: Herald, config: KernelConfig, command: KernelCommand) -> None:
        if (former := self.allocation) is not None:
            await former.end()
            self._fence = max(self._fence, (former.may_run_until, former.record.node))
        self._go_on()
        not_before, lost_node = self._fence
        wait = not_before - asyncio.get_running_loop().time()
        if wait > 0:
            self._log.warning(
                "Node %s was lost. What may still run there ends by itself within %d s (`lease`); the new job "
                "starts after that, so that no two kernels write your files.",
                lost_node,
                wait,
            )
        now = Allocation(self._cluster, self._link, config, self._kernel.kernel_id, self._log)
        now.record.lost_node = lost_node if wait > 0 else ""
        before, self.allocation = self.allocation, now
        herald.follow(now)
        try:
            await now.submit(command, not_before=not_before)
        except BaseException:
            self.allocation = before
            raise
        self._rise = asyncio.ensure_future(self._bring_up(herald, now))
        self._rise.add_done_callback(seen)  # its clients know

    async def _bring_up(self, herald: Herald, now: Allocation) -> None:
        try:
            await now.wait_until_up()
        except SlurmProvisionerError as error:
            if self._giving_back is None:
                self._log.warning("%s", error)
                herald.end(error)
            raise
        herald.begin()

    # ----------------------------------------------------------------- takeover

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
        herald, endpoints = await self._open()
        now = self.allocation = Allocation(self._cluster, self._link, config, self._kernel.kernel_id, self._log)
        herald.follow(now)
        await now.adopt(info)
        herald.begin()
        return endpoints

    # ------------------------------------------------------------------- control

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group; without a kernel, do nothing. Never raises.

        An interrupt ends cells that wait for a kernel.
        """
        rising = self._rise is not None and not self._rise.done()
        if signum == signal.SIGINT and self._herald is not None and self._herald.front.interrupt():
            return
        if self.allocation is not None and not rising:  # a kernel that is on its way is not ended for another one
            await self.allocation.signal(signum)

    def expect_exit(self) -> None:
        """Take the kernel's coming end as wanted."""
        self.stopping = True
        if self.allocation is not None and self.allocation.record.up.is_set():
            self.allocation.record.stopping = True

    async def wait(self) -> int:
        """Wait for the end of the kernel process and return its exit code."""
        code = self.exit_code
        if code is not None or self.allocation is None:
            return code or 0
        return await self.allocation.wait()

    # ----------------------------------------------------------------------- end

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
        try:
            if self._herald is not None:
                self._herald.leave()
            await self._end()
            async with self._launching:  # a launch that is broken off ends its job by the same connection
                await self._end()
            if self._rise is not None:
                await asyncio.wait([self._rise])  # the end of its job ends it, with an error for who waits for it
        finally:
            await self._close()

    async def _end(self) -> None:
        now, self.allocation = self.allocation, None
        if now is not None:
            ended_by_itself = now.record.over
            await now.end()
            await now.tidy(keep_log=ended_by_itself)

    async def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        async with AsyncExitStack() as stack:  # each of them, whatever becomes of the others
            stack.push_async_callback(cluster.release, self._cluster)
            stack.push_async_callback(self._link.aclose)
            if self._herald is not None:
                stack.push_async_callback(self._herald.front.aclose)
                self._herald.leave()
