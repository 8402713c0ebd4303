"""Run by another user: looks everywhere for secrets, and says where it found them.

Standard input holds JSON: `secrets` (name to text), `known_ports` (not to be scanned), `job_id`, `folders`. Standard
output gets a JSON list.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

LISTEN = "0A"  # st of /proc/net/tcp
LARGEST_FILE = 5_000_000


def listening(uid: int | None = None) -> set[tuple[str, int]]:
    """The addresses that somebody on this machine, or one user, listens on."""
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, _, _, _, owner, *_ = line.split()
            if state != LISTEN or uid not in (None, int(owner)):
                continue
            address, port = local.split(":")
            raw = bytes.fromhex(address)
            words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
            host = socket.inet_ntop(family, words)
            found.add(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port, 16)))
    return found


def unix_sockets() -> set[str]:
    paths = set()
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        path = line.split(maxsplit=7)[7:]
        if path and path[0].startswith("/"):
            paths.add(path[0])
    return paths


def overheard(endpoints: list[str], seconds: float) -> Iterator[tuple[str, bytes]]:
    """Everything that a plain ZMQ subscriber hears from some endpoints."""
    context = zmq.Context()
    poller = zmq.Poller()
    sockets = {}
    for endpoint in endpoints:
        sub = context.socket(zmq.SUB)
        sub.linger = 0
        sub.ipv6 = True
        sub.subscribe(b"")
        try:
            sub.connect(endpoint)
        except zmq.ZMQError:
            continue
        sockets[sub] = endpoint
        poller.register(sub, zmq.POLLIN)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        for sub, _ in poller.poll(left * 1000):
            yield sockets[sub], b"".join(sub.recv_multipart())
    context.destroy(linger=0)


def files(folders: list[str]) -> Iterator[Path]:
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                yield Path(parent, name)


def process_files() -> Iterator[Path]:
    for path in Path("/proc").glob("[0-9]*"):
        yield path / "cmdline"
        yield path / "environ"


def command_outputs(job_id: str) -> Iterator[tuple[str, bytes]]:
    for argv in (
        ["scontrol", "show", "job", "-d", job_id],
        ["scontrol", "write", "batch_script", job_id, "-"],
        ["squeue", "--all", "--format=%all"],
        ["sacct", "--allusers", "--parsable2", "--format=ALL"],
        ["ps", "auxwwe"],
    ):
        yield " ".join(argv), subprocess.run(argv, capture_output=True, check=False, timeout=60).stdout


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    secrets = {name: text.encode() for name, text in asked["secrets"].items()}
    known = set(asked["known_ports"])
    found: set[tuple[str, str]] = set()

    def look(where: str, content: bytes) -> None:
        found.update((name, where) for name, text in secrets.items() if text in content)

    ports = sorted((host, port) for host, port in listening() if port not in known)
    endpoints = [f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}" for host, port in ports]
    endpoints += [f"ipc://{path}" for path in sorted(unix_sockets())]
    for where, message in overheard(endpoints, 10):
        look(where, message)
    for path in [*process_files(), *files(asked["folders"])]:
        try:
            if path.is_file() and path.stat().st_size <= LARGEST_FILE:
                look(str(path), path.read_bytes())
        except OSError:
            continue
    if asked["job_id"]:
        for command, output in command_outputs(asked["job_id"]):
            look(command, output)
    json.dump(sorted(found), sys.stdout)


if __name__ == "__main__":
    main()
