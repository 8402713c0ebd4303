"""A run's rows for a terminal, beside those of the run before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from growth import GROWTH, growth_lines
from targets import Row
from units import shown

__all__ = ["growth", "holders", "table"]

HEADS = ("", "floor", "local", "ours", "beside", "target", "", "last time")
_BEATS = {"the server's loop": "late", "a bystander's": "late, bystander"}
_MET = {True: "met", False: "MISSED", None: ""}


def table(rows: Sequence[Row], before: Mapping[str, Any]) -> str:
    """Return all rows; `before` are the results that stand in the repository."""
    last = {(each["part"], each["what"]): each for each in before.get("rows", [])}
    lines: list[Sequence[str]] = [HEADS]
    for row in rows:
        cells = [shown(value, row.unit) for value in (row.floor, row.local, row.ours)]
        then = last.get((row.part, row.what))
        lines.append((row.what, *cells, row.beside, row.target, _MET[row.met], _difference(row, then)))
    return _columns(lines)


def _difference(row: Row, then: Mapping[str, Any] | None) -> str:
    if then is None:
        return "new"
    was = then["beside"] or shown(then["ours"], row.unit)
    if row.met is False and then["met"]:
        return f"{was}, met: WORSE"
    return f"{was}, missed: better" if row.met and then["met"] is False else was


def growth(load: Mapping[str, Any]) -> str:
    """Return how a server with ever more kernels does, ours beside local ones."""
    return _columns([GROWTH, *growth_lines(load)])


def holders(load: Mapping[str, Any]) -> Iterator[str]:
    """Say who held up loops longest."""
    for way, counts in load.items():
        for count, each in counts.items():
            for thread, loop in each["loops"].items():
                longest, most = loop["longest turn"], loop["turn that computed most"]
                callback = loop["callback that computed most"]
                yield (
                    f"{way}, {count} starting, {thread}: {loop['turns over 20 ms']} turns over 20 ms;"
                    f" the longest {longest['ms']:.0f} ms, of which: {_parts(longest)};"
                    f" most computed in one {most['ms']:.0f} ms: {_parts(most)};"
                    f" in one callback {callback['ms']:.1f} ms: {callback['name']} of {callback['of']}"
                )
            held = (
                f"{what} {hold['times']} times, up to {hold['longest']:.0f} ms"
                for what, hold in each["all threads"].items()
            )
            yield f"{way}, {count} starting, all threads: {'; '.join(held)}"
            late = (
                f"{who} {each[key]['99 %']:.0f} ms, {each[key]['most']:.0f} ms at most" for who, key in _BEATS.items()
            )
            yield f"{way}, {count} starting, lateness of 99 %: {'; '.join(late)}"


def _parts(turn: Mapping[str, Any]) -> str:
    return ", ".join(f"{owner} {ms:.0f} ms" for owner, ms in turn["of"].items() if ms >= 1) or "nothing"


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in lines
    )
