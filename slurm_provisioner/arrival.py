"""How a job and its supervisor are seen to have started: by files of the run directory, sooner than by squeue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .transport import Transport

__all__ = ["Arrival", "await_supervisor"]

#: Seconds until a connection file is read again that is half there, or another launch's: some file systems are late.
STALE_PAUSE = 0.2


@dataclass(frozen=True)
class Arrival:
    """Where a supervisor is.

    Attributes
    ----------
    node : str
        Slurm's name of its node.
    hosts : tuple of str
        Addresses to reach it by.
    port : int
        Its TLS port.
    """

    node: str
    hosts: tuple[str, ...]
    port: int


async def await_supervisor(transport: Transport, run_dir: str, nonce: str, started: Callable[[], None]) -> Arrival:
    """Wait until the supervisor of a launch tells where it is; call `started` once its job runs.

    The log is there from the submission on, empty and private, and the first step of the script writes to it.
    """
    names = ["connection.json", "job.log"]
    while True:
        name, content = await transport.await_file(run_dir, names)
        if name == "job.log":
            started()
            names.remove(name)
        elif (arrival := _read(content, nonce)) is not None:
            started()
            return arrival
        else:
            await asyncio.sleep(STALE_PAUSE)


def _read(content: bytes, nonce: str) -> Arrival | None:
    """Return what a connection file says; None if it is not whole, or another launch's."""
    with suppress(ValueError, TypeError, KeyError):
        document = json.loads(content)
        if document["nonce"] == nonce:
            return Arrival(str(document["node"]), tuple(map(str, document["hosts"])), int(document["port"]))
    return None
