"""The way from a command to a cluster: one question, and its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..cluster import Cluster, Place, acquire, release
from ..config import KernelConfig
from ..loop import background_loop
from . import show

__all__ = ["ask", "place_of"]

T = TypeVar("T")


def place_of(config: KernelConfig) -> Place:
    """Return the cluster that a configuration means."""
    return Place(config.clusters or "", config.slurm_bin or "", config.ssh)


def ask(place: Place, question: Callable[[Cluster], Awaitable[T]], words: str = "Asking the cluster …") -> T:
    """Ask a cluster something, while people see that something is being done.

    Raises
    ------
    CommandError
        It could not be asked.
    """

    async def go() -> T:
        cluster = acquire(place)
        try:
            return await question(cluster)
        finally:
            await release(cluster)

    answer = background_loop().submit(go())
    try:
        with show.working(words):
            return answer.result()
    except BaseException:
        answer.cancel()
        raise
