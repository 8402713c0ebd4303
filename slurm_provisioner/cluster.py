"""A cluster as this process sees it: one transport, one Slurm, one watcher, shared by all its kernels."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .errors import CommandError
from .login_host import LoginHost
from .slurm import Slurm
from .transport import Transport
from .transport.local import LocalTransport
from .transport.ssh import SshTransport
from .watcher import Watcher

__all__ = ["Cluster", "Place", "acquire", "release"]

log = logging.getLogger("slurm_provisioner")

#: Seconds until a cluster that could not be told something is told again: first, and at most.
LATER_FIRST, LATER_LAST = 3.0, 30.0


@dataclass(frozen=True)
class Place:
    """What tells one cluster from another.

    Attributes
    ----------
    clusters : str
        The name within a federation (``--clusters``), or "".
    bin_dir : str
        The folder of Slurm's commands, or "".
    login : LoginHost or None
        The login host, where this machine is none.
    """

    clusters: str = ""
    bin_dir: str = ""
    login: LoginHost | None = None


@dataclass
class Cluster:
    """A cluster in use. Belongs to the background loop."""

    place: Place
    transport: Transport
    slurm: Slurm
    watcher: Watcher
    users: int = 0
    #: Held while a kernel's endpoints are made: of many that start at once, each is a turn of the loop.
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pruned: set[str] = field(default_factory=set)
    _doing: set[asyncio.Task[None]] = field(default_factory=set)

    async def prune(self, state_dir: str) -> None:
        """Remove what is left of old failures, once for a folder."""
        if state_dir not in self._pruned:
            self._pruned.add(state_dir)
            await self.slurm.prune(state_dir)

    def do_later(self, what: str, do: Callable[[], Awaitable[None]]) -> None:
        """Have something done however long the cluster does not answer; `what` says that it is done, for the log."""
        self.users += 1
        task = asyncio.ensure_future(self._do(what, do))
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _do(self, what: str, do: Callable[[], Awaitable[None]]) -> None:
        pause = LATER_FIRST
        try:
            while True:
                await asyncio.sleep(pause)
                try:
                    await do()
                except Exception as error:  # nobody else would do it
                    if isinstance(error, CommandError):
                        log.info("Not yet: %s. %s", what, error)
                    else:
                        log.exception("Unexpected error; it is tried again")
                    pause = min(2 * pause, LATER_LAST)
                else:
                    log.info("%s now.", what)
                    return
        finally:
            await release(self)


@dataclass
class _Shared:
    """A transport, and how many clusters are reached by it."""

    transport: Transport
    users: int = 0


_clusters: dict[Place, Cluster] = {}
_transports: dict[LoginHost | None, _Shared] = {}


def _forget() -> None:
    _clusters.clear()
    _transports.clear()


# a forked child has a background loop of its own, to which the parent's clusters do not belong
os.register_at_fork(after_in_child=_forget)


def acquire(place: Place) -> Cluster:
    """Return the process's cluster of that place, made on first use. To be called on the background loop."""
    cluster = _clusters.get(place)
    if cluster is None:
        shared = _transports.get(place.login)
        if shared is None:
            transport = LocalTransport() if place.login is None else SshTransport(place.login)
            shared = _transports[place.login] = _Shared(transport)
        shared.users += 1
        slurm = Slurm(shared.transport, clusters=place.clusters, bin_dir=place.bin_dir)
        cluster = _clusters[place] = Cluster(place, shared.transport, slurm, Watcher(slurm, log))
    cluster.users += 1
    return cluster


async def release(cluster: Cluster) -> None:
    """Give a cluster back; its last user closes it."""
    cluster.users -= 1
    if cluster.users == 0 and _clusters.get(cluster.place) is cluster:
        del _clusters[cluster.place]
        shared = _transports[cluster.place.login]
        shared.users -= 1
        if shared.users == 0:
            del _transports[cluster.place.login]
            await cluster.transport.aclose()
