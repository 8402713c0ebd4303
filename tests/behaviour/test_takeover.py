"""Another process takes over a kernel that runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Kernel, queue, queue_empties, slurm
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory

from slurm_provisioner.errors import ConfigError

#: Starts a kernel, tells what identifies it, and stays until it is killed.
FIRST = """
import asyncio, json, sys
from jupyter_client.manager import AsyncKernelManager

async def main():
    manager = AsyncKernelManager(kernel_name=sys.argv[1])
    await manager.start_kernel()
    print(json.dumps(await manager.provisioner.get_provisioner_info()), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


class First:
    """The process that starts the kernel."""

    def __init__(self, kernel_name: str) -> None:
        argv = [sys.executable, "-c", FIRST, kernel_name]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.info: dict[str, Any] = json.loads(self.process.stdout.readline())

    def die(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def first(kernelspec) -> Iterator[First]:
    first = First(kernelspec(persistent=True, start="block"))  # there is a kernel to be taken over
    yield first
    first.die()
    if queue():
        slurm("scancel", "--me")


def take_over(info: dict[str, Any]) -> KernelManager:
    """What an application does that keeps the description of its kernels; jupyter_client has no call for it."""
    manager = KernelManager(kernel_name="slurm")
    manager.provisioner = KernelProvisionerFactory.instance().create_provisioner_instance(
        info["kernel_id"], manager.kernel_spec, manager
    )
    asyncio.run(manager.provisioner.load_provisioner_info(info))
    manager.load_connection_info(manager.provisioner.connection_info)
    manager.ready.set_result(None)
    manager._attempted_start, manager._launch_args = True, {}
    return manager


def test_a_kernel_outlives_its_process_and_is_taken_over(first):
    first.die()
    manager = take_over(first.info)
    assert manager.is_alive()
    assert manager.provisioner.job_id == first.info["job_id"]
    kernel = Kernel(manager)
    assert kernel.run("import os; os.environ['SLURM_JOB_ID']") == repr(first.info["job_id"])
    assert kernel.interrupt("print('begun', flush=True)\nwhile True: pass")["ename"] == "KeyboardInterrupt"
    kernel.restart()
    assert kernel.run("os = 1; os") == "1"
    assert manager.provisioner.job_id == first.info["job_id"]
    kernel.close()
    queue_empties()
    assert not Path(first.info["job"]["run_dir"]).exists()


def test_the_first_process_may_go_on(first):
    manager = take_over(first.info)
    kernel = Kernel(manager)
    assert kernel.run("6 * 7") == "42"
    kernel.close()
    queue_empties()


def test_a_kernel_that_died_meanwhile_says_so(first):
    first.die()
    slurm("scancel", first.info["job_id"])
    queue_empties()
    manager = take_over(first.info)
    kernel = Kernel(manager)
    with pytest.raises(RuntimeError, match="it was cancelled"):
        kernel.run("1")
    kernel.close()


def test_what_is_no_description_is_refused(kernelspec):
    kernelspec()
    info = {"kernel_id": "k", "connection_info": {}, "pid": 0, "pgid": 0, "ip": "", "config": {}, "job": {"port": "x"}}
    with pytest.raises(ConfigError, match="does not identify"):
        take_over(info)
