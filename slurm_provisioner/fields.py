"""The kinds of values a configuration holds: what is accepted, and what becomes of it.

Everything that reaches the batch script passes through here: one line of printable characters, or an error.
A reader raises `ValueError` (also for a wrong type: pydantic collects those) with a sentence for the user.
"""

# ruff: noqa: TRY004

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator

from .quantities import (
    count_gpus,
    format_size,
    format_time,
    parse_count,
    parse_duration,
    parse_gpus,
    parse_nodes,
    parse_size,
    parse_time,
)
from .sbatch_options import OptionValue, option_name, option_value

VARIABLE = r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})"
"""A shell variable, as paths that the job's shell expands may hold it."""

_NOT_IN_A_LINE = r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]"
_NOT_IN_ENV = r"[\x00\ud800-\udfff]"
_ENV_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_LOWEST_PORT, _HIGHEST_PORT = 1024, 65535
_LONGEST_WARNING = 65535  # seconds; sbatch takes no more in --signal

#: Options of srun that the kernel's step needs as they are.
_STEP_OPTIONS = (
    "--nodes",
    "--ntasks",
    "--relative",
    "--nodelist",
    "--jobid",
    "--pty",
    "--multi-prog",
    "--input",
)
#: Options of apptainer that give the container process ids of its own.
_OWN_PIDS = ("-C", "--containall", "-p", "--pid")


# Texts


def line(value: object) -> str:
    """Return text that fits on one line: not empty, printable."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{value!r} is not text")
    text = str(value).strip(" ")
    if not text:
        raise ValueError("it is empty: leave it out, or give null, for the default")
    if not text.isprintable():
        raise ValueError(f"{text!r} has a character that cannot be printed")
    return text


def word(value: object) -> str:
    """Return one name: a `line` without spaces that is not an option."""
    text = line(value)
    if " " in text or text.startswith("-"):
        raise ValueError(f"{text!r} is not a single name")
    return text


def words(value: object) -> tuple[str, ...]:
    """Return names from a list, or from a text with commas or spaces between them."""
    if isinstance(value, str):
        value = [part for part in re.split("[ ,]+", value) if part]
    return tuple(word(item) for item in items(value))


def listed(value: object) -> str:
    """Return a list as the comma-separated text that sbatch takes, or a text as it is."""
    return line(",".join(word(item) for item in value) if isinstance(value, (list, tuple)) else value)


def items(value: object) -> tuple[object, ...]:
    """Return a list's items."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{value!r} is not a list")
    return tuple(value)


def matching(pattern: str, what: str) -> Callable[[object], str]:
    """Return a reader of texts that match `pattern`."""

    def read(value: object) -> str:
        text = line(value)
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not {what}")
        return text

    return read


def yes_or_no(value: object) -> bool:
    """Return a bool that was one."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


# Paths on the cluster


def path(value: object) -> str:
    """Return a path of which only a ``~`` in front is expanded."""
    text = line(value)
    if text != "~" and not text.startswith(("/", "~/")):
        raise ValueError(f"{text!r} is not an absolute path: begin it with / or ~/")
    if "$" in text:
        raise ValueError(f"{text!r} has a $: variables are not known here, write the path in full")
    return text


def log_path(value: object) -> str:
    """Return the path of a log; Slurm's %-patterns are allowed, a backslash would switch them off."""
    text = path(value)
    if "\\" in text or text.endswith("/") or text == "~":
        raise ValueError(f"{text!r} is not the path of a file, written without backslashes")
    return text


def shell_path(value: object) -> str:
    """Return a path that the job's shell expands: ``~`` in front, ``$NAME`` and ``${NAME}`` anywhere."""
    text = line(value)
    if text != "~" and not re.match(rf"/|~/|{VARIABLE}", text):
        raise ValueError(f"{text!r} is not an absolute path: begin it with /, ~/ or $NAME")
    if "$" in re.sub(VARIABLE, "", text):
        raise ValueError(f"{text!r} has a $ that is neither $NAME nor ${{NAME}}")
    return text


def conda_env(value: object) -> str:
    """Return the name of a conda environment, or its folder."""
    text = line(value)
    return shell_path(text) if re.search("[/~$]", text) else word(text)


def command(value: object) -> str:
    """Return a program's name, or its path."""
    text = line(value)
    return shell_path(text) if re.search("[/~$]", text) else word(text)


def program(value: object) -> str:
    """Return the name of a program of this side, or its path."""
    text = line(value)
    return path(text) if re.search("[/~$]", text) else word(text)


# Resources


def time_limit(value: object) -> str:
    """Return a time as sbatch writes it."""
    return format_time(parse_time(value))


def size(value: object) -> str:
    """Return a size as sbatch writes it."""
    return format_size(parse_size(value))


def gpus(value: object) -> str | None:
    """Return a number of GPUs; none of them is nothing to ask for."""
    counted = None if value is None else parse_gpus(value)
    return counted if counted and count_gpus(counted) else None


def exclusive(value: object) -> object:
    """Return what ``--exclusive`` can be."""
    if isinstance(value, bool) or value in ("user", "mcs", "topo"):
        return value
    raise ValueError(f'{value!r} is not true, false, "user", "mcs" or "topo"')


def read_options(value: object) -> tuple[dict[str, OptionValue], list[str]]:
    """Return the usable options of sbatch in `value`, and what is wrong with the others."""
    if not isinstance(value, Mapping):
        return {}, [f'{value!r} is not a mapping such as {{"mail-type": "END"}}']
    options: dict[str, OptionValue] = {}
    problems = []
    for key, given in value.items():
        try:
            name = option_name(key)
            entry = option_value(name, given)
        except ValueError as error:
            problems.append(str(error))
        else:
            if name in options:
                problems.append(f"--{name} is given twice")
            options[name] = entry
    return options, problems


# Environment


def login_host(value: object) -> object:
    """Read a host's name as a login host of that name."""
    return {"host": value} if isinstance(value, str) else value


def port(value: object) -> int:
    """Return the number of a port."""
    number = parse_count(value)
    if number > _HIGHEST_PORT:
        raise ValueError(f"{value!r} is not a port")
    return number


def own_lines(value: object) -> tuple[str, ...]:
    """Return shell lines. They are the user's own; only what is not a line, or read by sbatch, is refused."""
    if isinstance(value, str):
        value = value.strip("\n").split("\n") if value.strip() else []
    lines = []
    for given in items(value):
        if not isinstance(given, str) or re.search(_NOT_IN_A_LINE, given):
            raise ValueError(f"{given!r} is not a line of shell")
        if re.match("#(SBATCH|SLURM|PBS|BSUB)", given):
            raise ValueError(f"sbatch would read {given!r} as an option: set a field, or `sbatch`")
        lines.append(given)
    return tuple(lines)


def read_env(value: object) -> tuple[dict[str, str | None], list[str]]:
    """Return the usable variables in `value`, and what is wrong with the others; values may be secret."""
    if not isinstance(value, Mapping):
        return {}, ['it is not a mapping such as {"NAME": "value"}']
    env: dict[str, str | None] = {}
    problems = []
    for name, given in value.items():
        if not isinstance(name, str) or not re.fullmatch(_ENV_NAME, name):
            problems.append(f"{name!r} is not the name of a variable")
        elif given is None:
            env[name] = None
        elif isinstance(given, bool) or not isinstance(given, (str, int, float)) or re.search(_NOT_IN_ENV, str(given)):
            problems.append(f"the value of {name} is not text")
        else:
            env[name] = str(given)
    return env, problems


def env_names(value: object) -> tuple[str, ...]:
    """Return names of variables."""
    names = words(value)
    for name in names:
        if not re.fullmatch(_ENV_NAME, name):
            raise ValueError(f"{name!r} is not the name of a variable")
    return names


def _whole(read: Callable[[object], tuple[Mapping[str, object], list[str]]]) -> Callable[[object], object]:
    """Return a validator of a mapping read by `read`: all problems, or the entries that say something."""

    def check(value: object) -> dict[str, object]:
        entries, problems = read(value)
        if problems:
            raise ValueError("\n".join(problems))
        return {name: entry for name, entry in entries.items() if entry is not None and entry is not False}

    return check


# How the kernel runs


def step_options(value: object) -> tuple[str, ...] | None:
    """Return srun's options; None when the kernel is not a step."""
    if value is None or value is False:
        return None
    if value is True:
        return ()
    options = tuple(line(item) for item in items(value))
    for option in options:
        if not re.match("--[a-z]", option):
            raise ValueError(f"{option!r} is not a long option of srun, such as --cpus-per-task=4")
        if option.partition("=")[0] in _STEP_OPTIONS:
            raise ValueError(f"{option!r} cannot be given: the kernel is one task on the job's first node")
    return options


def container_args(value: object) -> tuple[str, ...]:
    """Return options of apptainer."""
    if isinstance(value, str):
        value = shlex.split(line(value))
    args = tuple(line(item) for item in items(value))
    for arg in args:
        if arg in _OWN_PIDS:
            raise ValueError(f"{arg!r} cannot be given: signals to the kernel need its process id outside")
    return args


def container(value: object) -> object:
    """Read an image's path as a container with that image."""
    return {"image": value} if isinstance(value, str) else value


def image(value: object) -> str:
    """Return an image: a path or a URI."""
    text = line(value)
    if not re.match("[a-z]+://", text):
        path(text)
    return text


def bind(value: object) -> str:
    """Return a bind: ``path``, ``path:inside`` or ``path:inside:ro``."""
    return path(value)


def ports(value: object) -> tuple[int, int]:
    """Return the lowest and the highest port of ``"low-high"`` or ``[low, high]``."""
    parts = value.split("-") if isinstance(value, str) else items(value)
    try:
        low, high = (parse_count(part) for part in parts)
    except ValueError:
        raise ValueError(f'{value!r} is not a range of ports, such as "50000-50100"') from None
    if not _LOWEST_PORT <= low <= high <= _HIGHEST_PORT:
        raise ValueError(f"{value!r} is not a range of ports from {_LOWEST_PORT} up to {_HIGHEST_PORT}")
    return low, high


def warning(value: object) -> float:
    """Return the seconds of a warning before the end."""
    seconds = parse_duration(value)
    if seconds > _LONGEST_WARNING:
        raise ValueError(f"{value!r} is more than the {_LONGEST_WARNING} seconds that Slurm can warn before")
    return seconds


def _read(reader: Callable[..., object]) -> BeforeValidator:
    return BeforeValidator(reader)


Line = Annotated[str, _read(line)]
Listed = Annotated[str, _read(listed)]
Words = Annotated[tuple[str, ...], _read(words)]
YesOrNo = Annotated[bool, _read(yes_or_no)]
JobName = Annotated[
    str,
    _read(matching("[A-Za-z0-9][A-Za-z0-9._+@-]{0,63}", "a job name: up to 64 letters, digits and . _ + @ -")),
]
Time = Annotated[str, _read(time_limit)]
Nodes = Annotated[str, _read(parse_nodes)]
Count = Annotated[int, _read(parse_count)]
Size = Annotated[str, _read(size)]
Gpus = Annotated[str | None, _read(gpus)]
Exclusive = Annotated[bool | Literal["user", "mcs", "topo"], _read(exclusive)]
SbatchOptions = Annotated[dict[str, OptionValue], _read(_whole(read_options))]
Path = Annotated[str, _read(path)]
LogPath = Annotated[str, _read(log_path)]
ShellPath = Annotated[str, _read(shell_path)]
CondaEnv = Annotated[str, _read(conda_env)]
Command = Annotated[str, _read(command)]
OwnLines = Annotated[tuple[str, ...], _read(own_lines)]
Env = Annotated[dict[str, str], _read(_whole(read_env))]
StepOptions = Annotated[tuple[str, ...] | None, _read(step_options)]
ContainerArgs = Annotated[tuple[str, ...], _read(container_args)]
Image = Annotated[str, _read(image)]
Bind = Annotated[str, _read(bind)]
Address = Annotated[str, _read(matching("[A-Za-z0-9:][A-Za-z0-9.:_-]*", "an address or a host's name"))]
Interface = Annotated[str, _read(matching("[A-Za-z0-9._-]{1,15}", "the name of a network interface"))]
SshHost = Annotated[str, _read(matching("[A-Za-z0-9_:][A-Za-z0-9_.:-]*", "a host's name: letters, digits and . _ : -"))]
SshUser = Annotated[str, _read(matching(r"[A-Za-z0-9_][A-Za-z0-9_.\\@+-]*", "a user's name"))]
Port = Annotated[int, _read(port)]
Program = Annotated[str, _read(program)]
Ports = Annotated[tuple[int, int], _read(ports)]
Cluster = Annotated[str, _read(matching("[A-Za-z0-9_.-]+", "the name of one cluster"))]
EnvNames = Annotated[tuple[str, ...], _read(env_names)]
Duration = Annotated[float, _read(parse_duration)]
WarningTime = Annotated[float, _read(warning)]
