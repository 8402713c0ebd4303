"""`jupyter slurm` where somebody else wrote what it reads, or where it is interrupted."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from slurm_provisioner.about import About, Server
from slurm_provisioner.books import Entry, Job, Kernel
from slurm_provisioner.cli import clean, doctor, finding, kernelspecs, places, show
from slurm_provisioner.cli import trial as trial_module
from slurm_provisioner.cli.checks import Finding
from slurm_provisioner.cli.finding import Found
from slurm_provisioner.cli.kernelspecs import Kernelspec
from slurm_provisioner.cli.main import call
from slurm_provisioner.cli.places import Where
from slurm_provisioner.cli.trial import trial
from slurm_provisioner.cluster import Place
from slurm_provisioner.errors import CommandError

OURS = {"provisioner_name": "slurm-provisioner"}
ARGV = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where kernelspecs are, of which there are none; nothing of this machine is seen."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setattr("jupyter_client.kernelspec.jupyter_path", lambda *parts: [str(Path(tmp_path, "data", *parts))])
    return tmp_path / "data" / "kernels"


def kernelspec(folder: Path, name: str = "odd", **more: object) -> Path:
    return written(folder, json.dumps({"argv": ARGV, "display_name": "Odd", "language": "python", **more}), name)


def written(folder: Path, text: str, name: str = "odd") -> Path:
    path = folder / name / "kernel.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def stanza_of(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())["metadata"]["kernel_provisioner"]


# Kernelspecs


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '"x"', '{"metadata": null}', '{"argv": 7}', '{"display_name": null}', "\x00"],
    ids=["empty", "half", "a list", "a text", "no metadata", "no argv", "no name", "no text"],
)
def test_what_is_no_kernelspec_is_named_and_in_nobodys_way(folder, capsys, text):
    path = written(folder, text)
    assert kernelspecs.names(only_ours=True) == {}
    for words in (["add", "odd", "--no-check"], ["doctor", "odd"], ["render", "odd"]):
        assert call(words) == 2
        assert f"{path} is no kernelspec: " in capsys.readouterr().err


@pytest.mark.parametrize("metadata", [{"kernel_provisioner": "x"}, {"kernel_provisioner": None}, {}])
def test_a_stanza_that_is_none_is_nobodys(folder, metadata):
    kernelspec(folder, metadata=metadata)
    assert kernelspecs.names(only_ours=True) == {}
    assert call(["add", "odd", "--no-check", "--mem", "1G", "--name", "made"]) == 0
    assert stanza_of(folder / "made" / "kernel.json") == {**OURS, "config": {"mem": "1G"}}


def test_a_config_of_null_asks_for_nothing(folder):
    path = kernelspec(folder, metadata={"kernel_provisioner": {**OURS, "config": None}})
    assert call(["edit", "odd", "--no-check", "--mem", "1G"]) == 0
    assert stanza_of(path)["config"] == {"mem": "1G"}


def test_a_config_that_is_no_mapping_is_told_and_keeps_no_other_from_being_listed(folder, capsys):
    kernelspec(folder, metadata={"kernel_provisioner": {**OURS, "config": ["mem"]}})
    kernelspec(folder, "far", metadata={"kernel_provisioner": {**OURS, "config": {"ssh": "hpc"}}})
    assert call(["edit", "odd", "--no-check", "--mem", "1G"]) == 2
    assert "no mapping" in capsys.readouterr().err
    assert [where.name for where in places.wheres(ssh="hpc")] == ["hpc"]
    assert "passed over: The `config` of the kernelspec odd" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["local-provisioner", "a-strangers"])
def test_a_kernelspec_of_another_provisioner_becomes_ours_without_its_config(folder, name):
    kernelspec(folder, metadata={"kernel_provisioner": {"provisioner_name": name, "config": {"theirs": 1}}})
    assert call(["add", "odd", "--no-check", "--mem", "1G", "--name", "made"]) == 0
    assert stanza_of(folder / "made" / "kernel.json") == {**OURS, "config": {"mem": "1G"}}


def test_a_change_keeps_what_it_does_not_know(folder):
    path = kernelspec(folder, metadata={"kernel_provisioner": {**OURS, "config": {"gpus": None}}}, sites_own=1)
    assert call(["edit", "odd", "--no-check", "--unset", "gpus"]) == 0, "null is a value"
    document = json.loads(path.read_text())
    assert document["sites_own"] == 1
    assert "kernel_protocol_version" not in document, "what was not there stays away"
    assert stanza_of(path)["config"] == {}


def test_a_read_only_kernelspec_makes_one_that_can_be_changed(folder):
    path = kernelspec(folder)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    assert call(["add", "odd", "--no-check", "--mem", "1G", "--name", "made"]) == 0
    assert (folder / "made").stat().st_mode & 0o700 == 0o700


def test_a_kernelspec_is_removed_however_its_name_is_written(folder):
    kernelspec(folder, metadata={"kernel_provisioner": OURS})
    assert call(["remove", "ODD", "-y"]) == 0
    assert not (folder / "odd").exists()


def test_a_setting_of_the_site_that_cannot_be_is_told_as_one(tmp_path, capsys):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.py").write_text("c.SlurmProvisioner.defaults = 'gpu'")
    assert call(["add", "--conda-env", "x", "--no-check"]) == 2
    error = capsys.readouterr().err
    assert "'defaults'" in error
    assert "administrators" in error


@pytest.mark.parametrize("words", [["--name", ".."], ["--name", "."], ["--name", ""], ["--name", "a/b"]])
def test_a_name_that_leads_elsewhere_removes_nothing(folder, tmp_path, words):
    before = {*tmp_path.rglob("*")}
    assert call(["add", "python3", "--no-check", "--mem", "1G", *words]) == (0 if words[1] == "" else 2)
    assert before <= {*tmp_path.rglob("*")}


def test_what_jupyter_does_not_see_is_not_replaced_either(folder, tmp_path):
    theirs = tmp_path / "prefix" / "share" / "jupyter" / "kernels" / "torch"
    theirs.mkdir(parents=True)
    (theirs / "wrapper.sh").touch()
    words = ["add", "python3", "--no-check", "--mem", "1G", "--name", "torch", "--prefix", str(tmp_path / "prefix")]
    assert call(words) == 2
    assert [path.name for path in theirs.iterdir()] == ["wrapper.sh"]
    assert call([*words, "--replace"]) == 0
    assert (theirs / "kernel.json").exists()


def test_a_private_kernelspec_stays_private_and_a_link_a_link(folder, tmp_path):
    path = kernelspec(folder, metadata={"kernel_provisioner": {**OURS, "config": {}}}, env={"TOKEN": "hush"})
    target = path.rename(tmp_path / "kernel.json")
    target.chmod(0o600)
    path.symlink_to(target)
    assert call(["edit", "odd", "--no-check", "--mem", "1G"]) == 0
    assert path.is_symlink()
    assert stanza_of(target)["config"] == {"mem": "1G"}
    assert call(["add", "odd", "--no-check", "--mem", "2G", "--name", "made"]) == 0
    made = folder / "made" / "kernel.json"
    assert (target.stat().st_mode & 0o777, made.stat().st_mode & 0o777) == (0o600, 0o600)


@pytest.mark.parametrize(
    ("config", "words"),
    [({"tme": "4h"}, ["--unset", "tme", "--time", "1h"]), ({"time": "8h"}, ["--time", "1h"])],
)
def test_what_is_wrong_can_be_mended(folder, tmp_path, config, words):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.py").write_text("c.SlurmProvisioner.limits = {'time': '4h'}")
    path = kernelspec(folder, metadata={"kernel_provisioner": {**OURS, "config": config}})
    assert call(["edit", "odd", "--no-check", *words]) == 0
    assert stanza_of(path)["config"] == {"time": "1h"}
    assert call(["edit", "odd", "--no-check", "--time", "1h"]) == 0, "nothing changes"


def test_kernels_are_found_whatever_the_site_allows(folder, tmp_path, capsys):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.py").write_text(
        "print('hello')\nc.SlurmProvisioner.defaults = {'time': '8h', 'ssh': 'hpc'}\n"
        "c.SlurmProvisioner.limits = {'time': '4h'}\n"
    )
    kernelspec(folder, metadata={"kernel_provisioner": {**OURS, "config": {"time": "2h"}}})
    assert [where.name for where in places.wheres()] == ["hpc"]
    assert capsys.readouterr().out == "", "what a configuration prints is no answer"


@pytest.mark.parametrize("odd", [{"env": {"THREADS": 4}}, {"argv": [1]}])
def test_what_jupyter_cannot_start_is_a_finding(folder, odd):
    kernelspec(folder, metadata={"kernel_provisioner": {**OURS, "config": {}}}, **odd)

    async def found() -> list[Finding]:
        return [finding async for finding in trial(kernelspecs.ours("odd"), Place(), 1.0)]

    (finding,) = asyncio.run(found())
    assert (finding.check, finding.verdict) == ("job", "failed")


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        ([], "ok", "job 7 is over"),
        (["7"], "failed", "job 7 is still there"),
        (CommandError("squeue did not answer.", argv=["squeue"]), "failed", "squeue did not answer"),
    ],
    ids=["gone", "still there", "nobody knows"],
)
def test_a_check_ends_with_a_look_whether_its_job_is_gone(monkeypatch, answer, verdict, words):
    async def wait_until_gone(slurm, job_ids, timeout):
        assert job_ids == ["7"]
        if isinstance(answer, CommandError):
            raise answer
        return answer

    monkeypatch.setattr(trial_module, "wait_until_gone", wait_until_gone)
    found = asyncio.run(trial_module._end(Place(), "7", trial_module._Clock()))
    assert (found.check, found.verdict) == ("end", verdict)
    assert words in found.words


# Completion


def test_a_completer_says_nothing_and_completes_nothing_where_something_is_wrong(monkeypatch, capsys):
    def look(*_args: object, **_kwargs: object) -> None:
        show.note("warning: half of it is missing")
        raise CommandError("squeue failed.", argv=["squeue"])

    monkeypatch.setattr(finding, "look", look)
    monkeypatch.setattr(finding, "wheres", lambda **_: [])
    assert finding.complete_kernel(click.Context(click.Command("info")), click.Argument(["kernel"]), "") == []
    assert capsys.readouterr() == ("", "")


# What is left behind


@pytest.fixture
def cleaned(monkeypatch):
    """The names of those jobs of which `clean` removes what is left, where the clusters have only run directories."""
    removed: list[str] = []
    abouts = [About("k1", "old", submitted=1.0), About("k2", "young", submitted=time.time() - 60)]
    entries = [Entry(f"/r/{about.kernel_id}", about) for about in abouts]
    queued = About("k3", "queued elsewhere", submitted=1.0, server=Server("login.of-another-cluster"))
    entries.append(Entry("/r/k3", queued, waiting=True))
    found = [Found(Where(Place(), ()), Kernel(entry, None)) for entry in entries]

    def remove(over: list[Found], unknown: bool) -> tuple[list[Kernel], bool]:
        removed.extend(each.kernel.about.job_name for each in over)
        return [each.kernel for each in over], True

    def run(*words: str, complete: bool = True) -> list[str]:
        removed.clear()
        monkeypatch.setattr(clean, "look", lambda where, surely: (found, complete))
        assert call(["clean", *words]) == (0 if complete else 3)
        return removed

    monkeypatch.setattr(clean, "wheres", lambda **_: [Where(Place(), ())])
    monkeypatch.setattr(clean, "left_behind", lambda: iter(()))
    monkeypatch.setattr(clean, "_remove", remove)
    return run


def test_a_job_that_nobody_knows_may_be_on_its_way_to_the_controller(cleaned):
    assert cleaned() == []
    assert cleaned("--unknown") == ["old"]


def test_a_job_that_nobody_knows_may_be_known_to_who_did_not_answer(cleaned):
    assert cleaned("--unknown", complete=False) == []


def test_a_folder_to_clean_is_named_from_the_root_or_the_home(cleaned, capsys):
    assert call(["clean", "--state-dir", "kernels"]) == 2
    assert "not an absolute path" in capsys.readouterr().err
    assert cleaned("--state-dir", "~/kernels", "--unknown") == ["old"]


# Ctrl-C


def test_ctrl_c_ends_the_job_of_a_check_before_the_command_ends(monkeypatch):
    ended = []

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    async def waits_for_ever(spec, place, patience):
        try:
            asyncio.get_running_loop().call_later(0.01, ctrl_c)
            await asyncio.sleep(60)
            yield
        finally:
            await asyncio.sleep(0.01)
            ended.append("its job")

    monkeypatch.setattr(doctor, "trial", waits_for_ever)
    with pytest.raises(KeyboardInterrupt):
        next(doctor._of_a_trial(Kernelspec("", {}), Place(), 1.0))
    assert ended == ["its job"]


# The site, and people


def test_a_configuration_that_cannot_be_read_is_no_configuration_without_limits(folder, tmp_path, capsys):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.py").write_text("c.SlurmProvisioner.limits = {\n")
    kernelspec(folder, metadata={"kernel_provisioner": {**OURS, "config": {}}})
    assert call(["render", "odd"]) == 2
    assert "The configuration of this Jupyter server cannot be read: SyntaxError" in capsys.readouterr().err


def test_who_is_not_sure_has_not_been_interrupted(folder, capsys):
    path = kernelspec(folder, metadata={"kernel_provisioner": {**OURS, "config": {}}})
    with CliRunner().isolation(input="n\n"):
        assert call(["remove", "odd"]) == 1
    assert path.exists()


def test_only_what_a_shell_takes_as_it_is_is_completed(monkeypatch):
    names = ["plain.ipynb", "a;touch b.ipynb", "all *.ipynb"]
    abouts = [About(f"k{name}", name, notebook=name, submitted=1.0) for name in names]
    jobs = [Job(str(number), about.job_name, "RUNNING") for number, about in enumerate(abouts)]
    where = Where(Place(), ())
    found = [Found(where, Kernel(Entry("/r", about), job)) for about, job in zip(abouts, jobs, strict=True)]
    monkeypatch.setattr(finding, "look", lambda *_, **__: (found, True))
    monkeypatch.setattr(finding, "wheres", lambda **_: [where])
    items = finding.complete_kernel(click.Context(click.Command("info")), click.Argument(["kernel"]), "")
    assert [item.value for item in items] == ["0", "plain.ipynb", "1", "2"]


def test_names_do_nothing_to_a_terminal(capsys):
    show.note("a notebook \x1b]0;title\x07.ipynb")
    show.say("a notebook \x1b]0;title\x07.ipynb")
    show.error(CommandError("squeue failed.", argv=["squeue"], stderr="\x1b]0;title\x07"))
    show.console().print(show.table(["A"], [["\x1b[31mred"]]))
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "a notebook �]0;title�.ipynb" in shown.err
