"""How a job and its supervisor are seen to have started: by files of the run directory, sooner than by squeue."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from .batch import PROGRESS
from .transport import Node, Transport

__all__ = ["Arrival", "await_supervisor"]


_CONNECTION = "connection.json"


@dataclass(frozen=True)
class Arrival:
    """Where a supervisor is.

    Attributes
    ----------
    node : Node
        Its node.
    hosts : tuple of str
        Addresses to reach it by.
    port : int
        Its TLS port.
    python : str
        The version of the Python that runs it.
    told_at : float
        When it told this, by the clock of its node, in seconds since the epoch; NaN if that is not known.
    """

    node: Node
    hosts: tuple[str, ...]
    port: int
    python: str = ""
    told_at: float = math.nan


async def await_supervisor(transport: Transport, run_dir: str, nonce: str, doing: Callable[[str], None]) -> Arrival:
    """Wait until the supervisor of a launch tells where it is; tell `doing` each step of the batch script before that.

    The first step is the news that the job runs. A connection file may be half there, or another launch's: some file
    systems are late.
    """
    async with aclosing(transport.news(run_dir, (PROGRESS, _CONNECTION))) as news:
        async for name, content in news:
            if name == PROGRESS:
                if steps := content.decode(errors="replace").split("\n")[:-1]:  # the last line may be half there
                    doing(steps[-1])
            elif (arrival := _read(content, nonce)) is not None:
                return arrival
    raise AssertionError("there is no end of news")


def _read(content: bytes, nonce: str) -> Arrival | None:
    """Return what a connection file says; None if it is not whole, or another launch's."""
    with suppress(ValueError, TypeError, KeyError):
        document = json.loads(content)
        if document["nonce"] == nonce:
            node = Node(str(document["node"]), tuple(map(str, document["ssh_host_keys"])))
            where = node, tuple(map(str, document["hosts"])), int(document["port"])
            return Arrival(*where, str(document.get("python", "")), float(document.get("time", "nan")))
    return None
