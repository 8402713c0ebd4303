"""Jupyter is outside of the cluster, and knows a login host, which is another machine."""

from __future__ import annotations

import asyncio
import shlex
import subprocess

import pytest
from cable import COUNTER, impatient_with_cable
from conftest import ARGV, OUTSIDE, VIA, queue, queue_empties
from kernels import eventually
from trouble import node_of
from watched import until, watched

pytestmark = [pytest.mark.from_outside, pytest.mark.timeout(480)]

#: Jupyter on the login host, with a kernel.
JUPYTER = """import time
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name={name!r})
manager.start_kernel()
print('started', flush=True)
time.sleep(600)"""


def enters(node: str) -> bool:
    """Whether a node lets the user in."""
    unknown = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    argv = ["ssh", "-F", OUTSIDE, "-o", "BatchMode=yes", "hpc", "ssh", "-o", "BatchMode=yes", *unknown, node, "id"]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=60)
    assert done.returncode == 0 or "closed by" in done.stderr or "denied" in done.stderr, done.stderr
    return "alice" in done.stdout


def test_a_login_host_that_is_started_again_costs_no_kernel(kernelspec, hands, monkeypatch, tmp_path):
    impatient_with_cable(monkeypatch)
    go, at = tmp_path / "go", tmp_path / "at"

    async def main() -> None:
        async with watched(kernelspec()) as kernel:
            cell = await kernel.cell(COUNTER.format(go=str(go), at=str(at))).begun()
            job_id = kernel.job_id
            await asyncio.to_thread(hands.lose, "login")
            await cell.shows(r"^Job \d+ · no connection to c\d since ..:..:.. · ", timeout=60)
            before = int(await asyncio.to_thread(eventually, at.read_text, "a number"))
            await until(lambda: int(at.read_text() or 0) > before + 20, "that it counts on")
            await asyncio.to_thread(hands.back, "login")
            await cell.shows("no connection .* to ..:..:..$", timeout=60)
            go.touch()
            assert (await cell.end())["status"] == "ok"
            assert cell.printed.split("\n") == ["begun", *map(str, range(1, int(at.read_text()) + 1)), "and ended", ""]
            assert kernel.restarts == 0
            assert kernel.job_id == job_id

    asyncio.run(main())


def test_a_login_host_that_is_lost_with_its_jupyter_leaves_no_job(kernelspec, hands, jupyter_home):
    name = kernelspec(ssh=None, lease="5s")
    argv = ["env", f"JUPYTER_DATA_DIR={jupyter_home}", ARGV[0], "-c", JUPYTER.format(name=name)]
    words = shlex.join(argv)
    with subprocess.Popen(["ssh", "-n", "-F", OUTSIDE, "hpc", words], stdout=subprocess.PIPE, text=True) as jupyter:
        try:
            assert jupyter.stdout is not None
            assert jupyter.stdout.readline() == "started\n"
            eventually(lambda: "RUNNING" in queue()[0], "a running job")
            hands.lose("login")
            hands.back("login")
            queue_empties()
        finally:
            jupyter.kill()


def test_a_node_lets_in_who_has_a_job_there_and_a_kernel_is_reached_that_way(kernelspec, login, start, hands):
    """By pam_slurm_adopt; a firewall lets nothing else through."""
    for node in ("c1", "c2"):
        hands.wall(node, "50000-50019")
    assert not enters("c1")
    ssh = {**login.stanza(VIA)["ssh"], "via": "node"}
    kernel = start(kernelspec(ssh=ssh, nodelist="c1", port_range="51000-51019"))
    assert node_of(kernel.job_id) == "c1"
    assert kernel.run("6 * 7") == "42"
    assert enters("c1")
    assert not enters("c2")
    reply = kernel.interrupt("import time; print('begun', flush=True)\ntime.sleep(600)")
    assert reply["ename"] == "KeyboardInterrupt"
    kernel.restart()
    assert kernel.run("6 * 7") == "42"
