"""Two worlds with a cable between them, made and unmade by root: a laptop, and a cluster's login host and nodes.

    python3 world.py FOLDER USER CLUSTER LAPTOP_USER NAMESPACE

The laptop is a network namespace and a user of its own, who has a home in FOLDER and knows nothing of Slurm. The
cluster is this machine, where three real servers of SSH listen: ``hpc``, a login host; ``walled``, one that lets
nothing through but logins to nodes; and one for each node, which lets in who has a job there (pam_slurm_adopt). The
laptop's user logs in as USER.

Serves as hands.py does, at FOLDER/world-hands, with more verbs, until standard input ends; then all of it is removed
again. What a run left behind that was killed is removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hands import OneMachine, ignore_signals, run, serve
from login_host import SSHD, Sshd, environment_of, make_key, public, version

#: The cable: names of its ends, and their addresses. There is one at a time.
NEAR, FAR = "slurm-laptop", "slurm-cluster"
LAPTOP, CLUSTER = "10.213.77.2", "10.213.77.1"
#: An address of nobody's: what is sent there is not heard.
NOBODY = "02:00:00:00:00:77"
#: Tells our user from one that was here before us.
COMMENT = "slurm_provisioner tests"
#: Where kernels of the laptop have their files on the cluster, in the user's home.
STATE = ".slurm_laptop"
PRIVILEGES = Path("/run/sshd")  # sshd, when root runs it, wants this folder
PAM = Path("/etc/pam.d")
#: Whom the nodes let in: who has a job there.
SERVICE = """\
auth     required pam_deny.so
account  required pam_unix.so
account  required {module} action_no_jobs=deny action_unknown=newest action_adopt_failure=deny \
nodename={node} service={service}
session  required pam_permit.so
"""
MODULES = ("/lib/*/security", "/lib/security", "/usr/lib/*/security", "/usr/lib/security", "/usr/lib64/security")


class World(OneMachine):
    """The verbs, and what they act on."""

    VERBS = (
        *OneMachine.VERBS,
        *("facts", "cut", "mend", "kick", "stop_login", "start_login", "on_cluster", "left", "listening"),
    )

    def __init__(self, folder: Path, user: str, cluster: str, laptop_user: str, namespace: str) -> None:
        super().__init__(user, cluster, folder)
        self.folder = folder / "world"
        self.folder.mkdir()
        self.home = folder / laptop_user
        self.state = Path(self.owner.pw_dir) / STATE  # of this part alone: the user may have kernels on other clusters
        self.namespace = namespace
        self.laptop_user = laptop_user
        self.nodes = run("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%N").split()
        self.environment = {"SLURM_CONF": os.environ["SLURM_CONF"]}
        self.servers: dict[str, Sshd] = {}

    # The world

    def make(self) -> None:
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", FAR, "type", "veth", "peer", "name", NEAR, "netns", self.namespace)
        run("ip", "address", "add", f"{CLUSTER}/30", "dev", FAR)
        run("ip", "link", "set", FAR, "up")
        for words in (f"address add {LAPTOP}/30 dev {NEAR}", f"link set {NEAR} up", "link set lo up"):
            self.near(*words.split())
        if user_of(self.laptop_user) is not None:
            raise RuntimeError(f"there is a user {self.laptop_user} here, and the tests need one of their own")
        home = str(self.home)
        options = ("--create-home", "--home-dir", home, "--comment", COMMENT, "--shell", "/bin/bash")
        run("useradd", *options, self.laptop_user)
        self.home.chmod(0o700)
        self.before = self.shared_files()  # of somebody who had this number before
        for mode, path in ((0o777, self.folder / "shared"), (0o1777, self.folder / "node-tmp")):
            path.mkdir()
            path.chmod(mode)
        self.start_servers()
        self.furnish()

    def near(self, *words: str) -> None:
        run("ip", "-netns", self.namespace, *words)

    def start_servers(self) -> None:
        if not PRIVILEGES.exists():
            PRIVILEGES.mkdir(mode=0o755)
        # A login host notices laptops that vanished, as those of computing centres do.
        common = ["UsePAM yes", "ClientAliveInterval 5", "ClientAliveCountMax 2"]
        for node in self.nodes:
            service = service_of(node)
            module = next(path for place in MODULES for path in Path("/").glob(f"{place[1:]}/pam_slurm_adopt.so"))
            (PAM / service).write_text(SERVICE.format(module=module, node=node, service=service))
            program = self.folder / service
            program.symlink_to(SSHD)
            said = [f"PAMServiceName {service}"] if version() >= (9, 8) else []
            keys = [f"HostKey {path}" for path in sorted(Path("/etc/ssh").glob("ssh_host_*_key"))]
            self.serve(node, *common, *said, *keys, address="127.0.0.1", program=str(program))
        nodes = " ".join(f"127.0.0.1:{self.servers[node].port}" for node in self.nodes)
        self.serve("hpc", *common, address=CLUSTER)
        self.serve("walled", *common, f"PermitOpen {nodes}", address=CLUSTER)
        self.keys = [self.servers["hpc"].key, make_key(self.folder / "other_host_key")]

    def serve(self, name: str, *lines: str, **options: Any) -> None:
        self.servers[name] = Sshd(self.folder / name, *lines, environment=self.environment, **options)
        self.servers[name].start()

    def furnish(self) -> None:
        """Give the laptop's user a key, and what there is to be known of the cluster."""
        ssh = self.home / ".ssh"
        for path in (ssh, self.home / "tmp"):
            path.mkdir(mode=0o700)
        key = public(make_key(ssh / "id_ed25519"))
        config, known = "", ""
        for name, server in self.servers.items():
            server.let_in(key)
            user = (
                "" if name in self.nodes else f"    User {self.owner.pw_name}\n"
            )  # a node's is that of the login host
            config += f"Host {name}\n    HostName {server.address}\n    Port {server.port}\n{user}"
            if name not in self.nodes:  # a node's key is told by the job
                known += f"[{server.address}]:{server.port} {server.host_key}\n"
        known += f"[{CLUSTER}]:{self.servers['hpc'].port} {public(self.keys[1])}\n"
        (ssh / "config").write_text(config)
        (ssh / "known_hosts").write_text(known)
        run("chown", "-R", f"{self.laptop_user}:", str(self.home))

    def undo(self) -> None:
        """Leave cable, servers and cluster well."""
        self.mend()
        if self.servers:
            self.start_login()
        super().undo()

    def unmake(self) -> None:
        with contextlib.suppress(RuntimeError):  # a cluster that is gone has no jobs
            for line in self.on_cluster("squeue", "--noheader", "--me", "--Format=JobID:20,STDOUT:300").splitlines():
                if f"/{STATE}/" in line:  # of tests that were killed
                    self.on_cluster("scancel", line.split()[0])
        for server in self.servers.values():
            server.stop()
        self.servers.clear()
        super().undo()
        clean(self.namespace, self.laptop_user, self.nodes)
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.rmtree(self.folder)

    # The verbs

    def facts(self) -> dict[str, Any]:
        """What there is to be known."""
        return {
            "user": self.owner.pw_name,
            "home": self.owner.pw_dir,
            "state": STATE,
            "nodes": self.nodes,
            "logs": {name: str(server.folder / "log") for name, server in self.servers.items()},
            "shared": str(self.folder / "shared"),
            "node_tmp": str(self.folder / "node-tmp"),
            "login": CLUSTER,
        }

    def cut(self) -> None:
        """Have all that is sent over the cable vanish, both ways; nobody is told."""
        run("ip", "neighbour", "replace", LAPTOP, "lladdr", NOBODY, "nud", "permanent", "dev", FAR)
        self.near("neighbour", "replace", CLUSTER, "lladdr", NOBODY, "nud", "permanent", "dev", NEAR)

    def mend(self) -> None:
        run("ip", "neighbour", "flush", "dev", FAR, "nud", "all")
        self.near("neighbour", "flush", "dev", NEAR, "nud", "all")

    def kick(self) -> None:
        """Break the connections of all login hosts."""
        for name, server in self.servers.items():
            if name not in self.nodes:
                server.cut()

    def stop_login(self) -> None:
        """Have nothing listen where the login host was."""
        self.servers["hpc"].stop()

    def start_login(self, other: bool = False) -> None:
        """Have the login host there again, or another one in its place, with a key of its own."""
        server = self.servers["hpc"]
        if server.key != self.keys[other]:
            server.stop()
            server.key = self.keys[other]
        if not server.running:
            server.start()

    def on_cluster(self, *argv: str) -> str:
        """What a command prints that the user has on the login host."""
        done = subprocess.run(
            argv,
            user=self.owner.pw_uid,
            group=self.owner.pw_gid,
            extra_groups=[],
            cwd=self.owner.pw_dir,
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "HOME": self.owner.pw_dir,
                "LANG": "C.UTF-8",
                **self.environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode != 0:
            raise RuntimeError(f"`{' '.join(argv)}` failed: {done.stdout}{done.stderr}")
        return done.stdout

    def left(self) -> dict[str, Any]:
        """What kernels leave behind on the cluster's side if somebody forgets it."""
        connections = [
            command_of(pid) for server in self.servers.values() if server.running for pid in server.servers()
        ]
        return {
            "jobs": self.on_cluster("squeue", "--noheader", "--me", "--format=%A %j %T").splitlines(),
            "processes": [command_of(pid) for pid in self.processes()],
            "connections": connections,
            "run directories": [path.name for path in self.state.glob("*")],
            "private folders": [path.name for path in (self.folder / "node-tmp").iterdir()],
            "shared folders": sorted(self.shared_files() - self.before),
        }

    def shared_files(self) -> set[str]:
        """What the laptop's user has where all users of this machine may write."""
        uid = pwd.getpwnam(self.laptop_user).pw_uid
        places = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
        return {str(path) for place in places for path in place.iterdir() if uid_of(path) == uid}

    def processes(self) -> list[int]:
        """The processes of jobs of this cluster, and of logins."""
        marks = {f"SLURM_CONF={self.environment['SLURM_CONF']}"}
        pids = (int(path.name) for path in Path("/proc").glob("[0-9]*") if uid_of(path) == self.owner.pw_uid)
        return [pid for pid in pids if marks & set(environment_of(pid))]

    def listening(self) -> list[str]:
        """The commands of those processes that listen on ports, one entry for each port."""
        inodes = set()
        for family in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    inodes.add(f"socket:[{fields[9]}]")
        found = []
        for pid in self.processes():
            for path in Path(f"/proc/{pid}/fd").glob("*"):
                with contextlib.suppress(OSError):
                    if os.readlink(path) in inodes:
                        found.append(command_of(pid))
        return found


def user_of(name: str) -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    return None


def service_of(node: str) -> str:
    """The name of a node's server, as PAM knows it."""
    return f"sshd-laptop-{node}"


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def uid_of(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.lstat().st_uid
    return None


def clean(namespace: str, user: str, nodes: list[str]) -> None:
    """Remove what outlives processes, and processes that outlived theirs."""
    ours = re.compile(r"^sshd[\w-]*: \S+ -D -e -f \S*/world/\w+/config ")
    who = user_of(user)
    mine = who is not None and who.pw_gecos == COMMENT
    for path in Path("/proc").glob("[0-9]*"):
        if ours.match(command_of(int(path.name))) or (mine and uid_of(path) == who.pw_uid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGKILL)
    if mine:
        deadline = time.monotonic() + 60
        while (
            subprocess.run(["userdel", user], check=False, capture_output=True).returncode != 0
        ):  # as its processes end
            if time.monotonic() > deadline:
                run("userdel", user)
            time.sleep(0.1)
    if namespace in run("ip", "netns", "list").split():
        run("ip", "netns", "delete", namespace)
    if subprocess.run(["ip", "link", "show", FAR], check=False, capture_output=True).returncode == 0:
        run("ip", "link", "delete", FAR)
    for node in nodes:
        (PAM / service_of(node)).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's server runs
        PRIVILEGES.rmdir()


def main() -> None:
    folder, user, cluster, laptop_user, namespace = sys.argv[1:]
    ignore_signals()
    with socket.socket(socket.AF_UNIX) as lock:
        alone(lock)
        world = World(Path(folder), user, cluster, laptop_user, namespace)
        clean(namespace, laptop_user, world.nodes)
        try:
            world.make()
            serve(f"{folder}/world-hands", pwd.getpwnam(laptop_user).pw_uid, world)
        finally:
            world.unmake()


def alone(lock: socket.socket) -> None:
    """Wait until no other world is there. Nothing is left of this lock, however we end."""
    deadline = time.monotonic() + 900
    while True:
        try:
            lock.bind("\0slurm-laptop-world")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    main()
