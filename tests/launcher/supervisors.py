"""Supervisors as the batch script starts them, and what is needed to talk to them."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LAUNCHER = Path(__file__).parents[2] / "slurm_provisioner" / "launcher.py"
FAKE_KERNEL = Path(__file__).with_name("fake_kernel.py")
FAKE_ARGV = [sys.executable, "-I", "-S", str(FAKE_KERNEL), "{connection_file}"]
CHANNELS = ["shell", "iopub", "stdin", "control", "hb"]
PATIENCE = 60.0  # seconds; what takes as long has failed
THIS_MACHINE = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/net')}"
END = 2**32 - 1  # of a stream
HEADER_BYTES = 26  # of a frame


# Certificates ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Credentials:
    """A self-signed certificate, or one that another has signed, and its key."""

    certificate: str
    private_key: str
    pem_file: str

    def __repr__(self) -> str:
        return f"Credentials({self.pem_file})"

    @classmethod
    def make(cls, folder: Path, name: str, signer: Credentials | None = None) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signing_key = key
        if signer:
            issuer = x509.load_pem_x509_certificate(signer.certificate.encode()).subject
            signing_key = serialization.load_pem_private_key(signer.private_key.encode(), None)
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(signing_key, hashes.SHA256())
        )
        encoding = serialization.Encoding.PEM
        secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        text = certificate.public_bytes(encoding)
        file = folder / f"{name}.pem"
        file.write_bytes(text + secret)
        return cls(text.decode(), secret.decode(), str(file))


# Supervisors ----------------------------------------------------------------------------------------------------------


def eventually(condition, what: str):
    """Wait for something that tells nobody when it comes."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:g} s"
        time.sleep(0.01)
    return result


class Conversation:
    """The server side's end of a supervisor channel. Events that nobody asked for yet are kept in `events`."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection = connection
        self.stream = connection.makefile("rwb")
        self.events: list[dict] = []
        self.number = 0

    def read(self) -> dict | None:
        line = self.stream.readline()
        return json.loads(line) if line else None

    def event(self, name: str, **fields) -> dict:
        """The next event of a name, and with the given fields."""
        wanted = {"event": name, **fields}
        while True:
            for place, event in enumerate(self.events):
                if wanted.items() <= event.items():
                    del self.events[: place + 1]
                    return event
            message = self.read()
            assert message is not None, f"end of file instead of {wanted}"
            assert "event" in message, f"an answer nobody waits for: {message}"
            self.events.append(message)

    def send(self, do: str, **fields) -> int:
        self.number += 1
        self.write(json.dumps({"id": self.number, "do": do, **fields}).encode() + b"\n")
        return self.number

    def write(self, data: bytes) -> None:
        self.stream.write(data)
        self.stream.flush()

    def answer(self, number: int | None) -> dict:
        while (message := self.read()) is not None:
            if "event" not in message:
                assert message["re"] == number
                return message
            self.events.append(message)
        raise AssertionError(f"end of file instead of the answer to {number}")

    def call(self, do: str, **fields) -> dict:
        return self.answer(self.send(do, **fields))

    def until_end(self) -> list[dict]:
        """All messages up to the end of file."""
        messages, self.events = self.events, []
        while (message := self.read()) is not None:
            messages.append(message)
        self.close()
        return messages

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what was not sent any more is not missed
            self.stream.close()
        self.connection.close()


class Stream:
    """The server side's end of a stream, of which it holds nothing itself. `connect` begins the next connection."""

    def __init__(self, dial, channel: str, *, fresh: bool = True) -> None:
        self.dial = dial
        self.channel = CHANNELS.index(channel) + 1
        self.fresh = fresh
        self.name = os.urandom(8)
        self.received = self.acknowledged = self.number = 0
        self.connections: list[ssl.SSLSocket] = []
        self.connect()

    def connect(self, number: int | None = None) -> None:
        self.number = number or self.number + 1
        self.left = 0
        self.connection = self.dial()
        self.connections.append(self.connection)
        self.connection.sendall(struct.pack("!8sI", self.name, self.number) + self.frame(0, opens=self.channel))

    def frame(self, length: int, *, opens: int = 0) -> bytes:
        return struct.pack("!IB?QQI", 1, opens, self.fresh, self.received, self.received, length)

    def sendall(self, data: bytes) -> None:
        self.connection.sendall(self.frame(len(data)) + data)

    def header(self) -> int:
        """Number of bytes in the next frame, or `END`."""
        head = b""
        while len(head) < HEADER_BYTES:
            part = self.connection.recv(HEADER_BYTES - len(head))
            if not part:
                raise ConnectionError("lost")
            head += part
        number, _, _, self.acknowledged, _, self.left = struct.unpack("!IB?QQI", head)
        assert number == 1
        self.fresh = False
        return self.left

    def recv(self, most: int) -> bytes:
        """Some bytes, or none at an orderly end."""
        while not self.left:
            self.header()
        if self.left == END:
            return b""
        data = self.connection.recv(min(most, self.left))
        if not data:
            raise ConnectionError("lost")
        self.left -= len(data)
        self.received += len(data)
        return data

    def end(self) -> None:
        """End it, and see that end: who closes a socket with something unread may lose what was sent last."""
        self.connection.sendall(self.frame(END))
        while self.recv(1 << 16):
            pass
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.sendall(self.frame(END))
        for connection in self.connections:
            connection.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class Job:
    """A supervisor in surroundings of its own: run directory, home, TMPDIR.

    Parameters
    ----------
    python : str
        Interpreter of the supervisor.
    credentials : dict
        Those of the fixture.
    kernel : dict
        Changes to the request's `kernel`.
    run_name : str
        Name of the run directory.
    constants : dict
        The launcher's own, such as its patience, changed in its text.
    **request
        Changes to the request.
    """

    def __init__(self, python, credentials, *, kernel=None, run_name="run", constants=None, **request):
        self.python = python
        self.constants = constants or {}
        self.credentials = credentials
        self.mark = uuid.uuid4().hex
        self.base = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))
        self.run_dir, self.home, self.tmp = self.base / run_name, self.base / "home", self.base / "tmp"
        for folder in (self.run_dir, self.home, self.tmp):
            folder.mkdir(mode=0o700)
        self.log_path = self.run_dir / "job.log"
        self.key = "session-key-" + uuid.uuid4().hex
        self.session = {
            "key": self.key,
            "signature_scheme": "hmac-sha256",
            "kernel_name": "fake",
            "jupyter_session": "",
        }
        self.kernel = {
            "argv": FAKE_ARGV,
            "python": None,
            "env": {},
            "cwd": None,
            "transport": "ipc",
            "wrapper": [],
            "direct_child": True,
            **(kernel or {}),
        }
        self.request = {
            "protocol": 1,
            "nonce": uuid.uuid4().hex,
            "kernel_id": str(uuid.uuid4()),
            "kernel": self.kernel,
            "session": self.session,
            "tls": {
                "certificate": credentials["node"].certificate,
                "private_key": credentials["node"].private_key,
                "peer_certificate": credentials["server"].certificate,
            },
            "listen": {"address": None, "interface": None, "port_range": None},
            "lease": 600.0,
            "crash_grace": 60.0,
            "warn_before_end": 300.0,
            "stop_timeout": 5.0,
            "submitted_on": THIS_MACHINE,
            **request,
        }
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JPY_"))}
        self.environ.update(HOME=str(self.home), TMPDIR=str(self.tmp), SLURM_JOB_ID="1234", LAUNCHER_TEST=self.mark)
        self.environ.pop("SLURM_TMPDIR", None)
        self.process: subprocess.Popen | None = None
        self._connection: dict | None = None

    def start(self, *, write_request=True, stdout=None, preexec_fn=None) -> Job:
        if write_request:
            self.write_request()
        with self.launcher().open("rb") as text, self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [self.python, "-I", "-", str(self.run_dir)],
                stdin=text,
                stdout=stdout or log,
                stderr=log,
                cwd=self.home,
                env=self.environ,
                preexec_fn=preexec_fn,
            )
        return self

    def launcher(self) -> Path:
        """The launcher's text, with other constants if wanted."""
        if not self.constants:
            return LAUNCHER
        text = LAUNCHER.read_text()
        for name, value in self.constants.items():
            text, count = re.subn(rf"^{name} = [\d.]+", f"{name} = {value!r}", text, flags=re.MULTILINE)
            assert count == 1, name
        changed = self.base / "launcher.py"
        changed.write_text(text)
        return changed

    def write_request(self) -> None:
        (self.run_dir / "request.json").write_text(json.dumps(self.request))

    @property
    def files(self) -> list[str]:
        """Names in the run directory."""
        return sorted(path.name for path in self.run_dir.iterdir())

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def connection(self) -> dict:
        """What `connection.json` says, once it is there."""
        path = self.run_dir / "connection.json"
        if self._connection is None:
            eventually(lambda: path.exists() or self.process.poll() is not None, "connection.json")
            assert path.exists(), f"exit code {self.process.returncode}:\n{self.log}"
            self._connection = json.loads(path.read_text())
        return self._connection

    @property
    def private_dirs(self) -> list[Path]:
        return list(self.tmp.glob("slurm-*"))

    def tls(self, channel: str | None, identity: str | None = "server") -> ssl.SSLContext:
        """A client's context: for a channel, as somebody."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.credentials["node"].certificate)
        if identity:
            context.load_cert_chain(self.credentials[identity].pem_file)
        if channel:
            context.set_alpn_protocols([channel])
        return context

    @property
    def address(self) -> tuple[str, int]:
        """Where the port is."""
        return self.connection["hosts"][0], self.connection["port"]

    def dial(self, channel: str | None, identity: str | None = "server") -> ssl.SSLSocket:
        """Connect to the port."""
        raw = socket.create_connection(self.address, PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as the server side does
        try:
            return self.tls(channel, identity).wrap_socket(raw)
        except BaseException:
            raw.close()
            raise

    def stream(self, channel: str) -> Stream:
        """Begin a stream to one of the kernel's sockets."""
        return Stream(lambda: self.dial("kernel"), channel)

    @contextlib.contextmanager
    def supervisor(self, *, ready=True):
        """Talk to the supervisor, unless told otherwise once the kernel has its sockets."""
        conversation = Conversation(self.dial("supervisor"))
        try:
            first = conversation.event("status")
            conversation.first = first
            if ready and first["state"] != "ready":
                conversation.event("ready")
            yield conversation
        finally:
            conversation.close()

    def ask(self, do: str, **fields) -> dict:
        """Have the fake kernel do something."""
        with self.stream("control") as stream:
            stream.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                data = stream.recv(1 << 16)
                assert data, "the kernel's channel ended without an answer"
                answer += data
            return json.loads(answer)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def processes(self) -> dict[int, str]:
        """Whatever has descended from the supervisor, and itself."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def finish(self) -> None:
        """End it if the test has not, and see that nothing is left."""
        try:
            if self.process and self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.wait()
            eventually(lambda: not self.processes(), f"the end of {self.processes()}")
            assert list(self.tmp.iterdir()) == []
            eventually(lambda: str(self.base) not in Path("/proc/net/unix").read_text(), "the end of its sockets")
            for line in self.log.splitlines() if self.log_path.exists() else []:
                assert "unexpected error" not in line
                for secret in (self.key, *self.credentials["node"].private_key.splitlines()[1:-1]):
                    assert secret not in line
            if self._connection:
                with socket.socket() as probe:
                    assert probe.connect_ex(self.address) != 0, "somebody listens on the port"
        finally:
            for pid in self.processes():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if self.process:
                self.process.wait()
            shutil.rmtree(self.base)


def mode(path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)
