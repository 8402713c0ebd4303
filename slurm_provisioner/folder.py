"""Private folders for sockets and secrets, removed however this process ends."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import LinkError
from .guard import guard

__all__ = ["PrivateFolder", "connection_info", "private_folder"]

#: Bytes of a unix socket's path at most (`sun_path`), and those that a name in the folder may have.
_PATH_BYTES, _NAME_BYTES = (103 if sys.platform == "darwin" else 107), 12


def private_folder() -> PrivateFolder | None:
    """Return a new private folder; None on a system without unix sockets, which has no use for one.

    Raises
    ------
    LinkError
        There is no place for it.
    """
    return PrivateFolder() if hasattr(socket, "AF_UNIX") else None


class PrivateFolder:
    """A folder that only this user can enter, with a path short enough for the names of unix sockets in it.

    Parameters
    ----------
    room : int
        Bytes of such a name, with the slash before it.

    Raises
    ------
    LinkError
        There is no place for it.
    """

    def __init__(self, room: int = _NAME_BYTES) -> None:
        self.path = _make(room)
        self._unguard = guard.add(self._removal)

    @property
    def _removal(self) -> list[str]:
        return ["rm", "-rf", "--", self.path]

    def if_we_die(self, argv: Sequence[str]) -> None:
        """Have a command run before it is removed, should this process die."""
        unguard, self._unguard = self._unguard, guard.add(argv, self._removal)
        unguard()

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unguard()


def connection_info(folder: PrivateFolder | None, ports: Mapping[str, int]) -> dict[str, Any]:
    """Return where sockets are, in the terms of Jupyter's connection files.

    Parameters
    ----------
    folder : PrivateFolder or None
        Where they are bound as ``k-1``, ``k-2`` …; None if they are on loopback.
    ports : mapping
        Each channel's port, or the number in its file's name.
    """
    return {
        "transport": "ipc" if folder else "tcp",
        "ip": f"{folder.path}/k" if folder else "127.0.0.1",
        **{f"{channel}_port": port for channel, port in ports.items()},
    }


def _make(room: int) -> str:
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  (mkdtemp makes it private)
        path = tempfile.mkdtemp(prefix="slurm-kernel-", dir=parent)
        if len(path.encode()) + room <= _PATH_BYTES:
            return path
        Path(path).rmdir()
    raise LinkError("There is no folder with a path short enough for a unix socket; set TMPDIR to a short one.")
