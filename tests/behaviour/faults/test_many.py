"""Many kernels at once on one server: each has its own job, and none of them waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource

import pytest
from conftest import QUEUED, queue, queue_empties, start_now
from watched import JOB_ID, watched

from slurm_provisioner.errors import SubmissionError

COUNT = 50
#: More would be a burden for everybody's controller.
SUBMISSIONS_AT_ONCE = 8
#: Tells when a command begins and ends, in one file for all.
TRACED = 'echo begin >> "$0.trace"; "$real" "$@"; code=$?; echo end >> "$0.trace"; exit $code'


def at_once(trace: str) -> int:
    """How many commands ran side by side at most."""
    most = now = 0
    for word in trace.split():
        now += 1 if word == "begin" else -1
        most = max(most, now)
    return most


@pytest.fixture(autouse=True)
def _as_many_files_as_a_server_may_open():
    """What jupyter_server asks for when it starts (`min_open_files_limit`)."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 4096), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.timeout(480)
def test_many_kernels_start_together(kernelspec, commands):
    commands.fail(TRACED, "sbatch", "squeue")
    many = {"slurm_bin": str(commands), "mem": "200M"}
    good, bad, queued = (
        kernelspec("good", **many),
        kernelspec("bad", partition="nope", **many),
        kernelspec("queued", **QUEUED, **many),
    )

    async def main() -> None:
        async with contextlib.AsyncExitStack() as kernels:

            async def job_of(name: str) -> str:
                kernel = await kernels.enter_async_context(watched(name, queued=True))
                assert await kernel.run(JOB_ID, timeout=300) == kernel.job_id
                return kernel.job_id

            waiting = asyncio.ensure_future(job_of(queued))
            launches = [job_of(bad), *(job_of(good) for _ in range(COUNT))]
            refusal, *jobs = await asyncio.gather(*launches, return_exceptions=True)
            assert [each for each in jobs if isinstance(each, Exception)] == []
            assert isinstance(refusal, SubmissionError)
            assert "partition" in str(refusal)
            assert sorted(jobs) == sorted(job.split()[0] for job in queue() if "RUNNING" in job)
            assert len(jobs) == COUNT
            assert not waiting.done()
            start_now(next(job.split()[0] for job in queue() if "PENDING" in job))
            assert await waiting not in jobs
            logging.getLogger("tests").info("%d open files", len(os.listdir("/proc/self/fd")))

    asyncio.run(main())
    queue_empties()
    assert len(commands.calls("sbatch")) == COUNT + 2
    assert at_once((commands.folder / "sbatch.trace").read_text()) <= SUBMISSIONS_AT_ONCE
    assert at_once((commands.folder / "squeue.trace").read_text()) == 1, "one poller for all of them"
