"""How the supervisor and its kernel start, and what they start with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from supervisors import CHANNELS, FAKE_ARGV, Job, eventually, mode

from slurm_provisioner import launcher


@pytest.mark.every_python
def test_from_the_start_to_a_stop(job: Job):
    connection = job.connection
    with job.supervisor(ready=False) as supervisor:
        first = supervisor.first
        assert first == {
            "event": "status",
            "protocol": 1,
            "nonce": job.request["nonce"],
            "job_id": "1234",
            "node": os.uname().nodename,
            "pid": first["pid"],
            "generation": 1,
            "state": first["state"],
            "code": None,
            "signal": None,
            "oom": False,
            "log": [],
            "lease_left": 600.0,
            "ending": None,
        }
        if first["state"] == "starting":
            assert supervisor.event("ready") == {"event": "ready", "pid": first["pid"], "generation": 1}

        python, told_at = connection.pop("python"), connection.pop("time")
        port = connection["port"]
        assert connection == {
            "protocol": 1,
            "nonce": job.request["nonce"],
            "job_id": "1234",
            "node": os.uname().nodename,
            "hosts": ["127.0.0.1"],
            "port": port,
            "ssh_host_keys": launcher.ssh_host_keys(),
            "pid": job.process.pid,
        }
        assert python.split(".")[0] == "3"
        assert abs(told_at - time.time()) < 60
        assert mode(job.run_dir / "connection.json") == 0o600
        assert job.files == ["connection.json", "job.log"]

        (private,) = job.private_dirs
        name = f"kernel-{job.request['kernel_id']}.json"
        assert mode(private) == 0o700
        assert mode(private / name) == 0o600
        assert {path.name for path in private.iterdir()} == {name, "lock", "k-1", "k-2", "k-3", "k-4", "k-5"}
        assert json.loads((private / name).read_text()) == {
            **job.session,
            "transport": "ipc",
            "ip": str(private / "k"),
            **{f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)},
        }
        for channel in ("shell", "iopub", "stdin", "hb"):
            with job.stream(channel) as stream:
                stream.sendall(channel.encode())
                assert stream.recv(100) == channel.encode()
        report = job.ask("report")
        assert report["pid"] == first["pid"] == report["pgid"] == report["sid"]
        assert report["ppid"] == job.process.pid
        assert report["environ"]["JPY_PARENT_PID"] == str(job.process.pid)
        assert report["stdin"] == os.readlink(f"/proc/{job.process.pid}/fd/0") == "/dev/null"
        assert report["cwd"] == str(job.home)

        assert supervisor.call("stop") == {"re": 1, "ok": True}
        ending, exited, bye = supervisor.until_end()
        assert ending == {"event": "ending", "reason": "stop"}
        assert (exited["event"], exited["expected"], exited["signal"]) == ("exited", True, signal.SIGTERM)
        assert bye == {"event": "bye", "reason": "stop"}
    assert job.wait() == 0
    assert all(line.startswith("slurm-provisioner: ") for line in job.log.splitlines())
    assert job.files == ["job.log"]


@pytest.mark.every_python
def test_modules_of_the_home_directory_are_not_ours(make_job):
    job = make_job()
    for name in ("json", "ssl", "asyncio", "string", "typing", "subprocess"):
        (job.home / f"{name}.py").write_text("raise SystemExit('a module of the home directory')")
    job.environ["PYTHONPATH"] = f"{job.home}:"  # the empty entry is the current directory
    job.start()
    with job.supervisor():
        assert job.ask("report")["environ"]["PYTHONPATH"] == f"{job.home}:"


def test_a_request_that_comes_late_and_in_parts(make_job):
    job = make_job().start(write_request=False)
    text = json.dumps(job.request)
    for part in (text[:50], text):
        (job.run_dir / "request.json").write_text(part)
    with job.supervisor() as supervisor:
        assert supervisor.first["nonce"] == job.request["nonce"]


def test_the_kernels_environment(make_job):
    job = make_job(kernel={"env": {"PLACE": "$HOME/x-${SLURM_JOB_ID}", "JPY_OURS": "1"}})
    job.environ.update(JPY_SESSION_NAME="of another Jupyter", JPY_API_TOKEN="token", SLURM_CPUS_ON_NODE="2")
    job.start()
    environ = job.ask("report")["environ"]
    assert environ["PLACE"] == f"{job.home}/x-1234"
    assert environ["SLURM_CPUS_ON_NODE"] == "2"
    assert {name: value for name, value in environ.items() if name.startswith("JPY_")} == {
        "JPY_OURS": "1",
        "JPY_PARENT_PID": str(job.process.pid),
    }


def test_signals_that_the_batch_shell_ignored_are_not_ignored_by_the_kernel(make_job):
    def ignore():
        for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGTSTP):
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})

    job = make_job(kernel={"argv": ["cat", "/proc/self/status"]}, crash_grace=0.0).start(preexec_fn=ignore)
    assert job.wait() == 0
    status = dict(line.split(":\t", 1) for line in job.log.splitlines() if ":\t" in line)
    assert int(status["SigIgn"], 16) == int(status["SigBlk"], 16) == 0


@pytest.mark.parametrize("name", ["with space, 'quotes\", a\nnew line, $HOME; `id` and ünïcode", "-n"])
def test_hostile_names(make_job, name):
    job = make_job(run_name=name)
    cwd = job.base / f"cwd {name}"
    cwd.mkdir()
    job.kernel["cwd"] = str(cwd)
    job.start()
    assert job.ask("report")["cwd"] == str(cwd)


def test_a_working_directory_that_is_not_here(make_job):
    job = make_job(kernel={"cwd": "/none/such\nplace"}).start()
    assert job.ask("report")["cwd"] == str(job.home)
    assert r"slurm-provisioner: there is no directory '/none/such\nplace' here" in job.log


def test_a_bare_python_is_the_servers_if_that_is_here(make_job):
    job = make_job(kernel={"argv": ["python3.6", *FAKE_ARGV[1:]], "python": sys.executable}).start()
    assert job.ask("report")["pid"]


def test_a_kernel_that_can_do_tcp_only(make_job):
    job = make_job(kernel={"transport": "tcp"}).start()
    with job.supervisor(), job.stream("shell") as shell:
        shell.sendall(b"hello")
        assert shell.recv(100) == b"hello"
        info = job.ask("report")["info"]
        assert info["transport"] == "tcp"
        assert info["ip"].startswith("127.")
        assert info["ip"] != "127.0.0.1"
        assert len({info[f"{channel}_port"] for channel in CHANNELS}) == 5


def wrapper_script(job: Job, text: str) -> list[str]:
    path = job.base / "wrapper"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return [str(path)]


@pytest.mark.parametrize(
    "launch",
    ['trap : INT\n"$@" &\nwhile kill -0 $!; do wait $!; done\n', 'setsid "$@" &\nwait $!\n', 'exec "$@"\n'],
    ids=["same-group", "other-group", "same-process"],
)
def test_a_wrapped_kernel_is_signalled_itself(make_job, launch):
    job = make_job()
    job.kernel.update(
        wrapper=[*wrapper_script(job, f'echo "$1" > {job.base}/bind\nshift\n{launch}'), "bind={connection_dir}"],
        direct_child=False,
    )
    job.start()
    with job.supervisor() as supervisor:
        report = job.ask("report")
        (private,) = job.private_dirs
        assert (job.base / "bind").read_text() == f"bind={private}\n"
        assert "JPY_PARENT_PID" not in report["environ"]
        assert (private / "pid").read_text() == f"{report['pid']}\n"
        assert supervisor.call("signal", signum=signal.SIGINT)["ok"]
        job.ask("await-interrupt")
        supervisor.call("restart", kernel=job.kernel, session=job.session)
        supervisor.event("ready", generation=2)
        assert job.ask("report")["pid"] != report["pid"]
        assert supervisor.call("stop")["ok"]
        assert supervisor.until_end()[-1]["event"] == "bye"


def test_an_empty_pid_file_means_the_wrappers_group(make_job):
    job = make_job()
    job.kernel.update(wrapper=wrapper_script(job, 'while [ "$1" != "-c" ]; do shift; done; shift 3; exec "$@"\n'))
    job.start()
    with job.supervisor() as supervisor:
        assert not (job.private_dirs[0] / "pid").exists()
        assert supervisor.call("signal", signum=signal.SIGINT)["ok"]
        job.ask("await-interrupt")


def test_a_log_that_is_no_file_has_no_lines(make_job):
    read, write = os.pipe()
    try:
        job = make_job().start(stdout=write)
        with job.supervisor() as supervisor:
            job.ask("print", text="hello\n")
            assert supervisor.call("log", lines=5)["log"] == []
    finally:
        os.close(read)
        os.close(write)


def test_a_channel_waits_for_the_kernels_socket(make_job):
    job = make_job()
    job.kernel["argv"] = [*FAKE_ARGV, str(job.base / "go")]
    job.start()
    with job.supervisor(ready=False) as supervisor, job.stream("shell") as shell:
        assert supervisor.first["state"] == "starting"
        shell.sendall(b"early")
        assert supervisor.call("status")["state"] == "starting"
        Path(job.base / "go").touch()
        assert shell.recv(100) == b"early"
        supervisor.event("ready")


def test_an_end_that_comes_before_all_is_set_up(make_job):
    job = make_job(kernel={"argv": ["sh", "-c", "exit 3"]}, crash_grace=0.0).start()
    assert job.wait() == 3
    assert "ended: exit code 3" in job.log


def waits_for_its_request(make_job) -> Job:
    """A job without a request, from the moment on when it has handlers for its signals."""
    job = make_job().start(write_request=False)
    status = Path(f"/proc/{job.process.pid}/status")

    def handles_the_last():
        return int(status.read_text().split("SigCgt:")[1].split()[0], 16) >> (signal.SIGCHLD - 1) & 1

    eventually(handles_the_last, "a handler")
    return job


def test_signals_for_a_kernel_that_is_not_there_yet(make_job):
    job = waits_for_its_request(make_job)
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2):
        job.process.send_signal(signum)
    job.write_request()
    with job.supervisor() as supervisor:
        assert supervisor.call("status")["state"] == "ready"


def test_told_to_end_while_it_waits_for_the_request(make_job):
    job = waits_for_its_request(make_job)
    job.process.terminate()
    assert job.wait() == 143
    assert "before the kernel was started" in job.log


def test_told_to_end_at_any_moment(make_job):
    for moment in range(6):
        job = make_job().start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.process.wait(moment * 0.04)
        job.process.terminate()
        job.process.terminate()
        assert job.wait() in (143, -signal.SIGTERM)
        assert "Traceback" not in job.log
