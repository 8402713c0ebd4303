"""What Slurm's answers say of jobs."""

from __future__ import annotations

from slurm_provisioner.status import (
    JobStatus,
    Phase,
    parse_account,
    parse_control,
    parse_queue,
    phase_of,
    queue_argv,
)

SEP = "\x1f"
HEADER = f"JOBID{SEP}STATE{SEP}REASON{SEP}EXEC_HOST{SEP}NAME\n"


def test_states_are_compared_whole_and_unknown_ones_are_no_end():
    assert phase_of("PENDING") is Phase.PENDING
    assert phase_of("CONFIGURING") is Phase.PENDING
    assert phase_of("COMPLETING") is Phase.RUNNING
    assert phase_of("OUT_OF_MEMORY") is Phase.ENDED
    for state in ("", "CANCELLED+", "OUT_OF_ME", "SOMETHING_NEW", "completed"):
        assert phase_of(state) is Phase.UNKNOWN


def test_squeue_lines_among_others():
    text = (
        f"CLUSTER: a\n{HEADER}"
        "slurm_load_jobs: banner of the site\n"
        f"12{SEP}PENDING{SEP}Priority{SEP}n/a{SEP}jupyter-x\n"
        f"13{SEP}RUNNING{SEP}None{SEP}c1{SEP}jupyter | y\n"
        f"14{SEP}PENDING{SEP}(Resources){SEP}n/a\n"
    )
    assert parse_queue(text) == {
        "12": JobStatus("12", "PENDING", "Priority", name="jupyter-x"),
        "13": JobStatus("13", "RUNNING", "", "c1", name="jupyter | y"),
    }


def test_scontrol_tells_how_a_job_ended():
    text = (
        "JobId=7 JobName=a JobState=no UserId=alice(1001) JobState=TIMEOUT Reason=TimeLimit "
        "ExitCode=0:15 NodeList=c[1-2] BatchHost=c1\n"
    ).replace("JobState=no ", "")
    assert parse_control(text, "7") == JobStatus("7", "TIMEOUT", "TimeLimit", "c1", 0, 15, "a")
    assert parse_control(text, "8") is None
    assert parse_control("slurm_load_jobs error: Invalid job id specified\n", "7") is None


def test_sacct_tells_how_a_job_ended():
    text = (
        f"banner\n7{SEP}REQUEUED{SEP}0:0{SEP}None{SEP}c1{SEP}a\n"
        f"7{SEP}CANCELLED by 1001{SEP}0:15{SEP}None{SEP}c2{SEP}a\n70{SEP}FAILED{SEP}1:0{SEP}None{SEP}c1{SEP}a\n"
    )
    assert parse_account(text, "7") == JobStatus("7", "CANCELLED", "", "c2", 0, 15, "a")
    assert parse_account("", "7") is None


def test_squeue_asks_for_this_user_and_these_jobs_only():
    argv = queue_argv(["1", "2"], "alpha")
    assert argv[0] == "squeue"
    assert {"--me", "--jobs=1,2", "--clusters=alpha"} <= set(argv)


def test_an_empty_queue_has_a_header_and_anything_else_is_no_answer():
    assert parse_queue(HEADER) == {}
    assert parse_queue("") is None
    assert parse_queue(f"12{SEP}RUNNING{SEP}None{SEP}c1{SEP}jupyter-x\n") is None
