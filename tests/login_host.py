"""A login host for the tests: OpenSSH's real server, run by an ordinary user for itself, and the laptop that knows it.

.. code-block:: python

    with Sshd(folder / "hpc", "MaxSessions 3", environment={"SLURM_CONF": conf}) as sshd:
        laptop = Laptop(folder / "laptop")
        laptop.add("hpc", sshd)
        LoginHost(host="hpc", config=laptop.config)

`Login` is these two, for a Slurm of this machine.

Nothing here reads or writes anybody's ``~/.ssh``. A login runs the user's own shell with the startup files of the
user's own home; `shell` puts another shell and another home in their place.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["SSHD", "Laptop", "Login", "Sshd", "environment_of", "eventually", "make_key", "public", "shell", "version"]

#: Seconds until what does not happen counts as never.
PATIENCE = 60
# It starts itself again for each connection, for which it wants to know where it is.
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin") or "sshd"
_CONFIG = """
ListenAddress {address}
Port {port}
HostKey {key}
AuthorizedKeysFile {folder}/authorized_keys
SetEnv {environment}
LogLevel VERBOSE
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
"""


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something of which there is no event."""
    begin = time.monotonic()
    while not (result := condition()):
        assert time.monotonic() < begin + PATIENCE, f"never happened: {what}"
        time.sleep(0.01)
    return result


def make_key(path: Path, passphrase: str = "") -> Path:
    """Make a key pair; its public half is in ``<path>.pub``."""
    _keygen("-t", "ed25519", "-N", passphrase, "-C", path.name, "-f", path)
    return path


def public(key: Path) -> str:
    """A key's public half, one line."""
    return Path(f"{key}.pub").read_text().strip()


class Sshd:
    """A server that lets in who runs it, by the keys it was told.

    Parameters
    ----------
    folder : Path
        Its own, made here.
    *lines : str
        What its configuration has before all else: it takes the first value that it reads of anything.
    environment : mapping, optional
        What every login's environment has.
    address : str, optional
        Where it listens.
    program : str, optional
        Another name of the program: PAM knows it by its name.

    Attributes
    ----------
    port : int
        Where it listens; the same after a `stop` and a `start`.
    key : Path
        Its key, from its next `start` on.
    host_key : str
        The public half of its key, one line.
    """

    def __init__(
        self,
        folder: Path,
        *lines: str,
        environment: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
        program: str = SSHD,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.lines = list(lines)
        self.environment = dict(environment or {})
        self.address = address
        self.key = make_key(folder / "host_key")
        self.host_key = public(self.key)
        self.port = 0
        self._program = program
        self._mark = f"LOGIN_OF={folder}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "authorized_keys").touch()
        (folder / "log").touch()

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Run it, as it was before; who connects after this is heard."""
        for _ in range(10):
            port = self.port or _free_port(self.address)
            if self._listens(port):
                self.port = port
                return
        raise AssertionError(f"sshd does not start:\n{self.log[-2000:]}")

    def restart(self, *lines: str, environment: Mapping[str, str] | None = None) -> None:
        """Run it with other `lines` and another `environment`."""
        self.stop()
        self.lines = list(lines)
        self.environment = dict(environment or {})
        self.start()

    def stop(self) -> None:
        """End it and its connections; who connects after this is refused."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)  # it takes no new connection now
            _kill(self.servers())
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self, port: int) -> bool:
        marks = [self._mark, *(f"{name}={value}" for name, value in self.environment.items())]
        environment = " ".join(f'"{each}"' for each in marks)
        config = _CONFIG.format(
            address=self.address, port=port, key=self.key, folder=self.folder, environment=environment
        )
        if version() >= (9, 8):
            config += "PerSourcePenalties no\n"  # the tests fail to log in more often than people do
        (self.folder / "config").write_text("\n".join(self.lines) + config)
        said = len(self.log)
        with (self.folder / "log").open("ab") as log:
            argv = [self._program, "-D", "-e", "-f", str(self.folder / "config")]
            # A session of its own: a Ctrl-C is for the tests, which then end it.
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
        eventually(lambda: f"port {port}." in self.log[said:] or process.poll() is not None, "a server that listens")
        if process.poll() is not None:
            return False
        self._process = process
        return True

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._process is not None

    @property
    def log(self) -> str:
        """What it said, since ever."""
        return (self.folder / "log").read_text(errors="replace")

    def tries(self) -> int:
        """How often somebody has connected."""
        return len(re.findall("^Connection from ", self.log, re.MULTILINE))

    def logins(self) -> int:
        """How often somebody has logged in."""
        return len(re.findall(r"^Accepted \S+ for ", self.log, re.MULTILINE))

    def sessions(self) -> int:
        """How many commands have been started."""
        return len(re.findall("^Starting session: ", self.log, re.MULTILINE))

    def connections(self) -> list[int]:
        """One process for each connection."""
        return [] if self._process is None else [pid for pid, parent in _processes() if parent == self._process.pid]

    def servers(self) -> list[int]:
        """All processes that serve connections; without the commands that were started."""
        parents = _processes()
        found = self.connections()
        for pid in found:
            found += [child for child, parent in parents if parent == pid and _is_sshd(child)]
        return found

    def cut(self) -> None:
        """Break all connections at once, as a lost network does; commands only lose what they talk to."""
        _kill(self.servers())

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have all connections say nothing, as a network does that drops what is sent."""
        pids = self.servers()
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def commands(self) -> list[int]:
        """The processes that its logins have started and that are alive."""
        return [pid for pid, _ in _processes() if self._mark in environment_of(pid)]

    def let_in(self, *keys: str) -> None:
        """Let in whoever has one of these keys, and nobody else."""
        (self.folder / "authorized_keys").write_text("".join(f"{key}\n" for key in keys))


def shell(folder: Path, shell: str, files: Mapping[str, str], noise: str = "") -> str:
    """Return the line for an `Sshd` whose logins have another shell, and a home with these files.

    Parameters
    ----------
    folder : Path
        For them; the home is ``<folder>/home``.
    shell : str
        The user's shell.
    files : mapping
        The home's files.
    noise : str, optional
        What is printed to stdout and stderr before the shell starts.
    """
    home = folder / "home"
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    home.mkdir(parents=True, exist_ok=True)
    script = folder / "login"
    program = shutil.which(shell)
    assert program, f"These tests need {shell} (scripts/test installs it)."
    script.write_text(
        "#!/bin/sh\n"
        f"printf %s {shlex.quote(noise)}; printf %s {shlex.quote(noise)} >&2\n"
        "unset SHLVL\n"  # or bash would not take itself for one that sshd has started
        f"export HOME={shlex.quote(str(home))} SHELL={program}; cd\n"
        f'[ -n "$SSH_ORIGINAL_COMMAND" ] || exec {program} -l\n'
        f'exec {program} -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    script.chmod(0o755)
    return f"ForceCommand {script}"


class Laptop:
    """The user's side: a key, the known hosts, and a configuration of ssh, in a folder of its own.

    Attributes
    ----------
    config : str
        The path of the configuration.
    key : Path
        The key; its public half is in ``<key>.pub``.
    known_hosts : Path
        The hosts whose keys are known.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        self.folder = folder
        self.key = make_key(folder / "id_ed25519")
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.touch()
        self.config = str(folder / "config")
        self._hosts = ""
        self._first = ""
        self._write()

    def add(self, name: str, sshd: Sshd, *, known: bool = True) -> None:
        """Have a server under a name, that lets this laptop's key in and whose own key is known or is not."""
        sshd.let_in(public(self.key))
        if known:
            self.know(sshd)
        self._hosts += f"Host {name}\n    HostName 127.0.0.1\n    Port {sshd.port}\n"
        self._write()

    def know(self, sshd: Sshd, key: str = "") -> None:
        """Take a key, or else the right one, for that of a server."""
        with self.known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{sshd.port} {key or sshd.host_key}\n")

    def prefer(self, lines: str) -> None:
        """Say something before all that is said already: ssh takes the first value that it reads of anything."""
        self._first = f"{lines}\n{self._first}"
        self._write()

    def ssh(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Call the ssh program, as its user would."""
        argv = ["ssh", "-F", self.config, "-o", "BatchMode=yes", *words]
        return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **more)

    def _write(self) -> None:
        Path(self.config).write_text(
            f"{self._first}\n{self._hosts}\n"
            "Host *\n"
            f"    IdentityFile {self.key}\n"
            "    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile {self.known_hosts}\n"
            "    GlobalKnownHostsFile /dev/null\n"
        )


class Login:
    """A login host of the Slurm that this machine has, and a laptop that knows it."""

    def __init__(self, folder: Path) -> None:
        names = {"SLURM_CONF"} & os.environ.keys()
        self.sshd = Sshd(folder / "hpc", environment={name: os.environ[name] for name in names})
        self.laptop = Laptop(folder / "laptop")
        self.sshd.start()
        self.laptop.add("hpc", self.sshd)

    def stanza(self, transport: str) -> dict[str, Any]:
        """What a kernelspec has for it."""
        return {"ssh": {"host": "hpc", "config": self.laptop.config, "transport": transport}}


def environment_of(pid: int) -> list[str]:
    """A process's environment, as far as it can be read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return []


def _processes() -> list[tuple[int, int]]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found.append((int(name), int(parent)))
    return found


def _is_sshd(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "sshd" in Path(f"/proc/{pid}/comm").read_text()  # sshd-session, in newer ones
    return False


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    left = set(pids)
    eventually(lambda: not left & {pid for pid, _ in _processes()}, "the end of connections")


def _free_port(address: str) -> int:
    with socket.socket() as sock:
        sock.bind((address, 0))
        return sock.getsockname()[1]


def version() -> tuple[int, int]:
    """OpenSSH's version."""
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    major, minor = re.findall(r"\d+", said)[:2]
    return int(major), int(minor)


def _keygen(*words: str | Path) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, words)], stdin=subprocess.DEVNULL, check=True)
