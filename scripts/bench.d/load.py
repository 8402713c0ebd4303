"""One server with many kernels: how it starts them, and what they cost while they idle.

    python3 load.py WAY COUNT IDLE

WAY is `slurm` or `local`; IDLE are seconds. Prints one JSON object. It is a process of its own for each measurement, as
memory is not given back.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from counting import Controller, Processes, Usage
from loops import Beat, Holds, Turns
from server import Server

__all__ = ["measure"]

#: Seconds until nothing is under way any more that belongs to the start: jobs are young for 20 of them.
SETTLED = {"slurm": 25.0, "local": 3.0}
#: Seconds that one measurement may take beside its idling.
PATIENCE = 400


def measure(way: str, count: int, idle: float) -> dict[str, Any]:
    """Measure in a process of its own."""
    argv = [sys.executable, __file__, way, str(count), str(idle)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=idle + PATIENCE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def _measure(way: str, count: int, idle: float) -> dict[str, Any]:
    server, controller, processes, turns, holds = Server(way), Controller(), Processes(), Turns(), Holds()
    asks = way == "slurm"
    await server.start(1)  # what is loaded and set up once
    await asyncio.sleep(2)
    alone = Usage()

    bystander = subprocess.Popen(  # noqa: ASYNC220  (nothing is measured yet)
        [sys.executable, str(Path(__file__).with_name("bystander.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    calls, began = controller.calls() if asks else 0, time.monotonic()
    await asyncio.sleep(0.5)  # the bystander has begun, and this turn of the loop is over
    turns.begin()
    holds.begin()
    beat = Beat()
    started = await server.start(count)
    late, held_up, held_all = beat.stop(), turns.told(), holds.told()
    machine = json.loads(bystander.communicate()[0])
    starting = {"calls": controller.calls() - calls if asks else 0, "programs": processes.since(began)}
    await asyncio.sleep(SETTLED[way])
    until_settled = {"calls": controller.calls() - calls if asks else 0, "programs": processes.since(began)}

    calls, before = controller.calls() if asks else 0, Usage()
    await asyncio.sleep(idle)
    after, calls = Usage(), controller.calls() - calls if asks else 0
    seconds, cores = after.since(before)
    found: dict[str, Any] = {
        "start_kernel returned": _spread(started.returned),
        "answered": _spread(started.answered),
        "late": late,
        "late, bystander": machine,
        "loops": held_up,
        "all threads": held_all,
        "starting": starting,
        "until settled": until_settled,
        "idle seconds": seconds,
        "idle cores": cores,
        "idle calls": calls,
        "idle programs": processes.since(before.at),
        "memory": after.memory,
        "memory per kernel": (after.memory - alone.memory) / count,
        "files per kernel": (after.files - alone.files) / count,
        "connections per kernel": (after.connections - alone.connections) / count,
        "threads": after.threads,
        "collecting all garbage": _collecting(),
    }
    if asks:
        found["calls of a squeue"] = controller.calls_of_a_squeue()
        found["run directory"] = _directory(Path(server.allocation(started.ids[0]).run_dir))
    calls, began = controller.calls() if asks else 0, time.monotonic()
    found["shutdown of all"] = await server.shut_down(started.ids)
    found["ending"] = {"calls": controller.calls() - calls if asks else 0, "programs": processes.since(began)}
    await server.shut_down()
    return found


def _collecting() -> float:
    """Seconds of computing that a full collection of garbage takes, whoever causes it."""
    gc.collect()
    began = time.thread_time()
    gc.collect()
    return time.thread_time() - began


def _spread(values: list[float]) -> dict[str, float]:
    return {"first": min(values), "median": statistics.median(values), "last": max(values)}


def _directory(path: Path) -> dict[str, int]:
    files = [each for each in path.rglob("*") if each.is_file()]
    return {"files": len(files), "bytes": sum(each.stat().st_size for each in files)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))
