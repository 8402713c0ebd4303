"""Machines that are lost, stand still, or are cut off, and what people see of it."""

from __future__ import annotations

import asyncio
import re

import pytest
from conftest import queue, queue_empties, refused
from kernels import eventually
from trouble import impatient, node_of
from watched import JOB_ID, until, watched

from slurm_provisioner.errors import JobEndedError, NodeUnreachableError

pytestmark = pytest.mark.timeout(480)  # the controller is slow to give a node up

NODES = ("c1", "c2")

#: A cell that writes the time and who it is for as long as its kernel lives, whole at any moment.
WRITER = """import os, pathlib, time
path = pathlib.Path({path!r})
while True:
    path.with_suffix('.new').write_text(f"{{os.environ['SLURM_JOB_ID']}} {{time.time()}}")
    path.with_suffix('.new').replace(path)
    time.sleep(0.02)"""
COUNT = """import time
print('begun', flush=True)
for number in range(40):
    print(number, flush=True)
    time.sleep(0.25)"""


def test_a_node_that_is_lost_ends_the_cell_and_the_next_kernel_runs_elsewhere(kernelspec, hands, monkeypatch):
    impatient(monkeypatch)

    async def main() -> None:
        async with watched(kernelspec(lease="5s")) as kernel:
            node = node_of(kernel.job_id)
            cell = await kernel.cell("import time; print('begun', flush=True); time.sleep(600)").begun()
            await asyncio.to_thread(hands.lose, node)
            assert "no connection" in await cell.shows("no connection", timeout=60)
            error = await cell.error(timeout=150)  # the controller gives a node up after SlurmdTimeout
            assert "its node failed" in error
            assert node in error
            await kernel.manager.restart_kernel()
            again = kernel.cell(JOB_ID)
            assert (await again.end(timeout=90))["status"] == "ok"
            assert node_of(kernel.job_id) != node

    asyncio.run(main())


def test_a_node_that_is_cut_off_and_comes_back_never_has_two_kernels_write(kernelspec, hands, monkeypatch, tmp_path):
    impatient(monkeypatch)
    path = tmp_path / "data"
    seen: list[tuple[str, float]] = []

    async def look() -> None:
        while True:
            if path.exists():
                job_id, moment = path.read_text().split()
                seen.append((job_id, float(moment)))
            await asyncio.sleep(0.05)

    async def main() -> None:
        async with watched(kernelspec(lease="20s")) as kernel:
            first, node = kernel.job_id, node_of(kernel.job_id)
            cell = kernel.cell(WRITER.format(path=str(path)))
            await until(path.exists, "the first line")
            looking = asyncio.ensure_future(look())
            await asyncio.to_thread(hands.cut, node)
            error = await cell.error(timeout=150)
            assert "its node failed" in error
            await kernel.manager.restart_kernel()
            kernel.cell(WRITER.format(path=str(path)))
            await until(lambda: seen and seen[-1][0] != first, "what the second kernel writes", timeout=120)
            await asyncio.to_thread(hands.join, node)
            await until(
                lambda: not [line for line in hands.elsewhere()[node] if not line.startswith("folder ")],
                "the end of the first kernel's processes",
                timeout=60,
            )
            await asyncio.sleep(1)
            looking.cancel()
            turns = [job_id for at, (job_id, _) in enumerate(seen) if at == 0 or seen[at - 1][0] != job_id]
            assert len(turns) == 2, "the first never wrote again once the second had"

    asyncio.run(main())


def test_a_node_that_stands_still_for_a_while_goes_on_where_it_was(kernelspec, hands):
    async def main() -> None:
        async with watched(kernelspec()) as kernel:
            cell = await kernel.cell(COUNT).begun()
            node = node_of(kernel.job_id)
            await asyncio.to_thread(hands.pause, node)
            await asyncio.sleep(5)
            await asyncio.to_thread(hands.back, node)
            assert (await cell.end())["status"] == "ok"
            assert cell.printed == "begun\n" + "".join(f"{number}\n" for number in range(40))
            assert kernel.restarts == 0

    asyncio.run(main())


def test_a_controller_that_is_started_anew_in_the_middle_of_a_launch_is_waited_for(kernelspec, hands, start):
    name = kernelspec(sbatch={"begin": "now+5"})
    kernel_job: list[str] = []

    async def main() -> None:
        async with watched(name) as kernel:
            kernel_job.append(kernel.job_id)
            assert await kernel.run("6 * 7") == "42"

    async def with_trouble() -> None:
        task = asyncio.ensure_future(main())
        await until(lambda: bool(queue()), "a job in the queue")
        await asyncio.to_thread(hands.stop, "slurmctld")  # by force it would forget the job
        await asyncio.to_thread(hands.start, "slurmctld")
        await task

    asyncio.run(with_trouble())
    queue_empties()


def test_a_home_that_is_late_is_told_and_the_next_kernel_has_it(kernelspec, hands, start):
    for node in NODES:
        hands.home(node, there=False)
    error = refused(JobEndedError, kernelspec(start="block"))
    assert re.search(r"Job \d+ on c\d ended before its kernel was up: its log could not be opened on the node", error)
    assert "`state_dir`" in error
    for node in NODES:
        hands.home(node, there=True)
    assert start().run("6 * 7") == "42"


def test_a_home_that_is_gone_for_a_while_disturbs_nobody(kernelspec, hands):
    async def main() -> None:
        async with watched(kernelspec()) as kernel:
            cell = await kernel.cell(COUNT).begun()
            node = node_of(kernel.job_id)
            await asyncio.to_thread(hands.home, node, there=False)
            await until(lambda: "\n20\n" in cell.printed, "that it counts on")
            await asyncio.to_thread(hands.home, node, there=True)
            assert (await cell.end())["status"] == "ok"
            assert await kernel.run("6 * 7") == "42"
            assert kernel.restarts == 0

    asyncio.run(main())


@pytest.mark.parametrize("ports", ["50000-50019"])
def test_a_firewall_lets_the_range_of_ports_through_and_no_other(kernelspec, start, hands, ports):
    for node in NODES:
        hands.wall(node, ports)
    kernel = start(kernelspec(port_range=ports))
    assert kernel.run("6 * 7") == "42"
    kernel.close()
    error = refused(NodeUnreachableError, kernelspec("closed", start="block", port_range="51000-51019"))
    assert re.search(r"port 510\d\d, cannot be reached from (here|the login host)", error)
    assert "`port_range`" in error


def test_nothing_is_left_on_any_node(start, hands):
    before = hands.elsewhere()

    def traces() -> list[str]:
        return [each for host, found in hands.elsewhere().items() for each in found if each not in before[host]]

    kernel = start()
    assert traces()
    kernel.close()
    eventually(lambda: not traces(), "nodes without a trace")
