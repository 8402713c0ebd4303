"""Where a configuration's values come from: laying sources over each other, and saying what is wrong where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from .errors import ConfigError
from .fields import read_env, read_options
from .sbatch_options import is_option, nearest

#: Sources, as errors name them.
DEFAULTS = "c.SlurmProvisioner.defaults"
KERNELSPEC = "kernelspec"
#: Before the upper-case name of a field, in the environment of one start.
PREFIX = "KERNEL_SLURM_"

#: Pairs of fields of which one can be given; a source's word replaces the other field of a source below it.
ONE_OF = (("mem", "mem_per_cpu"), ("conda_env", "venv"), ("address", "interface"))

#: Fields whose entries are merged, and how they are read.
_MERGED: dict[str, Callable[[object], tuple[Mapping[str, object], list[str]]]] = {
    "sbatch": read_options,
    "env": read_env,
}

#: What people call a field elsewhere.
_ALSO_CALLED = {
    "cpu": "cpus_per_task",
    "cpus": "cpus_per_task",
    "cores": "cpus_per_task",
    "gpu": "gpus",
    "memory": "mem",
    "queue": "partition",
    "project": "account",
    "walltime": "time",
    "runtime": "time",
    "name": "job_name",
    "output": "log",
    "cwd": "work_dir",
    "chdir": "work_dir",
    "image": "container",
}

HINTS = {
    KERNELSPEC: "Correct kernel.json, under metadata.kernel_provisioner.config: `jupyter kernelspec list` shows "
    "where it is.",
    DEFAULTS: "The administrators of this Jupyter server set c.SlurmProvisioner.defaults in its configuration.",
    PREFIX: f"Correct the {PREFIX}… variables in the environment given to start_kernel.",
}


@dataclass
class Merged:
    """The values of several sources, laid over each other.

    Attributes
    ----------
    values : dict
        The values that hold, by field.
    origins : dict
        Where each was set, by field.
    problems : list of str
        What cannot be used.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, source: str, values: Mapping[str, object]) -> None:
        """Lay `values` over those that are there; null gives a field its default back."""
        if not isinstance(values, Mapping):
            self.problems.append(f"{values!r} is not a mapping of fields to values ({source})")
            return
        for name, value in ((str(key), value) for key, value in values.items()):
            origin = self.origins[name] = f"{PREFIX}{name.upper()}" if source == PREFIX else source
            below = self.values.pop(name, {})
            if value is None:
                continue
            for pair in ONE_OF:
                if name in pair and values.get(other := pair[1 - pair.index(name)]) is None:
                    self.values.pop(other, None)
            self.values[name] = value
            if name in _MERGED:
                entries, problems = _MERGED[name](value)
                self.problems += [f"`{name}`: {problem} ({origin})" for problem in problems]
                self.values[name] = {**below, **entries}


def explain(error: ValidationError, names: Mapping[str, Sequence[str]], origins: Mapping[str, str]) -> list[str]:
    """Return what is wrong, one line a problem; `names` holds the known keys of each mapping, "" for the top."""
    problems = []
    for each in error.errors(include_url=False):
        where = [str(part) for part in each["loc"]]
        key = ".".join(where)
        origin = f" ({origins[where[0]]})" if where and where[0] in origins else ""
        start = f"`{key}`: " if where else ""
        problems += [f"{start}{sentence}{origin}" for sentence in _sentences(each, names)]
    return problems


def _sentences(each: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> list[str]:
    match each["type"]:
        case "extra_forbidden":
            *where, key = map(str, each["loc"])
            return [f"there is no such key{suggestion(key, names.get('.'.join(where), ()))}"]
        case "value_error":
            return str(each["ctx"]["error"]).splitlines()
        case "literal_error":
            return [f"{each['input']!r} is not {each['ctx']['expected']}"]
        case "missing":
            return ["it must be given"]
        case _:
            return [f"{each['msg']}, not {each['input']!r}"]


def suggestion(name: str, names: Sequence[str]) -> str:
    """Return what `name` was meant to be, as the end of a sentence, or ""."""
    plain = name.removeprefix("--").replace("-", "_").lower()
    likely = plain if plain in names else _ALSO_CALLED.get(plain)
    if likely in names:
        return f"; did you mean `{likely}`?"
    if is_option(plain):
        return f'; give options of sbatch in `sbatch`: {{"{plain.replace("_", "-")}": …}}'
    return nearest(plain, names)


def refusal(problems: Sequence[str], hint: str = "") -> ConfigError:
    """Return the error for `problems`; a single one is said in its first line."""
    hint = hint or " ".join(text for source, text in HINTS.items() if any(f"({source}" in p for p in problems))
    if len(problems) == 1:
        return ConfigError(f"The kernel's Slurm settings cannot be used: {problems[0]}", hint=hint)
    return ConfigError("The kernel's Slurm settings cannot be used:", evidence=problems, hint=hint)
