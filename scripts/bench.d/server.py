"""A server with many kernels, which are tiny ones, so that hundreds fit on a small machine."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.multikernelmanager import AsyncMultiKernelManager

__all__ = ["Server", "first_result"]

_ARGV = [sys.executable, str(Path(__file__).with_name("tiny_kernel.py")), "{connection_file}"]
#: Jobs have machines of their own elsewhere; here they give way to the server, which is measured, and leave it the
#: first core. Where Linux groups processes by session (sched(7), autogroup), it is the group that does; a kernel's is
#: its own.
_GIVE_WAY = (
    "renice -n 19 -p $$ > /dev/null; "
    "{ taskset -cp 1-$(($(nproc --all) - 1)) $$; echo 19 > /proc/self/autogroup; } > /dev/null 2>&1"
)
_RESOURCES = {
    "time": "60",
    "mem": "100M",
    "cpus_per_task": 1,
    "job_name": "bench",
    "prologue": f"{_GIVE_WAY} || true",
}
#: Seconds until the last of many kernels has answered.
PATIENCE = 300


class _Specs(KernelSpecManager):
    """The two ways to a tiny kernel."""

    more: Mapping[str, Any] = {}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        stanza = {"provisioner_name": "slurm-provisioner", "config": {**_RESOURCES, **self.more}}
        if kernel_name != "slurm":
            return KernelSpec(argv=_ARGV, language="python", display_name=kernel_name)
        argv = ["/bin/sh", "-c", f'{_GIVE_WAY}; exec "$@"', "sh", *_ARGV]
        return KernelSpec(
            argv=argv, language="python", display_name=kernel_name, metadata={"kernel_provisioner": stanza}
        )


@dataclass
class Started:
    """Kernels that were started at once: their ids, when each `start_kernel` returned, when each had a first result."""

    ids: list[str] = field(default_factory=list)
    returned: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)


class Server:
    """Starts kernels in one way: `slurm` or `local`; `more` is what the kernelspec has besides."""

    def __init__(self, way: str, more: Mapping[str, Any] | None = None) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        specs = _Specs()
        specs.more = more or {}
        self._way = way
        self._kernels = AsyncMultiKernelManager(kernel_spec_manager=specs)

    async def start(self, count: int, *, answers: bool = True) -> Started:
        """Start kernels at once, and wait for a result of each unless none can come."""
        began, started = time.perf_counter(), Started()

        async def one() -> None:
            kernel_id = await self._kernels.start_kernel(kernel_name=self._way)
            started.ids.append(kernel_id)
            started.returned.append(time.perf_counter() - began)
            if answers:
                await first_result(self.kernel(kernel_id))
                started.answered.append(time.perf_counter() - began)

        await asyncio.gather(*(one() for _ in range(count)))
        return started

    def kernel(self, kernel_id: str) -> AsyncKernelManager:
        return cast("AsyncKernelManager", self._kernels.get_kernel(kernel_id))

    def allocation(self, kernel_id: str) -> Any:
        """What this package knows of a kernel's job."""
        provisioner: Any = self.kernel(kernel_id).provisioner
        return provisioner.allocation

    async def shut_down(self, ids: list[str] | None = None) -> float:
        """Shut kernels down at once, or all; return how many seconds that took."""
        began = time.perf_counter()
        ids = self._kernels.list_kernel_ids() if ids is None else ids
        await asyncio.gather(*(self._kernels.shutdown_kernel(kernel_id) for kernel_id in ids))
        return time.perf_counter() - began


async def first_result(kernel: AsyncKernelManager) -> None:
    """Return when a new client has had the result of its first cell."""
    client = kernel.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=PATIENCE)
        request = client.execute("1 + 1")
        while (await client.get_shell_msg(timeout=PATIENCE))["parent_header"].get("msg_id") != request:
            pass
    finally:
        client.stop_channels()
