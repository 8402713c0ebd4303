"""What a kernelspec asks for is what the job gets."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import control, slurm
from kernels import eventually
from stand_ins import container


def test_gpus(start, kernelspec):
    kernel = start(kernelspec(partition="gpu", gpus=1, cpus_per_task=2))
    assert "gres/gpu=1" in control(kernel.job_id)
    assert kernel.run("import os; len(os.environ['CUDA_VISIBLE_DEVICES'].split(','))") == "1"


def test_any_other_option_of_sbatch(start, kernelspec):
    kernel = start(kernelspec(sbatch={"comment": 'it\'s "mine" # $x', "nice": 7}))
    assert "Nice=7" in control(kernel.job_id)
    assert 'Comment=it\'s "mine" # $x ' in control(kernel.job_id)


def test_the_kernelspecs_word_beats_the_servers_environment(start, kernelspec, monkeypatch):
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SBATCH_JOB_NAME", "wrong")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    kernel = start(kernelspec(job_name="right"))
    assert "TimeLimit=00:10:00" in control(kernel.job_id)
    assert "JobName=right-" in control(kernel.job_id)
    assert kernel.run("import os; [name for name in os.environ if name.startswith('SBATCH_')]") == "[]"


def test_a_cluster_by_its_name(start, kernelspec):
    name = slurm("scontrol", "show", "config").partition("ClusterName")[2].split("\n")[0].strip(" =")
    kernel = start(kernelspec(clusters=name))
    assert kernel.run("6 * 7") == "42"
    kernel.restart()
    assert kernel.run("6 * 7") == "42"


def test_a_log_of_ones_own(start, kernelspec, tmp_path):
    name = kernelspec(log=f"{tmp_path}/logs/kernel %j.log")
    kernel = start(name)
    kernel.run("import os; os.write(1, b'to the log')")
    log = tmp_path / "logs" / f"kernel {kernel.job_id}.log"
    eventually(lambda: "to the log" in log.read_text(), "what a thread of ipykernel's passes on to it")


def test_the_environment_in_its_order(start, kernelspec):
    name = kernelspec(
        argv=["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        venv=sys.prefix,
        prologue=["export STEP='set by the prologue'", "module() { :; }"],
        login_shell=False,
    )
    kernel = start(name)
    assert kernel.run("import os, sys; print(sys.prefix, os.environ['STEP'])") == f"{sys.prefix} set by the prologue"


def test_modules(start, kernelspec):
    """Environment Modules' interface: a shell function that changes the shell's variables."""
    profile = Path.home() / ".bash_profile"
    profile.write_text("module() { [ \"$1 $2\" = 'load tool/1.0' ] && export TOOL_HOME=/opt/tool; }\n")
    try:
        kernel = start(kernelspec(modules=["tool/1.0"]))
        assert kernel.run("import os; print(os.environ['TOOL_HOME'])") == "/opt/tool"
    finally:
        profile.unlink()


def test_a_container(start, kernelspec, tmp_path):
    kernel = start(kernelspec(**container(tmp_path)))
    inside, binds = kernel.run("import os; print(os.environ['INSIDE'], os.environ['BINDS'], sep=chr(10))").split("\n")
    assert inside == "/images/python.sif"
    assert binds.endswith(" /data")
    assert re.search(r"/slurm-[0-9a-f]{10} ", binds)
    interrupt_and_restart(kernel)


def test_a_job_step(start, kernelspec):
    kernel = start(kernelspec(srun=True, cpus_per_task=2))
    assert kernel.run("import os; os.environ['SLURM_STEP_ID']") == "'0'"
    own_step = "subprocess.run(['srun', '--overlap', '-n1', 'echo', 'a step'], capture_output=True, text=True).stdout"
    assert kernel.run(f"import subprocess; print({own_step})") == "a step"
    interrupt_and_restart(kernel)


def interrupt_and_restart(kernel):
    assert kernel.interrupt("print('begun', flush=True)\nwhile True: pass")["ename"] == "KeyboardInterrupt"
    kernel.restart()
    assert kernel.run("1 + 1") == "2"


@pytest.mark.one_machine
@pytest.mark.parametrize("where", [{"address": "127.0.0.1"}, {"interface": "lo"}], ids=["address", "interface"])
def test_the_network_may_be_chosen(start, kernelspec, where):
    assert start(kernelspec(**where)).run("1 + 1") == "2"


def test_a_port_range(start, kernelspec):
    kernel = start(kernelspec(port_range="42000-42099"))
    assert 42000 <= kernel.manager.provisioner._job._link._target.port <= 42099


def test_a_kernel_without_ipc(start, kernelspec):
    kernel = start(kernelspec(kernel_transport="tcp"))
    assert kernel.run("1 + 1") == "2"
    kernel.restart()
    assert kernel.run("2 + 2") == "4"


def test_a_folder_of_slurms_commands(start, kernelspec, monkeypatch):
    name = kernelspec(slurm_bin="/usr/bin")
    monkeypatch.setenv("PATH", "/bin")
    assert start(name).run("1 + 1") == "2"


def test_a_work_dir(start, kernelspec):
    folder = Path.home() / "a work dir"
    folder.mkdir(exist_ok=True)
    assert start(kernelspec(work_dir="~/a work dir")).run("import os; print(os.getcwd())") == str(folder)
    folder.rmdir()


def test_a_working_directory_that_the_node_does_not_have(start):
    assert start(cwd="/no/such/folder").run("import os; print(os.getcwd())") == str(Path.home())


def test_what_identifies_a_kernel_fits_in_json(start):
    kernel = start()
    info = json.loads(json.dumps(asyncio.run(kernel.manager.provisioner.get_provisioner_info())))
    assert info["job_id"] == kernel.job_id
    assert info["connection_info"]["key"] == kernel.manager.session.key.decode()


def test_jupyter_lists_the_provisioner():
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "kernelspec", "provisioners"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "slurm-provisioner" in done.stdout
    assert "slurm_provisioner.provisioner:SlurmProvisioner" in done.stdout
