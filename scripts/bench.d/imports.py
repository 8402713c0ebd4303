"""What the package adds to a process that lists kernelspecs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

__all__ = ["measure"]

_CODE = """
import time
import jupyter_client.kernelspecapp, jupyter_client.provisioning
began, computed = time.perf_counter(), time.process_time()
import slurm_provisioner.provisioner
import json, sys
heavy = [name for name in ("pydantic", "asyncssh", "cryptography", "rich") if name in sys.modules]
print(json.dumps([time.perf_counter() - began, time.process_time() - computed, heavy]))
"""


def measure(rounds: int) -> dict[str, object]:
    """Medians, in seconds."""

    def once() -> tuple[float, float, list[str]]:
        done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
        seconds, computed, heavy = json.loads(done.stdout)
        return seconds, computed, heavy

    once()  # what compiles, and what reads the disk
    found = [once() for _ in range(rounds)]
    return {
        "import": {"ours": statistics.median(seconds for seconds, _, _ in found)},
        "import, computing": {"ours": statistics.median(computed for _, computed, _ in found)},
        "heavy": found[0][2],
    }
