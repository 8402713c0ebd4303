"""A node that was cut off: what runs there ends by itself, and no second kernel writes the user's files before that."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Kernel, control, eventually, queue, queue_empties
from tools import cut_link, node_of, warnings

#: A cell that writes a file for as long as its kernel lives.
WRITER = "import pathlib, time\nwhile True: pathlib.Path({path!r}).write_text(str(time.time())); time.sleep(0.02)"


class Lost(NamedTuple):
    kernel: Kernel
    path: Path
    mend_network: Callable[[], None]


@pytest.fixture
def lost(start, kernelspec, hands, monkeypatch, tmp_path):
    """A kernel that writes on, though Slurm has given up its node and nobody can reach it."""
    monkeypatch.setattr("slurm_provisioner.allocation.FENCE_MARGIN", 4.0)
    kernel = start(kernelspec(lease="4s"))
    path = tmp_path / "data"
    kernel.client.execute(WRITER.format(path=str(path)))
    eventually(path.exists, "the first line")
    node = node_of(kernel.job_id)
    with monkeypatch.context() as network:
        hands.stop(node)
        cut_link(kernel, network)
        hands.scontrol("update", f"NodeName={node}", "State=DOWN", "Reason=cut off")
        eventually(lambda: not kernel.manager.is_alive(), "the news of the node's failure")
        assert written(path) > time.time() - 1, "nobody could end it"
        yield Lost(kernel, path, network.undo)


def written(path: Path) -> float:
    return eventually(path.read_text, "a whole line") and float(path.read_text() or time.time())


def test_a_new_job_waits_until_the_lost_kernel_has_ended(lost, caplog):
    kernel, job_id = lost.kernel, lost.kernel.job_id
    lost.mend_network()
    kernel.restart()
    assert kernel.job_id != job_id
    began = datetime.fromisoformat(control(kernel.job_id).partition("StartTime=")[2].split()[0]).timestamp()
    assert written(lost.path) < began, "the old kernel had ended before the new one began"
    assert "was lost" in warnings(caplog)
    assert "`lease`" in warnings(caplog)
    assert len(queue()) == 1


def test_a_kernel_that_is_lost_ends_by_itself(lost):
    last = 0.0

    def silent() -> bool:
        nonlocal last
        before, last = last, written(lost.path)
        return before == last and time.time() - last > 1

    eventually(silent, "the end of what nobody could end", timeout=30)
    lost.kernel.manager.shutdown_kernel(now=True)
    queue_empties()
