"""Why there is no kernel: Slurm's states and exit codes in plain words, with the evidence and what to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import JobEndedError, KernelStartError, NodeUnreachableError, QueueTimeoutError, StartTimeoutError
from .slurm import JobStatus

__all__ = [
    "Evidence",
    "exit_text",
    "given_up",
    "job_ended",
    "kernel_not_started",
    "node_unreachable",
    "queued_too_long",
    "started_too_long",
]

#: Lines of the log that an error shows.
LOG_LINES = 12
#: How lines of the batch script and the supervisor begin in the job's log.
_OWN_PREFIX = "slurm-provisioner: "

_RETRY = "Start the kernel again; tell the cluster's support if it happens again."
_ENVIRONMENT = "`modules`, `conda_env`, `venv` and `prologue`"
_SHARED = "Is `state_dir` on a file system that login and compute nodes share, with space left?"

# What a state means for a user: words, next step. Source: squeue(1), JOB STATE CODES.
_STATES = {
    "BOOT_FAIL": ("its node failed to boot", _RETRY),
    "CANCELLED": (
        "it was cancelled",
        "Somebody used scancel on it: you, an administrator, or a rule of the site. Start the kernel again.",
    ),
    "COMPLETED": ("it is over", "Start the kernel again."),
    "DEADLINE": ("it could not be done before its deadline", "Ask for less `time`, or a later deadline."),
    "FAILED": ("it failed", "The end of the log says why."),
    "LAUNCH_FAILED": ("it could not be started on its node", _RETRY),
    "NODE_FAIL": ("its node failed", "Start the kernel again: it gets another node."),
    "NOT_FOUND": ("Slurm no longer knows it", "Start the kernel again."),
    "OUT_OF_MEMORY": ("it used more memory than it asked for", "Ask for more with `mem`."),
    "PREEMPTED": (
        "it had to make room for a job of higher priority",
        "Start the kernel again, or use a `partition` or `qos` that is not preempted.",
    ),
    "TIMEOUT": ("it reached its time limit", "Ask for more with `time`."),
}

# Exit codes of the batch script before the kernel is up (110: the script's own; 111-115: the supervisor's;
# 126, 127: the shell's): what failed, next step.
_EXIT_CODES = {
    110: ("its environment could not be set up", f"Check {_ENVIRONMENT} in the kernelspec."),
    111: ("the supervisor could not read its request", _SHARED),
    112: (
        "the kernel's command could not be started",
        f"Check `argv` of the kernelspec: its program must exist on the compute node, see {_ENVIRONMENT}.",
    ),
    113: ("the supervisor could not listen on a port", "Check `address`, `interface` and `port_range`."),
    114: (
        "there was no usable folder for the kernel's sockets",
        "The node needs a local, writable TMPDIR, /tmp or /dev/shm.",
    ),
    115: ("the supervisor could not tell where it listens", _SHARED),
    126: ("the supervisor's Python could not be run", "Set `python` to a Python >= 3.6 of the compute nodes."),
    127: ("the supervisor's Python was not found", "Set `python` to a Python >= 3.6 of the compute nodes."),
}

_NO_MODULE = re.compile(r"No module named '?([\w.]+)'?")
_NO_MEMORY = re.compile(r"oom.kill|MemoryError|Exceeded job memory limit", re.IGNORECASE)


@dataclass(frozen=True)
class Evidence:
    """What is known of a job when it gives no kernel.

    Attributes
    ----------
    job_id : str
        Slurm's id.
    status : JobStatus
        Slurm's last word; its state is "" if there was none.
    node : str
        The node it ran on, or "".
    log : sequence of str
        The end of its log.
    log_path : str
        Where its log is, or "".
    """

    job_id: str
    status: JobStatus
    node: str = ""
    log: Sequence[str] = ()
    log_path: str = ""

    @property
    def fields(self) -> dict[str, object]:
        """The fields that every `JobError` has."""
        return {
            "job_id": self.job_id,
            "state": self.status.state,
            "reason": self.status.reason,
            "log": list(self.log)[-LOG_LINES:],
            "log_path": self.log_path,
        }


def job_ended(seen: Evidence, *, up: bool) -> JobEndedError:
    """Return the error of a job that ended by itself, before its kernel was `up` or after."""
    words, hint = _end(seen.status, seen.log, up=up)
    where = f" on {seen.node}" if seen.node else ""
    when = "" if up else " before its kernel was up"
    return JobEndedError(f"Job {seen.job_id}{where} ended{when}: {words}.", hint=hint, **seen.fields)  # type: ignore[arg-type]


def _end(status: JobStatus, log: Sequence[str], *, up: bool) -> tuple[str, str]:
    if status.state in ("FAILED", "COMPLETED", "") and _NO_MEMORY.search("\n".join(log)):
        return _STATES["OUT_OF_MEMORY"]
    if status.state != "FAILED":
        return _STATES.get(status.state, (f"Slurm says {status.state}", ""))
    if not up and status.exit_code in _EXIT_CODES:
        words, hint = _EXIT_CODES[status.exit_code]
        said = [line[len(_OWN_PREFIX) :] for line in log if line.startswith(_OWN_PREFIX)]
        return (f"{words}: {said[-1].removeprefix('failed: ').rstrip('.')}" if said else words), hint
    words, hint = _STATES["FAILED"]
    return f"{words} with {exit_text(status.exit_code, status.exit_signal) or 'no exit code'}", hint


def given_up(seen: Evidence) -> JobEndedError:
    """Return the error of a launch whose job we ended ourselves, because nobody wants the kernel any more."""
    return JobEndedError(
        f"Job {seen.job_id} was cancelled before its kernel was up: the start was interrupted.",
        job_id=seen.job_id,
        state="CANCELLED",
    )


def kernel_not_started(seen: Evidence, code: int | None, signum: int | None) -> KernelStartError:
    """Return the error of a kernel that ended before it was up, in a job that runs."""
    words = f"its kernel ended with {exit_text(code, signum) or 'no exit code'}"
    text = "\n".join(seen.log)
    hint = "The end of the log says why."
    if match := _NO_MODULE.search(text):
        name = match[1]
        package = name.split(".")[0].replace("ipykernel_launcher", "ipykernel")
        words += f": Python has no module {name} there"
        hint = f"Install {package} in the kernel's environment, or choose another one: {_ENVIRONMENT}, or `argv`."
    elif signum == signal.SIGKILL or _NO_MEMORY.search(text):
        hint = "It may have run out of memory: ask for more with `mem`."
    return KernelStartError(f"Job {seen.job_id} runs on {seen.node}, but {words}.", hint=hint, **seen.fields)  # type: ignore[arg-type]


def queued_too_long(seen: Evidence, seconds: float) -> QueueTimeoutError:
    """Return the error of a job that waited longer than `queue_timeout`."""
    return QueueTimeoutError(
        f"Job {seen.job_id} was still in the queue after {seconds:g} s (`queue_timeout`).",
        hint="Ask for less, for another `partition`, or wait longer: `squeue --start` estimates the start.",
        **seen.fields,  # type: ignore[arg-type]
    )


def started_too_long(seen: Evidence, seconds: float) -> StartTimeoutError:
    """Return the error of a kernel that was not up after `start_timeout`."""
    return StartTimeoutError(
        f"Job {seen.job_id} started, but its kernel was not up after {seconds:g} s (`start_timeout`).",
        hint="The end of the log shows what took so long; `start_timeout` allows more.",
        **seen.fields,  # type: ignore[arg-type]
    )


def node_unreachable(seen: Evidence, address: str, trouble: str) -> NodeUnreachableError:
    """Return the error of a supervisor whose port, at `address`, cannot be reached because of some `trouble`."""
    return NodeUnreachableError(
        f"Job {seen.job_id} runs on {seen.node}, but {address} cannot be reached from here: {trouble}.",
        hint="Is a firewall between these hosts? `port_range` names the ports that it lets through, "
        "`interface` or `address` another network.",
        **seen.fields,  # type: ignore[arg-type]
    )


def exit_text(code: int | None, signum: int | None) -> str:
    """Return an exit code or a signal in words, or ""."""
    if signum:
        try:
            name = signal.Signals(signum).name
        except ValueError:
            name = str(signum)
        return f"signal {name}"
    return "" if code is None else f"exit code {code}"
