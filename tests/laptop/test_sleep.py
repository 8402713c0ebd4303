"""The laptop sleeps, or its Jupyter dies: a lease says how long its kernels wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from conftest import processes_here
from kernels import eventually
from servers import Server, execute, running_server

VARIABLE = "x = 'still there'; import os; print(os.environ['SLURM_JOB_ID'])"


@contextlib.contextmanager
def asleep(server: Server):
    """The laptop sleeps: nothing of it runs; its connections are forgotten by who is at the other end."""
    pids = [pid for pid in processes_here() if pid != os.getpid()]
    assert server.process.pid in pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_kernel_waits_for_a_laptop_that_sleeps_for_less_than_its_lease(world, kernelspec, transport, tmp_path):
    name = kernelspec(transport, lease="10m")

    async def main(server: Server) -> None:
        session = json.loads((await server.new_session(name)).body)
        async with server.channels(session["kernel"]["id"]) as channels:
            job_id = await execute(channels, VARIABLE)
            with asleep(server):
                world.kick()
                await asyncio.sleep(3)
                assert job_id in world.queue()[0]
            assert await execute(channels, "print(x)") == "still there"
            assert await execute(channels, "print(os.environ['SLURM_JOB_ID'])") == job_id

    with running_server(tmp_path) as server:
        asyncio.run(asyncio.wait_for(main(server), 200))


def test_a_kernel_ends_whose_laptop_sleeps_for_longer_than_its_lease(world, kernelspec, tmp_path):
    name = kernelspec(lease="8s")

    async def main(server: Server) -> None:
        session = json.loads((await server.new_session(name)).body)
        kernel_id = session["kernel"]["id"]
        async with server.channels(kernel_id) as channels:
            job_id = await execute(channels, VARIABLE)
            with asleep(server):
                world.kick()
                await asyncio.to_thread(world.queue_empties)
            said = await execute(channels, "print(x)")
            assert f"Job {job_id}" in said
            assert "it has not heard of Jupyter for too long (`lease`)" in said
            assert world.queue() == [], "a new job is the user's choice"
            assert (await server.ask("POST", f"kernels/{kernel_id}/restart")).code == 200
            assert await execute(channels, VARIABLE) not in ("", job_id)

    with running_server(tmp_path) as server:
        asyncio.run(asyncio.wait_for(main(server), 200))


@pytest.mark.parametrize(("transport", "cable"), [("asyncssh", "well"), ("openssh", "well"), ("openssh", "cut")])
def test_a_jupyter_that_is_killed_leaves_no_job(world, kernelspec, transport, tmp_path, cable):
    """Its guard logs in and cancels the job; where it cannot, the lease ends it."""
    name = kernelspec(transport, lease="8s" if cable == "cut" else "10m")

    async def main(server: Server) -> None:
        session = json.loads((await server.new_session(name)).body)
        async with server.channels(session["kernel"]["id"]) as channels:
            await execute(channels, VARIABLE)
        if cable == "cut":
            world.cut()
        server.process.kill()
        server.process.wait()
        await asyncio.to_thread(world.queue_empties)

    with running_server(tmp_path) as server:
        asyncio.run(asyncio.wait_for(main(server), 200))
    if cable == "cut":
        (folder,) = world.left()["run directories"]
        assert "not been heard of for too long" in world.run("cat", f"{world.home}/{world.state}/{folder}/job.log")
        world.mend()
    forget_the_killed(world)


def forget_the_killed(world) -> None:
    """Remove what is left of a process that was killed: nobody else can; guards would try a while longer."""
    for pid in processes_here():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not processes_here(), "the end of processes")
    for folder in Path(tempfile.gettempdir()).glob("slurm-kernel-*"):
        shutil.rmtree(folder)
    world.remove_log()
