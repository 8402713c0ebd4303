"""How a server does with ever more kernels, in rows for the terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from units import shown

__all__ = ["GROWTH", "growth_lines"]

GROWTH = (
    "kernels",
    "last result",
    "memory for each",
    "idle",
    "open files for each",
    "commands while idle",
    "all shut down",
)


def growth_lines(load: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a line for each number of kernels, those in jobs first, then local ones."""
    return [
        (
            f"{count} {words}",
            shown(each["answered"]["last"], "s"),
            shown(each["memory per kernel"], "MiB"),
            shown(each["idle cores"], "% of a core"),
            f"{each['files per kernel']:.0f}",
            str(sum(each["idle programs"].values())),
            shown(each["shutdown of all"], "s"),
        )
        for way, words in (("slurm", "in jobs"), ("local", "local"))
        for count, each in load[way].items()
    ]
