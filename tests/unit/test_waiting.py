"""What a user reads while a job waits and starts."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_provisioner import status as status_module
from slurm_provisioner.status import JobStatus, Position
from slurm_provisioner.waiting import WIDTH, Waiting, line, next_change

NOW = 1795356000.0  # Sunday, 22 November 2026, 14:00 UTC


@pytest.fixture(autouse=True, params=["UTC"])
def zone(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def waits(age: float = 120, state: str = "PENDING", reason: str = "Resources", **known) -> Waiting:
    start = known.pop("start", None)
    status = JobStatus("1234", state, reason, start=start)
    return replace(Waiting(NOW, "1234", status, since=NOW - age), **known)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (Waiting(NOW), "Submitting the job"),
        (Waiting(NOW, "1234", since=NOW), "Job 1234 · queued"),
        (waits(start=NOW + 310), "Job 1234 · queued 2 min · waiting for free resources · starts about 14:05"),
        (waits(start=NOW - 1), "Job 1234 · queued 2 min · waiting for free resources"),
        (
            waits(40, reason="QOSMaxJobsPerUserLimit"),
            "Job 1234 · queued 40 s · your limit of running jobs is reached (QOSMaxJobsPerUserLimit)",
        ),
        (
            waits(reason="Priority", position=Position(3, "gpu")),
            "Job 1234 · queued 2 min · jobs of higher priority come first · 3rd in partition gpu",
        ),
        (
            waits(reason="BeginTime", start=NOW + 600),
            "Job 1234 · queued 2 min · its begin time has not come yet · not before 14:10",
        ),
        (
            waits(reason="BeginTime", start=NOW + 600, lost_node="n7"),
            "Job 1234 · queued 2 min · its lost predecessor may still run on n7 · not before 14:10",
        ),
        (
            waits(silent="Slurm does not answer at the moment", start=NOW + 600, position=Position(3, "gpu")),
            "Job 1234 · queued 2 min · Slurm does not answer at the moment",
        ),
        (waits(reason="SomethingNew"), "Job 1234 · queued 2 min · SomethingNew"),
        (waits(state="SOMETHING_NEW"), "Job 1234 · queued 2 min · Slurm says SOMETHING_NEW"),
        (waits(state="REQUEUE_HOLD", reason=""), "Job 1234 · queued 2 min · held: it was queued again"),
        (
            waits(state="CONFIGURING", reason="", node="n12"),
            "Job 1234 · queued 2 min · node n12 is booting or being prepared",
        ),
        (waits(state="RUNNING", reason=""), "Job 1234 · starting"),
        (
            waits(
                state="RUNNING",
                reason="",
                node="n12",
                stage="loading modules gcc/12",
                silent="Slurm does not answer at the moment",
            ),
            "Job 1234 · starting on n12 · loading modules gcc/12",
        ),
        (
            waits(state="SUSPENDED", reason="", node="n12", stage="loading modules gcc/12"),
            "Job 1234 · suspended by Slurm or an administrator, to go on later",
        ),
        (waits(state="TIMEOUT", reason="TimeLimit"), "Job 1234 · ended"),
    ],
)
def test_the_line(seen, text):
    assert str(line(seen)) == text


def test_a_job_that_does_not_start_by_itself_has_a_hint():
    held = line(waits(reason="JobHeldUser"))
    assert held.parts == ("Job 1234", "queued 2 min", "held by you (JobHeldUser)")
    assert held.hint == "`scontrol release 1234` lets it go on."
    assert not line(waits()).hint
    assert not line(waits(reason="JobHeldUser", silent="Slurm does not answer at the moment")).hint


def test_a_long_line_is_cut_where_it_matters_least():
    modules = "loading modules " + " ".join(f"a-module/{n}" for n in range(40))
    text = str(line(waits(state="RUNNING", node="n12", stage=modules)))
    assert len(text) == WIDTH
    assert text.startswith("Job 1234 · starting on n12 · loading modules a-module/0")
    assert text.endswith("…")
    cut = str(line(waits(reason="x" * 200, start=NOW + 300)))
    assert cut.endswith("xxx… · starts about 14:05")


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (-3, "queued"),
        (4.9, "queued"),
        (5, "queued 5 s"),
        (59, "queued 55 s"),
        (60, "queued 1 min"),
        (3599, "queued 59 min"),
        (3600, "queued 1 h 0 min"),
        (5000, "queued 1 h 20 min"),
        (86_399, "queued 23 h 50 min"),
        (86_400, "queued 1 d 0 h"),
        (300_000, "queued 3 d 11 h"),
    ],
)
def test_the_age_is_told_in_steps_that_grow(age, text):
    assert line(waits(age)).parts[1] == text


@pytest.mark.parametrize(
    ("start", "text"),
    [
        ("2026-11-22T23:59", "starts about 23:59"),
        ("2026-11-23T00:00", "starts about tomorrow 00:00"),
        ("2026-11-23T03:10", "starts about tomorrow 03:10"),
        ("2026-11-24T14:05", "starts about Tue 14:05"),
        ("2026-11-28T14:05", "starts about Sat 14:05"),
        ("2026-11-29T14:05", "starts about 29 Nov 14:05"),
        ("2027-01-02T14:05", "starts about 2 Jan 2027"),
    ],
)
def test_a_time_of_day_has_its_day(start, text):
    assert line(waits(start=at(start))).parts[-1] == text


@pytest.mark.parametrize("zone", ["JST-9"], indirect=True)
def test_times_of_day_are_those_of_this_zone():
    assert line(waits(start=NOW + 300)).parts[-1] == "starts about 23:05"
    assert line(waits(start=NOW + 7200)).parts[-1] == "starts about tomorrow 01:00"


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (112, "112th"), (121, "121st")]
)
def test_ordinals(number, text):
    assert line(waits(position=Position(number, "gpu"))).parts[-1] == f"{text} in partition gpu"


WAITS = st.builds(
    waits,
    age=st.floats(-10, 400_000),
    state=st.sampled_from(sorted(status_module._PHASES)),
    reason=st.one_of(st.text(max_size=150), st.sampled_from(["Resources", "BeginTime", "AssocGrpGRESRunMinutes"])),
    start=st.none() | st.floats(-100, 400_000).map(lambda seconds: NOW + seconds),
    position=st.none() | st.builds(Position, st.integers(1, 2000), st.just("gpu")),
    stage=st.text(max_size=150),
    node=st.sampled_from(["", "n12"]),
    silent=st.sampled_from(["", "Slurm does not answer at the moment"]),
)


@given(WAITS)
def test_a_line_is_never_too_long(seen):
    assert len(str(line(seen))) <= WIDTH


@given(WAITS, st.floats(0, 0.999))
def test_nothing_changes_by_itself_sooner_than_was_said(seen, share):
    soon = min(next_change(seen) - 0.002, 1e6)
    assert line(replace(seen, now=seen.now + max(0.0, soon) * share)) == line(seen)


@given(st.floats(0, 400_000))
def test_the_age_has_changed_when_it_was_said_to(age):
    seen = waits(age)
    pause = next_change(seen)
    assert 0 < pause <= 3601
    assert line(replace(seen, now=seen.now + pause)) != line(seen)


def test_what_stays_as_it_is_needs_no_refreshing():
    assert next_change(Waiting(NOW)) == math.inf
    assert next_change(waits(state="RUNNING")) == math.inf
