"""A state_dir that is full, read-only, late, or meddled with: a clear error or a working kernel, never another's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUEUED, eventually, queue, queue_empties, refused, slurm, start_now
from trouble import jobs_of, told
from watched import watched

from slurm_provisioner.errors import CommandError

pytestmark = pytest.mark.one_machine


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "ballast").open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 1024)


def test_a_disk_that_is_full(kernelspec, hands):
    disk = hands.disk("64k")
    name = kernelspec(state_dir=str(disk / "state"))
    fill(disk)
    text = refused(CommandError, name)
    assert f"{disk}/state" in text
    assert "Free some space" in text
    assert "`state_dir`" in text


def test_a_disk_that_cannot_be_written(kernelspec, hands):
    disk = hands.disk("64k")
    hands.write_protect(disk)
    text = refused(CommandError, kernelspec(state_dir=str(disk)))
    assert "Read-only file system" in text
    assert "`state_dir`" in text


def test_a_state_dir_that_is_a_file(kernelspec, tmp_path):
    (tmp_path / "state").touch()
    assert "`state_dir`" in refused(CommandError, kernelspec(state_dir=str(tmp_path / "state")))


def launched(name: str, state_dir: Path, meddle: Callable[[Path], object]) -> str:
    """Meddle with a run directory while its job is queued. Return what a cell prints, or ends with, once it started."""

    async def main() -> str:
        async with watched(name, queued=True) as kernel:
            cell = kernel.cell("1 + 1")
            await cell.shows("its begin time has not come yet")
            meddle(state_dir / kernel.manager.kernel_id)
            start_now(kernel.job_id)
            await cell.end()
            assert cell.shown == {}
            return "".join([cell.printed, *cell.errors])

    return asyncio.run(main())


def test_a_disk_that_fills_up_while_the_job_is_queued(kernelspec, hands):
    """The supervisor removes the request that it has read, and that is room enough for its answer."""
    disk = hands.disk("256k")
    assert launched(kernelspec(state_dir=str(disk), **QUEUED), disk, lambda _: fill(disk)) == "2"


def test_a_disk_that_can_no_longer_be_written_once_the_job_starts(kernelspec, hands):
    disk = hands.disk("256k")
    error = launched(kernelspec(state_dir=str(disk), **QUEUED), disk, lambda _: hands.write_protect(disk))
    assert "its log could not be opened" in error
    assert "`state_dir`" in error
    queue_empties()


def test_a_disk_that_fills_up_while_the_kernel_runs(start, kernelspec, hands):
    disk = hands.disk("256k")
    kernel = start(kernelspec(state_dir=str(disk)))
    fill(disk)
    kernel.run("import os; os.write(1, b'no place for this in the log')")
    kernel.restart()
    assert kernel.run("6 * 7") == "42"
    kernel.manager.shutdown_kernel()
    queue_empties()
    assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_a_restart_that_needs_a_new_job_and_cannot_write_is_told_and_can_be_tried_again(start, kernelspec, tmp_path):
    state_dir, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    kernel = start(kernelspec(state_dir=str(state_dir)))
    slurm("scancel", kernel.job_id)
    assert "it was cancelled" in told(kernel)
    state_dir.rename(elsewhere)
    state_dir.touch()
    kernel.restart()
    for _ in range(2):
        assert "`state_dir`" in told(kernel)
    state_dir.unlink()
    elsewhere.rename(state_dir)
    kernel.restart()
    assert kernel.run("6 * 7") == "42"
    assert len(jobs_of(kernel.manager)) == 2


def test_a_run_directory_that_vanishes_while_the_job_is_queued(kernelspec, tmp_path):
    error = launched(kernelspec(state_dir=str(tmp_path / "state"), **QUEUED), tmp_path / "state", shutil.rmtree)
    assert "`state_dir`" in error
    queue_empties()


def test_a_run_directory_that_vanishes_while_the_kernel_runs(start, kernelspec, tmp_path):
    kernel = start(kernelspec(state_dir=str(tmp_path / "state")))
    shutil.rmtree(tmp_path / "state")
    assert kernel.run("6 * 7") == "42"
    kernel.restart()
    assert kernel.run("6 * 7") == "42"
    kernel.manager.shutdown_kernel()
    queue_empties()


OTHERS = {
    "another launch's": json.dumps(
        {
            "protocol": 1,
            "nonce": "0" * 32,
            "job_id": "1",
            "node": "n1",
            "hosts": ["127.0.0.1"],
            "port": 9,
            "ssh_host_keys": [],
        }
    ),
    "half of one": '{"protocol": 1, "nonce": "0',
    "an empty object": "{}",
    "no object": "null",
    "garbage": "\udcff\udcfe\0",
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_a_connection_file_that_is_not_ours_is_passed_over(kernelspec, tmp_path, text):
    def meddle(run_dir: Path) -> None:
        (run_dir / "connection.json").write_bytes(text.encode(errors="surrogateescape"))

    state_dir = tmp_path / "state"
    assert launched(kernelspec(state_dir=str(state_dir), **QUEUED), state_dir, meddle) == "2"


def test_files_of_a_former_launch_are_passed_over(kernelspec, tmp_path):
    """A kernel's folder that its last launch left behind, a failure say, is used again."""
    state_dir = tmp_path / "state"

    run_dir = state_dir / "a-kernel-of-old"
    run_dir.mkdir(parents=True)
    (run_dir / "connection.json").write_text(OTHERS["another launch's"])
    (run_dir / "request.json").write_text('{"protocol": 1}')
    (run_dir / "job.log").write_text("a story of old\n")

    async def main() -> None:
        async with watched(kernelspec(state_dir=str(state_dir)), kernel_id=run_dir.name) as kernel:
            assert await kernel.run("6 * 7") == "42"
            assert "of old" not in (run_dir / "job.log").read_text()

    asyncio.run(main())


def test_a_request_that_a_slow_file_system_shows_late(kernelspec, tmp_path):
    hidden = tmp_path / "hidden.json"

    async def main() -> None:
        async with watched(kernelspec(state_dir=str(tmp_path / "state"), **QUEUED), queued=True) as kernel:
            request = tmp_path / "state" / kernel.manager.kernel_id / "request.json"
            request.rename(hidden)
            start_now(kernel.job_id)
            await asyncio.to_thread(eventually, lambda: "RUNNING" in queue()[0], "a job that runs")
            half = hidden.read_bytes()[:100]
            request.write_bytes(half)
            hidden.rename(request)
            assert await kernel.run("6 * 7") == "42"

    asyncio.run(main())


def test_what_is_kept_of_failures_is_removed_after_some_days(start, kernelspec, tmp_path):
    state_dir = tmp_path / "state"
    old, fresh = state_dir / str(uuid.uuid4()), state_dir / str(uuid.uuid4())
    for folder, days in {old: 100, fresh: 0.5}.items():
        folder.mkdir(parents=True)
        (folder / "job.log").write_text("why it failed\n")
        os.utime(folder, times=(time.time() - days * 86400,) * 2)
    kernel = start(kernelspec(state_dir=str(state_dir)))
    eventually(lambda: not old.exists(), "the end of the old one")
    assert (fresh / "job.log").exists()
    assert kernel.run("6 * 7") == "42"
