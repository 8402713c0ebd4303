"""An error is a sentence, its evidence, and the next step."""

from __future__ import annotations

import pytest

from slurm_provisioner import errors, explain, launcher
from slurm_provisioner.errors import CommandTimeoutError, JobEndedError, SubmissionError
from slurm_provisioner.explain import (
    Evidence,
    job_ended,
    kernel_not_started,
    node_unreachable,
    queued_too_long,
    started_too_long,
)
from slurm_provisioner.login_host import LoginHost
from slurm_provisioner.status import JobStatus


def test_the_tree():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.SlurmProvisionerError)
        assert name in errors.__doc__


def test_a_failed_command_shows_itself():
    error = SubmissionError(
        "Slurm refused the job: no.", argv=["sbatch", "-x"], returncode=1, stderr="a\nb\n", hint="Ask nicely."
    )
    assert str(error) == "Slurm refused the job: no.\n  command: sbatch -x (exit code 1)\n  a\n  b\n→ Ask nicely."


def test_a_late_command_is_a_timeout_too():
    assert isinstance(CommandTimeoutError("late", argv=["squeue"]), TimeoutError)


def test_a_job_shows_state_reason_and_log():
    error = JobEndedError(
        "Job 7 ended.", job_id="7", state="FAILED", reason="NonZeroExitCode", log=["x", "y"], log_path="/l"
    )
    assert str(error) == "Job 7 ended.\n  state: FAILED (NonZeroExitCode)\n  end of /l:\n    x\n    y"
    assert error.log == ("x", "y")


def words(state: str, *log: str, code: int | None = 1, up: bool = False, leaving: str = "") -> str:
    status = JobStatus("1", state, exit_code=code)
    return str(job_ended(Evidence("1", status, "c1", log, "/log", leaving=leaving), up=up))


def test_ends_of_jobs_in_plain_words():
    assert words("TIMEOUT", up=True).startswith("Job 1 on c1 ended: it reached its time limit.\n  state: TIMEOUT\n")
    assert "`time`" in words("TIMEOUT")
    assert "`mem`" in words("OUT_OF_MEMORY")
    assert "scancel" in words("CANCELLED")
    assert "another node" in words("NODE_FAIL")
    assert "NEW_STATE" in words("NEW_STATE")
    failed = words("FAILED", "slurm-provisioner: failed: module load nope", code=110)
    assert "environment could not be set up: module load nope." in failed
    assert "before its kernel was up" in failed
    assert "`python`" in words("FAILED", code=127)
    assert "log could not be opened" in words("FAILED", code=1)
    assert "exit code 1." in words("FAILED", "slurm-provisioner: loading the environment", code=1)
    assert "exit code 1." in words("FAILED", code=1, up=True)
    assert "exit code 110" in words("FAILED", code=110, up=True)
    assert "`mem`" in words("FAILED", "slurmstepd: error: Detected 1 oom_kill event in StepId=1.batch.")


def test_a_supervisor_that_ended_its_job_knows_better_why_than_slurm():
    assert "ended: nobody restarted its kernel in time (`crash_grace`)." in words(
        "FAILED", up=True, leaving="crash-grace"
    )
    assert "(`lease`)" in words("COMPLETED", code=0, up=True, leaving="lease")
    assert "its time limit" in words("TIMEOUT", up=True, leaving="terminated")
    assert "time limit, a job of higher priority or scancel" in words("RUNNING", up=True, leaving="terminated")
    assert "exit code 143" in words("FAILED", code=143, up=True, leaving="terminated")
    assert "Slurm put it back" in words("REQUEUED", up=True, leaving="terminated")


def test_a_supervisor_that_could_tell_nobody_why_it_ended_its_job_told_its_log():
    for why, said in explain.LOGGED.items():
        assert said == launcher.REASONS[why]
        log = [f"slurm-provisioner: the job ends: {said}", "and so on"]
        assert f"(`{why.replace('-', '_')}`)" in words("COMPLETED", *log, code=0, up=True) or why == "forgotten"
        assert "its time limit" in words("TIMEOUT", *log, up=True)


def kernel(code: int | None, signum: int | None, *log: str) -> str:
    return str(kernel_not_started(Evidence("1", JobStatus("1", "RUNNING"), "c1", log), code, signum))


def test_a_kernel_that_is_not_installed():
    text = kernel(1, None, "/usr/bin/python3: No module named ipykernel_launcher")
    assert text.startswith("Job 1 runs on c1, but its kernel ended with exit code 1: ")
    assert "no module ipykernel_launcher" in text
    assert "Install ipykernel " in text


@pytest.mark.parametrize("said", ["RuntimeError: Invalid argument", "  what():  Invalid argument"])
def test_a_kernel_whose_sockets_have_too_long_names_for_it(said):
    assert "`kernel_transport`" in kernel(1, None, "Starting", said)
    assert "`kernel_transport`" not in kernel(1, None, f"OSError: {said}?")


def test_a_kernel_that_was_killed():
    text = kernel(None, 9)
    assert "SIGKILL" in text
    assert "`mem`" in text


def test_waits_that_were_too_long():
    seen = Evidence("1", JobStatus("1", "PENDING", "Priority"))
    assert "PENDING (Priority)" in str(queued_too_long(seen, 60))
    running = Evidence("1", JobStatus("1", "RUNNING"), "c1", ["last words"], "/log")
    assert "last words" in str(started_too_long(running, 60))
    assert "`kernel_transport`" in str(started_too_long(running, 60))


def test_a_node_that_cannot_be_reached():
    seen = Evidence("1", JobStatus("1", "RUNNING"), "c1")
    text = str(node_unreachable(seen, "10.0.0.5 or c1, port 4711,", "No route to host"))
    assert text.startswith(
        "Job 1 runs on c1, but 10.0.0.5 or c1, port 4711, cannot be reached from here: No route to host."
    )
    assert "`port_range`" in text
    assert "SSH" not in text


def test_a_node_that_cannot_be_reached_by_way_of_a_login_host():
    seen = Evidence("1", JobStatus("1", "RUNNING"), "c1")
    text = str(node_unreachable(seen, "c1, port 4711,", "failed", LoginHost(host="hpc")))
    assert text.startswith("Job 1 runs on c1, but c1, port 4711, cannot be reached from the login host hpc: failed.")
    assert "AllowTcpForwarding" in text
    text = str(node_unreachable(seen, "c1, port 4711,", "no", LoginHost(host="hpc", via="node")))
    assert text.startswith("Job 1 runs on c1, but c1, port 4711, cannot be reached by way of its SSH server: no.")
    assert "`ssh -J hpc c1 true`" in text
