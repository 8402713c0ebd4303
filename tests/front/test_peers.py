"""Who connects: ZeroMQ's sockets of any kind, and what is none."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest
import zmq
from conftest import PATIENCE, brief, eventually

from slurm_provisioner.front import peer as peer_module


def dial(served, number=1):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(f"{served.front.endpoints['ip']}-{number}")
    return sock


@contextlib.contextmanager
def ends_of(sock):
    """A socket that tells of connections that were cut."""
    sock.linger = 0
    monitor = sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED)
    try:
        yield monitor
    finally:
        sock.disable_monitor()
        monitor.close()


def hung_up(sock):
    """Whether the other side ends the connection."""
    try:
        while sock.recv(2**16):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.0\r\n".ljust(64), os.urandom(3000), b"\xff" + bytes(70)])
def test_noise_is_cut_off_and_clients_go_on(served, client, noise):
    with dial(served) as stranger:
        stranger.sendall(noise)
        assert hung_up(stranger)
    assert client.answer(client.kernel_info())


def test_one_that_says_nothing_is_cut_off(served, client, monkeypatch):
    monkeypatch.setattr(peer_module, "HANDSHAKE_TIMEOUT", 0.2)
    with dial(served) as stranger:
        assert hung_up(stranger)
    assert client.answer(client.kernel_info())


@pytest.mark.parametrize(("kind", "number"), [(zmq.SUB, 1), (zmq.PUSH, 4), (zmq.DEALER, 2), (zmq.ROUTER, 2)])
def test_a_socket_of_another_kind_is_cut_off(served, client, context, kind, number):
    with context.socket(kind) as sock, ends_of(sock) as ends:
        sock.connect(f"ipc://{served.front.endpoints['ip']}-{number}")
        assert ends.poll(PATIENCE * 1000)
    assert client.answer(client.kernel_info())


def test_one_that_makes_sure_that_we_live(served, context):
    with context.socket(zmq.DEALER) as sock, ends_of(sock) as ends:
        sock.heartbeat_ivl, sock.heartbeat_timeout = 20, 3000
        sock.connect(f"ipc://{served.front.endpoints['ip']}-1")
        assert not ends.poll(4000), "it was not answered"


def test_a_client_that_takes_no_replies_is_cut_off(served, clients, kernel, context, monkeypatch):
    """It comes back; what it did not take is lost, and nobody else's affair."""
    monkeypatch.setattr("slurm_provisioner.front.clients.REPLY_BYTES", 1_000_000)
    good = clients()
    with context.socket(zmq.DEALER) as deaf:
        deaf.linger, deaf.rcvhwm = 0, 1
        deaf.connect(f"ipc://{served.front.endpoints['ip']}-1")
        for _ in range(40):
            deaf.send_multipart(good.session.serialize(good.session.msg("odd_request")))
        for request in [kernel.take() for _ in range(40)]:
            kernel.reply(request, {"x": "y" * 200_000})
        eventually(lambda: len(served.front._routers["shell"]._peers) == 1, "its end")
    msg_id = good.execute("1")
    kernel.finish(kernel.take())
    assert good.answer(msg_id)["content"]["status"] == "ok"
    assert brief(good.get_iopub_msg(timeout=PATIENCE)) == "busy"
