"""What is said of kernels, and how they are called."""

from __future__ import annotations

import io
import math
from datetime import datetime

import pytest
from rich.console import Console

from slurm_provisioner.about import About
from slurm_provisioner.books import Entry, Job, Kernel
from slurm_provisioner.cli import jobs
from slurm_provisioner.cli.finding import Found, NotFoundError, choose
from slurm_provisioner.cli.places import Where
from slurm_provisioner.cli.words import as_document, gpus, hint_of, resources, state_of
from slurm_provisioner.cluster import Place

NOW = datetime(2026, 11, 22, 12).timestamp()
HERE = Where(Place(), ("~/.slurm_provisioner",))


def kernel(job_id: str = "7", state: str = "RUNNING", *, step: str = "", listening: bool = True, **job) -> Kernel:
    about = About(
        f"abcd{job_id}-0000", f"jupyter-{job_id}", "gpu", notebook=job.pop("notebook", "work/a.ipynb"), lease=1
    )
    return Kernel(Entry("/r", about, listening, step), Job(job_id, about.job_name, state, **job) if state else None)


def test_gpus_are_told_by_type_where_there_is_one():
    assert gpus({"gres/gpu": "3", "gres/gpu:a100": "2", "gres/gpu:v100": "1"}) == {"a100": 2, "v100": 1}
    assert gpus({"gres/gpu": "1", "mem": "1G", "gres/gpumem": "5"}) == {"": 1}
    job = Job("1", "a", "RUNNING", cpus=2, node_count=2, tres={"mem": "4G", "gres/gpu": "1", "gres/gpu:a100": "1"})
    assert resources(job) == "2 nodes, 2 CPUs, 4G, 1 a100"
    assert resources(Job("1", "a", "PENDING")) == ""


def test_states_are_told_in_words():
    assert state_of(kernel(), NOW) == "running"
    assert state_of(kernel(listening=False, step="loading modules gcc"), NOW) == "starting: loading modules gcc"
    waits = kernel(state="PENDING", reason="Resources", start=NOW + 7500)
    assert state_of(waits, NOW) == "queued: waiting for free resources, starts about 14:05"
    assert state_of(kernel(state="SUSPENDED"), NOW).startswith("suspended by Slurm")
    assert state_of(kernel(state="TIMEOUT", end=NOW - 60), NOW).startswith("ended 11:59: ")
    assert state_of(kernel(state="NEW_IN_SLURM_99"), NOW) == "Slurm says NEW_IN_SLURM_99"
    assert "unknown" in state_of(kernel(state=""), NOW)
    held = kernel(state="PENDING", reason="JobHeldUser")
    assert "`scontrol release 7`" in hint_of(held)
    assert hint_of(kernel()) == ""


def test_programs_get_times_with_a_zone_and_null_for_what_is_not_known():
    told = as_document(kernel(start=NOW, time_left=math.inf), "hpc", NOW)
    assert datetime.fromisoformat(told["start_time"]).timestamp() == NOW
    assert datetime.fromisoformat(told["start_time"]).tzinfo is not None
    assert (told["cluster"], told["end_time"], told["time_left_seconds"], told["phase"]) == (
        "hpc",
        None,
        None,
        "running",
    )
    unknown = as_document(kernel(state=""), "local", NOW)
    assert unknown.keys() == told.keys()
    assert (unknown["job_id"], unknown["state"], unknown["phase"]) == (None, None, "unknown")


def test_a_kernel_is_named_by_job_id_and_notebook():
    found = [Found(HERE, kernel("7")), Found(HERE, kernel("8", notebook="/home/a/b.ipynb"))]
    for word in ("8", "abcd8-0000", "abcd8", "jupyter-8", "/home/a/b.ipynb", "b.ipynb", "b"):
        assert choose(found, word) is found[1]
    for word in ("", "abc", "abcd9", "c.ipynb"):
        with pytest.raises(NotFoundError, match="There is no kernel"):
            choose(found, word)


def test_a_narrow_table_folds_names_of_notebooks_and_cuts_off_no_number():
    about = About("k", "jupyter-1", notebook="a very long name of a notebook.ipynb")
    seen = Found(HERE, Kernel(Entry("/r/k", about, True), Job("1234567", "jupyter-1", "RUNNING")))
    out = Console(width=30, file=io.StringIO())
    out.print(jobs._table([seen], 30, [HERE]))
    text = out.file.getvalue()
    assert "1234567 " in text
    assert "running" in text


def test_of_several_kernels_the_one_that_lives_is_meant():
    found = [Found(HERE, kernel("7", "FAILED")), Found(HERE, kernel("8")), Found(HERE, kernel("9", "TIMEOUT"))]
    assert choose(found, "a") is found[1]
    with pytest.raises(NotFoundError, match="more than one"):
        choose([*found, Found(HERE, kernel("10"))], "a")
    with pytest.raises(NotFoundError) as caught:
        choose(found, "4711", complete=False)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("tres", "words", "count"),
    [
        ({"gres/gpu": "2"}, "2 GPUs", 2),
        ({"gres/gpu": "2", "gres/gpu:a100": "2"}, "2 a100", 2),
        ({"gres/gpu": "4", "gres/gpu:a100": "1"}, "1 a100, 3 GPUs", 4),
    ],
)
def test_gpus_of_which_only_some_have_a_type_are_all_counted(tres, words, count):
    job = Job("7", "jupyter-1", "RUNNING", tres=tres)
    assert resources(job) == words
    assert as_document(Kernel(Entry("/r", About("k", "jupyter-1")), job), "local", NOW)["gpus"] == count
