"""A local kernel behind two relays, one in this process and one in another: the price of two more hands on the way.

    python3 relayed.py PORTS [CERTIFICATE]

They only pass bytes on, in as few calls as there can be. With a certificate, there is TLS between the two. As a program
it is the second one: it listens in place of the ports, a list in JSON, and ends with its standard input.
"""

from __future__ import annotations

import json
import os
import queue
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from jupyter_client.blocking.client import BlockingKernelClient
from subjects import PORTS, Local, connected

__all__ = ["Relayed"]

_BYTES = 2**16


class Relayed(Local):
    """A local kernel that is reached by two relays."""

    def __init__(self, name: str, *, tls: bool) -> None:
        self.name = name
        self._tls = tls

    def connect(self) -> BlockingKernelClient:
        super().connect().stop_channels()  # it listens
        info = self.manager.get_connection_info()
        ports: Sequence[int] = [info[name] for name in PORTS]
        with tempfile.TemporaryDirectory(prefix="slurm-bench-") as folder:
            argv, context = [sys.executable, __file__, json.dumps(ports)], None
            if self._tls:
                file = _certificate(Path(folder))
                argv.append(str(file))
                context = ssl.create_default_context(cafile=str(file))
                context.check_hostname = False
            self._far = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._far.stdout is not None
            ports = json.loads(self._far.stdout.readline())
        told: queue.Queue[Sequence[int]] = queue.Queue()
        near = threading.Thread(target=_relay, args=(ports, told.put), kwargs={"dial": context}, daemon=True)
        near.start()
        client = BlockingKernelClient()
        client.load_connection_info({**info, **dict(zip(PORTS, told.get(), strict=True))})  # type: ignore[typeddict-item]
        self.relays = f"/proc/self/task/{near.native_id}", f"/proc/{self._far.pid}/task/{self._far.pid}"
        return connected(client)

    def shutdown(self) -> None:
        super().shutdown()
        self._far.communicate()


def _certificate(folder: Path) -> Path:
    """Make a certificate and its key, in one file."""
    from slurm_provisioner.credentials import make_identity  # noqa: PLC0415

    file, identity = folder / "pem", make_identity("relay")
    file.write_text(identity.certificate + identity.private_key)
    return file


def _relay(
    targets: Sequence[int],
    ready: Callable[[list[int]], None],
    *,
    accept: ssl.SSLContext | None = None,
    dial: ssl.SSLContext | None = None,
) -> None:
    """Listen in place of some ports, and pass on."""
    poll, pairs = select.epoll(), dict[int, tuple[socket.socket, socket.socket]]()
    listeners = {sock.fileno(): (sock, port) for port in targets for sock in [socket.create_server(("127.0.0.1", 0))]}
    for fd in listeners:
        poll.register(fd, select.EPOLLIN)
    ready([sock.getsockname()[1] for sock, _ in listeners.values()])
    while True:
        for fd, _ in poll.poll():
            if fd in listeners:
                listener, port = listeners[fd]
                here, there = listener.accept()[0], socket.create_connection(("127.0.0.1", port))
                for sock in (here, there):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                here = accept.wrap_socket(here, server_side=True) if accept else here
                there = dial.wrap_socket(there) if dial else there
                pairs.update({here.fileno(): (here, there), there.fileno(): (there, here)})
                poll.register(here.fileno(), select.EPOLLIN)
                poll.register(there.fileno(), select.EPOLLIN)
                continue
            source, sink = pairs.get(fd, (None, None))
            try:
                data = source.recv(_BYTES) if source else b""
                if data and sink:
                    sink.sendall(data)
                    continue
            except OSError:
                pass
            for sock in filter(None, (source, sink)):
                poll.unregister(sock.fileno())
                del pairs[sock.fileno()]
                sock.close()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _main(ports: str, certificate: str = "") -> None:
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    threading.Thread(target=_end_with_input, daemon=True).start()
    _relay(json.loads(ports), lambda found: print(json.dumps(found), flush=True), accept=context)


if __name__ == "__main__":
    _main(*sys.argv[1:])
