"""The cable to the cluster fails, or the login host does: kernels run on, nothing is lost, and what was asked for is
done once the cluster can be reached again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cable import COUNTER
from jupyter_client.manager import AsyncKernelManager
from watched import ENDLESS, until, watched

from slurm_provisioner.errors import LoginHostError

pytestmark = pytest.mark.usefixtures("impatient")

LOST = r"^Job \d+ · no connection to c\d since ..:..:.. · "


class Counting:
    """A cell at work, on the cluster, which can be looked at there."""

    def __init__(self, world, kernel) -> None:
        self.go, self.at = (Path(world.shared) / f"{kernel.manager.kernel_id}-{name}" for name in ("go", "at"))
        self.cell = kernel.cell(COUNTER.format(go=str(self.go), at=str(self.at)))

    async def goes_on(self) -> None:
        """Wait until it has counted on, on the cluster."""
        before = self._number()
        await until(lambda: self._number() > before + 20, "that it counts on")

    def _number(self) -> int:
        return int(self.at.read_text() or 0)

    async def ends_complete(self) -> None:
        """Let it end; everything that it printed is there, in order."""
        self.go.touch()
        assert (await self.cell.end())["status"] == "ok"
        assert self.cell.printed.split("\n") == ["begun", *map(str, range(1, self._number() + 1)), "and ended", ""]


async def while_lost(kernel, counting) -> None:
    """What holds for a kernel that cannot be reached, once that was noticed."""
    endpoints = dict(kernel.manager.get_connection_info())
    shown = await counting.cell.shows(LOST)
    assert kernel.job_id in shown
    assert await kernel.manager.is_alive()
    await counting.goes_on()
    assert await kernel.manager.is_alive()
    assert kernel.manager.get_connection_info() == endpoints


def test_what_a_kernel_does_while_the_cable_is_cut_arrives_later(world, kernelspec, transport):
    async def main() -> None:
        async with watched(kernelspec(transport)) as kernel:
            counting = Counting(world, kernel)
            await counting.cell.begun()
            world.cut()
            await while_lost(kernel, counting)
            world.mend()
            await counting.cell.shows("no connection .* to ..:..:..$")
            await counting.goes_on()
            await counting.ends_complete()

            cell = await kernel.cell(ENDLESS).begun()
            world.cut()
            await cell.shows(LOST)
            await kernel.manager.interrupt_kernel()
            await cell.shows("it is interrupted once that is back")
            world.mend()
            assert "KeyboardInterrupt" in await cell.error()
            assert await kernel.run("6 * 7") == "42"
            assert kernel.restarts == 0
            assert world.jobs_of(kernel.manager) == [kernel.job_id]

    asyncio.run(main())


def test_a_shutdown_that_is_wanted_while_the_cable_is_cut_ends_the_job_later(world, kernelspec, transport):
    async def main() -> None:
        async with watched(kernelspec(transport)) as kernel:
            counting = Counting(world, kernel)
            await counting.cell.begun()
            world.cut()
            await while_lost(kernel, counting)
            job_id = kernel.job_id
            await kernel.manager.shutdown_kernel(now=True)
            assert not await kernel.manager.is_alive()
            assert job_id in world.queue()[0], "nobody could tell the cluster"
            world.mend()
            await asyncio.to_thread(world.queue_empties)

    asyncio.run(main())


def test_a_job_that_waits_is_looked_after_again_once_the_cable_is_mended(world, kernelspec, transport, caplog):
    async def main() -> None:
        name = kernelspec(transport, sbatch={"begin": "now+1hour"})
        async with watched(name, queued=True) as kernel:
            cell = kernel.cell("6 * 7")
            await cell.shows("BeginTime|not before")
            world.cut()
            await until(lambda: "connection to the login host hpc was lost" in caplog.text, "that it is noticed")
            world.mend()
            await asyncio.to_thread(world.run, "scontrol", "update", f"JobId={kernel.job_id}", "StartTime=now")
            assert (await cell.end())["status"] == "ok"
            assert cell.printed == "42"
            assert world.jobs_of(kernel.manager) == [kernel.job_id]

    asyncio.run(main())


@pytest.mark.parametrize(("transport", "other"), [("openssh", False), ("asyncssh", True)], ids=["the same", "another"])
def test_a_login_host_goes_and_comes_back(world, kernelspec, transport, other):
    async def main() -> None:
        async with watched(kernelspec(transport)) as kernel:
            counting = Counting(world, kernel)
            await counting.cell.begun()
            world.stop_login()
            await while_lost(kernel, counting)
            world.start_login(other=other)
            await counting.cell.shows("no connection .* to ..:..:..$")
            await counting.ends_complete()
            assert await kernel.run("6 * 7") == "42"
            assert kernel.restarts == 0

    asyncio.run(main())


#: What sbatch does: it says that it is there, and waits; before it submits, or after that.
BEFORE = """touch {folder}/there
while [ ! -e {folder}/go ]; do sleep 0.05; done"""
AFTER = """"$real" "$@" > {folder}/answer
touch {folder}/there
while [ ! -e {folder}/go ]; do sleep 0.05; done
cat {folder}/answer
exit"""


@pytest.fixture(params=[("asyncssh", BEFORE), ("openssh", AFTER)], ids=["before", "after"])
def slow(request, commands, kernelspec) -> str:
    """A kernelspec whose sbatch is at work for long."""
    transport, script = request.param
    commands.fail(script.format(folder=f"'{commands.folder.parent}'"), "sbatch")
    return kernelspec(transport, slurm_bin=str(commands))


async def cut_at_sbatch(world, commands) -> None:
    """Cut the cable while sbatch is at work, and let it go on."""
    folder = commands.folder.parent
    await until((folder / "there").exists, "sbatch at work")
    world.cut()
    (folder / "go").touch()
    await until(lambda: len(world.queue()) == 1, "a job")


def test_a_job_whose_number_was_lost_on_the_way_is_found(world, slow, commands, caplog):
    async def cable() -> None:
        await cut_at_sbatch(world, commands)
        await until(lambda: "connection to the login host hpc was lost" in caplog.text, "that it is noticed")
        world.mend()

    async def main() -> None:
        cable_fails = asyncio.ensure_future(cable())
        async with watched(slow) as kernel:
            await cable_fails
            assert await kernel.run("6 * 7") == "42"
            assert world.jobs_of(kernel.manager) == [kernel.job_id]
        assert len(commands.calls("sbatch")) == 1

    asyncio.run(main())


def test_a_job_is_not_forgotten_whose_kernel_was_given_up_while_the_cable_was_cut(world, slow, commands):
    async def main() -> None:
        manager = AsyncKernelManager(kernel_name=slow)
        launch = asyncio.ensure_future(manager.start_kernel())
        await cut_at_sbatch(world, commands)
        with pytest.raises(LoginHostError, match="login host hpc"):
            await launch
        assert len(world.queue()) == 1, "nobody could tell the cluster"
        world.mend()
        await asyncio.to_thread(world.queue_empties)
        assert len(world.jobs_of(manager)) == 1

    asyncio.run(main())
