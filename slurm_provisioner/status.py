"""What Slurm says of jobs: the commands that ask, and what their answers mean. Pure text.

Sources: squeue(1) (JOB STATE CODES), scontrol(1), sacct(1).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from .sbatch import clusters_option

__all__ = [
    "JobStatus",
    "Phase",
    "Position",
    "account_argv",
    "control_argv",
    "exit_of",
    "find_argv",
    "parse_account",
    "parse_control",
    "parse_positions",
    "parse_queue",
    "phase_of",
    "positions_argv",
    "queue_argv",
    "reason_of",
    "sacct_argv",
    "sacct_rows",
    "state_argv",
]

#: Separates fields: cannot occur in a job name, reason or host list.
SEPARATOR = "\x1f"


class Phase(Enum):
    """What a state means for a kernel."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


_PHASES = {
    # waiting for resources, or for the nodes to boot
    **dict.fromkeys(
        [
            "PENDING",
            "CONFIGURING",
            "POWER_UP_NODE",
            "REQUEUED",
            "REQUEUE_FED",
            "REQUEUE_HOLD",
            "RESV_DEL_HOLD",
            "SPECIAL_EXIT",
        ],
        Phase.PENDING,
    ),
    **dict.fromkeys(
        [
            "RUNNING",
            "COMPLETING",  # its processes are being ended; the final state follows
            "RESIZING",
            "SIGNALING",
            "STAGE_OUT",
            "STOPPED",
            "SUSPENDED",
            "UPDATE_DB",
        ],
        Phase.RUNNING,
    ),
    **dict.fromkeys(
        [
            "BOOT_FAIL",
            "CANCELLED",
            "COMPLETED",
            "DEADLINE",
            "FAILED",
            "LAUNCH_FAILED",
            "NODE_FAIL",
            "OUT_OF_MEMORY",
            "PREEMPTED",
            "RECONFIG_FAIL",
            "REVOKED",
            "TIMEOUT",
            "NOT_FOUND",  # not Slurm's: nobody remembers the job any more
        ],
        Phase.ENDED,
    ),
}


def phase_of(state: str) -> Phase:
    """Return what a state means; a state this version does not know is `UNKNOWN`, never an end."""
    return _PHASES.get(state, Phase.UNKNOWN)


@dataclass(frozen=True)
class JobStatus:
    """What Slurm says of a job.

    Attributes
    ----------
    job_id : str
        The job's id.
    state : str
        Its state in full, such as ``PENDING``.
    reason : str
        Why it is pending or ended, as Slurm names it, or "".
    node : str
        The node its batch script runs on, or "".
    exit_code, exit_signal : int or None
        How its script ended, once known.
    name : str
        Its name, or "" where that is not told.
    partition : str
        Its partition, several separated by commas while it is pending, or "" where that is not told.
    start : float or None
        When it started or is expected to, in seconds since the epoch; None if that is not told.
    """

    job_id: str
    state: str
    reason: str = ""
    node: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None
    name: str = ""
    partition: str = ""
    start: float | None = None

    @property
    def phase(self) -> Phase:
        """What the state means."""
        return phase_of(self.state)

    @property
    def in_line(self) -> bool:
        """Whether it waits for nothing but its turn, and Slurm does not expect when that comes."""
        return self.state == "PENDING" and self.start is None and (self.reason or "None").startswith(_IN_LINE)


@dataclass(frozen=True)
class Position:
    """A job's place in a queue.

    Attributes
    ----------
    rank : int
        1 for the job that is first in line.
    partition : str
        The partition whose queue it is.
    """

    rank: int
    partition: str


_QUEUE_FIELDS = ["%A", "%T", "%r", "%B", "%S", "%P", "%j"]
_QUEUE_HEADER = ["JOBID", "STATE", "REASON", "EXEC_HOST", "START_TIME", "PARTITION", "NAME"]


def queue_argv(job_ids: Iterable[str], clusters: str = "") -> list[str]:
    """Return the squeue command for some jobs of this user, ended ones included while the controller has them.

    ``--me`` lets the controller pick the user's jobs, where a list of ids alone makes squeue fetch everybody's.
    """
    return [*_queue(clusters), f"--jobs={','.join(job_ids)}"]


def find_argv(job_name: str, clusters: str = "") -> list[str]:
    """Return the squeue command that finds this user's jobs of one name."""
    return [*_queue(clusters), f"--name={job_name}"]


def state_argv(job_id: str, clusters: str = "") -> list[str]:
    """Return the squeue command that prints one job's state, and nothing else."""
    return ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}", *clusters_option(clusters)]


def _queue(clusters: str) -> list[str]:
    format_ = SEPARATOR.join(_QUEUE_FIELDS)
    return ["squeue", "--me", "--states=all", f"--format={format_}", *clusters_option(clusters)]


def parse_queue(stdout: str) -> dict[str, JobStatus] | None:
    """Return the jobs in squeue's output by id; None if that is no answer of squeue.

    Its header shows that it is one: an empty output is not an empty queue. Other lines that are not jobs (banners,
    ``CLUSTER: x``) are passed over.
    """
    lines = [[field.strip() for field in line.split(SEPARATOR)] for line in stdout.splitlines()]
    if _QUEUE_HEADER not in lines:
        return None
    jobs = {}
    for fields in lines:
        if len(fields) == len(_QUEUE_FIELDS) and fields[0].isdigit():
            job_id, state, reason, node, start, partition, name = fields
            jobs[job_id] = JobStatus(
                job_id,
                state,
                reason_of(reason),
                "" if node == "n/a" else node,
                name=name,
                partition=partition,
                start=float(start) if re.fullmatch(r"\d{1,12}", start) else None,  # "N/A" and whatever else
            )
    return jobs


#: How the reasons of those begin that stand in line: they are not held, and wait for no date, limit or other job.
_IN_LINE = ("None", "Priority", "Resources", "Nodes required", "ReqNodeNotAvail")
_POSITION_FIELDS = ["%A", "%P", "%u", "%15r"]  # the beginning of the reason is enough


def positions_argv(partitions: Iterable[str], clusters: str = "") -> list[str]:
    """Return the squeue command that lists who is queued for some partitions, in the order of the queue.

    squeue fetches everybody's jobs for it, so it is to be asked rarely.
    """
    format_ = SEPARATOR.join(_POSITION_FIELDS)
    which = ["--states=PENDING", f"--partition={','.join(sorted(partitions))}"]
    return ["squeue", *which, "--priority", "--sort=-p,i", f"--format={format_}", *clusters_option(clusters)]


def parse_positions(stdout: str, job_ids: Collection[str]) -> dict[str, Position]:
    """Return the best position of each of some jobs of one user, as far as squeue's list has it.

    A list without another user's job tells nothing: it may be all that this user may see (``PrivateData=jobs``).
    """
    found: dict[str, Position] = {}
    ranks: Counter[str] = Counter()
    users = set()
    for line in stdout.splitlines():
        fields = [field.strip() for field in line.split(SEPARATOR)]
        if len(fields) != len(_POSITION_FIELDS) or not fields[0].isdigit():
            continue
        job_id, partition, user, reason = fields
        users.add(user)
        if not reason.startswith(_IN_LINE):
            continue
        ranks[partition] += 1
        if job_id in job_ids and (job_id not in found or ranks[partition] < found[job_id].rank):
            found[job_id] = Position(ranks[partition], partition)
    return found if len(users) > 1 else {}


def control_argv(job_id: str, clusters: str = "") -> list[str]:
    """Return the scontrol command that shows one job."""
    return ["scontrol", "--oneliner", "show", "job", job_id, *clusters_option(clusters)]


def parse_control(stdout: str, job_id: str) -> JobStatus | None:
    """Return a job in the output of ``scontrol --oneliner show job``."""

    def field(name: str) -> str:
        match = re.search(rf"(?:^|\s){name}=(\S*)", stdout)
        return match[1] if match else ""

    if field("JobId") != job_id:
        return None
    code, signal = exit_of(field("ExitCode"))
    state, reason = field("JobState"), reason_of(field("Reason"))
    return JobStatus(job_id, state, reason, field("BatchHost"), code, signal, field("JobName"))


_ACCOUNT_FIELDS = ["JobIDRaw", "State", "ExitCode", "Reason", "NodeList", "JobName"]


def account_argv(job_id: str, clusters: str = "") -> list[str]:
    """Return the sacct command for one job."""
    return sacct_argv(_ACCOUNT_FIELDS, f"--jobs={job_id}", clusters=clusters)


def parse_account(stdout: str, job_id: str) -> JobStatus | None:
    """Return a job's last record in sacct's output."""
    last = None
    for told in sacct_rows(stdout, _ACCOUNT_FIELDS):
        if told["JobIDRaw"] != job_id:
            continue
        code, signal = exit_of(told["ExitCode"])
        node = "" if told["NodeList"] == "None assigned" else told["NodeList"]
        last = JobStatus(job_id, told["State"], reason_of(told["Reason"]), node, code, signal, told["JobName"])
    return last


def sacct_argv(fields: Sequence[str], *which: str, clusters: str = "") -> list[str]:
    """Return the sacct command that tells some fields of the jobs that its options choose, all their runs."""
    return [
        "sacct",
        "--noheader",
        "--parsable2",
        f"--delimiter={SEPARATOR}",
        "--allocations",
        "--duplicates",
        *which,
        f"--format={','.join(fields)}",
        *clusters_option(clusters),
    ]


def sacct_rows(stdout: str, fields: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield what the command tells of each run of a job; lines of other programs are passed over."""
    for line in stdout.splitlines():
        values = [value.strip() for value in line.split(SEPARATOR)]
        if len(values) == len(fields):
            told = dict(zip(fields, values, strict=True))
            yield {**told, "State": told["State"].split(" ")[0]}  # "CANCELLED by 1000"


def reason_of(text: str) -> str:
    """Return a reason such as ``(Resources)`` without the brackets around it, "" for none."""
    return "" if text in ("None", "(null)", "") else re.sub(r"^\((.*)\)$", r"\1", text)  # RaisedSignal:9(Killed)


def exit_of(text: str) -> tuple[int | None, int | None]:
    """Return the exit code and the signal in a field such as ``0:15``, each None where it is not told."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    return (int(match[1]), int(match[2]) or None) if match else (None, None)
