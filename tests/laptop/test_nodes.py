"""Kernels that are reached by the SSH servers of their nodes, which let in who has a job there, behind a login host
that forwards nothing else."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from test_cable import Counting, while_lost
from watched import JOB_ID, watched

from slurm_provisioner.errors import NodeUnreachableError

PORTS = {"host": "walled", "via": "node"}


def ssh(*words: str) -> subprocess.CompletedProcess[str]:
    argv = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", *words]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=60)


def enters(world, node: str) -> bool:
    """Whether a node lets the user in."""
    done = ssh("-J", "walled", f"{world.user}@{node}", "id", "-un")
    assert done.returncode == 0 or "closed by" in done.stderr or "denied" in done.stderr, done.stderr
    return done.stdout.strip() == world.user


def test_a_node_lets_nobody_in_who_has_no_job_there(world, kernelspec, start):
    here, there = world.nodes[:2]
    assert not enters(world, here)
    start(kernelspec(nodelist=here))
    assert enters(world, here)
    assert not enters(world, there)


def test_a_kernel_is_reached_by_way_of_its_node(world, kernelspec, transport, start):
    node = world.nodes[0]
    logins = world.logins("walled"), world.logins(node)
    kernel = start(kernelspec(transport, **PORTS, nodelist=node))
    assert kernel.run("import os; x = 6; print(os.environ['SLURMD_NODENAME'])") == node
    assert (world.logins("walled"), world.logins(node)) == (logins[0] + 1, logins[1] + 1)
    reply = kernel.interrupt("import time; print('begun', flush=True)\ntime.sleep(600)")
    assert reply["ename"] == "KeyboardInterrupt"
    assert len(kernel.run("for _ in range(20): print('x' * 99_999)")) == 20 * 100_000 - 1
    job_id = kernel.job_id
    kernel.restart()
    assert kernel.run(JOB_ID) == job_id
    assert kernel.run("'x' in globals()") == "False"
    assert world.logins(node) == logins[1] + 1, "one for all of it"


@pytest.mark.usefixtures("impatient")
def test_a_kernel_that_is_reached_by_way_of_its_node_outlives_a_cut_cable(world, kernelspec, transport):
    async def main() -> None:
        async with watched(kernelspec(transport, **PORTS)) as kernel:
            counting = Counting(world, kernel)
            await counting.cell.begun()
            world.cut()
            await while_lost(kernel, counting)
            world.mend()
            await counting.cell.shows("no connection .* to ..:..:..$")
            await counting.ends_complete()
            assert kernel.restarts == 0

    asyncio.run(main())


def test_a_firewall_between_login_host_and_nodes_is_told_with_the_way_around_it(
    world, kernelspec, transport, start, monkeypatch
):
    monkeypatch.setattr("slurm_provisioner.allocation.REACH_TIMEOUT", 3.0)
    with pytest.raises(NodeUnreachableError) as caught:
        start(kernelspec(transport, host="walled", start="block"))
    assert "cannot be reached from the login host walled" in str(caught.value)
    assert '"via": "node"' in str(caught.value)
    world.queue_empties()
    world.remove_log()
