"""A real jupyter_server: its process, its REST interface and its websockets, as JupyterLab uses them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from kernels import eventually
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

TOKEN = "only-for-this-test"


class Server:
    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.base = f"127.0.0.1:{port}"
        self.process = process
        self.log = log

    async def ask(self, method: str, path: str, body: Any = None) -> HTTPResponse:
        request = HTTPRequest(
            f"http://{self.base}/api/{path}",
            method=method,
            headers={"Authorization": f"token {TOKEN}"},
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
            request_timeout=90,
        )
        return await AsyncHTTPClient().fetch(request, raise_error=False)

    async def new_session(self, kernel: str) -> HTTPResponse:
        return await self.ask(
            "POST",
            "sessions",
            {"path": "x.ipynb", "name": "x", "type": "notebook", "kernel": {"name": kernel}},
        )

    @contextlib.asynccontextmanager
    async def channels(self, kernel_id: str) -> AsyncIterator[WebSocketClientConnection]:
        url = f"ws://{self.base}/api/kernels/{kernel_id}/channels?session_id={uuid.uuid4().hex}&token={TOKEN}"
        connection = await asyncio.wait_for(websocket_connect(url), 60)
        try:
            yield connection
        finally:
            connection.close()
            while await connection.read_message() is not None:
                pass


async def execute(channels: WebSocketClientConnection, code: str, waits: asyncio.Event | None = None) -> str:
    """What some code prints, or why it failed, over a websocket; `waits` is set once it shows a line."""
    msg_id = uuid.uuid4().hex
    header = {
        "msg_id": msg_id,
        "msg_type": "execute_request",
        "session": str(id(channels)),
        "username": "",
        "version": "5.3",
    }
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
    }
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await channels.write_message(json.dumps(message))
    printed = ""
    while True:
        answer = json.loads(await asyncio.wait_for(channels.read_message(), 60))
        if answer["parent_header"].get("msg_id") != msg_id:
            continue
        if answer["msg_type"] == "stream":
            printed += answer["content"]["text"]
        elif answer["msg_type"] == "display_data" and waits is not None:
            waits.set()
        elif answer["msg_type"] == "error":
            printed += f"{answer['content']['ename']}: {answer['content']['evalue']}"
        elif answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
            return printed.strip()


@contextlib.contextmanager
def running_server(
    folder: Path, *options: str, app: str = "jupyter_server", root: Path | None = None
) -> Iterator[Server]:
    """A server, or an application on top of it, that is ended by SIGTERM, unless it has ended before."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    log = folder / "server.log"
    argv = [
        sys.executable, "-m", app, f"--port={port}", "--ip=127.0.0.1", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root or folder}",
        "--KernelRestarter.time_to_dead=0.5", *options,
    ]  # fmt: skip
    with log.open("w") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(answers, "a server that listens")
        yield Server(port, process, log)
    finally:
        process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None and "reentrant call" in log.read_text():
                process.terminate()  # jupyter_server's signal handler logs, which may fail, and nothing ends then
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the server did not end: {log.read_text()}") from None
