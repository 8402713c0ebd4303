"""What a healthy cluster says: the commands that a check-up runs, and what their answers mean. Pure text.

Sources: scontrol(1) (ping), sbatch(1) (``--test-only``), sacct(1), df(1) of POSIX.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

__all__ = [
    "PROGRAMS",
    "Folder",
    "Programs",
    "controller_up",
    "folder_argv",
    "forecast",
    "parse_folder",
    "parse_programs",
    "programs_argv",
]

#: What is run on a cluster; sacct alone can be done without.
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sacct")

# Prints where Slurm's commands are, and their version.
_PROGRAMS = r"""
bin=$1
shift
for program; do
    if [ -z "$bin" ]; then path=$(command -v "$program")
    elif [ -x "$bin/$program" ]; then path=$bin/$program
    else path=
    fi
    echo "program $program $path"
    [ "$program" = sbatch ] && [ "$path" ] && "$path" --version 2> /dev/null | sed -n 's/^slurm[a-z-]* /version /p'
done
"""

# Writes a file, and prints where, how much room there is, and the type of the file system, as far as that can be known.
_FOLDER = r"""
umask 077
mkdir -p -- "$1" && cd -- "$1" || exit 1
folder=$(pwd -P)
probe=$folder/.probe-$$
echo probe > "$probe" && [ "$(cat "$probe")" = probe ] && rm -f "$probe" || { rm -f "$probe"; exit 1; }
echo "folder $folder"
df -Pk . 2> /dev/null | sed -n '2s/.* \([0-9][0-9]*\)  *[0-9]*% .*/free \1/p'
stat -f -c 'type %T' . 2> /dev/null || :
"""


@dataclass(frozen=True)
class Programs:
    """Slurm's commands on a cluster.

    Attributes
    ----------
    paths : dict
        Where each is, "" for one that is not there.
    version : str
        Slurm's version, or "".
    """

    paths: dict[str, str]
    version: str

    @property
    def missing(self) -> list[str]:
        """Those that are not there."""
        return [name for name, path in self.paths.items() if not path]


@dataclass(frozen=True)
class Folder:
    """A folder that can be written.

    Attributes
    ----------
    path : str
        Where it is, without links.
    free : int or None
        Free kilobytes.
    kind : str
        The type of its file system, or "".
    """

    path: str
    free: int | None
    kind: str


def programs_argv(bin_dir: str) -> list[str]:
    """Return the command that looks for Slurm's commands."""
    return ["sh", "-c", _PROGRAMS, "programs", bin_dir, *PROGRAMS]


def parse_programs(stdout: str) -> Programs:
    """Return what `programs_argv` found."""
    paths = dict.fromkeys(PROGRAMS, "")
    version = ""
    for line in stdout.splitlines():
        word, _, rest = line.partition(" ")
        name, _, path = rest.partition(" ")
        if word == "program" and name in paths:
            paths[name] = path.strip()
        elif word == "version":
            version = rest.strip()
    return Programs(paths, version)


def folder_argv(path: str) -> list[str]:
    """Return the command that makes a folder and tries to write there."""
    return ["sh", "-c", _FOLDER, "folder", path]


def parse_folder(stdout: str) -> Folder | None:
    """Return what `folder_argv` found; None if the folder cannot be written."""
    found = dict(line.split(" ", 1) for line in stdout.splitlines() if re.match("(folder|free|type) ", line))
    if "folder" not in found:
        return None
    free = found.get("free", "")
    kind = found.get("type", "")
    return Folder(found["folder"], int(free) if free.isdecimal() else None, "" if kind == "UNKNOWN" else kind)


def controller_up(stdout: str) -> list[str]:
    """Return the controllers that answer, by the output of ``scontrol ping``: "Slurmctld(primary) at host is UP"."""
    return re.findall(r"^Slurmctld\(\w+\) at (\S+) is UP", stdout, re.MULTILINE)


def forecast(stderr: str) -> str:
    """Return what ``sbatch --test-only`` foresees, without the job's number, which no job will have."""
    found = re.findall(r"Job \d+ to start at (\S+)(?: a(?= using ))?( .*)?", stderr)  # "a using" since 26.05
    if not found:
        return ""
    when, where = found[-1]
    if when.isdecimal():  # as SLURM_TIME_FORMAT has it
        when = datetime.fromtimestamp(int(when)).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"would start at {when}{where.rstrip()}"
