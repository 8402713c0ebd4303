"""What the site allows: ``c.SlurmProvisioner.limits``, checked after all sources of a configuration are merged.

A limit belongs to a field:

- a number, time or size is the most that may be asked for (``{"time": "8h", "gpus": 2, "mem": "64G"}``);
- a list, or a text, is what may be chosen from (``{"partition": ["interactive", "gpu"]}``); for `sbatch`, the names
  of the options that may be used;
- false means that the field must not be used (``{"persistent": False, "container": False}``).

What nobody set is kept within the limits too: a limited `time`, `queue_timeout` and the like becomes the limit, a
limited number of `nodes` becomes 1, and for `partition`, `account` and `qos` the first of the list is used, because
Slurm's own default could be outside of it. Memory that nobody asked for is up to Slurm (``DefMemPerCPU``).

Limits hold for what is asked for, whichever way: GPUs in `gres` count, ``mem_per_cpu`` counts as memory of a node,
`exclusive` is refused where tasks, CPUs or GPUs are limited (``{"exclusive": True}`` allows it), and so are options
in `sbatch` that step around a limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from .errors import ConfigError, LimitError
from .quantities import (
    UNLIMITED,
    count_gpus,
    count_hosts,
    format_duration,
    format_size,
    format_time,
    gpus_in_gres,
    largest_node_count,
    parse_count,
    parse_duration,
    parse_size,
    parse_time,
    seconds_allowed,
)
from .sbatch_options import STEPS_AROUND, option_name
from .sources import explain, suggestion

__all__ = ["apply_limits"]

SETTING = "c.SlurmProvisioner.limits"

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class _Measure:
    """How a field is limited: what a limit says, what a configuration asks for, how both are written."""

    read: Callable[[object], float]
    asked: Callable[[Any], float | None]
    write: Callable[[float], object]
    #: What becomes of the field if nobody set it; None leaves it alone.
    unset: Callable[[float], object] | None = None


def _nodes(config: Any) -> float:
    """Return the most nodes the job can get: a node for each task or GPU, if nobody said how many."""
    if config.nodes is not None:
        return largest_node_count(config.nodes)
    return max(count_hosts(config.nodelist or ""), config.ntasks or 1, count_gpus(config.gpus or "0"))


def _tasks(config: Any) -> float:
    if config.ntasks is not None:
        return float(config.ntasks)
    nodes = largest_node_count(config.nodes) if config.nodes else max(count_hosts(config.nodelist or ""), 1)
    return nodes * (config.ntasks_per_node or 1)


def _tasks_on_a_node(config: Any) -> float:
    return float(config.ntasks_per_node or config.ntasks or 1)


def _memory(config: Any) -> float | None:
    """Return the most megabytes the job can get on one node; None if nobody asked."""
    if config.mem is not None:
        return parse_size(config.mem) or math.inf
    if config.mem_per_cpu is not None:
        each = parse_size(config.mem_per_cpu) or math.inf
        return each * (config.cpus_per_task or 1) * _tasks_on_a_node(config)
    return None


def _memory_per_cpu(config: Any) -> float | None:
    """Return the most megabytes the job can get for each of its CPUs; None if nobody asked."""
    if config.mem_per_cpu is not None:
        return parse_size(config.mem_per_cpu) or math.inf
    if config.mem is not None:
        fewest_tasks = config.ntasks_per_node or max(1, (config.ntasks or 1) // _nodes(config))
        return (parse_size(config.mem) or math.inf) / ((config.cpus_per_task or 1) * fewest_tasks)
    return None


def _gpus(config: Any) -> float:
    in_gres = gpus_in_gres(config.gres or "")
    return max(count_gpus(config.gpus or "0"), in_gres * _nodes(config) if in_gres else 0)


def _number(value: object) -> float:
    return 0 if value in (0, "0") else parse_count(value)


def _memory_limit(value: object) -> float:
    return parse_size(value) or math.inf


def _plain(number: float) -> object:
    return "an unknown number" if math.isinf(number) else int(number)


def _duration(name: str) -> _Measure:
    return _Measure(parse_duration, lambda config: _or_forever(getattr(config, name)), format_duration, float)


def _or_forever(seconds: float | None) -> float:
    return UNLIMITED if seconds is None else seconds


_MEASURES = {
    "time": _Measure(parse_time, lambda config: seconds_allowed(config.time), format_time, format_time),
    "nodes": _Measure(_number, _nodes, _plain, lambda _: "1"),
    "ntasks": _Measure(_number, _tasks, _plain),
    "ntasks_per_node": _Measure(_number, _tasks_on_a_node, _plain),
    "cpus_per_task": _Measure(_number, lambda config: config.cpus_per_task or 1, _plain),
    "mem": _Measure(_memory_limit, _memory, format_size),
    "mem_per_cpu": _Measure(_memory_limit, _memory_per_cpu, format_size),
    "gpus": _Measure(_number, _gpus, _plain),
    **{name: _duration(name) for name in ("queue_timeout", "start_timeout", "warn_before_end", "lease", "crash_grace")},
}

#: Fields for which Slurm has a default of its own that might not be in a list of allowed values.
_FIRST_OF_LIST = ("partition", "account", "qos", "time", "nodes")
#: Fields that hold several names, separated by commas.
_SEVERAL = ("partition", "exclude", "licenses", "gres")
#: With limits on one of these, whole nodes have to be allowed by name.
_BY_THE_NODE = ("ntasks", "ntasks_per_node", "cpus_per_task", "gpus")
#: Fields without an order or names: they can only be forbidden.
_ONLY_FALSE = ("login_shell", "persistent", "exclusive", "prologue", "srun", "port_range")


@dataclass(frozen=True)
class _Rule:
    """One limit, as read from the setting."""

    maximum: float | None = None
    allowed: tuple[Any, ...] | None = None
    forbidden: bool = False
    permitted: bool = False


def apply_limits(config: Model, limits: Mapping[str, object], origins: Mapping[str, str]) -> Model:
    """Return `config` within the limits.

    Parameters
    ----------
    config : KernelConfig
        The merged configuration.
    limits : mapping
        The site's limits, see the module's text.
    origins : mapping
        Where each field was set, for the error.

    Raises
    ------
    ConfigError
        If a limit itself cannot be used.
    LimitError
        If the configuration asks for more than is allowed.
    """
    rules = _read_rules(type(config), limits)
    config = config.model_copy(update=_unset_within(config, rules))
    problems = []
    for name, rule in rules.items():
        where = f" ({origins[name]})" if name in origins else ""
        problems += [f"`{name}`{where} {problem}" for problem in _broken(config, name, rule)]
    problems += _stepped_around(config, rules)
    if problems:
        raise _error(LimitError, "The kernel asks for more than the site allows:", problems, "Ask for less")
    return config


def _read_rules(model: type[BaseModel], limits: Mapping[str, object]) -> dict[str, _Rule]:
    rules, problems = {}, []
    for name, limit in limits.items():
        try:
            if name not in model.model_fields:
                raise ValueError(f"there is no such field{suggestion(str(name), [*model.model_fields])}")  # noqa: TRY301
            rules[name] = _read_rule(model, name, limit)
        except ConfigError as error:
            problems += explain(cast(ValidationError, error.__cause__), {}, {})
        except ValueError as error:
            problems.append(f"`{name}`: {error}")
    if problems:
        raise _error(ConfigError, f"The site's limits, {SETTING}, cannot be used:", problems, "Correct the setting")
    return rules


def _read_rule(model: type[BaseModel], name: str, limit: object) -> _Rule:
    if isinstance(limit, bool):
        if limit:
            return _Rule(permitted=True)
        return _Rule(maximum=0) if name == "gpus" else _Rule(forbidden=True)
    if name in _ONLY_FALSE:
        raise ValueError(f"{limit!r} is neither true nor false")
    measure = _MEASURES.get(name)
    if measure and not isinstance(limit, (list, tuple)):
        return _Rule(maximum=measure.read(limit))
    if not isinstance(limit, (list, tuple, str)) or not limit:
        raise ValueError(f"{limit!r} is not a list of what may be chosen")
    choices = [limit] if isinstance(limit, str) else limit
    if name == "sbatch":
        return _Rule(allowed=tuple(option_name(choice) for choice in choices))
    if name in ("env", "env_pass", "modules"):
        return _Rule(allowed=tuple(choices))
    several = name in _SEVERAL
    samples = [model(**{name: choice}) for choice in choices]
    return _Rule(
        allowed=tuple(choice for sample in samples for choice in _chosen(getattr(sample, name), several)),
        maximum=max((measure.asked(sample) or 0 for sample in samples), default=None) if measure else None,
    )


def _unset_within(config: BaseModel, rules: Mapping[str, _Rule]) -> dict[str, object]:
    """Return values for limited fields that nobody set, where their default may be above the limit."""
    updates: dict[str, object] = {}
    for name, rule in rules.items():
        if name in config.model_fields_set and getattr(config, name) is not None:
            continue
        measure = _MEASURES.get(name)
        if rule.allowed and name in _FIRST_OF_LIST:
            updates[name] = rule.allowed[0]
        elif measure and measure.unset and rule.maximum is not None:
            asked = measure.asked(config)
            if asked is not None and asked > rule.maximum:
                updates[name] = measure.unset(rule.maximum)
    return updates


def _broken(config: BaseModel, name: str, rule: _Rule) -> list[str]:
    """Return how `config` breaks a rule."""
    value = getattr(config, name)
    if rule.forbidden and value:
        return ["must not be used"]
    if rule.allowed is not None and value:
        wrong = [choice for choice in _chosen(value, name in _SEVERAL) if choice not in rule.allowed]
        if wrong:
            return [f"is {', '.join(map(str, wrong))}; the site allows {', '.join(map(str, rule.allowed))}"]
    measure = _MEASURES.get(name)
    if measure and rule.maximum is not None:
        asked = measure.asked(config)
        if asked is not None and asked > rule.maximum:
            return [f"comes to {measure.write(asked)}; the site's limit is {measure.write(rule.maximum)}"]
    return []


def _chosen(value: object, several: bool) -> list[object]:
    """Return what a list of allowed values is compared with."""
    if isinstance(value, BaseModel):
        return [getattr(value, "image", None) or getattr(value, "host", None)]
    if isinstance(value, (Mapping, tuple)):
        return list(value)
    return list(value.split(",")) if several and isinstance(value, str) else [value]


def _stepped_around(config: Any, rules: Mapping[str, _Rule]) -> list[str]:
    """Return what in `config` raises a limited field without naming it."""
    limited = {name for name, rule in rules.items() if not rule.permitted}
    problems = []
    if config.exclusive and "exclusive" not in rules and (fields := sorted(limited.intersection(_BY_THE_NODE))):
        problems.append(f"`exclusive` takes whole nodes, and the site limits {_names(fields)}")
    for option in config.sbatch:
        fields = sorted(limited.intersection(STEPS_AROUND.get(option, ())))
        problems += [f"`sbatch`: --{option} steps around the limit of {_names(fields)}"] if fields else []
    return problems


def _names(fields: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in fields)


def _error(kind: type[ConfigError], summary: str, problems: list[str], hint: str) -> ConfigError:
    hint = f"{hint}, or ask the administrators of this Jupyter server: they set {SETTING}."
    if len(problems) == 1:
        return kind(f"{summary} {problems[0]}", hint=hint)
    return kind(summary, evidence=problems, hint=hint)
