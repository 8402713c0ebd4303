"""How values are written for people, in the terminal and in the documentation."""

from __future__ import annotations

__all__ = ["shown"]

#: By what they are multiplied, and how many digits they have.
_UNITS = {
    "s": (1.0, 2),
    "ms": (1000.0, 1),
    "µs": (1e6, 0),
    "lines/s": (1.0, 0),
    "MB/s": (1.0, 0),
    "MiB": (2.0**-20, 2),
    "% of a core": (100.0, 2),
    "": (1.0, 0),
}


def shown(value: float | None, unit: str) -> str:
    """Return a value in its unit; nothing where there is none."""
    if value is None:
        return ""
    factor, digits = _UNITS[unit]
    return f"{value * factor:,.{digits}f} {unit}".rstrip()
