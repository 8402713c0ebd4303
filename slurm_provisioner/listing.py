"""The commands that find kernels again and clear them away, and what their answers mean. Pure text.

Sources: squeue(1), sacct(1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable

from .about import About
from .books import Entry, Job, Kernel
from .quantities import parse_time
from .sbatch import clusters_option
from .status import SEPARATOR, Phase, exit_of, reason_of, sacct_argv, sacct_rows

__all__ = ["account_argv", "listing_argv", "parse_account", "parse_entries", "parse_queue", "remove_argv"]

# The run directories and the queue

_ENTRY, _QUEUE = "entry", "queue"
#: Name, how squeue calls its column, and how many characters are read.
_QUEUE_FIELDS = (
    ("JobID", "JOBID", 20),
    ("State", "STATE", 30),
    ("Reason", "REASON", 200),
    ("BatchHost", "EXEC_HOST", 100),
    ("NodeList", "NODELIST", 400),
    ("SubmitTime", "SUBMIT_TIME", 30),
    ("StartTime", "START_TIME", 30),
    ("EndTime", "END_TIME", 30),
    ("TimeLimit", "TIME_LIMIT", 30),
    ("TimeUsed", "TIME", 30),
    ("TimeLeft", "TIME_LEFT", 30),
    ("NumCPUs", "CPUS", 20),
    ("NumNodes", "NODES", 20),
    ("tres-alloc", "TRES_ALLOC", 400),
    ("Partition", "PARTITION", 200),
    ("Account", "ACCOUNT", 100),
    ("QOS", "QOS", 100),
    ("Name", "NAME", 200),
)

# Prints a line for each run directory of some folders that says what its kernel is, then runs the rest of the command,
# which asks Slurm. What is no plain small file is somebody else's: it is not opened. POSIX, sh; find(1) as everywhere.
_LISTING = r"""
us=$(printf '\037')
while [ "$1" != -- ]; do
    folder=$1
    shift
    case $folder in '~') folder=$HOME ;; '~/'*) folder=$HOME/${folder#'~/'} ;; esac
    find "$folder/" -mindepth 2 -maxdepth 2 -name about.json -type f -size -32 |
    while IFS= read -r file; do
        line= step=
        IFS= read -r line < "$file"
        if [ -f "${file%/*}/progress" ]; then  # of which the last line may be half there
            while IFS= read -r said; do step=$said; done < "${file%/*}/progress"
        fi
        [ -e "${file%/*}/connection.json" ] && listening=1 || listening=0
        [ -e "${file%/*}/request.json" ] && waiting=1 || waiting=0
        printf '\n%s' "entry$us${file%/*}$us$listening$us$waiting$us$line$us$step"
    done
done 2> /dev/null
shift
echo
exec "$@"
"""


def listing_argv(state_dirs: Iterable[str], squeue: str, clusters: str = "") -> list[str]:
    """Return the command that prints what all run directories tell, and this user's queue, ended jobs included.

    Parameters
    ----------
    state_dirs : iterable of str
        The folders of the run directories; ``~`` in front is the home on the cluster.
    squeue : str
        The program.
    clusters : str
        The cluster of a federation, or "".
    """
    format_ = ",".join(f"{name}:{size}{SEPARATOR}" for name, _, size in _QUEUE_FIELDS)
    queue = [squeue, "--me", "--states=all", f"--Format={format_}", *clusters_option(clusters)]
    return ["sh", "-c", _LISTING, "kernels", *state_dirs, "--", *queue]


def parse_entries(stdout: str, clusters: str = "") -> list[Entry]:
    """Return the run directories in a listing, but for those whose jobs were submitted to other clusters.

    What is half written, or no file of ours, is passed over.
    """
    entries = {}
    for line in stdout.splitlines():
        parts = line.split(SEPARATOR, 5)
        if len(parts) != len(("entry", "folder", "listening", "waiting", "about", "step")) or parts[0] != _ENTRY:
            continue
        about = About.from_line(parts[4])
        if about is not None and about.clusters == clusters:
            run_dir = re.sub("/+", "/", parts[1])
            entries[run_dir] = Entry(run_dir, about, parts[2] == "1", parts[5].strip(), parts[3] == "1")
    return [*entries.values()]


def parse_queue(stdout: str) -> dict[str, Job] | None:
    """Return the jobs of a listing by name; None if squeue did not answer: its header shows that it did."""
    lines = [[field.strip() for field in line.split(SEPARATOR)] for line in stdout.splitlines()]
    if [*(header for _, header, _ in _QUEUE_FIELDS), ""] not in lines:
        return None
    jobs: dict[str, Job] = {}
    for line in lines:
        if len(line) != len(_QUEUE_FIELDS) + 1 or not line[0].isdigit():
            continue
        told = dict(zip((name for name, _, _ in _QUEUE_FIELDS), map(_told, line), strict=False))
        job = Job(
            job_id=told["JobID"],
            name=told["Name"],
            state=told["State"],
            reason=reason_of(told["Reason"]),
            node=told["BatchHost"],
            nodes=told["NodeList"],
            submitted=_moment(told["SubmitTime"]),
            start=_moment(told["StartTime"]),
            end=_moment(told["EndTime"]),
            time_limit=_seconds(told["TimeLimit"]),
            time_used=_seconds(told["TimeUsed"]),
            time_left=_seconds(told["TimeLeft"]),
            cpus=_number(told["NumCPUs"]),
            node_count=_number(told["NumNodes"]),
            tres=_tres(told["tres-alloc"]),
            partition=told["Partition"],
            account=told["Account"],
            qos=told["QOS"],
        )
        before = jobs.get(job.name)
        if before is None or before.phase is Phase.ENDED:
            jobs[job.name] = job
    return jobs


# Accounting

_ENDS = ("BF", "CA", "CD", "DL", "F", "NF", "OOM", "PR", "TO")
_ACCOUNT_FIELDS = (
    *("JobIDRaw", "JobName", "State", "ExitCode", "Reason", "NodeList", "Submit", "Start", "End", "Timelimit"),
    *("Elapsed", "AllocCPUS", "AllocNodes", "AllocTRES", "ReqTRES", "Partition", "Account", "QOS"),
)
_DAY = 86_400


def account_argv(abouts: Collection[About], now: float, clusters: str = "") -> list[str]:
    """Return the sacct command that tells how the jobs of some kernels ended.

    With states alone sacct finds those that never could have started, which were held or had a date.
    """
    oldest = min((about.submitted for about in abouts), default=now)
    days = max(1, math.ceil((now - oldest) / _DAY) + 1)  # clocks and zones differ
    which = [
        f"--state={','.join(_ENDS)}",
        f"--starttime=now-{days}days",
        "--endtime=now+1days",
        f"--name={','.join(about.job_name for about in abouts)}",
    ]
    return sacct_argv(_ACCOUNT_FIELDS, *which, clusters=clusters)


def parse_account(stdout: str) -> dict[str, Job]:
    """Return the jobs in sacct's output that have ended, by name."""
    jobs = {}
    for row in sacct_rows(stdout, _ACCOUNT_FIELDS):
        if not row["JobIDRaw"].isdigit():
            continue
        told = {name: _told(value) for name, value in row.items()}
        exit_code, exit_signal = exit_of(told["ExitCode"])
        job = Job(
            job_id=told["JobIDRaw"],
            name=told["JobName"],
            state=told["State"],
            reason=told["Reason"],
            node=re.split(r"[\[,]", told["NodeList"])[0] if "[" not in told["NodeList"] else "",
            nodes=told["NodeList"],
            submitted=_moment(told["Submit"]),
            start=_moment(told["Start"]),
            end=_moment(told["End"]),
            time_limit=_seconds(told["Timelimit"]),
            time_used=_seconds(told["Elapsed"]),
            cpus=_number(told["AllocCPUS"]),
            node_count=_number(told["AllocNodes"]),
            tres=_tres(told["AllocTRES"] or told["ReqTRES"]),
            partition=told["Partition"],
            account=told["Account"],
            qos=told["QOS"],
            exit_code=exit_code,
            exit_signal=exit_signal,
        )
        if job.phase is Phase.ENDED:
            jobs[job.name] = job
    return jobs


# What is over

# Removes what is ours of run directories, if they still are those of the same jobs: a restart puts another one there.
_REMOVE = r"""
while [ $# -gt 1 ]; do
    if cd -- "$1" && grep -qF "\"$2\"" about.json; then
        rm -f request.json connection.json connection.json.???????? progress job.log about.json
        cd / && rmdir -- "$1"
        printf '%s\n' "$2"
    fi
    shift 2
done 2> /dev/null
:
"""


def remove_argv(kernels: Iterable[Kernel]) -> list[str]:
    """Return the command that removes the run directories of kernels; it prints the names of the jobs of each.

    `state_dir` may be any folder of the user's: a file that is not ours stays, and its folder.
    """
    pairs = [part for each in kernels for part in (each.entry.run_dir, each.about.job_name)]
    return ["sh", "-c", _REMOVE, "remove", *pairs]


# Words


def _told(text: str) -> str:
    return "" if text in ("N/A", "n/a", "(null)", "None", "None assigned", "Unknown", "NONE", "INVALID") else text


def _moment(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[1-9]\d{0,11}", text) else None


def _seconds(text: str) -> float | None:
    if re.fullmatch("[0:]+", text):  # a limit of none to parse_time, and nothing used or left to squeue
        return 0.0
    if not re.fullmatch(r"(\d+-)?[\d:]*:\d\d|(?i:unlimited)", text):
        return None
    try:
        return float(parse_time(text))
    except ValueError:
        return None


def _number(text: str) -> int | None:
    match = re.match(r"\d{1,9}(?=-|$)", text)  # a number of nodes may be a range
    return int(match[0]) if match else None


def _tres(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    return {name: value for name, equals, value in pairs if equals}
