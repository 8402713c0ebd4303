"""One squeue per cluster and interval, for all kernels of the process.

A watch is told what Slurm says of its job, and that only on evidence: a controller that does not answer is no
news, and a job that squeue no longer lists has ended only once scontrol or sacct say how, or squeue has gone
without it for `VANISHED_AFTER`.

Where somebody waits for a queued job and Slurm expects no start of it, its position in the queue is asked for, rarely.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from .errors import CommandError, LoginHostError
from .slurm import Slurm
from .status import JobStatus, Phase, Position
from .waiting import Notes

__all__ = ["Watch", "Watcher"]

#: Seconds between two polls while a job is young or about to change, and before the first one.
YOUNG_INTERVAL = 1.0
#: Seconds between two polls for a job that says that it ends, and how long that takes.
ENDING_INTERVAL, ENDING = 0.2, 0.8
#: A queued job is asked for every tenth of its age, at most every so many seconds.
QUEUED_INTERVAL = 30.0
#: Seconds between two polls for a job whose supervisor speaks for it.
LINKED_INTERVAL = 300.0
#: A job counts as young for so many seconds.
YOUNG = 20.0
#: Seconds without a job in squeue's answers after which it has ended, where neither scontrol nor sacct know it.
VANISHED_AFTER = 30.0
#: Seconds until a controller that did not answer is asked again: first, and at most. It may be overloaded.
SILENCE_FIRST, SILENCE_LAST = 2.0, 30.0
#: Seconds that a job is queued before its position is asked for, and between two such questions, each for all jobs: the
#: controller has to hand out its whole queue. Where that takes long, the pause is so many times as long at least.
POSITION_AFTER, POSITION_INTERVAL, POSITION_REST = 60.0, 300.0, 200


class Watch:
    """The interest of one kernel in one job. Made by `Watcher.watch`; close it when done."""

    def __init__(
        self, watcher: Watcher, job_id: str, job_name: str, seen: Callable[[JobStatus], None], notes: Notes
    ) -> None:
        self.job_id = job_id
        self.job_name = job_name
        self.linked = False
        self.missing_since: float | None = None
        self.settling: asyncio.Task[None] | None = None
        self.seen = seen
        self.notes = notes
        self.since = time.monotonic()
        self._watcher = watcher
        self._young_since = self.since
        self._hurries_until = self._ends_until = 0.0

    @property
    def interval(self) -> float:
        """Seconds until Slurm should be asked again."""
        now = time.monotonic()
        if now < self._ends_until:
            return ENDING_INTERVAL
        if now < self._hurries_until:
            return YOUNG_INTERVAL
        if self.linked:
            return LINKED_INTERVAL
        if self.missing_since is not None:
            return YOUNG_INTERVAL
        age = now - self._young_since
        return YOUNG_INTERVAL if age < YOUNG else min(max(age / 10, YOUNG_INTERVAL), QUEUED_INTERVAL)

    def begins(self) -> None:
        """Ask often for a while, unless the supervisor speaks soon: the job has started."""
        self._young_since = time.monotonic()
        self._watcher.wake()

    def hurry(self) -> None:
        """Ask at once, and often for a while, whoever speaks for the job: something happens to it."""
        self._young_since = time.monotonic()
        self._hurries_until = self._young_since + YOUNG
        self._watcher.wake()

    def ends(self) -> None:
        """Ask again and again for a moment: the job says that it ends, and its user waits for the reason."""
        self.hurry()
        self._ends_until = self._young_since + ENDING

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
        self._silence = 0.0
        self._positioning: asyncio.Task[None] | None = None
        self._positions_due = 0.0

    def watch(self, job_id: str, job_name: str, seen: Callable[[JobStatus], None], notes: Notes | None = None) -> Watch:
        """Have `seen` called with each status of a job that Slurm tells, until the watch is closed, and `notes` kept.

        Slurm may use a number again for another job, after it lost its memory: `job_name` tells them apart.
        """
        watch = Watch(self, job_id, job_name, seen, notes or Notes())
        self._watches.add(watch)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._poll_for_ever())
        self.wake()
        return watch

    def forget(self, watch: Watch) -> None:
        """Drop a watch; the last one ends the polling."""
        self._watches.discard(watch)
        if watch.settling is not None and watch.settling is not asyncio.current_task():
            watch.settling.cancel()
        if not self._watches:
            for task in filter(None, (self._task, self._positioning)):
                task.cancel()
            self._task = self._positioning = None

    def wake(self) -> None:
        """Look at the intervals again."""
        self._wake.set()

    async def _poll_for_ever(self) -> None:
        last = 0.0
        while self._watches:
            self._wake.clear()
            # a job that starts at once speaks for itself before anybody has to ask
            due = min(max(last, watch.since) + max(self._silence, watch.interval) for watch in self._watches)
            if (pause := due - time.monotonic()) > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                continue
            try:
                await self._poll()
            except Exception:
                self._log.exception("Unexpected error while asking Slurm for jobs")
            last = time.monotonic()

    async def _poll(self) -> None:
        watches = list(self._watches)
        try:
            jobs = await self._slurm.queue(sorted({watch.job_id for watch in watches}))
        except CommandError as error:
            self._say_silent(error)
            return
        self._silence = 0.0
        for watch in self._watches.intersection(watches):
            status = jobs.get(watch.job_id)
            if status is not None and status.name != watch.job_name:
                status = None
            in_line = status is not None and status.in_line
            watch.notes.take(silent="", position=watch.notes.position if in_line else None)
            if status is not None and status.phase is not Phase.ENDED:
                watch.missing_since = None
                watch.seen(status)
            elif watch.settling is None or watch.settling.done():
                # beside the polling: accounting can be slow, and other jobs do not wait for it
                watch.settling = asyncio.ensure_future(self._settle(watch, status))
        self._ask_positions(jobs)

    def _ask_positions(self, jobs: Mapping[str, JobStatus]) -> None:
        now = time.monotonic()
        wanted = [watch for watch in self._watches if watch.notes.wanted and now - watch.since >= POSITION_AFTER]
        asking = {watch: jobs[watch.job_id] for watch in wanted if watch.job_id in jobs and jobs[watch.job_id].in_line}
        if asking and now >= self._positions_due:
            self._positions_due = now + POSITION_INTERVAL
            self._positioning = asyncio.ensure_future(self._position(asking))

    async def _position(self, asking: Mapping[Watch, JobStatus]) -> None:
        begin = time.monotonic()
        partitions = {name for status in asking.values() for name in status.partition.split(",")}
        positions: dict[str, Position] = {}
        with suppress(CommandError):
            positions = await self._slurm.positions({watch.job_id for watch in asking}, partitions)
        for watch in self._watches.intersection(asking):
            watch.notes.take(silent=watch.notes.silent, position=positions.get(watch.job_id))
        end = time.monotonic()
        self._positions_due = max(self._positions_due, end + POSITION_REST * (end - begin))

    async def _settle(self, watch: Watch, ended: JobStatus | None) -> None:
        """Find out how a job ended, or whether it has: squeue knows no exit codes, and forgets jobs."""
        if ended is None and watch.missing_since is None:
            watch.missing_since = time.monotonic()
        status = await self._slurm.look_up(watch.job_id)
        if status is None or status.name != watch.job_name:
            status = ended
        if status is None and time.monotonic() - (watch.missing_since or 0) > VANISHED_AFTER:
            status = JobStatus(watch.job_id, "NOT_FOUND", name=watch.job_name)
        if status is not None and watch in self._watches:
            watch.seen(status)

    def _say_silent(self, error: CommandError) -> None:
        if not self._silence:
            self._log.warning("Slurm could not be asked for jobs, kernels go on: %s", error)
        self._silence = min(max(2 * self._silence, SILENCE_FIRST), SILENCE_LAST)
        who = "Slurm does not answer at the moment"
        if isinstance(error, LoginHostError):
            who = error.summary.rstrip(".")
        for watch in self._watches:
            watch.notes.take(silent=who, position=watch.notes.position)
