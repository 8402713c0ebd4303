"""Pictures of a run for the documentation: SVG, written by hand. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["pictures"]

WIDTH = 760
COLOURS = ("#4878a8", "#d9a441", "#7a9e6b", "#b05f5f")
OURS, LOCAL = COLOURS[0], COLOURS[1]
HOPS = {
    "until sbatch has answered": "sbatch",
    "until Slurm starts the job": "Slurm starts the job",
    "until the kernel's process": "until the kernel's process",
    "from its process to the result": "the kernel, and the first result",
}
WAYS = {"local": "local", "floor": "bare sbatch", "ours": "slurm_provisioner"}


def pictures(measured: Mapping[str, Any]) -> dict[str, str]:
    """Return pictures by name, of what was measured."""
    found = {}
    if "one" in measured:
        found["start"] = _start(measured["one"])
    if "load" in measured:
        found["load"] = _load(measured["load"])
    return found


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    words = "text{font:12px sans-serif;fill:#333}.b{font-weight:bold}.m{text-anchor:middle}.e{text-anchor:end}"
    style = f"{words}.g{{stroke:#ddd}}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
    ground = f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{style}</style>", ground, *parts, "</svg>\n"])


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="g"/>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height}" fill="{colour}"/>'


def _steps(most: float) -> float:
    """Return the distance of lines that divide so much into three to six parts."""
    rough = most / 5
    size = 10 ** math.floor(math.log10(rough))
    return float(next(size * times for times in (1, 2, 5, 10) if size * times >= rough))


def _start(one: Mapping[str, Mapping[str, float]]) -> str:
    """Return where the time of a start goes, way beside way."""
    hops = {way: [one[f"hop: {hop}"].get(way, 0.0) for hop in HOPS] for way in WAYS}
    most, left, top, high = max(map(sum, hops.values())), 140.0, 44.0, 26
    scale = (WIDTH - left - 70) / most
    bottom = top + len(WAYS) * (high + 12)
    parts, at = [], left
    for colour, words in zip(COLOURS, HOPS.values(), strict=True):
        parts += [_box(at, 14, 12, 12, colour), _text(at + 17, 24, words)]
        at += 34 + 6.2 * len(words)
    step = _steps(most)
    for number in range(int(most / step) + 1):
        x = left + number * step * scale
        parts += [_line(x, top - 6, x, bottom), _text(x, bottom + 16, f"{number * step:g} s", "m")]
    for row, (way, words) in enumerate(WAYS.items()):
        y, x = top + row * (high + 12), left
        parts.append(_text(left - 8, y + 17, words, "e"))
        for seconds, colour in zip(hops[way], COLOURS, strict=True):
            parts.append(_box(x, y, seconds * scale, high, colour))
            x += max(seconds, 0) * scale
        parts.append(_text(x + 6, y + 17, f"{sum(hops[way]):.2f} s"))
    return _svg(bottom + 28, parts, "Where the time of a start goes")


def _load(load: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return what a server has to bear, over the number of its kernels."""
    panels: list[tuple[str, Callable[[Mapping[str, Any]], float]]] = [
        ("memory of the server for each kernel, MiB", lambda each: each["memory per kernel"] / 2**20),
        ("its computing while they idle, % of a core", lambda each: 100 * each["idle cores"]),
        ("open files for each", lambda each: each["files per kernel"]),
        ("seconds until the last of all answers", lambda each: each["answered"]["last"]),
    ]
    parts = []
    for at, (way, colour) in enumerate((("slurm_provisioner", OURS), ("local", LOCAL))):
        parts += [_box(40 + 160 * at, 12, 12, 12, colour), _text(57 + 160 * at, 22, way)]
    wide, high = WIDTH / 2, 190.0
    for number, (title, value) in enumerate(panels):
        lines = {way: {int(count): value(each) for count, each in load[way].items()} for way in ("slurm", "local")}
        corner = 40 + wide * (number % 2), 56 + (high + 50) * (number // 2)
        parts += _panel(corner, (wide - 70, high - 40), title, lines)
    return _svg(56 + 2 * (high + 50) - 30, parts, "What a server bears, over the number of its kernels")


def _panel(
    corner: tuple[float, float], size: tuple[float, float], title: str, lines: Mapping[str, Mapping[int, float]]
) -> list[str]:
    (left, top), (wide, high) = corner, size
    counts = sorted({count for line in lines.values() for count in line})
    most = max(0.001, *(value for line in lines.values() for value in line.values()))
    step, parts = _steps(most), [_text(left, top - 10, title, "b")]

    def place(count: int, value: float) -> tuple[float, float]:
        along = math.log(count / counts[0]) / math.log(counts[-1] / counts[0]) if len(counts) > 1 else 0.5
        return left + along * wide, top + high * (1 - max(value, 0.0) / most)

    for number in range(int(most / step) + 1):
        y = place(counts[0], number * step)[1]
        parts += [_line(left, y, left + wide, y), _text(left - 5, y + 4, f"{number * step:g}", "e")]
    parts += [_text(place(count, 0)[0], top + high + 16, str(count), "m") for count in counts]
    for (_, line), colour in zip(lines.items(), (OURS, LOCAL), strict=True):
        points = [place(count, value) for count, value in line.items()]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return parts
