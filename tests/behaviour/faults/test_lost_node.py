"""A node that was cut off: cells say so; if it is gone, what runs there ends by itself, and no second kernel writes the
user's files before that."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import control, queue, queue_empties, slurm
from trouble import cut_link, jobs_of, node_of, warnings
from watched import JOB_ID, Cell, Watched, until, watched

#: A cell that writes the time for as long as its kernel lives, and whole at any moment.
WRITER = """import pathlib, time
path = pathlib.Path({path!r})
while True:
    path.with_suffix('.new').write_text(str(time.time()))
    path.with_suffix('.new').replace(path)
    time.sleep(0.02)"""
#: A cell that prints and ends once there is a file, and leaves another one.
WAITER = """import pathlib, time
print('begun', flush=True)
while not pathlib.Path({go!r}).exists(): time.sleep(0.02)
print('and ended')
pathlib.Path({went!r}).touch()"""


@pytest.mark.parametrize("when", ["the cell goes on", "the cell has ended meanwhile"])
def test_a_connection_that_is_lost_and_found_is_told_in_the_running_cell(kernelspec, monkeypatch, tmp_path, when):
    monkeypatch.setattr("slurm_provisioner.herald.LOST_AFTER", 0.3)
    go, went = tmp_path / "go", tmp_path / "went"

    async def main() -> None:
        async with watched(kernelspec()) as kernel:
            cell = await kernel.cell(WAITER.format(go=str(go), went=str(went))).begun()
            with monkeypatch.context() as network:
                cut_link(kernel, network)
                lost = await cell.shows("no connection")
                assert await kernel.manager.is_alive()
                if when == "the cell has ended meanwhile":
                    go.touch()
                    await until(went.exists, "the end of the cell where it runs")
                    assert cell.reply is None
            found = await cell.shows("no connection .* to ..:..:..$")
            go.touch()
            assert (await cell.end())["status"] == "ok"

            where = f"Job {kernel.job_id} · no connection to {node_of(kernel.job_id)}"
            assert re.fullmatch(rf"{where} since ..:..:.. · the kernel may run on", lost)
            assert re.fullmatch(rf"{where} from ..:..:.. to ..:..:..", found)
            assert cell.lines == [lost, found], "each once"
            assert list(cell.shown.values()) == [found], "one takes the other's place"
            assert cell.printed == "begun\nand ended\n"
            assert cell.errors == []
            assert await kernel.run("6 * 7") == "42"
            assert kernel.restarts == 0

    asyncio.run(main())


def test_a_connection_that_comes_back_at_once_is_not_worth_a_word(kernelspec, monkeypatch, tmp_path):
    async def main() -> None:
        async with watched(kernelspec()) as kernel:
            cell = await kernel.cell(WAITER.format(go=str(tmp_path / "go"), went=str(tmp_path / "went"))).begun()
            with monkeypatch.context() as network:
                cut_link(kernel, network)
            await until(lambda: kernel.manager.provisioner._job._link.connected, "the connection")
            (tmp_path / "go").touch()
            assert (await cell.end())["status"] == "ok"
            assert cell.lines == []

    asyncio.run(main())


class Lost(NamedTuple):
    kernel: Watched
    cell: Cell
    path: Path
    mend_network: Callable[[], None]


@pytest.fixture
def lost(kernelspec, hands, monkeypatch, tmp_path):
    """A kernel that writes on, though Slurm is about to give up its node and nobody can reach it."""
    monkeypatch.setattr("slurm_provisioner.allocation.FENCE_MARGIN", 20.0)
    monkeypatch.setattr("slurm_provisioner.herald.LOST_AFTER", 0.3)

    @contextlib.asynccontextmanager
    async def lost() -> AsyncIterator[Lost]:
        path = tmp_path / "data"
        async with watched(kernelspec(lease="20s")) as kernel:
            cell = kernel.cell(WRITER.format(path=str(path)))
            await until(path.exists, "the first line")
            node = node_of(kernel.job_id)
            with monkeypatch.context() as network:
                await asyncio.to_thread(hands.stop, node)
                cut_link(kernel, network)
                assert cell.errors == []
                await cell.shows(f"no connection to {node} since")
                for state in ("DRAIN", "DOWN"):  # a late answer of its daemon would take back the last alone
                    update = f"NodeName={node}", f"State={state}", "Reason=cut off"
                    await asyncio.to_thread(hands.scontrol, "update", *update)
                yield Lost(kernel, cell, path, network.undo)

    return lost


def written(path: Path) -> float:
    return float(path.read_text())


@pytest.mark.timeout(360)
def test_a_new_job_waits_until_the_lost_kernel_has_ended(lost, caplog):
    async def main() -> None:
        async with lost() as (kernel, cell, path, mend_network):
            job_id = kernel.job_id
            error = await cell.error()
            assert "its node failed" in error
            assert "NODE_FAIL" in error
            before = written(path)
            await until(lambda: written(path) > before, "a word of the kernel that nobody could end")
            assert await kernel.manager.is_alive()
            assert jobs_of(kernel.manager) == [job_id]

            mend_network()
            await kernel.manager.restart_kernel()
            again = kernel.cell(JOB_ID)
            why = r"queued.* · its lost predecessor may still run on \w+ · not before (tomorrow )?..:..$"
            assert re.fullmatch(rf"Job {kernel.job_id} · {why}", await again.shows("not before"))
            await asyncio.to_thread(slurm, "scancel", kernel.job_id)
            assert "it was cancelled" in await again.error()
            await kernel.manager.restart_kernel()
            once_more = kernel.cell(JOB_ID)
            await once_more.shows("its lost predecessor")
            assert (await once_more.end(timeout=120))["status"] == "ok"
            assert once_more.printed.strip() == kernel.job_id != job_id
            began = datetime.fromisoformat(control(kernel.job_id).partition("StartTime=")[2].split()[0]).timestamp()
            assert written(path) < began, "the old kernel had ended before the new one began"
            assert "was lost" in warnings(caplog)
            assert "`lease`" in warnings(caplog)
            assert len(queue()) == 1

    asyncio.run(main())


def test_a_kernel_that_is_lost_ends_by_itself(lost):
    async def main() -> None:
        async with lost() as (kernel, cell, path, _):
            await cell.error()
            last = 0.0

            def silent() -> bool:
                nonlocal last
                before, last = last, written(path)
                return before == last and time.time() - last > 1

            await until(silent, "the end of what nobody could end")
            await kernel.manager.shutdown_kernel(now=True)
            await asyncio.to_thread(queue_empties)

    asyncio.run(main())
