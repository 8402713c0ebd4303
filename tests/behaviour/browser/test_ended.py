"""A notebook whose job or kernel ends: cells say why and what to do, and Restart gets another job."""

from __future__ import annotations

import re

from conftest import eventually, queue, queue_empties, slurm
from playwright.sync_api import expect

from .jobs import kernel_jobs, reach_time_limit, the_job
from .pages import Cell, Notebook

BUSY = "import time; print('begun', flush=True); time.sleep(600)"
HOG = "x = bytearray(2_000_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1"


def begun(notebook: Notebook, code: str) -> Cell:
    cell = notebook.run(code)
    expect(cell.outputs).to_have_text(["begun"])
    return cell


def restart_gets_another_job(notebook: Notebook, job_id: str) -> None:
    queue_empties()
    notebook.restart()
    cell = notebook.run("6 * 7")
    expect(cell.prompt).to_have_text("[1]:")
    expect(cell.outputs).to_have_text(["42"])
    assert the_job() != job_id


def test_the_time_limit(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    job_id = the_job()
    cell = begun(notebook, BUSY)
    waiting = notebook.run("1 + 1")
    reach_time_limit(job_id)
    expect(cell.outputs.first).to_have_text("begun")
    expect(cell.errors).to_contain_text(f"Job {job_id}", timeout=90_000)  # Slurm's time to end it, and to tell
    expect(cell.errors).to_contain_text("it reached its time limit")
    expect(cell.errors).to_contain_text("`time`")
    expect(waiting.outputs).to_have_count(0)
    expect(waiting.prompt).to_have_text("[ ]:")
    notebook.screenshot("ended")
    later = notebook.run("2 + 2")
    expect(later.errors).to_contain_text("it reached its time limit")
    notebook.screenshot("said-again")
    expect(notebook.status).to_have_text("slurm | Idle")
    expect(notebook.dialog).to_have_count(0)
    restart_gets_another_job(notebook, job_id)
    notebook.screenshot("restarted")


def test_a_job_cancelled_while_nothing_runs(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    job_id = the_job()
    cell = notebook.run("x = 1; x")
    expect(cell.outputs).to_have_text(["1"])
    slurm("scancel", job_id)
    expect(cell.errors).to_contain_text("it was cancelled")  # the cell that ran last tells it
    notebook.screenshot("cancelled")
    expect(cell.outputs.first).to_have_text("1")
    expect(notebook.run("x").errors).to_contain_text("it was cancelled")
    restart_gets_another_job(notebook, job_id)


def test_a_notebook_loaded_again_after_its_job_ended(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    job_id = the_job()
    expect(notebook.run("x = 1; x").outputs).to_have_text(["1"])
    slurm("scancel", job_id)
    queue_empties()
    notebook.reload()
    expect(notebook.run("x").errors).to_contain_text("it was cancelled")
    notebook.screenshot("loaded-again")
    restart_gets_another_job(notebook, job_id)


def test_a_crash_is_told_in_the_cell_and_the_kernel_comes_back(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    job_id = the_job()
    cell = notebook.run("import os, time; print('begun', flush=True); time.sleep(5); os.kill(os.getpid(), 9)")
    expect(cell.outputs.first).to_have_text("begun")
    expect(cell.errors).to_contain_text("SIGKILL")
    notebook.screenshot("crashed")
    expect(notebook.dialog).to_contain_text("restart")
    notebook.press("Ok")
    after = notebook.run("6 * 7")
    expect(after.prompt).to_have_text("[1]:")
    expect(after.outputs).to_have_text(["42"])
    assert the_job() == job_id


def test_want_of_memory(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(mem="300M"))
    job_id = the_job()
    cell = notebook.run(HOG)
    expect(cell.errors).to_contain_text("memory")
    expect(cell.errors).to_contain_text("`mem`")
    notebook.screenshot("out-of-memory")
    notebook.press("Ok")
    expect(notebook.run("6 * 7").outputs).to_have_text(["42"])
    assert the_job() == job_id


def test_the_time_limit_is_announced(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    job_id = the_job()
    cell = begun(notebook, BUSY)
    slurm("scancel", "--batch", "--signal=USR1", job_id)  # as Slurm itself does some time before the end
    expect(cell.outputs).to_have_text(["begun", re.compile("time limit")])
    expect(cell.errors).to_have_count(0)
    notebook.screenshot("announced")
    notebook.interrupt()
    expect(cell.prompt).to_have_text("[1]:")
    saved = notebook.save()["cells"][0]["outputs"]
    assert [each["ename"] for each in saved if each["output_type"] == "error"] == ["KeyboardInterrupt"]
    assert not any(each.get("name") == "stderr" for each in saved)


def test_shut_down_of_a_notebook_whose_job_ended(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    slurm("scancel", the_job())
    queue_empties()
    eventually(lambda: kernel_jobs() == [], "no other job")
    notebook.shut_down()
    assert queue() == []
