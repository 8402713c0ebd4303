"""What run directories, squeue and sacct say of a user's kernels."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from slurm_provisioner import kernels
from slurm_provisioner.about import About, Server
from slurm_provisioner.books import Entry, Job, joined
from slurm_provisioner.errors import CommandError, CommandNotFoundError, CommandTimeoutError
from slurm_provisioner.folder import left_behind
from slurm_provisioner.kernels import Chunk
from slurm_provisioner.listing import (
    account_argv,
    listing_argv,
    parse_account,
    parse_entries,
    parse_queue,
    remove_argv,
)
from slurm_provisioner.processes import is_gone, this_process
from slurm_provisioner.slurm import Slurm
from slurm_provisioner.status import Phase
from slurm_provisioner.transport.local import LocalTransport

SEP = "\x1f"
ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
ABOUT = About(
    kernel_id=ID,
    job_name="jupyter-0f8fad5b-c0ffee",
    kernelspec="gpu",
    display_name="Python · 1 GPU",
    notebook="/home/alice/a b.ipynb",
    server=Server("login1", "alice", "boot ns 1 2"),
    submitted=1_795_360_000.5,
    lease=900.0,
    user="alice",
    log="/home/alice/%x-%j.log",
)

HEADER = (
    "JOBID|STATE|REASON|EXEC_HOST|NODELIST|SUBMIT_TIME|START_TIME|END_TIME|TIME_LIMIT|TIME|TIME_LEFT|CPUS|NODES|"
    "TRES_ALLOC|PARTITION|ACCOUNT|QOS|NAME|\n"
)
# As 22.05 prints it, with SLURM_TIME_FORMAT=%s, but for the spaces that fill the columns.
QUEUE = f"""\
CLUSTER: demo
{HEADER}3|PENDING|BeginTime|n/a||1795388522|1795392122|1795392722|10:00|0:00|10:00|2|1-2|cpu=2,mem=500M,node=1|a,b|\
science|normal|jupyter-a|
4|PENDING|JobHeldUser|n/a||1795388522|N/A|N/A|UNLIMITED|0:00|UNLIMITED|1|1|N/A|debug|(null)|normal|jupyter-b|
2|RUNNING|None|h2|h[2-3]|1795388522|1795388523|1795389122|1-00:00:00|1:00:02|INVALID|2|2|\
cpu=2,mem=1G,node=2,billing=1,gres/gpu=1|gpu|science|normal|jupyter-c|
slurm_load_jobs: the site's banner | with | bars
""".replace("|", f"  {SEP}")


def test_what_is_written_is_read_again():
    assert About.from_line(ABOUT.to_line()) == ABOUT
    assert "\n" not in replace(ABOUT, notebook="a\nb\x1fc ü.ipynb").to_line()
    assert About.from_line(replace(ABOUT, lease=None).to_line()).persistent


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "null",
        "[" * 100_000,
        ABOUT.to_line()[:-1],
        json.dumps({"format": 2, **json.loads(ABOUT.to_line())} | {"format": 2}),
        *(
            json.dumps(json.loads(ABOUT.to_line()) | wrong)
            for wrong in (
                {"kernel_id": None},
                {"job_name": ""},
                {"notebook": ["a"]},
                {"submitted": "yesterday"},
                {"submitted": float("nan")},
                {"submitted": 10**400},
                {"lease": -1},
                {"lease": 1e300},
                {"server": "login1"},
                {"server": {"host": 1, "user": "", "process": ""}},
                {"server": {"name": "login1"}},
            )
        ),
    ],
)
def test_what_is_half_written_or_somebody_elses_is_no_kernel(line):
    assert About.from_line(line) is None


def test_a_process_is_gone_when_that_is_sure_and_only_then():
    script = "from slurm_provisioner.processes import this_process; print(this_process())"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert is_gone(ended)
    assert not is_gone(this_process())
    boot, space, pid, start = this_process().split()
    assert is_gone(f"{boot} {space} {pid} {int(start) - 1}")
    for elsewhere in (f"0 {space} {pid} 1", f"{boot} pid:[1] {pid} 1", "", "gone", f"{boot} {space} -1 1"):
        assert not is_gone(elsewhere)


HOLDS = """
import socket, sys
from slurm_provisioner.folder import PrivateFolder
folder = PrivateFolder()
sock = socket.socket(socket.AF_UNIX)
sock.bind(folder.path + "/k-1")
sock.listen()
print(folder.path, flush=True)
input()
"""


def test_a_private_folder_is_left_behind_once_its_process_is_gone_and_nobody_serves_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "slurm-kernel-of-old").mkdir()  # nobody can tell whose it is
    (tmp_path / "slurm-kernel-link").symlink_to(tmp_path)
    ours = lambda: [path for path in left_behind() if path.parent == tmp_path]  # noqa: E731
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=pipe, stdout=pipe, text=True) as process:
        folder = Path(process.stdout.readline().strip())
        assert folder.parent == tmp_path
        assert ours() == []
        end_with_its_guard(process)
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(f"{folder}/k-2")
        served.listen()
        assert ours() == []
    assert ours() == [folder]


def end_with_its_guard(process: subprocess.Popen[str]) -> None:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_bytes().rpartition(b")")[2].split()[1]) == process.pid:
                os.kill(int(path.parent.name), signal.SIGKILL)
    process.kill()


def test_the_queue_tells_how_jobs_are():
    jobs = parse_queue(QUEUE)
    assert jobs is not None
    assert jobs["jupyter-c"] == Job(
        job_id="2",
        name="jupyter-c",
        state="RUNNING",
        node="h2",
        nodes="h[2-3]",
        submitted=1795388522,
        start=1795388523,
        end=1795389122,
        time_limit=86_400,
        time_used=3602,
        cpus=2,
        node_count=2,
        tres={"cpu": "2", "mem": "1G", "node": "2", "billing": "1", "gres/gpu": "1"},
        partition="gpu",
        account="science",
        qos="normal",
    )
    assert (jobs["jupyter-a"].node_count, jobs["jupyter-a"].time_used, jobs["jupyter-a"].time_left) == (1, 0, 600)
    held = jobs["jupyter-b"]
    assert (held.start, held.time_limit, held.tres, held.account) == (None, float("inf"), {}, "")


def test_what_is_no_answer_of_squeue_is_no_empty_queue():
    assert parse_queue("") is None
    assert parse_queue("slurm_load_jobs error: Unable to contact slurm controller\n") is None
    assert parse_queue(HEADER.replace("|", SEP)) == {}


ACCOUNT = """\
banner
6|jupyter-a|CANCELLED by 1001|0:15|None|h1|1795388522|1795388523|1795388600|00:10:00|00:01:17|1|1|\
billing=1,cpu=1,mem=500M,node=1|billing=1|debug|science|normal
7|jupyter-b|CANCELLED by 1001|0:0|JobHeldUser|None assigned|1795388522|None|1795388600|Partition_Limit|00:00:00|0|0||\
cpu=1,mem=1G|debug|science|normal
8|jupyter-c|RUNNING|0:0|None|h[1-2]|1795388522|1795388523|Unknown|00:10:00|00:01:17|1|2||cpu=1|debug|science|normal
""".replace("|", SEP)


def test_accounting_tells_how_jobs_ended():
    jobs = parse_account(ACCOUNT)
    assert jobs.keys() == {"jupyter-a", "jupyter-b"}
    ended = jobs["jupyter-a"]
    assert (ended.state, ended.exit_code, ended.exit_signal, ended.end) == ("CANCELLED", 0, 15, 1795388600)
    never = jobs["jupyter-b"]
    assert (never.node, never.start, never.time_limit, never.tres["mem"]) == ("", None, None, "1G")


def test_accounting_is_asked_back_to_the_oldest_job():
    argv = account_argv([ABOUT, replace(ABOUT, job_name="x", submitted=ABOUT.submitted - 86_400)], ABOUT.submitted)
    assert "--starttime=now-2days" in argv
    assert f"--name={ABOUT.job_name},x" in argv
    assert "--starttime=now-1days" in account_argv([ABOUT], ABOUT.submitted - 100)


def entry(job_name: str, submitted: float = 1.0) -> Entry:
    return Entry(f"/r/{job_name}", replace(ABOUT, job_name=job_name, submitted=submitted))


def test_kernels_are_joined_with_their_jobs_by_name():
    ended = parse_account(ACCOUNT)
    queue = {"jupyter-c": Job("2", "jupyter-c", "RUNNING"), "jupyter-b": Job("7", "jupyter-b", "CANCELLED", "why")}
    entries = [entry("jupyter-a", 1), entry("jupyter-b", 2), entry("jupyter-c", 3), entry("jupyter-d", 4)]
    found = {kernel.about.job_name: kernel for kernel in joined(entries, queue, ended)}
    assert [*found] == ["jupyter-d", "jupyter-c", "jupyter-b", "jupyter-a"]
    phases = {name: kernel.phase for name, kernel in found.items()}
    assert phases["jupyter-a"] is phases["jupyter-b"] is Phase.ENDED
    assert phases["jupyter-c"] is Phase.RUNNING
    assert phases["jupyter-d"] is Phase.UNKNOWN
    assert found["jupyter-b"].job.exit_code == 0, "accounting alone tells it"
    assert [name for name, kernel in found.items() if kernel.alive] == ["jupyter-c"]


def test_a_job_that_was_ended_and_lives_again_lives():
    queue = {"jupyter-a": Job("6", "jupyter-a", "PENDING")}
    assert joined([entry("jupyter-a")], queue, parse_account(ACCOUNT))[0].alive


def run_dir(state_dir: Path, name: str, about: str | bytes, **files: str) -> Path:
    folder = state_dir / name
    folder.mkdir(parents=True)
    (folder / "about.json").write_bytes(about if isinstance(about, bytes) else about.encode())
    for file, text in files.items():
        (folder / file.replace("_", ".")).write_text(text)
    return folder


@pytest.fixture
def squeue(tmp_path, monkeypatch) -> Path:
    """A squeue that prints what stands in a file, and fails if there is none."""
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nexec cat "$0.says"\n')
    program.chmod(0o755)
    says = Path(f"{program}.says")
    says.write_text(QUEUE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return says


def find(squeue: Path, *state_dirs: str) -> list[kernels.Kernel]:
    slurm = Slurm(LocalTransport(), bin_dir=str(squeue.parent))
    return asyncio.run(kernels.find(slurm, state_dirs))


def test_odd_files_never_break_the_list(squeue, tmp_path):
    state = tmp_path / "home" / "it's state"
    good = run_dir(state, ID, f"{replace(ABOUT, job_name='jupyter-c').to_line()}\n", progress="one\nhalf of tw")
    (good / "connection.json").write_text("{}")
    run_dir(state, "half", ABOUT.to_line()[:40])
    run_dir(state, "empty", "")
    run_dir(state, "binary", bytes(range(256)))
    run_dir(state, "huge", "x" * 2**20)
    run_dir(state, "elsewhere", replace(ABOUT, job_name="jupyter-a", clusters="alpha").to_line())
    (state / "thesis").mkdir()
    (state / "pipe").mkdir()
    os.mkfifo(state / "pipe" / "about.json")
    (state / "link").mkdir()
    (state / "link" / "about.json").symlink_to("/dev/zero")
    (kernel,) = find(squeue, "~/it's state", str(tmp_path / "nowhere"))
    assert kernel.entry == Entry(str(good), replace(ABOUT, job_name="jupyter-c"), True, "one")
    assert kernel.job is not None
    assert kernel.job.job_id == "2"


def test_a_line_of_a_listing_that_is_no_kernel_is_passed_over():
    line = SEP.join(["entry", "/r", "1", "1", ABOUT.to_line(), "step"])
    assert parse_entries(f"motd\n{line}\nentry{SEP}/r\n{line[:30]}\n") == [Entry("/r", ABOUT, True, "step", True)]
    assert parse_entries(line, "alpha") == []


def test_who_cannot_be_asked_says_nothing_of_any_kernel(squeue, tmp_path):
    run_dir(tmp_path / "state", ID, ABOUT.to_line())
    squeue.unlink()
    with pytest.raises(CommandError, match="squeue failed"):
        find(squeue, str(tmp_path / "state"))
    squeue.write_text("Unable to contact slurm controller")
    with pytest.raises(CommandError, match="squeue failed"):
        find(squeue, str(tmp_path / "state"))
    (squeue.parent / "squeue").unlink()
    with pytest.raises(CommandNotFoundError, match="no such program"):
        find(squeue, str(tmp_path / "state"))


def test_a_controller_that_is_slow_is_named_and_no_script_is_shown(squeue, monkeypatch):
    monkeypatch.setattr(kernels._run, "__defaults__", (0.2,))
    (squeue.parent / "squeue").write_text("#!/bin/sh\nsleep 20\n")
    with pytest.raises(CommandTimeoutError, match="squeue did not answer within") as caught:
        find(squeue)
    assert str(caught.value).count("\n") == 2


def test_whom_nobody_knows_is_unknown_and_not_over(squeue, tmp_path):
    run_dir(tmp_path / "state", ID, ABOUT.to_line())
    (kernel,) = find(squeue, str(tmp_path / "state"))  # there is no sacct, either
    assert kernel.job is None
    assert kernel.phase is Phase.UNKNOWN
    assert not kernel.entry.waiting
    assert listing_argv(["/s"], "squeue", "alpha")[-1] == "--clusters=alpha"


def test_how_it_ended_is_asked_for_in_parts(squeue, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "ACCOUNT_NAMES", 1)
    sacct = squeue.parent / "sacct"
    sacct.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat {tmp_path}/account\n')
    sacct.chmod(0o755)
    (tmp_path / "account").write_text(ACCOUNT)
    squeue.write_text(HEADER.replace("|", SEP))
    for number, name in enumerate(["jupyter-a", "jupyter-b"]):
        run_dir(tmp_path / "state", str(number), replace(ABOUT, job_name=name).to_line())
    assert {kernel.phase for kernel in find(squeue, str(tmp_path / "state"))} == {Phase.ENDED}
    assert len((tmp_path / "asked").read_text().splitlines()) == 2


def test_accounting_that_does_not_answer_says_nothing_of_any_kernel(squeue, tmp_path, caplog):
    run_dir(tmp_path / "state", ID, ABOUT.to_line())
    sacct = squeue.parent / "sacct"
    sacct.write_text("#!/bin/sh\necho 'sacct: error: Connection refused' >&2; exit 1\n")
    sacct.chmod(0o755)
    (kernel,) = find(squeue, str(tmp_path / "state"))
    assert kernel.phase is Phase.UNKNOWN
    assert "How jobs ended is not known" in caplog.text
    slurm = Slurm(LocalTransport(), bin_dir=str(squeue.parent))
    with pytest.raises(CommandError, match="sacct failed"):
        asyncio.run(kernels.find(slurm, [str(tmp_path / "state")], surely=True))
    sacct.write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2; exit 1\n")
    asyncio.run(kernels.find(slurm, [str(tmp_path / "state")], surely=True))


def test_run_directories_are_removed_whose_jobs_are_over_and_that_are_still_theirs(tmp_path):
    over = run_dir(tmp_path, "over", ABOUT.to_line(), job_log="", connection_json="", progress="")
    (over / "connection.json.0123abcd").touch()
    again = run_dir(tmp_path, "again", replace(ABOUT, job_name="another").to_line(), job_log="")
    kept = run_dir(tmp_path, "kept", ABOUT.to_line(), job_log="", thesis_tex="")
    lives = run_dir(tmp_path, "lives", ABOUT.to_line(), job_log="")
    end, life = Job("1", ABOUT.job_name, "FAILED"), Job("1", ABOUT.job_name, "RUNNING")
    all_ = [kernels.Kernel(Entry(str(path), ABOUT), end) for path in (over, again, kept, tmp_path / "gone")]
    all_ += [kernels.Kernel(Entry(str(lives), ABOUT), job) for job in (life, None)]
    asyncio.run(kernels.clear_away(Slurm(LocalTransport()), all_))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "kept", "lives"]
    assert [path.name for path in kept.iterdir()] == ["thesis.tex"]
    assert len([*again.iterdir()]) == len([*lives.iterdir()]) == 2
    asyncio.run(kernels.clear_away(Slurm(LocalTransport()), all_[-1:], unknown=True))
    assert not lives.exists()
    assert remove_argv(all_[:1])[-2:] == [str(over), ABOUT.job_name]


def test_a_log_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", 10)
    slurm, log = Slurm(LocalTransport()), tmp_path / "it's a log"

    def read(last: Chunk, **how: object) -> Chunk:
        return asyncio.run(kernels.read_log(slurm, str(log), str(tmp_path), last, **how))

    assert read(Chunk()) == Chunk()
    log.write_bytes(b"one\nt\xc3\xbcw\x00\xff\nthree")
    first = read(Chunk())
    assert (first.content, first.more) == (b"one\nt\xc3\xbcw\x00\xff", True)
    second = read(first)
    assert (first.content + second.content, second.more) == (log.read_bytes(), False)
    assert read(second).content == b""
    assert read(Chunk(), lines=1).content == b"three"
    assert read(Chunk(), lines=0) == second.__class__(b"", 16, there=True)
    log.write_bytes(b"anew")
    assert read(second).content == b"anew"


def test_a_follower_of_a_log_waits_for_what_is_new(tmp_path):
    slurm, log = Slurm(LocalTransport()), tmp_path / "log"
    log.write_text("one\n")

    async def main() -> tuple[Chunk, Chunk]:
        path, folder = str(log), str(tmp_path)
        last = await kernels.read_log(slurm, path, folder, Chunk())
        waiting = asyncio.ensure_future(kernels.read_log(slurm, path, folder, last, wait=True))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        with log.open("a") as file:
            file.write("two\n")
        last = await waiting
        waiting = asyncio.ensure_future(kernels.read_log(slurm, path, folder, last, wait=True))
        (tmp_path / "connection.json").touch()
        return last, await waiting

    said, came = asyncio.run(main())
    assert said.content == b"two\n"
    assert (came.content, came.listening) == (b"", True)


def test_a_log_whose_name_only_the_node_knows_is_found(tmp_path):
    about = replace(ABOUT, log=f"{tmp_path}/it's %x-%N.log")
    kernel = kernels.Kernel(Entry("/r", about), None)
    assert kernel.log is None
    slurm = Slurm(LocalTransport())
    assert asyncio.run(kernels.find_log(slurm, kernel)) is None
    log = tmp_path / f"it's {ABOUT.job_name}-node1.log"
    log.touch()
    assert asyncio.run(kernels.find_log(slurm, kernel)) == str(log)
    (tmp_path / f"it's {ABOUT.job_name}-node2.log").touch()
    assert asyncio.run(kernels.find_log(slurm, kernel)) is None
    known = kernels.Kernel(Entry("/r", ABOUT), Job("7", ABOUT.job_name, "RUNNING"))
    assert asyncio.run(kernels.find_log(slurm, known)) == f"/home/alice/{ABOUT.job_name}-7.log"
