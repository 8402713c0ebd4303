"""Why there is no kernel: Slurm's states and exit codes in plain words, with the evidence and what to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import (
    JobEndedError,
    KernelDiedError,
    KernelStartError,
    NodeUnreachableError,
    QueueTimeoutError,
    StartTimeoutError,
)
from .login_host import LoginHost, NodeHost
from .status import JobStatus

__all__ = [
    "LOGGED",
    "Evidence",
    "given_up",
    "how_it_ended",
    "job_ended",
    "kernel_died",
    "kernel_not_started",
    "leaving",
    "node_unreachable",
    "queued_too_long",
    "started_too_long",
]

#: Lines of the log that an error shows.
LOG_LINES = 12
#: How lines of the batch script and the supervisor begin in the job's log.
_OWN_PREFIX = "slurm-provisioner: "

#: What a user can always do.
_AGAIN = "Restart the kernel to get a new job."
_RETRY = "Tell the cluster's support if it happens again."
_ENVIRONMENT = "`modules`, `conda_env`, `venv` and `prologue`"
_SHARED = "Is `state_dir` on a file system that login and compute nodes share, with space left?"

# What a state means for a user: words, next step. Source: squeue(1), JOB STATE CODES.
_STATES = {
    "BOOT_FAIL": ("its node failed to boot", _RETRY),
    "CANCELLED": (
        "it was cancelled",
        "Somebody used scancel on it: you, an administrator, or a rule of the site.",
    ),
    "COMPLETED": ("it is over", ""),
    "DEADLINE": ("it could not be done before its deadline", "Ask for less `time`, or a later deadline."),
    "FAILED": ("it failed", "The end of the log says why."),
    "LAUNCH_FAILED": ("it could not be started on its node", _RETRY),
    "NODE_FAIL": ("its node failed", "A new job gets another node."),
    "NOT_FOUND": ("Slurm no longer knows it", ""),
    "OUT_OF_MEMORY": ("it used more memory than it asked for", "Ask for more with `mem`."),
    "PREEMPTED": (
        "it had to make room for a job of higher priority",
        "A `partition` or `qos` that is not preempted would spare it that.",
    ),
    "REQUEUED": (
        "Slurm put it back into the queue, where it was cancelled: when to start a new kernel is your choice",
        "",
    ),
    "TIMEOUT": ("it reached its time limit", "Ask for more with `time`."),
}

# Why a supervisor ends its job, in its own words.
_LEAVING = {
    "crash-grace": "nobody restarted its kernel in time (`crash_grace`)",
    "forgotten": "Slurm had given it up",
    "lease": "it has not heard of Jupyter for too long (`lease`)",
    "terminated": "Slurm asked it to, for its time limit, a job of higher priority or scancel",
}

#: Of these, those that are the supervisor's own, as its log has them.
LOGGED = {
    "crash-grace": "nobody has restarted the kernel",
    "forgotten": "Slurm has given the job up",
    "lease": "Jupyter has not been heard of for too long",
}

#: Signals of a program that went wrong.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)

#: Slurm's signal in the exit code of a job whose log could not be opened; no signal of the system.
_NO_LOG = 53
#: The exit code in its place that Slurm 20.11 has. A batch script that has begun leaves a log.
_NO_LOG_BEFORE = 1

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
# What zmq says to a kernel made with xeus (xeus-python, xeus-cling, LFortran ...) whose sockets have long names.
_LONG_NAME = re.compile(r"^(RuntimeError|\s*what\(\)): +Invalid argument$", re.MULTILINE)
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
    oom : bool
        Whether the node killed something in it for want of memory.
    leaving : str
        Why the supervisor ended it, in the supervisor's own word; "" if it did not.
    """

    job_id: str
    status: JobStatus
    node: str = ""
    log: Sequence[str] = ()
    log_path: str = ""
    oom: bool = False
    leaving: str = ""

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
    words, hint = _end(seen, up=up)
    where = f" on {seen.node}" if seen.node else ""
    when = "" if up else " before its kernel was up"
    hint = f"{hint} {_AGAIN}".strip()
    return JobEndedError(f"Job {seen.job_id}{where} ended{when}: {words}.", hint=hint, **seen.fields)  # type: ignore[arg-type]


def how_it_ended(seen: Evidence) -> str:
    """Return how a job ended, as a clause."""
    return _end(seen, up=True)[0]


def _end(seen: Evidence, *, up: bool) -> tuple[str, str]:
    status = seen.status
    left = seen.leaving or _told_its_log(seen.log)
    no_memory = seen.oom or _NO_MEMORY.search("\n".join(seen.log))
    if status.state in ("FAILED", "COMPLETED", "") and no_memory:
        return _STATES["OUT_OF_MEMORY"]
    its_choice = status.state in ("FAILED", "COMPLETED") and left in LOGGED
    if left and (its_choice or status.state not in _STATES):  # Slurm has an exit code, or has not answered yet
        return leaving(left), ""
    if status.state != "FAILED":
        return _STATES.get(status.state, (f"Slurm says {status.state}", ""))
    begun = up or seen.log
    if status.exit_signal == _NO_LOG or (not begun and status.exit_code == _NO_LOG_BEFORE):
        return "its log could not be opened on the node", _SHARED
    if not up and status.exit_code in _EXIT_CODES:
        words, hint = _EXIT_CODES[status.exit_code]
        said = [line[len(_OWN_PREFIX) :] for line in seen.log if line.startswith(_OWN_PREFIX)]
        return (f"{words}: {said[-1].removeprefix('failed: ').rstrip('.')}" if said else words), hint
    words, hint = _STATES["FAILED"]
    if status.exit_signal == signal.SIGKILL:
        hint = f"Somebody, or the node for want of memory, killed its first process. {_RETRY}"
    return f"{words} with {_exit_text(status.exit_code, status.exit_signal)}", hint


def _told_its_log(log: Sequence[str]) -> str:
    """Return why a supervisor ended its job, where it could tell nobody else: a laptop slept, or a cable was cut."""
    lines = [line.removeprefix(_OWN_PREFIX) for line in log if line.startswith(_OWN_PREFIX)]
    return next((why for why, words in LOGGED.items() if f"the job ends: {words}" in lines), "")


def given_up(seen: Evidence) -> JobEndedError:
    """Return the error of a launch whose job we ended ourselves, because nobody wants the kernel any more."""
    return JobEndedError(
        f"Job {seen.job_id} was cancelled before its kernel was up: the start was interrupted.",
        job_id=seen.job_id,
        state="CANCELLED",
    )


def kernel_not_started(seen: Evidence, code: int | None, signum: int | None) -> KernelStartError:
    """Return the error of a kernel that ended before it was up, in a job that runs."""
    words = f"its kernel ended with {_exit_text(code, signum)}"
    text = "\n".join(seen.log)
    hint = "The end of the log says why."
    if match := _NO_MODULE.search(text):
        name = match[1]
        package = name.split(".")[0].replace("ipykernel_launcher", "ipykernel")
        words += f": Python has no module {name} there"
        hint = f"Install {package} in the kernel's environment, or choose another one: {_ENVIRONMENT}, or `argv`."
    elif _LONG_NAME.search(text):
        hint = 'If it is made with xeus, its sockets cannot be in a long TMPDIR: set `kernel_transport` to "tcp".'
    elif seen.oom or signum == signal.SIGKILL or _NO_MEMORY.search(text):
        hint = "It may have run out of memory: ask for more with `mem`."
    return KernelStartError(f"Job {seen.job_id} runs on {seen.node}, but {words}.", hint=hint, **seen.fields)  # type: ignore[arg-type]


def kernel_died(seen: Evidence, code: int | None, signum: int | None) -> KernelDiedError:
    """Return the news of a kernel that was up and ended by itself, in a job that goes on."""
    words = f"ended with {_exit_text(code, signum)}"
    hint = ""
    if seen.oom:
        words += ", as the job was out of memory"
        hint = "Ask for more with `mem`."
    elif signum == signal.SIGKILL:
        hint = "If it needed more memory than the job has: ask for more with `mem`."
    elif signum in _CRASHES:
        hint = "A library that it used crashed, most often."
    text = f"The kernel in job {seen.job_id} on {seen.node} {words}."
    return KernelDiedError(text, hint=hint, **seen.fields)  # type: ignore[arg-type]


def leaving(why: str) -> str:
    """Return in words why a supervisor ends its job."""
    return _LEAVING.get(why, why)


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
        hint="The end of the log shows what took so long; `start_timeout` allows more. A kernel that knows TCP alone "
        'needs `kernel_transport`: "tcp".',
        **seen.fields,  # type: ignore[arg-type]
    )


def node_unreachable(
    seen: Evidence, address: str, trouble: str, login: LoginHost | None = None
) -> NodeUnreachableError:
    """Return the error of a supervisor whose port, at `address`, cannot be reached because of some `trouble`."""
    way = "from here"
    hint = (
        "Is a firewall between these hosts? `port_range` names the ports that it lets through, "
        "`interface` or `address` another network."
    )
    if login is not None and login.via == "login":
        way = f"from the login host {login.host}"
        hint = (
            f'{hint} `"via": "node"` in `ssh` goes by the SSH server of the node. For both, {login.host} must forward '
            "ports (AllowTcpForwarding in its sshd_config)."
        )
    elif login is not None:
        way = "by way of its SSH server"
        command = NodeHost.behind(login, seen.node).command_line("true")
        hint = f"`{command}` in a terminal tries it, while a job of yours runs there."
    return NodeUnreachableError(
        f"Job {seen.job_id} runs on {seen.node}, but {address} cannot be reached {way}: {trouble}.",
        hint=hint,
        **seen.fields,  # type: ignore[arg-type]
    )


def _exit_text(code: int | None, signum: int | None) -> str:
    if signum:
        try:
            return f"signal {signal.Signals(signum).name}"
        except ValueError:
            return f"signal {signum}"
    return "no exit code" if code is None else f"exit code {code}"
