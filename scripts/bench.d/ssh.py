"""One kernel by SSH, by way of a login host on this machine that is made to be far away."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from login_host import Login
from one import go_through, hops, interrupted, medians, run
from relay import Relay, round_trip
from subjects import PORTS, Bare, Slurm, connected
from telling import progress

__all__ = ["DELAY", "TRANSPORTS", "measure"]

#: Seconds from here to the login host, and as many back.
DELAY = 0.025
TRANSPORTS = ("asyncssh", "openssh")
ROUND_TRIPS = 10
# sbatch and the wait for the kernel's ports are one command: fewer round trips are not to be had.
_SUBMIT_AND_WAIT = """
sbatch --parsable; date +%s.%N
until grep -q '"hb_port": *[1-9]' {file} 2> /dev/null; do sleep 0.01; done; tr -d '\\n' < {file}
"""


class BareBySsh(Bare):
    """The floor by SSH: one command that submits and waits, then the kernel's ports by a connection that is open."""

    name = "floor by SSH"

    def __init__(self, config: str, folder: Path) -> None:
        shared = ["-o", "ControlMaster=auto", "-o", f"ControlPath={folder / 'floor'}", "-o", "ControlPersist=yes"]
        self._ssh = ["ssh", "-F", config, *shared]

    def start(self) -> None:
        script = self.script()
        command = _SUBMIT_AND_WAIT.format(file=self.file)
        told = subprocess.run([*self._ssh, "hpc", command], input=script, capture_output=True, text=True, check=True)
        self.job_id, submitted_at, info = told.stdout.splitlines()
        self.submitted_at, self._info = float(submitted_at), json.loads(info)

    def connect(self) -> BlockingKernelClient:
        near = {name: free_port() for name in PORTS}
        ways = [word for name in PORTS for word in ("-L", f"127.0.0.1:{near[name]}:127.0.0.1:{self._info[name]}")]
        subprocess.run([*self._ssh, "-O", "forward", *ways, "hpc"], check=True, capture_output=True)
        client = BlockingKernelClient()
        client.load_connection_info({**self._info, **near})  # type: ignore[typeddict-item]
        return connected(client)

    def close(self) -> None:
        subprocess.run([*self._ssh, "-O", "exit", "hpc"], check=False, capture_output=True)


class FarSlurm(Slurm):
    """This package by SSH."""

    def marks(self) -> dict[str, float]:
        marks = super().marks()
        marks["sbatch has answered"] -= DELAY  # it had then, there
        return marks


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def one_round(subject: Any, _: int, record: Callable[[str, float], None]) -> None:
    began, at = time.time(), time.perf_counter()
    subject.start()
    client = subject.connect()
    run(client, "1")
    took = time.perf_counter() - at
    record("start to first result", took)
    waited = hops(subject, client, began, began + took)["until Slurm starts the job"]
    record("start without Slurm's wait", took - waited)
    for _number in range(ROUND_TRIPS):
        at = time.perf_counter()
        run(client, "1+1")
        record("1+1 round trip", time.perf_counter() - at)
    if isinstance(subject, Slurm):
        record("interrupt", interrupted(subject, client, "import time; time.sleep(60)"))
    client.stop_channels()
    at = time.perf_counter()
    subject.shutdown()
    record("shutdown returns", time.perf_counter() - at)


@contextlib.contextmanager
def kept(stanza: Mapping[str, Any]) -> Iterator[float]:
    """Have a kernel all the while, so that starts need no login of their own; give the seconds that its own took."""
    keeper, at = Slurm(more=stanza), time.perf_counter()
    keeper.start()
    client = keeper.connect()
    run(client, "1")
    took = time.perf_counter() - at
    client.stop_channels()
    try:
        yield took
    finally:
        keeper.shutdown()


def measure(rounds: int) -> dict[str, Any]:
    """Medians by row and name, and the network's round trip."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-bench-")))
        login = Login(folder)
        stack.callback(login.sshd.stop)
        relay = Relay(login.sshd.port, DELAY)
        stack.callback(relay.stop)
        login.laptop.prefer(f"Host hpc\n    Port {relay.port}\n")
        with login.laptop.known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{relay.port} {login.sshd.host_key}\n")
        floor = BareBySsh(login.laptop.config, folder)
        stack.callback(floor.close)
        first: dict[str, float] = {}
        for name in TRANSPORTS:
            progress(f"the first kernel by {name}")
            first[name] = stack.enter_context(kept(login.stanza(name)))
        far = [FarSlurm(name, login.stanza(name)) for name in TRANSPORTS]
        subjects = [Bare(), floor, Slurm(), *far]
        go_through(subjects, 1, one_round)
        samples = go_through(subjects, rounds, one_round)
    return {**medians(samples), "start to first result, with a login": first, "round trip": round_trip(DELAY)}
