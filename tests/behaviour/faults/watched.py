"""A kernel as jupyter_server has it: looked after by its restarter, and with a reason to show when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from conftest import Heard, log
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from traitlets.config import Config


class Watched:
    def __init__(self, name: str) -> None:
        self.manager = ServerKernelManager(kernel_name=name, config=Config(KernelRestarter={"time_to_dead": 0.2}))
        self.restarts = 0
        self.client: AsyncKernelClient

    async def start(self) -> None:
        await self.manager.start_kernel()
        self.manager.add_restart_callback(self._count)
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=60)
        self.job_id: str = self.manager.provisioner.job_id

    def _count(self) -> None:
        self.restarts += 1

    async def run(self, code: str) -> str:
        heard = Heard()
        await self.client.execute_interactive(code, timeout=60, output_hook=heard)
        return heard.text()

    async def restarted(self) -> None:
        """Wait until the restarter has put a new kernel in the place of a dead one."""
        await until(lambda: self.restarts > 0, "the news of the kernel's death")
        while not await self.manager.is_alive():
            await asyncio.sleep(0.05)
        await self.client.wait_for_ready(timeout=60)

    async def reason(self, timeout: float = 30) -> str:
        """Why there is no kernel any more, as jupyter_server shows it."""
        await until(lambda: self.restarts > 0, "the news of the job's end", timeout)
        await until(lambda: self.manager.reason, "the reason")
        return self.manager.reason

    async def close(self) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            await self.manager.shutdown_kernel()
        await self.manager.cleanup_resources()  # a kernel whose last start failed gets no shutdown


async def until(condition: Callable[[], Any], what: str, timeout: float = 30) -> None:
    """As `eventually`, while the event loop goes on."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + timeout, f"never happened: {what}"
        await asyncio.sleep(0.02)
    log.info("%s after %.2f s", what, time.monotonic() - begin)


@contextlib.asynccontextmanager
async def watched(name: str) -> AsyncIterator[Watched]:
    kernel = Watched(name)
    await kernel.start()
    try:
        yield kernel
    finally:
        await kernel.close()
