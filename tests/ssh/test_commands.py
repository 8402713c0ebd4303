"""Commands on the login host, whatever its shells and their startup files do."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import pwd
import sys
from pathlib import Path

import pytest
from conftest import LogIn, alive, happens, soon
from login_host import PATIENCE, Sshd, shell

from slurm_provisioner.errors import CommandNotFoundError, CommandTimeoutError
from slurm_provisioner.processes import this_machine
from slurm_provisioner.transport import Account

SHELLS = ("bash", "dash", "tcsh", "fish")
#: Startup files of all these shells.
PROFILES = (".bash_profile", ".bashrc", ".login", ".tcshrc", ".config/fish/config.fish")
NOISE = "Welcome!\n\x1b[1mMind the \x07quota\x1b[0m: 99 % $HOME `used` 'by' \"you\"\nno newline at the end"
#: Prints the bytes of each of its arguments, and its environment, in an encoding that nothing can spoil.
TELL_WORDS = "import os, sys; print(*(os.fsencode(word).hex() or '-' for word in sys.argv[1:]))"
TELL_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"
WORDS = [
    "",
    "two words",
    " leading and trailing ",
    "it's",
    'say "hi"',
    "a\nb\n",
    "tab\there",
    "$HOME",
    "${HOME}$(id)`id`",
    "-n",
    "--",
    "!",
    "!!",
    "it's so!",
    "100%",
    "%s%n",
    "back\\slash\\",
    "\\n",
    "\\'",
    "~",
    "~root",
    "*",
    "?[a-z]{a,b}",
    "a;b&c|d<e>f",
    "#no comment",
    "^a^b",
    "a=b",
    "(x)",
    "Zürich 日本 🙂",
    "\x01\x1b\x7f",
    "",
]


def test_the_account_is_who_logs_in(log_in: LogIn):
    me = pwd.getpwuid(os.getuid())
    assert log_in(lambda transport: soon(transport.account())) == Account(getpass.getuser(), me.pw_dir, this_machine())


def test_a_command_with_all_its_parts(log_in: LogIn):
    async def main(transport):
        script = "cat; echo oops >&2; exit 3"
        done = await transport.run(["sh", "-c", script], stdin=b"in\xff", timeout=PATIENCE)
        assert done.argv == ("sh", "-c", script)
        assert (done.returncode, done.stdout, done.stderr) == (3, "in\ufffd", "oops\n")

    log_in(main)


def test_a_command_that_is_given_nothing_reads_nothing(log_in: LogIn):
    done = log_in(lambda transport: transport.run(["cat"], timeout=PATIENCE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exit_codes_are_the_commands_own(log_in: LogIn):
    async def main(transport):
        for code in (0, 1, 126, 127, 128, 255):
            done = await transport.run(["sh", "-c", f"exit {code}"], timeout=PATIENCE)
            assert (done.returncode, done.stdout, done.stderr) == (code, "", "")

    log_in(main)


def test_a_command_that_a_signal_ended_says_so(log_in: LogIn):
    async def main(transport):
        for number in (9, 15):
            done = await transport.run(["sh", "-c", f"echo out; kill -{number} $$"], timeout=PATIENCE)
            assert (done.returncode, done.stdout) == (128 + number, "out\n")  # as shells say it

    log_in(main)


@pytest.mark.parametrize("name", SHELLS)
def test_words_arrive_as_they_are(log_in: LogIn, sshd: Sshd, tmp_path: Path, name: str):
    sshd.restart(shell(tmp_path, name, {}))

    async def main(transport):
        done = await transport.run([sys.executable, "-c", TELL_WORDS, *WORDS], timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        told = [bytes.fromhex(word.strip("-")).decode() for word in done.stdout.split()]
        assert told == WORDS
        long = ["x" * 8000, "1,23_[4-5]," * 500]  # as a list of jobs, which squeue takes as one word
        done = await transport.run(["printf", "%s\n", *long], timeout=PATIENCE)
        assert (done.stdout.splitlines(), done.stderr) == (long, "")

    log_in(main)


@pytest.mark.parametrize("name", SHELLS)
def test_what_startup_files_and_banners_print_is_not_the_commands(log_in: LogIn, sshd: Sshd, tmp_path: Path, name: str):
    (tmp_path / "banner").write_text(NOISE)
    (tmp_path / "noise").write_text(NOISE)
    noisy = f"cat {tmp_path}/noise; sh -c 'cat {tmp_path}/noise >&2'\n"
    foreign = "LANG=de_DE.UTF-8 LC_ALL=de_DE.UTF-8 LANGUAGE=de"
    files = dict.fromkeys(PROFILES, noisy)
    sshd.restart(
        f"Banner {tmp_path}/banner",
        shell(tmp_path, name, files, NOISE),
        environment=dict(each.split("=") for each in foreign.split()),
    )

    async def main(transport):
        assert (await soon(transport.account())).user == getpass.getuser()
        done = await transport.run(["sh", "-c", "cat; echo oops >&2; exit 3"], stdin=b"in", timeout=PATIENCE)
        assert (done.returncode, done.stdout, done.stderr) == (3, "in", "oops\n")
        done = await transport.run(["true"], timeout=PATIENCE)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with pytest.raises(CommandNotFoundError, match="sbatch-of-another-world"):
            await transport.run(["sbatch-of-another-world"], timeout=PATIENCE)

    log_in(main)


def test_much_noise_holds_nothing_up(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    (tmp_path / "noise").write_text("Read this first!\n" * 20_000)  # more than pipes and windows hold at once
    noisy = f"cat {tmp_path}/noise; cat {tmp_path}/noise >&2\n"
    sshd.restart(shell(tmp_path, "bash", {".bashrc": noisy, ".bash_profile": noisy}))
    done = log_in(lambda transport: transport.run(["sh", "-c", "cat; exit 3"], stdin=b"in", timeout=PATIENCE))
    assert (done.returncode, done.stdout, done.stderr) == (3, "in", "")


@pytest.mark.parametrize("name", ["bash", "dash"])
def test_startup_files_read_nothing_of_what_the_command_is_to_read(
    log_in: LogIn, sshd: Sshd, tmp_path: Path, name: str
):
    files = {".bash_profile": "read -r line; cat > /dev/null\n", ".profile": "cat > /dev/null\n"}
    sshd.restart(shell(tmp_path, name, files))
    done = log_in(lambda transport: transport.run(["cat"], stdin=b"one\ntwo\n", timeout=PATIENCE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\ntwo\n", "")


def test_what_changes_slurms_commands_is_taken_out(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    wrong = {"SQUEUE_FORMAT": "%i", "SBATCH_PARTITION": "debug", "SLURM_JOB_ID": "1", "SLURM_TIME_FORMAT": "relative"}
    exports = "".join(f"export {name}={value}\n" for name, value in {**wrong, "SINFO_FORMAT": "%n"}.items())
    right = {"SLURM_CONF": "/etc/of/the/site", "SITE": "this"}
    sshd.restart(shell(tmp_path, "bash", {".bash_profile": exports}), environment={**wrong, **right})

    async def main(transport):
        done = await transport.run([sys.executable, "-c", TELL_ENVIRONMENT], timeout=PATIENCE)
        environ = json.loads(done.stdout)
        slurms = {name: value for name, value in environ.items() if name.startswith(("S", "SL")) and "_" in name}
        assert {name: value for name, value in slurms.items() if not name.startswith("SSH_")} == {
            "SLURM_CONF": "/etc/of/the/site",
            "SLURM_TIME_FORMAT": "%s",
        }
        assert environ["SITE"] == "this"

    log_in(main)


@pytest.mark.parametrize(("name", "file"), [("bash", ".bash_profile"), ("dash", ".profile"), ("tcsh", ".bash_profile")])
def test_programs_are_found_where_a_login_finds_them(log_in: LogIn, sshd: Sshd, tmp_path: Path, name: str, file: str):
    program = tmp_path / "slurm" / "bin" / "squeue-of-this-site"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    sshd.restart(shell(tmp_path, name, {file: f'PATH="{program.parent}:$PATH"\n'}))
    done = log_in(lambda transport: transport.run([program.name], timeout=PATIENCE))
    assert (done.returncode, done.stdout) == (0, "found\n")


def test_commands_have_no_terminal(log_in: LogIn):
    async def main(transport):
        look = "import os; print([os.isatty(number) for number in range(3)]); open('/dev/tty')"
        done = await transport.run([sys.executable, "-c", look], timeout=PATIENCE)
        assert done.stdout == "[False, False, False]\n"
        assert "No such device or address" in done.stderr

    log_in(main)


def test_a_missing_command_says_what_to_do(log_in: LogIn, tmp_path: Path):
    (tmp_path / "text").write_text("not a program")

    async def main(transport):
        for program in ("sbatch-of-another-world", "/nowhere/sbatch", f"{tmp_path}/text", f"{tmp_path}"):
            with pytest.raises(CommandNotFoundError, match=program) as caught:
                await transport.run([program, "--version"], timeout=PATIENCE)
            assert "slurm_bin" in str(caught.value)

    log_in(main)


def test_no_command_outlives_its_time(log_in: LogIn, tmp_path: Path):
    async def late(transport, script: str) -> None:
        with pytest.raises(CommandTimeoutError, match="sh did not answer"):
            await transport.run(["sh", "-c", script], timeout=8)

    async def cancelled(transport) -> None:
        told = tmp_path / "cancelled"
        task = asyncio.ensure_future(transport.run(["sh", "-c", f"echo $$ > {told}; exec sleep 600"], timeout=PATIENCE))
        await happens(lambda: told.exists() and told.read_text(), "a command")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main(transport):
        await soon(transport.account())
        with_child = f"sleep 600 & echo $! $$ > {tmp_path}/with-child; wait"
        stubborn = f"trap '' HUP INT TERM PIPE; echo $$ > {tmp_path}/stubborn; while :; do sleep 1; done"
        await asyncio.gather(late(transport, with_child), late(transport, stubborn), cancelled(transport))
        told = [(tmp_path / name).read_text().split() for name in ("with-child", "stubborn", "cancelled")]
        assert list(map(len, told)) == [2, 1, 1]
        await happens(lambda: not any(alive(int(pid)) for pids in told for pid in pids), "the end of all of them")

    log_in(main)


def test_a_late_command_leaves_the_others_alone(log_in: LogIn, tmp_path: Path):
    async def main(transport):
        await soon(transport.account())
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        other = asyncio.ensure_future(transport.run(["sh", "-c", f"cat {fifo}; echo end"], timeout=PATIENCE))
        with pytest.raises(CommandTimeoutError):
            await transport.run(["sleep", "600"], timeout=5)
        await asyncio.to_thread(fifo.write_text, "late, but ")
        assert (await other).stdout == "late, but end\n"

    log_in(main)


def test_megabytes_go_in_and_out_at_once(log_in: LogIn):
    size = 8_000_000
    data = (b"0123456789abcde\n" * (size // 16))[:size]
    done = log_in(lambda transport: transport.run(["tee", "/dev/stderr"], stdin=data, timeout=60))
    assert done.returncode == 0
    assert done.stdout.encode() == data
    assert done.stderr.encode() == data


def test_bytes_of_all_kinds_go_in(log_in: LogIn):
    data = bytes(range(256)) * 4000
    count = "import sys; data = sys.stdin.buffer.read(); print(data == bytes(range(256)) * 4000)"
    done = log_in(lambda transport: transport.run([sys.executable, "-c", count], stdin=data, timeout=PATIENCE))
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_command_need_not_read_what_it_is_given(log_in: LogIn):
    done = log_in(lambda transport: transport.run(["sh", "-c", "exit 4"], stdin=bytes(8_000_000), timeout=PATIENCE))
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")


@pytest.mark.parametrize("sessions", [3, 10])
def test_more_commands_than_the_server_takes_wait_for_one_another(log_in: LogIn, sshd: Sshd, sessions: int):
    sshd.restart(f"MaxSessions {sessions}")

    async def main(transport):
        runs = [transport.run(["sh", "-c", f"sleep 0.05; echo {n}"], timeout=PATIENCE) for n in range(24)]
        told = [done.stdout for done in await asyncio.gather(*runs)]
        assert told == [f"{n}\n" for n in range(24)]

    log_in(main)
    assert sshd.logins() == 1


def test_commands_that_were_killed_make_room_for_others(log_in: LogIn, sshd: Sshd):
    sshd.restart("MaxSessions 3")

    async def main(transport):
        await soon(transport.account())
        late = [transport.run(["sleep", "600"], timeout=8) for _ in range(6)]
        for error in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(error, CommandTimeoutError)
        assert (await transport.run(["echo", "done"], timeout=PATIENCE)).stdout == "done\n"

    log_in(main)
    assert sshd.logins() == 1
