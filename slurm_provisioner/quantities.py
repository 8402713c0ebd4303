"""Slurm's times, sizes and counts: read as sbatch reads them, written in one way.

Every ``parse_*`` raises `ValueError` with a sentence for the user, and reads what its ``format_*`` writes.

Sources: sbatch(1) (``--time``, ``--mem``, ``--nodes``, ``--gpus``, ``--gres``) and Slurm's ``time_str2secs``,
``str_to_mbytes``.
"""

from __future__ import annotations

import math
import re

__all__ = [
    "UNLIMITED",
    "count_gpus",
    "count_hosts",
    "format_duration",
    "format_size",
    "format_time",
    "gpus_by_type",
    "gpus_in_gres",
    "largest_node_count",
    "parse_count",
    "parse_duration",
    "parse_gpus",
    "parse_nodes",
    "parse_size",
    "parse_time",
    "seconds_allowed",
    "smallest_node_count",
    "span",
]

#: A time without end.
UNLIMITED = math.inf

#: Slurm keeps numbers in 32 bits; a larger one would wrap around.
_LARGEST = 2**31 - 1
#: Characters of the longest text that can be a quantity (a list of node counts).
_LONGEST = 1000
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

_UNITS = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+(?:\.[0-9]+)?)s)?", flags=re.IGNORECASE)
_DAYS = re.compile(r"([0-9]+)-([0-9]+)(?::([0-9]+))?(?::([0-9]+))?")
_CLOCK = re.compile(r"([0-9]+)(?::([0-9]+))?(?::([0-9]+))?")
_SIZE = re.compile(r"([0-9]+)(?:([KMGTP])(?:i?B)?)?", flags=re.IGNORECASE)
_NODES = re.compile(r"[0-9]+(?:-[0-9]+(?::[0-9]+)?)?")
# a type may look like a number, but for itself it is one
_GPUS = re.compile(r"(?:(?P<type>[A-Za-z0-9_][A-Za-z0-9_.+-]*):)?(?P<count>[0-9]+)|(?P<one>[A-Za-z_][A-Za-z0-9_.+-]*)")


# Times


def parse_time(value: object) -> float:
    """Return the seconds of a job's time limit; a number without a unit is minutes, as for sbatch.

    Parameters
    ----------
    value : object
        Minutes as an int, or one of Slurm's forms (``"90"``, ``"MM:SS"``, ``"HH:MM:SS"``, ``"D-HH"``,
        ``"D-HH:MM"``, ``"D-HH:MM:SS"``, ``"UNLIMITED"``), or units: ``"4h"``, ``"1h30m"``, ``"2d"``.

    Returns
    -------
    float
        Seconds, `UNLIMITED` for no limit (0, as for sbatch).
    """
    text = _text(value)
    if text.lower() in {"infinite", "unlimited", "-1"}:
        return UNLIMITED
    seconds = _seconds(text)
    if seconds is None or seconds != int(seconds):
        raise ValueError(
            f"{value!r} is not a time: give minutes (90), HH:MM:SS, D-HH:MM:SS, 4h, 1h30m, 2d or UNLIMITED"
        )
    if seconds > _LARGEST:
        raise ValueError(f"{value!r} is longer than Slurm can count")
    return seconds or UNLIMITED


def seconds_allowed(time: str | None) -> float:
    """Return the seconds of a `time` field; without one there is no limit that we know."""
    return UNLIMITED if time is None else parse_time(time)


def format_time(seconds: float) -> str:
    """Write a time as Slurm does: ``HH:MM:SS``, ``D-HH:MM:SS`` or ``UNLIMITED``."""
    if seconds == UNLIMITED:
        return "UNLIMITED"
    days, rest = divmod(int(seconds), _DAY)
    clock = f"{rest // _HOUR:02}:{rest % _HOUR // _MINUTE:02}:{rest % _MINUTE:02}"
    return f"{days}-{clock}" if days else clock


def parse_duration(value: object) -> float:
    """Return the seconds of a waiting time: a number is seconds, a text has a unit or one of Slurm's forms.

    Digits alone in a text are refused: sbatch would read minutes, a program seconds.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds: float | None = float(value)
    else:
        text = _text(value)
        if re.fullmatch(r"[0-9.]+", text):
            raise ValueError(f"{value!r} has no unit: give {text} (seconds, no quotes), {text}s or {text}m")
        seconds = _seconds(text)
    if seconds is None:
        raise ValueError(f"{value!r} is not a duration: give seconds (300), 90s, 10m, 1h30m, 2d or HH:MM:SS")
    if not 0 <= seconds <= _LARGEST:
        raise ValueError(f"{value!r} is not a duration: it is negative, or longer than can be counted")
    return seconds


def format_duration(seconds: float) -> str:
    """Write a duration with units, such as ``1h30m``."""
    if seconds == UNLIMITED:
        return "no limit"
    days, rest = divmod(seconds, _DAY)
    hours, rest = divmod(rest, _HOUR)
    minutes, rest = divmod(rest, _MINUTE)
    parts = [f"{count:.0f}{unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "m")) if count]
    if rest or not parts:
        parts.append(f"{rest:.3f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def span(seconds: float | None, parts: int = 2) -> str:
    """Return a time in words, in its largest units: "1 h 30 min"; "" for none."""
    if seconds is None:
        return ""
    if seconds == UNLIMITED:
        return "no limit"
    words: list[str] = []
    rest = int(seconds)
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s")):
        count, rest = divmod(rest, size)
        if count or (size == 1 and not words):
            words.append(f"{count} {unit}")
    return " ".join(words[:parts])


def _seconds(text: str) -> float | None:
    """Read D-HH[:MM[:SS]], HH:MM:SS, MM[:SS], or units; None for anything else."""
    if match := _DAYS.fullmatch(text):
        days, hours, minutes, seconds = match.groups(default="0")
    elif match := _CLOCK.fullmatch(text):
        first, second, third = match.groups()
        days = "0"
        hours, minutes, seconds = ("0", first, second or "0") if third is None else (first, second, third)
    elif text and (match := _UNITS.fullmatch(text)):
        days, hours, minutes, seconds = match.groups(default="0")
    else:
        return None
    return int(days) * _DAY + int(hours) * _HOUR + int(minutes) * _MINUTE + float(seconds)


# Sizes


def parse_size(value: object) -> int:
    """Return the megabytes of a memory size; a number without a unit is megabytes, as for sbatch.

    Units count in 1024s: K, M, G, T, P, also written ``GB`` or ``GiB``. 0 means all memory of a node.
    """
    match = _SIZE.fullmatch(_text(value))
    if match is None:
        raise ValueError(f"{value!r} is not a size: give megabytes (16000), 512M, 16G or 1T; 0 is all memory")
    number, unit = int(match[1]), (match[2] or "M").upper()
    megabytes = -(-number // 1024) if unit == "K" else number * 1024 ** "MGTP".index(unit)
    if megabytes > _LARGEST * 1024:
        raise ValueError(f"{value!r} is more than Slurm can count")
    return megabytes


def format_size(megabytes: float) -> str:
    """Write a size in the largest unit that is exact, such as ``16G``."""
    if megabytes == math.inf:
        return "all memory"
    number, unit = math.ceil(megabytes), 0
    while number and number % 1024 == 0 and unit < len("MGT") - 1:
        number, unit = number // 1024, unit + 1
    return f"{number}{'MGT'[unit]}" if number else "0"


# Counts


def parse_count(value: object) -> int:
    """Return a whole number of at least 1."""
    text = _text(value)
    if not re.fullmatch("[0-9]+", text) or not 1 <= int(text) <= _LARGEST:
        raise ValueError(f"{value!r} is not a whole number of at least 1")
    return int(text)


def parse_nodes(value: object) -> str:
    """Return a number of nodes as sbatch takes it: ``2``, ``2-4``, or ``2,4,8-16:4`` (Slurm 23.02)."""
    text = _text(value)
    parts = text.split(",")
    if not all(_NODES.fullmatch(part) for part in parts):
        raise ValueError(f"{value!r} is not a number of nodes: give 2, or 2-4 for two to four")
    for part in parts:
        low, _, high = part.partition(":")[0].partition("-")
        if not 1 <= int(low) <= int(high or low) <= _LARGEST:
            raise ValueError(f"{value!r} is not a number of nodes: {part} is not a range from 1 up")
    return text


def largest_node_count(nodes: str) -> int:
    """Return the most nodes that `nodes`, from `parse_nodes`, can mean."""
    return max(int(part.partition(":")[0].rpartition("-")[2]) for part in nodes.split(","))


def smallest_node_count(nodes: str) -> int:
    """Return the fewest nodes that `nodes`, from `parse_nodes`, can mean."""
    return min(int(part.partition(":")[0].partition("-")[0]) for part in nodes.split(","))


def parse_gpus(value: object) -> str:
    """Return a number of GPUs as sbatch takes it: ``2``, ``a100:2``, ``a100:1,v100:1``; a type means one."""
    counts = []
    for part in _text(value).split(","):
        match = _GPUS.fullmatch(part)
        if match is None:
            raise ValueError(f'{value!r} is not a number of GPUs: give 2, "a100:2" or "a100:1,v100:1"')
        name, count = match["type"] or match["one"], int(match["count"] or 1)
        if count > _LARGEST:
            raise ValueError(f"{value!r} is not a number of GPUs: {count} is more than Slurm can count")
        counts.append(f"{name}:{count}" if name else str(count))
    return ",".join(counts)


def count_gpus(gpus: str) -> int:
    """Return how many GPUs `gpus`, from `parse_gpus`, asks for."""
    return sum(int(part.rpartition(":")[2]) for part in gpus.split(","))


def gpus_in_gres(gres: str) -> int:
    """Return how many GPUs a ``--gres`` asks for on each node, such as 3 for ``gpu:a100:2,gpu:1,tmp:10G``."""
    return sum(gpus_by_type(gres).values())


def gpus_by_type(gres: str) -> dict[str, int]:
    """Return the GPUs in a list of generic resources by type, "" for those without one.

    It is what a node has, ``gpu:a100:4(S:0-1)``, or a ``--gres``. A type may look like a number: ``gpu:3090:2``.
    """
    found: dict[str, int] = {}
    for item in re.sub(r"\([^)]*\)", "", gres.replace("=", ":")).split(","):
        # sbatch also takes the kind in front: gres:gpu:2, gres/gpu:2
        name, *fields = re.sub("^gres[:/]", "", item.strip(), flags=re.IGNORECASE).split(":")
        if name.lower() != "gpu":
            continue
        fields = [field for field in fields if field not in ("", "no_consume")]
        count = _gres_count(fields[-1].lower()) if fields else None
        kind = ":".join(fields if count is None else fields[:-1])
        found[kind] = found.get(kind, 0) + (1 if count is None else count)
    return found


def _gres_count(field: str) -> int | None:
    """Return the number in one field of a gres, such as ``2`` or ``1k``; None for a type."""
    match = re.fullmatch("([0-9]+)([kmgtp]?)", field)
    return int(match[1]) * 1024 ** " kmgtp".index(match[2] or " ") if match else None


def count_hosts(hostlist: str) -> float:
    """Return how many hosts a list such as ``c[1-4,7],gpu01`` names; infinite for a file or a bad list."""
    if "/" in hostlist:
        return math.inf
    total = 0
    for host in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", hostlist):
        count = 1
        for ranges in re.findall(r"\[([^\]]*)\]", host):
            bounds = [part.partition("-") for part in ranges.split(",")]
            if not all(low.isdecimal() and (high or low).isdecimal() for low, _, high in bounds):
                return math.inf
            count *= sum(max(0, int(high or low) - int(low)) + 1 for low, _, high in bounds)
        total += count
    return total


def _text(value: object) -> str:
    """Return a number or text as text without the space around it."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{value!r} is neither a whole number nor text")  # noqa: TRY004  as for every bad value
    text = str(value).strip()
    if len(text) > _LONGEST:
        raise ValueError(f"{text[:20]!r}… is too long to be a quantity")
    return text
