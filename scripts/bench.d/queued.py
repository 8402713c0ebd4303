"""One server with many kernels whose jobs are queued: what it asks Slurm, and how soon it sees that one has started.

Many of them are submitted at once, which is half of their start, and the machine has nothing else to do.

    python3 queued.py COUNT SECONDS

Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from typing import Any

from counting import Controller, Processes, Usage
from loops import Holds, Turns
from server import Server, first_result

__all__ = ["AT_ONCE", "asked_at_most", "measure"]

#: Kernels that start at once where stalls are looked at.
AT_ONCE = 50

#: Kernels whose jobs are started at the end, one after another.
RELEASED = 5
#: Seconds for all but the waiting.
PATIENCE = 300
#: A job is asked for every second so long, then every tenth of its age, at most every so many seconds: the target.
YOUNG, OLDEST = 20.0, 30.0


def measure(count: int, seconds: float) -> dict[str, Any]:
    """Measure in a process of its own."""
    argv = [sys.executable, __file__, str(count), str(seconds)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=seconds + PATIENCE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def interval(age: float) -> float:
    """Seconds between two questions, at that age of the youngest job."""
    return 1.0 if age < YOUNG else min(age / 10, OLDEST)


def asked_at_most(seconds: float) -> int:
    """How often there is a question from the last submission on, where there is one for all jobs each time."""
    asked, age = 0, 0.0
    while age <= seconds:
        asked, age = asked + 1, age + interval(age)
    return asked


async def _measure(count: int, seconds: float) -> dict[str, Any]:
    server, controller, processes = Server("slurm", {"sbatch": {"begin": "now+3hours"}}), Controller(), Processes()
    turns, holds = Turns(), Holds()
    await server.start(1, answers=False)
    await asyncio.sleep(1)
    turns.begin()
    holds.begin()
    started = await server.start(min(AT_ONCE, count), answers=False)
    held_up, held_all = turns.told(), holds.told()
    await server.start(max(0, count - AT_ONCE - 1), answers=False)
    calls, before = controller.calls(), Usage()
    await asyncio.sleep(seconds)
    after, calls = Usage(), controller.calls() - calls
    asked = [at for at, name in processes.started if name == "squeue" and before.at <= at <= after.at]
    found: dict[str, Any] = {
        "loops": held_up,
        "all threads": held_all,
        "seconds": seconds,
        "calls": calls,
        "programs": processes.since(before.at),
        "last interval": max((late - early for early, late in itertools.pairwise(asked[-3:])), default=seconds),
        "interval due": interval(asked[-2] - before.at) if len(asked) > 1 else seconds,
        "calls of a squeue": controller.calls_of_a_squeue(),
        "cores": after.since(before)[1],
        "seen after": [],
        "answered after": [],
    }
    for kernel_id in started.ids[:RELEASED]:
        now = server.allocation(kernel_id)
        argv = ["scontrol", "update", f"JobId={now.record.job_id}", "StartTime=now"]
        subprocess.run(argv, check=True)  # noqa: ASYNC221  (nothing else is to go on)
        await first_result(server.kernel(kernel_id))
        found["seen after"].append(now.arrived_at - now.arrival.told_at)
        found["answered after"].append(time.time() - now.arrival.told_at)
    found["shutdown of all"] = await server.shut_down()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(int(sys.argv[1]), float(sys.argv[2])))))
