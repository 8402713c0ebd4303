"""What kernels cost a login host while nobody works with them."""

from __future__ import annotations

import time
from collections.abc import Callable

from kernels import eventually


def at_rest(count: Callable[[], int]) -> int:
    """What is counted, once it stays the same: what belongs to kernels' starts is over."""

    def stays() -> bool:
        before = count()
        time.sleep(2)
        return count() == before

    eventually(stays, "rest")
    return count()


def test_kernels_share_a_login_and_ask_for_nothing_while_they_are_idle(
    world, kernelspec, transport, start, monkeypatch
):
    monkeypatch.setattr("slurm_provisioner.watcher.YOUNG", 0.1)
    logins = world.logins()
    name = kernelspec(transport)
    kernels = [start(name) for _ in range(3)]
    assert world.logins() == logins + 1, "one for all"
    sessions = at_rest(world.sessions)
    time.sleep(5)
    assert world.sessions() == sessions
    assert [kernel.run("6 * 7") for kernel in kernels] == ["42"] * 3
    assert world.sessions() == sessions, "what they print needs none"


def test_kernels_share_what_is_asked_of_slurm(world, kernelspec, start, commands, monkeypatch):
    monkeypatch.setattr("slurm_provisioner.watcher.YOUNG", 0.1)
    monkeypatch.setattr("slurm_provisioner.watcher.LINKED_INTERVAL", 1.0)
    name = kernelspec(slurm_bin=str(commands))
    kernels = [start(name) for _ in range(3)]
    at_rest(lambda: world.sessions() - len(commands.calls("squeue")))
    began, sessions, asked = time.monotonic(), world.sessions(), len(commands.calls("squeue"))
    eventually(lambda: len(commands.calls("squeue")) >= asked + 4, "four more questions")
    together = len(commands.calls("squeue")) - asked
    assert together <= time.monotonic() - began + 1.5, "one a second"
    assert abs(world.sessions() - sessions - together) <= 1, "that is all"
    for kernel in kernels:
        assert kernel.job_id in commands.calls("squeue")[-1]
