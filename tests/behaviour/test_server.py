"""JupyterLab's side of it: a real jupyter_server, its REST interface and its websockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import queue, queue_empties, slurm
from servers import Server, execute, running_server
from tornado.httpclient import HTTPClientError

from slurm_provisioner.succession import TELL_TIME


@pytest.fixture
def server(jupyter_home, tmp_path) -> Iterator[Server]:
    with running_server(tmp_path) as server:
        yield server
    log = server.log.read_text()
    assert "Traceback" not in re.sub(r"(?s)Traceback.*?(SubmissionError|JobEndedError)[^\n]*", "", log)


def test_a_notebook_over_websockets_and_restarts(server, kernelspec):
    name = kernelspec()

    async def main() -> None:
        session = json.loads((await server.new_session(name)).body)
        kernel_id = session["kernel"]["id"]
        async with server.channels(kernel_id) as channels:
            job_id = await execute(channels, "import os; print(os.environ['SLURM_JOB_ID'])")
            assert job_id in queue()[0]

            assert (await server.ask("POST", f"kernels/{kernel_id}/restart")).code == 200
            assert await execute(channels, "import os; print(os.environ['SLURM_JOB_ID'])") == job_id
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


def test_a_cancelled_job_shows_its_reason_and_restart_works(server, kernelspec):
    """As JupyterLab 4 goes about it, which never uses a kernel again that it saw to be dead: see `succession`."""
    name = kernelspec()

    async def main() -> None:
        session = json.loads((await server.new_session(name)).body)

        async def kernel() -> dict[str, Any]:
            return json.loads((await server.ask("GET", f"sessions/{session['id']}")).body)["kernel"]

        async def model(kernel_id: str) -> dict[str, Any]:
            return json.loads((await server.ask("GET", f"kernels/{kernel_id}")).body)

        async def connect(kernel_id: str) -> None:
            async with server.channels(kernel_id):
                await asyncio.sleep(0.05)

        async def refused(kernel_id: str) -> str:
            """Connect until that is refused, which must not take a minute; then ask for the kernel's state."""
            with pytest.raises(HTTPClientError):
                while True:
                    await asyncio.wait_for(connect(kernel_id), 20)
            seen = await model(kernel_id)
            assert f"Job {job_id}" in seen["reason"]
            assert "it was cancelled" in seen["reason"]
            return seen["execution_state"]

        async def restarted(kernel_id: str) -> str:
            assert (await server.ask("POST", f"kernels/{kernel_id}/restart")).code == 200
            async with server.channels(kernel_id) as channels:
                job_id = await execute(channels, "import os; print(os.environ['SLURM_JOB_ID'])")
            assert "reason" not in await model(kernel_id)
            assert (await model(kernel_id))["execution_state"] == "idle"
            return job_id

        first = session["kernel"]["id"]
        async with server.channels(first) as channels:
            job_id = await execute(channels, "import os; print(os.environ['SLURM_JOB_ID'])")
            slurm("scancel", job_id)
            while "reason" not in await kernel():
                await asyncio.sleep(0.1)
            await asyncio.sleep(TELL_TIME + 1)
            assert (await kernel())["id"] == first, "nobody was told yet"

            assert await refused(first) == "dead"
            assert queue() == []
            job_id = await restarted(first)  # by somebody else, who was quick
            assert await execute(channels, "print('again')") == "again"
            await asyncio.sleep(TELL_TIME + 1)
            assert (await kernel())["id"] == first, "it lives"

        slurm("scancel", job_id)
        assert await refused(first) == "dead"
        while (second := (await kernel())["id"]) == first:
            await asyncio.sleep(0.1)
        assert (await server.ask("GET", f"kernels/{first}")).code == 404
        assert await refused(second) != "dead"
        assert queue() == [], "a new job is the user's choice"
        assert await restarted(second) != job_id
        assert (await kernel())["id"] == second
        assert (await server.ask("DELETE", f"sessions/{session['id']}")).code == 204

    asyncio.run(asyncio.wait_for(main(), 100))


def test_a_server_that_ends_takes_its_jobs_along(server, kernelspec):
    name = kernelspec()

    async def main() -> None:
        await server.new_session(name)
        assert len(queue()) == 1

    asyncio.run(main())
    # the fixture ends the server with SIGTERM, and `nothing_left` looks at the queue
