"""Tells a kernel's clients what becomes of its job: a line while they wait, an error once there is no kernel."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import kernel_info, waiting
from .allocation import Allocation
from .errors import SlurmProvisionerError
from .front import Front
from .link import Link
from .loop import first

__all__ = ["Herald", "KernelIdentity"]

#: Seconds for the news that it is the job that ends: its kernel gets the signal, too, and may be gone before its
#: supervisor has said so, with any exit code.
WORD_OF_END = 0.2
#: Seconds for clients to take the reply that says why, before Jupyter may know of a kernel's death: nbclient looks for
#: both at a time, and would say no more than "Kernel died".
REPLY_FIRST = 0.2
#: Seconds that a connection may be lost before anybody is told: most come back at once.
LOST_AFTER = 3.0


@dataclass(frozen=True)
class KernelIdentity:
    """What a kernel object keeps over all its jobs.

    Attributes
    ----------
    kernel_id : str
        Jupyter's id of the kernel.
    key : bytes
        The key of its session.
    signature_scheme : str
        Such as ``hmac-sha256``.
    kernelspec : mapping
        The kernelspec, as a dict.
    """

    kernel_id: str
    key: bytes = field(repr=False)
    signature_scheme: str
    kernelspec: Mapping[str, Any]


class Herald:
    """Speaks to the clients of one kernel, of one job after another.

    Parameters
    ----------
    kernel : KernelIdentity
        Whose clients they are.
    info : mapping
        What ``kernel_info_reply`` says until the kernel itself was heard.
    link : Link
        Where the kernel is, once there is one.
    log : logging.Logger
        Where the kernel's story is told.
    """

    def __init__(self, kernel: KernelIdentity, info: Mapping[str, Any], link: Link, log: logging.Logger) -> None:
        self._kernelspec = kernel.kernelspec
        #: Where they connect.
        self.front = Front(kernel.key, kernel.signature_scheme, info, self)
        self._link = link
        self._log = log
        self._wanted = False
        self._now: Allocation | None = None
        self._up = False
        self._vigil: asyncio.Task[None] | None = None
        self._line: asyncio.TimerHandle | None = None
        self._loss: asyncio.TimerHandle | None = None
        self._lost_since = 0.0
        self._warned = False
        #: How the kernel ended that ended by itself, once its clients know; None otherwise.
        self.exit_code: int | None = None

    def follow(self, now: Allocation) -> None:
        """Tell of a job from now on, which has no kernel yet."""
        self.leave()
        self._now, self._warned = now, False
        now.record.changed = self._look
        now.record.notes.wanted = self._wanted
        self._look()

    def expect(self) -> None:
        """Tell clients of the kernel that their user wants another one; nothing of what they asked for is done."""
        self._stop()
        self.front.detach(self._text(), None)
        self._look()

    def begin(self) -> None:
        """Have clients speak with the kernel, which is up, and tell them of its end."""
        assert self._now is not None, "there is a job"
        self._stop()
        self._up, self.exit_code = True, None
        self.front.attach(self._link.connect)
        self._vigil = asyncio.ensure_future(self._watch_over(self._now))
        self._look()

    def end(self, error: SlurmProvisionerError) -> None:
        """Tell clients that there is no kernel, and will be none before their user restarts it."""
        self._stop()
        self.exit_code = None
        self.front.end(error)

    def leave(self) -> None:
        """Have nothing more to tell."""
        self._stop()
        if self._now is not None:
            self._now.record.changed = lambda: None
            self._now = None

    def _stop(self) -> None:
        self._up, self._lost_since = False, 0.0
        for timer in (self._line, self._loss):
            if timer is not None:
                timer.cancel()
        self._line = self._loss = None
        if self._vigil is not None and self._vigil is not asyncio.current_task():
            self._vigil.cancel()
        self._vigil = None

    async def _watch_over(self, now: Allocation) -> None:
        record = now.record
        await first(record.exited, record.ended)
        await first(record.ending, record.ended, timeout=WORD_OF_END)
        if self._link.connected and not record.over and not record.stopping:
            await self.front.hear_out()
        if record.stopping:
            self.front.detach(self._text(), None)
            return
        if not record.over:
            self.front.detach(self._text(), record.death)
            self._up = False
            await first(record.ending, record.ended, timeout=REPLY_FIRST)
            if not record.over:
                self.exit_code = record.exit_code
            await record.ended.wait()  # a restart ends this
        error = await now.end_error()
        self._log.warning("%s", error)
        self._vigil = None
        self.end(error)

    def up(self, info: Mapping[str, Any]) -> None:
        """Take the kernel's own word of itself, for the next start."""
        asyncio.get_running_loop().run_in_executor(None, kernel_info.save, self._kernelspec, info)

    def watched(self, whether: bool) -> None:
        """Take the news that a cell shows where the job is, or that none does any more."""
        self._wanted = whether
        if self._now is not None:
            self._now.record.notes.wanted = whether

    def _look(self) -> None:
        """Tell what has changed."""
        if self._now is None:
            return
        record = self._now.record
        if not self._up:
            if self._line is not None:
                self._line.cancel()
            self.front.tell(self._text())
            pause = waiting.next_change(record.waiting())
            self._line = asyncio.get_running_loop().call_later(pause, self._look) if pause < float("inf") else None
            return
        if record.seconds_left is not None and not self._warned:
            self._warned = True
            self.front.warn(partial(_time_left, record.job_id, time.time() + record.seconds_left))
        if self._link.connected or record.over:
            self._find()
        elif self._lost_since:
            self._tell_loss()
        elif self._loss is None:
            self._loss = asyncio.get_running_loop().call_later(LOST_AFTER, self._lose, time.time())

    def _text(self) -> str:
        if self._now is None:
            return ""
        line = waiting.line(self._now.record.waiting())
        return f"{line}\n{line.hint}" if line.hint else str(line)

    def _lose(self, since: float) -> None:
        self._lost_since = since
        self._tell_loss()

    def _tell_loss(self) -> None:
        assert self._now is not None, "leaving ends the timer"
        record = self._now.record
        outlook = "it is interrupted once that is back" if record.interrupting else "the kernel may run on"
        since = _clock(self._lost_since)
        self.front.lost(f"Job {record.job_id} · no connection to {record.node} since {since} · {outlook}")

    def _find(self) -> None:
        if self._loss is not None:
            self._loss.cancel()
            self._loss = None
        if self._lost_since and self._now is not None:
            record = self._now.record
            self.front.found(
                f"Job {record.job_id} · no connection to {record.node} from {_clock(self._lost_since)} "
                f"to {_clock(time.time())}"
            )
            self._lost_since = 0.0


def _clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when))


def _time_left(job_id: str, end: float) -> str:
    seconds = max(0, round(end - time.time()))
    left = f"{round(seconds / 60)} min" if seconds >= 90 else f"{seconds} s"  # noqa: PLR2004
    at = time.strftime("%H:%M", time.localtime(end))
    return f"Job {job_id} reaches its time limit in {left}, at {at}; its kernel ends then. Save what you need."
