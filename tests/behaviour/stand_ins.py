"""Slurm's commands, made to answer what the real ones cannot be made to answer when a test wants it."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

PROGRAMS = ("sbatch", "scancel", "scontrol", "squeue", "sacct")
WRAPPER = """#!/bin/bash
printf '%s\\n' "$*" >> {calls}
real={real}
[ ! -e {fault} ] || . {fault}
exec "$real" "$@"
"""


class StandIns:
    """A folder for the kernelspec's `slurm_bin`: the real commands, until they are told to fail."""

    def __init__(self, parent: Path) -> None:
        self.folder = parent / "slurm bin"
        self.folder.mkdir()
        for program in PROGRAMS:
            path = self.folder / program
            parts = {"calls": f"{path}.calls", "fault": f"{path}.fault", "real": str(shutil.which(program))}
            path.write_text(WRAPPER.format(**{name: shlex.quote(part) for name, part in parts.items()}))
            path.chmod(0o755)

    def __str__(self) -> str:
        return str(self.folder)

    def fail(self, script: str, *programs: str) -> None:
        """Have some commands run these lines of bash first, in which "$real" is the true command."""
        for program in programs:
            new = self.folder / f"{program}.new"
            new.write_text(script + "\n")
            new.rename(self.folder / f"{program}.fault")

    def behave(self) -> None:
        """Have all commands do again what they are there for."""
        for program in PROGRAMS:
            (self.folder / f"{program}.fault").unlink(missing_ok=True)

    def calls(self, program: str) -> list[str]:
        """The arguments of each call so far."""
        path = self.folder / f"{program}.calls"
        return path.read_text().splitlines() if path.exists() else []
