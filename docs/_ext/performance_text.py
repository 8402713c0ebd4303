"""What `scripts/bench` has measured, as Markdown, from the results in the repository. Pure but for reading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from config_text import table
from growth import GROWTH, growth_lines
from steps import STEPS
from trips import HANDS, OUTPUTS
from units import shown

__all__ = ["RESULTS", "growth", "hops", "machine", "outputs", "results", "rows", "stalls", "steps", "trips"]

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
_HOP, _STEP = "hop: ", "step: "
_TRIPS = {
    "local": "a local kernel",
    "floor": "bare sbatch, the client on the node",
    "two relays": "a local kernel behind two relays that pass bytes on",
    "two relays with TLS": "the same, with TLS between the two",
    "ours": "this package",
}
_LOOPS = {"MainThread": "the server's"}


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


def steps() -> str:
    """Return what passes until `start_kernel` returns."""
    one = results()["measured"]["one"]
    lines = [[step, *(shown(one.get(_STEP + step, {}).get(way), "ms") for way in ("local", "ours"))] for step in STEPS]
    whole = ["all of it", *(shown(one["start_kernel returns"][way], "ms") for way in ("local", "ours"))]
    return table(["", "local", "ours"], [*lines, whole])


def trips() -> str:
    """Return what a round trip passes through, and what that computes."""
    one = results()["measured"]["one"]
    trips, near, far = (one[name] for name in ("1+1 round trip", "1+1 computing, near", "1+1 computing, far"))
    lines = [
        [
            words,
            shown(trips[way], "ms"),
            f"{trips[way] / trips['local']:.2f} ×",
            shown(near.get(way), "µs"),
            shown(far.get(way), "µs"),
        ]
        for way, words in _TRIPS.items()
    ]
    return table(["", "round trip", "beside local", "computing in the server", "at the kernel"], lines)


def outputs() -> str:
    """Return what computes for the largest output, beside the time that it takes."""
    one = results()["measured"]["one"]
    lines = []
    for way, words in _TRIPS.items():
        each = [one[f"display data computing, {hand}"][way] for hand in HANDS]
        takes = OUTPUTS["display data"][1] / one["display data"][way]
        cores = f"{sum(each) / takes:.2f}"
        lines.append([words, shown(takes, "s"), *(shown(value, "s") for value in (*each, sum(each))), cores])
    heads = ["200 MB", "takes", "kernel", "at the kernel", "in the server", "client", "computing in all", "cores busy"]
    return table(heads, lines)


def stalls() -> str:
    """Return what of the longest turns of loops was whose, where many kernels start at once."""
    measured = results()["measured"]
    many = measured["queued"][max(measured["queued"], key=int)]
    scenes = {
        "submitted, none starts": many,
        "started": measured["load"]["slurm"]["50"],
        "local ones started": measured["load"]["local"]["50"],
    }
    lines = [
        [
            scene,
            _LOOPS.get(thread, "ours"),
            shown(loop["longest turn"]["ms"] / 1000, "ms"),
            ", ".join(f"{owner} {ms:.0f} ms" for owner, ms in loop["longest turn"]["of"].items() if ms >= 1),
            shown(loop["turn that computed most"]["ms"] / 1000, "ms"),
            str(loop["turns over 20 ms"]),
        ]
        for scene, each in scenes.items()
        for thread, loop in each["loops"].items()
    ]
    heads = ["50 kernels at once", "loop", "longest turn", "of which", "most computing in a turn", "turns over 20 ms"]
    return table(heads, lines)


def growth() -> str:
    """Return how a server with ever more kernels does."""
    return table(GROWTH, growth_lines(results()["measured"]["load"]))
