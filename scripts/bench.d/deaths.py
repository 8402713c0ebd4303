"""How soon an end is noticed that nobody asked for, while a cell runs.

Clients learn of it in two ways: Jupyter asks whether the kernel is alive, and the cell shows something or ends. A
kernel whose job has ended stays "alive", as answers are given in its place: there it is the cell's error that counts.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from one import begun, said
from subjects import Local, Slurm
from telling import progress

__all__ = ["LEASE", "measure"]

#: Seconds of the lease of a kernel whose node is cut off.
LEASE = 60
#: Seconds after which an end counts as never noticed.
PATIENCE = 120.0
WHO = "import os, socket; print(os.getpid(), os.getppid(), os.environ.get('SLURM_JOB_ID', '-'), socket.gethostname())"


@dataclass(frozen=True)
class Victim:
    """A kernel, and the first process of its job."""

    pid: int
    supervisor: int
    job_id: str
    folder: Path

    def kill_kernel(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        os.kill(self.supervisor, signal.SIGKILL)

    def clear(self) -> None:
        """Remove what a supervisor leaves that is killed."""
        assert self.folder.name.startswith("slurm-"), "a local kernel's is its user's"
        shutil.rmtree(self.folder, ignore_errors=True)

    def cancel(self) -> None:
        subprocess.run(["scancel", self.job_id], check=True)

    def cut_off(self) -> None:
        """Silence them, as a network does that drops everything."""
        os.kill(self.supervisor, signal.SIGSTOP)
        os.kill(self.pid, signal.SIGSTOP)

    def bring_back(self) -> None:
        for pid in (self.pid, self.supervisor):
            os.kill(pid, signal.SIGCONT)


def noticed(subject: Local, harm: Callable[[Victim], None], after: Callable[[Victim], None]) -> float | None:
    """Seconds until the end is noticed; None where the kernel's processes are on another machine."""
    subject.start()
    client = subject.connect()
    try:
        pid, supervisor, job_id, host = said(client, WHO).split()
        if host != socket.gethostname():
            return None
        file = next(word for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0") if word.endswith(".json"))
        victim = Victim(int(pid), int(supervisor), job_id, Path(file).parent)
        request = begun(client, "import time; print('go', flush=True); time.sleep(600)")
        assert request is not None, "a new kernel runs its second cell"
        began = time.perf_counter()
        harm(victim)
        while time.perf_counter() - began < PATIENCE and subject.manager.is_alive() and not told(client, request):
            time.sleep(0.002)
        took = time.perf_counter() - began
        after(victim)
        return took
    finally:
        client.stop_channels()
        subject.manager.shutdown_kernel(now=True)


def told(client: BlockingKernelClient, request: str) -> bool:
    """Whether the cell has ended, or shows something."""
    try:
        while True:
            if client.get_shell_msg(timeout=0)["parent_header"].get("msg_id") == request:
                return True
    except queue.Empty:
        pass
    try:
        while True:
            if client.get_iopub_msg(timeout=0)["msg_type"] in ("display_data", "error", "stream"):
                return True
    except queue.Empty:
        return False


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Medians by row and name."""
    found: dict[str, dict[str, float]] = {}

    def row(
        name: str, subject: Local, harm: Callable[[Victim], None], *, rounds: int = rounds, after: Any = None
    ) -> None:
        progress(f"{name}: {subject.name}")
        took = [noticed(subject, harm, after or (lambda _: None)) for _ in range(rounds)]
        values = [seconds for seconds in took if seconds is not None]
        if values:
            found.setdefault(name, {})[subject.name] = statistics.median(values)

    row("kernel killed", Local(), Victim.kill_kernel)
    row("kernel killed", Slurm(), Victim.kill_kernel)
    row("job cancelled", Slurm(), Victim.cancel)
    row("supervisor killed", Slurm(), Victim.kill_supervisor, after=Victim.clear)
    row("node cut off", Slurm(more={"lease": LEASE}), Victim.cut_off, rounds=1, after=Victim.bring_back)
    progress("")
    return found
