"""The real thing: ipykernel behind the port, jupyter_client before it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import sys
import tempfile
import threading

from jupyter_client import BlockingKernelClient
from supervisors import CHANNELS, PATIENCE, Job


class Pumps:
    """Unix sockets on this side, each connection to them carried on to the port's channel of that name."""

    def __init__(self, job: Job, folder: str) -> None:
        self.job = job
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=[self.serve()])
        self.stopped = asyncio.Event()
        self.listening = threading.Event()

    async def serve(self):
        self.tasks = set()
        servers = []
        for number, channel in enumerate(CHANNELS, 1):
            accept = functools.partial(self.accept, channel)
            servers.append(await asyncio.start_unix_server(accept, f"{self.folder}/k-{number}"))
        self.listening.set()
        await self.stopped.wait()
        for server in servers:
            server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def accept(self, channel, near, near_writer):
        self.tasks.add(asyncio.current_task())
        writers = [near_writer]
        try:
            with contextlib.suppress(OSError):
                far, far_writer = await asyncio.open_connection(
                    *self.job.address, ssl=self.job.tls(channel), server_hostname=""
                )
                writers.append(far_writer)
                ways = [self.pump(near, far_writer), self.pump(far, near_writer)]
                await asyncio.wait(map(asyncio.ensure_future, ways), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for writer in writers:
                writer.transport.abort()

    async def pump(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()

    def __enter__(self):
        self.thread.start()
        assert self.listening.wait(PATIENCE)
        return self

    def __exit__(self, *_exception):
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(PATIENCE)
        self.loop.close()


def run_code(client, code):
    outputs = []
    reply = client.execute_interactive(code, timeout=PATIENCE, output_hook=outputs.append, allow_stdin=False)
    return reply["content"], [message["content"] for message in outputs]


def test_ipykernel_through_the_port(make_job):
    job = make_job(kernel={"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}).start()
    with contextlib.ExitStack() as stack:
        supervisor = stack.enter_context(job.supervisor())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp"))
        stack.enter_context(Pumps(job, folder))
        client = BlockingKernelClient()
        client.load_connection_info(
            {**job.session, "transport": "ipc", "ip": f"{folder}/k"}
            | {f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)}
        )
        client.start_channels()
        stack.callback(client.stop_channels)
        client.wait_for_ready(PATIENCE)

        reply, outputs = run_code(client, "import os; print('x' * 3_000_000); os.getpid()")
        assert reply["status"] == "ok"
        assert sum(len(output.get("text", "")) for output in outputs) == 3_000_001
        (result,) = [output["data"]["text/plain"] for output in outputs if "data" in output]
        assert int(result) == supervisor.first["pid"]

        number = client.execute("print('running', flush=True)\nwhile True: pass")
        while client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "running\n":
            pass
        assert supervisor.call("signal", signum=signal.SIGINT)["ok"]
        while (message := client.get_shell_msg(timeout=PATIENCE))["parent_header"]["msg_id"] != number:
            pass
        assert message["content"]["ename"] == "KeyboardInterrupt"

        client.shutdown(restart=True)
        supervisor.event("exited", code=0, expected=False)
        assert supervisor.call("restart", kernel=job.kernel, session=job.session)["ok"]
        supervisor.event("ready", generation=2)
        client.wait_for_ready(PATIENCE)
        reply, _ = run_code(client, "1 + 1")
        assert reply["status"] == "ok"
        assert reply["execution_count"] == 1

        assert supervisor.call("stop")["ok"]
        assert supervisor.until_end()[-1] == {"event": "bye", "reason": "stop"}
    assert job.wait() == 0
