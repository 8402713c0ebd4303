"""Submitting a job: the one command that does it, and what the answers mean. Pure text.

Source: sbatch(1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import CommandError, CommandNotFoundError, SubmissionError
from .transport import Completed

__all__ = [
    "as_sbatch",
    "clusters_option",
    "complaint_of",
    "parse_submission",
    "prune_argv",
    "refused",
    "submission_error",
    "submit_argv",
]

# Exit codes of the shell part.
_NO_REQUEST, _NO_RUN_DIR, _NO_SBATCH, _SHELL_NOT_FOUND = 91, 92, 93, 127

# Run by a POSIX shell on the cluster: makes the run directory, puts the request and what the kernel is (the first two
# lines of stdin) in it, and hands the rest of stdin to sbatch. One round trip, and nothing secret in any argv. Programs
# are few: each takes a millisecond of every start. sbatch gets a clean environment: SBATCH_* would beat the script's
# own lines, and --export=ALL, its default, would ship every variable of the server into the job. `read` takes exactly
# one line off a pipe (POSIX, read). The folder's mode is named, and then nobody else reaches what is in it: where the
# folder above has a default access control list, the umask does not count (acl(5)).
_SUBMIT = r"""
umask=$(umask)
umask 077
user=$1 run_dir=$2 log_dir=$3 bin=$4
shift 4
IFS= read -r request && IFS= read -r about || exit 91
{
    [ ! -d "$run_dir" ] || chmod 700 -- "$run_dir" || exit 92
    mkdir -p -m 700 -- "$run_dir" && cd -- "$run_dir" || exit 92
    for name in about.json connection.json job.log progress request.json; do
        { [ ! -e "$name" ] && [ ! -h "$name" ]; } || rm -f "$name" || exit 92
    done
    : > job.log && : > progress &&
    printf '%s\n' "$about" > about.json &&
    printf '%s\n' "$request" > request.json
} || exit 92
[ -z "$log_dir" ] || [ -d "$log_dir" ] || mkdir -p -- "$log_dir" || exit 92
cd || cd /
[ -z "$bin" ] || PATH=$bin:$PATH
sbatch=$(command -v sbatch) || exit 93
set -- "$sbatch" --parsable "$@"
for name in LANG LC_ALL TZ SLURM_CONF SLURM_CONF_SERVER; do
    eval "[ \"\${$name+set}\" ] && set -- \"$name=\${$name}\" \"\$@\""
done
umask "$umask"  # Slurm hands it on to the job
exec env -i HOME="$HOME" USER="$user" LOGNAME="$user" SHELL="${SHELL:-/bin/sh}" \
    PATH="${bin:+$bin:}/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin" "$@"
"""


def submit_argv(user: str, run_dir: str, log_directory: str, bin_dir: str, clusters: str) -> list[str]:
    """Return the command that submits a job.

    Its stdin is the request's line, the line that says what the kernel is, and then the script.
    """
    return ["sh", "-c", _SUBMIT, "submit", user, run_dir, log_directory, bin_dir, *clusters_option(clusters)]


# What is left of a failed kernel is its log, alone in a folder with the kernel's id for a name. `state_dir` may be any
# folder of the user's, so nothing else is touched: rmdir leaves a folder that holds something more.
_PRUNE = r"""
cd -- "$1" || exit
for folder in $(find . -maxdepth 1 -type d -mtime "+$2" -name '????????-????-????-????-????????????'); do
    [ -e "$folder/request.json" ] || [ -e "$folder/connection.json" ] || {
        rm -f "$folder/about.json" "$folder/job.log" "$folder/progress"
        rmdir "$folder"
    }
done 2> /dev/null
"""


def prune_argv(state_dir: str, days: int) -> list[str]:
    """Return the command that removes the logs of failures older than some days."""
    return ["sh", "-c", _PRUNE, "prune", state_dir, str(days)]


def as_sbatch(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the sbatch command inside a submission's argv, which is what people know."""
    return ("sbatch", "--parsable", *argv[8:])


def parse_submission(stdout: str) -> str | None:
    """Return the job id in the output of ``sbatch --parsable``, or None.

    The answer is ``id`` or ``id;cluster``; sites print banners around it, so the last such line counts.
    """
    for line in reversed(stdout.splitlines()):
        if match := re.fullmatch(r"(\d+)(;[\w.-]+)?", line.strip()):
            return match[1]
    return None


# Without a percent sign, which JupyterLab's dialog would show twice.
_REFUSALS = [
    (
        r"accounting/qos policy|qos.*limit|assoc.*limit",  # which may speak of time limits, too
        "Your account's limits: `sacctmgr show qos` and `sshare -U` show them; ask for less or end a job.",
    ),
    (r"invalid partition", "`partition`: `sinfo -s` lists those you can use."),
    (
        r"invalid account",
        "`account`: `sacctmgr show associations user=$USER format=account,partition,qos` lists yours.",
    ),
    (
        r"invalid (qos|quality of service)",
        "`qos`: `sacctmgr show associations user=$USER format=account,qos` lists yours.",
    ),
    (r"time limit", "`time`: `sinfo -O Partition,Time` shows the limit of each partition."),
    (
        r"generic resource|gres|invalid tres",
        "`gpus` or `gres`: `sinfo -O Partition,Gres:40` shows what the nodes have.",
    ),
    (r"memory", "`mem`: `sinfo -O Partition,Memory,CPUs` shows memory (MB) and CPUs of the nodes."),
    (
        r"node configuration is not available|more processors|node count",
        "Ask for less: `sinfo -O Partition,Nodes,CPUs,Memory,Gres:40` shows what the nodes have.",
    ),
    (r"feature|constraint", "`constraint`: `sinfo -O Partition,Features:60` lists the features of the nodes."),
    (r"node name", "`nodelist`: `sinfo -N` lists the nodes."),
    (r"license", "`licenses`: `scontrol show licenses` lists them."),
    (r"dependency", "`dependency`: it names jobs that Slurm does not know, or is not written as sbatch(1) has it."),
    (r"reservation", "`reservation`: `scontrol show reservation` lists them."),
    (
        r"unable to contact|control machine address|socket timed out|connection refused|communication",
        "The controller does not answer; `scontrol ping` tells when it is back. Then start the kernel again.",
    ),
    (
        r"unrecognized option|invalid option|ambiguous",
        "`sbatch`: this version of Slurm does not know that option.",
    ),
]


def submission_error(done: Completed, *, run_dir: str) -> CommandError:
    """Return the error of a submission that gave no job id."""
    argv = as_sbatch(done.argv)
    output = {"argv": argv, "returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    if done.returncode in (_NO_REQUEST, _NO_RUN_DIR):
        return CommandError(
            f"The run directory {run_dir} cannot be written.",
            **output,  # type: ignore[arg-type]
            hint="Free some space, or set `state_dir` to a folder that login and compute nodes share.",
        )
    if done.returncode == _NO_SBATCH or (done.returncode == _SHELL_NOT_FOUND and "sbatch" in done.stderr):
        return CommandNotFoundError(
            "sbatch is not there: Slurm jobs cannot be submitted.",
            **output,  # type: ignore[arg-type]
            hint="Run Jupyter on a login node of the cluster, or name one in `ssh`. On a login node, set `slurm_bin` "
            "to the folder of Slurm's commands.",
        )
    return refused(done, argv)


def refused(done: Completed, argv: Sequence[str]) -> SubmissionError:
    """Return the error of an sbatch that took no job; `argv` is the command as people know it."""
    output = {"argv": argv, "returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    complaint = complaint_of(done.stderr)
    if not complaint:
        return SubmissionError(
            "There is no job: sbatch ended with neither a job id nor a reason.",
            **output,  # type: ignore[arg-type]
            hint="Try it in a terminal: `sbatch --wrap hostname`.",
        )
    hint = next((hint for pattern, hint in _REFUSALS if re.search(pattern, done.stderr, re.IGNORECASE)), "")
    return SubmissionError(f"Slurm refused the job: {complaint}.", **output, hint=hint)  # type: ignore[arg-type]


# How errors begin: "sbatch: error: ", "slurm_load_jobs error: " (26.05: no blank), "allocation failure: " (test-only).
_ERROR = r"\w+: (?:error|fatal): |\w+ error: ?|allocation failure: "


def complaint_of(stderr: str) -> str:
    """Return the gist of a Slurm command's stderr: its last error, without the prefixes."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith('Try "')]
    errors = [line for line in lines if re.match(_ERROR, line)] or lines
    errors = [line for line in errors if not line.endswith("No error")] or errors  # Slurm 20.11 has the last word so
    if not errors:
        return ""
    text = re.sub(rf"^(?:{_ERROR}|\w+: )", "", errors[-1])
    return re.sub(r"^Batch job submission failed: ", "", text).rstrip(".")


def clusters_option(clusters: str) -> list[str]:
    """Return the option that names a cluster of several, if one is named."""
    return [f"--clusters={clusters}"] if clusters else []
