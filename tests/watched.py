"""A kernel as jupyter_server has it, looked after by its restarter, and a notebook that is open all the time."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from kernels import PATIENCE, log, plain
from traitlets.config import Config

JOB_ID = "import os; print(os.environ['SLURM_JOB_ID'])"
#: Prints "begun", and is at work for longer than any test.
ENDLESS = "import time; print('begun', flush=True)\ntime.sleep(600)"


class Cell:
    """What a cell of the notebook shows, and how it ends.

    Attributes
    ----------
    printed : str
        What it printed, or returned.
    lines : list of str
        Every line that was ever shown in it about its kernel, in order.
    shown : dict
        The lines that it shows now, by display.
    reply : dict or None
        The kernel's reply.
    """

    def __init__(self) -> None:
        self.printed = ""
        self.lines: list[str] = []
        self.shown: dict[str, str] = {}
        self.errors: list[str] = []
        self.reply: dict[str, Any] | None = None
        self.idle = False

    def take(self, msg: dict[str, Any]) -> None:
        kind, content = msg["msg_type"], msg["content"]
        if kind == "execute_reply":
            self.reply = content
        elif kind == "status":
            self.idle = content["execution_state"] == "idle"
        elif kind == "stream":
            self.printed += content["text"]
        elif kind == "execute_result":
            self.printed += content["data"]["text/plain"]
        elif kind in ("display_data", "update_display_data"):
            self.lines.append(content["data"]["text/plain"].rstrip("\n"))
            self.shown[content["transient"]["display_id"]] = self.lines[-1]
        elif kind == "clear_output":
            self.printed = ""
            self.shown.clear()
        elif kind == "error":
            self.errors.append(plain("\n".join(content["traceback"])))

    async def end(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """The reply of a cell that has ended."""
        await until(lambda: self.idle and self.reply is not None, "the end of the cell", timeout)
        assert self.reply is not None
        return self.reply

    async def error(self, timeout: float = PATIENCE) -> str:
        """The one error that it ends with, on one line."""
        assert (await self.end(timeout))["status"] == "error", self.reply
        assert len(self.errors) == 1
        return self.errors[0]

    async def begun(self) -> Cell:
        """Wait until it is at work."""
        await until(lambda: "begun" in self.printed, "a cell at work")
        return self

    async def shows(self, pattern: str, timeout: float = PATIENCE) -> str:
        """The first line that was shown in it and has that pattern."""
        await until(lambda: any(re.search(pattern, line) for line in self.lines), f"a line with {pattern!r}", timeout)
        return next(line for line in self.lines if re.search(pattern, line))


class Watched:
    """The kernel. Its client connects once, as a notebook does, and never again."""

    def __init__(self, name: str, **traits: Any) -> None:
        config = Config(KernelRestarter={"time_to_dead": 0.2})
        self.manager = ServerKernelManager(kernel_name=name, config=config, **traits)
        self.restarts = 0
        self.client: AsyncKernelClient
        self._cells: dict[str, Cell] = {}
        self._readers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.manager.start_kernel()
        self.manager.add_restart_callback(self._count)
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=PATIENCE)
        receive = (self.client.get_iopub_msg, self.client.get_shell_msg)
        self._readers = [asyncio.ensure_future(self._read(each)) for each in receive]

    def _count(self) -> None:
        self.restarts += 1

    async def _read(self, receive: Callable[[], Any]) -> None:
        while True:
            msg = await receive()
            cell = self._cells.get(msg["parent_header"].get("msg_id"))
            if cell is not None:
                cell.take(msg)

    @property
    def job_id(self) -> str:
        return self.manager.provisioner.job_id

    def cell(self, code: str) -> Cell:
        """Run a cell, and do not wait for it."""
        cell = self._cells[self.client.execute(code)] = Cell()
        return cell

    async def run(self, code: str, timeout: float = PATIENCE) -> str:
        """What a cell prints or returns."""
        cell = self.cell(code)
        reply = await cell.end(timeout)
        assert reply["status"] == "ok", reply
        return cell.printed.strip()

    async def close(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self.client.stop_channels()
        if self.manager.has_kernel:
            await self.manager.shutdown_kernel()
        await self.manager.cleanup_resources()


async def until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
    """As `eventually`, while the event loop goes on."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + timeout, f"never happened: {what}"
        await asyncio.sleep(0.02)
    log.info("%s after %.2f s", what, time.monotonic() - begin)


@contextlib.asynccontextmanager
async def watched(name: str, *, queued: bool = False, **traits: Any) -> AsyncIterator[Watched]:
    """A kernel that is up, unless its job is to stay `queued`."""
    kernel = Watched(name, **traits)
    await kernel.start()
    try:
        if not queued:
            await kernel.run("pass")
        yield kernel
    finally:
        await kernel.close()
