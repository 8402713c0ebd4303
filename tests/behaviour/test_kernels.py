"""What a user does with a kernel."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zmq
from conftest import control, eventually, queue, queue_empties, remove_folders_of_the_killed, slurm
from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.multikernelmanager import AsyncMultiKernelManager, MultiKernelManager
from jupyter_client.provisioning import KernelProvisionerFactory
from traitlets.config import Application, Config

from slurm_provisioner.errors import LimitError

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_cell_runs_in_a_slurm_job(start):
    kernel = start()
    assert kernel.run("1 + 1") == "2"
    job_id, node = kernel.run("import os; print(os.environ['SLURM_JOB_ID'], os.environ['SLURMD_NODENAME'])").split()
    assert job_id == kernel.job_id
    assert [line.split()[0] for line in queue()] == [job_id]
    assert slurm("squeue", "--noheader", f"--jobs={job_id}", "--format=%N").strip() == node
    shown = control(job_id)
    assert "TimeLimit=00:10:00" in shown
    assert "Requeue=0" in shown


def test_input(start):
    kernel = start()
    asked = []

    def answer(msg):
        asked.append(msg["content"]["prompt"])
        kernel.client.input("forty-two")

    assert kernel.run("print(input('how many? '))", stdin_hook=answer, allow_stdin=True) == "forty-two"
    assert asked == ["how many? "]


def test_comms_and_binary_buffers(start):
    kernel = start()
    kernel.run(
        "def opened(comm, msg):\n"
        "    comm.on_msg(lambda m: comm.send({'got': m['content']['data']}, buffers=[b'x' * 1_000_000]))\n"
        "get_ipython().kernel.comm_manager.register_target('echo', opened)"
    )
    session = kernel.client.session
    channel = kernel.client.shell_channel
    channel.send(session.msg("comm_open", {"comm_id": "c", "target_name": "echo", "data": {}}))
    channel.send(session.msg("comm_msg", {"comm_id": "c", "data": {"n": 1}}))
    while (msg := kernel.client.get_iopub_msg(timeout=60))["msg_type"] != "comm_msg":
        pass
    assert msg["content"]["data"] == {"got": {"n": 1}}
    assert bytes(msg["buffers"][0]) == b"x" * 1_000_000


def test_a_large_output_arrives_whole(start):
    kernel = start()
    size = 20_000_000
    kernel.client.execute(f"from IPython.display import display; display({{'text/plain': 'y' * {size}}}, raw=True)")
    while (msg := kernel.client.get_iopub_msg(timeout=60))["msg_type"] != "display_data":
        pass
    assert len(msg["content"]["data"]["text/plain"]) == size


@pytest.mark.parametrize(
    "code",
    [
        "import time\nprint('begun', flush=True)\ntime.sleep(600)",
        "print('begun', flush=True)\nwhile True: pass",
        "import subprocess\nprint('begun', flush=True)\nsubprocess.run(['sleep', '600'])",
    ],
    ids=["sleeping", "busy", "waiting for a subprocess"],
)
def test_interrupt(start, code):
    kernel = start()
    assert kernel.interrupt(code)["ename"] == "KeyboardInterrupt"
    assert kernel.run("'still here'") == "'still here'"


def test_restart_keeps_job_node_key_and_open_connections(start):
    kernel = start()
    kernel.run("x = 1")
    job_id, pid = kernel.job_id, kernel.run("import os; os.getpid()")
    before = kernel.manager.get_connection_info()
    kernel.restart()
    with pytest.raises(RuntimeError, match="NameError"):
        kernel.run("x")
    assert kernel.job_id == job_id
    assert kernel.run("import os; os.environ['SLURM_JOB_ID']") == f"'{job_id}'"
    assert kernel.run("os.getpid()") != pid
    assert kernel.manager.get_connection_info() == before
    assert len(queue()) == 1


def test_restart_of_a_busy_kernel_now(start):
    kernel = start()
    job_id = kernel.job_id
    kernel.client.execute("while True: pass")
    kernel.restart(now=True)
    assert kernel.run("'new'") == "'new'"
    assert kernel.job_id == job_id


def test_a_new_client_after_a_restart(start):
    kernel = start()
    kernel.manager.restart_kernel()
    client = kernel.manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.stop_channels()


def test_shutdown_gives_the_job_back(start):
    kernel = start()
    job_id = kernel.job_id
    run_dir = kernel.manager.provisioner._job.allocation.run_dir
    assert os.path.isdir(run_dir)
    kernel.manager.shutdown_kernel()
    queue_empties()
    assert not os.path.exists(run_dir)
    recorded = ["sacct", "-n", "-X", "-j", job_id, "-o", "State"]
    eventually(lambda: slurm(*recorded).strip() == "COMPLETED", "the record of a good end")


def test_shutdown_of_a_kernel_that_does_not_listen(start):
    kernel = start()
    kernel.run("import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]")
    kernel.client.execute("while True: pass")
    kernel.manager.shutdown_kernel()
    queue_empties()


def test_start_again_after_shutdown(kernelspec):
    context = zmq.Context()  # of our own: jupyter_client closes the one it made itself
    manager = KernelManager(kernel_name=kernelspec(), context=context)
    job_ids = set()
    for _ in range(2):
        manager.start_kernel()
        job_ids.add(manager.provisioner.job_id)
        manager.shutdown_kernel()
    assert len(job_ids) == 2
    context.destroy()


def test_several_kernels_at_once(kernelspec):
    async def one(manager: AsyncMultiKernelManager) -> tuple[str, str]:
        kernel_id = await manager.start_kernel(kernel_name=name)
        client = manager.get_kernel(kernel_id).client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        msg = await client.execute_interactive(
            "import os; print(os.environ['SLURM_JOB_ID'])", timeout=60, output_hook=seen.append
        )
        assert msg["content"]["status"] == "ok"
        client.stop_channels()
        return kernel_id, manager.get_kernel(kernel_id).provisioner.job_id

    async def main() -> None:
        manager = AsyncMultiKernelManager()
        kernels = await asyncio.gather(*(one(manager) for _ in range(5)))
        assert len({job_id for _, job_id in kernels}) == 5
        printed = {msg["content"]["text"].strip() for msg in seen if msg["msg_type"] == "stream"}
        assert printed == {job_id for _, job_id in kernels}
        await manager.shutdown_all()

    seen: list[dict] = []
    name = kernelspec()
    asyncio.run(main())


def test_blocking_multi_kernel_manager(kernelspec):
    manager = MultiKernelManager()
    ids = [manager.start_kernel(kernel_name=kernelspec()) for _ in range(2)]
    assert len(queue()) == 2
    manager.shutdown_kernel(ids[0])
    assert manager.is_alive(ids[1])
    manager.shutdown_all()


def test_the_async_manager_on_loops_that_come_and_go(kernelspec):
    manager = AsyncKernelManager(kernel_name=kernelspec())
    asyncio.run(manager.start_kernel())
    assert asyncio.run(manager.is_alive())

    async def talk() -> str:
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        reply = await client.execute_interactive("1/1", timeout=60, output_hook=lambda msg: None)
        client.stop_channels()
        return reply["content"]["status"]

    assert asyncio.run(talk()) == "ok"
    asyncio.run(manager.shutdown_kernel())


def test_a_killed_kernel_is_noticed_and_restarts_in_its_job(start, caplog):
    kernel = start()
    job_id = kernel.job_id
    assert kernel.manager.is_alive()
    kernel.client.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    eventually(lambda: not kernel.manager.is_alive(), "the news of the kernel's death")
    assert asyncio.run(kernel.manager.provisioner.poll()) == -signal.SIGKILL
    assert "SIGKILL" in caplog.text
    assert job_id in caplog.text
    # what the restarter does
    kernel.restart(now=True)
    assert kernel.job_id == job_id


def test_the_automatic_restart_happens_in_place(kernelspec):
    async def main() -> None:
        manager = AsyncIOLoopKernelManager(kernel_name=kernelspec())
        await manager.start_kernel()
        restarted = asyncio.Event()
        manager.add_restart_callback(restarted.set)
        job_id = manager.provisioner.job_id
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        client.execute("import os; os._exit(7)")
        await asyncio.wait_for(restarted.wait(), 60)
        while not await manager.is_alive():  # the event comes before the restart
            await asyncio.sleep(0.1)
        await client.wait_for_ready(timeout=60)
        assert manager.provisioner.job_id == job_id
        client.stop_channels()
        await manager.shutdown_kernel()

    asyncio.run(main())


def test_a_kernel_that_is_dropped_leaves_nothing(kernelspec):
    """jupyter_client calls neither `shutdown` nor `cleanup` for a kernel whose last start failed."""
    script = f"""
import asyncio, gc, pathlib, time
from jupyter_client.multikernelmanager import AsyncMultiKernelManager

async def main():
    manager = AsyncMultiKernelManager()
    kernel_id = await manager.start_kernel(kernel_name={kernelspec()!r})
    kernel = manager.get_kernel(kernel_id)
    folder = pathlib.Path(kernel.get_connection_info()["ip"]).parent
    manager.remove_kernel(kernel_id)
    return folder

folder = asyncio.run(main())
deadline = time.monotonic() + 20
while folder.exists() and time.monotonic() < deadline:
    gc.collect()  # the background loop may still hold the error, whose traceback holds the kernel
    time.sleep(0.05)
print(folder.exists())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=90)
    assert done.stdout.strip() == "False"


def test_the_kernels_environment(start, kernelspec, monkeypatch):
    monkeypatch.setenv("WANTED", "passed on")
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "must not leak")
    name = kernelspec(spec_env={"FROM_SPEC": "${SLURM_JOB_ID}!"}, env={"OWN": "a 'b' $c"}, env_pass=["WANTED"])
    kernel = start(name)
    assert kernel.run("import os; os.environ['FROM_SPEC']") == f"'{kernel.job_id}!'"
    assert kernel.run("os.environ['WANTED']") == "'passed on'"
    assert kernel.run("print(os.environ['OWN'])") == "a 'b' $c"
    assert kernel.run("'must not leak' in os.environ.values()") == "False"


def test_the_working_directory_is_the_notebooks(start, tmp_path):
    folder = tmp_path / "a folder with 'quotes' and ünïcode"
    folder.mkdir()
    kernel = start(cwd=str(folder))
    assert kernel.run("import os; print(os.getcwd())") == str(folder)
    (folder / "data.csv").write_text("")
    assert kernel.manager.provisioner.resolve_path("data.csv") == str(folder / "data.csv")


def test_one_start_may_differ_from_the_kernelspec(start):
    kernel = start(env={**os.environ, "KERNEL_SLURM_TIME": "5", "KERNEL_SLURM_JOB_NAME": "mine"})
    shown = control(kernel.job_id)
    assert "TimeLimit=00:05:00" in shown
    assert re.search(r"JobName=mine-", shown)


def test_what_the_site_sets(kernelspec, monkeypatch):
    site = Config(
        SlurmProvisioner={"defaults": {"time": "3", "mem": "400M"}, "limits": {"time": "5"}},
        KernelProvisionerFactory={"default_provisioner_name": "slurm-provisioner"},
    )
    KernelProvisionerFactory.clear_instance()
    app = Application(config=site)
    manager = KernelManager(kernel_name=kernelspec("plain", stanza=False), parent=app)
    try:
        manager.start_kernel()
        shown = control(manager.provisioner.job_id)
        assert "TimeLimit=00:03:00" in shown
        manager.shutdown_kernel()
        with pytest.raises(LimitError, match=r"(?s)time.*10.*limit.*5"):
            KernelManager(kernel_name=kernelspec("long"), parent=app).start_kernel()
    finally:
        KernelProvisionerFactory.clear_instance()


def test_the_default_provisioner_may_be_named_in_the_environment(kernelspec, monkeypatch):
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "slurm-provisioner")
    KernelProvisionerFactory.clear_instance()
    try:
        manager = KernelManager(kernel_name=kernelspec("plain", stanza=False))
        manager.start_kernel()
        assert [line.split()[0] for line in queue()] == [manager.provisioner.job_id]
        manager.shutdown_kernel()
    finally:
        KernelProvisionerFactory.clear_instance()


def test_subclasses_decide_before_the_job_is_submitted(kernelspec, monkeypatch):
    example = runpy.run_path(str(EXAMPLES / "role_check.py"))

    def instance(kernel_spec):
        return example["RoleCheckingProvisioner"](kernel_id="k", kernel_spec=kernel_spec, parent=manager)

    manager = KernelManager(kernel_name=kernelspec("gpu", gpus=1, partition="gpu"))
    manager.provisioner = instance(manager.kernel_spec)
    with pytest.raises(PermissionError, match="gpu-users"):
        manager.start_kernel()
    assert queue() == []

    manager = KernelManager(kernel_name=kernelspec("cpu"))
    manager.provisioner = instance(manager.kernel_spec)
    manager.start_kernel()
    assert len(queue()) == 1
    manager.shutdown_kernel()


def test_a_server_that_vanishes_leaves_no_job(kernelspec):
    name = kernelspec(lease="2s")
    script = f"""
from jupyter_client.manager import KernelManager
import time
km = KernelManager(kernel_name={name!r})
km.start_kernel()
print("up", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    assert len(queue()) == 1
    process.kill()
    process.wait()
    process.stdout.close()
    eventually(lambda: queue() == [], "the end of the lease")
    remove_folders_of_the_killed()


def test_a_script_that_forgets_its_kernel_leaves_no_job(kernelspec):
    script = f"""
from jupyter_client.manager import KernelManager
km = KernelManager(kernel_name={kernelspec()!r})
km.start_kernel()
print("up", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=90)
    assert done.stdout == "up\n"
    queue_empties()
