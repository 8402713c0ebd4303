"""What a user reads while a real job waits and starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
from conftest import control, eventually, slurm
from jupyter_client.manager import AsyncKernelManager

from slurm_provisioner import allocation
from slurm_provisioner.record import JobRecord
from slurm_provisioner.waiting import line


@pytest.fixture
def records(monkeypatch) -> list[JobRecord]:
    """The books of all jobs of a test."""
    made: list[JobRecord] = []

    class Known(JobRecord):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(allocation, "JobRecord", Known)
    return made


@contextlib.asynccontextmanager
async def launched(name: str) -> AsyncIterator[asyncio.Future[None]]:
    """A launch, and its end."""
    manager = AsyncKernelManager(kernel_name=name)
    launch = asyncio.ensure_future(manager.start_kernel())
    try:
        yield launch
    finally:
        launch.cancel()
        await asyncio.wait([launch])
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)


async def shown(records: list[JobRecord], pattern: str) -> str:
    """The line once it matches a pattern."""
    seen: list[str] = []

    def now() -> str | None:
        seen.extend(text for text in [str(line(each.waiting())) for each in records] if text not in seen)
        return next((text for text in seen if re.search(pattern, text)), None)

    try:
        return await asyncio.to_thread(eventually, now, pattern)
    except AssertionError:
        pytest.fail(f"{pattern} was never shown, but {seen}")


def start_of(job_id: str) -> float:
    """When Slurm expects a job to start; this machine's zone is the cluster's."""
    match = re.search(r" StartTime=(\S+)", control(job_id))
    assert match is not None
    return datetime.fromisoformat(match[1]).timestamp()


async def knows_start(record: JobRecord) -> float:
    """Wait until a book has when Slurm expects its job to start, which may change meanwhile; return that."""

    def start() -> float:
        assert record.status is not None
        now = start_of(record.job_id)
        return now if record.status.start == now else 0

    return await asyncio.to_thread(eventually, start, "Slurm's word")


def test_a_job_that_waits_for_a_date(kernelspec, records):
    async def main():
        async with launched(kernelspec(sbatch={"begin": "now+1hour"})):
            text = await shown(records, "not before")
            (record,) = records
            assert re.fullmatch(
                rf"Job {record.job_id} · queued( \d+ s)? · its begin time has not come yet · "
                r"not before (tomorrow )?\d\d:\d\d",
                text,
            )
            assert abs(record.submitted_at - time.time()) < 60
            await knows_start(record)

    asyncio.run(main())


def test_a_job_that_waits_for_resources(kernelspec, records):
    size = {"partition": "gpu", "cpus_per_task": 40}  # of 64 there are
    blocker = slurm(
        *("sbatch", "--parsable", "--partition=gpu", "--cpus-per-task=40", "--mem=100M", "--time=10"),
        *("--output=/dev/null", "--wrap=sleep 600"),
    ).strip()

    async def main():
        async with launched(kernelspec(**size)):
            text = await shown(records, "waiting for free resources · starts about")
            (record,) = records
            assert record.status is not None
            assert record.status.partition == "gpu"
            assert await knows_start(record) > time.time(), text

    try:
        asyncio.run(main())
    finally:
        slurm("scancel", blocker)


def test_the_steps_of_a_start(kernelspec, records, tmp_path):
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    fifos = [tmp_path / name for name in ("activation", "prologue")]
    for fifo in fifos:
        os.mkfifo(fifo)
    (venv / "activate").write_text(f"read -r go < {fifos[0]}\n")
    name = kernelspec(
        venv=str(venv.parent),
        prologue=[f"read -r go < {fifos[1]}"],
        log=str(tmp_path / "%N-%j.log"),  # where that is, only the node can tell
    )

    async def go(fifo: Path) -> None:
        await asyncio.to_thread(fifo.write_text, "on\n")

    async def main():
        async with launched(name) as launch:
            first = await shown(records, f"activating the virtual environment {venv.parent}"[:60])
            assert re.match(rf"Job {records[0].job_id} · starting( on \w+)? · activating", first)
            await go(fifos[0])
            await shown(records, r"starting on \w+ · running the prologue")
            await go(fifos[1])
            await launch
            await asyncio.to_thread(eventually, records[0].up.is_set, "a kernel")
            assert records[0].stage == ""

    asyncio.run(main())
