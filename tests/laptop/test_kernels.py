"""What a user has of a kernel on a cluster that the laptop knows by SSH only."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
import tempfile
from pathlib import Path

SURROUNDINGS = """
import getpass, json, os, sys, tempfile
print(json.dumps({
    "user": getpass.getuser(),
    "uid": os.getuid(),
    "cwd": os.getcwd(),
    "prefix": sys.prefix,
    "environment": dict(os.environ),
    "temporary": tempfile.gettempdir(),
    "job": os.environ["SLURM_JOB_ID"],
}))"""


def test_a_kernel_is_on_the_cluster_and_has_nothing_of_the_laptop(world, kernelspec, transport, start, monkeypatch):
    monkeypatch.setenv("LAPTOP_SECRET", "none of the cluster's business")
    kernel = start(kernelspec(transport), cwd=str(Path.home()))
    there = json.loads(kernel.run(SURROUNDINGS))
    assert there["user"] == world.user != getpass.getuser()
    assert there["uid"] != os.getuid()
    assert there["job"] == kernel.job_id == world.queue()[0].split()[0]
    assert there["cwd"] == world.home, "the laptop's folder is not there"
    assert there["prefix"] == sys.prefix, "of `venv`"
    assert there["temporary"] != tempfile.gettempdir()
    for name in ("LAPTOP_SECRET", "JUPYTER_DATA_DIR", "SLURM_TEST_HANDS"):
        assert name not in there["environment"]
    assert "dora" not in json.dumps(there["environment"])

    (supervisor,) = [
        command for command in world.listening() if "ipykernel_launcher" not in command
    ]  # its threads use ports
    assert re.match(r"\S*python\S* -I - ", supervisor)
    assert world.left()["run directories"] == [kernel.manager.kernel_id]
    folder = f"{world.home}/{world.state}/{kernel.manager.kernel_id}"
    assert world.run("stat", "--format=%a %U", folder).split() == ["700", world.user]
    kernel.close()
    world.queue_empties()
    assert world.left()["run directories"] == []


def test_a_kernel_starts_in_the_folder_of_the_laptop_where_the_cluster_has_it_too(kernelspec, start):
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = start(kernelspec(argv=argv), cwd="/usr/share")
    there = json.loads(kernel.run(SURROUNDINGS))
    assert there["cwd"] == "/usr/share"
    assert there["prefix"] == sys.prefix


def test_a_kernel_does_what_kernels_do(kernelspec, transport, start):
    kernel = start(kernelspec(transport))
    job_id = kernel.job_id
    assert kernel.run("x = 6; x * 7") == "42"
    assert len(kernel.run("for _ in range(200): print('x' * 99_999)")) == 200 * 100_000 - 1
    assert kernel.run("len('y' * 3_000_000 and '''" + "z" * 3_000_000 + "''')") == "3000000"

    client = kernel.client
    client.allow_stdin = True
    client.stdin_channel.start()
    answer = kernel.run(
        "print('Hello', input('Who? '))", stdin_hook=lambda msg: client.input(msg["content"]["prompt"] + "me")
    )
    assert "Hello Who? me" in answer

    reply = kernel.interrupt("import time; print('begun', flush=True)\ntime.sleep(600)")
    assert reply["ename"] == "KeyboardInterrupt"
    assert kernel.run("x") == "6"
    kernel.restart()
    assert kernel.run("'x' in globals()") == "False"
    assert kernel.run("import os; print(os.environ['SLURM_JOB_ID'])") == job_id


def test_folders_of_both_sides_are_private(kernelspec, transport, start, world):
    start(kernelspec(transport))
    ours = list(Path(tempfile.gettempdir()).glob("slurm-kernel-*"))
    assert ours
    assert all(path.stat().st_mode & 0o077 == 0 for path in ours)
    (theirs,) = world.left()["private folders"]
    assert world.run("stat", "--format=%a", f"{world.node_tmp}/{theirs}").strip() == "700"
