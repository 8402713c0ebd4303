"""What a new kernelspec is made from: another kernelspec, or an environment on the cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..cluster import Cluster, Place
from ..errors import CommandError, ConfigError
from . import kernelspecs
from .asking import ask
from .kernelspecs import Kernelspec

__all__ = ["from_environment", "is_environment", "made_from"]

#: Fields that say which environment the kernel gets.
ENVIRONMENTS = ("conda_env", "venv", "container")
_LOOK_TIMEOUT = 15.0
_IS_PYTHON = re.compile(r"python[0-9.]*$")

# Prints what a path on the cluster is, and the path in full. POSIX, sh.
_LOOK = r"""
case $1 in '~' | '~/'*) set -- "$HOME${1#'~'}" ;; esac
printf '%s\n' "$1"
if [ -d "$1/conda-meta" ]; then echo conda_env
elif [ -f "$1/bin/activate" ]; then echo venv
elif [ -d "$1" ] && [ -d "$1/usr" ]; then echo container
elif [ -d "$1" ]; then echo folder
elif [ -f "$1" ] && [ -x "$1" ] && [ "${1%.sif}" = "$1" ]; then echo program
elif [ -f "$1" ]; then echo container
else echo nothing
fi
"""


def is_environment(source: str) -> bool:
    """Return whether a source names an environment: a path or an image, not a kernelspec."""
    return "/" in source or source.startswith("~") or source.endswith(".sif")


def from_environment(source: str, place: Place) -> tuple[Kernelspec, dict[str, Any]]:
    """Return a kernelspec of Python in an environment of the cluster, and the fields that it needs.

    Parameters
    ----------
    source : str
        A path on the cluster: of a conda environment, a virtual environment, a Python, an image; or an image's URI.
    place : Place
        The cluster.

    Raises
    ------
    ConfigError
        There is no environment.
    CommandError
        The cluster could not be asked.
    """
    spec = kernelspecs.python_kernel()
    if re.match("[a-z]+://", source):
        return spec, {"container": {"image": source}}
    path, kind = ask(place, lambda cluster: _look(cluster, source), f"Looking for {source} …")
    if kind == "program":
        if not path.startswith("/"):
            raise ConfigError(f"{source} is a relative path.", hint="A job begins elsewhere: give it in full.")
        document = {**spec.document, "argv": [path, *spec.document["argv"][1:]]}
        return Kernelspec("", document, spec.folder), {}
    if kind == "container":
        return spec, {"container": {"image": source}}
    if kind in ENVIRONMENTS:
        return spec, {kind: source}
    what = "is a folder, and no environment" if kind == "folder" else "is not there"
    raise ConfigError(
        f"{source} {what}{f' on {place.login.host}' if place.login else ''}.",
        hint="Give a kernelspec's name, or the path of a conda environment, a virtual environment, a Python or an "
        "image.",
    )


async def _look(cluster: Cluster, path: str) -> tuple[str, str]:
    done = await cluster.transport.run(["sh", "-c", _LOOK, "look", path], timeout=_LOOK_TIMEOUT)
    *before, full, kind = ["", "", *done.stdout.splitlines()]
    if not before:
        raise CommandError("The cluster did not say what is there.", argv=["sh"], stderr=done.stderr)
    return full, kind


def made_from(spec: Kernelspec, config: Mapping[str, Any]) -> tuple[Kernelspec, str]:
    """Return a kernelspec for jobs of a configuration, and what there is to say about its command.

    A kernelspec that names this machine's Python by its path would step around the environment, and by SSH name
    nothing.
    """
    argv = [str(part) for part in spec.document.get("argv", ())]
    program = argv[0] if argv else ""
    environment = next((name for name in ENVIRONMENTS if config.get(name)), "")
    if not program.startswith("/") or not (environment or config.get("ssh")):
        return spec, ""
    name = program.rpartition("/")[2]
    if _IS_PYTHON.match(name):
        document = {**spec.document, "argv": ["python", *argv[1:]]}
        where = f"of `{environment}`" if environment else "that it finds on the cluster"
        return Kernelspec(spec.name, document, spec.folder), f"It runs the `python` {where}, not {program}."
    return spec, f"{program} must be there on the cluster, too: it stands in the kernelspec's `argv`."
