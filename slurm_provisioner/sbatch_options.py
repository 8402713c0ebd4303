"""sbatch's long options: which ones a user may give freely, and which ones are ours.

A name that sbatch does not document is let through: sites have plugins, and Slurm has newer versions. It must
not be the beginning of a documented one though: sbatch completes ``--tim`` to ``--time``.

Sources: sbatch(1) of Slurm 20.11 to 25.05, and the options table of its source.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

__all__ = [
    "FIELD_OF_OPTION",
    "STEPS_AROUND",
    "OptionValue",
    "is_option",
    "nearest",
    "option_name",
    "option_value",
]

#: True: a flag. A tuple: one line for each item. False: left out, also when a source below sets it.
OptionValue = bool | str | tuple[str, ...]

#: Options that are fields of the configuration.
FIELD_OF_OPTION = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "reservation": "reservation",
    "time": "time",
    "nodes": "nodes",
    "ntasks": "ntasks",
    "tasks": "ntasks",
    "ntasks-per-node": "ntasks_per_node",
    "tasks-per-node": "ntasks_per_node",
    "cpus-per-task": "cpus_per_task",
    "mem": "mem",
    "mem-per-cpu": "mem_per_cpu",
    "gpus": "gpus",
    "gres": "gres",
    "constraint": "constraint",
    "nodelist": "nodelist",
    "exclude": "exclude",
    "exclusive": "exclusive",
    "licenses": "licenses",
    "job-name": "job_name",
    "output": "log",
    "clusters": "clusters",
    "cluster": "clusters",
    "container": "container",
    "chdir": "work_dir",
    "workdir": "work_dir",
    "signal": "warn_before_end",
}

_ENVIRONMENT = "the job gets a clean environment; set `env` or `env_pass`"
_REQUEUE = "a job that is queued again would run a second kernel under the first one's name"
_OUTPUT = "sbatch's answer is read by the provisioner"
_ANSWERS_ONLY = "sbatch would print something instead of submitting a job"
_IDENTITY = "the job runs as the user who submits it"

_REFUSED = {
    "array": "a kernel is one job",
    "batch": "the supervisor must run on the job's first node; set `constraint`",
    "container-id": "it is meant for containers; set `container`",
    "error": "output and errors go to one file; set `log`",
    "export": _ENVIRONMENT,
    "export-file": _ENVIRONMENT,
    "get-user-env": _ENVIRONMENT,
    "gid": _IDENTITY,
    "uid": _IDENTITY,
    "autocomplete": _ANSWERS_ONLY,
    "help": _ANSWERS_ONLY,
    "test-only": _ANSWERS_ONLY,
    "usage": _ANSWERS_ONLY,
    "version": _ANSWERS_ONLY,
    "hold": "a held job does not start by itself; set `begin` for a later start",
    "input": "the batch script has no input",
    "no-requeue": f"it is always set: {_REQUEUE}",
    "requeue": _REQUEUE,
    "open-mode": "it is chosen so that a log of yours is never overwritten",
    "parsable": _OUTPUT,
    "quiet": _OUTPUT,
    "verbose": _OUTPUT,
    "wait": "sbatch would answer only when the job has ended",
    "wrap": "the provisioner brings the script",
}

_FLAGS = {
    "consolidate-segments",
    "contiguous",
    "ignore-pbs",
    "overcommit",
    "oversubscribe",
    "reboot",
    "share",
    "spread-job",
    "stepmgr",
    "use-min-nodes",
}

_FLAGS_OR_VALUES = {"nice", "no-kill", "oom-kill-step", "propagate", "x11"}

_WITH_VALUES = """
acctg-freq bb bbf begin cluster-constraint comment core-spec cores-per-socket cpu-freq cpus-per-gpu deadline
delay-boot dependency distribution extra extra-node-info gpu-bind gpu-freq gpus-per-node gpus-per-socket
gpus-per-task gres-flags hint kill-on-invalid-dep mail-type mail-user mcs-label mem-bind mem-per-gpu mincpus
network nodefile ntasks-per-core ntasks-per-gpu ntasks-per-socket power prefer priority profile segment
sockets-per-node switches thread-spec threads-per-core time-min tmp tres-bind tres-per-task
wait-all-nodes wckey
"""
_VALUES = set(_WITH_VALUES.split())

_KNOWN = {*FIELD_OF_OPTION, *_REFUSED, *_FLAGS, *_FLAGS_OR_VALUES, *_VALUES}

_WHOLE_NODES = ("exclusive", "cpus_per_task", "gpus")

#: Options that raise what a field asks for: with a limit on one of the fields, the option is refused.
STEPS_AROUND: dict[str, Sequence[str]] = {
    "gpus-per-node": ("gpus",),
    "gpus-per-socket": ("gpus",),
    "gpus-per-task": ("gpus",),
    "tres-per-task": ("gpus", "cpus_per_task", "mem", "mem_per_cpu", "licenses", "gres"),
    "cpus-per-gpu": ("cpus_per_task",),
    "mincpus": ("cpus_per_task",),
    "mem-per-gpu": ("mem", "mem_per_cpu"),
    "ntasks-per-gpu": ("ntasks", "ntasks_per_node"),
    "extra-node-info": ("ntasks", "ntasks_per_node"),
    "sockets-per-node": ("ntasks", "ntasks_per_node"),
    "cores-per-socket": ("ntasks", "ntasks_per_node"),
    "threads-per-core": ("ntasks", "ntasks_per_node"),
    "core-spec": _WHOLE_NODES,
    "thread-spec": _WHOLE_NODES,
    "nodefile": ("nodelist", "nodes", "gpus"),
    "prefer": ("constraint",),
    "cluster-constraint": ("clusters",),
}


def nearest(name: str, names: Sequence[str]) -> str:
    """Return "; did you mean …?" with the names most like `name`, or "" if none is."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(f'`{match}`' for match in close)}?" if close else ""


def is_option(name: str) -> bool:
    """Return whether sbatch documents an option `name` that may be given freely."""
    return name.replace("_", "-") in _FLAGS | _FLAGS_OR_VALUES | _VALUES


def option_name(value: object) -> str:
    """Return an option's name without ``--``; raise `ValueError` for one that is not the user's to give."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not the name of an option of sbatch")  # noqa: TRY004  as for every bad value
    written = value.strip().removeprefix("--")
    name = written.replace("_", "-")
    if name in FIELD_OF_OPTION:
        raise ValueError(f"--{name} has a field of its own: set `{FIELD_OF_OPTION[name]}`")
    if name in _REFUSED:
        raise ValueError(f"--{name} cannot be given: {_REFUSED[name]}")
    if name in _KNOWN:
        return name
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", written):
        raise ValueError(f"{value!r} is not the name of an option of sbatch")
    if completed := sorted(known for known in _KNOWN if known.startswith(name)):
        raise ValueError(f"--{name} is not the whole name of an option: {_examples(completed)}")
    return written


def option_value(name: str, value: object) -> OptionValue:
    """Return an option's value in one of the three forms that can be written to the script."""
    if value is None:
        return False
    if isinstance(value, bool):
        if value and name in _VALUES:
            raise ValueError(f"--{name} needs a value")
        return value
    if name in _FLAGS:
        raise ValueError(f"--{name} is a flag: give true or false")
    if isinstance(value, (list, tuple)):
        return tuple(_text(name, item) for item in value)
    return _text(name, value)


def _text(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"--{name} takes text, a whole number, true, false or a list of texts")  # noqa: TRY004
    text = str(value)
    if not text.isprintable():
        raise ValueError(f"--{name} has a character that cannot be printed, in {text!r}")
    return text


def _examples(names: Sequence[str]) -> str:
    shown = [f"--{name}" for name in names[:3]]
    return ", ".join(shown) + (" …" if len(names) > len(shown) else "")
