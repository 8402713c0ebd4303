"""Private folders for sockets and secrets, removed however this process ends."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from .errors import LinkError
from .guard import guard

__all__ = ["PrivateFolder", "private_folder"]

#: Bytes of a unix socket's path at most (`sun_path`), and those that a name in the folder may have.
_PATH_BYTES, _NAME_BYTES = 107, 12


def private_folder() -> PrivateFolder | None:
    """Return a new private folder; None on a system without unix sockets, which has no use for one.

    Raises
    ------
    LinkError
        There is no place for it.
    """
    return PrivateFolder() if hasattr(socket, "AF_UNIX") else None


class PrivateFolder:
    """A folder that only this user can enter, with a path short enough for the names of unix sockets in it."""

    def __init__(self) -> None:
        self.path = _make()
        self._unguard = guard.add(["rm", "-rf", "--", self.path])

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unguard()


def _make() -> str:
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  (mkdtemp makes it private)
        path = tempfile.mkdtemp(prefix="slurm-kernel-", dir=parent)
        if len(path.encode()) + _NAME_BYTES <= _PATH_BYTES:
            return path
        Path(path).rmdir()
    raise LinkError("There is no folder with a path short enough for a unix socket; set TMPDIR to a short one.")
