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
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What the owner of a job may have scontrol do as root.
CONTROLS = {"update", "requeue", "hold", "release", "suspend", "resume"}
#: From a job's first process on, each the parent of the next.
PROCESSES = ("slurmstepd", "supervisor", "kernel")
#: Seconds for a command, and for a disturbed cluster to be well again.
PATIENCE = 90.0


class Hands:
    """The verbs for any cluster. What they change is written down first, for `undo`."""

    VERBS: tuple[str, ...] = ("stop", "kill", "start", "signal", "scontrol", "logs", "elsewhere", "sweep", "undo")

    def __init__(self) -> None:
        self.frozen: list[int] = []
        self.disturbed = False

    def signal(self, job_id: str, process: str, signum: int) -> None:
        pid = self.process_of(job_id, process)
        self.disturbed = True
        if signum == signal.SIGSTOP:
            self.frozen.append(pid)
        os.kill(pid, signum)

    def scontrol(self, *words: str) -> str:
        if words[0] not in CONTROLS:
            raise ValueError(f"scontrol {words[0]} is none of {', '.join(sorted(CONTROLS))}")
        self.disturbed = True
        return self.slurm("scontrol", *words)

    def undo(self) -> None:
        """Leave the machines and the cluster as they were."""
        while self.frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.frozen.pop(), signal.SIGCONT)
        if self.disturbed:
            self.restore()
            until(self.revive, "nodes that take jobs")
            self.disturbed = False

    def revive(self) -> bool:
        """Whether every node takes jobs; those that do not are told to."""
        nodes = [line.split() for line in self.slurm("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()]
        bad = {name for name, state in nodes if re.search(r"down|drain|fail|unk|\*", state)}
        for name in bad:
            with contextlib.suppress(RuntimeError):  # it is not down in a way that this ends
                self.slurm("scontrol", "update", f"NodeName={name}", "State=RESUME")
        return not bad

    def slurm(self, *argv: str) -> str:
        """Run one of Slurm's commands as an administrator."""
        raise NotImplementedError

    def process_of(self, job_id: str, name: str) -> int:
        """Find one of a job's processes, as this machine numbers them."""
        raise NotImplementedError

    def restore(self) -> None:
        """Have all daemons do their work."""
        raise NotImplementedError


class OneMachine(Hands):
    """The verbs for the cluster of scripts/cluster."""

    VERBS = (*Hands.VERBS, "disk", "write_protect")

    def __init__(self, user: str, cluster: str, folder: Path) -> None:
        super().__init__()
        self.owner = pwd.getpwnam(user)
        self.cluster = cluster
        self.folder = folder
        self.disks: list[Path] = []

    def stop(self, daemon: str) -> None:
        self.disturbed = True
        run(self.cluster, "stop", daemon)

    def kill(self, daemon: str) -> None:
        self.disturbed = True
        run(self.cluster, "kill", daemon)

    def start(self, daemon: str) -> None:
        run(self.cluster, "start", daemon)

    def disk(self, size: str) -> str:
        path = Path(tempfile.mkdtemp(prefix="disk-", dir=self.folder))
        self.disks.append(path)
        options = f"size={size},mode=700,uid={self.owner.pw_uid},gid={self.owner.pw_gid}"
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path))
        return str(path)

    def write_protect(self, disk: str) -> None:
        run("mount", "-o", "remount,ro", str(self.disks[self.disks.index(Path(disk))]))

    def logs(self, since: float) -> str:
        """What daemons have logged since then; a line that has no time belongs to the one before."""
        first = time.strftime("[%Y-%m-%dT%H:%M:%S", time.localtime(since))
        lines, late = [], False
        for line in run(self.cluster, "logs", "-n", "500").splitlines():
            if line.startswith("["):
                late = line >= first
            if line.startswith("==>") or late:
                lines.append(line)
        return "\n".join(lines)

    def elsewhere(self) -> dict[str, list[str]]:
        return {}  # there is this machine alone

    def sweep(self) -> None:
        pass

    def undo(self) -> None:
        super().undo()
        while self.disks:
            run("umount", "--lazy", str(self.disks[-1]))
            self.disks.pop().rmdir()

    def slurm(self, *argv: str) -> str:
        return run(*argv)

    def process_of(self, job_id: str, name: str) -> int:
        """Find it on this machine, where other clusters may have a job of that number."""
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

    def restore(self) -> None:
        run(self.cluster, "up")

    def revive(self) -> bool:
        well = subprocess.run([self.cluster, "status"], check=False, capture_output=True, timeout=PATIENCE)
        return super().revive() and well.returncode == 0


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition of the cluster, of which there is no event."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"never happened: {what}")
        time.sleep(0.1)


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(argv)}` failed: {done.stdout}{done.stderr}")
    return done.stdout


class Server(socketserver.UnixStreamServer):
    """Serves one question after another."""

    def __init__(self, path: str, asker: int, hands: Any) -> None:
        self.hands = hands
        mask = os.umask(0o177)
        super().__init__(path, Question)
        os.umask(mask)
        os.chown(path, asker, -1)


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


def serve(path: str, asker: int, hands: Any) -> None:
    """Do what a user asks for at a socket, until standard input ends."""
    with Server(path, asker, hands) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("ready", flush=True)
        sys.stdin.read()
        server.shutdown()  # once the present question is answered


def ask(path: str, *words: Any) -> Any:
    """Ask for something at the socket, and return the answer's value."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(200)
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
    hands = OneMachine(user, cluster, Path(path).parent)
    serve(path, hands.owner.pw_uid, hands)
    hands.undo()


if __name__ == "__main__":
    main()
