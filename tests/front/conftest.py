"""Fronts with real sockets, clients as people have them, and kernels: the tests' own, and ipykernel.

Every test leaves the process as it was: no file, folder or socket of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from fake_kernel import FakeKernel
from jupyter_client.blocking.client import BlockingKernelClient
from wire import INFO, KEY, SCHEME, Listens

from slurm_provisioner.errors import JobEndedError, SlurmProvisionerError
from slurm_provisioner.front import Front, standin
from slurm_provisioner.loop import background_loop

#: Seconds until what does not happen counts as never.
PATIENCE = 60
ENDED = JobEndedError(
    "Job 1 ended: it reached its time limit.", job_id="1", state="TIMEOUT", hint="Restart the kernel."
)


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something of which there is no event."""
    begin = time.monotonic()
    while not (result := condition()):
        assert time.monotonic() < begin + PATIENCE, f"never happened: {what}"
        time.sleep(0.01)
    return result


def way_to(endpoints: dict[str, Any]) -> Callable[[str, asyncio.Protocol], object]:
    """Connects protocols to the sockets of a kernel of this host, which may be yet to come."""

    async def reach(channel: str, protocol: asyncio.Protocol) -> None:
        path = f"{endpoints['ip']}-{endpoints[f'{channel}_port']}"
        for _ in range(PATIENCE * 100):
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().create_unix_connection(lambda: protocol, path)
                return
            await asyncio.sleep(0.01)

    return lambda channel, protocol: asyncio.ensure_future(reach(channel, protocol))


class Served:
    """A front on the background loop, as jupyter_client has it."""

    def __init__(self) -> None:
        self.ups: queue.Queue[dict[str, Any]] = queue.Queue()
        loop = background_loop()
        self.ask = lambda coro: loop.submit(coro).result(PATIENCE)
        self.front = self.on_loop(lambda: Front(KEY, SCHEME, INFO, Listens(self.ups.put)))
        self.open()

    def open(self) -> None:
        self.ask(self.front.open())

    def attach(self, endpoints: dict[str, Any]) -> None:
        self.on_loop(lambda: self.front.attach(way_to(endpoints)))

    def run(self, kernel: FakeKernel) -> None:
        """Have a kernel answer."""
        self.attach(kernel.endpoints)
        kernel.subscribed()  # so that one answer is enough
        kernel.answer_probe(kernel.probed())
        self.ups.get(timeout=PATIENCE)

    def tell(self, line: str) -> None:
        self.on_loop(lambda: self.front.tell(line))

    def lost(self, line: str) -> None:
        self.on_loop(lambda: self.front.lost(line))

    def found(self, line: str) -> None:
        self.on_loop(lambda: self.front.found(line))

    def warn(self, line: Callable[[], str]) -> None:
        self.on_loop(lambda: self.front.warn(line))

    def detach(self, line: str = "", error: SlurmProvisionerError | None = None) -> None:
        self.on_loop(lambda: self.front.detach(line, error))

    def end(self) -> None:
        self.on_loop(lambda: self.front.end(ENDED))

    def close(self) -> None:
        self.ask(self.front.aclose())

    def on_loop(self, command: Callable[[], Any]) -> Any:
        """What a function says where the front is."""

        async def call() -> Any:
            return command()

        return self.ask(call())

    @property
    def connection(self) -> dict[str, Any]:
        return {**self.front.endpoints, "key": KEY, "signature_scheme": SCHEME}


class Client(BlockingKernelClient):
    """A client that has been told that it hears everything."""

    def __init__(self, connection: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.load_connection_info(connection)
        self.start_channels(hb=False)
        self.until(lambda message: message["msg_type"] == "iopub_welcome")

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """What is published, up to what is waited for."""
        heard = []
        while not heard or not condition(heard[-1]):
            heard.append(self.get_iopub_msg(timeout=PATIENCE))
        return heard

    def told(self, msg_id: str) -> list[str]:
        """What is published about a request, in short, up to its end."""
        return [brief(each) for each in self.heard(msg_id)]

    def heard(self, msg_id: str) -> list[dict[str, Any]]:
        def ends(message: dict[str, Any]) -> bool:
            return about(message) and message["content"].get("execution_state") == "idle"

        def about(message: dict[str, Any]) -> bool:
            return message["parent_header"].get("msg_id") == msg_id

        return [message for message in self.until(ends) if about(message)]

    def answer(self, msg_id: str, channel: str = "shell") -> dict[str, Any]:
        """The reply to a request; those to others before it are dropped."""
        get = self.get_control_msg if channel == "control" else self.get_shell_msg
        while True:
            reply = get(timeout=PATIENCE)
            if reply["parent_header"]["msg_id"] == msg_id:
                return reply

    def send(self, kind: str, content: dict[str, Any] | None = None, channel: str = "shell", **more: Any) -> str:
        message = self.session.msg(kind, content or {})
        message["header"].update(more.pop("header", {}))
        sock = self.control_channel.socket if channel == "control" else self.shell_channel.socket
        self.session.send(sock, message, **more)
        return message["header"]["msg_id"]


def brief(message: dict[str, Any]) -> str:
    content = message["content"]
    match message["msg_type"]:
        case "status":
            return content["execution_state"]
        case "display_data" | "update_display_data" as kind:
            return f"{kind}: {content['data']['text/plain'].rstrip()}"
        case "stream":
            return f"{content['name']}: {content['text']}"
        case "error":
            return f"error: {content['ename']}"
        case kind:
            return kind


FAILED = ["busy", "error: JobEndedError", "idle"]


# ------------------------------------------------------------------------------ leftovers


@pytest.fixture(scope="session", autouse=True)
def temporary() -> Iterator[str]:
    """A temporary folder of these tests alone, with a path short enough for sockets."""
    before, folder = tempfile.tempdir, tempfile.mkdtemp(prefix="front-", dir="/tmp")
    tempfile.tempdir = folder
    yield folder
    tempfile.tempdir = before
    shutil.rmtree(folder)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module", autouse=True)
def nothing_left(temporary: str) -> Iterator[None]:
    background_loop()
    zmq.Context.instance()  # what lasts is there before
    yield
    assert [name for name in os.listdir(temporary) if not name.startswith("pytest-")] == []


# -------------------------------------------------------------------------------- fixtures


@pytest.fixture(autouse=True)
def not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said once more only because all takes its time on a busy machine."""
    monkeypatch.setattr(standin, "QUIET", PATIENCE)


@pytest.fixture
def served() -> Iterator[Served]:
    it = Served()
    yield it
    it.close()


@pytest.fixture
def clients(served: Served) -> Iterator[Callable[..., Client]]:
    """Makes clients of the front."""
    made = []

    def make(**kwargs: Any) -> Client:
        made.append(Client(served.connection, **kwargs))
        return made[-1]

    yield make
    for client in made:
        client.stop_channels()


@pytest.fixture
def client(clients: Callable[..., Client]) -> Client:
    return clients()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    it: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield it
    it.destroy(linger=0)


@pytest.fixture
def kernels(context: zmq.Context[zmq.Socket[bytes]], temporary: str) -> Iterator[Callable[..., FakeKernel]]:
    """Makes fake kernels."""
    with contextlib.ExitStack() as stack:

        def make(**kwargs: Any) -> FakeKernel:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=temporary))
            kernel = FakeKernel(context, folder, **kwargs)
            stack.callback(kernel.close)
            return kernel

        yield make


@pytest.fixture
def kernel(served: Served, kernels: Callable[..., FakeKernel]) -> FakeKernel:
    """A fake kernel that runs."""
    it = kernels()
    served.run(it)
    return it


@contextlib.contextmanager
def ipykernel(folder: Path) -> Iterator[dict[str, Any]]:
    """A real kernel on ipc; its connection info."""
    connection: dict[str, Any] = {
        "transport": "ipc",
        "ip": f"{folder}/i",
        "key": KEY.decode(),
        "signature_scheme": SCHEME,
        "kernel_name": "",
        **{f"{channel}_port": number for number, channel in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)},
    }
    (folder / "kernel.json").write_text(json.dumps(connection))
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", str(folder / "kernel.json")]
    guarded = {"JPY_PARENT_PID": str(os.getpid())}  # it ends with the tests, however they end
    environment = {**os.environ, **guarded, "IPYTHONDIR": str(folder)}
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        yield connection
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def python(temporary: str, nothing_left: None) -> Iterator[Served]:
    """A front before a real kernel, which a module's tests share."""
    with tempfile.TemporaryDirectory(dir=temporary) as folder, ipykernel(Path(folder)) as connection:
        it = Served()
        it.attach(connection)
        it.ups.get(timeout=PATIENCE)
        yield it
        it.close()
