"""What a run was made on. Nothing that names it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

__all__ = ["cpus_of_the_cluster", "describe"]


def describe() -> dict[str, str | int]:
    """Return what matters for times and sizes."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    slurm = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    return {
        "cores": os.cpu_count() or 0,
        "CPU": model[1] if model else platform.machine(),
        "memory, GiB": round(memory / 2**30),
        "Linux": ".".join(platform.release().split(".")[:2]),
        "Python": platform.python_version(),
        "Slurm": slurm,
        **{name: version(name) for name in ("jupyter_client", "ipykernel", "pyzmq", "slurm_provisioner")},
    }


def cpus_of_the_cluster() -> int:
    """Return how many CPUs the nodes of the default partition have together that are not taken."""
    told = subprocess.run(["sinfo", "--noheader", "--format=%P %C"], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in told.splitlines()]
    return sum(int(cpus.split("/")[1]) for partition, cpus in lines if partition.endswith("*"))
