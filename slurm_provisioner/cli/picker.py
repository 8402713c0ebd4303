"""Questions to people at a terminal: what their kernels are to ask for, out of what the cluster has."""

from __future__ import annotations

from typing import Any

import click

from ..config import KernelConfig
from ..errors import ConfigError
from ..offers import Offers, Partition
from ..quantities import UNLIMITED, format_duration
from . import show

__all__ = ["pick"]


def pick(offers: Offers) -> dict[str, Any]:
    """Ask for what is asked for most: partition, account, GPUs, CPUs, memory, time.

    An empty answer takes what is in brackets, or leaves the choice to Slurm.
    """
    config: dict[str, Any] = {}
    partition = _partition(offers.partitions or ())
    if partition is not None:
        config["partition"] = partition.name
    accounts = offers.accounts or ()
    if len(accounts) > 1:
        config["account"] = _one_of("Account", [*accounts], accounts[0])
    questions = {
        "gpus": _gpus_question(partition),
        "cpus_per_task": "CPUs [1]",
        "mem": "Memory, such as 16G [the default]",
    }
    limit = partition.max_time if partition is not None else None
    at_most = f", at most {format_duration(limit)}" if limit not in (None, UNLIMITED) else ""
    questions["time"] = f"Time, such as 4h{at_most} [the default]"
    for field, question in questions.items():
        if question and (answer := _answer(question, field)):
            config[field] = answer
    return config


def _partition(partitions: tuple[Partition, ...]) -> Partition | None:
    usable = [each for each in partitions if each.on_offer]
    if not usable:
        return None
    rows = [
        (
            f"{each.name}{' (default)' if each.is_default else ''}",
            format_duration(each.max_time) if each.max_time is not None else "",
            str(each.node_count or ""),
            str(each.cpus or ""),
            f"{each.memory // 1024} GB" if each.memory else "",
            _gpus(each),
        )
        for each in usable
    ]
    show.console(stderr=True).print(
        show.table(["PARTITION", "TIME LIMIT", "NODES", "CPUS/NODE", "MEMORY/NODE", "GPUS/NODE"], rows)
    )
    names = [each.name for each in usable]
    default = next((each.name for each in usable if each.is_default), names[0])
    chosen = _one_of("Partition", names, default)
    return next(each for each in usable if each.name == chosen)


def _gpus(partition: Partition) -> str:
    return ", ".join(f"{count} {kind}".strip() for kind, count in (partition.gpus or {}).items() if count)


def _gpus_question(partition: Partition | None) -> str:
    if partition is None or not partition.gpus:
        return ""
    kinds = [kind for kind in partition.gpus if kind]
    example = f"1 or {kinds[0]}:1" if kinds else "1"
    return f"GPUs, such as {example} [none]"


def _one_of(question: str, choices: list[str], default: str) -> str:
    return str(click.prompt(question, default=default, type=click.Choice(choices), show_choices=False, err=True))


def _answer(question: str, field: str) -> str:
    def check(text: str) -> str:
        try:
            KernelConfig(**({field: text} if text else {}))
        except ConfigError as error:
            raise click.BadParameter(error.summary.partition(": ")[2] or error.summary) from error
        return text

    return str(click.prompt(question, default="", show_default=False, value_proc=check, err=True)).strip()
