"""What `scripts/bench` has measured, as Markdown, from the results in the repository. Pure but for reading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from config_text import table
from growth import GROWTH, growth_lines
from units import shown

__all__ = ["RESULTS", "growth", "hops", "machine", "results", "rows"]

#: What `scripts/bench --save` has written.
RESULTS = Path(__file__).parents[2] / "scripts" / "bench.d" / "results.json"

_PARTS = {
    "one": "A kernel and its user",
    "load": "A server with many kernels",
    "queued": "Kernels whose jobs are queued",
    "deaths": "Ends that nobody asked for",
    "import": "A process that only lists kernelspecs",
    "ssh": "By SSH, over a network that is made slow",
}
_MET = {True: "✓", False: "**missed**", None: ""}
_HEADS = ("", "floor", "local", "ours", "beside", "to reach", "")
_HOP = "hop: "


def results() -> dict[str, Any]:
    """Return what was measured."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def machine() -> str:
    """Return what it was measured on, and how the parts were called."""
    found = results()
    described = "; ".join(f"{name}: {value}" for name, value in found["machine"].items())
    trip = found["measured"]["ssh"]["round trip"]
    return f"It was measured on this machine: {described}. The network's round trip by SSH was {shown(trip, 'ms')}."


def rows() -> str:
    """Return the table of what is to be reached, in its parts."""
    parts = []
    for part, title in _PARTS.items():
        lines = [
            [
                each["what"],
                *(shown(each[way], each["unit"]) for way in ("floor", "local", "ours")),
                each["beside"],
                each["target"],
                _MET[each["met"]],
            ]
            for each in results()["rows"]
            if each["part"] == part
        ]
        kept = [at for at in range(len(_HEADS)) if any(line[at] for line in lines)]
        cells = [[line[at] for at in kept] for line in (_HEADS, *lines)]
        parts += [f"### {title}", table(cells[0], cells[1:])]
    return "\n\n".join(parts)


def hops() -> str:
    """Return where the time of a start goes."""
    one = results()["measured"]["one"]
    lines = [
        [name.removeprefix(_HOP), *(shown(values.get(way), "ms") for way in ("local", "floor", "ours"))]
        for name, values in one.items()
        if name.startswith(_HOP)
    ]
    return table(["", "local", "floor", "ours"], lines)


def growth() -> str:
    """Return how a server with ever more kernels does."""
    return table(GROWTH, growth_lines(results()["measured"]["load"]))
