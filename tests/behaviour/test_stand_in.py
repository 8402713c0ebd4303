"""What a user sees of a kernel whose job waits, starts, or has ended: everything answers, and says where the job is."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import nbformat
import pytest
from conftest import QUEUED, eventually, queue, queue_empties, slurm, start_now
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager
from kernels import Heard
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

JOB_ID = "import os; print(os.environ['SLURM_JOB_ID'])"


class Cell:
    """A cell that was run, and what is seen of it."""

    def __init__(self, client: Any, code: str) -> None:
        self.client = client
        self.msg_id = client.execute(code)
        self.shown: list[dict[str, str]] = []
        self.done = False

    def look(self, timeout: float = 30) -> str:
        """The kind of the next thing that is seen of it; `shown` is what stands in it then."""
        while (msg := self.client.get_iopub_msg(timeout=timeout))["parent_header"].get("msg_id") != self.msg_id:
            pass
        kind, content = msg["msg_type"], msg["content"]
        if kind in ("display_data", "execute_result"):
            self.shown.append(content["data"])
        elif kind == "update_display_data":
            self.shown[-1] = content["data"]
        elif kind == "clear_output":
            self.shown.clear()
        elif kind == "stream":
            self.shown.append({"text/plain": content["text"]})
        elif kind == "error":
            self.shown.append({"text/plain": "\n".join(content["traceback"])})
        elif kind == "status":
            self.done = content["execution_state"] == "idle"
        return kind

    def until(self, text: str) -> str:
        """Look until it shows some text; return all that it shows."""
        while not re.search(text, self.text):
            self.look()
        return self.text

    def end(self) -> str:
        while not self.done:
            self.look()
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(data["text/plain"] for data in self.shown)


def test_a_queued_cell_shows_one_line_and_runs_when_its_job_does(start, kernelspec):
    kernel = start(kernelspec(**QUEUED), queued=True)
    assert len(queue()) == 1
    cells = [Cell(kernel.client, code) for code in ("print(6 * 7)", "x = 1", "x + 1")]
    first = cells[0]
    assert first.until("queued") == first.until(f"Job {kernel.job_id}")
    first.until("not before|begin|start")
    assert "text/html" in first.shown[0]
    assert kernel.client.kernel_info(reply=True, timeout=30)["content"]["status"] == "ok"
    assert kernel.client.complete("pri", reply=True, timeout=30)["content"]["matches"] == []

    start_now(kernel.job_id)
    first.until("starting on c")
    assert [cell.end() for cell in cells] == ["42\n", "", "2"]
    assert kernel.run(JOB_ID) == kernel.job_id
    assert "print" in kernel.client.complete("pri", reply=True, timeout=30)["content"]["matches"]


def test_several_clients_wait_each_with_its_own_line(start, kernelspec):
    kernel = start(kernelspec(**QUEUED), queued=True)
    other = BlockingKernelClient()  # with a session of its own, unlike the manager's
    other.load_connection_info(kernel.manager.get_connection_info())
    other.start_channels()
    try:
        other.wait_for_ready(timeout=60)
        cells = [Cell(kernel.client, "print('one')"), Cell(other, "print('two')")]
        for cell in cells:
            cell.until(f"Job {kernel.job_id}")
        start_now(kernel.job_id)
        assert [cell.end() for cell in cells] == ["one\n", "two\n"]
    finally:
        other.stop_channels()


def test_interrupt_while_queued_keeps_the_jobs_place(start, kernelspec):
    kernel = start(kernelspec(**QUEUED), queued=True)
    job = queue()
    cells = [Cell(kernel.client, JOB_ID), Cell(kernel.client, "print('never')")]
    cells[0].until("queued")
    kernel.client.kernel_info(reply=True, timeout=30)  # both cells have come: requests are taken in their order
    kernel.manager.interrupt_kernel()
    assert re.search("KeyboardInterrupt.*interrupted before it ran", cells[0].end())
    assert "queued" in cells[0].text, "it says where the job is"
    assert cells[1].end() == ""
    assert queue() == job
    start_now(kernel.job_id)
    assert kernel.run(JOB_ID) == job[0].split()[0]


def test_restart_while_queued_keeps_the_jobs_place(start, kernelspec):
    kernel = start(kernelspec(**QUEUED), queued=True)
    job = queue()
    cell = Cell(kernel.client, "print('never')")
    cell.until("queued")
    kernel.manager.restart_kernel()
    assert "never" not in cell.end()
    kernel.restart(now=True)
    assert queue() == job
    start_now(kernel.job_id)
    assert kernel.run(JOB_ID) == job[0].split()[0]


def test_shutdown_while_queued_cancels_the_job(start, kernelspec):
    kernel = start(kernelspec(**QUEUED), queued=True)
    Cell(kernel.client, "print('never')").until("queued")
    kernel.manager.shutdown_kernel()
    assert not kernel.manager.is_alive()
    queue_empties()


def test_the_kernels_own_info_is_known_from_the_second_start_on(start, kernelspec, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = kernelspec(**QUEUED)

    def info(kernel: Any) -> dict[str, Any]:
        return kernel.client.kernel_info(reply=True, timeout=30)["content"]

    kernel = start(name, queued=True)
    at_first = info(kernel)
    assert at_first["language_info"]["file_extension"] == ".py"
    start_now(kernel.job_id)
    kernel.run("pass")
    own = info(kernel)
    assert own["implementation"] == "ipython"
    eventually(lambda: list(tmp_path.glob("cache/slurm-provisioner/kernel_info/*.json")), "the kernel's word on file")
    kernel.manager.shutdown_kernel()
    again = info(start(name, queued=True))
    del again["banner"], own["banner"]  # IPython's has another tip each time
    assert again == own != at_first


def test_the_supervisors_progress_is_told(start, kernelspec, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    kernel = start(kernelspec(prologue=[f"cat {fifo}"]), queued=True)
    cell = Cell(kernel.client, "print('up')")
    cell.until("running the prologue")
    fifo.write_text("go on\n")
    assert cell.end() == "up\n"


def notebook(*cells: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])


def test_nbclient_runs_a_notebook_in_a_queued_job_and_saves_no_notice(kernelspec):
    document = notebook("print(1)", "2")

    async def main() -> None:
        client = NotebookClient(document, kernel_name=kernelspec(**QUEUED), startup_timeout=60)
        run = asyncio.ensure_future(client.async_execute())
        while not (jobs := await asyncio.to_thread(queue)):
            await asyncio.sleep(0.05)
        start_now(jobs[0].split()[0])
        await run

    asyncio.run(main())
    assert [output["output_type"] for cell in document.cells for output in cell.outputs] == ["stream", "execute_result"]
    assert document.metadata["language_info"]["file_extension"] == ".py"
    queue_empties()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, time; os.system('scancel $SLURM_JOB_ID'); time.sleep(60)", "it was cancelled"),
        ("import os, time; time.sleep(2); os.kill(os.getpid(), 11)", "ended with signal SIGSEGV"),  # libzmq sends
    ],
    ids=["job cancelled", "kernel crashed"],
)
def test_nbclient_fails_with_the_reason(kernelspec, code, reason):
    document = notebook("print('before')", f"print('begun', flush=True)\n{code}", "print('after')")
    with pytest.raises(CellExecutionError, match=reason):
        NotebookClient(document, kernel_name=kernelspec()).execute()
    assert document.cells[1].outputs[0]["text"] == "begun\n"
    assert document.cells[2].outputs == []
    queue_empties()


def test_every_cell_says_why_the_job_ended_until_the_users_restart(start):
    kernel = start()
    first, endpoints = kernel.job_id, kernel.manager.get_connection_info()
    cell = Cell(kernel.client, "import time; print('begun'); time.sleep(60)")
    behind = Cell(kernel.client, "print('never')")
    cell.until("begun")
    slurm("scancel", first)
    said = cell.end()
    assert said.startswith("begun\n"), "its output is kept"
    assert f"Job {first} on c" in said
    assert "it was cancelled" in said
    assert re.search(r"Restart the\s+kernel to get a new job", said)
    assert behind.end() == "", "aborted"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="it was cancelled"):
            kernel.run("1")
        assert kernel.manager.is_alive(), "the stand-in is there"
    kernel.manager.interrupt_kernel()
    assert queue() == []
    kernel.restart()
    assert kernel.run(JOB_ID) not in ("", first)
    assert kernel.manager.get_connection_info() == endpoints


def test_the_last_cell_says_why_the_job_ended_while_none_was_running(start):
    kernel = start()
    cell = Cell(kernel.client, "print('done')")
    assert cell.end() == "done\n"
    slurm("scancel", kernel.job_id)
    assert "it was cancelled" in cell.until("it was cancelled")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"argv": ["/opt/nothing/kernel", "{connection_file}"]}, "argv"),
        ({"prologue": ["cat /no/such/file"]}, "/no/such/file"),
        ({"argv": ["/bin/sleep", "600"], "start_timeout": "2s"}, "start_timeout"),
        ({**QUEUED, "queue_timeout": "1s"}, "queue_timeout"),
    ],
    ids=["no kernel", "prologue", "start_timeout", "queue_timeout"],
)
def test_a_cell_says_why_there_is_no_kernel(start, kernelspec, config, reason):
    kernel = start(kernelspec(**config), queued=True)
    with pytest.raises(RuntimeError, match=reason):
        kernel.run("1")
    queue_empties()
    with pytest.raises(RuntimeError, match=reason):
        kernel.run("1")
    assert kernel.manager.is_alive()


def test_a_refused_restart_is_told_in_cells_and_can_be_tried_again(start, kernelspec, commands):
    kernel = start(kernelspec(slurm_bin=str(commands)))
    first = kernel.job_id
    slurm("scancel", first)
    with pytest.raises(RuntimeError, match="it was cancelled"):
        kernel.run("import time; time.sleep(60)")
    commands.fail("echo 'sbatch: error: Batch job submission failed: Nodes are on holiday' >&2; exit 1", "sbatch")
    kernel.restart()
    with pytest.raises(RuntimeError, match="Nodes are on holiday"):
        kernel.run("1")
    commands.behave()
    kernel.restart()
    assert kernel.run(JOB_ID) not in ("", first)


def test_block_waits_as_before(kernelspec):
    async def main() -> None:
        manager = AsyncKernelManager(kernel_name=kernelspec(start="block"))
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        heard = Heard()
        await client.execute_interactive("1 + 1", timeout=30, output_hook=heard)
        assert heard.text() == "2"
        client.stop_channels()
        await manager.shutdown_kernel()

    asyncio.run(main())
