"""The environment of Slurm's commands."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["CLEANING", "clean_environment"]

# Slurm's commands read options from these, and an enclosing job sets SLURM_*: both would change what our own
# options mean (INPUT ENVIRONMENT VARIABLES in sbatch(1), squeue(1), scancel(1), sacct(1)).
_PREFIXES = (
    *("SLURM", "SLURMD", "SBATCH", "SALLOC", "SRUN", "SQUEUE", "SCANCEL"),
    *("SACCT", "SINFO", "SCONTROL", "SPRIO", "SPANK"),
)
_SLURM_OPTIONS = re.compile(rf"({'|'.join(_PREFIXES)})_")
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER")
# Times in seconds since the epoch (strftime's %s): the same in every zone and language (squeue(1)).
_TIMES = {"SLURM_TIME_FORMAT": "%s"}


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without what would change the meaning of Slurm's commands, and with what fixes it."""
    kept = {name: value for name, value in environ.items() if name in _KEPT or not _SLURM_OPTIONS.match(name)}
    return {**kept, **_TIMES}


#: The same for a shell that runs Slurm's commands. POSIX, sh.
CLEANING = f"""\
for name in $(env | sed -n 's/^\\(S[A-Z]*_[A-Za-z0-9_]*\\)=.*/\\1/p'); do
    case $name in
        {"|".join(_KEPT)}) ;;
        {"|".join(f"{prefix}_*" for prefix in _PREFIXES)}) unset "$name" ;;
    esac
done
export {" ".join(f"{name}='{value}'" for name, value in _TIMES.items())}
"""
