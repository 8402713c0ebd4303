"""What happens when this process dies without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GUARDED = """
import os, sys, time
from slurm_provisioner.guard import guard
kept, dropped, odd = sys.argv[1:]
guard.add(["touch", "--", kept])
drop = guard.add(["touch", dropped])
guard.add(["no-such-program"], ["touch", odd])
drop()
{then}
"""


def eventually(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(tmp_path: Path, then: str) -> tuple[Path, Path, subprocess.Popen[str]]:
    kept, dropped, odd = tmp_path / "a 'name' $(x)", tmp_path / "dropped", tmp_path / "-odd"
    argv = [sys.executable, "-c", GUARDED.format(then=then), *map(str, (kept, dropped, odd))]
    return kept, dropped, subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_left_is_run_when_the_process_is_killed(tmp_path, how):
    kept, dropped, process = run(
        tmp_path, "import signal; signal.signal(2, 0)\nprint('up', flush=True); time.sleep(60)"
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(how)
    process.wait()
    process.stdout.close()
    eventually(kept.exists)
    eventually((tmp_path / "-odd").exists)
    assert not dropped.exists()


def test_a_forked_child_that_lives_on_does_not_hold_the_guard_back(tmp_path):
    kept, _, process = run(tmp_path, "child = os.fork()\nif not child: time.sleep(60)\nprint(child, flush=True)")
    child = int(process.stdout.readline())
    process.wait()
    process.stdout.close()
    eventually(kept.exists)
    os.kill(child, signal.SIGKILL)


def test_a_guard_that_was_killed_is_replaced(tmp_path):
    then = (
        "import subprocess\n"
        "pid = subprocess.run(['pgrep', '-P', str(os.getpid())], capture_output=True, text=True).stdout.split()[0]\n"
        "os.kill(int(pid), 9); os.waitpid(int(pid), 0)\n"
        "guard.add(['true'])\n"  # finds out
        "guard.add(['touch', kept + '2'])\n"
        "os.kill(os.getpid(), 9)"
    )
    kept, _, process = run(tmp_path, then)
    process.wait()
    process.stdout.close()
    eventually(Path(f"{kept}2").exists)


def test_nothing_is_left_of_a_guard_with_nothing_to_do(tmp_path):
    script = (
        "import os, subprocess; from slurm_provisioner.guard import guard\n"
        "guard.add(['true'])()\n"
        "argv = ['pgrep', '-P', str(os.getpid()), '-f', 'slurm-provisioner-guard']\n"
        "print(subprocess.run(argv, capture_output=True, text=True).stdout.split()[0])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    eventually(lambda: not Path(f"/proc/{done.stdout.strip()}").exists())
