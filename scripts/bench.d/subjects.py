"""What is measured: ways to a kernel, with the same few verbs."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

__all__ = ["PORTS", "Bare", "Local", "Slurm", "connected", "queued"]

RESOURCES = {"time": "20", "mem": "1G", "cpus_per_task": 1}
ARGV = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


def connected(client: BlockingKernelClient) -> BlockingKernelClient:
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return client


class Local:
    """jupyter_client's LocalProvisioner: a process of this machine."""

    name = "local"
    metadata: dict[str, Any] = {}
    #: The job's first process, in the words of the kernel; "" where there is no job.
    first_process = ""
    job_id = ""

    def start(self) -> None:
        self.manager = KernelManager()
        self.manager._kernel_spec = KernelSpec(
            argv=ARGV, language="python", display_name=self.name, metadata=self.metadata
        )
        self.manager.start_kernel()

    def connect(self) -> BlockingKernelClient:
        return connected(self.manager.client())

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def restart(self) -> None:
        self.manager.restart_kernel()

    def shutdown(self) -> None:
        self.manager.shutdown_kernel()

    def marks(self) -> dict[str, float]:
        """Moments of the start that are known from outside of the kernel, in seconds since the epoch."""
        return {}


class Slurm(Local):
    """This package; `more` is what the kernelspec has besides."""

    name = "ours"
    first_process = "os.getppid()"  # the supervisor

    def __init__(self, name: str = name, more: Mapping[str, Any] | None = None) -> None:
        self.name = name
        stanza = {"provisioner_name": "slurm-provisioner", "config": {**RESOURCES, **(more or {})}}
        self.metadata = {"kernel_provisioner": stanza}

    def connect(self) -> BlockingKernelClient:
        client = super().connect()
        self.job_id = self._allocation().record.job_id
        return client

    def marks(self) -> dict[str, float]:
        now = self._allocation()
        return {
            "sbatch has answered": now.record.submitted_at,
            "the supervisor tells where it is": now.arrival.told_at,
            "that is seen": now.arrived_at,
        }

    def _allocation(self) -> Any:
        provisioner: Any = self.manager.provisioner
        return provisioner.allocation


class Bare:
    """The floor: sbatch of ipykernel itself, its connection file on the shared home, direct TCP."""

    name = "floor"
    first_process = "os.getpid()"  # bash has become the kernel
    job_id = ""

    def start(self) -> None:
        script = self.script()
        began = time.perf_counter()
        submitted = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=True)
        self.submitted_at, self.submitting = time.time(), time.perf_counter() - began
        self.job_id = submitted.stdout.strip()
        while True:
            try:
                if all(json.loads(self.file.read_text())[name] for name in PORTS):
                    return
            except (OSError, ValueError):
                pass  # ipykernel writes its ports by unlinking the file and making it again
            time.sleep(0.005)

    def script(self) -> str:
        """Make a connection file without ports, and return the batch script."""
        folder = Path.home() / ".slurm_bench"
        folder.mkdir(mode=0o700, exist_ok=True)
        self.file = folder / f"{secrets.token_hex(8)}.json"
        info = {"key": secrets.token_hex(16), "signature_scheme": "hmac-sha256", "transport": "tcp", "ip": "127.0.0.1"}
        self.file.touch(mode=0o600)
        self.file.write_text(json.dumps({**info, **dict.fromkeys(PORTS, 0)}))
        argv = " ".join(word.format(connection_file=self.file) for word in ARGV)
        return f"#!/bin/bash\n#SBATCH --time=20 --mem=1G --output={self.file}.log\nexec {argv}\n"

    def connect(self) -> BlockingKernelClient:
        client = BlockingKernelClient()
        client.load_connection_file(str(self.file))
        return connected(client)

    def interrupt(self) -> None:
        subprocess.run(["scancel", "--signal=INT", "--batch", self.job_id], check=True)

    def shutdown(self) -> None:
        subprocess.run(["scancel", self.job_id], check=True)
        for path in self.file.parent.glob(f"{self.file.name}*"):
            path.unlink()

    def marks(self) -> dict[str, float]:
        return {"sbatch has answered": self.submitted_at}


def queued(job_id: str) -> bool:
    """Whether squeue still lists a job, be it as one that is ending."""
    done = subprocess.run(["squeue", "--noheader", "--me", "--format=%i"], capture_output=True, text=True, check=True)
    return job_id in done.stdout.split()
