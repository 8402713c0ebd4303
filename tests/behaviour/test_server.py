"""JupyterLab's side of it: a real jupyter_server, its REST interface and its websockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator

import pytest
from conftest import QUEUED, queue, queue_empties, slurm, start_now
from servers import Server, execute, running_server

JOB_ID = "import os; print(os.environ['SLURM_JOB_ID'])"


@pytest.fixture
def server(jupyter_home, tmp_path) -> Iterator[Server]:
    with running_server(tmp_path) as server:
        yield server
    log = server.log.read_text()
    assert "Traceback" not in re.sub(r"(?s)Traceback.*?SubmissionError[^\n]*", "", log)


def test_a_notebook_over_websockets_and_restarts(server, kernelspec):
    name = kernelspec()

    async def main() -> None:
        session = json.loads((await server.new_session(name)).body)
        kernel_id = session["kernel"]["id"]
        async with server.channels(kernel_id) as channels:
            job_id = await execute(channels, JOB_ID)
            assert job_id in queue()[0]

            assert (await server.ask("POST", f"kernels/{kernel_id}/restart")).code == 200
            assert await execute(channels, JOB_ID) == job_id
            async with server.channels(kernel_id) as second:
                assert await execute(second, "print('a second tab')") == "a second tab"

        assert (await server.ask("DELETE", f"sessions/{session['id']}")).code == 204
        await asyncio.to_thread(queue_empties)

    asyncio.run(main())


def test_the_dialog_says_why_there_is_no_kernel(server, kernelspec):
    name = kernelspec("bad", partition="nope")

    async def main() -> None:
        answer = await server.new_session(name)
        assert answer.code == 500
        message = json.loads(answer.body)["message"]
        assert "Slurm refused the job" in message
        assert "partition" in message
        assert "sinfo -s" in message

    asyncio.run(main())
    assert queue() == []


def test_a_cell_says_why_its_job_ended_and_restart_gets_a_new_one(server, kernelspec):
    name = kernelspec()

    async def main() -> None:
        session = json.loads((await server.new_session(name)).body)
        kernel_id = session["kernel"]["id"]
        async with server.channels(kernel_id) as channels:
            job_id = await execute(channels, JOB_ID)
            slurm("scancel", job_id)
            for _ in range(2):
                said = await execute(channels, "import time; time.sleep(60)")
                assert f"Job {job_id}" in said
                assert "it was cancelled" in said
            assert queue() == [], "a new job is the user's choice"
            async with server.channels(kernel_id) as second:
                assert "it was cancelled" in await execute(second, "1")

            assert (await server.ask("POST", f"kernels/{kernel_id}/restart")).code == 200
            assert await execute(channels, JOB_ID) != job_id
            model = json.loads((await server.ask("GET", f"kernels/{kernel_id}")).body)
            assert model["execution_state"] == "idle"

    asyncio.run(asyncio.wait_for(main(), 200))


def test_a_queued_kernel_opens_at_once_and_is_gone_at_once(server, kernelspec):
    name = kernelspec(**QUEUED)

    async def main() -> None:
        session = json.loads((await server.new_session(name)).body)
        kernel_id = session["kernel"]["id"]
        (job,) = queue()
        async with server.channels(kernel_id) as channels, server.channels(kernel_id) as second:
            waiting = [asyncio.Event(), asyncio.Event()]
            cell = asyncio.ensure_future(execute(channels, JOB_ID, waiting[0]))
            other = asyncio.ensure_future(execute(second, JOB_ID, waiting[1]))
            for event in waiting:
                await event.wait()
            assert (await server.ask("POST", f"kernels/{kernel_id}/interrupt")).code == 204
            for each in (cell, other):
                assert "KeyboardInterrupt: interrupted before it ran" in await each

            assert (await server.ask("POST", f"kernels/{kernel_id}/restart")).code == 200
            assert queue() == [job], "it keeps its place"
            async with server.channels(kernel_id) as reloaded:
                cell = asyncio.ensure_future(execute(reloaded, JOB_ID))
                start_now(job.split()[0])
                assert await cell == job.split()[0]

        await server.ask("POST", f"kernels/{kernel_id}/restart")
        assert (await server.ask("DELETE", f"sessions/{session['id']}")).code == 204
        await asyncio.to_thread(queue_empties)
        session = json.loads((await server.new_session(name)).body)
        assert (await server.ask("DELETE", f"sessions/{session['id']}")).code == 204
        await asyncio.to_thread(queue_empties)

    asyncio.run(asyncio.wait_for(main(), 200))


def test_a_server_that_ends_takes_its_jobs_along(server, kernelspec):
    name = kernelspec()

    async def main() -> None:
        await server.new_session(name)
        assert len(queue()) == 1

    asyncio.run(main())
    # the fixture ends the server with SIGTERM, and `nothing_left` looks at the queue


def test_a_server_that_ends_while_its_kernel_is_queued_takes_the_job_along(server, kernelspec):
    name = kernelspec(**QUEUED)

    async def main() -> None:
        session = json.loads((await server.new_session(name)).body)
        async with server.channels(session["kernel"]["id"]) as channels:
            waits = asyncio.Event()
            cell = asyncio.ensure_future(execute(channels, JOB_ID, waits))
            await waits.wait()
            assert len(queue()) == 1
            server.process.terminate()
            with contextlib.suppress(TypeError):  # the connection's end
                await cell

    asyncio.run(asyncio.wait_for(main(), 120))
    server.process.wait(60)
    queue_empties()
