"""What another ordinary user of the same machine can see of a running kernel: nothing.

Run as root, on the one-machine cluster: one user's kernel is scanned by another user.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kernels import eventually
from scan import listening

HERE = Path(__file__).parent
OWNER, STRANGER = "alice", "bob"
ARGV = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


def as_user(name: str, *argv: str) -> list[str]:
    user = pwd.getpwnam(name)
    env = {
        "HOME": user.pw_dir,
        "USER": name,
        "LOGNAME": name,
        "PATH": "/usr/bin:/bin",
        "SLURM_CONF": os.environ["SLURM_CONF"],
    }
    return [
        "runuser",
        "-u",
        name,
        "--",
        "env",
        "-i",
        f"--chdir={user.pw_dir}",
        *(f"{k}={v}" for k, v in env.items()),
        *argv,
    ]


@pytest.fixture
def hold() -> Iterator[Callable[..., dict[str, Any]]]:
    """Have the owner start a kernel, and tell what there is to be found of it."""
    held = []
    kernels = Path(pwd.getpwnam(OWNER).pw_dir) / ".local/share/jupyter/kernels"
    user = pwd.getpwnam(OWNER)

    def hold(metadata: dict[str, Any], seen: str = "stream") -> dict[str, Any]:
        ports = [port for _, port in listening()]
        subprocess.run(as_user(OWNER, "mkdir", "-p", str(kernels)), check=True, timeout=60)
        spec = kernels / "privacy"
        spec.mkdir(exist_ok=True)
        (spec / "kernel.json").write_text(
            json.dumps({"display_name": "privacy", "language": "python", "argv": ARGV, "metadata": metadata})
        )
        for path in (spec, spec / "kernel.json"):
            os.chown(path, user.pw_uid, user.pw_gid)
        marker = f"output-{secrets.token_hex(8)}"
        process = subprocess.Popen(
            as_user(OWNER, sys.executable, str(HERE / "hold.py"), "privacy", seen),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        held.append(process)
        process.stdin.write(f"{marker}\n")
        process.stdin.flush()
        told = json.loads(process.stdout.readline())
        return {**told, "known_ports": ports, "secrets": {"output": marker, "session key": told["key"]}}

    yield hold
    for process in held:
        process.communicate("", timeout=60)
        assert process.returncode == 0
    shutil.rmtree(kernels / "privacy", ignore_errors=True)


@pytest.fixture
def login() -> Iterator[str]:
    """A login host that lets the owner in; the configuration of ssh for it."""
    argv = as_user(OWNER, sys.executable, str(HERE / "login.py"), os.environ["SLURM_CONF"])
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().strip()
    process.communicate("", timeout=60)
    assert process.returncode == 0


def scan(asked: dict[str, Any]) -> list[list[str]]:
    """What the stranger finds."""
    places = ["/tmp", "/var/tmp", "/dev/shm", "/var/spool", "/run"]
    asked = {**asked, "folders": [*places, str(Path(pwd.getpwnam(OWNER).pw_dir).parent)]}
    done = subprocess.run(
        as_user(STRANGER, sys.executable, str(HERE / "scan.py")),
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    return json.loads(done.stdout)


def test_the_scan_finds_what_a_plain_kernel_shows(hold):
    """The scan is worth something: an ordinary kernel's output is read from its open port."""
    found = scan(hold({}))
    assert any(name == "output" and where.startswith("tcp://") for name, where in found)


def test_nothing_of_a_slurm_kernel_can_be_read(hold):
    value = f"environment-{secrets.token_hex(8)}"
    config = {"time": "10", "mem": "500M", "env": {"API_TOKEN": value}}
    asked = hold({"kernel_provisioner": {"provisioner_name": "slurm-provisioner", "config": config}})
    assert not Path(asked["run_dir"], "request.json").exists(), "what was read is gone"
    private_key = asked["private_key"].splitlines()[1]
    assert re.fullmatch(r"[A-Za-z0-9+/=]{60,}", private_key)
    asked["secrets"] |= {"environment": value, "private key": private_key}
    assert scan(asked) == []
    assert_private(asked["run_dir"])


@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
def test_nothing_of_a_kernel_that_is_reached_by_ssh_can_be_read(login, hold, transport):
    value = f"environment-{secrets.token_hex(8)}"
    config = {"time": "10", "mem": "500M", "env": {"API_TOKEN": value}}
    stanza = {"provisioner_name": "slurm-provisioner", "config": config}
    plain = new_ports(hold({"kernel_provisioner": stanza}))
    config["ssh"] = {"host": "hpc", "config": login, "transport": transport}
    asked = hold({"kernel_provisioner": stanza})
    asked["secrets"] |= {"environment": value, "private key": asked["private_key"].splitlines()[1]}
    assert len(new_ports(asked)) == len(plain), "the supervisor's, and what ipykernel has for itself"
    assert scan(asked) == []
    assert_private(asked["run_dir"])


def new_ports(asked: dict[str, Any]) -> set[int]:
    """Where the owner listens since a kernel was started."""
    return {port for _, port in listening(pwd.getpwnam(OWNER).pw_uid)} - set(asked["known_ports"])


def assert_private(run_dir: str) -> None:
    """Nobody is kept out by chance: files are private one by one, too."""
    for path in [Path(run_dir), *Path(run_dir).iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_of_a_kernel_that_waits_can_be_read(hold):
    config = {"time": "10", "mem": "500M", "sbatch": {"begin": "now+1hour"}}
    metadata = {"kernel_provisioner": {"provisioner_name": "slurm-provisioner", "config": config}}
    asked = hold(metadata, seen="display_data")
    asked["secrets"]["private key"] = asked["private_key"].splitlines()[1]
    assert scan(asked) == []


def test_nothing_secret_in_script_or_accounting_even_for_root(hold):
    asked = hold(
        {
            "kernel_provisioner": {
                "provisioner_name": "slurm-provisioner",
                "config": {"time": "10", "mem": "500M"},
            }
        }
    )

    def told(argv: list[str]) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout if asked["job_id"] in done.stdout or "#SBATCH" in done.stdout else ""

    for argv in (
        ["scontrol", "write", "batch_script", asked["job_id"], "-"],
        ["scontrol", "show", "job", "-d", asked["job_id"]],
        ["sacct", "--jobs", asked["job_id"], "--parsable2", "--format=ALL"],
    ):
        shown = eventually(partial(told, argv), f"an answer of {argv[0]}")
        assert asked["key"] not in shown
        assert "PRIVATE KEY-----" not in shown.replace("BEGIN PRIVATE KEY", "")
