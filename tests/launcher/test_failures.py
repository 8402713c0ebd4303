"""What makes the supervisor give up: an exit code of its own, one line that says why, and nothing left."""

from __future__ import annotations

import socket

import pytest
from supervisors import Job


def fails(job: Job, code: int, text: str) -> None:
    """See a job fail, with one line in its log."""
    assert job.wait() == code
    (line,) = [line for line in job.log.splitlines() if "failed: " in line]
    assert line.startswith("slurm-provisioner: failed: ")
    assert text in line
    assert "Traceback" not in job.log


@pytest.mark.every_python
def test_a_command_that_is_not_there(make_job):
    fails(make_job(kernel={"argv": ["no-such-kernel"]}).start(), 112, "'no-such-kernel': No such file or directory")


def test_commands_that_cannot_be_run(make_job):
    job = make_job()
    plain = job.base / "plain\nfile"
    plain.write_text("")
    job.kernel["argv"] = [str(plain)]
    fails(job.start(), 112, r"plain\nfile': Permission denied")
    fails(make_job(kernel={"wrapper": ["no-such-wrapper"]}).start(), 112, "'no-such-wrapper': No such file")
    fails(make_job(kernel={"argv": ["nul\0byte"]}).start(), 112, "embedded null byte")
    fails(make_job(kernel={"env": {"A=B": "x"}}).start(), 112, "illegal environment variable name")
    fails(make_job(kernel={"env": {"A": "\udead\ud800"}}).start(), 112, "surrogates not allowed")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"protocol": 2}, "not of protocol 1"),
        ({"lease": "long"}, "'lease' is of the wrong type (str)"),
        ({"kernel": {"argv": []}}, "needs a 'kernel.argv'"),
        ({"kernel": {"transport": "udp"}}, "'kernel.transport'"),
        ({"session": {"key": "k"}}, "the request has no 'session.signature_scheme'"),
        ({"listen": {"address": None, "interface": None, "port_range": [9, 1]}}, "[9, 1] is no range of ports"),
        ({"tls": {}}, "the request has no 'tls.certificate'"),
        ({"squeue": "squeue"}, "'squeue' is of the wrong type (str)"),
    ],
)
def test_requests_that_cannot_be_understood(make_job, changes, text):
    job = make_job(**changes).start()
    fails(job, 111, text)
    assert "request.json" in job.files


def test_a_request_that_cannot_be_read(make_job):
    job = make_job()
    (job.run_dir / "request.json").mkdir()
    fails(job.start(write_request=False), 111, "Is a directory")


def test_certificates_that_are_none(make_job):
    for broken in ("certificate", "private_key", "peer_certificate"):
        job = make_job()
        job.request["tls"] = {**job.request["tls"], broken: "-----BEGIN NONSENSE-----\n"}
        fails(job.start(), 111, "certificates cannot be used")


def test_no_free_port(make_job):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        job = make_job(listen={"address": None, "interface": None, "port_range": [port, port]})
        fails(job.start(), 113, f"no port from {port} to {port} is free")


def test_addresses_that_are_not_here(make_job):
    listen = {"address": None, "interface": None, "port_range": None}
    fails(make_job(listen={**listen, "address": "192.0.2.77"}).start(), 113, "'192.0.2.77'")
    fails(make_job(listen={**listen, "interface": "ib\n7"}).start(), 113, r"'ib\n7'")


def test_an_interface_and_a_range(make_job):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listen = {"address": None, "interface": "lo", "port_range": [max(1024, port - 50), port]}
    job = make_job(listen=listen).start()
    assert job.connection["hosts"] == ["127.0.0.1"]
    assert max(1024, port - 50) <= job.connection["port"] <= port


def test_nowhere_to_tell_the_port(make_job):
    job = make_job()
    (job.run_dir / "connection.json").mkdir()
    fails(job.start(), 115, "connection.json")
    assert job.files == ["connection.json", "job.log"]


def test_a_stubborn_kernel_is_ended_all_the_same(make_job):
    job = make_job(kernel={"argv": ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]}, stop_timeout=0.2)
    (job.run_dir / "connection.json").mkdir()
    fails(job.start(), 115, "connection.json")


def test_a_run_directory_that_is_not_there_yet(make_job):
    job = make_job()
    job.run_dir = job.base / "missing"
    job.log_path = job.base / "log"
    job.start(write_request=False)
    job.process.terminate()
    assert job.wait() in (143, -15)
