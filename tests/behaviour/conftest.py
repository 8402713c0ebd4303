"""Real kernels in real Slurm jobs, as an ordinary user, on whatever Slurm answers here.

Every test leaves the cluster as it was: no job, process, socket, folder or thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hands import ask
from jupyter_client.manager import AsyncKernelManager, KernelManager
from kernels import RESOURCES, Kernel, eventually, install_kernelspec
from login_host import Login
from stand_ins import StandIns

from slurm_provisioner.cluster import Cluster
from slurm_provisioner.folder import left_behind
from slurm_provisioner.loop import background_loop

ARGV = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
#: What a kernelspec has for a job that waits in the queue, until `start_now`.
QUEUED = {"sbatch": {"begin": "now+1hour"}}


def slurm(*argv: str) -> str:
    """The output of one of Slurm's commands."""
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def queue() -> list[str]:
    return slurm("squeue", "--noheader", "--me", "--format=%A %j %T").splitlines()


def control(job_id: str) -> str:
    """All that the controller knows of a job, on one line."""
    return slurm("scontrol", "--oneliner", "show", "job", job_id)


def start_now(job_id: str) -> None:
    """Let a `QUEUED` job start."""
    slurm("scontrol", "update", f"JobId={job_id}", "StartTime=now")


def queue_empties() -> None:
    eventually(lambda: queue() == [], "an empty queue")


def refused(error: type[Exception], name: str, **kwargs) -> str:
    with pytest.raises(error) as caught:
        KernelManager(kernel_name=name).start_kernel(**kwargs)
    queue_empties()
    return str(caught.value)


async def launching(manager: AsyncKernelManager, state: str = "") -> asyncio.Future[None]:
    """A launch at the moment that its job is in the queue, in some state."""
    launch = asyncio.ensure_future(manager.start_kernel())
    while not any(state in job for job in await asyncio.to_thread(queue)):
        if launch.done():
            launch.result()  # with `start: now` it may be before it is seen in the queue
        await asyncio.sleep(0.02)
    return launch


#: How the suite's kernels reach the cluster: "local", or by SSH with this transport.
VIA = os.environ.get("SLURM_TEST_VIA", "local")
#: The configuration of ssh of a machine outside of the cluster, where the tests then run, for its host `hpc`; or "".
OUTSIDE = os.environ.get("SLURM_TEST_OUTSIDE", "")
#: Where root's hands are asked, or "".
HANDS = os.environ.get("SLURM_TEST_HANDS", "")
#: Modules of faults to which the way to the cluster makes a difference.
FAULTS = {
    "asyncssh": {"answers", "controller", "launches", "lost_answers", "lost_node", "signals"},
    "openssh": {"launches", "lost_answers", "lost_node", "signals"},
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out by SSH what runs locally, and would be the same; and what takes a login host elsewhere."""

    def wanted(item: pytest.Item) -> bool:
        if item.get_closest_marker("from_outside"):
            return bool(OUTSIDE)
        if VIA == "local":
            return True
        name = item.path.stem.removeprefix("test_")
        return not item.get_closest_marker("any_way") and (item.path.parent.name != "faults" or name in FAULTS[VIA])

    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


class Outside:
    """The login host of a cluster that this machine is no part of."""

    def stanza(self, transport: str) -> dict[str, Any]:
        """What a kernelspec has for it."""
        return {"ssh": {"host": "hpc", "config": OUTSIDE, "transport": transport}}


@pytest.fixture(scope="session")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login | Outside | None]:
    if OUTSIDE or VIA == "local":
        yield Outside() if OUTSIDE else None
        return
    login = Login(tmp_path_factory.mktemp("login"))
    yield login
    login.sshd.stop()


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"These tests need a Slurm that answers (scripts/test brings one up): {done.stderr}"
    assert queue() == [], "The queue must hold no job of this user when the tests begin."


#: How processes of a kernel look: the kernel itself, and its supervisor.
PROCESS = re.compile(r"ipykernel_launcher|kernel\.json|/kernel-[\w-]+\.json|python\S* -I - |^ssh |^sshd: [\w-]+[@ ]")
#: Names of their private folders: the server's, and the node's.
FOLDER = re.compile(r"slurm-(kernel-\w+|[0-9a-f]{10})$")
SERVERS = re.compile(r"slurm-kernel-\w+$")
#: Threads that may outlive a kernel: the background loop, those that start programs and compute for it, asyncio's
#: workers, and jupyter_core's for blocking calls.
THREAD = re.compile(r"MainThread( - runner)?$|slurm-provisioner(-programs|-computing_0)?$|asyncio_|pytest")


def _folders() -> list[str]:
    """Private folders of kernels, of both sides, for their sockets and secrets."""
    found = []
    for parent in {tempfile.gettempdir(), "/tmp", "/dev/shm", "/var/tmp"}:
        for path in Path(parent).glob("slurm-*"):
            with contextlib.suppress(OSError):
                if FOLDER.match(path.name) and path.stat().st_uid == os.getuid():
                    found.append(str(path))
    return found


def remove_folders_of_the_killed() -> None:
    """Remove what a server or a supervisor cannot remove that was ended by SIGKILL."""
    forsaken = {*map(str, left_behind())}
    for folder in _folders():
        if folder in forsaken or not SERVERS.search(folder):  # others of the server's are in use, or about to be
            shutil.rmtree(folder, ignore_errors=True)  # the guard may be at it, too
    if HANDS:
        Hands(HANDS).sweep()


def connections() -> dict[int, str]:
    """The ControlMasters of this user and the folder of each; nobody's children, they outlive who made them."""
    found = {}
    for folder in _folders():
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.fsencode(f"{folder}/ssh") in (path / "cmdline").read_bytes().split(b"\0"):
                    found[int(path.name)] = folder
    return found


def _leftovers() -> dict[str, list[str]]:
    """What kernels leave behind if somebody forgets it, and what the package is still to do about it."""
    mine = os.getuid()
    processes = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if path.stat().st_uid == mine and PROCESS.search(command):
                processes.append(f"{path.name} {command}")
    threads = [each.name for each in threading.enumerate() if not THREAD.match(each.name)]
    others = Hands(HANDS).elsewhere() if HANDS else {}
    elsewhere = [f"{host}: {each}" for host, found in others.items() for each in found]
    tasks = [each.split(":")[0] for each in still_done() if each.startswith(Cluster._do.__name__)]
    return {
        "jobs": queue(),
        "processes": processes,
        "folders": _folders(),
        "threads": threads,
        "tasks": tasks,
        "elsewhere": elsewhere,
    }


@pytest.fixture(autouse=True)
def nothing_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, "slurm_provisioner")  # a test that fails shows it
    before = _leftovers()
    yield
    last: list[Any] = []

    def clean() -> bool:
        now = _leftovers()
        new = {kind: list((Counter(found) - Counter(before[kind])).elements()) for kind, found in now.items()}
        last[:] = [{kind: found for kind, found in new.items() if found}]
        return not last[0]

    try:
        eventually(clean, "a clean end", timeout=90)
    except AssertionError:
        for job in last[0].get("jobs", []):
            slurm("scancel", job.split()[0])  # the next test is not to suffer for it
        pytest.fail("\n".join([f"left behind: {last[0]}", "what is still being done:", *still_done()]))


def still_done() -> list[str]:
    """What the package's coroutines wait for, a line each."""
    lines = []
    for task in asyncio.all_tasks(background_loop().loop):
        coro, chain = task.get_coro(), []
        while (frame := getattr(coro, "cr_frame", None)) is not None:
            chain.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            coro = coro.cr_await
        lines.append(" > ".join(chain))
    return lines


@pytest.fixture
def jupyter_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Jupyter set-up of this test's own; run directories are on the user's home, which nodes share."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    return tmp_path / "jupyter_data_dir"


Kernelspec = Callable[..., str]


@pytest.fixture
def kernelspec(jupyter_home: Path, login: Login | Outside | None) -> Kernelspec:
    """Install a kernelspec and return its name."""

    def install(
        name: str = "slurm",
        *,
        argv: list[str] | None = None,
        spec_env: dict[str, str] | None = None,
        stanza: bool = True,
        interrupt_mode: str = "signal",
        **config: Any,
    ) -> str:
        given = {**RESOURCES, **(login.stanza(VIA) if login else {}), **config} if stanza else None
        return install_kernelspec(
            jupyter_home, name, argv or ARGV, spec_env or {}, given, interrupt_mode=interrupt_mode
        )

    return install


@pytest.fixture
def start(kernelspec: Kernelspec) -> Iterator[Callable[..., Kernel]]:
    """Start kernels, and wait for the `first` cell unless their jobs are `queued`; what is left is shut down."""
    kernels: list[Kernel] = []

    def start(name: str | None = None, *, queued: bool = False, first: str = "pass", **kwargs: Any) -> Kernel:
        manager = KernelManager(kernel_name=name or kernelspec())
        manager.start_kernel(**kwargs)
        kernels.append(Kernel(manager))
        if not queued:
            kernels[-1].run(first)
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.close()


@pytest.fixture
def profile() -> Iterator[Callable[[str], int]]:
    """Have the login shell of jobs read some lines, too."""
    path = Path.home() / ".bash_profile"
    before = path.read_bytes() if path.exists() else None
    yield lambda lines: path.write_text(f"{lines}\n")
    if before is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(before)


@pytest.fixture
def commands(tmp_path: Path) -> StandIns:
    """Slurm's commands, of which a test may have some fail: the kernelspec's `slurm_bin` is ``str(commands)``."""
    return StandIns(tmp_path)


class Hands:
    """Root's hands, see hands.py: what only an administrator can do to a cluster and its machines, or a fault."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _ask(self, *words: Any) -> Any:
        return ask(self._path, *words)

    def stop(self, daemon: str) -> None:
        """Stop slurmctld, slurmdbd or a node's slurmd in good order; a node's daemon has the node's name."""
        self._ask("stop", daemon)

    def kill(self, daemon: str) -> None:
        """Stop it by SIGKILL."""
        self._ask("kill", daemon)

    def start(self, daemon: str) -> None:
        """Start it again, and wait until it answers."""
        self._ask("start", daemon)

    def signal(self, job_id: str, process: str, signum: signal.Signals) -> None:
        """Signal the `slurmstepd`, the `supervisor` or the `kernel` of a job."""
        self._ask("signal", job_id, process, int(signum))

    def disk(self, size: str) -> Path:
        """A new, empty disk of this user, of so many bytes (``64k``)."""
        return Path(self._ask("disk", size))

    def write_protect(self, disk: Path) -> None:
        self._ask("write_protect", str(disk))

    def scontrol(self, *words: str) -> None:
        """Have scontrol do something that takes an administrator."""
        self._ask("scontrol", *words)

    def lose(self, host: str) -> None:
        """Have a machine vanish with all that runs on it (this and the next: on a cluster of several)."""
        self._ask("lose", host)

    def pause(self, host: str) -> None:
        """Have a machine stand still."""
        self._ask("pause", host)

    def back(self, host: str) -> None:
        """Start a machine that was lost, or have it go on."""
        self._ask("back", host)

    def cut(self, host: str) -> None:
        """Pull a machine's network cable."""
        self._ask("cut", host)

    def join(self, host: str) -> None:
        """Plug it in again."""
        self._ask("join", host)

    def home(self, host: str, *, there: bool) -> None:
        """Take /home away from a machine, or give it back."""
        self._ask("home", host, there)

    def wall(self, host: str, ports: str) -> None:
        """Have a machine drop what others try to reach but for SSH, Slurm's daemons and some ports."""
        self._ask("wall", host, ports)

    def elsewhere(self) -> dict[str, list[str]]:
        """What this user's kernels have on the cluster's other machines: processes, connections, folders."""
        found: dict[str, list[str]] = self._ask("elsewhere")
        return found

    def scan(self, host: str, asked: dict[str, Any]) -> list[list[str]]:
        """What another user finds of some secrets on a machine, see privacy/scan.py."""
        found: list[list[str]] = self._ask("scan", host, asked)
        return found

    def sweep(self) -> None:
        """Remove there what killed supervisors have left."""
        self._ask("sweep")

    def undo(self) -> None:
        """Leave the cluster well: daemons answer, nodes take jobs, stopped processes go on, disks are gone."""
        self._ask("undo")


@pytest.fixture
def hands(start: Callable[..., Kernel]) -> Iterator[Hands]:  # after `start`: undone before its kernels are shut down
    assert HANDS, "This test needs root's hands: run it by `scripts/test faults`, as root."
    hands = Hands(HANDS)
    yield hands
    hands.undo()
