"""Round trips of the shortest cell, and large outputs: a few of one way to a kernel, a few of the next, many times."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from one import Samples, medians, run, said
from relayed import Relayed
from subjects import Bare, Local, Slurm
from telling import progress

__all__ = ["measure"]

TURNS, TRIPS = 60, 10
WARM = 100
#: Cells, and how much each puts out.
OUTPUTS = {
    "printed lines": ("for i in range(100_000): print(i)", 100_000),
    "display data": (
        "from IPython.display import display\nfor _ in range(20): display({'text/plain': 'x' * 10_000_000}, raw=True)",
        200,
    ),
}


#: Who computes for a large output, in the order of its way.
HANDS = ("kernel", "far", "near", "client")


def _computed(*tasks: str | Path) -> float:
    """Seconds that threads have computed."""
    return sum(int(Path(task, "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _process(pid: int | str) -> float:
    """Seconds that all threads of a process have computed."""
    return _computed(*Path(f"/proc/{pid}/task").iterdir())


def measure(heavy: int) -> dict[str, dict[str, float]]:
    """Medians by way: trips and what those in between compute for each, outputs and what all compute for them."""
    relays = [Relayed("two relays", tls=False), Relayed("two relays with TLS", tls=True)]
    subjects: list[Any] = [Bare(), Local(), Slurm(), *relays]
    samples: Samples = defaultdict(lambda: defaultdict(list))
    computed: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        clients = {}
        for subject in subjects:
            subject.start()
            stack.callback(subject.shutdown)
            client = clients[subject.name] = subject.connect()
            stack.callback(client.stop_channels)
            for _ in range(WARM):
                run(client, "1+1")
        between = {relayed.name: relayed.relays for relayed in relays}
        between["ours"] = _ours(clients["ours"])
        for turn in range(TURNS):
            progress(f"round trips, turn {turn + 1} of {TURNS}")
            for name, client in clients.items():
                before = [_computed(task) for task in between.get(name, ())]
                for _ in range(TRIPS):
                    began = time.perf_counter()
                    run(client, "1+1")
                    samples["1+1 round trip"][name].append(time.perf_counter() - began)
                spent = [_computed(task) - was for task, was in zip(between.get(name, ()), before, strict=True)]
                if spent:
                    computed[name] = [a + b for a, b in zip(computed.get(name, (0.0, 0.0)), spent, strict=True)]
        kernels = {name: said(client, "import os; print(os.getpid())").strip() for name, client in clients.items()}

        def hands(name: str) -> tuple[float, ...]:
            near, far = (_computed(task) for task in between[name]) if name in between else (0.0, 0.0)
            return _process(kernels[name]), far, near, _process("self") - near

        for turn, (what, (code, amount)) in itertools.product(range(heavy), OUTPUTS.items()):
            progress(f"{what}, turn {turn + 1} of {heavy}")
            for name, client in clients.items():
                before, began = hands(name), time.perf_counter()
                run(client, code)
                samples[what][name].append(amount / (time.perf_counter() - began))
                for hand, now, was in zip(HANDS, hands(name), before, strict=True):
                    samples[f"{what} computing, {hand}"][name].append(now - was)
    progress("")
    each = TURNS * TRIPS
    return {
        **medians(samples),
        "1+1 computing, near": {name: near / each for name, (near, _) in computed.items()},
        "1+1 computing, far": {name: far / each for name, (_, far) in computed.items()},
    }


def _ours(client: Any) -> tuple[str, str]:
    """Where the computing of our loop and of the supervisor is told."""
    from slurm_provisioner.loop import background_loop  # noqa: PLC0415

    supervisor = said(client, "import os; print(os.getppid())").strip()
    return f"/proc/self/task/{background_loop()._thread.native_id}", f"/proc/{supervisor}/task/{supervisor}"
