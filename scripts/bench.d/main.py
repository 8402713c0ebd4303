"""Measure this package beside a bare sbatch of ipykernel and jupyter_client's local provisioner, in one run.

Prints a table with what is to be reached, and the difference to the run that stands in the repository.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plots
import report
from machine import cpus_of_the_cluster, describe
from targets import rows
from telling import progress

PARTS = ("one", "load", "queued", "deaths", "import", "ssh")
HERE = Path(__file__).parent
#: Seconds for which fewer than the most kernels idle, at most; local ones half as long.
IDLE = 30.0


def one(options: argparse.Namespace) -> Any:
    import one  # noqa: PLC0415
    import trips  # noqa: PLC0415

    return {**one.measure(options.rounds), **trips.measure(options.heavy)}


def load(options: argparse.Namespace) -> Any:
    import load  # noqa: PLC0415

    room = cpus_of_the_cluster()
    fitting = [count for count in options.kernels if count + 1 <= room]
    for count in sorted({*options.kernels} - {*fitting}):
        print(f"Not measured: {count} kernels at a time. This cluster has {room} idle CPUs, and each takes one.")
    found: dict[str, Any] = {"slurm": {}, "local": {}}
    for count in fitting:
        idle = options.idle if count == max(fitting) else min(options.idle, IDLE)
        for way, seconds in (("local", min(idle, IDLE / 2)), ("slurm", idle)):
            progress(f"{count} kernels at a time: {way}")
            found[way][str(count)] = load.measure(way, count, seconds)
    progress("")
    return found


def queued(options: argparse.Namespace) -> Any:
    import queued  # noqa: PLC0415

    count = max(options.kernels)
    progress(f"{count} queued jobs, for {options.queue:g} s")
    found = {str(count): queued.measure(count, options.queue)}
    progress("")
    return found


def deaths(options: argparse.Namespace) -> Any:
    import deaths  # noqa: PLC0415

    return deaths.measure(max(1, options.rounds // 2))


def imports(options: argparse.Namespace) -> Any:
    import imports  # noqa: PLC0415

    return imports.measure(2 * options.rounds)


def by_ssh(options: argparse.Namespace) -> Any:
    import ssh  # noqa: PLC0415

    return ssh.measure(max(1, options.rounds // 2))


MEASURES: dict[str, Callable[[argparse.Namespace], Any]] = dict(
    zip(PARTS, (one, load, queued, deaths, imports, by_ssh), strict=True)
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of all ways (default: %(default)s)")
    parser.add_argument("--heavy", type=int, default=7, help="large outputs of each way (default: %(default)s)")
    text = "numbers of kernels of one server (default: 1,10,50,200)"
    parser.add_argument(
        "--kernels", type=lambda words: [int(word) for word in words.split(",")], default=[1, 10, 50, 200], help=text
    )
    text = "seconds for which the most kernels idle; fewer do up to 30 (default: %(default)s)"
    parser.add_argument("--idle", type=float, default=60.0, help=text)
    parser.add_argument(
        "--queue", type=float, default=150.0, help="seconds for which jobs queue (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print what was measured, too")
    text = "have results and plots take the place of those in the repository"
    parser.add_argument("--save", action="store_true", help=text)
    options = parser.parse_args()
    if unknown := {*options.parts} - {*PARTS}:
        parser.error(f"there is no part {min(unknown)}: give some of {', '.join(PARTS)}")
    return options


def main() -> None:
    options = parse()
    before = json.loads((HERE / "results.json").read_text()) if (HERE / "results.json").exists() else {}
    began, measured, failed = time.monotonic(), {}, []
    for part in options.parts or PARTS:
        try:
            measured[part] = MEASURES[part](options)
        except Exception:  # the others are worth their minutes
            traceback.print_exc()
            failed.append(part)
    found = rows(measured)
    print(report.table(found, before))
    if "load" in measured:
        print(f"\n{report.growth(measured['load'])}\n", *report.holders(measured["load"]), sep="\n")
    missed = [row for row in found if row.met is False]
    judged = sum(row.met is not None for row in found)
    print(f"\n{len(missed)} of {judged} targets missed; {time.monotonic() - began:.0f} s.")
    if options.json:
        print(json.dumps(rounded(measured), indent=1))
    if options.save:
        save(measured, options, before)
    if failed:
        sys.exit(f"Not measured, as something went wrong, see above: {', '.join(failed)}.")


def save(measured: dict[str, Any], options: argparse.Namespace, before: dict[str, Any]) -> None:
    """Write results and plots; what was not measured now stays as it was."""
    given = {name: getattr(options, name) for name in ("rounds", "heavy", "kernels", "idle", "queue")}
    everything = {**before.get("measured", {}), **rounded(measured)}
    document = {
        "machine": describe(),
        "options": {**before.get("options", {}), **dict.fromkeys(measured, given)},
        "measured": everything,
        "rows": [rounded(row.json()) for row in rows(everything)],
    }
    new = HERE / "new"
    new.mkdir()
    (new / "results.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    for name, picture in plots.pictures(everything).items():
        (new / f"{name}.svg").write_text(picture)


def rounded(value: Any) -> Any:
    """Return the same with four digits: more would be noise in each difference."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, float) and value:
        return round(value, 3 - math.floor(math.log10(abs(value))))
    return value


if __name__ == "__main__":
    main()
