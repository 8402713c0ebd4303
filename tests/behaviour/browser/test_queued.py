"""A notebook whose job waits in the queue: it opens at once, and tells in its cells where the job is."""

from __future__ import annotations

import json
import re

import pytest
from conftest import QUEUED, queue, queue_empties, slurm, start_now
from playwright.sync_api import expect

from .jobs import the_job
from .pages import Cell


def waits(cell: Cell, job_id: str) -> None:
    """A cell shows one line about a job, not as an error."""
    expect(cell.prompt).to_have_text("[*]:")
    expect(cell.outputs).to_have_text([re.compile(f"^Job {job_id} · ")])
    expect(cell.errors).to_have_count(0)


def ran(cell: Cell, number: int, *outputs: str) -> None:
    """A cell shows its outputs and nothing else."""
    expect(cell.prompt).to_have_text(f"[{number}]:")
    expect(cell.outputs).to_have_text(list(outputs))


def test_a_cell_tells_where_its_job_is_and_then_only_its_output(lab, kernelspec, full_partition):
    notebook = lab.open_notebook(kernelspec(**full_partition.wanted))
    job_id = the_job("PENDING")
    notebook.screenshot("opened")
    cell = notebook.run("print('hello')\n6 * 7")
    waits(cell, job_id)
    notebook.screenshot("queued")

    slurm("scontrol", "hold", job_id)
    expect(cell.outputs).to_have_text([re.compile(f"^Job {job_id} · .*held")])
    slurm("scontrol", "release", job_id)
    expect(cell.outputs).not_to_have_text([re.compile("held")])
    waits(cell, job_id)

    full_partition.leave()
    ran(cell, 1, "hello", "42")
    notebook.screenshot("ran")
    assert any(f"starting on {full_partition.node}" in text for text in cell.texts()), cell.texts()
    expect(notebook.status).to_have_text("slurm | Idle")
    saved = notebook.save()
    assert [output["output_type"] for output in saved["cells"][0]["outputs"]] == ["stream", "execute_result"]
    assert f"Job {job_id}" not in json.dumps(saved)


def test_cells_that_wait_run_in_order(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(**QUEUED))
    cells = [notebook.run(code) for code in ("x = [1]; x", "x.append(2); x", "x.append(3)", "print(x)")]
    waits(cells[0], the_job())
    for cell in cells[1:]:
        expect(cell.prompt).to_have_text("[*]:")
        expect(cell.outputs).to_have_count(0)
    notebook.screenshot("queued")
    start_now(the_job())
    for number, (cell, *outputs) in enumerate(zip(cells, [["[1]"], ["[1, 2]"], [], ["[1, 2, 3]"]], strict=True), 1):
        ran(cell, number, *outputs[0])


def test_interrupt(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(**QUEUED))
    job_id = the_job()
    first, second = notebook.run("1 / 0"), notebook.run("2 / 0")
    waits(first, job_id)
    notebook.interrupt()
    expect(first.prompt).to_have_text("[ ]:")
    expect(first.outputs).to_have_count(1)
    expect(first.errors).to_contain_text("KeyboardInterrupt")
    expect(first.errors).to_contain_text(f"Job {job_id}")
    expect(second.prompt).to_have_text("[ ]:")
    expect(second.outputs).to_have_count(0)
    notebook.screenshot("interrupted")
    assert the_job("PENDING") == job_id, "it keeps its place"

    third = notebook.run("6 * 7")
    waits(third, job_id)
    start_now(job_id)
    ran(third, 1, "42")


def test_restart_keeps_the_job_and_drops_what_waits(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(**QUEUED))
    job_id = the_job()
    dropped = notebook.run("1 / 0")
    waits(dropped, job_id)
    notebook.restart()
    assert the_job("PENDING") == job_id
    expect(dropped.prompt).to_have_text("[ ]:")
    notebook.screenshot("restarted")

    cell = notebook.run("6 * 7")
    waits(cell, job_id)
    start_now(job_id)
    ran(cell, 1, "42")
    expect(dropped.errors).to_have_count(0)  # its line stays: JupyterLab itself stops listening before it restarts


def test_shut_down_cancels_the_job(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(**QUEUED))
    waits(notebook.run("1"), the_job())
    notebook.shut_down()
    queue_empties()
    notebook.screenshot("shut-down")


def test_a_notebook_that_is_loaded_again_still_waits(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(**QUEUED))
    job_id = the_job()
    waits(notebook.run("x = 1; x"), job_id)
    notebook.save()
    notebook.reload()
    assert the_job() == job_id
    notebook.screenshot("loaded-again")
    cell = notebook.run("x + 1")
    waits(cell, job_id)
    start_now(job_id)
    ran(cell, 2, "2")
    notebook.screenshot("ran")


def test_what_was_saved_while_it_waited_does_not_stay(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(**QUEUED))
    job_id = the_job()
    cell = notebook.run("6 * 7")
    waits(cell, job_id)
    notebook.save()
    start_now(job_id)
    ran(cell, 1, "42")
    saved = notebook.save()
    assert f"Job {job_id}" not in json.dumps(saved)
    notebook.reload()
    ran(notebook.cells[0], 1, "42")


def test_two_tabs(lab, kernelspec):
    first_tab = lab.open_notebook(kernelspec(**QUEUED))
    job_id = the_job()
    first = first_tab.run("x = 1; x")
    waits(first, job_id)
    second_tab = lab.open_again(first_tab)
    second = second_tab.run("x += 1; x")
    waits(second, job_id)
    second_tab.screenshot("second-tab")
    start_now(job_id)
    ran(first, 1, "1")
    ran(second, 2, "2")
    assert the_job() == job_id


def test_a_cell_that_was_held_asks_for_input(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(**QUEUED))
    cell = notebook.run("print(input('how many? ') * 2)")
    waits(cell, the_job())
    start_now(the_job())
    cell.answer("21")
    expect(cell.prompt).to_have_text("[1]:")
    expect(cell.outputs.last).to_have_text("2121")


def test_a_widget_of_a_cell_that_was_held(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(**QUEUED))
    cell = notebook.run(
        "import ipywidgets; button = ipywidgets.Button(description='press')\n"
        "button.on_click(lambda _: setattr(button, 'description', 'pressed')); button"
    )
    waits(cell, the_job())
    start_now(the_job())
    button = cell.outputs.get_by_role("button")
    button.click()
    expect(button).to_have_text("pressed")
    notebook.screenshot("pressed")


def test_a_job_cancelled_while_it_waits(lab, kernelspec):
    notebook = lab.open_notebook(kernelspec(**QUEUED))
    job_id = the_job()
    cell = notebook.run("6 * 7")
    waits(cell, job_id)
    slurm("scancel", job_id)
    expect(cell.errors).to_contain_text("it was cancelled")
    expect(cell.prompt).to_have_text("[ ]:")
    notebook.screenshot("cancelled")
    assert queue() == [], "a new job is the user's choice"
    notebook.restart()
    start_now(the_job("PENDING"))
    ran(notebook.run("6 * 7"), 1, "42")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"prologue": ["echo preparing", "cat /no/such/file"]}, "/no/such/file"),
        ({"argv": ["/opt/nothing/kernel", "{connection_file}"]}, "/opt/nothing/kernel"),
    ],
    ids=["environment", "kernel"],
)
def test_a_kernel_that_cannot_be_started(lab, kernelspec, config, told):
    """The job was accepted, so that there was no dialog: the cell says what is wrong."""
    notebook = lab.open_notebook(kernelspec(**config))
    cell = notebook.run("6 * 7")
    expect(cell.errors).to_contain_text(told)
    expect(cell.prompt).to_have_text("[ ]:")
    notebook.screenshot("not-started")
    queue_empties()
