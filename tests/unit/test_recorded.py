"""What is understood of what Slurm's programs of several releases really said: see `containers/record.py`."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from recordings import FOLDER, JOBS, LOOKS, REFUSED, Recording, digest, directives, job, load, refused, submission

from slurm_provisioner import kernels, launcher, listing
from slurm_provisioner.checkup import programs_argv
from slurm_provisioner.cli.checks import ProblemError
from slurm_provisioner.errors import CommandError, SubmissionError
from slurm_provisioner.explain import Evidence, how_it_ended, job_ended
from slurm_provisioner.offers import offers_argv
from slurm_provisioner.quantities import parse_time
from slurm_provisioner.reasons import explain_reason
from slurm_provisioner.sbatch import submit_argv
from slurm_provisioner.slurm import Slurm
from slurm_provisioner.status import (
    JobStatus,
    Phase,
    Position,
    account_argv,
    parse_account,
    state_argv,
)
from slurm_provisioner.transport import Completed
from slurm_provisioner.transport.local import LocalTransport
from slurm_provisioner.waiting import Waiting, line

STATE_DIR = "~/.slurm_provisioner"
RELEASES = ["20.11", "22.05", "24.11", "26.05"]


class Replay(LocalTransport):
    """The cluster as it was in a scene."""

    def __init__(self, recording: Recording, scene: str) -> None:
        self.recording, self.scene = recording, scene

    async def run(self, argv, *, stdin=b"", timeout):
        return self.recording.answer(self.scene, argv)


@pytest.fixture(params=RELEASES)
def recording(request) -> Recording:
    return load(FOLDER / f"{request.param}.json")


@pytest.fixture
def release(recording) -> str:
    return ".".join(recording.version.split(".")[:2])


def slurm(recording: Recording, scene: str) -> Slurm:
    return Slurm(Replay(recording, scene))


def told(recording: Recording, scene: str, argv: list[str]) -> Completed:
    return recording.answer(scene, argv)


def looks(recording: Recording, scene: str) -> list[str]:
    """What `jupyter slurm doctor` finds."""

    async def look(each: Any) -> str:
        client = slurm(recording, scene)
        try:
            return await each(SimpleNamespace(transport=client.transport, slurm=client))
        except (CommandError, ProblemError) as error:
            return error.summary

    return [asyncio.run(look(each)) for each in LOOKS]


# What is asked


def test_every_recording_is_played(recording, release):
    assert {path.stem for path in FOLDER.glob("*.json")} == set(RELEASES)
    assert release in RELEASES


def test_the_shell_programs_are_those_that_were_recorded(recording):
    positions: list[list[str]] = []

    class Notes(LocalTransport):
        async def run(self, argv, *, stdin=b"", timeout):
            positions.append(list(argv))
            return Completed(tuple(argv), 0, "", "")

    asyncio.run(Slurm(Notes()).positions({"1"}, {"debug"}))
    now = [programs_argv(""), submit_argv("", "", "", "", ""), offers_argv(), listing.listing_argv([], ""), *positions]
    assert recording.shells == {argv[3]: digest(argv) for argv in now}, "scripts/containers record"


@pytest.mark.parametrize("label", [*JOBS, *REFUSED])
def test_the_batch_scripts_ask_for_what_was_recorded(recording, label):
    scene = {"deaf": "controller down"}.get(label, label if label in JOBS else f"refused: {label}")
    (recorded,) = [each["stdin"] for each in recording.said[scene] if "<submit>" in each["command"]]
    wanted = job(label, recording.jobs) if label in JOBS else refused(label)
    assert recorded == directives(wanted.script)


# What is understood


@pytest.mark.parametrize("label", [label for label in JOBS if label != "deaf"])
def test_a_submission_is_answered_with_the_jobs_id(recording, label):
    job_id = asyncio.run(slurm(recording, label).submit(job(label, recording.jobs)))
    assert job_id.isdecimal()
    assert job_id == recording.jobs[label]


# Reason, what is told, how the hint begins, whether Slurm says when it starts (None: that depends on its schedulers).
WAITING = {
    "next": ("Resources", "waiting for free resources", "", True),
    # the one scheduler says Priority, and the other what it waits for
    "later": ("Priority|ReqNodeNotAvail, (UnavailableNodes:c2|May be reserved for other job)", None, "", None),
    "depends": ("Dependency", "waiting for the jobs it depends on", "", False),
    "never": (
        "DependencyNeverSatisfied",
        "what it depends on never comes true (DependencyNeverSatisfied)",
        "It will never start: correct `dependency`",
        False,
    ),
    "begin": ("BeginTime", "its begin time has not come yet", "", True),
    "again": ("BeginTime", "its begin time has not come yet", "", True),
    "held": ("JobHeldUser", "held by you (JobHeldUser)", "`scontrol release {job_id}`", True),
    "frozen": ("JobHeldAdmin", "held by an administrator (JobHeldAdmin)", "Ask the cluster's support", True),
    "closed": ("PartitionDown", "its partition is down (PartitionDown)", "`sinfo -s` shows the partitions", False),
    "too long for its partition": (
        "PartitionTimeLimit",
        "it asks for more time than its partition gives (PartitionTimeLimit)",
        "Ask for less `time`",
        False,
    ),
}
OF_LATER = {
    "jobs of higher priority come first",
    "nodes it needs are in use, reserved or down",
    "its nodes are kept for other jobs",
}


@pytest.mark.parametrize("scene", WAITING)
def test_a_job_that_waits(recording, release, scene):
    reason, words, hint, dated = WAITING[scene]
    label = scene if scene in JOBS else "closed"
    job_id, name = recording.jobs[label], job(label, recording.jobs).job_name
    client = slurm(recording, scene)
    seen = asyncio.run(client.queue([job_id]))[job_id]
    partition = "gpu" if label == "closed" else "debug"
    node = "c1" if (release, scene) == ("20.11", "again") else ""  # the one that it was on
    assert re.fullmatch(reason, seen.reason)
    assert seen == JobStatus(job_id, "PENDING", seen.reason, node, name=name, partition=partition, start=seen.start)
    assert dated in (None, seen.start is not None)
    assert seen.in_line == (scene in ("next", "later") and seen.start is None)
    looked_up = asyncio.run(client.look_up(job_id))
    assert looked_up == JobStatus(job_id, "PENDING", seen.reason.replace(" ", "_"), node, 0, None, name)
    for status in (seen, looked_up):
        shown, advice = explain_reason(status.reason)
        assert shown in ({words} if words else OF_LATER)
        assert advice.startswith(hint)
        assert bool(advice) == bool(hint)
    state = told(recording, scene, state_argv(job_id))
    # to a supervisor, a job of its own that waits is one that was queued again
    assert launcher.given_up(state.returncode, state.stdout, state.stderr) is True


@pytest.mark.parametrize("scene", ["held", "frozen"])
def test_a_job_that_is_held_has_no_prospect_of_a_start_though_slurm_has_its_date(recording, scene):
    job_id = recording.jobs[scene]
    seen = asyncio.run(slurm(recording, scene).queue([job_id]))[job_id]
    assert seen.start is not None
    shown = line(Waiting(seen.start - 1800, job_id, seen))
    assert shown.parts == (f"Job {job_id}", "queued", WAITING[scene][1])
    begins = line(Waiting(seen.start - 1800, job_id, replace(seen, reason="BeginTime")))
    assert begins.parts[-1].startswith("not before ")


def test_a_job_that_runs(recording):
    job_id = recording.jobs["running"]
    client = slurm(recording, "running")
    seen = asyncio.run(client.queue([job_id]))[job_id]
    name = "jupyter-running-000000"
    assert seen == JobStatus(job_id, "RUNNING", "", "c1", name=name, partition="debug", start=seen.start)
    assert seen.start is not None
    assert asyncio.run(client.look_up(job_id)) == JobStatus(job_id, "RUNNING", "", "c1", 0, None, name)
    state = told(recording, "running", state_argv(job_id))
    assert launcher.given_up(state.returncode, state.stdout, state.stderr) is False
    account = parse_account(told(recording, "running", account_argv(job_id)).stdout, job_id)
    assert account is not None
    assert account.phase is Phase.RUNNING, "what accounting says of it is no end"


# State, reason, node, exit code, signal; what is told.
ENDS = {
    "done": ("COMPLETED", "", "c1", 0, None, "it is over"),
    "failed": ("FAILED", "NonZeroExitCode", "c1", 3, None, "it failed with exit code 3"),
    "killed": ("FAILED", "RaisedSignal:9(Killed)", "c1", 0, 9, "it failed with signal SIGKILL"),
    "nolog": ("FAILED", "RaisedSignal:53(Real-time signal 19)", "c1", 0, 53, "its log could not be opened on the node"),
    "timeout": ("TIMEOUT", "TimeLimit", "c1", 0, 15, "it reached its time limit"),
    "cancelled": ("CANCELLED", "", "c1", 0, 15, "it was cancelled"),
    "gone": ("CANCELLED", "BeginTime", "", 0, None, "it was cancelled"),
    "weak": ("PREEMPTED", "", "c2", 0, 15, "it had to make room for a job of higher priority"),
    "whole": ("NODE_FAIL", "NodeDown", "c2", 0, None, "its node failed"),
}


def end_of(scene: str, release: str) -> tuple[str, str, str, int, int | None, str]:
    """How a job ends on a release."""
    state, reason, node, code, signum, words = ENDS[scene]
    old = release in ("20.11", "22.05")
    if (scene, release) == ("nolog", "20.11"):  # which does not tell it from what fails by itself
        return state, "NonZeroExitCode", node, 1, None, "it failed with exit code 1"
    if reason.startswith("RaisedSignal") and old:
        reason = "JobLaunchFailure"  # there is no reason of its own for a signal
    if state == "NODE_FAIL" and not old:
        signum = 1
    return state, reason, node, code, signum, words


@pytest.mark.parametrize("scene", ENDS)
def test_a_job_that_is_over(recording, release, scene):
    state, reason, node, code, signum, words = end_of(scene, release)
    label = "running" if scene == "cancelled" else scene
    job_id, name = recording.jobs[label], job(label, recording.jobs).job_name
    client = slurm(recording, scene)
    partition = "low" if scene == "weak" else "debug"
    seen = asyncio.run(client.queue([job_id]))[job_id]
    assert seen == JobStatus(job_id, state, reason, node, name=name, partition=partition, start=seen.start)
    looked_up = asyncio.run(client.look_up(job_id))
    assert looked_up is not None
    assert (looked_up.state, looked_up.node, looked_up.name) == (state, node, name)
    assert looked_up.reason.replace("_", " ") == reason.replace("_", " "), "scontrol has no spaces"
    assert (looked_up.exit_code, looked_up.exit_signal) == (code, signum)
    assert how_it_ended(Evidence(job_id, looked_up)) == words
    account = parse_account(told(recording, scene, account_argv(job_id)).stdout, job_id)
    assert account is not None
    # accounting does not know at once by which signal Slurm ended a job, and takes that of a lost node for an exit code
    otherwise = {"TIMEOUT": (0, None), "CANCELLED": (0, None), "PREEMPTED": (0, None), "NODE_FAIL": (1, None)}
    assert (account.state, account.node) == (state, node)
    assert (account.exit_code, account.exit_signal) in [(code, signum), otherwise.get(state)]
    assert how_it_ended(Evidence(job_id, account)) == words
    answer = told(recording, scene, state_argv(job_id))
    assert launcher.given_up(answer.returncode, answer.stdout, answer.stderr) is True


def test_a_log_that_cannot_be_opened(recording):
    client = slurm(recording, "nolog")
    looked_up = asyncio.run(client.look_up(recording.jobs["nolog"]))
    assert looked_up is not None
    error = str(job_ended(Evidence(looked_up.job_id, looked_up), up=False))
    assert "before its kernel was up: its log could not be opened on the node" in error
    assert "`state_dir`" in error


def test_positions_in_the_queue(recording):
    mine = {recording.jobs["next"], recording.jobs["later"]}
    # somebody else's array is between them, and those that are held or wait for others do not count
    assert asyncio.run(slurm(recording, "positions").positions(mine, {"debug"})) == {
        recording.jobs["next"]: Position(1, "debug"),
        recording.jobs["later"]: Position(3, "debug"),
    }


def test_a_job_that_nobody_knows(recording):
    client = slurm(recording, "unknown job")
    assert asyncio.run(client.queue(["4711"])) == {}
    assert asyncio.run(client.look_up("4711")) is None
    answer = told(recording, "unknown job", state_argv("4711"))
    assert launcher.given_up(answer.returncode, answer.stdout, answer.stderr) is True


def test_a_job_that_only_accounting_remembers(recording):
    job_id, other = recording.jobs["done"], recording.jobs["begin"]
    client = slurm(recording, "forgotten job")
    assert asyncio.run(client.queue([job_id])) == {}
    assert {*asyncio.run(client.queue([job_id, other]))} == {other}
    name = "jupyter-done-000000"
    assert asyncio.run(client.look_up(job_id)) == JobStatus(job_id, "COMPLETED", "", "c1", 0, None, name)


def test_steering_a_job(recording):
    running, gone = recording.jobs["running"], recording.jobs["gone"]
    client = slurm(recording, "steering")
    asyncio.run(client.signal(running, "URG"))
    asyncio.run(client.cancel(running))
    asyncio.run(client.cancel(gone))
    client = slurm(recording, "steering what is over")
    asyncio.run(client.cancel(running))
    asyncio.run(client.signal(running, "INT"))
    client = slurm(recording, "unknown job")
    asyncio.run(client.cancel("4711"))
    asyncio.run(client.cancel_named("nope"))


def test_what_is_over_is_told_as_such(recording):
    done = told(recording, "steering what is over", ["scancel", "--signal=INT", "--batch", recording.jobs["running"]])
    assert done.returncode != 0
    assert "Invalid job id" in done.stderr


# What sbatch refuses


def test_a_forecast(recording):
    foreseen = asyncio.run(slurm(recording, "forecast").forecast(submission("fits", {}).script))
    when, where = foreseen[: len("would start at 2026-01-02 03:04")], foreseen[len("would start at 2026-01-02 03:04") :]
    assert re.fullmatch(r"would start at 20\d\d-\d\d-\d\d \d\d:\d\d", when)
    assert where == " using 1 processors on nodes c1 in partition debug"


NOT_AVAILABLE = "Requested node configuration is not available"
LESS = "Ask for less: "
# The complaint, and how the hint begins.
REFUSALS = {
    "account": ("Invalid account or account/partition combination specified", "`account`: "),
    "constraint": ("Invalid feature specification", "`constraint`: "),
    "cpus": (NOT_AVAILABLE, LESS),
    "dependency": ("Job dependency problem", "`dependency`: "),
    "gpus": (NOT_AVAILABLE, LESS),
    "gputype": (NOT_AVAILABLE, LESS),
    "gres": ("Invalid generic resource (gres) specification", "`gpus` or `gres`: "),
    "licenses": ("Invalid license specification", "`licenses`: "),
    "memory": (NOT_AVAILABLE, "`mem`: "),
    "nodelist": ("Invalid node name specified", "`nodelist`: "),
    "nodes": ("Node count specification invalid", LESS),
    "option": ("unrecognized option '--nope=1'", "`sbatch`: "),
    "partition": ("Invalid partition name specified", "`partition`: "),
    "qos": ("Invalid qos specification", "`qos`: "),
    "reservation": ("Requested reservation is invalid", "`reservation`: "),
    "time": ("Requested time limit is invalid (missing or exceeds some limit)", "`time`: "),
}


@pytest.mark.parametrize("label", REFUSED)
def test_a_refusal(recording, release, label):
    client = slurm(recording, f"refused: {label}")
    wanted = refused(label)
    if label == "dependency" and release in ("20.11", "22.05"):
        # a job that is not known is taken for one that is over
        assert asyncio.run(client.submit(wanted)).isdecimal()
        return
    complaint, hint = REFUSALS[label]
    with pytest.raises(SubmissionError) as caught:
        asyncio.run(client.submit(wanted))
    assert caught.value.summary == f"Slurm refused the job: {complaint}."
    assert caught.value.hint.startswith(hint)
    with pytest.raises(SubmissionError) as caught:
        asyncio.run(client.forecast(wanted.script))
    assert caught.value.summary == f"Slurm refused the job: {complaint}."
    # --test-only does not say which part of the configuration is not available
    assert caught.value.hint.startswith(LESS if complaint == NOT_AVAILABLE else hint)


# The cluster


def test_a_healthy_cluster(recording, release):
    assert looks(recording, "healthy") == [
        f"Slurm {recording.version}, in /usr/bin",
        "slurmctld on slurmctld is up, squeue answers",
        "sacct answers",
    ]
    assert recording.version.startswith(release)


UNREACHABLE = "Unable to contact slurm controller (connect failure)"


def test_what_is_offered(recording, release):
    offers = asyncio.run(slurm(recording, "healthy").offers())
    assert offers.unknown == {}
    assert offers.rules is not None
    assert offers.rules.cluster == "containers"
    assert offers.rules.version == tuple(map(int, recording.version.split(".")))
    assert {"associations", "limits", "qos"} == offers.rules.enforced
    assert offers.rules.every_partition
    assert offers.partitions is not None
    found = {each.name: each for each in offers.partitions}
    assert {*found} == {"debug", "gpu", "low"}
    assert [each.name for each in found.values() if each.is_default] == ["debug"]
    assert {(each.up, each.listed, each.hidden, each.on_offer) for each in found.values()} == {
        (True, True, False, True)
    }
    times = {name: each.max_time for name, each in found.items()}
    assert times == {"debug": parse_time("1-00:00:00"), "gpu": parse_time("04:00:00"), "low": parse_time("1-00:00:00")}
    assert {each.default_time for each in found.values()} == {3600}
    assert {name: each.node_count for name, each in found.items()} == {"debug": 2, "gpu": 1, "low": 2}
    assert {(each.cpus, each.memory) for each in found.values()} == {(64, 60000)}
    assert {each.max_nodes for each in found.values()} == {math.inf}
    assert {each.allowed_accounts for each in found.values()} == {None}
    assert offers.associations is not None
    (association,) = offers.associations
    assert (association.account, association.partition, association.is_default) == ("science", "", True)
    assert (association.qos, association.default_qos, association.max_wall) == (("normal",), "", None)
    if release in ("20.11", "22.05"):
        assert association.above is None, "these know no lineage"
    else:
        assert association.above is not None
        assert "science" in association.above
    assert offers.qos is not None
    assert [(each.name, each.max_wall) for each in offers.qos] == [("normal", None)]
    assert offers.reservations == ()


def test_accounting_that_is_down(recording):
    commands, controller, accounting = looks(recording, "accounting down")
    assert commands == f"Slurm {recording.version}, in /usr/bin"
    assert controller == "slurmctld on slurmctld is up, squeue answers"
    assert re.fullmatch(r"sacct does not answer: .*Connection refused\.", accounting)
    client = slurm(recording, "accounting down")
    job_id = recording.jobs["done"]
    assert asyncio.run(client.queue([job_id]))[job_id].state == "COMPLETED"
    assert told(recording, "accounting down", account_argv(job_id)).returncode != 0
    offers = asyncio.run(client.offers())
    assert {*offers.unknown} == {"associations", "default_account", "qos"}
    for why in offers.unknown.values():
        assert re.fullmatch("sacctmgr failed: .*Connection refused", why)
    assert offers.partitions is not None
    assert len(offers.partitions) == 3


def test_a_controller_that_is_down(recording):
    job_id = recording.jobs["begin"]
    client = slurm(recording, "controller down")
    assert looks(recording, "controller down") == [
        f"Slurm {recording.version}, in /usr/bin",
        f"squeue failed: {UNREACHABLE}.",
        "sacct answers",
    ]
    with pytest.raises(CommandError) as caught:
        asyncio.run(client.queue([job_id]))
    assert caught.value.summary == f"squeue failed: {UNREACHABLE}."
    assert asyncio.run(client.look_up(job_id)) is None, "what accounting says of a job that is not over is no news"
    with pytest.raises(CommandError) as caught:
        asyncio.run(client.cancel(job_id))
    assert caught.value.summary.startswith("scancel failed: ")
    assert UNREACHABLE in caught.value.summary
    assert asyncio.run(client.positions({job_id}, {"debug"})) == {}
    for call in (client.submit(job("deaf", recording.jobs)), client.forecast(submission("fits", {}).script)):
        with pytest.raises(SubmissionError) as caught:
            asyncio.run(call)
        assert caught.value.summary == f"Slurm refused the job: {UNREACHABLE}."
        assert caught.value.hint.startswith("The controller does not answer")
    answer = told(recording, "controller down", state_argv(job_id))
    assert launcher.given_up(answer.returncode, answer.stdout, answer.stderr) is None
    offers = asyncio.run(client.offers())
    assert offers.unknown == {
        **dict.fromkeys(("rules", "partitions", "reservations"), f"scontrol failed: {UNREACHABLE}"),
        "nodes": f"sinfo failed: {UNREACHABLE}",
    }


# What `jupyter slurm list` shows


@pytest.mark.parametrize("scene", ["listing", "forgotten job"])
def test_all_kernels_of_a_user(recording, release, monkeypatch, scene):
    (listed,) = [each for each in recording.said[scene] if "<kernels>" in each["command"]]
    entries = listing.parse_entries("\n".join(listed["stdout"]))
    began = max(each.about.submitted for each in entries)
    monkeypatch.setattr(kernels, "time", SimpleNamespace(time=lambda: began + 60))
    found = {each.about.kernel_id: each for each in asyncio.run(kernels.find(slurm(recording, scene), [STATE_DIR]))}
    assert {*found} >= {*ENDS} - {"cancelled"}
    for label in JOBS:
        if label == "deaf":
            continue
        kernel = found[label]
        assert kernel.job is not None, label
        assert (kernel.job.job_id, kernel.job.name) == (recording.jobs[label], kernel.about.job_name)
        assert (kernel.job.account, kernel.job.qos) == ("science", "normal")
        # accounting has no node for what never ran
        assert kernel.job.node_count in ((0, 1) if label in ("gone", "closed", "again") else (1,))
        assert kernel.job.time_limit == {"timeout": 60, "closed": 10800}.get(label, 600)
        scene_of_end = "cancelled" if label == "running" else label
        if scene_of_end in ENDS:
            state, _, node, _, _, words = end_of(scene_of_end, release)
            assert (kernel.job.state, kernel.job.node) == (state, node)
            assert how_it_ended(Evidence(kernel.job.job_id, kernel.job.status)) == words
            assert kernel.job.submitted is not None
            assert kernel.job.end is not None
            assert not kernel.alive
    assert {label for label, each in found.items() if each.alive} == {
        *("begin", "held", "frozen", "depends", "never", "later"),
        *([] if found["next"].phase is Phase.ENDED else ["next"]),
    }
    failed = found["failed"].job
    assert failed is not None
    assert (failed.exit_code, failed.exit_signal, failed.cpus, failed.tres["mem"]) == (3, None, 1, "200M")
    whole = found["whole"].job
    assert whole is not None
    assert whole.cpus == 64
