"""What the tests of faults have in common: less patience, and a network that fails."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

import pytest
from conftest import control, slurm
from kernels import PATIENCE, Kernel, eventually, plain
from stand_ins import StandIns

from slurm_provisioner.loop import background_loop


def impatient(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Have Slurm asked often, and waited for shortly; ``slurm__FIND_PAUSE=1`` sets that module's constant."""
    shorter = {
        "slurm.COMMAND_TIMEOUT": 2.0,
        "slurm.FIND_PAUSE": 0.5,
        "watcher.YOUNG_INTERVAL": 0.3,
        "watcher.LINKED_INTERVAL": 0.3,
        "watcher.SILENCE_FIRST": 0.3,
        "watcher.SILENCE_LAST": 0.3,
    }
    for name, value in {**shorter, **{name.replace("__", "."): value for name, value in seconds.items()}}.items():
        monkeypatch.setattr(f"slurm_provisioner.{name}", value)


def asked(commands: StandIns, times: int, program: str = "squeue") -> None:
    """Wait until a command was called so many times more, so that all but the last of its answers are known."""
    wanted = len(commands.calls(program)) + times
    eventually(lambda: len(commands.calls(program)) >= wanted, f"{times} calls of {program}")


def cut_link(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the connections with a kernel's supervisor, and let no others be made; those of clients stay."""
    link = kernel.manager.provisioner._job._link

    async def no_way() -> socket.socket:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    for route in link._routes.values():
        monkeypatch.setattr(route, "connect", no_way)
    background_loop().loop.call_soon_threadsafe(link._writer.transport.abort)
    eventually(lambda: not link.connected, "a broken link")


def node_of(job_id: str) -> str:
    return control(job_id).partition("BatchHost=")[2].split()[0]


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    """What the log has for the user to read."""
    return "\n".join(record.message for record in caplog.records if record.levelno >= logging.WARNING)


def told(
    kernel: Kernel, code: str = "import time; time.sleep(600)", *, timeout: float = PATIENCE, alive: bool = True
) -> str:
    """What a cell ends with that outlives its job, or ends its kernel.

    Parameters
    ----------
    alive : bool
        What jupyter_client is told then: it restarts unasked what is not, and a new job is the user's choice.
    """
    with pytest.raises(RuntimeError) as caught:
        kernel.run(code, timeout=timeout)
    eventually(lambda: kernel.manager.is_alive() == alive, "that jupyter_client is told", timeout=10)
    return plain(str(caught.value))


def jobs_of(manager: Any) -> list[str]:
    """All jobs that were ever submitted for a kernel."""
    jobs = [
        line.split() for line in slurm("squeue", "--noheader", "--me", "--states=all", "--format=%A %j").splitlines()
    ]
    return [job_id for job_id, name in jobs if manager.kernel_id[:8] in name]
