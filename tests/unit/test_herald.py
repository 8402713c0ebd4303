"""What clients are told of an end, whichever news of it comes first."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import pytest
from test_allocation import allocation, says

from slurm_provisioner.errors import JobEndedError, KernelDiedError, SlurmProvisionerError
from slurm_provisioner.herald import Herald, KernelIdentity

log = logging.getLogger("test.herald")


class Front:
    """Stands for the endpoints, and keeps what their clients are told."""

    def __init__(self) -> None:
        self.told: list[SlurmProvisionerError | None] = []
        self.hears_out = asyncio.Event()
        self.said_all = asyncio.Event()
        self.knows = asyncio.Event()

    def tell(self, line: str) -> None:
        """Take what waiting cells show."""

    def attach(self, connect: Any) -> None:
        """Have a kernel."""

    async def hear_out(self) -> None:
        self.hears_out.set()
        await self.said_all.wait()

    def detach(self, line: str, error: SlurmProvisionerError | None) -> None:
        self.end(error)

    def end(self, error: SlurmProvisionerError | None) -> None:
        self.told.append(error)
        self.knows.set()


def herald_of(job: Any) -> tuple[Herald, Front]:
    """One that has told of a kernel that is up."""
    job.link.connect = None  # nobody is
    herald, front = Herald(KernelIdentity("k", b"key", "hmac-sha256", {}), {}, job.link, log), Front()
    herald.front = front  # type: ignore[assignment]
    herald.follow(job)
    herald.begin()
    return herald, front


def exits(job: Any, how: dict[str, int]) -> None:
    job.heard({"event": "exited", "generation": 1, **how})


def ends(job: Any) -> None:
    job.heard({"event": "ending", "reason": "terminated"})
    job.heard({"event": "bye", "reason": "terminated"})
    job._slurm_says(says("TIMEOUT"))


@pytest.mark.parametrize("how", [{"code": 0}, {"code": 143}, {"signal": signal.SIGTERM}, {"signal": signal.SIGKILL}])
@pytest.mark.parametrize("when", ["at once", "while its last words are heard"])
def test_a_kernel_that_goes_before_its_job_does_is_no_crash(monkeypatch, how, when):
    monkeypatch.setattr("slurm_provisioner.herald.WORD_OF_END", 600 if when == "at once" else 0)

    async def main() -> None:
        job = allocation()
        herald, front = herald_of(job)
        await asyncio.sleep(0)
        exits(job, how)
        if when == "at once":
            for _ in range(20):
                await asyncio.sleep(0)
            assert not front.hears_out.is_set()
        else:
            await front.hears_out.wait()
        ends(job)
        front.said_all.set()
        await front.knows.wait()
        (error,) = front.told
        assert isinstance(error, JobEndedError)
        assert "its time limit" in str(error)
        assert herald.exit_code is None, "else Jupyter would restart it"
        herald.leave()
        job.leave()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_kernel_that_ends_alone_has_crashed(monkeypatch):
    monkeypatch.setattr("slurm_provisioner.herald.WORD_OF_END", 0.01)

    async def main() -> None:
        job = allocation()
        herald, front = herald_of(job)
        front.said_all.set()
        await asyncio.sleep(0)
        exits(job, {"code": 3})
        await front.knows.wait()
        assert [type(error) for error in front.told] == [KernelDiedError]
        assert herald.exit_code is None, "clients are told first"
        while herald.exit_code is None:
            await asyncio.sleep(0.01)
        assert herald.exit_code == 3
        herald.leave()
        job.leave()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_job_that_ends_right_after_its_kernel_crashed_is_not_given_another_one(monkeypatch):
    monkeypatch.setattr("slurm_provisioner.herald.WORD_OF_END", 0)
    monkeypatch.setattr("slurm_provisioner.herald.REPLY_FIRST", 600)

    async def main() -> None:
        job = allocation()
        herald, front = herald_of(job)
        front.said_all.set()
        await asyncio.sleep(0)
        exits(job, {"code": 3})
        await front.knows.wait()
        front.knows.clear()
        ends(job)
        await front.knows.wait()
        assert [type(error) for error in front.told] == [KernelDiedError, JobEndedError]
        assert herald.exit_code is None, "else Jupyter would restart it"
        herald.leave()
        job.leave()

    asyncio.run(asyncio.wait_for(main(), 60))
