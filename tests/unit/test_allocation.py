"""What an allocation makes of contradictory news, which no cluster gives on demand."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import signal
from typing import Any

import pytest

from slurm_provisioner import allocation as allocation_module
from slurm_provisioner.allocation import FENCE_MARGIN, Allocation
from slurm_provisioner.config import KernelConfig
from slurm_provisioner.credentials import make_identity
from slurm_provisioner.errors import CommandError, HostUnreachableError, JobEndedError, KernelStartError, LinkError
from slurm_provisioner.herald import KernelIdentity
from slurm_provisioner.job import KernelJob
from slurm_provisioner.request import KernelCommand
from slurm_provisioner.status import JobStatus
from slurm_provisioner.transport import Account
from slurm_provisioner.waiting import line

log = logging.getLogger("test.allocation")


class Recorder:
    """Stands for Slurm and the watcher, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Any]] = []
        self.unsettled: set[str] = set()
        self.trouble: CommandError | None = None

    async def cancel(self, job_id):
        self._do("cancel", job_id)

    async def cancel_named(self, job_name):
        self._do("cancel", job_name)

    async def signal(self, job_id, name):
        self._do("signal", name)

    async def remove(self, *paths):
        self._do("remove", *paths)

    def _do(self, *what):
        if self.trouble is not None:
            raise self.trouble
        self.done.append(what)

    async def tail(self, path):
        return ""

    def close(self):
        self.done.append(("close", None))

    def hurry(self):
        self.done.append(("hurry", None))

    def ends(self):
        self.done.append(("ends", None))

    def begins(self):
        self.done.append(("begins", None))


class Cluster:
    """Keeps what is to be done later."""

    def __init__(self, slurm: Recorder) -> None:
        self.slurm = slurm
        self.later: list[tuple[str, Any]] = []

    def do_later(self, what, do):
        self.later.append((what, do))


class Link:
    """A link that is as the test says."""

    def __init__(self) -> None:
        self.connected = True
        self.lost_in_silence = False
        self.last_sent = 0.0
        self.calls: list[str] = []

    async def call(self, do, **fields):
        self.calls.append(do)
        return {}

    def detach(self):
        self.connected = False


def allocation(**config: Any) -> Any:
    """One whose kernel is up."""
    recorder, link = Recorder(), Link()
    new: Any = Allocation(Cluster(recorder), link, KernelConfig(**config), "k", log)
    new.link, new.recorder, new._watch = link, recorder, recorder
    new.record.job_id, new.record.node = "7", "c1"
    new.heard({"event": "status", "state": "ready", "generation": 1})
    new.link_changed(True)
    return new


def test_the_request_says_on_which_machine_it_was_submitted():
    """By loopback a job on the very same one is reached; without this it would listen to all of the network."""
    job = allocation()
    job.recorder.state_argv = list
    command = KernelCommand([], {}, None, None, {})
    request = json.loads(job._prepare(command, Account("alice", "/home/alice", "boot net:[1]"), 0).request)
    assert request["submitted_on"] == "boot net:[1]"


def test_without_space_for_a_key_there_is_no_job(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main():
        job = allocation()
        job._ours = job._theirs = make_identity("any")
        job.link.connected = False
        with pytest.raises(LinkError, match=r"cannot be prepared: .*No space left") as caught:
            await job.wait_until_up()
        assert "TMPDIR" in caught.value.hint
        assert ("cancel", "7") in job.recorder.done

    monkeypatch.setattr(allocation_module, "client_context", full)
    asyncio.run(main())


def says(state: str) -> JobStatus:
    return JobStatus("7", state)


@pytest.mark.parametrize("state", ["SOMETHING_NEW", "", "PENDING", "COMPLETING", "NOT_FOUND"])
def test_what_is_no_evidence_does_not_end_a_kernel_that_speaks(state):
    async def main():
        job = allocation()
        for _ in range(3):
            job._slurm_says(says(state))
        assert job.record.exit_code is None
        assert not job.record.over
        assert not job.link.calls

    asyncio.run(main())


def test_a_kernel_that_slurm_gave_up_is_ended_where_it_can_be_reached():
    async def main():
        job = allocation()
        job._slurm_says(says("NODE_FAIL"))
        assert job.record.over
        job.heard({"event": "bye", "reason": "stop"})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert job.link.calls == ["stop"]
        assert not job.may_run_until, "it said goodbye"

    asyncio.run(main())


def test_a_job_that_was_queued_again_is_cancelled():
    async def main():
        job = allocation()
        job.link.connected = False
        job._slurm_says(says("PENDING"))
        assert not job.record.over, "that may have been asked before it ran"
        job._slurm_says(says("PENDING"))
        assert job.record.over
        assert job.record.status.state == "REQUEUED"
        while ("cancel", "7") not in job.recorder.done:
            await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize(
    "news",
    [
        lambda job: job._slurm_says(says("SUSPENDED")),
        lambda job: job._slurm_says(says("NODE_FAIL")),
        lambda job: job._does("loading modules gcc/12"),
        lambda job: job.heard({"event": "ending", "reason": "terminated"}),
        lambda job: job.link_changed(False),
    ],
    ids=["state", "end", "step", "announcement", "link"],
)
def test_whoever_shows_a_job_hears_of_all_news(news):
    async def main():
        job = allocation()
        told = []
        job.record.changed = lambda: told.append(job.record.waiting())
        news(job)
        assert told
        job.leave()

    asyncio.run(main())


@pytest.mark.parametrize("ends", [True, False], ids=["the job's end", "its own"])
def test_a_kernel_that_is_terminated_before_it_is_up_may_be_the_first_to_tell_of_the_jobs_end(monkeypatch, ends):
    monkeypatch.setattr("slurm_provisioner.allocation.GOODBYE_TIMEOUT", 0.05)

    async def main():
        job = allocation()
        job.heard({"event": "status", "state": "starting", "generation": 2})
        job.heard({"event": "status", "state": "exited", "generation": 2, "signal": signal.SIGTERM})
        why = asyncio.ensure_future(job._why(job.record.up))
        await asyncio.sleep(0)
        if ends:
            job.heard({"event": "ending", "reason": "terminated"})
            job.heard({"event": "bye", "reason": "terminated"})
            job._slurm_says(says("TIMEOUT"))
        error = await why
        assert isinstance(error, JobEndedError if ends else KernelStartError)
        assert ("its time limit" if ends else "signal SIGTERM") in str(error)

    asyncio.run(main())


def test_an_interrupt_that_nobody_can_carry_is_sent_later(caplog):
    async def main():
        job = allocation()
        job.link.connected = False
        job.recorder.trouble = HostUnreachableError("The login host hpc cannot be reached.", host="hpc")
        await job.signal(signal.SIGINT)
        assert job.record.interrupting
        await job.signal(signal.SIGTERM)
        job.recorder.trouble = None
        job.link.connected = True
        job.link_changed(True)
        assert not job.record.interrupting
        while not job.link.calls:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert job.link.calls == ["signal"], "the shutdown ends the job, not this signal"

    asyncio.run(main())
    assert "is interrupted once it can be reached: The login host hpc cannot be reached." in caplog.text


def test_an_interrupt_is_not_for_the_next_kernel():
    async def main():
        job = allocation()
        job.link.connected = False
        job.recorder.trouble = CommandError("no", argv=["scancel"])
        await job.signal(signal.SIGINT)
        job.heard({"event": "started", "generation": 2})
        assert not job.record.interrupting

    asyncio.run(main())


@pytest.mark.parametrize("known", [True, False], ids=["a job", "perhaps a job"])
def test_what_cannot_be_undone_now_is_undone_later(known):
    async def main():
        job = allocation()
        job.run_dir, job.record.job_name = "/run", "jupyter-unique"
        if not known:
            job.record.job_id = ""
            job.recorder.unsettled.add("jupyter-unique")
        freed = []
        job._unguard = lambda: freed.append(True)
        job.link.connected = False
        job.recorder.trouble = HostUnreachableError("The login host hpc cannot be reached.", host="hpc")
        await job.end()
        await job.tidy(keep_log=False)
        assert not freed, "should we die, the guard is to try"
        job.recorder.trouble = None
        for _, do in job._cluster.later:
            await do()
        assert freed
        assert job.recorder.done[-2:] == [("cancel", "7" if known else "jupyter-unique"), ("remove", "/run")]

    asyncio.run(main())


def test_a_step_of_the_script_is_the_news_that_the_job_runs():
    async def main():
        job = allocation()
        job.record.started.clear()
        job.record.status = says("PENDING")
        job._does("loading modules gcc/12")
        assert job.record.started.is_set()
        assert ("begins", None) in job.recorder.done, "squeue is to tell the node"
        assert str(line(job.record.waiting())) == "Job 7 · starting on c1 · loading modules gcc/12"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("state", "silent", "config", "held"),
    [
        ("NODE_FAIL", False, {}, True),
        ("NOT_FOUND", False, {}, True),
        ("CANCELLED", True, {}, True),
        ("CANCELLED", False, {}, False),
        ("FAILED", False, {}, False),
        ("NODE_FAIL", False, {"persistent": True}, False),
    ],
)
def test_until_when_a_lost_kernel_may_run(state, silent, config, held):
    async def main():
        job = allocation(lease="10m", **config)
        job.link.connected, job.link.lost_in_silence, job.link.last_sent = False, silent, 1000.0
        job._slurm_says(says(state))
        assert job.may_run_until == (1000 + 600 + FENCE_MARGIN if held else 0)

    asyncio.run(main())


def test_the_new_job_waits_for_the_end_of_a_lost_kernel(monkeypatch, caplog):
    begun: list[float] = []

    class Herald:
        def follow(self, now):
            pass

    async def submit(self, command, *, not_before=0):
        begun.append(not_before)
        raise CommandError("enough", argv=["sbatch"])

    async def main():
        now = asyncio.get_running_loop().time()
        lost = allocation(lease="10m")
        lost.link.connected, lost.link.last_sent = False, now
        lost._slurm_says(says("NODE_FAIL"))
        job: Any = KernelJob.__new__(KernelJob)
        job.allocation, job._log, job._cluster, job._link = lost, log, None, lost.link
        job._kernel, job._fence, job._giving_back = KernelIdentity("k", b"", "hmac-sha256", {}), (0.0, ""), None
        monkeypatch.setattr(Allocation, "submit", submit)
        with pytest.raises(CommandError):
            await job._submit(Herald(), KernelConfig(), None)
        assert job.allocation is lost, "it may be asked for again"
        job.allocation = allocation(lease="10m")
        job.allocation.link.connected = False
        job.allocation._slurm_says(says("CANCELLED"))
        with pytest.raises(CommandError):
            await job._submit(Herald(), KernelConfig(), None)
        assert begun == [now + 600 + FENCE_MARGIN] * 2, "nor is the one before forgotten"

    asyncio.run(main())
    assert "Node c1 was lost" in caplog.text
    assert "`lease`" in caplog.text
