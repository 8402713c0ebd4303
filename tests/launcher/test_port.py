"""The TLS port: who is let in, the ends of streams, and the manners of the supervisor channel."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest
from supervisors import FAKE_ARGV, PATIENCE, Conversation, Job, Stream, eventually


def refused(dial) -> None:
    """See that a connection never gets a byte from the other side."""
    with contextlib.suppress(OSError), dial() as connection:  # TLS 1.3 refuses only after the client's handshake
        connection.sendall(b'{"id":1,"do":"status"}\n')
        assert connection.recv(1) == b""


@pytest.mark.every_python
def test_nobody_but_the_server_is_let_in(job: Job):
    for identity in (None, "stranger", "signed-by-server"):
        for channel in ("kernel", "supervisor"):
            refused(lambda: job.dial(channel, identity))  # noqa: B023
    for protocol in (None, "http/1.1", "shell", "Kernel"):
        refused(lambda: job.dial(protocol))  # noqa: B023
    for noise in (b"GET / HTTP/1.0\r\n\r\n", b"", os.urandom(3000)):
        with socket.create_connection(job.address, PATIENCE) as stranger:
            stranger.sendall(noise)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.deprecated_call():
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(job.address, PATIENCE) as stranger, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(stranger)
    silent = socket.create_connection(job.address, PATIENCE)
    with silent, job.supervisor() as supervisor:
        assert supervisor.call("status")["ok"]
    assert len(job.log.splitlines()) <= 1
    assert all(line.startswith("slurm-provisioner: ") for line in job.log.splitlines())


def test_what_the_kernel_wrote_last_arrives(make_job):
    job = make_job(crash_grace=0.0).start()
    with job.supervisor(), job.stream("shell") as shell, job.stream("control") as control:
        shell.sendall(b"x" * 100_000)
        control.sendall(b'{"do": "echo-later"}\n{"do": "exit", "code": 0}\n')
        received = b""
        while block := control.recv(1 << 16):
            received += block
        assert received == b"{}\n"
    assert job.wait() == 0


def test_a_channel_of_an_ended_kernel_is_closed(job: Job):
    with job.supervisor() as supervisor, job.stream("shell") as shell:
        supervisor.call("signal", signum=9)
        supervisor.event("exited")
        assert shell.recv(1) == b""
        with job.stream("shell") as late:
            assert late.recv(1) == b""


def test_a_stream_that_nobody_knows_ends(job: Job):
    with job.supervisor(), Stream(lambda: job.dial("kernel"), "shell", fresh=False) as stream:
        assert stream.recv(1) == b""


def test_a_newer_connection_takes_a_stream_over_and_an_older_does_not(job: Job):
    with job.supervisor(), job.stream("shell") as stream:
        stream.sendall(b"one")
        assert stream.recv(3) == b"one"
        first = stream.connection  # stays open, as if it had not been noticed that it is lost
        stream.connect()
        assert (stream.header(), stream.acknowledged) == (0, 3)
        assert first.recv(1) == b""
        second = stream.connection
        stream.connect(number=1)
        with pytest.raises(ConnectionError):
            stream.header()
        stream.connection = second
        stream.sendall(b"two")
        assert stream.recv(3) == b"two"


def test_what_was_not_received_is_said_again(job: Job):
    with job.supervisor(), job.stream("shell") as stream:
        stream.sendall(b"abcdef")
        assert stream.recv(6) == b"abcdef"
        stream.received = 2  # as if the rest had been lost with the connection
        stream.connect()
        assert stream.recv(6) == b"cdef"


def test_what_cannot_be_said_again_ends_the_stream(job: Job):
    with job.supervisor(), job.stream("shell") as stream:
        stream.sendall(b"abcdef")
        assert stream.recv(6) == b"abcdef"
        stream.sendall(b"g")  # which acknowledges what came before
        assert stream.recv(1) == b"g"
        stream.received = 2
        stream.connect()
        assert stream.recv(1) == b""


def test_streams_that_a_former_server_left_end_when_its_successor_comes(job: Job):
    def open_files():
        return len(list(Path(f"/proc/{job.process.pid}/fd").iterdir()))

    with job.supervisor():
        before = open_files()
        left, used = job.stream("iopub"), job.stream("shell")
        for stream in (left, used):
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
        left.connection.close()
        eventually(lambda: open_files() == before + 3, "the end of a TLS connection")  # the others, and to the kernel
        mine = job.stream("shell")
        mine.sendall(b"x")
        assert mine.recv(1) == b"x"
        eventually(lambda: open_files() == before + 4, "the end of a stream")
        used.sendall(b"y")
        assert used.recv(1) == b"y"
        mine.close()
        used.close()
        eventually(lambda: open_files() == before, "the end of all streams")


def test_every_supervisor_channel_hears_all_events(job: Job):
    with job.supervisor() as one, job.supervisor() as other:
        assert one.call("status")["generation"] == 1
        assert other.call("signal", signum=9) == {"re": 1, "ok": True}
        assert one.event("exited") == other.event("exited")
        assert other.call("stop")["ok"]
        last = [{"event": "ending", "reason": "stop"}, {"event": "bye", "reason": "stop"}]
        assert one.until_end() == other.until_end() == last


NONSENSE = [
    (b"what", "Expecting value"),
    (b"[1]", "the request has no 'id'"),
    (b"{}", "the request has no 'id'"),
    (b'{"id": "1", "do": "status"}', "'id' is of the wrong type"),
    (b'{"id": 7}', "the request has no 'do'"),
    (b'{"id": 7, "do": "dance"}', "there is no command 'dance'"),
    (b'{"id": 7, "do": "__init__"}', "there is no command"),
    (b'{"id": 7, "do": "signal"}', "the request has no 'signum'"),
    (b'{"id": 7, "do": "signal", "signum": 4711}', "Invalid argument"),
    (b'{"id": 7, "do": "signal", "signum": 1%s}' % (b"0" * 30), "too "),
    (b'{"id": 7, "do": "log", "lines": "all"}', "'lines' is of the wrong type"),
    (b'{"id": 7, "do": "restart"}', "the request has no 'kernel.argv'"),
    (b'{"id": 7, "do": "restart", "kernel": {"argv": 1}}', "'kernel.argv' is of the wrong type"),
    (b"\xff\xfe", "codec can't decode"),
    (b"[" * 100_000, ""),
    (b"", "Expecting value"),
]


def test_nonsense_is_refused_and_the_channel_goes_on(job: Job):
    with job.supervisor() as supervisor:
        for line, error in NONSENSE:
            supervisor.write(line + b"\n")
            answer = supervisor.answer(7 if line.startswith(b'{"id": 7') else None)
            assert answer["ok"] is False
            assert error in answer["error"]
        assert supervisor.call("status")["state"] == "ready"


def test_a_line_without_end_closes_its_channel_only(job: Job):
    with job.supervisor() as good, job.supervisor() as bad:
        with pytest.raises((OSError, AssertionError)):
            bad.write(b"x" * (3 << 20))
            bad.answer(None)
        long = b'{"id": 1, "do": "status", "padding": "%s"}\n' % (b"x" * 1_000_000)
        good.write(long)
        assert good.answer(1)["ok"]


def test_who_does_not_read_is_dropped(job: Job):
    job.ask("print", text="x" * 79 + "\n")
    job.ask("print", text=("y" * 1000 + "\n") * 60)
    with job.supervisor() as reader, job.supervisor() as sleeper:
        asked, answered = 2000, 0  # 60 kB of answer each
        with contextlib.suppress(OSError):  # it may be dropped before it has asked for all
            sleeper.connection.sendall(b'{"id": 1, "do": "log", "lines": 100}\n' * asked)
        for _ in range(100):  # by now it has seen some of them
            assert reader.call("status")["ok"]
        with contextlib.suppress(OSError, ValueError):  # it may end within a line
            while sleeper.read() is not None:
                answered += 1
        assert 1 < answered < asked


def test_a_peer_that_vanishes_in_the_middle(job: Job):
    for channel in ("kernel", "supervisor"):
        connection = job.dial(channel)
        connection.sendall(b'{"id": 1')
        raw = connection.detach()
        socket.socket(fileno=raw).close()
    with job.supervisor() as supervisor:
        assert supervisor.call("status")["ok"]
    assert job.log == ""


def test_a_lease_is_renewed_by_every_sign_of_life(job: Job):
    with job.supervisor() as supervisor:
        threading.Event().wait(0.2)
        assert supervisor.call("status")["lease_left"] == 600.0
        threading.Event().wait(0.2)
        other = Conversation(job.dial("supervisor"))
        assert other.event("status")["lease_left"] == 600.0
        other.close()
        assert supervisor.call("lease")["ok"]


def test_the_tail_of_the_log(job: Job):
    job.ask("print", text="".join(f"line {number} é\n" for number in range(20_000)) + "unfinished")
    with job.supervisor() as supervisor:
        assert supervisor.call("log", lines=3)["log"] == ["line 19998 é", "line 19999 é", "unfinished"]
        assert supervisor.call("log", lines=0)["log"] == []
        assert supervisor.call("log", lines=-5)["log"] == []
        assert 1000 < len(supervisor.call("log", lines=10**9)["log"]) < 20_000


@pytest.mark.every_python
def test_connections_leave_nothing_open(make_job):
    job = make_job()
    job.kernel["argv"] = [*FAKE_ARGV, str(job.base / "go")]
    job.start()

    def open_files():
        return len(list(Path(f"/proc/{job.process.pid}/fd").iterdir()))

    with job.supervisor(ready=False) as supervisor:
        assert supervisor.call("status")["state"] == "starting"
        before = open_files()
        for channel in ("kernel", "supervisor"):  # the kernel has no sockets yet
            job.dial(channel).close()
        for channel in ("shell", "iopub"):
            lost, ended = job.stream(channel), job.stream(channel)
            lost.connection.close()
            ended.close()
        eventually(lambda: open_files() == before, "the end of connections that wait for the kernel")
        (job.base / "go").touch()
        supervisor.event("ready")
        for channel in ("kernel", "supervisor", None):
            for _ in range(5):
                job.dial(channel).close()
        for _ in range(5):
            job.stream("shell").end()
        eventually(lambda: open_files() == before, "the end of connections")
