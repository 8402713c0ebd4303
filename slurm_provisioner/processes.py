"""Which process is which, and which machine, over reuse of numbers, reboots and containers.

Source: proc(5).
"""

from __future__ import annotations

import getpass
import os
import socket
from contextlib import suppress
from pathlib import Path

from .about import Server

__all__ = ["is_gone", "this_machine", "this_process", "this_server"]


def this_server() -> Server:
    """Return who this process is."""
    user = ""
    with suppress(KeyError, OSError):  # nobody has that number
        user = getpass.getuser()
    return Server(socket.gethostname(), user, this_process())


def this_machine() -> str:
    """Return what tells this machine, and the network that it sees, from any other: boot and network namespace.

    It is "" where the system does not tell.
    """
    with suppress(OSError):
        return f"{_boot()} {Path('/proc/self/ns/net').readlink()}"
    return ""


def this_process() -> str:
    """Return what tells this process from any other: boot, space of process numbers, number, start.

    It is "" where the system does not tell.
    """
    return _identity(os.getpid())


def is_gone(process: str) -> bool:
    """Return whether a process has ended, of which `this_process` was told; False where that cannot be known from here.

    Another boot or another space of numbers may be another machine of that name, or a container of this one.
    """
    own, parts = this_process().split(), process.split()
    if not own or len(parts) != len(own) or parts[:2] != own[:2] or not parts[2].isdigit():
        return False
    now = _identity(int(parts[2]))
    return now != process if now else not _exists(int(parts[2]))


def _identity(pid: int) -> str:
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # a name may have spaces
        start = "ended" if fields[0] in (b"Z", b"X") else fields[19].decode()
        return f"{_boot()} {Path('/proc/self/ns/pid').readlink()} {pid} {start}"
    return ""


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _exists(pid: int) -> bool:
    """Whether there is such a process, which /proc may not show (hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
