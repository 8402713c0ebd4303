"""What became known of one job and the kernel in it: the books of an `Allocation`, kept without asking anybody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import explain
from .status import JobStatus

__all__ = ["JobRecord"]


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
    exit_code : int or None
        Exit code of the kernel process, negative for a signal; None while it is not known to have ended.
    stopping : bool
        Whether the kernel's end is wanted, so that it is no news.
    leaving : str
        Why the supervisor ends the job, once it does; "" before.
    orphaned : bool
        Whether the supervisor lost slurmstepd, by which Slurm would learn of the job's end.
    obituary : str
        Why there is no kernel any more, for people; "" while there may be one.
    started, reached, up, exited, bye, ended : asyncio.Event
        The job runs; its supervisor was connected to; its kernel answers; that ended; the supervisor's last word;
        Slurm's last word.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self.job_id = self.job_name = self.node = self.log_path = ""
        self.status: JobStatus | None = None
        self.generation = 0
        self.exit_code: int | None = None
        self.kernel_log: tuple[str, ...] = ()
        self.stopping = self.orphaned = False
        self.leaving = self.obituary = ""
        self._oom = False
        self.started, self.reached, self.up = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.exited, self.bye, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether no kernel can run in it any more: Slurm said so, or the supervisor, which is ending."""
        return self.ended.is_set() or bool(self.leaving)

    def take(self, event: Mapping[str, Any]) -> None:
        """Enter an event of the supervisor."""
        generation = int(event.get("generation", self.generation))
        if generation < self.generation:
            return
        self.new_kernel(generation)
        kind = event["state"] if event["event"] == "status" else event["event"]
        if kind == "ready":
            self.up.set()
        elif kind == "exited":
            self._kernel_exited(event)
        elif kind == "time-left":
            self._log.warning(
                "Job %s reaches its time limit in %d s, and its kernel ends then.", self.job_id, event["seconds"]
            )
        elif kind == "bye":
            self._leaves(str(event.get("reason", "")))
            self.orphaned = bool(event.get("orphaned"))
            self.bye.set()
            self.kernel_ended(1)
        if event.get("ending") or kind == "ending":
            self._leaves(str(event.get("ending") or event.get("reason")))

    def new_kernel(self, generation: int) -> None:
        """Begin the books of another kernel process, unless its own events did so already."""
        if generation > self.generation:
            self.generation = generation
            self.kernel_log, self.exit_code, self.obituary, self._oom = (), None, "", False
            self.up.clear()
            self.exited.clear()

    def _kernel_exited(self, event: Mapping[str, Any]) -> None:
        if self.exited.is_set():
            return
        code, signum = event.get("code"), event.get("signal")
        self.kernel_log = tuple(str(line) for line in event.get("log", ()))
        self._oom = bool(event.get("oom"))
        if self.up.is_set() and not self.stopping and not self.leaving:
            self.obituary = str(explain.kernel_died(self.evidence(), code, signum))
            self._log.warning("%s", self.obituary)
        self.kernel_ended(-signum if signum else int(code or 0))

    def kernel_ended(self, code: int) -> None:
        """Note the kernel's exit code; the first source knows best."""
        if self.exit_code is None:
            self.exit_code = code
        self.exited.set()

    def _leaves(self, why: str) -> None:
        if not self.leaving and not self.stopping:
            self._log.warning("Job %s on %s is about to end: %s.", self.job_id, self.node, explain.leaving(why))
        self.leaving = self.leaving or why

    def slurm_ended_it(self, status: JobStatus) -> None:
        """Enter Slurm's word that the job is over."""
        self.status = status
        self.kernel_ended(-status.exit_signal if status.exit_signal else (status.exit_code or 1))
        self.ended.set()

    def evidence(self, log: Sequence[str] = ()) -> explain.Evidence:
        """Return what is known; without `log` it has the lines that the supervisor told with the kernel's end."""
        status = self.status or JobStatus(self.job_id, "")
        if self.started.is_set() and not self.ended.is_set():
            status = replace(status, state="RUNNING", reason="")  # the supervisor knows before squeue is asked again
        node = self.node or status.node
        return explain.Evidence(self.job_id, status, node, log or self.kernel_log, self.log_path, self._oom)
