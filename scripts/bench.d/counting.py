"""What a server costs: the controller it asks, the machine it runs on, and other programs."""

from __future__ import annotations

import contextlib
import gc
import getpass
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Controller", "Processes", "Usage"]


class Controller:
    """Remote procedure calls of this user that slurmctld has served, by sdiag(1)."""

    def __init__(self) -> None:
        self._own = 0

    def calls(self) -> int:
        """How many there were, without those of this question."""
        output = subprocess.run(["sdiag"], capture_output=True, text=True, check=True).stdout
        self._own += 1
        _, _, users = output.partition("statistics by user")
        found = re.search(rf"^\s*{re.escape(getpass.getuser())}\s+\(.*?count:(\d+)", users, re.MULTILINE)
        return (int(found[1]) if found else 0) - self._own

    def calls_of_a_squeue(self) -> int:
        """How many a single squeue makes: it asks for partitions and users as well."""
        before = self.calls()
        subprocess.run(["squeue", "--noheader", "--me"], capture_output=True, check=True)
        return self.calls() - before


class Processes:
    """Programs that this process has started, by an audit hook of the interpreter; `sdiag` is the measurement's own."""

    def __init__(self) -> None:
        #: When, in seconds of `time.monotonic`, and what.
        self.started: list[tuple[float, str]] = []
        sys.addaudithook(self._heard)

    def _heard(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            argv: Sequence[str] = given[1]
            names = [os.path.basename(os.fsdecode(word)) for word in argv]  # noqa: PTH119
            shell = names[0] == "sh" and len(names) > 3
            self.started.append((time.monotonic(), names[3] if shell else names[0]))

    def since(self, began: float) -> dict[str, int]:
        """How many of each were started since then."""
        names = [name for at, name in self.started if at >= began and name != "sdiag"]
        return {name: names.count(name) for name in sorted({*names})}


class Usage:
    """What this process has and has used by now."""

    def __init__(self) -> None:
        self._came = time.process_time(), time.monotonic()
        gc.collect()
        rollup = Path("/proc/self/smaps_rollup").read_text()
        #: Bytes that are this process's alone.
        self.memory = sum(int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.MULTILINE)) * 1024
        inodes = _open_files()
        self.files = len(inodes)
        #: TCP connections, to whatever host.
        self.connections = len(_established() & {*inodes})
        self.threads = threading.active_count()
        self._cpu = time.process_time()
        #: Seconds by the clock.
        self.at = time.monotonic()

    def since(self, before: Usage) -> tuple[float, float]:
        """Return the seconds between two looks, and how many cores were used meanwhile but by the looks."""
        seconds = self._came[1] - before.at
        return seconds, (self._came[0] - before._cpu) / seconds


def _open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{name}").removeprefix("socket:[").rstrip("]"))  # noqa: PTH115
    return found


def _established() -> set[str]:
    tables = [Path(f"/proc/self/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    return {line[9] for line in lines if line[3] == "01"}
