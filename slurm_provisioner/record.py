"""What became known of one job and the kernel in it: the books of an `Allocation`, kept without asking anybody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import explain
from .errors import KernelDiedError
from .status import JobStatus, Phase
from .waiting import Notes, Waiting

__all__ = ["STARTING", "JobRecord"]

#: The last stage of a start: the supervisor has the kernel's process.
STARTING = "starting the kernel"


class JobRecord:
    """One job's story so far.

    Parameters
    ----------
    log : logging.Logger
        Where the story is told to the user.

    Attributes
    ----------
    job_id, job_name : str
        Slurm's id, "" before there is one, and the job's unique name.
    node : str
        The node that the kernel runs on, or "".
    status : JobStatus or None
        Slurm's last word.
    submitted_at : float
        When Slurm took the job, in seconds since the epoch; 0 if that is not known.
    stage : str
        What is done to start the kernel, in words; "" before, and once the kernel is up.
    notes : Notes
        What else is found out while the job waits, and whether anybody wants to know it.
    exit_code : int or None
        Exit code of the kernel process, negative for a signal; None while it is not known to have ended.
    stopping : bool
        Whether the kernel's end is wanted, so that it is no news.
    leaving : str
        Why the supervisor ends the job, once it does; "" before.
    orphaned : bool
        Whether the supervisor lost slurmstepd, by which Slurm would learn of the job's end.
    death : KernelDiedError or None
        Why there is no kernel any more, though the job goes on and nobody wanted its end.
    interrupting : bool
        Whether its kernel is to be interrupted as soon as it can be reached.
    lost_node : str
        The node on which a former kernel may run on, for which this job waits; or "".
    seconds_left : int or None
        The time that was left to the job when it was warned of its end.
    started, reached, up, exited, ending, bye, ended : asyncio.Event
        The job runs; its supervisor was connected to; its kernel answers; that ended; the supervisor ends the job; its
        last word; Slurm's last word.
    changed : callable
        Called on the background loop when any of this may have changed, perhaps many times in a row. Does nothing
        until it is set.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self.job_id = self.job_name = self.node = self.log_path = self.stage = self.lost_node = ""
        self.submitted_at = 0.0
        self.changed: Callable[[], None] = lambda: None
        self.notes = Notes(changed=lambda: self.changed())  # noqa: PLW0108  (it is set later)
        self.status: JobStatus | None = None
        self.generation = 0
        self.exit_code: int | None = None
        self.kernel_log: tuple[str, ...] = ()
        self.stopping = self.orphaned = self.interrupting = False
        self.leaving = ""
        self.death: KernelDiedError | None = None
        self.seconds_left: int | None = None
        self._oom = False
        self.started, self.reached, self.up = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.exited, self.ending, self.bye, self.ended = (asyncio.Event() for _ in range(4))

    @property
    def over(self) -> bool:
        """Whether no kernel can run in it any more: Slurm said so, or the supervisor, which is ending."""
        return self.ended.is_set() or self.ending.is_set()

    def take(self, event: Mapping[str, Any]) -> None:
        """Enter an event of the supervisor."""
        generation = int(event.get("generation", self.generation))
        if generation < self.generation:
            return
        self.new_kernel(generation)
        kind = event["state"] if event["event"] == "status" else event["event"]
        if kind == "ready":
            self.stage = ""
            self.up.set()
        elif kind == "exited":
            self._kernel_exited(event)
        elif kind == "time-left":
            self.seconds_left = int(event["seconds"])
            self._log.warning(
                "Job %s reaches its time limit in %d s, and its kernel ends then.", self.job_id, self.seconds_left
            )
        elif kind == "bye":
            self._leaves(str(event.get("reason", "")))
            self.orphaned = bool(event.get("orphaned"))
            self.bye.set()
            self.kernel_ended(1)
        if event.get("ending") or kind == "ending":
            self._leaves(str(event.get("ending") or event.get("reason")))
        self.changed()

    def new_kernel(self, generation: int) -> None:
        """Begin the books of another kernel process, unless its own events did so already."""
        if generation > self.generation:
            self.generation = generation
            self.kernel_log, self.exit_code, self.death, self._oom = (), None, None, False
            self.interrupting = False
            self.stage = STARTING
            self.up.clear()
            self.exited.clear()
            self.changed()

    def _kernel_exited(self, event: Mapping[str, Any]) -> None:
        if self.exited.is_set():
            return
        code, signum = event.get("code"), event.get("signal")
        self.kernel_log = tuple(str(line) for line in event.get("log", ()))
        self._oom = bool(event.get("oom"))
        if self.up.is_set() and not self.stopping and not self.leaving:
            self.death = explain.kernel_died(self.evidence(), code, signum)
            self._log.warning("%s", self.death)
        self.kernel_ended(-signum if signum else int(code or 0))

    def kernel_ended(self, code: int) -> None:
        """Note the kernel's exit code; the first source knows best."""
        if self.exit_code is None:
            self.exit_code = code
        self.exited.set()
        self.changed()

    def _leaves(self, why: str) -> None:
        if not self.leaving and not self.stopping:
            self._log.warning("Job %s on %s is about to end: %s.", self.job_id, self.node, explain.leaving(why))
        self.leaving = self.leaving or why
        self.ending.set()

    def slurm_ended_it(self, status: JobStatus) -> None:
        """Enter Slurm's word that the job is over."""
        self.status = status
        self.kernel_ended(-status.exit_signal if status.exit_signal else (status.exit_code or 1))
        self.ended.set()
        self.changed()

    def waiting(self) -> Waiting:
        """Return what is known now of the wait for the kernel."""
        status = self.status
        running = self.started.is_set() and not self.ended.is_set()
        if running and (status is None or status.phase is not Phase.RUNNING):
            status = JobStatus(self.job_id, "RUNNING")  # as in `evidence`
        return Waiting(
            now=time.time(),
            job_id=self.job_id,
            status=status,
            position=self.notes.position,
            stage=self.stage,
            node=self.node or (status.node if status is not None else ""),
            since=self.submitted_at,
            silent=self.notes.silent,
            lost_node=self.lost_node,
        )

    def evidence(self, log: Sequence[str] = ()) -> explain.Evidence:
        """Return what is known; without `log` it has the lines that the supervisor told with the kernel's end."""
        status = self.status or JobStatus(self.job_id, "")
        if self.started.is_set() and not self.ended.is_set():
            status = replace(status, state="RUNNING", reason="")  # the supervisor knows before squeue is asked again
        node = self.node or status.node
        log = log or self.kernel_log
        return explain.Evidence(self.job_id, status, node, log, self.log_path, self._oom, self.leaving)
