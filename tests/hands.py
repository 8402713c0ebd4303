"""Root's hands for tests that run as an ordinary user: a few verbs, which disturb a cluster and are all undone again.

    python3 hands.py SOCKET USER CLUSTER

serves USER at a unix socket until standard input ends, and says on standard output when it listens. CLUSTER is
scripts/cluster. A question is a line of JSON, ``["stop", "slurmctld"]``; so is its answer, ``{"value": ...}`` or
``{"error": "a sentence"}``. `ask` asks one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

#: What the owner of a job may have scontrol do as root.
CONTROLS = {"update", "requeue", "hold", "release", "suspend", "resume"}
#: From a job's first process on, each the parent of the next.
PROCESSES = ("slurmstepd", "supervisor", "kernel")
#: Seconds for a command, and for a disturbed cluster to be well again.
PATIENCE = 60.0


class Hands:
    """The verbs. What they change is written down first, for `undo`."""

    VERBS: tuple[str, ...] = ("stop", "kill", "start", "signal", "disk", "write_protect", "scontrol", "undo")

    def __init__(self, user: str, cluster: str, folder: Path) -> None:
        self.owner = pwd.getpwnam(user)
        self.cluster = cluster
        self.folder = folder
        self.disks: list[Path] = []
        self.frozen: list[int] = []
        self.disturbed = False

    def stop(self, daemon: str) -> None:
        self.disturbed = True
        run(self.cluster, "stop", daemon)

    def kill(self, daemon: str) -> None:
        self.disturbed = True
        run(self.cluster, "kill", daemon)

    def start(self, daemon: str) -> None:
        run(self.cluster, "start", daemon)

    def signal(self, job_id: str, process: str, signum: int) -> None:
        pid = process_of(job_id, process)
        self.disturbed = True
        if signum == signal.SIGSTOP:
            self.frozen.append(pid)
        os.kill(pid, signum)

    def disk(self, size: str) -> str:
        path = Path(tempfile.mkdtemp(prefix="disk-", dir=self.folder))
        self.disks.append(path)
        options = f"size={size},mode=700,uid={self.owner.pw_uid},gid={self.owner.pw_gid}"
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path))
        return str(path)

    def write_protect(self, disk: str) -> None:
        run("mount", "-o", "remount,ro", str(self.disks[self.disks.index(Path(disk))]))

    def scontrol(self, *words: str) -> str:
        if words[0] not in CONTROLS:
            raise ValueError(f"scontrol {words[0]} is none of {', '.join(sorted(CONTROLS))}")
        self.disturbed = True
        return run("scontrol", *words)

    def undo(self) -> None:
        """Leave the machine and the cluster as they were."""
        while self.frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.frozen.pop(), signal.SIGCONT)
        if self.disturbed:
            run(self.cluster, "up")
            self.revive()
            self.disturbed = False
        while self.disks:
            run("umount", "--lazy", str(self.disks[-1]))
            self.disks.pop().rmdir()

    def revive(self) -> None:
        """Have every node take jobs again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            nodes = [line.split() for line in run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()]
            bad = {name for name, state in nodes if re.search(r"down|drain|fail|unk|\*", state)}
            if not bad and subprocess.run([self.cluster, "status"], check=False, capture_output=True).returncode == 0:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the cluster does not get well again: {nodes}")
            for name in bad:
                with contextlib.suppress(RuntimeError):  # it is not down in a way that this ends
                    run("scontrol", "update", f"NodeName={name}", "State=RESUME")
            time.sleep(0.1)


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(argv)}` failed: {done.stdout}{done.stderr}")
    return done.stdout


def process_of(job_id: str, name: str) -> int:
    """Find one of a job's processes on this machine, where other clusters may have a job of that number."""
    home = Path(os.environ["SLURM_CONF"]).parents[1]  # slurmd's, and so its children's, working directory
    children: dict[int, list[int]] = {}
    pid = None
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
            if (path / "cmdline").read_bytes().startswith(f"slurmstepd: [{job_id}.batch]".encode()):
                pid = int(path.name) if (path / "cwd").resolve() == home else pid
    for _ in range(PROCESSES.index(name)):
        pid = min(children.get(pid, [None])) if pid is not None else None
    if pid is None:
        raise RuntimeError(f"job {job_id} has no {name}")
    return pid


class Server(socketserver.UnixStreamServer):
    """Serves one question after another."""

    def __init__(self, path: str, asker: pwd.struct_passwd, hands: Hands) -> None:
        self.hands = hands
        mask = os.umask(0o177)
        super().__init__(path, Question)
        os.umask(mask)
        os.chown(path, asker.pw_uid, asker.pw_gid)


class Question(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        answer: dict[str, Any]
        try:
            verb, *words = json.loads(self.rfile.readline())
            hands = self.server.hands
            answer = {"value": getattr(hands, hands.VERBS[hands.VERBS.index(verb)])(*words)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def serve(path: str, asker: str, hands: Hands) -> None:
    """Do what a user asks for at a socket, until standard input ends."""
    with Server(path, pwd.getpwnam(asker), hands) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("ready", flush=True)
        sys.stdin.read()
        server.shutdown()  # once the present question is answered


def ask(path: str, *words: Any) -> Any:
    """Ask for something at the socket, and return the answer's value."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(110)
        connection.connect(path)
        connection.sendall(json.dumps(words).encode() + b"\n")
        with connection.makefile() as file:
            answer = json.loads(file.readline())
    assert "error" not in answer, answer["error"]
    return answer["value"]


def ignore_signals() -> None:
    """Leave them to whoever holds our standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    path, user, cluster = sys.argv[1:]
    ignore_signals()
    hands = Hands(user, cluster, Path(path).parent)
    serve(path, user, hands)
    hands.undo()


if __name__ == "__main__":
    main()
