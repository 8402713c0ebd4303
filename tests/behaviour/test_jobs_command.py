"""`jupyter slurm list`, `info`, `logs`, `stop` and `clean`: kernels as their user finds them again in a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import QUEUED, VIA, connections, queue, queue_empties, start_now
from kernels import eventually

COMMAND = [sys.executable, "-c", "from slurm_provisioner.cli.main import run; run()"]
STATE = Path.home() / ".slurm_provisioner"


def jupyter_slurm(*words: str, code: int = 0) -> str:
    """What `jupyter slurm` prints, beside what it tells of on stderr."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == code, done
    return done.stdout


def listed(*words: str) -> dict[str, dict[str, Any]]:
    """The kernels of `jupyter slurm list`, by the ids of their jobs."""
    return {each["job_id"]: each for each in json.loads(jupyter_slurm("list", "--json", *words))}


def run_dirs() -> set[str]:
    return {path.name for path in STATE.glob("*")}


def test_a_kernel_is_found_in_the_queue_and_on_its_node(start, kernelspec):
    env = {**os.environ, "JPY_SESSION_NAME": "/home/somebody/thesis/figures.ipynb"}
    kernel = start(kernelspec("later", **QUEUED), queued=True, env=env)
    job_id, kernel_id = kernel.job_id, kernel.manager.kernel_id
    (row,) = listed().values()
    assert (row["job_id"], row["kernel_id"], row["kernelspec"]) == (job_id, kernel_id, "later")
    assert (row["phase"], row["state"], row["reason"], row["node"]) == ("pending", "PENDING", "BeginTime", None)
    assert (row["cluster"], row["persistent"]) == ("local" if VIA == "local" else "hpc", False)
    assert "its begin time has not come yet" in jupyter_slurm("list")
    start_now(job_id)
    kernel.run("pass")
    for name in (job_id, kernel_id, kernel_id[:4], "figures.ipynb", "figures", row["notebook"]):
        told = json.loads(jupyter_slurm("info", name, "--json"))
        assert (told["job_id"], told["explanation"], told["cpus"]) == (job_id, "running", 1)
    assert (told["memory"], told["time_limit_seconds"], told["gpus"]) == ("500M", 600, 0)
    assert told["time_used_seconds"] + told["time_left_seconds"] == 600
    text = jupyter_slurm("info", job_id)
    for words in (row["notebook"], told["node"], told["log"], kernel_id):
        assert words in text
    jupyter_slurm("info", "4711", code=1)


def test_a_log_is_followed_to_the_end_of_the_job_that_is_stopped(start):
    kernel = start()
    job_id = kernel.job_id
    with subprocess.Popen([*COMMAND, "logs", "-f", job_id], stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        kernel.run("import os; os.write(1, 'the kernel’s own words\\n'.encode())")
        assert following.stdout.readline() == "the kernel’s own words\n"
        assert jupyter_slurm("stop", job_id, "--yes").endswith("is gone.\n")
        assert job_id in following.stdout.read()
        assert following.wait(timeout=60) == 0
    assert queue() == []
    assert listed() == {}
    ended = listed("--all")[job_id]
    assert (ended["phase"], ended["state"]) == ("ended", "CANCELLED")
    assert jupyter_slurm("logs", "-n1", job_id).count("\n") == 1
    assert "it was cancelled" in jupyter_slurm("stop", job_id)  # is no error, and no question
    assert f"would be removed: {ended['run_directory']} " in jupyter_slurm("clean", "--dry-run")
    assert kernel.manager.kernel_id in run_dirs()
    assert f"removed: {ended['run_directory']} " in jupyter_slurm("clean")
    assert kernel.manager.kernel_id not in run_dirs()
    assert listed("--all") == {}


@pytest.mark.one_machine
def test_all_that_the_killed_left_is_removed_and_nothing_of_the_living(start, kernelspec):
    living = start()
    masters = connections()
    script = f"""
from jupyter_client.manager import KernelManager
km = KernelManager(kernel_name={kernelspec()!r})
km.start_kernel()
km.client().wait_for_ready(timeout=60)
print(km.kernel_id, km.provisioner.job_id, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        kernel_id, job_id = server.stdout.readline().split()
        kill(*children(server.pid), server.pid, *(connections().keys() - masters.keys()))  # with those to clear up
    assert listed().keys() == {living.job_id, job_id}
    told = subprocess.run([*COMMAND, "clean", "--dry-run"], capture_output=True, text=True, check=True)
    assert f"jupyter slurm stop {job_id}" in told.stderr
    assert not re.search(rf"[Jj]ob {living.job_id}\b|stop {living.job_id}\b", told.stdout + told.stderr)
    kill(*eventually(lambda: supervisors(kernel_id), "its supervisor"))
    eventually(lambda: listed("--all")[job_id]["phase"] == "ended", "the job's end")
    said = jupyter_slurm("clean")
    assert f"/{kernel_id} (" in said
    assert "slurm-kernel-" in told.stdout + said
    assert living.manager.kernel_id not in said
    assert run_dirs() == {living.manager.kernel_id}
    assert living.run("6 * 7") == "42"
    assert listed("--all").keys() == {living.job_id}
    assert "There is nothing to remove." in told_by("clean")
    living.close()
    queue_empties()
    assert listed("--all") == {}


def test_a_cluster_that_does_not_answer_is_told_of_and_the_others_are_listed(start, kernelspec):
    kernel = start()
    kernelspec("far", ssh={"host": "localhost", "port": 1, "config": "/dev/null"})
    done = subprocess.run([*COMMAND, "list", "--json"], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, [each["job_id"] for each in json.loads(done.stdout)]) == (3, [kernel.job_id])
    assert "localhost" in done.stderr
    assert jupyter_slurm("list", "--kernelspec", "far", code=3) == ""
    assert jupyter_slurm("info", "4711", code=3) == ""
    assert kernel.job_id in jupyter_slurm("list", "--kernelspec", "slurm")


def told_by(*words: str) -> str:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=True, timeout=100)
    return done.stderr


def kill(*pids: int) -> None:
    assert pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def commands() -> dict[int, tuple[int, str]]:
    """The parent and the command line of each process of this user."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == os.getuid():
                parent = int((path / "stat").read_bytes().rpartition(b")")[2].split()[1])
                found[int(path.name)] = parent, (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def children(pid: int) -> list[int]:
    return [child for child, (parent, _) in commands().items() if parent == pid]


def supervisors(kernel_id: str) -> list[int]:
    return [pid for pid, (_, line) in commands().items() if f" -I - {STATE}/{kernel_id} " in line]


def test_a_log_that_nobody_reads_any_more_is_left(start):
    kernel = start()
    kernel.run("import os; os.write(1, b'x' * 1_000_000)")
    with subprocess.Popen([*COMMAND, "logs", kernel.job_id], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # then the pipe is full
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
