"""A cluster as this process sees it: one transport, one Slurm, one watcher, shared by all its kernels."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import CommandError
from .slurm import Slurm
from .transport import Transport
from .transport.local import LocalTransport
from .watcher import Watcher

__all__ = ["Cluster", "Place", "acquire", "release"]

log = logging.getLogger("slurm_provisioner")

#: Seconds until a controller that could not be told to cancel a job is told again: first, and at most.
CANCEL_FIRST, CANCEL_LAST = 3.0, 30.0


@dataclass(frozen=True)
class Place:
    """What tells one cluster from another.

    Attributes
    ----------
    clusters : str
        The name within a federation (``--clusters``), or "".
    bin_dir : str
        The folder of Slurm's commands, or "".
    """

    clusters: str = ""
    bin_dir: str = ""


@dataclass
class Cluster:
    """A cluster in use. Belongs to the background loop."""

    place: Place
    transport: Transport
    slurm: Slurm
    watcher: Watcher
    users: int = 0
    _pruned: set[str] = field(default_factory=set)
    _cancelling: set[asyncio.Task[None]] = field(default_factory=set)

    async def prune(self, state_dir: str) -> None:
        """Remove what is left of old failures, once for a folder."""
        if state_dir not in self._pruned:
            self._pruned.add(state_dir)
            await self.slurm.prune(state_dir)

    def cancel_later(self, job_id: str, done: Callable[[], None]) -> None:
        """Have a job cancelled however long the controller does not answer, and `done` called then."""
        self.users += 1
        task = asyncio.ensure_future(self._cancel(job_id, done))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, job_id: str, done: Callable[[], None]) -> None:
        pause = CANCEL_FIRST
        try:
            while True:
                await asyncio.sleep(pause)
                try:
                    await self.slurm.cancel(job_id)
                except CommandError:
                    pause = min(2 * pause, CANCEL_LAST)
                else:
                    log.info("Job %s is cancelled now.", job_id)
                    done()
                    return
        finally:
            await release(self)


_clusters: dict[Place, Cluster] = {}
# a forked child has a background loop of its own, to which the parent's clusters do not belong
os.register_at_fork(after_in_child=_clusters.clear)


def acquire(place: Place) -> Cluster:
    """Return the process's cluster of that place, made on first use. To be called on the background loop."""
    cluster = _clusters.get(place)
    if cluster is None:
        transport = LocalTransport()
        slurm = Slurm(transport, clusters=place.clusters, bin_dir=place.bin_dir)
        cluster = _clusters[place] = Cluster(place, transport, slurm, Watcher(slurm, log))
    cluster.users += 1
    return cluster


async def release(cluster: Cluster) -> None:
    """Give a cluster back; its last user closes it."""
    cluster.users -= 1
    if cluster.users == 0 and _clusters.get(cluster.place) is cluster:
        del _clusters[cluster.place]
        await cluster.transport.aclose()
