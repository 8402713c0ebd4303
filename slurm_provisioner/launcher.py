"""The supervisor: a job's first process on the compute node. It starts the kernel and answers for it.

The batch script ends in ``exec python3 - RUN_DIR`` with this text on standard input, so nothing is installed on the
node: Python >= 3.6 and its standard library are enough. ``RUN_DIR/request.json`` says what to run and
``RUN_DIR/connection.json`` tells the server side where we listen: one TLS port with mutual certificates, on which the
ALPN name chooses the kernel, that is streams to its sockets, or ourselves: commands and events, a JSON object a line.

From top to bottom: pure functions, the request, the private directory, the kernel's process, the streams of bytes to
its sockets, the port, the supervisor.
"""

import sys

if __name__ == "__main__":
    # Of a text on standard input, the path begins with the current directory: a json.py of the user's home is not ours.
    sys.path[:] = [entry for entry in sys.path if entry]
import os

if __name__ == "__main__":
    # Nor is an old backport on PYTHONPATH, which is meant for the kernel.
    sys.path.insert(0, os.path.dirname(os.__file__))
import errno
import json
import re
import signal
import stat
import string
import subprocess
import time
from collections import deque
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    import fcntl
    import logging
    import random
    import socket
    import ssl
    import struct
    from typing import Any, Callable, Coroutine, Deque, Dict, List, Mapping, Optional, Set, Tuple, Union

    Loop = asyncio.AbstractEventLoop
    Reader = asyncio.StreamReader
    Writer = asyncio.StreamWriter
    Task = asyncio.Task[None]
    Context = ssl.SSLContext
    Socket = socket.socket
    Protocol = asyncio.Protocol
    Transport = Any  # asyncio's own types tell of none that is both, a protocol's argument and a writer's
else:

    class _Type:
        """Stands for every type: with Python 3.6, typing would take 50 ms of each start."""

        def __getitem__(self, _parameters):
            return self

    Any = Callable = Coroutine = Deque = Dict = List = Mapping = Optional = Set = Tuple = Union = _Type()
    Loop = Reader = Writer = Transport = Task = Context = Socket = Any
    Protocol = object

PROTOCOL = 1
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")  # in the order of an ipc kernel's port numbers 1 to 5
LOG_LINES = 20  # of the job's log, told with the news of the kernel's end
LOG_BYTES = 64 * 1024  # read at most, from the end of the job's log
HELD_BYTES = 16 * 1024 * 1024  # said by the kernel while the server side is away, then it has to wait
AHEAD_BYTES = 2 * 1024 * 1024  # the same while it is not, until it has passed them on
ACK_BYTES = 256 * 1024  # received, then the server side is told at once
TLS_BYTES = 64 * 1024  # pass through TLS at a time: its buffers keep the size that they once had
WRITE_BYTES = 256 * 1024  # waiting to be written, then what they come from is paused
END = 2**32 - 1  # in place of a number of bytes: there will be no more
GREETING, HEADER = ("!8sI", 12), ("!IB?QQI", 26)  # of a TLS connection that carries streams, of a frame on it
READ_BYTES = 64 * 1024 - HEADER[1]  # of a socket: a frame fills four records of TLS; for 256 KiB memory would be mapped
LINE_BYTES = 1024 * 1024  # a command on the supervisor channel
BACKLOG_BYTES = 4 * 1024 * 1024  # unread events and answers, then the channel is dropped
SOCKET_PATH_BYTES = 107  # sun_path of a unix socket is shorter

REQUEST_SECONDS = 30.0  # NFS shows a new file late
LOOKUP_SECONDS = 3.0  # for a name server
HANDSHAKE_SECONDS = 15.0
ACK_SECONDS = 0.5  # then the server side is told of fewer bytes as well
KERNEL_SOCKET_SECONDS = 60.0  # a channel waits so long for the kernel to bind it
KILL_SECONDS = 10.0  # a process in the grip of a dead file system does not even end by SIGKILL
FINISH_SECONDS = 25.0  # for a kernel that Slurm ends; Slurm itself kills what is left after KillWait, mostly 30 s
FLUSH_SECONDS = 30.0  # for what a peer has not taken when its connection is to be closed
LAST_FLUSH_SECONDS = 2.0  # the same at the end of the job, and for a file system that may be dead
QUIET_SECONDS = 60.0  # between two lines about connections that went wrong
SUSPENDED_SECONDS = 5.0  # a timer that comes later than this was stopped, together with us
POLL_SECONDS = 0.02  # between looks at what tells nobody when it comes
YOUNG_SECONDS = 20.0  # then a kernel's sockets are looked for less often
OLD_POLL_SECONDS = 0.25
FORGOTTEN_SECONDS = 60.0  # without the server side, then Slurm is asked; longer than an answer can take
ASK_SECONDS = 20.0  # for Slurm's answer
OVERDUE_SECONDS = 300.0  # after the time limit a job is over even if Slurm does not answer

BAD_REQUEST, NO_COMMAND, NO_PORT, NO_DIRECTORY, NO_ANSWER = range(111, 116)  # exit codes of our own
UNEXPECTED = 70  # EX_SOFTWARE
SIGNALLED = 128  # + the signal's number, as in a shell

# Unix sockets do not work on these, nor on any FUSE but the one that is a rootless container's root.
NETWORK_FILE_SYSTEMS = re.compile(
    r"(nfs|lustre|gpfs|beegfs|ceph|cifs|smb|9p$|afs|panfs|orangefs|pvfs2|wekafs|fuse(?!\.fuse-overlayfs$)|fhgfs|davfs)"
)
# What the kernel gets for a signal to us, which Slurm can carry: SIGTERM and SIGKILL would end us.
KERNEL_SIGNALS = {signal.SIGINT: signal.SIGINT, signal.SIGQUIT: signal.SIGTERM, signal.SIGUSR2: signal.SIGKILL}
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
KEPT_SIGNALS = (*ENDING_SIGNALS, signal.SIGUSR1, signal.SIGCHLD)
HANDLED_SIGNALS = (*KEPT_SIGNALS, *KERNEL_SIGNALS)

REASONS = {  # of the end, in words
    "stop": "Jupyter has shut the kernel down",
    "lease": "Jupyter has not been heard of for too long",
    "crash-grace": "nobody has restarted the kernel",
    "terminated": "Slurm has asked it to",
    "forgotten": "Slurm has given the job up",
}
# States of a job, as squeue tells them; any other word tells nothing.
LIVING = re.compile("RUNNING|COMPLETING|SUSPENDED|STOPPED|SIGNALING|RESIZING|STAGE_OUT|CONFIGURING|UPDATE_DB")
GIVEN_UP = re.compile(
    "PENDING|REQUEUED|REQUEUE_FED|REQUEUE_HOLD|RESV_DEL_HOLD|SPECIAL_EXIT|REVOKED|BOOT_FAIL|CANCELLED|COMPLETED|DEADLINE"
    "|FAILED|LAUNCH_FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|RECONFIG_FAIL|TIMEOUT"
)

NOTHING = type(None)
Json = Dict[str, Any]
Endpoint = Union[str, Tuple[str, int]]


class LauncherError(Exception):
    """A sentence for the user, and the exit code if it ends the supervisor."""

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


def import_the_rest() -> None:
    """Import what takes 60 to 100 ms. It is done beside the kernel's own start, not before it."""
    try:
        for name in ("asyncio", "fcntl", "logging", "random", "socket", "ssl", "struct"):
            globals()[name] = __import__(name)
    except ImportError as error:
        raise LauncherError(NO_PORT, f"{sys.executable} cannot serve TLS: {error}") from error


def say(text: str) -> None:
    """Write to the job's log; a full disk must not end a kernel."""
    with suppress(OSError):
        os.write(2, "".join(f"slurm-provisioner: {line}\n" for line in text.split("\n")).encode("utf-8", "replace"))


# Text and decisions ---------------------------------------------------------------------------------------------------


def read_text(path: str) -> str:
    """Content of a file, whatever bytes are in it."""
    with open(path, "rb") as file:
        return os.fsdecode(file.read())


def file_system(path: str, mounts: str) -> str:
    """Type of the file system that holds a path, by the text of ``/proc/mounts``."""
    best_point, best_type = "", ""
    for line in mounts.split("\n"):
        fields = line.split(" ")
        if len(fields) > 2:  # noqa: PLR2004
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), fields[1])
            if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best_point):
                best_point, best_type = point, fields[2]  # of two on the same point the later one is on top
    return best_type


def unsuitable(directory: str, mounts: str, longest_name: str) -> str:
    """Why sockets cannot live in a directory; empty if they can."""
    if not os.path.isabs(directory) or not os.path.isdir(directory):
        return "is not a directory"
    if not os.access(directory, os.W_OK | os.X_OK):
        return "is not writable"
    kind = file_system(os.path.realpath(directory), mounts)
    if NETWORK_FILE_SYSTEMS.match(kind):
        return f"is on a network file system ({kind})"
    if len(os.fsencode(os.path.join(directory, longest_name))) >= SOCKET_PATH_BYTES:
        return "has too long a name for sockets"
    if not directory.isprintable():  # nor has JSON, which will hold it, a way to write bytes that are no text
        return "has an unprintable name"
    return ""


def memory_group(groups: str, mounts: str) -> str:
    """Directory of the job's control group of memory, by ``/proc/self/cgroup`` and ``/proc/self/mountinfo``.

    Empty if it has none of its own: numbers of a group that holds other jobs as well are no evidence.
    """
    paths = dict(re.findall(r"^\d+:(.*?):(/.*)$", groups, re.M))
    version_1 = next((names for names in paths if "memory" in names.split(",")), "")
    path = paths.get(version_1, "")
    job = re.match(r".*?/job_\d+(?=/|$)", path)
    path = job.group() if job else path
    for root, point, kind, options in re.findall(r"^\S+ \S+ \S+ (\S+) (\S+) .* - (\S+) \S+ (\S+)$", mounts, re.M):
        base = root.rstrip("/")
        right = kind == "cgroup" and "memory" in options.split(",") if version_1 else kind == "cgroup2"
        if right and (job or path == root) and (path + "/").startswith(base + "/"):
            return str(point + path[len(base) :]).rstrip("/")
    return ""


def oom_kills() -> Dict[str, int]:
    """Count what the system has killed in the job for want of memory, by control group."""
    counts = {}
    with suppress(OSError):
        group = memory_group(read_text("/proc/self/cgroup"), read_text("/proc/self/mountinfo"))
        for folder, below, files in os.walk(group):
            for name in {"memory.oom_control", "memory.events"}.intersection(files):  # cgroup v1, v2
                with suppress(OSError):
                    found = re.search(r"^oom_kill (\d+)$", read_text(os.path.join(folder, name)), re.M)
                    counts[folder] = int(found.group(1)) if found else 0
            if not re.search(r"/job_\d+$", group):
                below.clear()
    return counts


def given_up(code: int, output: str, errors: str) -> Optional[bool]:
    """Whether Slurm has given the job up, by squeue's answer; None if it is no answer."""
    if code:
        return "Invalid job id" in errors or None
    state = output.strip()
    return True if GIVEN_UP.fullmatch(state) else False if LIVING.fullmatch(state) else None


def find_program(name: str, environment: Mapping[str, str]) -> bool:
    """Whether a bare name is on the PATH of an environment."""
    places = (os.path.join(folder, name) for folder in os.get_exec_path(dict(environment)))
    return any(os.path.isfile(place) and os.access(place, os.X_OK) for place in places)


def python_for(name: str, server_python: Optional[str], environment: Mapping[str, str]) -> str:
    """Find what a kernelspec's bare ``python`` means here; leave any other command as it is."""
    if not re.match(r"python(\d+(\.\d+)?)?$", name):
        return name
    if server_python and os.path.isfile(server_python) and os.access(server_python, os.X_OK):
        return server_python
    if name == "python" and not find_program(name, environment) and find_program("python3", environment):
        return "python3"
    return name


def kernel_environment(job: Mapping[str, str], wanted: Mapping[str, str], parent: Optional[int]) -> Dict[str, str]:
    """Environment of the kernel.

    Parameters
    ----------
    job : mapping
        The job's own environment. All of it stays, but for the ``JPY_*`` of another Jupyter.
    wanted : mapping
        Set on top of it; ``$NAME`` and ``${NAME}`` in its values stand for the job's variables.
    parent : int or None
        The process without which the kernel shall end, if it can watch one.
    """
    environment = {name: value for name, value in job.items() if not name.startswith("JPY_")}
    environment.update({name: string.Template(value).safe_substitute(job) for name, value in wanted.items()})
    environment.pop("JPY_PARENT_PID", None)
    if parent is not None:
        environment["JPY_PARENT_PID"] = str(parent)
    return environment


def announced_hosts(to_submitter: str, named: Mapping[str, List[str]], to_anywhere: str) -> List[str]:
    """Names and addresses to reach this node by, best first.

    Parameters
    ----------
    to_submitter, to_anywhere : str
        Our address on the way to the host that submitted, and on the default route; empty if there is none.
    named : mapping
        The node's names with the addresses that each resolves to here.
    """
    usable = [name for name, addresses in named.items() if any(map(is_reachable, addresses))]
    return list(dict.fromkeys([*filter(is_reachable, [to_submitter]), *usable, *filter(is_reachable, [to_anywhere])]))


def is_reachable(address: str) -> bool:
    """Whether others may reach an address: not loopback, nor one that needs an interface named with it."""
    return bool(address) and not address.startswith(("127.", "0.", "fe80:")) and address not in ("::1", "::")


def ipv6_address(interface: str, table: str) -> str:
    """First global address of an interface, by the text of ``/proc/net/if_inet6``; empty if there is none."""
    for line in table.split("\n"):
        fields = line.split()
        if fields[5:] == [interface] and fields[3] == "00":  # scope: global
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0]))
    return ""


def log_tail(lines: int) -> List[str]:
    """Last lines of the job's log, which is our standard output; none if that is not a file."""
    try:
        if not stat.S_ISREG(os.fstat(1).st_mode):
            return []
        with open("/proc/self/fd/1", "rb") as log:  # opened afresh: the kernel writes by the offset of our own
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_BYTES))
            text = log.read(LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return text.rstrip("\n").split("\n")[-lines:] if text and lines > 0 else []


# What is to be done ---------------------------------------------------------------------------------------------------


def field(document: Any, path: str, *kinds: type, of: type = object) -> Any:
    """Value at a dotted path such as ``kernel.argv``, if it is there and of one of the types, and its items as well."""
    value = document
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise LauncherError(BAD_REQUEST, f"the request has no {path!r}")
        value = value[key]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise LauncherError(BAD_REQUEST, f"the request's {path!r} is of the wrong type ({type(value).__name__})")
    if not all(isinstance(item, of) for item in items):
        raise LauncherError(BAD_REQUEST, f"the request's {path!r} must hold nothing but {of.__name__}")
    return value


class KernelSpec:
    """The kernel to run: ``kernel`` and ``session`` of a request or of a restart."""

    def __init__(self, document: Any) -> None:
        self.argv: List[str] = field(document, "kernel.argv", list, of=str)
        self.python: Optional[str] = field(document, "kernel.python", str, NOTHING)
        self.env: Dict[str, str] = field(document, "kernel.env", dict, of=str)
        self.cwd: Optional[str] = field(document, "kernel.cwd", str, NOTHING)
        self.transport: str = field(document, "kernel.transport", str)
        self.wrapper: List[str] = field(document, "kernel.wrapper", list, of=str)
        self.direct_child: bool = field(document, "kernel.direct_child", bool)
        self.session: Json = field(document, "session", dict)
        for name in ("key", "signature_scheme", "kernel_name"):
            field(document, f"session.{name}", str)
        if not self.argv or self.transport not in ("ipc", "tcp"):
            raise LauncherError(
                BAD_REQUEST, "the request needs a 'kernel.argv', and a 'kernel.transport' of ipc or tcp"
            )

    def command(self, private: "PrivateDir", environment: Mapping[str, str]) -> List[str]:
        """Argument list of the kernel, or of what wraps it."""
        first = python_for(self.argv[0], self.python, environment)
        argv = [word.replace("{connection_file}", private.connection_file) for word in [first, *self.argv[1:]]]
        if not self.wrapper:
            return argv
        wrapper = [word.replace("{connection_dir}", private.path) for word in self.wrapper]
        return [*wrapper, "/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', private.pid_file, *argv]


class Request:
    """The server side's request, complete and of the right types."""

    def __init__(self, document: Any) -> None:
        if not isinstance(document, dict) or document.get("protocol") != PROTOCOL:
            raise LauncherError(BAD_REQUEST, f"request.json is not of protocol {PROTOCOL}")
        self.nonce: str = field(document, "nonce", str)
        self.kernel_id: str = field(document, "kernel_id", str)
        self.kernel = KernelSpec(document)
        self.certificate: str = field(document, "tls.certificate", str)
        self.private_key: str = field(document, "tls.private_key", str)
        self.peer_certificate: str = field(document, "tls.peer_certificate", str)
        self.address: Optional[str] = field(document, "listen.address", str, NOTHING)
        self.interface: Optional[str] = field(document, "listen.interface", str, NOTHING)
        self.port_range: Optional[List[int]] = field(document, "listen.port_range", list, NOTHING, of=int)
        if self.port_range and (len(self.port_range) != 2 or not 0 < self.port_range[0] <= self.port_range[1] < 65536):  # noqa: PLR2004
            raise LauncherError(BAD_REQUEST, f"{self.port_range} is no range of ports")
        #: Which machine that was, see `submitted_here`.
        self.submitted_on: str = field(document, "submitted_on", str)
        self.lease: Optional[float] = field(document, "lease", int, float, NOTHING)
        self.crash_grace: float = field(document, "crash_grace", int, float)
        self.warn_before_end: float = field(document, "warn_before_end", int, float)
        self.stop_timeout: float = field(document, "stop_timeout", int, float)
        self.squeue: Optional[List[str]] = field({"squeue": None, **document}, "squeue", list, NOTHING, of=str)

    @classmethod
    def wait_for(cls, run_dir: str, signals: "Signals") -> "Request":
        """Read ``request.json``, which on a shared file system may come late or in parts."""
        path = os.path.join(run_dir, "request.json")
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            try:
                with open(path, encoding="utf-8") as file:
                    return cls(json.load(file))
            except ValueError:
                trouble = "it is not complete"
            except OSError as error:
                trouble = error.strerror or str(error)
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    deadline = 0.0
            if time.monotonic() > deadline:
                raise LauncherError(BAD_REQUEST, f"cannot read {path!r}: {trouble}")
            signals.check()
            time.sleep(0.1)
            with suppress(OSError):
                os.listdir(run_dir)  # makes an NFS client ask anew what is there


class Signals:
    """The signals to the supervisor, from its first moment on.

    Those that matter are kept until there is an event loop to answer them. An interrupt before is dropped: nothing
    runs yet that could be meant. What the batch shell ignores gets a handler as well: with exec, handlers return to
    the default, ignored signals do not, and the kernel must begin with the defaults.
    """

    def __init__(self) -> None:
        self.kept: List[int] = []
        for signum in range(1, signal.NSIG):
            if signum in KEPT_SIGNALS:
                signal.signal(signum, lambda number, _frame: self.kept.append(number))
            elif signum in (signal.SIGPIPE, signal.SIGXFSZ):
                continue  # ignored by Python itself; Popen restores them
            elif signum in HANDLED_SIGNALS or signal.getsignal(signum) is signal.SIG_IGN:
                signal.signal(signum, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def check(self) -> None:
        """End here if we were told to, before anything was started."""
        for signum in self.kept:
            if signum in ENDING_SIGNALS:
                raise LauncherError(SIGNALLED + signum, f"ended by signal {signum} before the kernel was started")

    def hand_over(self, loop: Loop, handler: Callable[[int], None]) -> None:
        """Let a handler answer the signals from now on, first of all those that were kept."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        for signum in HANDLED_SIGNALS:
            loop.add_signal_handler(signum, handler, signum)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
        for kept in self.kept:
            handler(kept)


class PrivateDir:
    """A directory of our own on a local file system, for sockets and for what is secret. Removed at the end."""

    def __init__(self, environment: Mapping[str, str], kernel_id: str) -> None:
        # Kernels made with xeus have room for 31 characters of an endpoint, and "ipc:///tmp/NAME/k-1" is no longer.
        name = "slurm-" + os.urandom(5).hex()
        mounts = read_text("/proc/self/mounts")
        refused = []
        wanted = (environment.get("SLURM_TMPDIR"), environment.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm")  # noqa: S108
        for base in filter(None, wanted):
            reason = unsuitable(base, mounts, os.path.join(name, "k-1"))
            if not reason:
                try:
                    os.mkdir(os.path.join(base, name), 0o700)
                    break
                except OSError as error:
                    reason = f"cannot be used ({error.strerror})"
            refused.append(f"{base!r} {reason}")
        else:
            raise LauncherError(NO_DIRECTORY, "no usable place for the kernel's sockets: " + "; ".join(refused))
        self.path = os.path.join(base, name)
        self.hold()
        self.pid_file = os.path.join(self.path, "pid")
        # Libraries take the kernel's id from this name.
        self.connection_file = os.path.join(self.path, "kernel-{}.json".format(re.sub(r"[^\w.-]", "_", kernel_id)[:64]))

    def hold(self) -> None:
        """Keep a file locked while we live, by which others see that the directory is in use."""
        import fcntl  # noqa: PLC0415 (late, as the others are)

        path = os.path.join(self.path, "lock")
        with suppress(OSError):
            lock = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(f"{path}.new", path)  # only now: nobody sees it unlocked

    def clear(self) -> None:
        """Remove what a kernel has left: its sockets, its connection file."""
        for name in set(os.listdir(self.path)) - {"lock"}:
            with suppress(OSError):
                os.unlink(os.path.join(self.path, name))

    def write(self, path: str, text: str) -> None:
        """Write one of the directory's files."""
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
        except OSError as error:
            raise LauncherError(NO_DIRECTORY, f"cannot write to {self.path!r}: {error.strerror}") from error

    def __enter__(self) -> "PrivateDir":  # noqa: PYI034 (typing.Self is new in 3.11)
        return self

    def __exit__(self, *_exception: object) -> None:
        import shutil  # noqa: PLC0415 (late, as the others are, but also without them)

        shutil.rmtree(self.path, ignore_errors=True)


# The kernel -----------------------------------------------------------------------------------------------------------


def kernel_ports(transport: str, private: PrivateDir) -> Tuple[str, Dict[str, int]]:
    """Choose where the kernel shall bind: its connection file's ``ip``, and the port of each channel."""
    if transport == "ipc":
        return os.path.join(private.path, "k"), {channel: number for number, channel in enumerate(CHANNELS, 1)}
    import_the_rest()
    # On an address of 127.0.0.0/8 that nobody else uses, ports found free stay free until the kernel has bound them.
    ip = "127.{}.{}.{}".format(*(1 + byte % 254 for byte in os.urandom(3)))
    probes = {channel: socket.socket() for channel in CHANNELS}
    for probe in probes.values():
        probe.bind((ip, 0))
    ports = {channel: probe.getsockname()[1] for channel, probe in probes.items()}
    for probe in probes.values():
        probe.close()
    return ip, ports


def accepts(endpoint: Endpoint) -> bool:
    """Whether the kernel has bound an endpoint."""
    if isinstance(endpoint, str):
        return os.path.exists(endpoint)
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(endpoint) == 0


def working_directory(wanted: Optional[str]) -> Optional[str]:
    """Where the kernel starts: in the wanted directory, if it is one here, or else at home."""
    home = os.path.expanduser("~")
    if wanted:
        if os.path.isdir(wanted) and os.access(wanted, os.X_OK):
            return wanted
        say(f"there is no directory {wanted!r} here, the kernel starts in {home!r}")
    return home if os.path.isdir(home) else None


def process_stat(pid: int) -> List[str]:
    """Fields of ``/proc/PID/stat`` from the third on, which are the state, the parent, the group."""
    return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def start_time(pid: int) -> str:
    """When a process began: with its number, this names a process for good."""
    return process_stat(pid)[19]


def has_members(group: int) -> bool:
    """Whether a process group has a process that runs; those that only wait to be reaped by others do not count."""
    with suppress(OSError):
        os.killpg(group, 0)
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with suppress(OSError, IndexError):
                state, _, its_group = process_stat(pid)[:3]
                if int(its_group) == group and state not in "ZX":
                    return True
    return False


async def until(condition: Callable[[], bool], patience: float) -> bool:
    """Wait for a condition of which no event tells; False if it does not come in time."""
    deadline = time.monotonic() + patience
    delay = POLL_SECONDS / 16
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(delay)
        delay = min(2 * delay, POLL_SECONDS)
    return True


class Kernel:
    """One run of the kernel's process and of all that is in its process group; it starts with the object.

    Attributes
    ----------
    generation : int
        Counts the starts.
    ready : bool
        Its sockets have been seen.
    expected : bool
        We have asked it to end.
    over : bool
        Nothing of it is left: the numbers of its groups may belong to others by now.
    unbound : list
        Endpoints yet to be seen. Those seen are not tried again: a stopped kernel would leave us in its queue.
    """

    def __init__(self, spec: KernelSpec, private: PrivateDir, generation: int) -> None:
        self.private = private
        self.generation = generation
        self.ready = self.expected = self.over = False
        self.kill_at = float("inf")
        self.inner: Optional[Tuple[int, str]] = None
        ip, ports = kernel_ports(spec.transport, private)
        self.endpoints: Dict[str, Endpoint] = {
            channel: f"{ip}-{port}" if spec.transport == "ipc" else (ip, port) for channel, port in ports.items()
        }
        self.unbound = list(self.endpoints.values())
        info = dict(
            spec.session, transport=spec.transport, ip=ip, **{f"{name}_port": port for name, port in ports.items()}
        )
        private.clear()
        private.write(private.connection_file, json.dumps(info))
        environment = kernel_environment(os.environ, spec.env, os.getpid() if spec.direct_child else None)
        self.oom_kills = oom_kills()
        try:
            self.process = subprocess.Popen(
                spec.command(private, environment),
                cwd=working_directory(spec.cwd),
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: text that no file name and no variable can hold
            trouble = getattr(error, "strerror", None) or error
            program = (spec.wrapper or spec.argv)[0]
            raise LauncherError(NO_COMMAND, f"cannot start the kernel's command {program!r}: {trouble}") from error
        self.pid = self.process.pid

    def __enter__(self) -> "Kernel":  # noqa: PYI034
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(KILL_SECONDS)

    def outcome(self) -> Json:
        """How it ended: by an exit code, or by a signal; and whether memory has run out meanwhile."""
        code: int = self.process.returncode
        oom = any(count > self.oom_kills.get(group, 0) for group, count in oom_kills().items())
        return {"code": code if code >= 0 else None, "signal": -code if code < 0 else None, "oom": oom}

    def poll(self) -> bool:
        """Whether the process has ended. If it was not asked to, what it leaves behind is ended with it."""
        if self.process.returncode is None:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            if not self.expected:  # workers left behind hold memory, GPUs and the kernel's sockets
                self.kill()  # before the leader is reaped: until then nobody else can have the group's number
                self.over = True
            self.process.wait()
        return True

    def find_inner(self) -> None:
        """Learn which process the kernel is, if a wrapper runs it.

        The number in the pid file is trusted only if the process of that number has our directory in its arguments:
        a container may count in a namespace of its own.
        """
        with suppress(OSError, ValueError):
            pid = int(read_text(self.private.pid_file))
            if self.private.path in read_text(f"/proc/{pid}/cmdline"):
                self.inner = pid, start_time(pid)

    def groups(self) -> List[int]:
        """Process groups to signal, the kernel's own first: srun has another one, and does not pass signals on."""
        if self.over:
            return []
        groups = [self.pid]
        if self.inner is None:
            self.find_inner()
        if self.inner is not None:
            pid, started = self.inner
            with suppress(OSError):
                if start_time(pid) == started and os.getpgid(pid) != self.pid:
                    groups.insert(0, os.getpgid(pid))
        return groups

    def signal(self, signum: int) -> None:
        """Signal the kernel's process group."""
        if self.poll():
            raise LauncherError(BAD_REQUEST, "the kernel is not running")
        os.killpg(self.groups()[0], signum)

    def kill(self) -> None:
        """Kill all that is left of its process groups."""
        for group in self.groups():
            with suppress(OSError):
                os.killpg(group, signal.SIGKILL)

    def gone(self) -> bool:
        """Whether it has ended, and all of its groups with it."""
        return self.poll() and not any(map(has_members, self.groups()))

    def hurry(self, patience: float) -> None:
        """Let it have no more than some seconds to end."""
        self.kill_at = min(self.kill_at, time.monotonic() + patience)

    async def end(self, patience: float) -> None:
        """Ask the process group to end, kill what is left of it after some seconds, and see it gone."""
        if self.poll() and self.over:
            return
        self.expected = True
        self.hurry(patience)
        with suppress(OSError, LauncherError):
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)  # one that is stopped hears nothing
        await until(lambda: self.gone() or time.monotonic() > self.kill_at, patience)
        if not self.gone():
            self.kill()
            if not await until(self.poll, KILL_SECONDS):
                raise LauncherError(UNEXPECTED, f"the kernel's process {self.pid} does not end")
        self.over = True

    async def connect(self, channel: str, protocol: Protocol) -> None:
        """Connect to one of its sockets."""
        loop, endpoint = asyncio.get_event_loop(), self.endpoints[channel]
        if isinstance(endpoint, str):
            await loop.create_unix_connection(lambda: protocol, endpoint)
        else:
            await loop.create_connection(lambda: protocol, *endpoint)


# Streams of bytes to the kernel ---------------------------------------------------------------------------------------


class Stream(Protocol):
    """A connection of the server side to one of the kernel's sockets, as the protocol of the latter.

    It outlives the TLS connections that carry it: bytes are held until the server side has them. Its `carrier.py`
    describes how, and is made the same.
    """

    def __init__(self, number: int, over: Callable[["Stream"], object]) -> None:
        self.number = number
        self.over = over
        self.closed = False
        self.transport: Optional[asyncio.Transport] = None  # to the kernel
        self.carrier: Optional[Carrier] = None
        self.received = self.passed = self.told = 0
        self.taken = self.acknowledged = self.arrived = 0
        self.early: List[bytes] = []  # while the kernel's socket is yet to come
        self.unsent: Deque[bytes] = deque()
        self.sent: Deque[bytes] = deque()  # and not acknowledged
        self.ended = self.told_end = self.slow = self.full = False
        self.patience: Optional[asyncio.TimerHandle] = None

    # The kernel's end

    def connection_made(self, transport: Transport) -> None:
        """Begin, if somebody is still there."""
        self.transport = transport
        transport.max_size = READ_BYTES
        transport.set_write_buffer_limits(WRITE_BYTES)
        for data in self.early:
            transport.write(data)
        self.early.clear()
        if self.closed:
            self.close_transport()
        elif not self.slow:
            self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take what the kernel says."""
        self.taken += len(data)
        self.unsent.append(data)
        self.flush()

    def eof_received(self) -> None:
        """Have the connection closed."""

    def pause_writing(self) -> None:
        """Let the server side wait for the kernel."""
        self.slow = True

    def resume_writing(self) -> None:
        """Go on."""
        self.slow = False
        if self.passed < self.received:
            self.passed = self.received
            self.send(0)

    def connection_lost(self, _error: Optional[Exception]) -> None:
        """Tell of the kernel's end after all that it said."""
        self.ended = True
        if self.patience:
            self.patience.cancel()  # asyncio's transports fail to abort what has closed by itself
        self.resume_writing()
        self.flush()

    # The carrier's end

    def adopt(self, carrier: "Carrier", total: int, arrived: int) -> None:
        """Go on with a new TLS connection, where the server side is."""
        self.carrier, self.told_end = carrier, False
        self.send(0)
        self.heard(total, arrived, 0)

    def let_go(self) -> None:
        """Wait for another TLS connection, and keep what may not have come through."""
        self.carrier = None
        self.unsent.extendleft(reversed(self.sent))
        self.sent.clear()
        self.flush()

    def heard(self, total: int, arrived: int, length: int) -> None:
        """Take a header: forget what the other side has received, which may end within a piece sent before a loss."""
        if length == END or not self.acknowledged <= total <= self.taken:
            self.close()
            return
        self.arrived = arrived
        pieces = self.sent or self.unsent
        while pieces and self.acknowledged + len(pieces[0]) <= total:
            self.acknowledged += len(pieces.popleft())
        if not self.sent and self.acknowledged < total:
            self.unsent[0] = self.unsent[0][total - self.acknowledged :]
            self.acknowledged = total
        self.flush()

    def take(self, data: memoryview) -> None:
        """Pass bytes on to the kernel."""
        self.received += len(data)
        if not self.transport:
            self.early.append(bytes(data))
            return
        if not self.ended:
            self.transport.write(data)
        if not self.slow:
            self.passed = self.received

    def flush(self) -> None:
        """Send what the TLS connection takes, and read no more than can be held."""
        carrier = self.carrier
        while self.unsent and carrier and carrier.writable:
            data = self.unsent.popleft()
            self.sent.append(data)
            self.send(len(data), data)
        if self.ended and not self.unsent and carrier and carrier.writable and not self.told_end:
            self.told_end = True
            self.send(END)
        room = AHEAD_BYTES if carrier else HELD_BYTES
        full = bool(carrier and self.unsent) or self.taken - self.arrived >= room
        if self.transport and full != self.full:
            self.full = full
            with suppress(RuntimeError):  # Python 3.6, where it is being closed
                (self.transport.pause_reading if full else self.transport.resume_reading)()

    def send(self, length: int, data: bytes = b"") -> None:
        """Send a frame."""
        if self.carrier:
            self.told = self.received
            self.carrier.send(self.number, self.received, self.passed, length, data)

    def close(self) -> None:
        """Be over, and tell the server side if it is connected."""
        if self.closed:
            return
        self.closed = True
        if not self.told_end:
            self.send(END)
        self.carrier = None
        self.close_transport()
        self.unsent.clear()
        self.sent.clear()
        self.over(self)

    def close_transport(self) -> None:
        """Have the kernel take the rest, for a while."""
        if self.transport:
            self.transport.close()
            self.patience = asyncio.get_event_loop().call_later(FLUSH_SECONDS, self.transport.abort)


class Side:
    """A server side, its streams, and the TLS connection that carries them while there is one."""

    def __init__(self) -> None:
        self.streams: Dict[int, Stream] = {}
        self.carrier: Optional[Carrier] = None
        self.number = 0  # of the carrier

    def let_go(self) -> None:
        """Give up the TLS connection, if there is one; the streams wait for the next."""
        carrier, self.carrier = self.carrier, None
        if carrier:
            carrier.abort()
            for stream in list(self.streams.values()):
                stream.let_go()

    def close(self) -> None:
        """End all streams."""
        for stream in list(self.streams.values()):
            stream.close()

    def over(self, stream: Stream) -> None:
        """Forget a stream."""
        del self.streams[stream.number]


class Carrier(Protocol):
    """A TLS connection that carries streams.

    Parameters
    ----------
    join : callable
        Called with this and the fields of the greeting; returns the server side, or None if it comes late.
    begin : callable
        Called with the server side, the kernel's channel and a number for a stream that is new.
    """

    def __init__(
        self,
        join: Callable[["Carrier", bytes, int], Optional[Side]],
        begin: Callable[[Side, str, int], Stream],
    ) -> None:
        self.join = join
        self.begin = begin
        self.side: Optional[Side] = None
        self.writable = True
        self.over = False
        self.timer: Optional[asyncio.TimerHandle] = None
        self.head = bytearray()
        self.stream: Optional[Stream] = None  # whose frame this is
        self.left = 0

    def connection_made(self, transport: Transport) -> None:
        """Wait for the greeting."""
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_BYTES)

    def send(self, number: int, received: int, passed: int, length: int, data: bytes) -> None:
        """Send a frame."""
        header = struct.pack(HEADER[0], number, 0, False, received, passed, length)
        self.transport.write(header + data)

    def data_received(self, data: bytes) -> None:
        """Take a greeting, and frames."""
        rest = memoryview(data)
        while rest and not self.over:
            form, size = HEADER if self.side else GREETING
            wanted = self.left or size - len(self.head)
            part, rest = rest[:wanted], rest[wanted:]
            if self.left:
                self.left -= len(part)
                if self.stream:
                    self.take(self.stream, part)
                continue
            self.head += part
            if len(self.head) == size:
                fields = struct.unpack(form, self.head)
                self.head.clear()
                if self.side:
                    self.hear(self.side, fields)
                else:
                    self.greet(*fields)

    def greet(self, name: bytes, number: int) -> None:
        """Take the greeting."""
        self.side = self.join(self, name, number)
        if not self.side:
            self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        self.over = True
        self.transport.abort()

    def hear(self, side: Side, header: "Tuple[Any, ...]") -> None:
        """Take the header of a frame."""
        number, channel, fresh, total, arrived, length = header
        self.left = 0 if length == END else length
        self.stream = side.streams.get(number)
        if channel:
            if not self.stream and fresh and channel - 1 in range(len(CHANNELS)):
                self.stream = self.begin(side, CHANNELS[channel - 1], number)
            if self.stream:
                self.stream.adopt(self, total, arrived)
            else:
                self.send(number, 0, 0, END, b"")
        elif self.stream:
            self.stream.heard(total, arrived, length)

    def take(self, stream: Stream, data: memoryview) -> None:
        """Pass bytes on, and tell how many were received: at once if it is much, else soon."""
        stream.take(data)
        if stream.received - stream.told >= ACK_BYTES:
            stream.send(0)
        elif not self.timer:
            self.timer = asyncio.get_event_loop().call_later(ACK_SECONDS, self.acknowledge)

    def acknowledge(self) -> None:
        """Tell how much was received, unless that is known by now."""
        self.timer = None
        for stream in self.streams():
            if stream.received > stream.told:
                stream.send(0)

    def streams(self) -> List[Stream]:
        """Those that this carries."""
        return [stream for stream in (self.side.streams.values() if self.side else ()) if stream.carrier is self]

    def eof_received(self) -> None:
        """Have the connection closed."""

    def pause_writing(self) -> None:
        """Let the kernel wait for the server side."""
        self.writable = False

    def resume_writing(self) -> None:
        """Go on."""
        self.writable = True
        for stream in self.streams():
            stream.flush()

    def connection_lost(self, _error: Optional[Exception]) -> None:
        """Leave the streams to the next connection."""
        if self.timer:
            self.timer.cancel()
        if self.side and self.side.carrier is self:
            self.side.let_go()


# The port -------------------------------------------------------------------------------------------------------------


def tls_context(request: Request, private: PrivateDir) -> Context:
    """TLS with our certificate, for a peer that has the one which we were told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    if hasattr(context, "minimum_version"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    else:  # Python 3.6
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    context.options |= ssl.OP_NO_TICKET | getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    if hasattr(context, "num_tickets"):  # sessions are not resumed, every handshake shows its certificate
        context.num_tickets = 0
    context.set_alpn_protocols(["kernel", "supervisor"])
    path = os.path.join(private.path, "tls.pem")
    private.write(path, request.certificate + "\n" + request.private_key)
    try:
        context.load_cert_chain(path)
        context.load_verify_locations(cadata=request.peer_certificate)
    except (OSError, ValueError) as error:
        raise LauncherError(BAD_REQUEST, f"the request's certificates cannot be used: {error}") from error
    finally:
        os.unlink(path)
    return context


def listening_socket(address: str, port_range: Optional[List[int]]) -> Socket:
    """Bind an address, at a free port of a range if there is one. Accepted connections inherit the socket's options."""
    low, high = port_range or (0, 0)
    try:
        family, _, _, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise LauncherError(NO_PORT, f"cannot bind to {address!r}: {error}") from error
    for port in random.sample(range(low, high + 1), high + 1 - low):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("KEEPIDLE", 15), ("KEEPINTVL", 15), ("KEEPCNT", 4), ("USER_TIMEOUT", 75_000)):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{option}"), value)
        try:
            listener.bind((place[0], port, *place[2:]))
            listener.listen(128)
        except OSError as error:
            listener.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise LauncherError(NO_PORT, f"cannot bind to {address!r}: {error.strerror}") from error
        else:
            return listener
    raise LauncherError(NO_PORT, f"cannot bind to {address!r}: no port from {low} to {high} is free")


def interface_address(interface: str) -> str:
    """IPv4 address of an interface, or else its IPv6 address; empty if it has neither."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        siocgifaddr = 0x8915
        answer = fcntl.ioctl(probe.fileno(), siocgifaddr, struct.pack("256s", os.fsencode(interface)[:15]))
        return socket.inet_ntoa(answer[20:24])
    with suppress(OSError):
        return ipv6_address(interface, read_text("/proc/net/if_inet6"))
    return ""


def source_address(target: str) -> str:
    """Our address on the way to another; nothing is sent. Empty if there is no way."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return str(probe.getsockname()[0])
    return ""


async def resolve(name: str) -> Tuple[str, List[str]]:
    """Look up a host's addresses: none if it is unknown, or the name server slow."""
    lookup = asyncio.get_event_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    with suppress(OSError, UnicodeError, asyncio.TimeoutError):
        return name, [str(entry[4][0]) for entry in await asyncio.wait_for(lookup, LOOKUP_SECONDS)]
    return name, []


def submitted_here(machine: str) -> bool:
    """Whether the job was submitted on this very host, and in our network namespace."""
    with suppress(OSError):
        boot = read_text("/proc/sys/kernel/random/boot_id").strip()
        return machine == "{} {}".format(boot, os.readlink("/proc/self/ns/net"))
    return False


async def choose_address(request: Request) -> Tuple[str, List[str]]:
    """Choose the address to bind, and those to announce."""
    if request.address:
        return request.address, [request.address]
    if request.interface:
        address = interface_address(request.interface)
        if not address:
            raise LauncherError(
                NO_PORT, f"cannot bind: there is no interface {request.interface!r} with an address here"
            )
        return address, [address]
    if submitted_here(request.submitted_on):
        return "127.0.0.1", ["127.0.0.1"]
    host = socket.gethostname()
    submitter = os.environ.get("SLURM_SUBMIT_HOST") or host
    names = [os.environ.get("SLURMD_NODENAME") or host, host]
    found = dict(await asyncio.gather(*map(resolve, {submitter, *names})))
    routes = filter(is_reachable, map(source_address, found[submitter]))
    anywhere = source_address("198.51.100.1") or source_address("2001:db8::1")  # addresses for documentation
    own = list(filter(is_reachable, (interface_address(name) for _, name in socket.if_nameindex())))
    hosts = announced_hosts(next(routes, ""), {name: found[name] for name in names}, anywhere) or own or [host]
    return ("::" if own and all(":" in address for address in own) else "0.0.0.0"), hosts  # noqa: S104 (mutual TLS)


def ssh_host_keys(folder: str = "/etc/ssh") -> List[str]:
    """Return the public keys of this node's SSH server, for those who come that way: they may not know it."""
    keys = []
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if re.match("ssh_host_.*_key\\.pub$", name):
                with suppress(LauncherError):
                    keys.append(" ".join(read_text(os.path.join(folder, name)).split()[:2]))
    return [key for key in keys if " " in key]


def publish(run_dir: str, document: Json) -> None:
    """Write ``connection.json``, whole or not at all."""
    path = os.path.join(run_dir, "connection.json")
    draft = f"{path}.{os.urandom(4).hex()}"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(draft)
        raise LauncherError(NO_ANSWER, f"cannot write {path!r}: {error.strerror}") from error


def withdraw(run_dir: str, nonce: str) -> None:
    """Remove what told of our port, unless the run directory is another's by now."""
    path = os.path.join(run_dir, "connection.json")
    with suppress(OSError, ValueError, RecursionError, LauncherError):
        if field(json.loads(read_text(path)), "nonce", str) == nonce:
            os.unlink(path)


class TLS(Protocol):
    """TLS on a connection: the protocol of its transport, and the transport of the protocol that speaks by it.

    It is made like the server side's, see `tls.py`. asyncio's own takes longer for a message, and 512 KiB for itself.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Where it lives.
    context : ssl.SSLContext
        What we show and accept.
    accept : callable
        Called with this after the handshake; returns the protocol that speaks, None if none shall.
    refuse : callable
        Called with the error when what comes is not what we accept.
    """

    def __init__(
        self,
        loop: Loop,
        context: Context,
        accept: Callable[["TLS"], Optional[Protocol]],
        refuse: Callable[[Exception], None],
    ) -> None:
        self.loop = loop
        self.accept = accept
        self.refuse = refuse
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.up = self.closing = False
        self.protocol: Optional[Protocol] = None
        self.gone: asyncio.Future[None] = loop.create_future()

    # The protocol of the connection

    def connection_made(self, transport: Transport) -> None:
        """Wait for the handshake."""
        self.raw = transport
        transport.max_size = READ_BYTES
        self.patience = self.loop.call_later(HANDSHAKE_SECONDS, self.abort)

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        rest = memoryview(data)
        said: List[bytes] = []
        trouble = None
        try:
            while rest and not self.raw.is_closing():
                piece, rest = rest[:TLS_BYTES], rest[TLS_BYTES:]
                self.incoming.write(piece)
                self.proceed(said)
        except (ssl.SSLError, ValueError) as error:  # of a certificate that is not right, before Python 3.7
            trouble = error
        self.hear(said)
        self.flush()  # a stranger is told why
        if trouble:
            self.fail(trouble)

    def proceed(self, said: List[bytes]) -> None:
        """Shake hands, or add to what was said."""
        try:
            if not self.up:
                self.tls.do_handshake()
                self.up = True
                self.patience.cancel()
                self.flush()
                self.protocol = self.accept(self)
                if self.protocol:
                    transport: Any = self
                    self.protocol.connection_made(transport)
                else:
                    self.close()
            while self.incoming.pending or self.tls.pending():
                data = self.tls.read(TLS_BYTES)
                if not data:  # the peer has said goodbye, and waits for ours
                    self.hear(said)
                    self.close()
                    self.raw.close()
                    return
                if not self.closing:
                    said.append(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # its goodbye, after ours
            self.raw.close()

    def hear(self, said: List[bytes]) -> None:
        """Pass on what was said, at once: it comes in records of a few KiB."""
        if said and self.protocol:
            data = b"".join(said)
            said.clear()
            self.protocol.data_received(data)

    def flush(self) -> None:
        """Send what TLS has to say."""
        if self.outgoing.pending and not self.raw.is_closing():
            self.raw.write(self.outgoing.read())

    def fail(self, error: Exception) -> None:
        """Close a connection that is broken, or a stranger's."""
        self.closing = True
        self.raw.close()
        self.refuse(error)

    def eof_received(self) -> None:
        """Have the connection closed."""

    def pause_writing(self) -> None:
        """Tell who speaks."""
        if self.protocol:
            self.protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell who speaks."""
        if self.protocol:
            self.protocol.resume_writing()

    def connection_lost(self, error: Optional[Exception]) -> None:
        """Tell who speaks."""
        self.closing = True
        self.patience.cancel()
        self.gone.set_result(None)
        if self.protocol:
            self.protocol.connection_lost(error)

    # The transport of who speaks

    def write(self, data: bytes) -> None:
        """Send some bytes."""
        rest = memoryview(data)
        pieces = []
        try:
            while rest and not self.closing:
                piece, rest = rest[:TLS_BYTES], rest[TLS_BYTES:]
                self.tls.write(piece)
                pieces.append(self.outgoing.read())
        except ssl.SSLError as error:
            self.fail(error)
        if pieces and not self.raw.is_closing():
            self.raw.write(b"".join(pieces))

    def close(self) -> None:
        """Say goodbye after all that was said, and close once the peer has, too; by force, where it does not in time.

        A socket that is closed before all is read that still comes for it would lose the peer what it has not read.
        """
        if not self.closing:
            self.closing = True
            with suppress(ssl.SSLError):  # it has not said goodbye itself
                self.tls.unwrap()
            self.flush()
            self.patience = self.loop.call_later(FLUSH_SECONDS, self.abort)

    def abort(self) -> None:
        """Close at once."""
        self.closing = True
        self.raw.abort()

    def is_closing(self) -> bool:
        """Whether nothing can be said any more."""
        return self.closing

    def pause_reading(self) -> None:
        """Take nothing for a while."""
        self.raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        self.raw.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Count the bytes that wait to be sent."""
        size: int = self.raw.get_write_buffer_size()
        return size

    def set_write_buffer_limits(self, high: int) -> None:
        """Set with how many of them who speaks is told to pause."""
        self.raw.set_write_buffer_limits(high)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Tell something about the connection."""
        return self.tls.context if name == "sslcontext" else self.raw.get_extra_info(name, default)


class Port:
    """The TLS port, and the tasks that serve its connections.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Where they run.
    converse : callable
        Called with a reader and a writer for each supervisor channel of the peer; it ends with the coroutine.
    carry : callable
        Called for each connection of the peer for the kernel; returns what is to be its protocol.
    """

    def __init__(
        self,
        loop: Loop,
        converse: Callable[[Reader, Writer], Coroutine[Any, Any, None]],
        carry: Callable[[], Carrier],
    ) -> None:
        self.loop = loop
        self.converse = converse
        self.carry = carry
        self.tasks: Set[asyncio.Task[None]] = set()
        self.quiet_until = 0.0
        loop.set_exception_handler(self.on_trouble)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # what matters comes to on_trouble as well

    async def open(self, address: str, request: Request, private: PrivateDir) -> int:
        """Listen; the port's number."""
        context = tls_context(request, private)
        self.peer = ssl.PEM_cert_to_DER_cert(request.peer_certificate)
        listener = listening_socket(address, request.port_range)
        accept = self.accept, self.refuse
        self.server = await self.loop.create_server(lambda: TLS(self.loop, context, *accept), sock=listener)
        number: int = listener.getsockname()[1]
        return number

    def accept(self, connection: TLS) -> Optional[Protocol]:
        """Take a connection after its handshake, if it is the peer's: not that of somebody whom it may have signed."""
        channel = connection.tls.selected_alpn_protocol() if connection.tls.getpeercert(True) == self.peer else None
        if channel == "kernel":
            return self.carry()
        if channel == "supervisor":
            reader = asyncio.StreamReader(limit=LINE_BYTES, loop=self.loop)
            return asyncio.StreamReaderProtocol(reader, self.begin_to_converse, loop=self.loop)
        return None

    def refuse(self, error: Exception) -> None:
        """Say that a connection was not let in, or broken."""
        self.on_trouble(self.loop, {"message": "a connection was closed", "exception": error})

    def begin_to_converse(self, reader: Reader, writer: Writer) -> None:
        """See a supervisor channel to its end."""
        self.spawn(self.handle(reader, writer))

    async def handle(self, reader: Reader, writer: Writer) -> None:
        """Converse, and close the connection."""
        try:
            await self.converse(reader, writer)
        except OSError:
            pass  # the peer is gone
        finally:
            writer.close()
            connection: Any = writer.transport
            await connection.gone

    def spawn(self, work: Coroutine[Any, Any, None]) -> Task:
        """Run a coroutine beside the others."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.on_task_done)
        return task

    def on_task_done(self, task: Task) -> None:
        """Let no error go unseen."""
        self.tasks.discard(task)
        if not task.cancelled() and task.exception():
            say(f"unexpected error: {task.exception()!r}")

    def on_trouble(self, _loop: Loop, context: Json) -> None:
        """Say what asyncio has to tell, mostly of strangers at the port; not too often."""
        if self.loop.time() >= self.quiet_until:
            self.quiet_until = self.loop.time() + QUIET_SECONDS
            say(f"{context.get('message')}: {context.get('exception')!r}")

    async def flush(self) -> None:
        """Let what is still to be sent go out, while the peer takes it."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=LAST_FLUSH_SECONDS)


# The supervisor -------------------------------------------------------------------------------------------------------


def send(writer: Writer, message: Json) -> None:
    """Send a line on a supervisor channel, unless the peer has left too many unread: then it is dropped."""
    if writer.transport.is_closing():
        return
    if writer.transport.get_write_buffer_size() > BACKLOG_BYTES:
        writer.transport.abort()
    else:
        writer.write(json.dumps(message).encode() + b"\n")


class Patience:
    """A timer that can be put off. Time in which Slurm had suspended the job, and us with it, does not count."""

    def __init__(self, loop: Loop, seconds: float, run_out: Callable[[], object]) -> None:
        self.loop = loop
        self.seconds = seconds
        self.run_out = run_out
        self.suspended = False
        self.renew()

    def begin(self) -> None:
        """Begin to wait, anew if it has run out."""
        self.renew()
        self.check(self.until)

    def renew(self) -> None:
        """Wait the whole time from now on."""
        self.until = self.loop.time() + self.seconds

    def check(self, due: float) -> None:
        """Wait on, unless the time has run out."""
        if self.loop.time() - due > SUSPENDED_SECONDS:
            self.suspended = True
            self.renew()
        if self.loop.time() >= self.until:
            self.run_out()
        else:
            self.loop.call_at(self.until, self.check, self.until)


class Supervisor:
    """Answers for the kernel: to the server side's commands, to signals, and to time."""

    def __init__(self, loop: Loop, request: Request, private: PrivateDir, kernel: Kernel) -> None:
        self.loop = loop
        self.request = request
        self.private = private
        self.kernel = kernel
        self.port = Port(loop, self.converse, lambda: Carrier(self.join, self.begin_stream))
        self.sides: Dict[bytes, Side] = {}
        self.channels: Set[asyncio.StreamWriter] = set()  # to the server side's supervisor channels
        self.exited: Json = {}  # how the kernel ended, if it has
        self.restart_task: Optional[asyncio.Task[None]] = None
        self.grace: Optional[asyncio.TimerHandle] = None
        self.reason: Optional[str] = None  # of the end, once there is one
        self.ending: asyncio.Future[int] = loop.create_future()
        self.lease = Patience(loop, request.lease or 0, lambda: self.end("lease", 0))
        self.alone = Patience(loop, FORGOTTEN_SECONDS, lambda: self.port.spawn(self.look_for_slurm()))
        self.parent = os.getppid()
        self.whoami = {
            "protocol": PROTOCOL,
            "nonce": request.nonce,
            "job_id": os.environ.get("SLURM_JOB_ID", ""),
            "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        }

    async def run(self, run_dir: str, signals: Signals) -> int:
        """Serve until something ends it; the exit code."""
        self.look_after_kernel()
        signals.hand_over(self.loop, self.on_signal)
        if self.request.lease is not None:
            self.lease.begin()
        try:
            address, hosts = await choose_address(self.request)
            port = await self.port.open(address, self.request, self.private)
            python = "{}.{}.{}".format(*sys.version_info)
            whereabouts = {"hosts": hosts, "port": port, "ssh_host_keys": ssh_host_keys()}
            publish(run_dir, {**self.whoami, **whereabouts, "pid": os.getpid(), "python": python, "time": time.time()})
            self.alone.begin()
            code = await self.ending
        finally:
            try:
                await self.kernel.end(FINISH_SECONDS if self.reason == "terminated" else self.request.stop_timeout)
            except LauncherError as error:
                say(str(error))
            self.reap()
            if self.restart_task:
                await asyncio.wait([self.restart_task])
            with suppress(asyncio.TimeoutError, RuntimeError):  # a dead file system, or no more threads
                work = self.loop.run_in_executor(None, withdraw, run_dir, self.request.nonce)
                await asyncio.wait_for(work, LAST_FLUSH_SECONDS)
        self.port.server.close()
        # Without slurmstepd, whose child we are, Slurm does not learn that the job has ended.
        orphaned = {"orphaned": True} if os.getppid() != self.parent else {}
        self.broadcast({"event": "bye", "reason": self.reason, **orphaned})
        for channel in self.channels:
            channel.close()
        # A stream is over when the server side has all that the kernel said.
        await until(lambda: not any(side.carrier and side.streams for side in self.sides.values()), LAST_FLUSH_SECONDS)
        await self.port.flush()
        return code

    def end(self, reason: str, code: int) -> None:
        """Begin to end, for the first reason that comes."""
        if not self.ending.done():
            say("the job ends: " + REASONS[reason])
            self.reason = reason
            self.ending.set_result(code)
            self.broadcast({"event": "ending", "reason": reason})

    def on_signal(self, signum: int) -> None:
        """Answer a signal: Slurm's, our child's, or the server side's when it has no connection."""
        if signum == signal.SIGCHLD:
            self.loop.call_soon(self.reap)  # after a signal of Slurm's that came at the same time: it tells why
        elif signum == signal.SIGUSR1:
            self.broadcast({"event": "time-left", "seconds": max(0, self.seconds_left())})
        elif signum in ENDING_SIGNALS:
            self.end("terminated", SIGNALLED + signum)
        else:
            with suppress(OSError, LauncherError):  # it has just ended
                self.kernel.signal(KERNEL_SIGNALS[signal.Signals(signum)])

    def seconds_left(self) -> int:
        """Seconds until the job's time limit, negative after it."""
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        return int(end) - int(time.time()) if end.isdecimal() else int(self.request.warn_before_end)

    async def look_for_slurm(self) -> None:
        """End the job if Slurm has given it up: to a node that was cut off, it cannot say so itself."""
        self.alone.begin()
        if self.channels or self.ending.done():
            return
        overdue = not self.alone.suspended and self.seconds_left() < -OVERDUE_SECONDS  # a suspension moves the limit
        answer = await self.ask_slurm()
        if not self.channels and (overdue if answer is None else answer):
            self.end("forgotten", 0)

    async def ask_slurm(self) -> Optional[bool]:
        """Ask Slurm whether it has given the job up; None if there is no answer."""
        job_id = os.environ.get("SLURM_JOB_ID", "")
        if not self.request.squeue or not job_id.isdecimal():
            return None
        squeue = [word.replace("{job_id}", job_id) for word in self.request.squeue]
        # The shell is what hangs if the program is on a dead file system. SLURM_CLUSTERS would ask another Slurm.
        script = 'unset SLURM_CLUSTERS; exec "$@" > "$0/squeue.out" 2> "$0/squeue.err"'
        with suppress(OSError, ValueError):
            argv = ["/bin/sh", "-c", script, self.private.path, *squeue]
            process = subprocess.Popen(argv, start_new_session=True)  # noqa: ASYNC220 (asyncio's would take SIGCHLD)
            in_time = await until(lambda: process.poll() is not None or self.ending.done(), ASK_SECONDS)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                await until(lambda: process.poll() is not None, KILL_SECONDS)
            if in_time:
                output, errors = (read_text(os.path.join(self.private.path, f"squeue.{end}")) for end in ("out", "err"))
                return given_up(process.returncode, output, errors)
        return None

    # The kernel's life

    def look_after_kernel(self) -> None:
        """Tell of a new kernel, and watch for its sockets."""
        self.exited = {}
        self.broadcast({"event": "started", **self.identity()})
        self.look_for_sockets(self.kernel, self.loop.time() + YOUNG_SECONDS)

    def look_for_sockets(self, kernel: Kernel, young_until: float) -> None:
        """Tell when the kernel has bound its sockets."""
        if kernel is not self.kernel or kernel.poll():
            return
        kernel.groups()  # a wrapped kernel is known best by the arguments it starts with
        kernel.unbound = [endpoint for endpoint in kernel.unbound if not accepts(endpoint)]
        if not kernel.unbound:
            kernel.ready = True
            self.broadcast({"event": "ready", **self.identity()})
        else:
            delay = POLL_SECONDS if self.loop.time() < young_until else OLD_POLL_SECONDS
            self.loop.call_later(delay, self.look_for_sockets, kernel, young_until)

    def reap(self) -> None:
        """Tell of the kernel's end, once."""
        if not self.exited and self.kernel.poll():
            self.exited = {**self.kernel.outcome(), "log": log_tail(LOG_LINES)}
            expected = self.kernel.expected
            self.broadcast({"event": "exited", **self.identity(), "expected": expected, **self.exited})
            how = "exit code {code}" if self.exited["signal"] is None else "signal {signal}"
            say(f"the kernel (process {self.kernel.pid}) ended: " + how.format(**self.exited))
            self.keep_job()

    def keep_job(self) -> None:
        """Wait for a restart once the kernel has ended, but not for ever."""
        if self.exited and self.grace is None and not self.restart_task and not self.ending.done():
            signum, code = self.exited["signal"], self.exited["code"]
            status = code if signum is None else SIGNALLED + signum
            self.grace = self.loop.call_later(self.request.crash_grace, self.end, "crash-grace", status)

    def check_ending(self) -> None:
        """Refuse what comes too late."""
        if self.ending.done():
            raise LauncherError(BAD_REQUEST, "the job is ending")

    def begin_restart(self, spec: KernelSpec, number: int, channel: Writer) -> None:
        """Begin a restart: it takes its time, and other commands pass it by."""
        self.check_ending()
        if self.restart_task:
            raise LauncherError(BAD_REQUEST, "a restart is under way")
        self.restart_task = self.port.spawn(self.restart(spec, number, channel))

    async def restart(self, spec: KernelSpec, number: int, channel: Writer) -> None:
        """Put a new kernel in the place of the old one, and answer the command."""
        if self.grace:
            self.grace.cancel()
            self.grace = None
        answer: Json = {"ok": False, "error": "unexpected error, see the log"}
        try:
            await self.kernel.end(self.request.stop_timeout)
            self.reap()
            self.check_ending()
            for side in self.sides.values():
                for stream in side.streams.values():
                    if stream.transport:  # to the old one, whose last words have that long to be fetched
                        self.loop.call_later(FLUSH_SECONDS, stream.close)
            self.kernel = Kernel(spec, self.private, self.kernel.generation + 1)
            self.look_after_kernel()
            answer = {"ok": True, **self.identity()}
        except LauncherError as error:
            answer = {"ok": False, "error": str(error)}
        finally:
            send(channel, {"re": number, **answer})
            self.restart_task = None
            self.keep_job()

    # Channels

    def join(self, carrier: Carrier, name: bytes, number: int) -> Optional[Side]:
        """Let a TLS connection carry its server side's streams, unless it comes late."""
        self.lease.renew()
        side = self.sides.setdefault(name, Side())
        if number <= side.number:
            return None
        for other in list(self.sides):
            if not (self.sides[other].carrier or other == name):  # that server side has been replaced by this one
                self.sides.pop(other).close()
        side.let_go()
        side.carrier, side.number = carrier, number
        return side

    def begin_stream(self, side: Side, channel: str, number: int) -> Stream:
        """Begin a stream to one of the kernel's sockets."""
        stream = side.streams[number] = Stream(number, side.over)
        self.port.spawn(self.reach_kernel(channel, stream))
        return stream

    async def reach_kernel(self, channel: str, stream: Stream) -> None:
        """Join a stream with the kernel's socket of that name, which may be yet to come."""
        deadline = self.loop.time() + KERNEL_SOCKET_SECONDS
        while not stream.closed:
            with suppress(OSError):
                await self.kernel.connect(channel, stream)
                return
            if self.kernel.poll() or self.loop.time() > deadline:
                stream.close()
            await asyncio.sleep(POLL_SECONDS)

    async def converse(self, reader: Reader, writer: Writer) -> None:
        """Obey the server side, and tell it what happens."""
        self.lease.renew()
        send(writer, {"event": "status", **self.status()})
        self.channels.add(writer)
        try:
            while True:
                line = await reader.readline()
                if not line.endswith(b"\n"):
                    return
                self.lease.renew()
                self.obey(line, writer)
        except ValueError:
            pass  # a line without end
        finally:
            self.channels.discard(writer)
            self.alone.renew()

    def broadcast(self, event: Json) -> None:
        """Send an event to every supervisor channel."""
        for channel in self.channels:
            send(channel, event)

    def identity(self) -> Json:
        """Which kernel an event is about."""
        return {"pid": self.kernel.pid, "generation": self.kernel.generation}

    def status(self) -> Json:
        """All there is to know."""
        left = None if self.request.lease is None else round(max(0.0, self.lease.until - self.loop.time()), 1)
        job = {"lease_left": left, "ending": self.reason}
        state = "ready" if self.kernel.ready else "starting"
        living: Json = {"state": state, "code": None, "signal": None, "oom": False, "log": []}
        ended = {"state": "exited", "pid": None, **self.exited} if self.exited else {}
        return {**self.whoami, **job, **self.identity(), **living, **ended}

    def obey(self, line: bytes, channel: Writer) -> None:
        """Carry out a command, and answer it."""
        number = None
        try:
            command = json.loads(line.decode())
            number = field(command, "id", int)
            do = field(command, "do", str)
            if do == "restart":
                self.begin_restart(KernelSpec(command), number, channel)
            else:
                send(channel, {"re": number, "ok": True, **self.carry_out(do, command)})
        except (LauncherError, OSError, ValueError, OverflowError, RecursionError) as error:
            send(channel, {"re": number, "ok": False, "error": str(error)})

    def carry_out(self, do: str, command: Json) -> Json:
        """Carry out a command that can be done at once; the fields of its answer."""
        if do == "status":
            return self.status()
        if do == "log":
            return {"log": log_tail(field(command, "lines", int))}
        if do == "signal":
            self.kernel.signal(field(command, "signum", int))
        elif do == "stop":
            self.end("stop", 0)
            self.kernel.hurry(self.request.stop_timeout)  # Slurm may have been first, and given it more
        elif do != "lease":
            raise LauncherError(BAD_REQUEST, f"there is no command {do!r}")
        return {}


def supervise(arguments: List[str], signals: Signals) -> int:
    """Run a job from its request to its end; the exit code."""
    if len(arguments) != 1:
        raise LauncherError(BAD_REQUEST, "usage: python3 - RUN_DIR < launcher.py")
    run_dir = arguments[0]
    request = Request.wait_for(run_dir, signals)
    with PrivateDir(os.environ, request.kernel_id) as private:
        signals.check()
        with Kernel(request.kernel, private, generation=1) as kernel:
            with suppress(OSError):
                os.unlink(os.path.join(run_dir, "request.json"))
            import_the_rest()
            loop = asyncio.new_event_loop()
            return loop.run_until_complete(Supervisor(loop, request, private, kernel).run(run_dir, signals))


def main(arguments: List[str]) -> int:
    """Run the program; the exit code."""
    signals = Signals()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # lets go of the batch script
    try:
        return supervise(arguments, signals)
    except LauncherError as error:
        say(f"failed: {error}")
        return error.code
    except Exception:
        import traceback  # noqa: PLC0415

        say(traceback.format_exc())
        return UNEXPECTED


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # does not wait for a thread that waits for a name server
