"""The books of a job: what its events make of them, in whatever order they come."""

from __future__ import annotations

import logging

import pytest

from slurm_provisioner.record import JobRecord
from slurm_provisioner.status import JobStatus
from slurm_provisioner.waiting import line

log = logging.getLogger("test.record")


@pytest.fixture
def record() -> JobRecord:
    record = JobRecord(log)
    record.job_id, record.node = "7", "c1"
    record.started.set()
    record.take({"event": "status", "state": "starting", "generation": 1, "ending": None})
    return record


def ready(record: JobRecord, generation: int = 1) -> None:
    record.take({"event": "ready", "generation": generation})


def exited(record: JobRecord, **facts: object) -> None:
    event = {"event": "exited", "generation": 1, "expected": False, "code": None, "signal": None, "log": ["the end"]}
    record.take({**event, **facts})


def test_a_kernel_that_gets_up(record):
    assert not record.up.is_set()
    ready(record)
    assert record.up.is_set()
    assert record.exit_code is None
    assert not record.over


def test_a_crash_is_told_with_all_that_is_known(record, caplog):
    ready(record)
    exited(record, signal=11)
    assert record.exit_code == -11
    assert not record.over, "the job goes on"
    assert "The kernel in job 7 on c1 ended with signal SIGSEGV." in caplog.text
    assert "the end" in caplog.text
    assert "SIGSEGV" in str(record.death)


def test_want_of_memory_is_told_with_its_remedy(record, caplog):
    ready(record)
    exited(record, signal=9, oom=True)
    assert "SIGKILL, as the job was out of memory" in str(record.death)
    assert "`mem`" in caplog.text


def test_a_wanted_end_is_no_news(record, caplog):
    ready(record)
    record.stopping = True
    exited(record, signal=9)
    assert record.exit_code == -9
    assert not caplog.text
    assert record.death is None


def test_an_end_is_told_once_though_it_is_heard_again(record, caplog):
    ready(record)
    exited(record, code=3)
    record.take({"event": "status", "state": "exited", "generation": 1, "code": 3, "signal": None, "log": []})
    assert caplog.text.count("exit code 3") == 1


def test_news_of_an_earlier_kernel_do_not_touch_its_successor(record):
    ready(record)
    exited(record, code=1)
    ready(record, generation=2)
    assert (record.exit_code, record.death) == (None, None)
    exited(record, code=1)
    assert record.exit_code is None


def test_from_its_announcement_on_an_ending_job_takes_no_kernel(record, caplog):
    ready(record)
    record.take({"event": "ending", "reason": "terminated"})
    assert record.over
    assert record.exit_code is None, "the kernel has a moment to finish"
    assert "Job 7 on c1 is about to end: Slurm asked it to" in caplog.text
    exited(record, signal=15, expected=True)
    record.take({"event": "bye", "reason": "terminated"})
    assert record.exit_code == -15, "the first source knows best"
    assert caplog.text.count("about to end") == 1


def test_an_announcement_that_was_missed_is_in_the_status(record):
    record.take({"event": "status", "state": "ready", "generation": 1, "ending": "lease"})
    assert record.over


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (JobStatus("7", "TIMEOUT", "TimeLimit", "c1", 0, 15), -15),
        (JobStatus("7", "FAILED", "NonZeroExitCode", "c1", 110, None), 110),
        (JobStatus("7", "NODE_FAIL"), 1),
    ],
)
def test_slurms_word_is_an_end_even_without_the_supervisors(record, status, code):
    ready(record)
    record.slurm_ended_it(status)
    assert record.exit_code == code
    assert record.over
    assert record.evidence().status is status


@pytest.fixture
def told(record) -> list[str]:
    """What the line reads each time that it may have changed."""
    lines: list[str] = []
    record.changed = lambda: lines.append(str(line(record.waiting())))
    return lines


def test_what_is_known_sooner_than_by_squeue_is_in_the_line(record, told):
    record.status = JobStatus("7", "PENDING", "Priority")
    assert str(line(record.waiting())) == "Job 7 · starting on c1 · starting the kernel"
    record.status = JobStatus("7", "SUSPENDED", node="c1")
    assert "suspended" in str(line(record.waiting()))


def test_whoever_shows_the_line_hears_of_changes(record, told):
    ready(record)
    assert told, "its kernel is up"
    assert record.stage == ""
    told.clear()
    record.new_kernel(2)
    assert told == ["Job 7 · starting on c1 · starting the kernel"]
    for news in (
        lambda: record.notes.take(silent="nobody answers", position=None),
        lambda: exited(record, generation=2, code=3),
        lambda: record.take({"event": "ending", "reason": "terminated"}),
        lambda: record.slurm_ended_it(JobStatus("7", "CANCELLED")),
    ):
        told.clear()
        news()
        assert told


def test_notes_that_stay_the_same_are_no_news(record, told):
    for _ in range(3):
        record.notes.take(silent="", position=None)
    assert not told
