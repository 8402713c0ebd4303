"""What is measured: ways to a kernel, with the same few verbs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from slurm_provisioner.front import Front
from slurm_provisioner.loop import background_loop

RESOURCES = {"time": "20", "mem": "1G", "cpus_per_task": 1}
ARGV = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


def connected(client: BlockingKernelClient) -> BlockingKernelClient:
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return client


class Local:
    """jupyter_client's LocalProvisioner: a process of this machine."""

    name = "local"
    in_slurm = False
    metadata: dict[str, Any] = {}

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


class Fronted(Local):
    """The same behind our endpoints, which is what they cost."""

    name = "local + front"

    def start(self) -> None:
        self.manager = KernelManager(transport="ipc")
        self.manager._kernel_spec = KernelSpec(argv=ARGV, language="python", display_name=self.name)
        self.manager.start_kernel()
        self._ask(self._open())

    async def _open(self) -> None:
        session = self.manager.session
        info = {"status": "ok", "protocol_version": "5.3", "language_info": {"name": "python"}}
        self.front = Front(session.key, session.signature_scheme, info, self)
        await self.front.open()
        self.front.attach(self._reach)

    def _reach(self, channel: str, protocol: asyncio.Protocol) -> object:
        info = self.manager.get_connection_info()
        path = f"{info['ip']}-{info[f'{channel}_port']}"  # type: ignore[literal-required]
        return asyncio.ensure_future(self._connect(path, protocol))

    async def _connect(self, path: str, protocol: asyncio.Protocol) -> None:
        while True:
            with contextlib.suppress(OSError):  # the kernel has not bound it yet
                await asyncio.get_running_loop().create_unix_connection(lambda: protocol, path)
                return
            await asyncio.sleep(0.01)

    def up(self, info: Mapping[str, Any]) -> None:
        """The kernel answers."""

    def watched(self, whether: bool) -> None:
        """A cell waits for it, or none does any more."""

    def connect(self) -> BlockingKernelClient:
        client = BlockingKernelClient()
        client.load_connection_info({**self.manager.get_connection_info(), **self.front.endpoints})
        return connected(client)

    def restart(self) -> None:
        super().restart()
        self._ask(self._attach_again())

    async def _attach_again(self) -> None:
        self.front.detach("", None)
        self.front.attach(self._reach)

    def shutdown(self) -> None:
        super().shutdown()
        self._ask(self.front.aclose())

    def _ask(self, coroutine: Coroutine[Any, Any, None]) -> None:
        background_loop().submit(coroutine).result(60)


class Slurm(Local):
    """This package; `place` is what a kernelspec has for a cluster elsewhere."""

    name = "slurm"
    in_slurm = True

    def __init__(self, name: str = name, place: Mapping[str, Any] | None = None) -> None:
        self.name = name
        stanza = {"provisioner_name": "slurm-provisioner", "config": {**RESOURCES, **(place or {})}}
        self.metadata = {"kernel_provisioner": stanza}


class Bare:
    """The floor: sbatch of ipykernel itself, its connection file on the shared home, direct TCP."""

    name = "bare sbatch"
    in_slurm = True

    def start(self) -> None:
        folder = Path.home() / ".slurm_bench"
        folder.mkdir(mode=0o700, exist_ok=True)
        self.file = folder / f"{secrets.token_hex(8)}.json"
        names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
        info = {"key": secrets.token_hex(16), "signature_scheme": "hmac-sha256", "transport": "tcp", "ip": "127.0.0.1"}
        self.file.touch(mode=0o600)
        self.file.write_text(json.dumps({**info, **dict.fromkeys(names, 0)}))
        argv = " ".join(word.format(connection_file=self.file) for word in ARGV)
        script = f"#!/bin/bash\n#SBATCH --time=20 --mem=1G --output={self.file}.log\nexec {argv}\n"
        submitted = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=True)
        self.job_id = submitted.stdout.strip()
        while True:
            try:
                if all(json.loads(self.file.read_text())[name] for name in names):
                    return
            except (OSError, ValueError):
                pass  # ipykernel writes its ports by unlinking the file and making it again
            time.sleep(0.005)

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


def jobs() -> str:
    return subprocess.run(["squeue", "--noheader", "--me"], capture_output=True, text=True, check=True).stdout.strip()
