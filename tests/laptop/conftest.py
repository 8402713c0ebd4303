"""Kernels of a laptop in jobs of a cluster, where nothing is shared but a cable and SSH, see world.py.

These tests run on the laptop. What they know of the cluster they are told by root's hands.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cable import impatient_with_cable
from hands import ask
from jupyter_client.manager import KernelManager
from kernels import RESOURCES, Kernel, eventually, install_kernelspec
from stand_ins import StandIns

#: On the cluster, whichever Python that is there.
ARGV = ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
#: How our processes on the laptop look: masters and guests of ssh, guards, servers.
PROCESS = re.compile(r"^ssh |ssh: |slurm-provisioner-guard|slurm_provisioner\.transport|jupyter")


class World:
    """The cluster, and the cable to it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.__dict__.update(self._ask("facts"))

    #: Whom the laptop's user logs in as, and that user's home.
    user: str
    home: str
    #: The folder in it for our kernels' files, as of there.
    state: str
    nodes: list[str]
    #: What the servers of SSH have said, by name: paths of files.
    logs: dict[str, str]
    #: Where everybody can write, on both sides: for commands that stand in for Slurm's.
    shared: str
    node_tmp: str
    login: str

    def _ask(self, *words: Any) -> Any:
        return ask(self._path, *words)

    def cut(self) -> None:
        """Have all that is sent over the cable vanish, both ways; nobody is told."""
        self._ask("cut")

    def mend(self) -> None:
        self._ask("mend")

    def kick(self) -> None:
        """Have the login hosts break all connections."""
        self._ask("kick")

    def stop_login(self) -> None:
        """Have nothing listen where the login host ``hpc`` was."""
        self._ask("stop_login")

    def start_login(self, *, other: bool = False) -> None:
        """Have it there again, or another one in its place, with a key of its own."""
        self._ask("start_login", other)

    def run(self, *argv: str) -> str:
        """What a command prints that the user has on the login host."""
        return self._ask("on_cluster", *argv)

    def left(self) -> dict[str, Any]:
        """What kernels leave behind there if somebody forgets it."""
        return self._ask("left")

    def listening(self) -> list[str]:
        """The commands of the user's processes there that listen on ports."""
        return self._ask("listening")

    def undo(self) -> None:
        """Leave everything well."""
        self._ask("undo")

    def queue(self) -> list[str]:
        return self.run("squeue", "--noheader", "--me", "--format=%A %j %T").splitlines()

    def queue_empties(self) -> None:
        eventually(lambda: self.queue() == [], "an empty queue")

    def jobs_of(self, manager: Any) -> list[str]:
        """All jobs that were ever submitted for a kernel."""
        lines = self.run("squeue", "--noheader", "--me", "--states=all", "--format=%A %j").splitlines()
        jobs = [line.split() for line in lines]
        return [job_id for job_id, name in jobs if manager.kernel_id[:8] in name]

    def remove_log(self) -> None:
        """Remove what stays of the one kernel that could not be had, for its user to read; that is nothing secret."""
        (kernel_id,) = self.left()["run directories"]
        folder = f"{self.home}/{self.state}/{kernel_id}"
        assert set(self.run("ls", "-A", folder).split()) <= {"about.json", "job.log", "progress"}
        self.run("rm", "-r", folder)

    def logins(self, name: str = "hpc") -> int:
        """How often somebody has logged in to a server."""
        return len(re.findall(r"^Accepted \w+ for ", self._log(name), re.MULTILINE))

    def sessions(self, name: str = "hpc") -> int:
        """How many commands a server has started."""
        return len(re.findall("^Starting session: ", self._log(name), re.MULTILINE))

    def _log(self, name: str) -> str:
        return Path(self.logs[name]).read_text(errors="replace")


@pytest.fixture(scope="session")
def the_world() -> World:
    assert "SLURM_TEST_HANDS" in os.environ, "These tests need two worlds: run them by `scripts/test laptop`, as root."
    return World(os.environ["SLURM_TEST_HANDS"])


def processes_here() -> dict[int, str]:
    """Our processes on the laptop, but for those of the tests themselves."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            ours = path.stat().st_uid == os.getuid() and PROCESS.search(command)
            guard = "guard" in command and parent == os.getpid()  # that of this process, which it outlives
            if ours and int(path.name) != os.getpid() and not guard:
                found[int(path.name)] = command
    return found


def _left_here(world: World) -> dict[str, Any]:
    folders = [path.name for path in (Path.home() / "tmp").iterdir() if path.name.startswith("slurm-kernel-")]
    connections = [line for line in _connections() if line[2] == world.login]
    return {"here": list(processes_here().values()), "folders": folders, "sockets": connections}


def _connections() -> Iterator[tuple[str, str, str]]:
    """State, local port and remote address of this network's connections that are open."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state = line.split()[:4]
        address = ".".join(str(byte) for byte in reversed(bytes.fromhex(remote.partition(":")[0])))
        if state in ("01", "02"):  # ESTABLISHED, SYN_SENT
            yield state, str(int(local.partition(":")[2], 16)), address


@pytest.fixture
def world(the_world: World) -> Iterator[World]:
    """The world, in which nothing is left of a test's kernels, on either side."""
    yield the_world
    the_world.undo()
    last: dict[str, Any] = {}

    def clean() -> bool:
        last.clear()
        last.update({kind: found for kind, found in (the_world.left() | _left_here(the_world)).items() if found})
        return not last

    try:
        eventually(clean, "a clean end on both sides", timeout=90)
    except AssertionError:
        for job in last.get("jobs", []):
            the_world.run("scancel", job.split()[0])  # the next test is not to suffer for it
        for kernel_id in last.get("run directories", []):
            the_world.run("rm", "-r", f"{the_world.home}/{the_world.state}/{kernel_id}")
        for pid in processes_here():
            os.kill(pid, signal.SIGKILL)
        pytest.fail(f"left behind: {last}")


@pytest.fixture(params=["asyncssh", "openssh"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


Kernelspec = Callable[..., str]


@pytest.fixture
def kernelspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> Kernelspec:
    """Install a kernelspec, by way of a login host, and return its name."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))

    def install(
        transport: str = "asyncssh",
        *,
        host: str = "hpc",
        via: str = "login",
        argv: list[str] | None = None,
        **config: Any,
    ) -> str:
        given = {
            **RESOURCES,
            "ssh": {"host": host, "transport": transport, "via": via},
            "state_dir": f"~/{world.state}",
            "venv": sys.prefix,
            # A folder of our own for what nodes have in theirs: others use this machine's /tmp.
            "prologue": [f"export TMPDIR={world.node_tmp}"],
            **config,
        }
        return install_kernelspec(tmp_path / "jupyter_data_dir", "slurm", argv or ARGV, {}, given)

    return install


@pytest.fixture
def start(world: World) -> Iterator[Callable[..., Kernel]]:
    """Start kernels, and wait for them; what a test leaves running is shut down."""
    kernels: list[Kernel] = []

    def start(name: str, **kwargs: Any) -> Kernel:
        manager = KernelManager(kernel_name=name)
        manager.start_kernel(**kwargs)
        kernels.append(Kernel(manager))
        kernels[-1].run("pass")
        return kernels[-1]

    yield start
    world.undo()  # before its kernels are shut down
    for kernel in kernels:
        kernel.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient_with_cable(monkeypatch)


@pytest.fixture
def commands(world: World, tmp_path: Path) -> StandIns:
    """Slurm's commands on the cluster, of which a test may have some fail: the `slurm_bin` is ``str(commands)``."""
    folder = Path(world.shared) / tmp_path.name
    folder.mkdir()
    folder.chmod(0o777)
    commands = StandIns(folder)
    commands.folder.chmod(0o777)
    return commands
