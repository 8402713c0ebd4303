"""What Slurm's answers say of jobs."""

from __future__ import annotations

from slurm_provisioner.status import (
    JobStatus,
    Phase,
    Position,
    parse_account,
    parse_control,
    parse_positions,
    parse_queue,
    phase_of,
    positions_argv,
    queue_argv,
)

SEP = "\x1f"
HEADER = "JOBID|STATE|REASON|EXEC_HOST|START_TIME|PARTITION|NAME\n".replace("|", SEP)


def squeue(text: str) -> str:
    """What squeue printed, written with bars between the fields."""
    return text.replace("|", SEP)


# As 22.05 prints it, with SLURM_TIME_FORMAT=%s.
QUEUE = squeue("""\
JOBID|STATE|REASON|EXEC_HOST|START_TIME|PARTITION|NAME
4|PENDING|Resources|n/a|1795361286|gpu|jupyter-a
5|PENDING|Priority|n/a|N/A|gpu,low|jupyter-b
6|PENDING|BeginTime|n/a|1795367885|gpu|jupyter-c
7|PENDING|JobHeldUser|n/a|N/A|gpu|jupyter-d
3|RUNNING|None|c2|1795360686|gpu|jupyter-e
16|PENDING|Nodes required for job are DOWN, DRAINED or reserved|n/a|N/A|gpu|jupyter-f
""")
POSITIONS = squeue("""\
JOBID|PARTITION|USER|REASON
15|debug|bob|ReqNodeNotAvail
15|gpu|bob|ReqNodeNotAvail
7|gpu|bob|JobHeldUser
16|gpu|carol|Nodes required
17|low|carol|Priority
17|gpu|carol|Priority
18|gpu|bob|Priority
19|gpu|carol|BeginTime
""")


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
        f"12{SEP}PENDING{SEP}Priority{SEP}n/a{SEP}N/A{SEP}gpu{SEP}jupyter-x\n"
        f"13{SEP}RUNNING{SEP}None{SEP}c1{SEP}1795360686{SEP}gpu{SEP}jupyter | y\n"
        f"14{SEP}PENDING{SEP}(Resources){SEP}n/a\n"
    )
    assert parse_queue(text) == {
        "12": JobStatus("12", "PENDING", "Priority", name="jupyter-x", partition="gpu"),
        "13": JobStatus("13", "RUNNING", "", "c1", name="jupyter | y", partition="gpu", start=1795360686),
    }


def test_when_a_job_starts_and_whether_it_stands_in_line():
    jobs = parse_queue(QUEUE)
    assert jobs is not None
    assert {job_id: job.start for job_id, job in jobs.items() if job.start is not None} == {
        "3": 1795360686,
        "4": 1795361286,
        "6": 1795367885,
    }
    assert {job_id for job_id, job in jobs.items() if job.in_line} == {"5", "16"}
    assert jobs["5"].partition == "gpu,low"


def test_a_time_in_no_known_form_is_none():
    for text in ("2026-11-22T15:28:06", "Unknown", "", "99999999999999999999", "-1"):
        jobs = parse_queue(HEADER + SEP.join(["4", "PENDING", "Resources", "n/a", text, "gpu", "a"]))
        assert jobs is not None
        assert jobs["4"].start is None


def test_positions_count_those_who_stand_in_line():
    assert parse_positions(POSITIONS, {"16", "17", "19"}) == {"16": Position(2, "gpu"), "17": Position(1, "low")}
    assert parse_positions(POSITIONS, {"4711"}) == {}


def test_who_sees_only_their_own_jobs_knows_no_position():
    own = "".join(line for line in POSITIONS.splitlines(keepends=True) if "bob" not in line)
    assert parse_positions(own, {"16"}) == {}


def test_what_is_no_list_has_no_positions():
    for text in ("", "slurm_load_jobs error: Unable to contact slurm controller", POSITIONS.partition("\n")[0]):
        assert parse_positions(text, {"16"}) == {}


def test_positions_are_asked_for_some_partitions_and_the_queued_only():
    argv = positions_argv({"gpu", "debug"}, "alpha")
    assert {"--states=PENDING", "--partition=debug,gpu", "--clusters=alpha"} <= set(argv)


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
