"""The background loop serves callers on any loop, and gives back what they left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from slurm_provisioner.loop import LoopThread, background_loop


def test_coroutines_run_on_the_background_loop_whatever_the_callers():
    async def where():
        return asyncio.get_running_loop()

    first = asyncio.run(background_loop().run(where()))
    second = asyncio.run(background_loop().run(where()))
    assert first is second is background_loop().loop


def test_a_cancelled_caller_cancels_and_clean_up_goes_on():
    async def main():
        cleaned = asyncio.Event()
        loop = background_loop()
        began = asyncio.Event()
        here = asyncio.get_running_loop()

        async def work():
            here.call_soon_threadsafe(began.set)
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                here.call_soon_threadsafe(cleaned.set)

        task = asyncio.ensure_future(loop.run(work()))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(cleaned.wait(), 10)

    asyncio.run(main())


def test_closing_twice_and_closers():
    loop = LoopThread()
    done = []

    async def closer():
        done.append("closed")

    async def unwanted():
        done.append("unwanted")

    loop.at_exit("a", closer)
    loop.at_exit("b", unwanted)
    loop.forget("b")
    loop.close()
    loop.close()
    assert done == ["closed"]


def test_the_end_of_the_interpreter_runs_closers_and_commands():
    script = """
import asyncio
from slurm_provisioner.loop import background_loop
from slurm_provisioner.transport.local import LocalTransport

async def closer():
    done = await LocalTransport().run(["echo", "given back"], timeout=10)
    print(done.stdout, end="", flush=True)

background_loop().at_exit("x", closer)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("given back\n", "")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_gets_a_loop_of_its_own():
    parent = background_loop()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if background_loop() is not parent else 1)
    assert os.waitpid(pid, 0)[1] == 0
