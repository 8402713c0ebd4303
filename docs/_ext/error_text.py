"""Why there is no kernel, as Markdown, from the functions that say so to users. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from config_text import table

from slurm_provisioner import explain, reasons
from slurm_provisioner.errors import SlurmProvisionerError
from slurm_provisioner.explain import Evidence, job_ended
from slurm_provisioner.sbatch import refused
from slurm_provisioner.status import JobStatus
from slurm_provisioner.transport import Completed

__all__ = ["ends", "refusals", "starts", "waits"]

#: In place of what differs from job to job.
_SOME = "…"


def ends() -> str:
    """Return how jobs end: by Slurm's state, and by what their supervisors decide."""
    rows = []
    for state in explain._STATES:
        shown = f"`{state}`" if state != "NOT_FOUND" else "none any more"
        rows.append(_row(job_ended(_seen(state, 1), up=True), shown))
    for why in explain._LEAVING:
        shown = "`COMPLETED` or `FAILED`" if why in explain.LOGGED else "not told yet"
        rows.append(_row(job_ended(Evidence(_SOME, JobStatus(_SOME, ""), leaving=why), up=True), shown))
    return table(["it says", "Slurm's state", "what to do"], rows)


def starts() -> str:
    """Return why a kernel was not started, by the exit code of the job."""
    rows = [_row(job_ended(_seen("FAILED", code), up=False), str(code)) for code in explain._EXIT_CODES]
    rows.append(_row(job_ended(_seen("FAILED", 0, explain._NO_LOG), up=False), f"signal {explain._NO_LOG}"))
    return table(["it says", "exit code", "what to do"], rows)


def waits() -> str:
    """Return why a job does not start by itself, by Slurm's reason."""
    rows = []
    for reason in reasons._STUCK:
        words, hint = reasons.explain_reason(reason)
        rows.append((words, hint.format(job_id="JOB")))
    return table(["the line says", "what to do"], rows)


def refusals(messages: Sequence[str]) -> str:
    """Return what to do about some of Slurm's own messages, each of which must have a hint."""
    rows = []
    for message in messages:
        stderr = f"sbatch: error: Batch job submission failed: {message}"
        error = refused(Completed(("sbatch",), 1, "", stderr), ("sbatch",))
        if not error.hint:
            raise LookupError(f"There is no hint for {message!r}.")
        rows.append((message, error.hint))
    return table(["Slurm says", "what to look at"], rows)


def _seen(state: str, code: int, signum: int | None = None) -> Evidence:
    return Evidence(_SOME, JobStatus(_SOME, state, exit_code=code, exit_signal=signum))


def _row(error: SlurmProvisionerError, shown: str) -> tuple[str, str, str]:
    """Return the end of an error's sentence, what is shown beside it, and its hint without what is true of all."""
    words = error.summary.partition(": ")[2].rstrip(".")
    hint = error.hint.removesuffix(explain._AGAIN).strip()
    return words, shown, hint or "Restart the kernel when you want a new job."
