"""A notebook whose job runs."""

from __future__ import annotations

import re

import pytest
from conftest import queue, queue_empties
from playwright.sync_api import expect

from .jobs import the_job


def test_cells_run_in_a_job(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    first = notebook.run("import os; print('in a job'); os.environ['SLURM_JOB_ID']")
    expect(first.prompt).to_have_text("[1]:")
    expect(first.outputs).to_have_text(["in a job", f"'{the_job()}'"])
    second = notebook.run("1 / 0")
    expect(second.prompt).to_have_text("[2]:")
    expect(second.errors).to_contain_text("ZeroDivisionError: division by zero")
    expect(notebook.status).to_have_text("slurm | Idle")
    notebook.screenshot("ran")


def test_interrupt(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    cell = notebook.run("import time; print('begun', flush=True); time.sleep(600)")
    expect(cell.outputs).to_have_text(["begun"])
    expect(cell.prompt).to_have_text("[*]:")
    notebook.interrupt()
    expect(cell.prompt).to_have_text("[1]:")
    expect(cell.errors).to_contain_text("KeyboardInterrupt")
    notebook.screenshot("interrupted")
    expect(notebook.run("6 * 7").outputs).to_have_text(["42"])


def test_restart_keeps_the_job(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    expect(notebook.run("x = 1; x").outputs).to_have_text(["1"])
    job_id = the_job()
    notebook.restart()
    cell = notebook.run("x")
    expect(cell.prompt).to_have_text("[1]:")
    expect(cell.errors).to_contain_text("NameError")
    assert the_job() == job_id


def test_shut_down_gives_the_job_back(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    assert the_job()
    notebook.shut_down()
    queue_empties()
    notebook.screenshot("no-kernel")


def test_a_notebook_is_loaded_again(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    expect(notebook.run("x = 'kept'; print(x)").outputs).to_have_text(["kept"])
    job_id = the_job()
    saved = notebook.save()
    assert [output["text"] for output in saved["cells"][0]["outputs"]] == [["kept\n"]]
    notebook.reload()
    expect(notebook.cells[0].outputs).to_have_text(["kept"])
    expect(notebook.run("x").outputs).to_have_text(["'kept'"])
    assert the_job() == job_id


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"partition": "nope"}, ["Slurm refused the job: Invalid partition name", "sinfo -s"]),
        ({"time": "30-00:00:00"}, ["Slurm refused the job", "time limit", "`time`: `sinfo -O Partition,Time`"]),
        ({"partitoin": "debug"}, ["partitoin", "`partition`"]),
    ],
    ids=["no such partition", "too long", "misspelt"],
)
def test_a_refused_job(lab, kernelspec, config, told):
    notebook = lab.open_notebook(kernelspec(**config))
    for words in ["Error Starting Kernel", *told]:
        expect(notebook.dialog).to_contain_text(re.compile(re.escape(words), re.IGNORECASE))
    notebook.screenshot("refused")
    assert queue() == []
    notebook.press("Ok")


def test_input(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    cell = notebook.run("print(input('how many? ') * 2)")
    cell.answer("21")
    expect(cell.outputs.last).to_have_text("2121")


def test_a_widget(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec())
    cell = notebook.run("import ipywidgets; button = ipywidgets.Button(description='press'); button")
    notebook.run("button.on_click(lambda _: setattr(button, 'description', 'pressed'))")
    cell.outputs.get_by_role("button", name="press", exact=True).click()
    expect(cell.outputs.get_by_role("button")).to_have_text("pressed")
    notebook.screenshot("pressed")
