"""Endpoints over their life: named anew, shared, closed, and gone without a trace."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest
import zmq
from conftest import KEY, PATIENCE, Client, Served, brief, descriptors, eventually
from jupyter_client.manager import KernelManager
from wire import INFO, Listens, read

from slurm_provisioner.front import Front
from slurm_provisioner.front import front as front_module
from slurm_provisioner.front.zmtp import unpack
from slurm_provisioner.loop import background_loop


def unlink_as_jupyter_client_does(served):
    manager = KernelManager()
    manager.load_connection_info(served.connection)
    manager.cleanup_ipc_files()
    assert not any(os.path.lexists(f"{served.front.endpoints['ip']}-{number}") for number in range(1, 6))


def test_only_this_user_can_enter(served):
    folder = Path(served.front.endpoints["ip"]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()


@pytest.mark.parametrize("runs", [False, True])
def test_connections_outlive_the_names_of_the_sockets(served, clients, kernels, runs):
    """And what is under way in them: nothing is said to be again."""
    old = clients()
    old.kernel_info()
    old.get_shell_msg(timeout=PATIENCE)
    kernel = kernels()
    if runs:
        served.run(kernel)
    for _ in range(2):
        unlink_as_jupyter_client_does(served)
        held = old.execute("before")
        served.open()
        connections = dict(served.front.endpoints)
        after = old.execute("after")
        new = clients()
        mine = new.execute("new")
        if not runs:
            served.run(kernel)
        asked = {}
        for _ in range(3):
            request = kernel.take()
            asked[request.id] = request.content["code"]
            kernel.finish(request)
        assert asked == {held: "before", after: "after", mine: "new"}
        assert [old.answer(each)["content"]["status"] for each in (held, after)] == ["ok", "ok"]
        assert new.answer(mine)["content"]["status"] == "ok"
        assert old.told(mine)[-2:] == ["busy", "idle"]
        assert served.front.endpoints == connections
        runs = True


def test_open_again_leaves_all_as_it_is(served, client):
    folder = Path(served.front.endpoints["ip"]).parent
    before = {path.name: path.lstat().st_ino for path in folder.iterdir()}
    served.open()
    assert {path.name: path.lstat().st_ino for path in folder.iterdir()} == before
    assert client.answer(client.kernel_info())


def test_clients_that_come_and_go(served, clients, context, kernel):
    """One that comes back by its name takes its replies from where it is now."""
    context.setsockopt(zmq.RECONNECT_IVL, -1)  # of two that share a name, each would cut the other off again
    gone = clients(context=context)
    asked = gone.execute("1")
    request = kernel.take()
    back = clients(session=gone.session)  # ROUTER handover: the same identity, a new connection
    again = back.execute("2")
    kernel.finish(kernel.take())
    assert back.answer(again)["content"]["status"] == "ok"
    kernel.finish(request)
    assert back.answer(asked)["content"]["status"] == "ok"
    for number in range(5):
        passer_by = clients()
        msg_id = passer_by.execute(str(number))
        kernel.finish(kernel.take())
        assert passer_by.answer(msg_id)["content"]["status"] == "ok"
        passer_by.stop_channels()


def test_each_subscription_is_welcomed(served, context):
    for topic in (b"", b"stream", b""):
        with context.socket(zmq.SUB) as sock:
            sock.connect(f"ipc://{served.front.endpoints['ip']}-2")
            sock.subscribe(topic)
            assert sock.poll(PATIENCE * 1000)
            frames = sock.recv_multipart()
            assert b"iopub_welcome" in b"".join(frames)
            assert frames[0] == topic or topic == b""


def test_what_is_no_subscription_is_nothing(served, client, context):
    with context.socket(zmq.XSUB) as sock:
        sock.linger = 0
        sock.connect(f"ipc://{served.front.endpoints['ip']}-2")
        for message in (b"hello", b"", b"\2", b"\1"):
            sock.send(message)
        (only,) = client.until(lambda each: each["msg_type"] == "iopub_welcome")
        assert only["content"] == {"subscription": ""}


def test_an_error_with_one_message_is_of_no_harm_to_the_next(served, client, monkeypatch, caplog):
    standin = served.front._standin
    handle = standin.from_client

    def fail(channel, packed):
        if read(unpack(packed)).kind == "poison":
            raise ZeroDivisionError
        handle(channel, packed)

    monkeypatch.setattr(standin, "from_client", fail)
    for _ in range(100):
        client.send("poison")
    msg_id = client.kernel_info()
    assert client.answer(msg_id)["content"]["implementation"] == "stand-in"
    assert "unexpected error" in caplog.text


def test_several_fronts_are_each_for_itself():
    fronts = [Served() for _ in range(4)]
    clients = [Client(each.connection) for each in fronts]
    for number, (each, client) in enumerate(zip(fronts, clients, strict=True)):
        each.tell(f"job {number}")
        client.execute("1")
        client.until(lambda message, number=number: brief(message) == f"display_data: job {number}")
    for each, client in zip(fronts[:3], clients[:3], strict=True):
        each.close()
        client.stop_channels()
    assert clients[3].answer(clients[3].kernel_info())
    clients[3].stop_channels()
    fronts[3].close()


def test_nothing_is_left(kernels, temporary):
    def life():
        it = Served()
        client = Client(it.connection)
        kernel = kernels()
        it.run(kernel)
        msg_id = client.execute("1")
        kernel.finish(kernel.take())
        client.answer(msg_id)
        client.execute("2")
        it.close()  # with a client connected, and a cell that runs
        client.stop_channels()
        kernel.close()

    before = set(os.listdir(temporary))
    life()
    count = descriptors()
    for _ in range(3):
        life()
    eventually(lambda: descriptors() <= count, "the sockets' end")
    assert {name for name in os.listdir(temporary) if name.startswith("slurm-kernel-")} <= before


def test_what_is_closed_stays_closed(kernels):
    it = Served()
    endpoints = kernels().endpoints
    it.close()
    it.close()
    it.front.tell("nobody hears it")
    it.attach(endpoints)
    with pytest.raises(RuntimeError, match="closed"):
        it.open()
    with pytest.raises(RuntimeError, match="closed"):
        it.detach()


def test_closing_is_done_though_nobody_waits_for_it():
    it = Served()
    folder = Path(it.front.endpoints["ip"]).parent

    async def story():
        closing = asyncio.ensure_future(it.front.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])

    background_loop().submit(story()).result(PATIENCE)
    assert not folder.exists()


def test_a_scheme_that_does_not_exist_leaves_nothing(temporary):
    async def make_front():
        return Front(KEY, "hmac-nothing", INFO, Listens(print))

    with pytest.raises(Exception, match="nothing"):
        background_loop().submit(make_front()).result(PATIENCE)


def test_without_unix_sockets_it_is_loopback(monkeypatch):
    monkeypatch.setattr(front_module, "private_folder", lambda: None)
    it = Served()
    try:
        assert it.front.endpoints["transport"] == "tcp"
        assert it.front.endpoints["ip"] == "127.0.0.1"
        ports = dict(it.front.endpoints)
        it.open()
        assert it.front.endpoints == ports
        client = Client(it.connection)
        assert client.answer(client.kernel_info())
        client.stop_channels()
    finally:
        it.close()


def test_a_folder_with_a_long_path_is_not_used(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    it = Served()
    assert Path(it.front.endpoints["ip"]).parent.parent == Path("/tmp")
    assert list(long.iterdir()) == []
    it.close()


PROGRAM = textwrap.dedent("""
    import asyncio, os, signal, sys
    from slurm_provisioner.front import Front
    from slurm_provisioner.loop import background_loop

    async def make():
        front = Front(b"key", "hmac-sha256", {}, None)
        await front.open()
        front.attach(lambda channel, protocol: None)
        return front

    front = background_loop().submit(make()).result()
    print(front._folder.path, flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
""")


@pytest.mark.parametrize(("how", "code"), [("exits", 0), ("killed", -signal.SIGKILL)])
def test_a_process_that_ends_without_closing(temporary, how, code):
    """It is not held up, and its folder goes."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, "TMPDIR": temporary},
    )
    assert done.returncode == code
    folder = Path(done.stdout.strip())
    assert folder.parent == Path(temporary)
    eventually(lambda: not folder.exists(), "the folder's end")


def test_a_kernel_that_hangs_up_while_it_is_let_go_of(served, kernels):
    for _ in range(100):
        kernel = kernels()
        served.run(kernel)
        gone = threading.Thread(target=kernel.close)
        gone.start()
        served.detach()
        gone.join()
