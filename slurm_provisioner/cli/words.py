"""What is said of a kernel: in words for people, and as an object for programs. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..books import Job, Kernel
from ..explain import Evidence, how_it_ended
from ..status import Phase
from ..waiting import Waiting, line

__all__ = ["as_document", "clock", "gpus", "hint_of", "name_of", "resources", "state_of"]


def name_of(kernel: Kernel) -> str:
    """Return what people know a kernel by: its notebook, or else its kernelspec."""
    return kernel.notebook or kernel.about.kernelspec or kernel.about.kernel_id[:8]


def state_of(kernel: Kernel, now: float) -> str:
    """Return how a kernel is."""
    job = kernel.job
    if job is None:
        return "unknown: neither squeue nor sacct tells of its job"
    if job.phase is Phase.ENDED:
        when = f" {clock(job.end, now)}" if job.end else ""
        return f"ended{when}: {how_it_ended(Evidence(job.job_id, job.status, job.node))}"
    if job.state == "RUNNING":
        step = f": {kernel.entry.step}" if kernel.entry.step else ""
        return "running" if kernel.entry.listening else f"starting{step}"
    if job.phase is Phase.UNKNOWN:
        return f"Slurm says {job.state}"
    _, first, *more = line(_waiting(job, now)).parts
    return ": ".join(filter(None, [first, ", ".join(more)]))


def hint_of(kernel: Kernel) -> str:
    """Return what to do about a job that does not start by itself, or ""."""
    job = kernel.job
    return line(_waiting(job, 0.0)).hint if job is not None and job.phase is Phase.PENDING else ""


def _waiting(job: Job, now: float) -> Waiting:
    return Waiting(now=now, job_id=job.job_id, status=job.status, node=job.node)


def resources(job: Job) -> str:
    """Return what a job has, or asks for."""
    kinds = gpus(job.tres)
    parts = [
        f"{job.node_count} nodes" if (job.node_count or 1) > 1 else "",
        f"{job.cpus} CPU{'s' if job.cpus > 1 else ''}" if job.cpus else "",
        job.tres.get("mem", ""),
        *(f"{count} {kind or ('GPU' if count == 1 else 'GPUs')}" for kind, count in kinds.items()),
    ]
    return ", ".join(filter(None, parts))


def gpus(tres: Mapping[str, str]) -> dict[str, int]:
    """Return how many GPUs of each type there are; of no type, "", are those of which Slurm does not count the type."""
    found = {}
    for name, value in tres.items():
        match = re.fullmatch("gres/gpu(?::(.+))?", name)
        if match and re.fullmatch(r"[1-9]\d{0,5}", value):
            found[match[1] or ""] = int(value)
    untold = found.pop("", 0) - sum(found.values())
    return {**found, **({"": untold} if untold > 0 else {})}


def clock(moment: float, now: float) -> str:
    """Return when something was or is expected, in this process's zone: with the date unless that is today."""
    when, today = _local(moment), _local(now)
    if when.date() == today.date():
        return f"{when:%H:%M}"
    return f"{when:%Y-%m-%d %H:%M}"


def as_document(kernel: Kernel, cluster: str, now: float) -> dict[str, Any]:
    """Return all that is known of a kernel for programs: names and their meaning stay.

    Times are ISO 8601 with a zone, durations seconds, and null is what is not known, or no limit.
    """
    about, job = kernel.about, kernel.job or Job("", "", "")
    kinds = gpus(job.tres)
    return {
        "cluster": cluster,
        "kernel_id": about.kernel_id,
        "kernelspec": about.kernelspec,
        "display_name": about.display_name,
        "notebook": about.notebook or None,
        "server_host": about.server.host or None,
        "server_user": about.server.user or None,
        "persistent": about.persistent,
        "lease_seconds": about.lease,
        "run_directory": kernel.entry.run_dir,
        "log": kernel.log or None,
        "job_id": job.job_id or None,
        "job_name": about.job_name,
        "phase": kernel.phase.value,
        "state": job.state or None,
        "reason": job.reason or None,
        "explanation": state_of(kernel, now),
        "partition": job.partition or None,
        "account": job.account or None,
        "qos": job.qos or None,
        "node": job.node or None,
        "nodes": job.nodes or None,
        "node_count": job.node_count,
        "cpus": job.cpus,
        "memory": job.tres.get("mem"),
        "gpus": sum(kinds.values()),
        "tres": dict(job.tres),
        "submit_time": _iso(job.submitted or about.submitted),
        "start_time": _iso(job.start),
        "end_time": _iso(job.end),
        "time_limit_seconds": _finite(job.time_limit),
        "time_used_seconds": _finite(job.time_used),
        "time_left_seconds": _finite(job.time_left),
        "exit_code": job.exit_code,
        "exit_signal": job.exit_signal,
    }


def _finite(seconds: float | None) -> int | None:
    return int(seconds) if seconds is not None and math.isfinite(seconds) else None


def _iso(moment: float | None) -> str | None:
    return _local(moment).isoformat(timespec="seconds") if moment else None


def _local(moment: float) -> datetime:
    return datetime.fromtimestamp(moment).astimezone()
