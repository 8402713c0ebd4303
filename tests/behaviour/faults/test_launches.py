"""A launch that is broken off, by whomever and at whatever moment, leaves no job: where it blocks, and where it returns
while its job is queued."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from conftest import (
    OUTSIDE,
    QUEUED,
    connections,
    eventually,
    queue,
    queue_empties,
    remove_folders_of_the_killed,
    start_now,
)
from jupyter_client.manager import AsyncKernelManager
from servers import running_server
from stand_ins import StandIns
from watched import until, watched


@dataclass(frozen=True)
class Moment:
    """A stage of a launch that lasts until it is broken off.

    Attributes
    ----------
    config : dict
        What the kernelspec has for it.
    argv : list
        The kernel, where it must not come up.
    sbatch : str
        What sbatch does first.
    """

    config: dict[str, object]
    argv: list[str] | None = None
    sbatch: str = ":"


NO_KERNEL = ["/bin/sleep", "600"]
MOMENTS = {
    "before sbatch asks": Moment({}, sbatch='touch "$0.begun"; sleep 1'),
    "before sbatch answers": Moment(
        QUEUED, sbatch='answer=$("$real" "$@"); touch "$0.begun"; sleep 1; echo $answer; exit'
    ),
    "while it is queued": Moment(QUEUED),
    "while its job starts": Moment({"prologue": ["sleep 600"]}),
    "while its kernel starts": Moment({}, NO_KERNEL),
}


#: Those at which there is a job, and a launch that does not wait for it has returned.
LATER = [name for name, moment in MOMENTS.items() if moment.sbatch == ":"]


@pytest.fixture
def stage(kernelspec, commands, tmp_path) -> Callable[[str], tuple[str, Callable[[], bool]]]:
    """A kernelspec whose launch comes as far as a moment, and whether it has."""

    def stage(name: str, start: str = "now") -> tuple[str, Callable[[], bool]]:
        moment = MOMENTS[name]
        commands.fail(moment.sbatch, "sbatch")
        state_dir = tmp_path / "state"
        spec = kernelspec(
            argv=moment.argv,
            slurm_bin=str(commands),
            state_dir=str(state_dir),
            lease="2s",
            start=start,
            **moment.config,
        )
        begun = (commands.folder / "sbatch.begun").exists
        reached = {
            "while it is queued": lambda: "PENDING" in "".join(queue()),
            "while its job starts": lambda: "RUNNING" in "".join(queue()),
            "while its kernel starts": lambda: [*state_dir.glob("*/connection.json")],
        }
        return spec, reached.get(name, begun)

    return stage


@pytest.mark.parametrize("moment", MOMENTS)
def test_cancelled(stage, commands, moment):
    name, reached = stage(moment, "block")

    async def main() -> None:
        launch = asyncio.ensure_future(AsyncKernelManager(kernel_name=name).start_kernel())
        await until(reached, moment)
        launch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launch

    asyncio.run(main())
    nothing_follows(commands)


@pytest.mark.parametrize("now", [False, True], ids=["shutdown", "shutdown now"])
@pytest.mark.parametrize("moment", LATER)
def test_shut_down(stage, commands, moment, now):
    name, reached = stage(moment)

    async def main() -> None:
        async with watched(name, queued=True) as kernel:
            cell = kernel.cell("1 + 1")
            await until(reached, moment)
            await kernel.manager.shutdown_kernel(now=now)
            assert cell.printed == ""

    asyncio.run(main())
    nothing_follows(commands)


@pytest.mark.parametrize("start", ["block", "now"])
def test_cancelled_at_many_moments(kernelspec, start):
    name = kernelspec(start=start)

    async def one(delay: float) -> None:
        manager = AsyncKernelManager(kernel_name=name)
        launch = asyncio.ensure_future(manager.start_kernel())
        await asyncio.wait([launch], timeout=delay)
        if launch.cancel():
            await asyncio.gather(launch, return_exceptions=True)
        else:
            await manager.shutdown_kernel()
        await manager.cleanup_resources()

    async def main() -> None:
        await asyncio.gather(*(one(0.15 * number) for number in range(16)))

    asyncio.run(main())
    queue_empties()


SCRIPT = """
import sys, time
from jupyter_client.manager import KernelManager
KernelManager(kernel_name=sys.argv[1]).start_kernel()
open(sys.argv[2], "w").close()
time.sleep(600)
"""


def at_work(commands: StandIns) -> bool:
    """Whether any of the commands is running, on whatever host they do."""
    if not OUTSIDE:
        return commands.at_work()
    argv = ["ssh", "-n", "-F", OUTSIDE, "-o", "BatchMode=yes", "hpc", "cat /proc/[0-9]*/cmdline 2> /dev/null"]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert done.stdout, done.stderr
    return os.fsencode(commands.folder) in done.stdout


def nothing_follows(commands: StandIns) -> None:
    """Wait until no command of a killed server is at work any more, and see what has become of its job."""
    eventually(lambda: not at_work(commands), "the end of the last command")
    queue_empties()
    remove_folders_of_the_killed()


def broken_off(commands: StandIns, argv: list[str], reached: Callable[[], bool], signum: signal.Signals) -> None:
    """Send a program a signal when it is launching: it ends, and so does its job."""
    process = subprocess.Popen(
        argv,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored, where tests run in the background
    )
    try:
        eventually(reached, "that moment")
        process.send_signal(signum)
        process.wait(60)
    finally:
        process.kill()
    nothing_follows(commands)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL], ids=lambda each: each.name)
@pytest.mark.parametrize(
    "when", [*((each, "block") for each in MOMENTS), *((each, "now") for each in LATER)], ids=", ".join
)
def test_a_script_that_gets(stage, commands, tmp_path, when, signum):
    name, reached = stage(*when)
    broken_off(commands, [sys.executable, "-c", SCRIPT, name, str(tmp_path / "up")], reached, signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_a_script_with_a_kernel_that_gets(kernelspec, commands, tmp_path, signum):
    up = tmp_path / "up"
    broken_off(commands, [sys.executable, "-c", SCRIPT, kernelspec(start="block"), str(up)], up.exists, signum)


def everything_of(pid: int) -> list[int]:
    """A process and all that come from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


@pytest.mark.parametrize("moment", ["while it is queued", "once it is up"])
def test_a_machine_that_vanishes_leaves_no_job(kernelspec, tmp_path, moment):
    """Not even a process that looks after the server's jobs is left: the lease ends them."""
    up = tmp_path / "up"
    others = connections().keys()
    name = kernelspec(lease="8s", **(QUEUED if moment == "while it is queued" else {"start": "block"}))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, name, str(up)], start_new_session=True)
    try:
        job = eventually(queue, "a job")[0]
        eventually(up.exists if moment == "once it is up" else lambda: "PENDING" in queue()[0], moment)
        vanishing = [*everything_of(process.pid), *(connections().keys() - others)]
        for signum, pid in product([signal.SIGSTOP, signal.SIGKILL], vanishing):
            with contextlib.suppress(ProcessLookupError):  # a command that was just about to end
                os.kill(pid, signum)  # all at once: none sees another end
    finally:
        process.kill()
        process.wait()
    assert len(queue()) == 1
    if moment == "while it is queued":
        start_now(job.split()[0])
    queue_empties()
    remove_folders_of_the_killed()


@pytest.mark.parametrize(
    "when",
    [
        ("before sbatch answers", "now"),
        ("while it is queued", "now"),
        ("while it is queued", "block"),
        ("while its job starts", "now"),
    ],
    ids=", ".join,
)
def test_ctrl_c_to_jupyter_run(stage, commands, tmp_path, when):
    name, reached = stage(*when)
    (tmp_path / "cell.py").write_text("1 + 1")
    argv = [sys.executable, "-m", "jupyter", "run", f"--kernel={name}", str(tmp_path / "cell.py")]
    broken_off(commands, argv, reached, signal.SIGINT)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
@pytest.mark.parametrize(
    "when",
    [
        ("before sbatch answers", "now"),
        ("while it is queued", "now"),
        ("while it is queued", "block"),
        ("while its kernel starts", "now"),
        ("while its kernel starts", "block"),
    ],
    ids=", ".join,
)
def test_a_jupyter_server_that_gets(stage, commands, tmp_path, when, signum):
    name, reached = stage(*when)
    with running_server(tmp_path) as server:

        async def main() -> None:
            session = asyncio.ensure_future(server.new_session(name))
            await until(reached, when[0])
            server.process.send_signal(signum)
            await asyncio.gather(session, return_exceptions=True)

        asyncio.run(main())
        server.process.wait(60)
        nothing_follows(commands)
