"""Jobs as the stories speak of them."""

from __future__ import annotations

from typing import Any

from conftest import eventually, queue, slurm


def kernel_jobs(state: str = "") -> list[str]:
    """The ids of the kernels' jobs in the queue, in some state."""
    jobs = [line.split() for line in queue()]
    return [job_id for job_id, name, now in jobs if name.startswith("jupyter") and now.startswith(state)]


def the_job(state: str = "") -> str:
    """The only one there is."""
    (job_id,) = kernel_jobs(state)
    return job_id


def reach_time_limit(job_id: str) -> None:
    slurm("scontrol", "update", f"JobId={job_id}", "EndTime=now+1")


class FullPartition:
    """Somebody else's job has all the GPUs.

    Attributes
    ----------
    wanted : dict
        What a kernelspec has for a job that needs one of them.
    node : str
        The one that has the GPUs.
    """

    def __init__(self) -> None:
        self.wanted: dict[str, Any] = {"partition": "gpu", "gpus": 1}
        argv = ["--partition=gpu", "--gpus=2", "--mem=50M", "--time=10", "--output=/dev/null", "--wrap=exec sleep 600"]
        self._job_id = slurm("sbatch", "--parsable", *argv).strip()
        eventually(lambda: f"{self._job_id} wrap RUNNING" in queue(), "a full partition")
        self.node = slurm("squeue", "--noheader", f"--jobs={self._job_id}", "--format=%N").strip()

    def leave(self) -> None:
        slurm("scancel", self._job_id)
