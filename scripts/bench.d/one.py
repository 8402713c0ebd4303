"""One kernel, several ways to it side by side: what a user feels.

Rounds go through the ways in turn, so that the machine's moods meet all of them.
"""

from __future__ import annotations

import functools
import queue
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from steps import Steps
from subjects import Bare, Local, Slurm, queued
from telling import progress

__all__ = ["Samples", "begun", "go_through", "interrupted", "measure", "medians", "run", "said"]

#: When a process began, by the clock of its node; the kernel kept no time before it was one.
BEGAN = """
import os, time
def began(pid):
    with open(f"/proc/{{pid}}/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
print(began(os.getpid()), began({first_process}))
"""
#: Seconds for a cell to begin, or to end once it is interrupted, in a kernel that has nothing else to do.
BEGUN = 5.0
TRIES = 4

#: By row and way.
Samples = dict[str, dict[str, list[float]]]


def run(client: BlockingKernelClient, code: str, hook: Callable[[dict[str, Any]], None] = lambda msg: None) -> None:
    reply = client.execute_interactive(code, timeout=120, output_hook=hook)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(reply["content"])


def said(client: BlockingKernelClient, code: str) -> str:
    """Return what a cell prints."""
    printed: list[str] = []

    def hook(msg: dict[str, Any]) -> None:
        if msg["msg_type"] == "stream":
            printed.append(msg["content"]["text"])

    run(client, code, hook)
    return "".join(printed)


def interrupted(
    subject: Any, client: BlockingKernelClient, code: str, lost: Callable[[], None] = lambda: None
) -> float:
    """Seconds from the interrupt to the reply of the cell.

    ipykernel ignores a signal, or loses a cell, that comes at a bad moment: `lost` is called, and another tried.
    """
    for _ in range(TRIES):
        request = begun(client, f"print('go', flush=True)\n{code}")
        began = time.perf_counter()
        if request is not None:
            subject.interrupt()
            if replied(client, request):
                return time.perf_counter() - began
        lost()
        subject.interrupt()
        if request is not None:
            replied(client, request)
    raise RuntimeError(f"{subject.name}: in {TRIES} tries no cell was interrupted; its last request was {request}.")


def replied(client: BlockingKernelClient, request: str) -> bool:
    """Whether a cell ends soon."""
    try:
        while client.get_shell_msg(timeout=BEGUN)["parent_header"].get("msg_id") != request:
            pass
    except queue.Empty:
        return False
    return True


def begun(client: BlockingKernelClient, code: str) -> str | None:
    """Return the request of a cell once it has printed; None if it does not."""
    request: str = client.execute(code)
    try:
        while True:
            msg = client.get_iopub_msg(timeout=BEGUN)
            if msg["msg_type"] == "stream" and msg["parent_header"].get("msg_id") == request:
                return request
    except queue.Empty:
        return None


def hops(subject: Any, client: BlockingKernelClient, began: float, result: float) -> dict[str, float]:
    """Return where the time of a start went: seconds from one moment, all since the epoch, to the next."""
    process, first = map(
        float, said(client, BEGAN.format(first_process=subject.first_process or "os.getpid()")).split()
    )
    marks = subject.marks()
    if not subject.first_process:
        process = max(process, began)  # which is told in hundredths
        return {"until the kernel's process": process - began, "from its process to the result": result - process}
    submitted = marks.pop("sbatch has answered")
    found = {
        "until sbatch has answered": submitted - began,
        "until Slurm starts the job": max(first - submitted, 0.0),
        "until the kernel's process": max(process - first, 0.0),
        "from its process to the result": result - max(process, first),
    }
    names = list(marks)
    found.update({f"job's start to: {name}": marks[name] - first for name in names})
    return found


def one_round(subject: Any, record: Callable[[str, float], None], steps: Steps) -> None:
    began, at = time.time(), time.perf_counter()
    steps.begin()
    subject.start()
    record("start_kernel returns", time.perf_counter() - at)
    told = steps.told()
    if isinstance(subject, Bare):
        record("sbatch returns", subject.submitting)
    else:
        for step, seconds in told.items():
            record(f"step: {step}", seconds)
    client = subject.connect()
    record("start to kernel_info", time.perf_counter() - at)
    run(client, "1")
    took = time.perf_counter() - at
    record("start to first result", took)
    parts = hops(subject, client, began, began + took)
    for hop, seconds in parts.items():
        record(f"hop: {hop}", seconds)
    record("start without Slurm's wait", took - parts.get("until Slurm starts the job", 0.0))

    lost = functools.partial(record, "cells lost", 1)
    record("interrupt, sleeping cell", interrupted(subject, client, "import time; time.sleep(60)", lost))
    record("interrupt, busy cell", interrupted(subject, client, "while True: pass", lost))
    if isinstance(subject, Local):
        at = time.perf_counter()
        subject.restart()
        client.wait_for_ready(timeout=60)
        run(client, "1")
        record("restart to first result", time.perf_counter() - at)
    client.stop_channels()
    at = time.perf_counter()
    subject.shutdown()
    returned = time.perf_counter()
    record("shutdown returns", returned - at)
    if subject.first_process:
        while queued(subject.job_id):
            time.sleep(0.01)
        gone = time.perf_counter()
        record("shutdown to job gone", gone - at)
        record("then job gone", gone - returned)


def _record(samples: Samples, name: str, row: str, value: float) -> None:
    samples[row][name].append(value)


def go_through(
    subjects: Sequence[Any], rounds: int, each: Callable[[Any, int, Callable[[str, float], None]], None]
) -> Samples:
    """Have `each` done with one way after another, as many rounds; return what it recorded."""
    samples: Samples = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for subject in subjects:
            progress(f"round {number + 1} of {rounds}: {subject.name}")
            each(subject, number, functools.partial(_record, samples, subject.name))
    progress("")
    return samples


def medians(samples: Samples) -> dict[str, dict[str, float]]:
    """Return the median of each row and way."""
    return {row: {name: statistics.median(values) for name, values in ways.items()} for row, ways in samples.items()}


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Medians by row and name, and the slowest start."""
    subjects: list[Any] = [Bare(), Local(), Slurm()]
    steps = Steps()
    first: Samples = go_through(subjects, 1, lambda subject, _, record: one_round(subject, record, steps))

    samples = go_through(subjects, rounds, lambda subject, _, record: one_round(subject, record, steps))
    found = medians(samples)
    for what in ("start without Slurm's wait", "start_kernel returns"):
        found[f"{what}, slowest"] = {name: max(values) for name, values in samples[what].items()}
    found["cells lost"] = {name: len(samples["cells lost"][name]) for name in found["start to first result"]}
    #: Of a process that has loaded nothing yet.
    found["start_kernel returns, the first"] = {
        name: values[0] for name, values in first["start_kernel returns"].items()
    }
    return found
