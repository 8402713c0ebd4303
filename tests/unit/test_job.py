"""A launch and the end of its kernel, which may come at the same time."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from slurm_provisioner.config import KernelConfig
from slurm_provisioner.herald import Herald, KernelIdentity
from slurm_provisioner.job import KernelJob


class Launch:
    """A launch that goes on until it is cancelled, and then has something to undo."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.undoing, self.undone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        monkeypatch.setattr(KernelJob, "_start", self._start)
        self.job: Any = KernelJob(KernelConfig(), KernelIdentity("k", b"k", "hmac-sha256", {}), logging.getLogger())
        self.task = asyncio.ensure_future(self.job.launch(KernelConfig(), None, new_job=True))

    async def _start(self, *_args: object, **_options: object) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.undoing.set()
            await self.undone.wait()


def test_a_launch_that_is_broken_off_has_its_connection_until_all_is_undone(monkeypatch):
    async def main() -> None:
        launch = Launch(monkeypatch)
        await launch.begun.wait()
        launch.task.cancel()
        giving_back = asyncio.ensure_future(launch.job.give_back())
        await launch.undoing.wait()
        await asyncio.wait([giving_back], timeout=0.05)
        assert not launch.job.closed
        launch.undone.set()
        await giving_back
        assert launch.job.closed
        with pytest.raises(asyncio.CancelledError):
            await launch.task

    asyncio.run(main())


def test_a_launch_that_its_end_overtakes_does_not_begin(monkeypatch):
    async def main() -> None:
        launch = Launch(monkeypatch)
        await launch.job.give_back()
        with pytest.raises(asyncio.CancelledError):
            await launch.task
        assert not launch.begun.is_set()

    asyncio.run(main())


class Former:
    """A job that is over, which its end takes a while to tell."""

    may_run_until = 0.0
    record = SimpleNamespace(over=True, node="n1")

    def __init__(self) -> None:
        self.ending, self.goes_on = asyncio.Event(), asyncio.Event()

    async def end(self) -> None:
        self.ending.set()
        await self.goes_on.wait()

    async def tidy(self, *, keep_log: bool) -> None:
        pass


def test_no_job_follows_where_the_end_came_meanwhile(monkeypatch):
    made = []
    monkeypatch.setattr("slurm_provisioner.job.Allocation", lambda *_: made.append(True))
    monkeypatch.setattr(Herald, "expect", lambda _: None)

    async def main() -> None:
        identity = KernelIdentity("k", b"k", "hmac-sha256", {})
        job: Any = KernelJob(KernelConfig(), identity, logging.getLogger())
        former = job.allocation = Former()
        launch = asyncio.ensure_future(job.launch(KernelConfig(), None, new_job=True))
        await former.ending.wait()
        giving_back = asyncio.ensure_future(job.give_back())
        await asyncio.sleep(0)
        former.goes_on.set()
        await giving_back
        with pytest.raises(asyncio.CancelledError):
            await launch

    asyncio.run(main())
    assert not made


def test_what_a_launch_has_opened_is_closed_although_its_end_came_while_it_did(monkeypatch):
    async def main() -> None:
        launch = Launch(monkeypatch)
        await asyncio.sleep(0)  # it opens the endpoints
        await launch.job.give_back()
        with pytest.raises(asyncio.CancelledError):
            await launch.task
        assert launch.job._herald.front._closed

    asyncio.run(main())
