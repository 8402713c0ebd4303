"""Root's hands on the hosts of a cluster in containers: what happens to machines, networks and daemons.

    python3 hosts.py SOCKET PROJECT UID

serves UID at a unix socket as hands.py does, until standard input ends. PROJECT is the compose project of
docker-compose.yml. Everything is undone again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from docker.models.containers import Container
from hands import PATIENCE, PROCESSES, Hands, ignore_signals, serve, until

import docker

NODES = ("c1", "c2")
#: The program of each daemon; it has its host's name.
DAEMONS = {"slurmctld": "slurmctld", "slurmdbd": "slurmdbd", **dict.fromkeys(NODES, "slurmd")}
#: Our rules in a host's firewall.
TABLE = "inet slurm_provisioner"
#: How processes of kernels look on nodes, and connections on the login host; and where their folders are.
PROCESS = re.compile(r"ipykernel_launcher|/kernel-[\w-]+\.json|python\S* -I - |^sshd[\w-]*: ")
FOLDERS = ("tmp", "var/tmp", "dev/shm")


class Hosts(Hands):
    """The verbs."""

    VERBS = (*Hands.VERBS, "lose", "pause", "back", "cut", "join", "home", "wall", "scan")

    def __init__(self, project: str, uid: int) -> None:
        super().__init__()
        client = docker.from_env(timeout=int(PATIENCE))
        found = client.containers.list(all=True, filters={"label": f"com.docker.compose.project={project}"})
        self.hosts: dict[str, Container] = {each.labels["com.docker.compose.service"]: each for each in found}
        self.network = client.networks.get(f"{project}_default")
        self.addresses = {name: self._address(each) for name, each in self.hosts.items()}
        self.uid = uid
        self.stopped: set[str] = set()

    # Daemons

    def stop(self, daemon: str) -> None:
        """Stop a daemon in good order; a node's has the node's name."""
        self._end(daemon, signal.SIGTERM)

    def kill(self, daemon: str) -> None:
        """Stop it by SIGKILL."""
        self._end(daemon, signal.SIGKILL)

    def start(self, daemon: str) -> None:
        """Start it again, and wait until it does its work."""
        self._run_daemon(daemon)
        self._until_well(daemon)

    def logs(self, since: float) -> str:
        """What the hosts have logged since then."""
        found = {name: host.logs(since=int(since), timestamps=True) for name, host in self.hosts.items()}
        return "\n".join(f"==> {name}\n{text.decode(errors='replace')}" for name, text in found.items() if text)

    # Machines

    def lose(self, host: str) -> None:
        """Have a machine vanish with all that runs on it."""
        self.disturbed = True
        self.hosts[host].kill()

    def pause(self, host: str) -> None:
        """Have a machine stand still."""
        self.disturbed = True
        self.hosts[host].pause()

    def back(self, host: str) -> None:
        """Start a machine that was lost, or have it go on."""
        self.hosts[host].reload()
        if self.hosts[host].status == "paused":
            self.hosts[host].unpause()
        else:
            self._switch_on(host)
        self._until_well(host)

    def cut(self, host: str) -> None:
        """Pull a machine's network cable."""
        self.disturbed = True
        self.network.disconnect(self.hosts[host], force=True)

    def join(self, host: str) -> None:
        """Plug it in again."""
        self.network.connect(self.hosts[host], ipv4_address=self.addresses[host], aliases=[host])

    def home(self, host: str, there: bool) -> None:
        """Take /home away from a machine, or give it back."""
        self.disturbed = True
        argv = ["umount", "/home"] if there else ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/home"]
        enter = ["nsenter", "--target", str(self._top(self.hosts[host])), "--mount"]
        subprocess.run([*enter, *argv], check=True, capture_output=True, timeout=PATIENCE)

    def wall(self, host: str, ports: str) -> None:
        """Have a machine drop what is tried from the login host, but for SSH, Slurm and some ports (``5000-5099``)."""
        self.disturbed = True
        rule = f"ip saddr {self.addresses['login']} ct state new tcp dport != {{ 22, 6818, {ports} }} drop"
        rules = f"table {TABLE} {{\nchain input {{\ntype filter hook input priority 0;\n{rule}\n}}\n}}"
        self._run(host, "nft", rules)

    def elsewhere(self) -> dict[str, list[str]]:
        """What the user's kernels have on nodes and the login host: processes, connections and folders."""
        tops = {name: self._top(self.hosts[name]) for name in (*NODES, "login")}
        spaces = {os.readlink(f"/proc/{pid}/ns/pid"): name for name, pid in tops.items() if pid}
        found: dict[str, list[str]] = {name: [] for name in tops}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                name = spaces.get(os.readlink(path / "ns/pid"), "")
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if name and self._owned(path) and PROCESS.search(command):
                    found[name].append(f"{path.name} {command}")
        for name, path in self._folders(*NODES):
            found[name].append(f"folder {path.name}")
        return found

    def sweep(self) -> None:
        """Remove the folders of kernels on nodes: whose supervisor was killed, has nobody else to do so."""
        self._sweep(*NODES)

    def scan(self, host: str, asked: dict[str, Any]) -> list[list[str]]:
        """What a stranger finds of some secrets on a host, see privacy/scan.py."""
        code = (Path(__file__).parents[1] / "privacy" / "scan.py").read_text()
        argv = ["docker", "exec", "--interactive", "--user", "bob", str(self.hosts[host].id), "python3", "-c", code]
        done = subprocess.run(
            argv, input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        if done.returncode != 0:
            raise RuntimeError(f"the scan on {host} failed: {done.stderr}")
        found: list[list[str]] = json.loads(done.stdout)
        return found

    def _sweep(self, *hosts: str) -> None:
        for _, path in self._folders(*hosts):
            shutil.rmtree(path, ignore_errors=True)

    def restore(self) -> None:
        for name, host in self.hosts.items():
            host.reload()
            if host.status == "paused":
                host.unpause()
            elif host.status != "running":
                self._switch_on(name)
            if self.addresses[name] and self.network.name not in self._networks(host):
                self.join(name)
            if name in (*NODES, "login"):
                self._run(name, "nft", "delete", "table", *TABLE.split(), check=False)
                while "tmpfs /home" in self._run(name, "cat", "/proc/mounts"):  # as often as it was taken away
                    self.home(name, True)
            if name in self.stopped:
                self._run_daemon(name)
        for name in ("database", "slurmdbd", "slurmctld", "login"):
            self._until_well(name)

    # Helpers

    def _end(self, daemon: str, signum: signal.Signals) -> None:
        self.disturbed = True
        pids = self._pids(daemon)
        if not pids:
            raise RuntimeError(f"there is no {DAEMONS[daemon]} on {daemon}")
        self.stopped.add(daemon)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        until(lambda: not self._pids(daemon), f"the end of {DAEMONS[daemon]} on {daemon}")

    def _switch_on(self, host: str) -> None:
        self.hosts[host].start()
        self._sweep(host)  # what is temporary does not outlive a host
        self.stopped.discard(host)  # its daemon starts with it

    def _run_daemon(self, daemon: str) -> None:
        self.hosts[daemon].exec_run(["host", "daemon", DAEMONS[daemon]], detach=True)
        self.stopped.discard(daemon)

    def _pids(self, daemon: str) -> list[int]:
        """A daemon's processes, as this machine numbers them."""
        space, found = os.readlink(f"/proc/{self._top(self.hosts[daemon])}/ns/pid"), []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                program = os.path.basename((path / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace"))
                if program == DAEMONS[daemon] and os.readlink(path / "ns/pid") == space:
                    found.append(int(path.name))
        return found

    def _run(self, host: str, *argv: str, check: bool = True) -> str:
        done = self.hosts[host].exec_run([*argv])
        output = (done.output or b"").decode(errors="replace")
        if check and done.exit_code != 0:
            raise RuntimeError(f"`{' '.join(argv)}` failed on {host}: {output}")
        return output

    def _networks(self, host: Container) -> dict[str, Any]:
        networks: dict[str, Any] = host.attrs["NetworkSettings"]["Networks"]
        return networks

    def _address(self, host: Container) -> str:
        return str(self._networks(host).get(self.network.name, {}).get("IPAddress", ""))

    def _folders(self, *hosts: str) -> list[tuple[str, Path]]:
        places = [
            (name, path)
            for name in hosts
            for folder in FOLDERS
            for path in Path(f"/proc/{self._top(self.hosts[name])}/root/{folder}").glob("slurm-*")
        ]
        return [(name, path) for name, path in places if self._owned(path)]

    def _owned(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            return path.stat().st_uid == self.uid
        return False

    def _top(self, host: Container) -> int:
        """A host's first process, as this machine numbers it; 0 if it is off."""
        host.reload()
        return int(host.attrs["State"]["Pid"])

    def _until_well(self, name: str) -> None:
        role = "node" if name in NODES else name
        until(lambda: self.hosts[name].exec_run(["host", "well", role]).exit_code == 0, f"{name} that is well")

    def slurm(self, *argv: str) -> str:
        return self._run("slurmctld", *argv)

    def process_of(self, job_id: str, name: str) -> int:
        tops = [self.hosts[node].top(ps_args="-eo pid,ppid,args") for node in NODES]
        rows = [(int(pid), int(parent), args) for top in tops for pid, parent, args in top["Processes"]]
        pid = next(pid for pid, _, args in rows if args.startswith(f"slurmstepd: [{job_id}.batch]"))
        for _ in range(PROCESSES.index(name)):
            pid = min(child for child, parent, _ in rows if parent == pid)
        return pid


def main() -> None:
    path, project, uid = sys.argv[1:]
    ignore_signals()
    hosts = Hosts(project, int(uid))
    serve(path, hosts.uid, hosts)
    hosts.undo()


if __name__ == "__main__":
    main()
