"""What a login host's shell is told, and what is made of its answers."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_provisioner.environment import clean_environment
from slurm_provisioner.processes import this_machine
from slurm_provisioner.transport import remote
from slurm_provisioner.transport.remote import Reply, Settings

HOSTILE = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "$HOME",
    "`id`",
    "\\n",
    "new\nline\n",
    "!",
    "%s",
    "ü",
    "-rf",
    "\udcff",
    "*",
    "~",
    ";",
]


def answer(argv: list[str], *, stdin: bytes = b"", noise: bytes = b"", **options) -> Reply:
    """What a real shell makes of a command, as a login host would hear of it."""
    reply = Reply()
    line = remote.wrap(argv, reply.mark, **{"seconds": None, "settings": None, **options})
    done = subprocess.run(
        ["sh", "-c", remote.COMMAND], input=line + stdin, capture_output=True, check=False, timeout=60
    )
    for data in (noise, done.stdout, noise):
        reply.stdout.take(data)
    reply.stderr.take(noise + done.stderr + noise)
    return reply


def test_what_is_sent_is_one_plain_line():
    line = remote.wrap(["printf", *HOSTILE], "mark", seconds=5, settings=Settings("me", "/home/me", {"PATH": "a'b"}))
    assert line.count(b"\n") == 1
    assert not set(line) & set(b"'\"`$!;*~<>|&(){}[]#?")


def test_arguments_arrive_as_they_are():
    reply = answer(["printf", "<%s>", *HOSTILE])
    assert reply.stdout.text == "".join(f"<{each}>" for each in HOSTILE).encode(errors="surrogateescape").decode(
        errors="replace"
    )


def test_output_and_exit_code_are_the_commands_own():
    reply = answer(["sh", "-c", "cat; printf '\nfew'; echo oops >&2; exit 7"], stdin=b"in", noise=b"Welcome!\n\n")
    assert (reply.stdout.text, reply.stderr.text, reply.code) == ("in\nfew", "oops\n", "7")


def test_a_command_that_is_killed_says_nothing():
    reply = answer(["sh", "-c", "kill -KILL $$"], seconds=5)
    assert (reply.stdout.text, reply.stderr.text, reply.code) == ("", "", "137")


def test_a_program_that_is_not_there():
    assert answer(["no-such-program"]).code == remote.MISSING


def test_variables_that_would_change_slurm_are_taken_away(monkeypatch):
    monkeypatch.setenv("SQUEUE_FORMAT", "nonsense")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SPANK_X", "1\nSLURM_FAKE=2")
    told = answer(["env"], settings=Settings("me", "/home/me", {"SLURM_CONF": "/else where"})).stdout.text
    assert "SQUEUE_FORMAT" not in told
    assert "SPANK_X" not in told
    assert "SLURM_CONF=/else where\n" in told
    assert "SLURM_TIME_FORMAT=%s\n" in told


def test_the_shell_takes_away_what_this_side_does():
    names = ["SLURM_JOB_ID", "SBATCH_PARTITION", "SALLOC_X", "SRUN_X", "SCANCEL_X", "SACCT_X", "SINFO_X", "SLURMD_X"]
    kept = ["SLURM_CONF", "SLURM_CONF_SERVER", "SLURMISH", "SHELL_X", "PATH"]
    environ = {**dict.fromkeys([*names, *kept], "x"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["sh", "-c", f"{remote.CLEANING}env"], env=environ, capture_output=True, text=True, check=True
    )
    left = {line.partition("=")[0] for line in done.stdout.splitlines()} - {"PWD", "_", "OLDPWD", "SHLVL"}
    assert left == set(clean_environment(environ))


def test_a_command_has_a_time_limit_of_its_own():
    reply = answer(["sleep", "60"], seconds=0.5)
    assert reply.code == "124"


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=5))
@settings(deadline=None, max_examples=50)
def test_marks_are_found_wherever_the_pieces_end(data, cuts):
    reply = Reply()
    whole = b"noise\n" + f"\n{reply.mark}\n".encode() + data + f"\n{reply.mark} 3\n".encode() + b"more noise"
    begin = 0
    for cut in [*sorted(cuts), len(whole)]:
        reply.stdout.take(whole[begin:cut])
        begin = max(begin, cut)
    assert reply.code == "3"
    assert reply.stdout.text == data.decode(errors="replace")


def test_who_answers_without_running_anything():
    reply = Reply()
    reply.stdout.take(b"This account is for transfers only.\n")
    reply.stderr.take(b"bye\n")
    assert not reply.code
    assert reply.noise == "bye\nThis account is for transfers only."


@pytest.mark.parametrize("login", [True, False])
def test_settings_of_a_shell(login, monkeypatch, tmp_path):
    (tmp_path / ".profile").write_text(
        "echo Disk quota: 3%\nexport SLURM_CONF=/opt/slurm.conf PATH=$PATH:/opt/slurm/bin"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.delenv("SLURM_CONF_SERVER", raising=False)
    done = subprocess.run(
        remote.settings_argv("the-mark", login=login), capture_output=True, text=True, check=True, timeout=60
    )
    found = remote.read_settings(done.stdout, "the-mark")
    assert found is not None
    assert found.home == str(tmp_path)
    assert found.machine == this_machine() != ""
    assert found.variables.get("SLURM_CONF") == ("/opt/slurm.conf" if login else None)
    assert found.variables["PATH"].endswith("/opt/slurm/bin") == login


def test_settings_of_a_machine_that_does_not_tell_which_it_is():
    found = remote.read_settings("\nthe-mark\n\nme\n\n/home/me\n\n\n\n/bin\n\n\n\n\n", "the-mark")
    assert found == Settings("me", "/home/me", {"PATH": "/bin"})


@pytest.mark.parametrize("told", ["", "nonsense", "\nthe-mark\n", "\nthe-mark\nme\n\nthe-mark\nno/path\n"])
def test_settings_that_were_not_told(told):
    assert remote.read_settings(told, "the-mark") is None


def test_files_that_are_looked_out_for(tmp_path):
    folder = tmp_path / "a folder 'of' $ours"
    process = subprocess.Popen(["sh", "-c", remote.LOOKOUT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None

        def say(line: bytes) -> None:
            process.stdin.write(line)
            process.stdin.flush()

        say(remote.watch_line(7, str(folder), ["progress", "connection.json"]))
        folder.mkdir()
        (folder / "other").write_text("not asked for")
        (folder / "progress").write_text("one\ntw")
        assert remote.read_news(process.stdout.readline().rstrip(b"\n")) == (7, 0, b"one\ntw")
        text = '{"key": "a\\nb \\"%s $HOME"}'
        (folder / "new").write_text(text)
        (folder / "new").rename(folder / "connection.json")
        assert remote.read_news(process.stdout.readline().rstrip(b"\n")) == (7, 1, text.encode())
        say(remote.watch_line(8, str(tmp_path / "later"), ["x"]))
        say(remote.drop_line(7))
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "x").write_text("y\n")
        assert remote.read_news(process.stdout.readline().rstrip(b"\n")) == (8, 0, b"y\n")
        process.stdin.close()
        assert not process.stdout.read(), "nothing more is told"
        assert process.wait(60) == 0


@pytest.mark.parametrize("line", [b"", b"x", b"1 2", b"one two three"])
def test_lines_that_are_no_news(line):
    assert remote.read_news(line) is None


def test_the_command_line_is_the_same_in_all_shells():
    assert shlex.split(remote.COMMAND)[:3] == ["exec", "/bin/sh", "-c"]
    assert not set(remote.COMMAND) & set("!\n\\"), "what csh and fish read otherwise"
