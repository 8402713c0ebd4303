"""What passes until `start_kernel` returns, step by step."""

from __future__ import annotations

import functools
import time
from typing import Any

from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import LocalProvisioner

from slurm_provisioner.job import KernelJob
from slurm_provisioner.provisioner import SlurmProvisioner
from slurm_provisioner.slurm import Slurm

__all__ = ["STEPS", "Steps"]

_READ = "the kernelspec is read, and a local kernel's connection file written"
_BOUND = "endpoints for clients are bound"
_MADE = "certificates, request and script are made"
_SUBMITTED = "one command makes the run directory and calls sbatch"
_LAUNCHED = "the endpoints are handed to the caller's loop"
_STARTED = "a process is started"
_POSTED = "jupyter_client notes where the kernel is and connects"
_PAUSED = "jupyter_client pauses for 10 ms"
#: All of them, in order; no kernel has each.
STEPS = (_READ, _BOUND, _MADE, _SUBMITTED, _LAUNCHED, _STARTED, _POSTED, _PAUSED)


class Steps:
    """Notes when the steps of a start end. There is one of these in a process."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        for provisioner, launched in ((LocalProvisioner, _STARTED), (SlurmProvisioner, _LAUNCHED)):
            self._note(provisioner, "pre_launch", _READ)
            self._note(provisioner, "launch_kernel", launched)
        self._note(KernelJob, "_open", _BOUND)
        self._note(Slurm, "submit", _SUBMITTED, begins=_MADE)
        self._note(KernelManager, "_async_post_start_kernel", _POSTED)

    def _note(self, owner: type, name: str, step: str, *, begins: str = "") -> None:
        """Have a method's end be that of a step, and its begin that of the one before."""
        method: Any = getattr(owner, name)

        @functools.wraps(method)
        async def noted(*args: Any, **kwargs: Any) -> Any:
            if begins:
                self._ends[begins] = time.perf_counter()
            try:
                return await method(*args, **kwargs)
            finally:
                self._ends[step] = time.perf_counter()

        setattr(owner, name, noted)

    def begin(self) -> None:
        """Forget what was: a start begins."""
        self._ends.clear()
        self._began = time.perf_counter()

    def told(self) -> dict[str, float]:
        """Return the seconds of each step of the start that has just ended."""
        self._ends[_PAUSED] = time.perf_counter()
        seconds, before = {}, self._began
        for step, end in self._ends.items():
            seconds[step], before = end - before, end
        return seconds
