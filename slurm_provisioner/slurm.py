"""Slurm's commands: what to run, and what the answers mean.

The functions are pure: they build argv and read output. `Slurm` is the thin part that runs them over a transport.

Sources: sbatch(1), squeue(1) (JOB STATE CODES), scancel(1), scontrol(1), sacct(1).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from .errors import CommandError, CommandTimeoutError, SubmissionError
from .loop import to_the_end
from .sbatch import as_sbatch, clusters_option, complaint_of, parse_submission, submission_error, submit_argv
from .transport import Completed, Transport

__all__ = ["JobStatus", "Phase", "Slurm", "phase_of"]

#: Seconds a command may take. A controller that is down answers after about 9 s.
COMMAND_TIMEOUT = 15.0
#: Seconds sbatch may take: job submit plugins of sites can be slow.
SUBMIT_TIMEOUT = 60.0

#: A job whose submission got no answer is looked for so many times, and the seconds between them: a busy controller may
#: take it only after sbatch has given up.
FIND_TRIES, FIND_PAUSE = 4, 3.0

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
    """

    job_id: str
    state: str
    reason: str = ""
    node: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None

    @property
    def phase(self) -> Phase:
        """What the state means."""
        return phase_of(self.state)


# ---------------------------------------------------------------------------------------------------------------------
# squeue, scontrol, sacct

_QUEUE_FIELDS = ["%A", "%T", "%r", "%B", "%j"]


def queue_argv(job_ids: Iterable[str], clusters: str = "") -> list[str]:
    """Return the squeue command for some jobs of this user, ended ones included while the controller has them.

    ``--me`` lets the controller pick the user's jobs, where a list of ids alone makes squeue fetch everybody's.
    """
    return [*_queue(clusters), f"--jobs={','.join(job_ids)}"]


def find_argv(job_name: str, clusters: str = "") -> list[str]:
    """Return the squeue command that finds this user's jobs of one name."""
    return [*_queue(clusters), f"--name={job_name}"]


def _queue(clusters: str) -> list[str]:
    format_ = SEPARATOR.join(_QUEUE_FIELDS)
    return ["squeue", "--noheader", "--me", "--states=all", f"--format={format_}", *clusters_option(clusters)]


def parse_queue(stdout: str) -> dict[str, JobStatus]:
    """Return the jobs in squeue's output by id; lines that are not jobs (banners, ``CLUSTER: x``) are passed over."""
    jobs = {}
    for line in stdout.splitlines():
        fields = line.split(SEPARATOR)
        if len(fields) != len(_QUEUE_FIELDS) or not fields[0].strip().isdigit():
            continue
        job_id, state, reason, node, _ = (field.strip() for field in fields)
        jobs[job_id] = JobStatus(job_id, state, _reason(reason), "" if node == "n/a" else node)
    return jobs


def control_argv(job_id: str, clusters: str = "") -> list[str]:
    """Return the scontrol command that shows one job."""
    return ["scontrol", "--oneliner", "show", "job", job_id, *clusters_option(clusters)]


def parse_control(stdout: str) -> JobStatus | None:
    """Return the job in the output of ``scontrol --oneliner show job``."""

    def field(name: str) -> str:
        match = re.search(rf"(?:^|\s){name}=(\S*)", stdout)
        return match[1] if match else ""

    if not field("JobId"):
        return None
    code, signal = _exit(field("ExitCode"))
    node = field("BatchHost")
    return JobStatus(field("JobId"), field("JobState"), _reason(field("Reason")), node, code, signal)


_ACCOUNT_FIELDS = ["JobIDRaw", "State", "ExitCode", "Reason", "NodeList"]


def account_argv(job_id: str, clusters: str = "") -> list[str]:
    """Return the sacct command for one job."""
    return [
        "sacct",
        "--noheader",
        "--parsable2",
        f"--delimiter={SEPARATOR}",
        "--allocations",
        "--duplicates",
        f"--jobs={job_id}",
        f"--format={','.join(_ACCOUNT_FIELDS)}",
        *clusters_option(clusters),
    ]


def parse_account(stdout: str, job_id: str) -> JobStatus | None:
    """Return a job's last record in sacct's output."""
    last = None
    for line in stdout.splitlines():
        fields = [field.strip() for field in line.split(SEPARATOR)]
        if len(fields) != len(_ACCOUNT_FIELDS) or fields[0] != job_id:
            continue
        code, signal = _exit(fields[2])
        state = fields[1].split(" ")[0]  # "CANCELLED by 1000"
        last = JobStatus(job_id, state, _reason(fields[3]), fields[4], code, signal)
    return last


def _reason(text: str) -> str:
    return "" if text in ("None", "(null)", "") else text.strip("()")


def _exit(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    return (int(match[1]), int(match[2]) or None) if match else (None, None)


# ---------------------------------------------------------------------------------------------------------------------
# Running them


class Slurm:
    """One controller, as one user sees it over one transport.

    Parameters
    ----------
    transport : Transport
        How commands get there.
    clusters : str
        The cluster of a federation (``--clusters``), or "".
    bin_dir : str
        The folder of Slurm's commands, or "" for those on PATH.
    """

    def __init__(self, transport: Transport, *, clusters: str = "", bin_dir: str = "") -> None:
        self.transport = transport
        self.clusters = clusters
        self.bin_dir = bin_dir

    async def submit(self, *, run_dir: str, log_directory: str, request: str, script: str, job_name: str) -> str:
        """Submit a job and return its id.

        An answer that got lost does not mean that there is no job: it is looked for by its unique name first.

        Parameters
        ----------
        run_dir : str
            The run directory, made if it isn't there.
        log_directory : str
            Another folder to make, for the log, or "".
        request : str
            The request, one line of JSON.
        script : str
            The batch script.
        job_name : str
            The name the script gives the job; no other job of the user may have it.

        Raises
        ------
        SubmissionError
            Slurm refused it.
        CommandError
            The run directory cannot be written, sbatch is missing or does not answer.
        """
        assert "\n" not in request
        argv = submit_argv(run_dir, log_directory, self.bin_dir, self.clusters)
        stdin = f"{request}\n{script}".encode()
        try:
            done = await self.transport.run(argv, stdin=stdin, timeout=SUBMIT_TIMEOUT)
        except CommandTimeoutError as timeout:
            if (job_id := await self._find(job_name)) is not None:
                return job_id
            raise CommandTimeoutError(
                f"sbatch did not answer within {SUBMIT_TIMEOUT:g} s.",
                argv=as_sbatch(argv),
                hint="The controller may be busy or down; `scontrol ping` tells. Then start the kernel again.",
            ) from timeout
        except asyncio.CancelledError:
            await to_the_end(self.cancel_by_name(job_name))
            raise
        if (job_id := parse_submission(done.stdout)) is not None:
            return job_id
        error = submission_error(done, run_dir=run_dir)
        lost = isinstance(error, SubmissionError) and _answer_lost(done.stderr)
        if lost and (job_id := await self._find(job_name)) is not None:
            return job_id
        raise error

    async def _find(self, job_name: str) -> str | None:
        """Return the id of the job of that name; where there is none for a while, make sure that none follows."""
        for _ in range(FIND_TRIES):
            with suppress(CommandError):
                done = await self._run(find_argv(job_name, self.clusters))
                alive = [job for job in parse_queue(done.stdout).values() if job.phase is not Phase.ENDED]
                if alive:
                    return alive[0].job_id
            await asyncio.sleep(FIND_PAUSE)
        await self.cancel_by_name(job_name)
        return None

    async def cancel_by_name(self, job_name: str) -> None:
        """Cancel the job of a name, if there is one and the controller can be told."""
        with suppress(CommandError):
            await self._run(["scancel", f"--name={job_name}", *clusters_option(self.clusters)])

    async def queue(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return what squeue says of some jobs; those it does not know are missing.

        Raises
        ------
        CommandError
            It could not be asked. That is no news of any job.
        """
        done = await self._run(queue_argv(job_ids, self.clusters))
        # A single job that the controller no longer has is an error to squeue, and an answer to us.
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            raise _failed(done)
        return parse_queue(done.stdout)

    async def look_up(self, job_id: str) -> JobStatus | None:
        """Return what the controller's memory says of a job, or accounting how it ended; None if neither knows it."""
        with suppress(CommandError):
            done = await self._run(control_argv(job_id, self.clusters))
            if (status := parse_control(done.stdout)) is not None:
                return status
        with suppress(CommandError):
            done = await self._run(account_argv(job_id, self.clusters))
            status = parse_account(done.stdout, job_id)
            if status is not None and status.phase is Phase.ENDED:
                return status
        return None

    async def cancel(self, job_id: str) -> None:
        """Cancel a job. One that is gone already is no error.

        Raises
        ------
        CommandError
            The controller could not be told.
        """
        await self._control(["scancel", *clusters_option(self.clusters), job_id])

    async def signal(self, job_id: str, name: str) -> None:
        """Send a signal to the job's batch step, which is the supervisor.

        Raises
        ------
        CommandError
            The controller could not be told.
        """
        await self._control(["scancel", f"--signal={name}", "--batch", *clusters_option(self.clusters), job_id])

    async def tail(self, path: str, *, size: int = 8192) -> str:
        """Return the end of a file on the cluster, or "" if it cannot be read."""
        try:
            done = await self.transport.run(["tail", "-c", str(size), "--", path], timeout=COMMAND_TIMEOUT)
        except CommandError:
            return ""
        return done.stdout

    async def remove(self, *paths: str) -> None:
        """Remove files or folders on the cluster; what cannot be removed stays."""
        with suppress(CommandError):
            await self.transport.run(["rm", "-rf", "--", *paths], timeout=COMMAND_TIMEOUT)

    async def _control(self, argv: list[str]) -> None:
        done = await self._run(argv)
        gone = re.search(r"Invalid job id|already completing or completed|not active", done.stderr)
        if done.returncode != 0 and not gone:
            raise _failed(done)

    async def _run(self, argv: list[str]) -> Completed:
        if self.bin_dir:
            argv = [f"{self.bin_dir}/{argv[0]}", *argv[1:]]
        return await self.transport.run(argv, timeout=COMMAND_TIMEOUT)


def _answer_lost(stderr: str) -> bool:
    return re.search(r"timed out|Zero Bytes|connection|communication", stderr, re.IGNORECASE) is not None


def _failed(done: Completed) -> CommandError:
    program = done.argv[0].rpartition("/")[2]
    return CommandError(
        f"{program} failed: {complaint_of(done.stderr) or 'it gave no reason'}.",
        argv=done.argv,
        returncode=done.returncode,
        stdout=done.stdout,
        stderr=done.stderr,
        hint="`scontrol ping` tells whether the controller answers.",
    )
