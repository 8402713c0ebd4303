"""What kernels cost a login host while nobody works with them."""

from __future__ import annotations

import time


def test_kernels_share_a_login_and_ask_for_nothing_while_they_are_idle(
    world, kernelspec, transport, start, monkeypatch
):
    monkeypatch.setattr("slurm_provisioner.watcher.YOUNG", 0.1)
    logins = world.logins()
    name = kernelspec(transport)
    kernels = [start(name) for _ in range(3)]
    assert world.logins() == logins + 1, "one for all"
    time.sleep(2)  # until what belongs to their starts is over
    sessions = world.sessions()
    time.sleep(5)
    assert world.sessions() == sessions
    assert [kernel.run("6 * 7") for kernel in kernels] == ["42"] * 3
    assert world.sessions() == sessions, "what they print needs none"


def test_kernels_share_what_is_asked_of_slurm(world, kernelspec, start, commands, monkeypatch):
    monkeypatch.setattr("slurm_provisioner.watcher.YOUNG", 0.1)
    monkeypatch.setattr("slurm_provisioner.watcher.LINKED_INTERVAL", 1.0)
    name = kernelspec(slurm_bin=str(commands))
    kernels = [start(name) for _ in range(3)]
    time.sleep(2)
    sessions, asked = world.sessions(), len(commands.calls("squeue"))
    time.sleep(4)
    together = len(commands.calls("squeue")) - asked
    assert 1 <= together <= 5
    assert abs(world.sessions() - sessions - together) <= 1, "that is all"
    for kernel in kernels:
        assert kernel.job_id in commands.calls("squeue")[-1]
