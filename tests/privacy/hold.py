"""Run by one user: starts a kernel, has it print a secret over and over, and holds it until standard input ends.

python hold.py KERNEL SEEN    until a message of the type SEEN has come, such as "stream"; the secret is a line of input
"""

from __future__ import annotations

import json
import sys

from jupyter_client.manager import KernelManager


def main() -> None:
    marker = sys.stdin.readline().strip()
    manager = KernelManager(kernel_name=sys.argv[1])
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.execute(f"import time\nwhile True: print({marker!r}, flush=True); time.sleep(0.05)")
    while client.get_iopub_msg(timeout=60)["msg_type"] != sys.argv[2]:
        pass
    job = getattr(manager.provisioner, "_job", None)
    told = {
        "key": manager.session.key.decode(),
        "job_id": manager.provisioner.job_id if job else "",
        "run_dir": job.allocation.run_dir if job else "",
        "private_key": job.allocation._theirs.private_key if job else "",
    }
    print(json.dumps(told), flush=True)
    sys.stdin.read()
    client.stop_channels()
    manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()
