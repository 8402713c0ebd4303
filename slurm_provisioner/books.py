"""The books of a user's kernels: what is known of each. Pure.

What a kernel is, its run directory tells; how its job is, Slurm does. The job's unique name joins the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from . import batch
from .about import About
from .status import JobStatus, Phase, phase_of

__all__ = ["Entry", "Job", "Kernel", "joined"]


@dataclass(frozen=True)
class Job:
    """What Slurm says of a kernel's job. A text is "" and a number None where it is not told.

    Attributes
    ----------
    job_id, name : str
        Its id and unique name.
    state, reason : str
        Its state in full, and why, as Slurm names it.
    node, nodes : str
        The node of its batch script, and all its nodes as a list of Slurm's.
    submitted, start, end : float or None
        When, in seconds since the epoch; start and end may be expected only.
    time_limit, time_used, time_left : float or None
        Seconds; infinite for no limit.
    cpus, node_count : int or None
        How many it has, or asks for.
    tres : mapping
        All that it has, or asks for, by Slurm's names, such as ``mem`` and ``gres/gpu``.
    partition, account, qos : str
        Where it runs, and who pays.
    exit_code, exit_signal : int or None
        How its script ended.
    """

    job_id: str
    name: str
    state: str
    reason: str = ""
    node: str = ""
    nodes: str = ""
    submitted: float | None = None
    start: float | None = None
    end: float | None = None
    time_limit: float | None = None
    time_used: float | None = None
    time_left: float | None = None
    cpus: int | None = None
    node_count: int | None = None
    tres: Mapping[str, str] = field(default_factory=dict)
    partition: str = ""
    account: str = ""
    qos: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None

    @property
    def phase(self) -> Phase:
        """What its state means."""
        return phase_of(self.state)

    @property
    def status(self) -> JobStatus:
        """The same in the words of those who have kernels."""
        return JobStatus(
            self.job_id,
            self.state,
            self.reason,
            self.node,
            self.exit_code,
            self.exit_signal,
            self.name,
            self.partition,
            self.start,
        )


@dataclass(frozen=True)
class Entry:
    """A run directory, and what it tells.

    Attributes
    ----------
    run_dir : str
        Its path on the cluster.
    about : About
        What the kernel is.
    listening : bool
        Whether the kernel's supervisor says where it can be reached.
    step : str
        What the job did last to start the kernel, or "".
    waiting : bool
        Whether what the job is to read first is there: it has not begun, or nobody has seen its end.
    """

    run_dir: str
    about: About
    listening: bool = False
    step: str = ""
    waiting: bool = False


@dataclass(frozen=True)
class Kernel:
    """A kernel, by its run directory and its job.

    Attributes
    ----------
    entry : Entry
        Its run directory.
    job : Job or None
        Its job; None if nobody could be found who knows it, which is no news of its end.
    """

    entry: Entry
    job: Job | None

    @property
    def about(self) -> About:
        """What it is."""
        return self.entry.about

    @property
    def phase(self) -> Phase:
        """How its job is."""
        return self.job.phase if self.job is not None else Phase.UNKNOWN

    @property
    def alive(self) -> bool:
        """Whether Slurm has its job, in whatever state that is no end."""
        return self.job is not None and self.job.phase is not Phase.ENDED

    @property
    def log(self) -> str | None:
        """The path of its log on the cluster; None if only the node can tell."""
        return batch.log_path(self.about.log, **self._names)

    @property
    def log_glob(self) -> str:
        """A pattern of the shell for its log."""
        return batch.log_glob(self.about.log, **self._names)

    @property
    def _names(self) -> dict[str, str]:
        job_id = self.job.job_id if self.job is not None else ""
        return {"job_id": job_id, "job_name": self.about.job_name, "user": self.about.user}

    @property
    def notebook(self) -> str:
        """The name of its notebook without the folder, or ""."""
        return self.about.notebook.rstrip("/").rpartition("/")[2]


def joined(entries: Iterable[Entry], queue: Mapping[str, Job], ended: Mapping[str, Job]) -> list[Kernel]:
    """Return the kernels of run directories, the latest first.

    Parameters
    ----------
    entries : iterable of Entry
        The run directories.
    queue, ended : mapping
        What squeue and sacct know of jobs, by name. sacct alone knows exit codes.
    """
    kernels = []
    for entry in entries:
        name = entry.about.job_name
        job, end = queue.get(name), ended.get(name)
        if end is not None and (job is None or (job.phase is Phase.ENDED and job.job_id == end.job_id)):
            job = end if end.reason or job is None else replace(end, reason=job.reason)
        kernels.append(Kernel(entry, job))
    return sorted(kernels, key=lambda kernel: kernel.about.submitted, reverse=True)
