"""One line for people while a job waits and starts. Pure: what is known goes in, text comes out.

Times of day are those of this process's zone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from .reasons import explain_reason
from .status import JobStatus, Phase, Position

__all__ = ["Line", "Notes", "Waiting", "line", "next_change"]

#: Characters of a line, at most: longer ones are cut at the right edge of a notebook.
WIDTH = 100
#: How a queued job's age is told: up to so many seconds in steps of so many.
_STEPS = [(60, 5), (3600, 60), (86_400, 600), (math.inf, 3600)]
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")  # strftime's would be in some other language
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# States in which neither a reason for waiting nor a step of the start says what goes on. Source: squeue(1).
_RESTING = {
    "COMPLETING": "ending",
    "STAGE_OUT": "ending",
    "STOPPED": "stopped by Slurm or an administrator, to go on later",
    "SUSPENDED": "suspended by Slurm or an administrator, to go on later",
}
_BOOTING = {"CONFIGURING", "POWER_UP_NODE"}
_HELD = {"REQUEUE_HOLD": "job requeued in held state", "RESV_DEL_HOLD": "ReservationDeleted"}


@dataclass
class Notes:
    """What is found out about a waiting job for people alone: nothing else depends on it.

    Attributes
    ----------
    wanted : bool
        Whether somebody reads them at the moment: what costs the controller something is asked only then.
    silent : str
        Who does not answer at the moment, in words; "" if Slurm does.
    position : Position or None
        The job's place in the queue, where the controller tells it.
    changed : callable
        Called when they have changed.
    """

    wanted: bool = False
    silent: str = ""
    position: Position | None = None
    changed: Callable[[], None] = lambda: None

    def take(self, *, silent: str, position: Position | None) -> None:
        """Enter what is known now."""
        if (silent, position) != (self.silent, self.position):
            self.silent, self.position = silent, position
            self.changed()


@dataclass(frozen=True)
class Waiting:
    """What is known of a job that is waited for.

    Attributes
    ----------
    now : float
        The time, in seconds since the epoch.
    job_id : str
        Slurm's id, "" while it is being submitted.
    status : JobStatus or None
        Slurm's last word; with a state that runs once it is known to run, whoever told.
    position : Position or None
        Its place in the queue.
    stage : str
        What is done to start the kernel, such as ``loading modules gcc/12``; "" if that is not known.
    node : str
        The node that the kernel starts on, or "".
    since : float
        When it was submitted, in seconds since the epoch; 0 if that is not known.
    silent : str
        Who does not answer at the moment, in words; "" if Slurm does.
    lost_node : str
        The node on which a former kernel may run on, which is why this job has a date to wait for; or "".
    """

    now: float
    job_id: str = ""
    status: JobStatus | None = None
    position: Position | None = None
    stage: str = ""
    node: str = ""
    since: float = 0.0
    silent: str = ""
    lost_node: str = ""


@dataclass(frozen=True)
class Line:
    """What is shown.

    Attributes
    ----------
    parts : tuple of str
        From the general to the particular; they are plain text.
    hint : str
        What to do, where the job does not start by itself; "" otherwise. Has code in backquotes.
    """

    parts: tuple[str, ...]
    hint: str = ""

    def __str__(self) -> str:
        return " · ".join(self.parts)


def line(seen: Waiting) -> Line:
    """Return what to show."""
    if not seen.job_id:
        return Line(("Submitting the job",))
    job = f"Job {seen.job_id}"
    status = seen.status or JobStatus(seen.job_id, "PENDING")
    if status.phase is Phase.ENDED:
        return _line([job], "ended")
    if status.state in _RESTING:
        return _line([job], _RESTING[status.state])
    if status.phase is Phase.RUNNING:
        return _line([job, f"starting on {seen.node}" if seen.node else "starting"], seen.stage)
    words, hint = _why_queued(seen)
    outlook = "" if seen.silent or hint else _outlook(seen, status)  # a held job may have a date, too
    return _line([job, f"queued {_age(seen)}".rstrip()], words, outlook, hint=hint.format(job_id=seen.job_id))


def next_change(seen: Waiting) -> float:
    """Return after how many seconds the line reads otherwise though nothing happens; infinity if it stays as it is."""
    status = seen.status
    if not seen.job_id or (status is not None and status.phase in (Phase.RUNNING, Phase.ENDED)):
        return math.inf
    changes = []
    if seen.since:
        age = max(0.0, seen.now - seen.since)
        step = _step(age)
        changes.append((age // step + 1) * step - age)
    if status is not None and status.start is not None and status.start > seen.now:
        midnight = datetime.combine(_local(seen.now).date() + timedelta(days=1), time())
        changes += [status.start - seen.now, midnight.timestamp() - seen.now]
    return min(changes, default=math.inf) + 0.001  # not a moment too early, as clocks and floats go


def _why_queued(seen: Waiting) -> tuple[str, str]:
    """Return why it is not started yet, and what to do about it."""
    status = seen.status
    if seen.silent:
        return seen.silent, ""
    if status is None:
        return "", ""
    if status.state in _BOOTING:
        return f"{f'node {seen.node} is' if seen.node else 'its nodes are'} booting or being prepared", ""
    if status.phase is Phase.UNKNOWN:
        return f"Slurm says {status.state}", ""
    if status.reason == "BeginTime" and seen.lost_node:
        return f"its lost predecessor may still run on {seen.lost_node}", ""
    return explain_reason(_HELD.get(status.state, status.reason))


def _line(parts: list[str], words: str = "", *more: str, hint: str = "") -> Line:
    """Put parts together; `words` are what is cut where there is no room."""
    tail = [part for part in more if part]
    room = WIDTH - len(str(Line((*parts, "", *tail))))
    if len(words) > room:
        words = words[: room - 1].rstrip() + "…"
    return Line((*parts, *filter(None, [words]), *tail), hint)


def _outlook(seen: Waiting, status: JobStatus) -> str:
    """Return when it starts, or else how many come first."""
    if status.start is not None and status.start > seen.now:
        about = "not before" if status.reason == "BeginTime" else "starts about"
        return f"{about} {_moment(status.start, seen.now)}"
    if seen.position is not None:
        return f"{_ordinal(seen.position.rank)} in partition {seen.position.partition}"
    return ""


def _step(age: float) -> float:
    return next(step for limit, step in _STEPS if age < limit)


def _age(seen: Waiting) -> str:
    """Return how long ago it was submitted, in steps; "" for just now, or where that is not known."""
    age = max(0.0, seen.now - seen.since)
    seconds = int(age // _step(age) * _step(age))
    if not seen.since or not seconds:
        return ""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def _local(moment: float) -> datetime:
    return datetime.fromtimestamp(moment).astimezone()


def _moment(moment: float, now: float) -> str:
    when, today = _local(moment), _local(now).date()
    clock = f"{when:%H:%M}"
    days = (when.date() - today).days
    if days <= 1:
        return f"tomorrow {clock}" if days else clock
    if days < len(_DAYS):
        return f"{_DAYS[when.weekday()]} {clock}"
    date = f"{when.day} {_MONTHS[when.month - 1]}"
    return f"{date} {clock}" if when.year == today.year else f"{date} {when.year}"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
