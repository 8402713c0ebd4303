"""Measure what a user feels of a kernel, several ways to it side by side; print medians and ratios.

Rounds go through the ways in turn, so that the machine's moods meet all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from login_host import Login
from subjects import Bare, Fronted, Local, Slurm, jobs

ROWS = {
    "start_kernel returns": "s",
    "start to kernel_info": "s",
    "start to first result": "s",
    "1+1 round trip": "ms",
    "100,000 printed lines": "s",
    "200 MB of display data": "s",
    "interrupt, sleeping cell": "ms",
    "interrupt, busy cell": "ms",
    "restart to first result": "s",
    "shutdown returns": "s",
    "shutdown to job gone": "s",
}
LARGE_OUTPUT = """
from IPython.display import display
for _ in range(20):
    display({"text/plain": "x" * 10_000_000}, raw=True)
"""
#: Transports to a login host.
SSH = ("asyncssh", "openssh")
#: "front/local" is what our endpoints cost by themselves.
RATIOS = {
    "slurm/bare": (Slurm.name, Bare.name),
    "slurm/local": (Slurm.name, Local.name),
    "front/local": (Fronted.name, Local.name),
    **{f"{name}/{Slurm.name}": (name, Slurm.name) for name in SSH},
}
SCALE = {"s": 1.0, "ms": 1000.0}


def run(client: BlockingKernelClient, code: str, hook: Callable[[dict[str, Any]], None] = lambda msg: None) -> None:
    reply = client.execute_interactive(code, timeout=120, output_hook=hook)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(reply["content"])


def interrupted(subject: Any, client: BlockingKernelClient, code: str) -> float:
    """Seconds from the interrupt to the reply of the cell."""
    request = client.execute(f"print('go', flush=True)\n{code}")
    while client.get_iopub_msg(timeout=30)["msg_type"] != "stream":
        pass
    began = time.perf_counter()
    subject.interrupt()
    while client.get_shell_msg(timeout=30)["parent_header"].get("msg_id") != request:
        pass
    return time.perf_counter() - began


def one_round(subject: Any, record: Callable[[str, float], None], *, heavy: bool) -> None:
    began = time.perf_counter()
    subject.start()
    record("start_kernel returns", time.perf_counter() - began)
    client = subject.connect()
    record("start to kernel_info", time.perf_counter() - began)
    run(client, "1")
    record("start to first result", time.perf_counter() - began)

    for _ in range(30):
        at = time.perf_counter()
        run(client, "1+1")
        record("1+1 round trip", time.perf_counter() - at)
    if heavy:
        at = time.perf_counter()
        run(client, "for i in range(100_000): print(i)")
        record("100,000 printed lines", time.perf_counter() - at)
        at = time.perf_counter()
        run(client, LARGE_OUTPUT)
        record("200 MB of display data", time.perf_counter() - at)
    record("interrupt, sleeping cell", interrupted(subject, client, "import time; time.sleep(60)"))
    record("interrupt, busy cell", interrupted(subject, client, "while True: pass"))
    if hasattr(subject, "restart"):
        at = time.perf_counter()
        subject.restart()
        client.wait_for_ready(timeout=60)
        run(client, "1")
        record("restart to first result", time.perf_counter() - at)
    client.stop_channels()
    at = time.perf_counter()
    subject.shutdown()
    record("shutdown returns", time.perf_counter() - at)
    if subject.in_slurm:
        while jobs():
            time.sleep(0.01)
        record("shutdown to job gone", time.perf_counter() - at)


def table(medians: dict[str, dict[str, float]], names: list[str]) -> str:
    ratios = {name: pair for name, pair in RATIOS.items() if {*pair} <= {*names}}
    width = 1 + max(map(len, [*names, *ratios]))
    lines = [f"{'':26}" + "".join(f"{name:>{width}}" for name in [*names, *ratios])]
    for row, unit in ROWS.items():
        values = medians.get(row, {})
        if not values:
            continue
        line = f"{row:26}"
        for name in names:
            line += f"{values[name] * SCALE[unit]:>{width - 3}.2f} {unit:2}" if name in values else f"{'-':>{width}}"
        for one, other in ratios.values():
            line += f"{values[one] / values[other]:>{width}.2f}" if {one, other} <= values.keys() else f"{'-':>{width}}"
        lines.append(line)
    return "\n".join(lines)


def measure(subjects: list[Any], *, rounds: int, heavy: int) -> dict[str, dict[str, float]]:
    """Medians by row and name."""
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for subject in subjects:
            name = subject.name
            if sys.stderr.isatty():
                print(f"\rround {number + 1}/{rounds}: {name:20}", end="", file=sys.stderr, flush=True)
            one_round(subject, lambda row, seconds, name=name: samples[row][name].append(seconds), heavy=number < heavy)
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return {row: {name: statistics.median(values) for name, values in each.items()} for row, each in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all ways (default: %(default)s)")
    parser.add_argument("--heavy", type=int, default=2, help="rounds with large outputs (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the medians as JSON")
    parser.add_argument(
        "--ssh",
        action="store_true",
        help="measure this package by SSH, with both transports, beside itself without; a start logs in anew",
    )
    options = parser.parse_args()

    subjects: list[Any] = [Bare(), Local(), Fronted(), Slurm()]
    with contextlib.ExitStack() as stack:
        if options.ssh:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-bench-"))
            login = Login(Path(folder))
            stack.callback(login.sshd.stop)
            subjects = [Slurm(), *(Slurm(name, login.stanza(name)) for name in SSH)]
        medians = measure(subjects, rounds=options.rounds, heavy=options.heavy)
    if options.json:
        print(json.dumps({"python": platform.python_version(), "rounds": options.rounds, "seconds": medians}, indent=1))
    else:
        print(table(medians, [subject.name for subject in subjects]))


if __name__ == "__main__":
    main()
