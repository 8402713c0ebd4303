"""Processes that this one starts for the user's commands, each in a session of its own: how they are ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

__all__ = ["end"]


async def end(process: asyncio.subprocess.Process, patience: float) -> None:
    """End a process that leads a session, with all that it has started, and wait so many seconds for it to be gone."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter on macOS
            os.killpg(process.pid, signal.SIGKILL)  # asyncio's own would take its exit code away from asyncio (3.11)
        with contextlib.suppress(asyncio.TimeoutError):  # a hanging file system holds even a killed process
            await asyncio.wait_for(process.wait(), patience)
    if process.stdin is not None and process.returncode is not None:
        # It need not have read all; until Python 3.11.4 asyncio complains of that where nobody asks.
        closed = asyncio.ensure_future(process.stdin.wait_closed())
        for each in (await asyncio.wait({closed}, timeout=patience))[0]:
            each.exception()
