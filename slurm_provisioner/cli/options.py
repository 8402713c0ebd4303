"""The options of `add` and `edit`: one for each field of a kernelspec's ``config``, made from the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..config import SECTIONS, Container, KernelConfig
from ..login_host import LoginHost
from .completing import OFFERED

__all__ = ["ConfigCommand", "config_options", "given", "laid_over"]

F = TypeVar("F", bound=Callable[..., Any])

#: Fields that hold a mapping of their own: the option of that name gives the one key that says enough.
_NESTED: dict[str, tuple[type[BaseModel], str]] = {"container": (Container, "image"), "ssh": (LoginHost, "host")}
#: Other values than true of some of these are given with `--set`.
_FLAGS = ("login_shell", "persistent", "exclusive", "srun")
#: Fields with several items, whose option is given once for each.
_LISTS = ("modules", "prologue", "env_pass")
_MAPPINGS = ("env", "sbatch")
_NUMBERS = ("ntasks", "ntasks_per_node", "cpus_per_task", "gpus", "ssh.port")
_ITEM_LISTS = ("container.binds", "container.args")
#: Fields of which digits alone are seconds, as in kernel.json.
_DURATIONS = ("queue_timeout", "start_timeout", "warn_before_end", "lease", "crash_grace")
#: What a value looks like, in the help.
_METAVARS = {
    "time": "TIME",
    "mem": "SIZE",
    "mem_per_cpu": "SIZE",
    "gpus": "[TYPE:]N",
    "nodes": "N[-N]",
    **dict.fromkeys(("ntasks", "ntasks_per_node", "cpus_per_task"), "N"),
    **dict.fromkeys(_DURATIONS, "DURATION"),
    **dict.fromkeys(("log", "venv", "work_dir", "state_dir", "slurm_bin"), "PATH"),
    **dict.fromkeys(_MAPPINGS, "NAME=VALUE"),
    "modules": "NAME",
    "prologue": "LINE",
    "env_pass": "NAME",
    "conda_env": "NAME",
    "container": "IMAGE",
    "ssh": "HOST",
}


def config_options(command: F) -> F:
    """Add the options of all fields to a command; what was given is found with `given`."""
    command = click.option(
        "--set",
        "config_set",
        multiple=True,
        metavar="FIELD=JSON",
        help="Any field of the config, as kernel.json has it: --set 'srun=[\"--cpu-bind=none\"]'.",
    )(command)
    for name, field in reversed(_fields().items()):
        command = _option(name, field)(command)
    return command


def given(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in a command's parameters: the fields that were given, null to take one back.

    Raises
    ------
    click.BadParameter
        A value is not of the form its option has.
    """
    config: dict[str, Any] = {}
    for name in _fields():
        value = params.get(_parameter(name))
        if value is None or value == ():
            continue
        top, _, key = name.partition(".")
        if top in _NESTED and not key:
            key = _NESTED[top][1]
        parsed = _parsed(name, value)
        if key:
            config.setdefault(top, {})[key] = parsed
        else:
            config[top] = parsed
    for item in params.get("config_set") or ():
        name, text = _pair("set", item)
        try:
            config[name] = json.loads(text)
        except ValueError:
            config[name] = text
    return config


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return one configuration over another; in fields that are mappings, key by key."""
    merged = {**below}
    for name, value in above.items():
        under = below.get(name)
        if isinstance(under, str) and name in _NESTED:
            under = {_NESTED[name][1]: under}
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[name] = {**under, **value} if both and under is not None else value
    return merged


class ConfigCommand(click.Command):
    """A command whose help shows the options of fields in their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, then those of fields."""
        fields = {_parameter(name): name for name in _fields()}
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        current = "Options"
        for param in self.get_params(ctx):
            if isinstance(param, click.Argument):
                continue
            name = fields.get(param.name or "", "")
            if name in SECTIONS:
                current = SECTIONS[name].partition(":")[0]
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(current if name else "Options", []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _fields() -> dict[str, FieldInfo]:
    """Return all fields; those of a mapping follow it, with its name and a dot before theirs."""
    fields = {}
    for name, field in KernelConfig.model_fields.items():
        fields[name] = field
        if name in _NESTED:
            model, main = _NESTED[name]
            fields.update({f"{name}.{key}": inner for key, inner in model.model_fields.items() if key != main})
    return fields


def _parameter(name: str) -> str:
    return f"config_{name.replace('.', '_')}"


def _option(name: str, field: FieldInfo) -> Callable[[F], F]:
    flag = f"--{name.replace('_', '-').replace('.', '-')}"
    words = (field.description or "").replace("\n", " ")
    settings: dict[str, Any] = {"help": words, "default": None, "metavar": _METAVARS.get(name, "TEXT")}
    if name in _FLAGS:
        return click.option(f"{flag}/--no-{flag[2:]}", _parameter(name), default=None, help=words)
    if name in _LISTS or name in _MAPPINGS or name in _ITEM_LISTS:
        settings |= {"multiple": True}
    elif choices := _choices(field):
        settings |= {"type": click.Choice(choices), "metavar": None}
    return click.option(flag, _parameter(name), shell_complete=OFFERED.get(name), **settings)


def _choices(field: FieldInfo) -> list[str]:
    values = getattr(field.annotation, "__args__", ())
    return [*values] if values and all(isinstance(value, str) for value in values) else []


def _parsed(name: str, value: Any) -> Any:
    if name in _MAPPINGS:
        return dict(_pair(name, item) for item in value)
    if name in _LISTS or name in _ITEM_LISTS:
        return [*value]
    return int(value) if name in (*_NUMBERS, *_DURATIONS) and value.isdecimal() else value


def _pair(name: str, item: str) -> tuple[str, Any]:
    key, equals, text = item.partition("=")
    if not key or not (equals or name == "sbatch"):
        raise click.BadParameter(f"{item!r} is not NAME=VALUE", param_hint=f"--{name}")
    if not equals:
        return key, True
    if name == "sbatch" and text in ("true", "false"):
        return key, json.loads(text)
    return key, text
