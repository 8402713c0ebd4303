"""Everything that can go wrong, one tree.

.. code-block:: text

    SlurmProvisionerError
    ├── ConfigError                 the kernelspec, an override or the site's settings
    │   └── LimitError              a value above what the site allows
    ├── CommandError                a command on the cluster failed
    │   ├── CommandNotFoundError    it is not there
    │   ├── CommandTimeoutError     no answer in time (also a TimeoutError)
    │   ├── LoginHostError          the login host cannot be used (also a ConnectionError)
    │   │   ├── HostUnreachableError    it does not answer
    │   │   ├── UnknownHostKeyError     nobody has said yet that its key is right
    │   │   ├── ChangedHostKeyError     its key is not the one that was known
    │   │   ├── LoginRefusedError       it does not let us in
    │   │   │   └── InteractiveLoginError   it asks for what only a person can give
    │   │   └── ConnectionLostError     the connection broke while a command ran
    │   └── SubmissionError         sbatch refused the job
    ├── JobError                    the job did not give a kernel, or no longer does
    │   ├── JobEndedError           it ended: failed, cancelled, out of time or memory …
    │   ├── KernelDiedError         the job runs, the kernel in it ended by itself
    │   ├── KernelStartError        the job runs, the kernel in it did not start
    │   ├── NodeUnreachableError    the job runs, but its node cannot be reached from here
    │   ├── QueueTimeoutError       it waited longer than `queue_timeout` (also a TimeoutError)
    │   └── StartTimeoutError       it ran, but no kernel within `start_timeout` (also a TimeoutError)
    └── LinkError                   the supervisor on the compute node cannot be reached
        └── RefusedError            it was reached, and could not do what it was asked

An error is a sentence, its evidence, and the next step. Programs read the fields, people read `str()`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = [
    "ChangedHostKeyError",
    "CommandError",
    "CommandNotFoundError",
    "CommandTimeoutError",
    "ConfigError",
    "ConnectionLostError",
    "HostUnreachableError",
    "InteractiveLoginError",
    "JobEndedError",
    "JobError",
    "KernelDiedError",
    "KernelStartError",
    "LimitError",
    "LinkError",
    "LoginHostError",
    "LoginRefusedError",
    "NodeUnreachableError",
    "QueueTimeoutError",
    "RefusedError",
    "SlurmProvisionerError",
    "StartTimeoutError",
    "SubmissionError",
    "UnknownHostKeyError",
]


#: Columns of a hint; JupyterLab's dialog shows about so many.
WIDTH = 90


class SlurmProvisionerError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    summary : str
        What happened, one sentence.
    evidence : sequence of str, optional
        Lines that show it: a command, its output, a state, the end of a log.
    hint : str, optional
        What to do next.
    """

    def __init__(self, summary: str, *, evidence: Sequence[str] = (), hint: str = "") -> None:
        self.summary = summary
        self.evidence = tuple(evidence)
        self.hint = hint
        super().__init__(summary)

    def __str__(self) -> str:
        lines = [self.summary, *(f"  {line}" for line in self.evidence)]
        if self.hint:
            lines += textwrap.wrap(
                self.hint,
                WIDTH,
                initial_indent="→ ",
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        return "\n".join(lines)


class ConfigError(SlurmProvisionerError, ValueError):
    """The kernelspec's `config`, an override or a site setting cannot be used."""


class LimitError(ConfigError):
    """A value is above what the site's `limits` allow."""


class CommandError(SlurmProvisionerError):
    """A command on the cluster failed.

    Attributes
    ----------
    argv : tuple of str
        The command.
    returncode : int or None
        Its exit code; None if it did not get that far.
    stdout, stderr : str
        What it printed.
    """

    def __init__(
        self,
        summary: str,
        *,
        argv: Sequence[str],
        returncode: int | None = None,
        stdout: str = "",
        stderr: str = "",
        hint: str = "",
    ) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        outcome = "" if returncode is None else f" (exit code {returncode})"
        printed = (stderr.strip() or stdout.strip()).splitlines()
        evidence = [f"command: {' '.join(argv)}{outcome}", *printed[-8:]]
        super().__init__(summary, evidence=evidence, hint=hint)


class CommandNotFoundError(CommandError):
    """The program is not on the cluster's PATH."""


class CommandTimeoutError(CommandError, TimeoutError):
    """A command did not answer within its time limit."""


class LoginHostError(CommandError, ConnectionError):
    """The cluster's login host cannot be used; nothing is known of the cluster itself.

    Attributes
    ----------
    host : str
        Its name.
    """

    def __init__(self, summary: str, *, host: str, said: str = "", hint: str = "") -> None:
        super().__init__(summary, argv=(), stderr=said, hint=hint)
        self.host = host
        self.evidence = tuple(said.splitlines()[-8:])


class HostUnreachableError(LoginHostError):
    """The login host does not answer."""


class UnknownHostKeyError(LoginHostError):
    """Nobody has said yet that the login host's key is the right one."""


class ChangedHostKeyError(LoginHostError):
    """The login host's key is not the one that was known."""


class LoginRefusedError(LoginHostError):
    """The login host does not let us in."""


class InteractiveLoginError(LoginRefusedError):
    """The login host asks for something that only a person can give, such as a one-time password."""


class ConnectionLostError(LoginHostError):
    """The connection to the login host broke while a command ran there."""


class SubmissionError(CommandError):
    """sbatch refused the job."""


class JobError(SlurmProvisionerError):
    """A job did not give a kernel, or no longer does.

    Attributes
    ----------
    job_id : str
        Slurm's id of the job.
    state : str
        Slurm's state of the job when last seen, such as ``TIMEOUT``.
    reason : str
        Slurm's reason for that state, if it gave one.
    log : tuple of str
        The last lines of the job's log.
    """

    def __init__(
        self,
        summary: str,
        *,
        job_id: str,
        state: str = "",
        reason: str = "",
        log: Sequence[str] = (),
        log_path: str = "",
        hint: str = "",
    ) -> None:
        self.job_id = job_id
        self.state = state
        self.reason = reason
        self.log = tuple(log)
        self.log_path = log_path
        evidence = []
        if state:
            evidence.append(f"state: {state}" + (f" ({reason})" if reason else ""))
        if log:
            evidence.append(f"end of {log_path or 'the log'}:")
            evidence.extend(f"  {line}" for line in log)
        elif log_path:
            evidence.append(f"log: {log_path}")
        super().__init__(summary, evidence=evidence, hint=hint)


class JobEndedError(JobError):
    """The job ended: failed, cancelled, out of time or memory, its node lost."""


class KernelDiedError(JobError):
    """The job runs, but the kernel in it, which was up, ended by itself."""


class KernelStartError(JobError):
    """The job runs, but the kernel in it ended before it could be used."""


class NodeUnreachableError(JobError):
    """The job runs, but the port of its supervisor cannot be reached from here."""


class QueueTimeoutError(JobError, TimeoutError):
    """The job was still in the queue after `queue_timeout`."""


class StartTimeoutError(JobError, TimeoutError):
    """The job ran, but there was no kernel after `start_timeout`."""


class LinkError(SlurmProvisionerError):
    """The supervisor on the compute node cannot be reached."""


class RefusedError(LinkError):
    """The supervisor was reached, and could not do what it was asked."""
