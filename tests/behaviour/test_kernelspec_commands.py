"""`jupyter slurm add`, `render` and `doctor`: from nothing to a kernel in a job, and what is told when that fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from conftest import ARGV, QUEUED, VIA, queue, slurm
from kernels import RESOURCES

COMMAND = [sys.executable, "-c", "from slurm_provisioner.cli.main import run; run()"]
IDS = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}|jupyter-[0-9a-f]{8}-[0-9a-f]{6}")


@pytest.fixture
def command(kernelspec, login, jupyter_home):
    """Run `jupyter slurm` where python3 is a kernelspec; return what it prints, and tells of."""
    kernelspec("python3", argv=ARGV, stanza=False)

    def run(*words: str, code: int = 0, **environ: str) -> tuple[str, str]:
        environ = {**os.environ, **environ}
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, timeout=200, env=environ)
        assert done.returncode == code, done
        return done.stdout, done.stderr

    return run


@pytest.fixture
def place(login) -> list[str]:
    """Options that say where the cluster is."""
    return [f"--set=ssh={json.dumps(login.stanza(VIA)['ssh'])}"] if login else []


#: What a kernelspec is made from: a laptop's own Python is not the cluster's.
SOURCE = "python3" if VIA == "local" else sys.executable
RESOURCE_OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in RESOURCES.items()]


def checked(command: Any, *words: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """What the doctor finds, by check."""
    return {each["check"]: each for each in json.loads(command("doctor", "--json", *words, code=code)[0])}


def test_from_nothing_to_a_kernel_in_a_job(command, place, start):
    out, _ = command("add", SOURCE, "--name", "new", *RESOURCE_OPTIONS, *place)
    assert "jupyter slurm doctor new" in out
    found = checked(command, "new")
    assert {each["verdict"] for each in found.values()} == {"ok"}, found
    assert re.fullmatch(r"ipython \S+, python \S+", found["kernel"]["words"])
    assert queue() == []
    kernel = start("new")
    assert kernel.run("6 * 7") == "42"


def test_the_script_that_is_shown_is_the_one_that_is_submitted(command, place, start):
    options = ["--env", "A=hush-hush", "--prologue=true", *RESOURCE_OPTIONS, *place]
    command("add", sys.executable, "--name", "new", *options)  # a prologue may bring another `python` along
    shown, _ = command("render", "new")
    job_id = start("new").job_id
    submitted = slurm("scontrol", "write", "batch_script", job_id, "-")
    assert IDS.sub("", submitted).strip("\n") == IDS.sub("", shown).strip("\n")
    assert "hush" not in shown


def test_what_the_cluster_does_not_have_makes_no_kernelspec(command, place, jupyter_home):
    _, err = command("add", "python3", "--name", "new", "--partition", "debugg", *place, code=3)
    assert "did you mean `debug`?" in err
    assert not (jupyter_home / "kernels" / "new").exists()
    _, err = command("add", "/nowhere/at/all", "--name", "new", *place, code=2)
    assert "is not there" in err
    _, err = command("add", "--name", "new", "--ssh", "nowhere.invalid")
    assert "warning: what it asks for was not checked" in err
    assert "nowhere.invalid" in err
    assert (jupyter_home / "kernels" / "new").exists()


def test_an_environment_on_the_cluster_is_seen_for_what_it_is(command, place, jupyter_home, tmp_path):
    (tmp_path / "conda env" / "conda-meta").mkdir(parents=True)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    (tmp_path / "image.sif").touch()
    program = tmp_path / "venv" / "bin" / "python"
    program.touch(mode=0o755)
    for path, field in {"conda env": "conda_env", "venv": "venv", "image.sif": "container"}.items():
        command("add", str(tmp_path / path), "--name", "new", "--replace", *place)
        spec = json.loads((jupyter_home / "kernels" / "new" / "kernel.json").read_text())
        config = spec["metadata"]["kernel_provisioner"]["config"]
        where = str(tmp_path / path)
        assert config[field] == ({"image": where} if field == "container" else where)
        assert spec["argv"][0] == "python"
    command("add", str(program), "--name", "new", "--replace", *place)
    assert json.loads((jupyter_home / "kernels" / "new" / "kernel.json").read_text())["argv"][0] == str(program)
    command("add", str(tmp_path), "--name", "other", *place, code=2)


@pytest.mark.parametrize(
    ("config", "check", "told"),
    [
        ({"partition": "nowhere"}, "request", "there is no partition nowhere"),
        ({"slurm_bin": "/nowhere"}, "commands", "There is no sbatch"),
        ({"state_dir": "/proc/nowhere"}, "state_dir", "cannot be written"),
        ({"python": "/usr/bin/python9"}, "node", "the supervisor's Python was not found"),
        ({"prologue": "exit 3"}, "node", "ended before its kernel was up"),
        ({"interface": "none9"}, "node", "could not listen"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_the_doctor_says_which_step_fails_and_what_to_do(command, kernelspec, config, check, told):
    kernelspec("ill", **config)
    found = checked(command, "ill", code=1)
    assert found[check]["verdict"] == "failed"
    assert told in found[check]["words"]
    assert found[check]["hint"]
    assert "kernel" not in found
    assert queue() == []


@pytest.mark.timeout(480)  # it runs twice
def test_the_doctor_finds_a_kernel_that_cannot_be_started(command, kernelspec):
    kernelspec("ill", argv=[sys.executable, "-m", "no_such_kernel", "-f", "{connection_file}"])
    found = checked(command, "ill", code=1)
    assert found["connection"]["verdict"] == "ok"
    assert "has no module no_such_kernel" in found["kernel"]["words"]
    out, _ = command("doctor", "ill", code=1)
    assert "✗ kernel" in out
    assert "1 failed." in out
    assert queue() == []


def test_the_doctor_does_not_wait_for_ever(command, kernelspec):
    kernelspec("later", **QUEUED)
    found = checked(command, "later", "--wait", "10s")
    assert found["queue"]["verdict"] == "warning"
    assert "its begin time has not come yet" in found["queue"]["words"]
    assert "kernel" not in found
    assert queue() == []


def test_the_doctor_submits_nothing_where_that_is_not_wanted(command, kernelspec):
    kernelspec("new")
    jobs = ["squeue", "--me", "--states=all", "--noheader", "--format=%A"]
    before = {*slurm(*jobs).split()}
    assert checked(command, "new", "--no-job")["job"]["verdict"] == "skipped"
    assert {*slurm(*jobs).split()} <= before, "the controller forgets old ones"
