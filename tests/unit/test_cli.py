"""`jupyter slurm` where no cluster is asked: kernelspecs are made, named, changed, removed; what is wrong is told."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from click import Context
from click.testing import CliRunner

from slurm_provisioner import checkup
from slurm_provisioner.cli import checks, kernelspecs, naming, trial
from slurm_provisioner.cli.add import add as command
from slurm_provisioner.cli.main import call
from slurm_provisioner.cli.picker import pick
from slurm_provisioner.config import KernelConfig
from slurm_provisioner.offers import Association, Offers, Partition

PYTHON = "/opt/jupyter/bin/python3"


@pytest.fixture(autouse=True)
def jupyter(tmp_path, monkeypatch):
    """One kernelspec, python3, with a logo; nothing else of this machine is seen."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    monkeypatch.setattr("jupyter_client.kernelspec.jupyter_path", lambda *parts: [str(Path(tmp_path, "data", *parts))])
    folder = tmp_path / "data" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "logo-64x64.png").write_bytes(b"a picture")
    argv = [PYTHON, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3 (ipykernel)", "language": "python", "metadata": {"debugger": True}}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return tmp_path / "data" / "kernels"


def add(*words: str, code: int = 0) -> None:
    assert call(["add", "--no-check", *words]) == code


def spec_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "kernel.json").read_text())


def config_of(folder: Path) -> dict[str, object]:
    stanza = spec_of(folder)["metadata"]["kernel_provisioner"]
    assert stanza["provisioner_name"] == "slurm-provisioner"
    return stanza["config"]


# Making one


def test_a_kernelspec_is_made_of_another_with_its_logos_and_a_telling_name(jupyter, capsys):
    add("python3", "--partition", "gpu", "--gpus", "1", "--time", "4h", "--mem", "32G")
    made = jupyter / "python3-gpu-1gpu"
    assert (made / "logo-64x64.png").read_bytes() == b"a picture"
    spec = spec_of(made)
    assert spec["display_name"] == "Python 3 · gpu · 32 GB · 1 GPU · 4 h"
    assert spec["argv"][0] == PYTHON, "this machine's own Python is there on nodes that share its file systems"
    assert spec["metadata"]["debugger"] is True
    assert config_of(made) == {"partition": "gpu", "gpus": 1, "time": "4h", "mem": "32G"}
    assert "jupyter slurm doctor python3-gpu-1gpu" in capsys.readouterr().out


def test_options_of_every_shape_become_fields(jupyter):
    words = "--cpus-per-task 2 --exclusive --no-login-shell --modules gcc/12 --modules cuda --env A=1=2 --env B= "
    words += "--sbatch mail-type=END --sbatch contiguous --prologue true --container /x.sif --container-binds /data "
    words += "--container-args=--nv --ssh hpc --ssh-port 2222 --start block"
    add("--name", "all", "--set", 'srun=["--cpu-bind=none"]', "--set", "job_name=jup", *words.split())
    assert config_of(jupyter / "all") == {
        "cpus_per_task": 2,
        "exclusive": True,
        "login_shell": False,
        "modules": ["gcc/12", "cuda"],
        "env": {"A": "1=2", "B": ""},
        "sbatch": {"mail-type": "END", "contiguous": True},
        "prologue": ["true"],
        "container": {"image": "/x.sif", "binds": ["/data"], "args": ["--nv"]},
        "ssh": {"host": "hpc", "port": 2222},
        "start": "block",
        "srun": ["--cpu-bind=none"],
        "job_name": "jup",
    }


def test_every_field_has_an_option():
    options = {option for param in command.params for option in param.opts}
    assert {f"--{name.replace('_', '-')}" for name in KernelConfig.model_fields} <= options
    text = command.get_help(Context(command))
    for section in ("Resources", "Environment", "Run", "Policy", "Place"):
        assert f"\n{section}:\n" in text


def test_an_option_of_a_mapping_is_laid_over_what_is_there(jupyter):
    add("docker://python:3.12", "--container-args=--nv", "--env", "A=1", "--lease", "3600", "--warn-before-end", "0")
    made = jupyter / "python-3.12-slurm"
    image = {"image": "docker://python:3.12", "args": ["--nv"]}
    assert config_of(made) == {"container": image, "env": {"A": "1"}, "lease": 3600, "warn_before_end": 0}
    add("python3", "--name", "far", "--set", "ssh=hpc")
    assert call(["edit", "--no-check", "far", "--ssh-port", "22", "--env", "B=2"]) == 0
    assert config_of(jupyter / "far") == {"ssh": {"host": "hpc", "port": 22}, "env": {"B": "2"}}


def test_this_machines_python_is_not_taken_along_to_another_environment(jupyter, capsys):
    add("python3", "--name", "conda", "--conda-env", "torch")
    assert spec_of(jupyter / "conda")["argv"][0] == "python"
    assert f"not {PYTHON}" in capsys.readouterr().out


def test_an_image_is_an_environment_that_nobody_has_to_be_asked_about(jupyter):
    add("docker://python:3.12", "--name", "image")
    assert config_of(jupyter / "image") == {"container": {"image": "docker://python:3.12"}}
    assert spec_of(jupyter / "image")["argv"][0] == "python"


def test_a_kernelspec_that_is_there_is_replaced_only_when_told(jupyter, capsys):
    add("--name", "one", "--time", "1h")
    add("--name", "one", "--time", "2h", code=2)
    assert "--replace" in capsys.readouterr().err
    add("--name", "one", "--time", "2h", "--replace")
    assert config_of(jupyter / "one") == {"time": "2h"}


def test_it_is_installed_where_a_prefix_says(tmp_path):
    add("--name", "site", "--prefix", str(tmp_path / "usr"), "--time", "1h")
    assert config_of(tmp_path / "usr" / "share" / "jupyter" / "kernels" / "site") == {"time": "1h"}
    add("--name", "site", "--prefix", str(tmp_path), "--user", code=2)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["python4"], 1, "did you mean `python3`?"),
        (["--time", "soon"], 2, "`time`"),
        (["--set", "parttion=gpu"], 2, "did you mean `partition`?"),
        (["--env", "A"], 2, "is not NAME=VALUE"),
        (["--name", "a b"], 2, "no name of a kernelspec"),
        (["--start", "later"], 2, "'now', 'block'"),
    ],
)
def test_what_cannot_be_is_told_in_words_and_by_the_exit_code(jupyter, capsys, words, code, told):
    add("--name", "wrong", *words, code=code) if "--name" not in words else add(*words, code=code)
    assert told in capsys.readouterr().err
    assert [path.name for path in jupyter.iterdir()] == ["python3"]


def test_the_sites_limits_hold(tmp_path, capsys):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.py").write_text('c.SlurmProvisioner.limits = {"gpus": 2}')
    add("--gpus", "3", code=2)
    assert "the site's limit is 2" in capsys.readouterr().err


# Asking for the rest

OFFERS = Offers(
    partitions=(
        Partition("debug", is_default=True, state="UP", max_time=3600.0, node_count=2, cpus=8, memory=16384, gpus={}),
        Partition("gpu", state="UP", max_time=math.inf, node_count=1, cpus=64, memory=60000, gpus={"a100": 4}),
        Partition("gone", state="DOWN"),
        Partition("secret", state="UP", hidden=True),
    ),
    associations=(Association("physics"), Association("maths", is_default=True)),
)


def picked(*answers: str, offers: Offers = OFFERS) -> tuple[dict[str, object], str]:
    """What people get who answer so, and what they are shown."""
    with CliRunner().isolation(input="".join(f"{answer}\n" for answer in answers)) as (_, err, *_rest):
        return pick(offers), err.getvalue().decode()


def test_people_are_asked_for_what_the_cluster_has():
    config, shown = picked("gpu", "physics", "a100:1", "4", "16G", "4h")
    expected = {"partition": "gpu", "account": "physics", "gpus": "a100:1", "cpus_per_task": "4"}
    assert config == {**expected, "mem": "16G", "time": "4h"}
    assert re.search(r"debug \(default\) +1h +2 +8 +16 GB", shown)
    assert re.search(r"gpu +no limit +1 +64 +58 GB +4 a100", shown)
    assert "gone" not in shown
    assert "secret" not in shown


def test_who_answers_nothing_leaves_it_to_slurm():
    config, shown = picked("", "", "", "", "")
    assert config == {"partition": "debug", "account": "maths"}
    assert "GPUs, such as" not in shown, "debug has none"
    assert "at most 1h" in shown


def test_an_answer_that_cannot_be_is_asked_for_again():
    config, shown = picked("gpus", "gpu", "", "1x", "2", "", "", "soon", "90")
    assert config == {"partition": "gpu", "account": "maths", "gpus": "2", "time": "90"}
    assert "'gpus' is not one of" in shown
    assert "is not a number of GPUs" in shown
    assert "is not a time" in shown


def test_where_the_cluster_tells_nothing_only_the_rest_is_asked_for():
    assert picked("", "", "1h", offers=Offers())[0] == {"time": "1h"}


# Changing and removing one


def test_a_change_gives_it_a_new_display_name_unless_somebody_chose_it(jupyter):
    add("--name", "one", "--time", "1h")
    assert call(["edit", "--no-check", "one", "--time", "2h", "--gpus", "2"]) == 0
    assert spec_of(jupyter / "one")["display_name"] == "Python 3 · 2 GPUs · 2 h"
    assert call(["edit", "--no-check", "one", "--display-name", "Mine", "--unset", "gpus"]) == 0
    assert call(["edit", "--no-check", "one", "--time", "3h"]) == 0
    assert spec_of(jupyter / "one")["display_name"] == "Mine"
    assert config_of(jupyter / "one") == {"time": "3h"}
    assert (jupyter / "one" / "logo-64x64.png").exists()
    assert sorted(path.name for path in (jupyter / "one").iterdir()) == ["kernel.json", "logo-64x64.png"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["edit", "python3", "--time", "1h"], 1),
        (["edit", "none", "--time", "1h"], 1),
        (["edit", "one", "--time", "soon"], 2),
        (["edit", "one", "--unset", "gpus"], 2),
        (["edit", "one"], 2),
        (["remove", "-y", "one", "python3"], 1),
        (["render", "python3"], 1),
    ],
    ids=str,
)
def test_what_is_not_ours_or_wrong_is_left_as_it_is(jupyter, words, code):
    add("--name", "one", "--time", "1h")
    before = {path: path.read_bytes() for path in jupyter.rglob("*.json")}
    assert call(words) == code
    assert {path: path.read_bytes() for path in jupyter.rglob("*.json")} == before


def test_it_is_removed(jupyter):
    add("--name", "one")
    assert call(["remove", "-y", "one"]) == 0
    assert [path.name for path in jupyter.iterdir()] == ["python3"]
    assert kernelspecs.names(only_ours=True) == {}


def test_where_the_site_runs_all_kernels_in_jobs_the_others_are_shown_too(tmp_path, capsys):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.py").write_text(
        'c.KernelProvisionerFactory.default_provisioner_name = "slurm-provisioner"\n'
        'c.SlurmProvisioner.defaults = {"time": "2h"}\n'
    )
    assert call(["render", "--brief", "python3"]) == 0
    assert "#SBATCH --time=02:00:00" in capsys.readouterr().out
    assert call(["remove", "-y", "python3"]) == 1


def test_the_script_is_shown_as_it_would_be_submitted(capsys):
    add("--name", "one", "--time", "2h", "--modules", "gcc/12", "--env", "TOKEN=hush-hush")
    capsys.readouterr()
    assert call(["render", "one"]) == 0
    whole = capsys.readouterr().out
    assert "#SBATCH --time=02:00:00" in whole
    assert "module load gcc/12" in whole
    assert "hush" not in whole
    assert call(["render", "--brief", "one"]) == 0
    brief = capsys.readouterr().out
    assert len(brief.splitlines()) < 60
    assert brief.splitlines()[:10] == whole.splitlines()[:10]


# Names


@pytest.mark.parametrize(
    ("base", "config", "expected"),
    [
        ("Python 3 (ipykernel)", {"partition": "gpu", "gpus": 1, "time": "4h"}, "Python 3 · gpu · 1 GPU · 4 h"),
        ("R", {"nodes": 2, "cpus_per_task": 8, "mem": "1500M"}, "R · 2 nodes · 8 CPUs · 1500 MB"),
        ("Python 3", {"gpus": "a100:2", "time": "1-12:30:00"}, "Python 3 · 2 A100 · 1 d 12 h 30 min"),
        ("Python 3", {"container": "/images/torch.sif", "time": "UNLIMITED"}, "Python 3 · torch · no limit"),
        ("Python", {"venv": "~/envs/ml/", "ssh": "hpc"}, "Python · hpc · ml"),
        ("Python 3 · gpu · 4 h", {"partition": "cpu"}, "Python 3 · cpu"),
        ("Julia 1.10", {}, "Julia 1.10"),
    ],
)
def test_a_display_name_says_what_is_asked_for(base, config, expected):
    assert naming.display_name(base, KernelConfig(**config)) == expected


@pytest.mark.parametrize(
    ("base", "config", "expected"),
    [
        ("python3", {}, "python3-slurm"),
        ("", {"partition": "gpu", "gpus": "a100:2"}, "python-gpu-2gpu"),
        ("ir", {"ssh": "me.example.org"}, "ir-me.example.org"),
        ("python3", {"partition": "a,b"}, "python3-a-b"),
    ],
)
def test_a_name_can_be_typed(base, config, expected):
    assert naming.kernel_name(base, KernelConfig(**config)) == expected


# What a cluster says in a check-up


def test_programs_are_told_with_banners_around_them():
    said = "Welcome!\nprogram sbatch /opt/slurm bin/sbatch\nversion 24.05.1\nprogram squeue \nprogram ls /bin/ls\n"
    found = checkup.parse_programs(said)
    assert (found.version, found.paths["sbatch"]) == ("24.05.1", "/opt/slurm bin/sbatch")
    assert found.missing == ["squeue", "scancel", "scontrol", "sacct"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("hello\nfolder /home/a b\nfree 1024\ntype nfs\n", checkup.Folder("/home/a b", 1024, "nfs")),
        ("folder /x\nfree lots\ntype UNKNOWN\n", checkup.Folder("/x", None, "")),
        ("free 1024\n", None),
        ("", None),
    ],
)
def test_a_folder_can_be_written_only_if_that_is_said(said, expected):
    assert checkup.parse_folder(said) == expected


def test_a_forecast_names_no_job_that_will_never_be():
    said = "banner\nsbatch: Job 9 to start at 2026-01-02T03:04:05 using 1 processors on nodes c1 in partition debug\n"
    assert checkup.forecast(said) == (
        "would start at 2026-01-02T03:04:05 using 1 processors on nodes c1 in partition debug"
    )
    assert checkup.forecast("sbatch: Job 9 to start at 1767323045").startswith("would start at 2026-01-02 ")
    assert checkup.forecast("Submitted batch job 9") == ""


def test_controllers_that_are_up():
    said = "Slurmctld(primary) at m1 is DOWN\nSlurmctld(backup1) at m2 is UP\n*****\n"
    assert checkup.controller_up(said) == ["m2"]


def test_a_clock_that_is_wrong_is_told():
    clock = trial._Clock()
    assert trial._clocks("c1", -0.3, clock).verdict == checks.OK
    late = trial._clocks("c1", -60.4, clock)
    assert (late.verdict, late.words) == (checks.WARNING, "that of c1 is 60 s behind this host's")
    assert "7200 s ahead of" in trial._clocks("c1", 7200, clock).words


def test_help_and_completion_name_every_command(capsys):
    assert call(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ["add", "edit", "remove", "doctor", "list", "info", "logs", "stop", "clean", "render", "completion"]:
        assert f"\n  {name} " in text
        assert call([name, "--help"]) == 0
        capsys.readouterr()
    for shell in ("bash", "zsh", "fish"):
        assert call(["completion", shell]) == 0
        assert "_JUPYTER_SLURM_COMPLETE" in capsys.readouterr().out
