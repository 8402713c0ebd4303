"""Programs in the place of others: Slurm's commands, made to fail when a test wants it, and a container's runtime."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

PROGRAMS = ("sbatch", "scancel", "scontrol", "squeue", "sacct")
WRAPPER = """#!/bin/bash
printf '%s\\n' "$*" >> {calls}
real={real}
[ ! -e {fault} ] || . {fault}
exec -a "$0" "$real" "$@"
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

    def at_work(self) -> bool:
        """Whether any of the commands is running."""
        mine = os.fsencode(self.folder)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if mine in path.read_bytes():
                    return True
        return False


CONTAINER = """#!/bin/bash
# stands in for apptainer: takes its options, tells them, and runs the command
[ "$1" = exec ] || exit 64
shift
while [ "$1" = --bind ]; do
    binds="$binds $2"
    shift 2
done
export INSIDE="$1" BINDS="$binds"
shift
exec "$@"
"""


def container(parent: Path) -> dict[str, Any]:
    """What a kernelspec has for a kernel in a container."""
    apptainer = parent / "bin" / "apptainer"
    apptainer.parent.mkdir()
    apptainer.write_text(CONTAINER)
    apptainer.chmod(0o755)
    return {
        "container": {"image": "/images/python.sif", "binds": ["/data"]},
        "prologue": [f"PATH={apptainer.parent}:$PATH"],
    }


IMAGE = """#!/bin/bash
# stands in for apptainer: an image is a folder that becomes the root, with the system's programs and what is bound
[ "$1" = exec ] || exit 64
shift
binds=(/usr /etc /proc /dev "$HOME")
while [ "$1" = --bind ]; do
    binds+=("$2")
    shift 2
done
root=$1
shift
for bind in "${binds[@]}"; do
    mkdir -p "$root/${bind#*:}"
done
export root all="${binds[*]}" as="--map-user=$(id -u) --map-group=$(id -g)"
exec unshare --user --map-root-user --mount bash -c '
    for bind in $all; do
        mount --rbind "${bind%%:*}" "$root/${bind#*:}" || exit
    done
    cd /
    exec unshare --user $as --root="$root" "$@"' "$0" "$@"
"""


def image(parent: Path, binds: list[str]) -> dict[str, Any]:
    """What a kernelspec has for a kernel in a container that has a root of its own."""
    apptainer, root = parent / "bin" / "apptainer", parent / "image"
    for folder in (apptainer.parent, root):
        folder.mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "image").write_text("a root of its own")
    apptainer.write_text(IMAGE)
    apptainer.chmod(0o755)
    return {
        "container": {"image": str(root), "binds": binds},
        "prologue": [f"PATH={apptainer.parent}:$PATH"],
    }


CONDA = """#!/bin/bash
# stands in for conda: its hook makes the shell function that activates an environment
cat <<'HOOK'
conda() {
    local env=$2
    [ "$1" = activate ] || return 2
    %s
    if [ ! -x "$env/bin/python" ]; then
        echo "EnvironmentNameNotFound: Could not find conda environment: $env" >&2
        return 1
    fi
    export CONDA_PREFIX=$env PATH=$env/bin:$PATH
}
HOOK
"""


def conda(parent: Path, **environments: Path) -> Path:
    """Make a conda with some environments; its program."""
    known = [f"[ $env != {name} ] || env={shlex.quote(str(path))}" for name, path in environments.items()]
    program = parent / "conda"
    program.write_text(CONDA % "\n    ".join(known))
    program.chmod(0o755)
    return program
