"""One squeue per cluster and interval, for all kernels of the process.

A watch is told what Slurm says of its job, and that only on evidence: a controller that does not answer is no
news, and a job that squeue no longer lists has ended only once scontrol or sacct say how, or squeue has gone
without it for `VANISHED_AFTER`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from .errors import CommandError
from .slurm import JobStatus, Phase, Slurm

__all__ = ["Watch", "Watcher"]

#: Seconds between two polls while a job is young or about to change.
YOUNG_INTERVAL = 1.0
#: A queued job is asked for every tenth of its age, at most every so many seconds.
QUEUED_INTERVAL = 30.0
#: Seconds between two polls for a job whose supervisor speaks for it.
LINKED_INTERVAL = 300.0
#: A job counts as young for so many seconds.
YOUNG = 20.0
#: Seconds without a job in squeue's answers after which it has ended, where neither scontrol nor sacct know it.
VANISHED_AFTER = 30.0


class Watch:
    """The interest of one kernel in one job. Made by `Watcher.watch`; close it when done."""

    def __init__(self, watcher: Watcher, job_id: str, seen: Callable[[JobStatus], None]) -> None:
        self.job_id = job_id
        self.linked = False
        self.missing_since: float | None = None
        self._watcher = watcher
        self.seen = seen
        self._young_since = time.monotonic()

    @property
    def interval(self) -> float:
        """Seconds until Slurm should be asked again."""
        age = time.monotonic() - self._young_since
        if age < YOUNG or self.missing_since is not None:
            return YOUNG_INTERVAL
        if self.linked:
            return LINKED_INTERVAL
        return min(max(age / 10, YOUNG_INTERVAL), QUEUED_INTERVAL)

    def hurry(self) -> None:
        """Ask at once, and often for a while: something happened to the job."""
        self._young_since = time.monotonic()
        self._watcher.wake()

    def close(self) -> None:
        """Stop watching."""
        self._watcher.forget(self)


class Watcher:
    """Polls one cluster while there is a job to watch, and rests otherwise."""

    def __init__(self, slurm: Slurm, log: logging.Logger) -> None:
        self._slurm = slurm
        self._log = log
        self._watches: set[Watch] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._silent = False

    def watch(self, job_id: str, seen: Callable[[JobStatus], None]) -> Watch:
        """Have `seen` called with each status of a job that Slurm tells, until the watch is closed."""
        watch = Watch(self, job_id, seen)
        self._watches.add(watch)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._poll_for_ever())
        self.wake()
        return watch

    def forget(self, watch: Watch) -> None:
        """Drop a watch; the last one ends the polling."""
        self._watches.discard(watch)
        if not self._watches and self._task is not None:
            self._task.cancel()
            self._task = None

    def wake(self) -> None:
        """Look at the intervals again."""
        self._wake.set()

    async def _poll_for_ever(self) -> None:
        last = 0.0
        while self._watches:
            self._wake.clear()
            due = last + min(watch.interval for watch in self._watches)
            if (pause := due - time.monotonic()) > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                continue
            last = time.monotonic()
            try:
                await self._poll()
            except Exception:
                self._log.exception("Unexpected error while asking Slurm for jobs")

    async def _poll(self) -> None:
        watches = list(self._watches)
        try:
            jobs = await self._slurm.queue(sorted({watch.job_id for watch in watches}))
        except CommandError as error:
            self._say_silent(error)
            return
        self._silent = False
        for watch in watches:
            status = jobs.get(watch.job_id)
            if status is None:
                status = await self._missing(watch)
            else:
                watch.missing_since = None
                if status.phase is Phase.ENDED:
                    # squeue has no exit code
                    status = await self._slurm.look_up(watch.job_id) or status
            if status is not None and watch in self._watches:
                watch.seen(status)

    async def _missing(self, watch: Watch) -> JobStatus | None:
        now = time.monotonic()
        if watch.missing_since is None:
            watch.missing_since = now
        status = await self._slurm.look_up(watch.job_id)
        if status is None and now - watch.missing_since > VANISHED_AFTER:
            return JobStatus(watch.job_id, "NOT_FOUND")
        return status

    def _say_silent(self, error: CommandError) -> None:
        if not self._silent:
            self._log.warning("Slurm could not be asked for jobs, kernels go on: %s", error)
        self._silent = True
