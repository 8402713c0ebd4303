"""Private folders for sockets and secrets, removed however this process ends."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from .errors import LinkError
from .guard import guard

if sys.platform != "win32":
    import fcntl

__all__ = ["PrivateFolder", "left_behind", "private_folder"]

#: How the names of our private folders begin.
_PREFIX = "slurm-kernel-"
#: Names of private folders, the supervisors' too, and where there may be some.
_NAME = re.compile(rf"{_PREFIX}\w+$|slurm-[0-9a-f]{{10}}$")
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  (only looked at)
#: The file that the owner of a folder keeps locked while it lives, here and in launcher.py: no number of a process
#: that may be another's by now, and the same from within a container.
_LOCK = "lock"

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
        self._lock = _hold(self.path)
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
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._unguard()


def _make(room: int) -> str:
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  (mkdtemp makes it private)
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        if len(path.encode()) + room <= _PATH_BYTES:
            return path
        Path(path).rmdir()
    raise LinkError("There is no folder with a path short enough for a unix socket; set TMPDIR to a short one.")


def _hold(folder: str) -> int | None:
    """Lock a folder for as long as this process lives; return what holds the lock, None if that is not to be had."""
    path = Path(folder, _LOCK)
    draft = path.with_suffix(".new")
    try:
        lock = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)  # only now: nobody sees it unlocked
        except BaseException:
            os.close(lock)
            raise
    except OSError:
        return None
    return lock


def left_behind() -> Iterator[Path]:
    """Yield the private folders of this user on this host whose owner is gone for sure, and nobody else uses them."""
    for parent in dict.fromkeys((tempfile.gettempdir(), *_PLACES)):
        for path in filter(lambda path: _NAME.match(path.name), sorted(Path(parent).glob("slurm-*"))):
            with suppress(OSError):
                found = path.lstat()
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and _is_forsaken(path):
                    yield path


def _is_forsaken(folder: Path) -> bool:
    lock = os.open(folder / _LOCK, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a folder without one tells nothing
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)
    return not any(_is_served(path) for path in folder.iterdir())


def _is_served(path: Path) -> bool:
    """Whether somebody listens at a socket: what an owner has started may outlive it."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # too many are waiting there already
            return True
    return True
