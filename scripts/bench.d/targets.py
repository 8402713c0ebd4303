"""What is to be reached, and whether it was: rows of a table, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import deaths
import queued
import ssh
from loops import STALL
from queued import AT_ONCE
from units import shown

__all__ = ["Row", "rows"]

#: What is known of a loop's turns, in words.
TURNS = {
    "longest turn": "longest turn",
    "longest turn, but for holds": "the same without garbage and program starts",
    "turn that computed most": "most computing in a turn",
}
#: A round trip by SSH may take a tenth more than the network's: ssh itself computes, a bare kernel's by it, too.
TOLERANCE = 0.1
#: Seconds in which a server with idle kernels asks Slurm once.
IDLE_INTERVAL = 300.0


@dataclass(frozen=True)
class Row:
    """One thing that was measured, beside others or alone; `bound` is what it must not exceed, or must reach."""

    part: str
    what: str
    unit: str
    ours: float
    floor: float | None = None
    local: float | None = None
    beside: str = ""
    bound: float | None = None
    target: str = ""
    least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None where there is none."""
        if self.bound is None:
            return None
        return self.ours >= self.bound if self.least else self.ours <= self.bound

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def rows(measured: Mapping[str, Any]) -> list[Row]:
    """Return the rows of all parts that were measured."""
    makers = {
        "one": _one,
        "load": _load,
        "queued": _queued,
        "deaths": _deaths,
        "import": _import,
        "ssh": _ssh,
    }
    return [row for part, make in makers.items() if part in measured for row in make(measured[part])]


def _beside(
    part: str,
    what: str,
    unit: str,
    ways: Mapping[str, float],
    base: str = "",
    *,
    factor: float = 1.0,
    plus: float = 0.0,
    ours: str = "ours",
    least: bool = False,
) -> Row:
    """Return a row whose target is so many times another way's value, and so much more."""
    found, floor, local = ways[ours], ways.get("floor"), ways.get("local")
    if not base:
        return Row(part, what, unit, found, floor, local)
    times, more = (f"{factor:.2f} × " if factor != 1 else ""), (f" + {shown(plus, unit)}" if plus else "")
    difference = f"{'+' if found >= ways[base] else '−'}{shown(abs(found - ways[base]), unit)}"
    return Row(
        part,
        what,
        unit,
        found,
        floor,
        local,
        beside=difference if plus else f"{found / ways[base]:.2f} ×",
        bound=factor * ways[base] + plus,
        target=f"{'≥' if least else '≤'} {times}{base}{more}",
        least=least,
    )


def _alone(
    part: str, what: str, unit: str, ours: float, bound: float, *, local: float | None = None, least: bool = False
) -> Row:
    """Return a row whose target is a value."""
    target = f"{'≥' if least else '≤'} {shown(bound, unit)}"
    return Row(part, what, unit, ours, local=local, bound=bound, target=target, least=least)


def _one(found: Mapping[str, Any]) -> Iterator[Row]:
    def row(what: str, key: str, unit: str, base: str = "", **more: Any) -> Row:
        return _beside("one", what, unit, found[key], base, **more)

    yield row("start to first result", "start to first result", "s")
    # Slurm takes up to a second at random to begin a job: as much for one way as for the other
    alike = found["hop: until Slurm starts the job"]["floor"]
    start = {name: seconds + alike for name, seconds in found["start without Slurm's wait"].items() if name != "local"}
    yield _beside("one", "the same, Slurm's wait being alike", "s", start, "floor", factor=1.1)
    slowest = {**start, "ours": found["start without Slurm's wait, slowest"]["ours"] + alike}
    yield _beside("one", "the slowest of all rounds", "s", slowest, "floor", plus=0.150)
    returns = {**found["start_kernel returns"], "floor": found["sbatch returns"]["floor"]}
    yield _beside("one", "start_kernel returns (floor: sbatch)", "ms", returns, "floor", plus=0.030)
    first = {"ours": found["start_kernel returns, the first"]["ours"]}
    yield _beside("one", "the same, the first of a server", "ms", first)

    def relayed(what: str, key: str, unit: str, **more: Any) -> Row:
        judged, local = row(what, key, unit, "local", **more), found[key]["local"]
        others = {name: found[key][name] for name in ("two relays", "two relays with TLS") if name in found[key]}
        least = ", ".join(f"{name}: {value / local:.2f} ×" for name, value in others.items())
        return replace(judged, beside=f"{judged.beside} ({least})" if least else judged.beside)

    yield relayed("1+1 round trip", "1+1 round trip", "ms", factor=1.1)
    if "printed lines" in found:  # there were large outputs
        yield relayed("100,000 printed lines", "printed lines", "lines/s", factor=0.8, least=True)
        yield relayed("200 MB of display data", "display data", "MB/s", factor=0.8, least=True)
    yield row("interrupt, sleeping cell", "interrupt, sleeping cell", "ms", "local", plus=0.050)
    yield row("interrupt, busy cell", "interrupt, busy cell", "ms", "local", plus=0.050)
    yield row("cells or interrupts that ipykernel lost", "cells lost", "")
    yield row("restart in place to first result", "restart to first result", "s", "local", factor=1.15)
    ending = {name: found["shutdown returns"][name] for name in ("local", "ours")}
    yield _beside("one", "shutdown returns", "s", ending, "local", plus=0.3)
    yield row("job gone after that (floor: after scancel)", "then job gone", "ms", "floor", plus=0.050)


def _load(found: Mapping[str, Any]) -> Iterator[Row]:
    ours, local = found["slurm"], found["local"]
    for count, each in ours.items():
        seconds = each["idle seconds"]
        most = max(1, math.ceil(seconds / IDLE_INTERVAL))
        while_idle = f"{count} idle kernel{'s' * (count != '1')}, {seconds:.0f} s"
        yield _alone("load", f"{while_idle}: commands started", "", sum(each["idle programs"].values()), most)
        asked = each["idle calls"] / each["calls of a squeue"]
        yield _alone("load", f"{while_idle}: commands seen by sdiag", "", asked, most)
    many = max(ours, key=int)
    others = local.get(many, {})

    def row(what: str, key: str, unit: str, bound: float | None = None) -> Row:
        what, mine, other = f"{many} idle kernels: {what}", ours[many][key], others.get(key)
        if bound is None:
            return Row("load", what, unit, mine, local=other)
        return _alone("load", what, unit, mine, bound, local=other)

    yield row("memory of the server for each", "memory per kernel", "MiB", 2.0**19)
    # that of local ones is jupyter_client's own: it looks every three seconds whether each is alive
    cores = {name: each[many]["idle cores"] for name, each in (("ours", ours), ("local", local)) if many in each}
    yield _beside("load", f"{many} idle kernels: the server's computing", "% of a core", cores, "local", plus=0.01)
    yield row("open files of the server for each", "files per kernel", "")
    if str(AT_ONCE) in ours and str(AT_ONCE) in local:
        yield from _stalls(ours[str(AT_ONCE)], local[str(AT_ONCE)])


def _turns(part: str, begin: str, loops: Mapping[str, Any], others: Mapping[str, Any]) -> Iterator[Row]:
    """Return what is known of the turns of each loop, beside the same loop of a server with local kernels."""
    for thread, loop in loops.items():
        whose = "server's loop" if thread == "MainThread" else f"loop {thread}"
        for what, words in TURNS.items():
            local = others[thread][what]["ms"] / 1000 if thread in others else None
            yield _alone(part, f"{begin} {words}, {whose}", "ms", loop[what]["ms"] / 1000, STALL, local=local)


def _stalls(ours: Mapping[str, Any], local: Mapping[str, Any]) -> Iterator[Row]:
    begin = f"{AT_ONCE} starting:"
    yield from _turns("load", begin, ours["loops"], local["loops"])
    for what in ("collecting garbage", "starting a program"):
        mine, other = (each["all threads"][what]["longest"] / 1000 for each in (ours, local))
        beside = f"a bystander: {shown(ours['late, bystander'][what]['longest'] / 1000, 'ms')}"
        yield Row("load", f"{begin} {what}, at most", "ms", mine, local=other, beside=beside)
    mine, other = (each["collecting all garbage"] for each in (ours, local))
    yield Row("load", f"{AT_ONCE} idle: collecting all garbage", "ms", mine, local=other)
    mine, other = ((each["late"]["99 %"] - each["late, bystander"]["99 %"]) / 1000 for each in (ours, local))
    yield _alone("load", f"{begin} 99 % late by no more, beyond a bystander", "ms", mine, STALL, local=other)


def _queued(found: Mapping[str, Any]) -> Iterator[Row]:
    for count, each in found.items():
        seconds, what = each["seconds"], f"{count} queued jobs, {each['seconds']:.0f} s"
        most = queued.asked_at_most(seconds)
        yield _alone("queued", f"{what}: commands started", "", sum(each["programs"].values()), most)
        yield _alone("queued", f"{what}: commands seen by sdiag", "", each["calls"] / each["calls of a squeue"], most)
        due = each["interval due"]
        yield _alone("queued", f"{what}: last interval", "s", each["last interval"], 0.95 * due, least=True)
        yield _alone(
            "queued", f"{count} queued jobs: a start is seen after, at most", "ms", max(each["seen after"]), 0.3
        )
        yield Row("queued", f"{count} queued jobs: the server's computing", "% of a core", each["cores"])
        yield from _turns("queued", f"{AT_ONCE} submitted, none starts:", each["loops"], {})


def _deaths(found: Mapping[str, Any]) -> Iterator[Row]:
    bounds = {"kernel killed": 0.5, "job cancelled": 0.5, "supervisor killed": None, "node cut off": deaths.LEASE}
    for name, bound in bounds.items():
        if name not in found:
            continue
        what, mine, other = f"{name}: noticed after", found[name]["ours"], found[name].get("local")
        if bound is None:
            yield Row("deaths", what, "s", mine, local=other)
        else:
            yield _alone("deaths", what, "s", mine, bound, local=other)


def _import(found: Mapping[str, Any]) -> Iterator[Row]:
    yield _alone("import", "import, more than jupyter_client's own", "ms", found["import"]["ours"], 0.060)


def _ssh(found: Mapping[str, Any]) -> Iterator[Row]:
    trip = found["round trip"]
    starts = found["start without Slurm's wait"]
    ways = {**starts, "floor": starts["floor by SSH"]}
    for name in ssh.TRANSPORTS:

        def row(what: str, values: Mapping[str, float], trips: int, name: str = name) -> Row:
            row = _beside("ssh", f"{name}: {what}", "ms", values, "floor", plus=(trips + TOLERANCE) * trip, ours=name)
            return replace(row, local=None, target=f"≤ floor + {trips + TOLERANCE:.1f} round trips")

        yield row("start, without Slurm's wait (floor: by ssh)", ways, 1)
        for what, key, trips in (("1+1 round trip", "1+1 round trip", 1), ("interrupt", "interrupt", 2)):
            values = {**found[key], "floor": found[key]["ours"]}
            judged = row(f"{what} (floor: without SSH)", values, trips)
            # what ssh itself adds to a kernel that nothing else stands before
            if "floor" in found[key]:
                more = shown(found[key]["floor by SSH"] - found[key]["floor"], "ms")
                judged = replace(judged, beside=f"{judged.beside} (bare: +{more})")
            yield judged
