"""What is said to Slurm's commands, and what is understood of their answers."""

from __future__ import annotations

import asyncio
import os
import stat
import struct
import time
import uuid

import pytest

from slurm_provisioner import slurm as slurm_module
from slurm_provisioner.config import KernelConfig
from slurm_provisioner.errors import (
    CommandError,
    CommandNotFoundError,
    CommandTimeoutError,
    SubmissionError,
)
from slurm_provisioner.sbatch import as_sbatch, complaint_of, parse_submission, submit_argv
from slurm_provisioner.slurm import Slurm
from slurm_provisioner.status import Position
from slurm_provisioner.submission import Submission
from slurm_provisioner.transport import Account, Completed
from slurm_provisioner.transport.local import LocalTransport

SEP = "\x1f"
HEADER = SEP.join(["JOBID", "STATE", "REASON", "EXEC_HOST", "START_TIME", "PARTITION", "NAME"]) + "\n"


def queued(job_name: str) -> str:
    """A line of squeue for job 77."""
    return SEP.join(["77", "PENDING", "None", "n/a", "N/A", "debug", job_name]) + "\n"


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [
        ("1234\n", "1234"),
        ("1234;cluster-a\n", "1234"),
        ("Welcome to the 2026 cluster\n1234\n", "1234"),
        ("17 messages of the day\n1234;x\nHave a nice day\n", "1234"),
        ("sbatch: Submitted batch job 1234 to 2 nodes\n", None),
        ("", None),
        ("Quota: 512 of 1024\n", None),
    ],
)
def test_the_job_id_is_told_from_banners(stdout, job_id):
    assert parse_submission(stdout) == job_id


@pytest.mark.parametrize(
    ("stderr", "gist"),
    [
        ("sbatch: error: Batch job submission failed: Invalid account\n", "Invalid account"),
        (
            (
                "sbatch: error: invalid partition specified: nope\n"
                "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
            ),
            "Invalid partition name specified",
        ),
        (
            (
                'sbatch: error: slurm_set_addr: Unable to resolve "slurmctld"\n'
                "sbatch: error: Unable to establish control machine address\n"
                "sbatch: error: Batch job submission failed: No error\n"
            ),
            "Unable to establish control machine address",
        ),
        ("MOTD\nsbatch: fatal: nothing works.\n", "nothing works"),
        ("plain words\n", "plain words"),
        ("", ""),
    ],
)
def test_the_gist_of_a_refusal(stderr, gist):
    assert complaint_of(stderr) == gist


class Says(LocalTransport):
    """Answers each program with what the test chose."""

    def __init__(self, **answers: Completed | Exception) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []

    async def run(self, argv, *, stdin=b"", timeout):
        self.asked.append(list(argv))
        answer = self.answers["sbatch" if argv[0] == "sh" else argv[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer


def said(stdout: str = "", stderr: str = "", returncode: int = 0) -> Completed:
    return Completed(("sh", "-c", "…", "submit", "alice", "dir", "", "", "--clusters=a"), returncode, stdout, stderr)


#: As it is written: what printf or echo would understand stays as it is.
ABOUT = '{"notebook": "a \\n b %s.ipynb"}'


def submit(transport: LocalTransport) -> str:
    return asyncio.run(Slurm(transport).submit(job()))


def job(run_dir: str = "/d", request: str = "{}", script: str = "#!/bin/sh\n") -> Submission:
    account = Account("alice", "/home/alice")
    return Submission("jupyter-unique", run_dir, "", request, ABOUT, script, KernelConfig(), account)


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("Invalid partition name specified", "`partition`"),
        ("Invalid account or account/partition combination specified", "`account`"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "`time`"),
        ("Invalid generic resource (gres) specification", "`gpus`"),
        ("Requested node configuration is not available", "Ask for less"),
    ],
)
def test_a_refusal_names_command_code_reason_and_remedy(reason, hint):
    stderr = f"sbatch: error: Batch job submission failed: {reason}"
    with pytest.raises(SubmissionError) as caught:
        submit(Says(sbatch=said(stderr=stderr, returncode=1)))
    text = str(caught.value)
    assert f"Slurm refused the job: {reason}." in text
    assert "command: sbatch --parsable --clusters=a (exit code 1)" in text
    assert hint in text
    assert caught.value.returncode == 1


def test_exit_code_0_without_an_id_is_a_refusal(monkeypatch):
    monkeypatch.setattr(slurm_module, "FIND_PAUSE", 0)
    with pytest.raises(SubmissionError):
        submit(Says(sbatch=said(stdout="Submitted, honest!\n"), squeue=said(HEADER), scancel=said()))


@pytest.mark.parametrize(
    "lost",
    [
        CommandTimeoutError("late", argv=["sh"]),
        said(
            stderr="sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            returncode=1,
        ),
        said(stdout="Welcome!\n"),
        said(returncode=-9),
        said(stderr="Connection to login closed by remote host.\n", returncode=255),
    ],
)
def test_a_job_whose_answer_was_lost_is_found_by_its_name(lost):
    transport = Says(sbatch=lost, squeue=said(HEADER + queued("jupyter-unique")))
    assert submit(transport) == "77"
    assert "--name=jupyter-unique" in transport.asked[1]


def test_a_job_that_the_controller_took_late_is_found(monkeypatch):
    monkeypatch.setattr(slurm_module, "FIND_PAUSE", 0)
    transport = Says(sbatch=CommandTimeoutError("late", argv=["sh"]), squeue=said(HEADER))
    answers = iter(
        [
            CommandTimeoutError("late", argv=["squeue"]),
            said(HEADER),
            said(HEADER + queued("x")),
        ]
    )

    async def run(argv, *, stdin=b"", timeout):
        transport.answers["squeue"] = next(answers) if argv[0] == "squeue" else said()
        return await Says.run(transport, argv, stdin=stdin, timeout=timeout)

    transport.run = run
    assert submit(transport) == "77"


def test_a_submission_that_got_nowhere_is_an_error_and_none_follows_it(monkeypatch):
    monkeypatch.setattr(slurm_module, "FIND_PAUSE", 0)
    transport = Says(sbatch=CommandTimeoutError("late", argv=["sh"]), squeue=said(HEADER), scancel=said(""))
    with pytest.raises(CommandTimeoutError, match="sbatch did not answer") as caught:
        submit(transport)
    assert "umask" not in str(caught.value), "our shell text is nobody's concern"
    assert transport.asked[-1] == ["scancel", "--name=jupyter-unique"]


@pytest.mark.parametrize(
    ("queues", "asked"),
    [
        ([HEADER + queued("jupyter-unique")], ["squeue", "scancel"]),
        ([HEADER, HEADER, HEADER + queued("jupyter-unique")], ["squeue", "squeue", "squeue", "scancel"]),
        ([HEADER] * slurm_module.FIND_TRIES, ["squeue"] * slurm_module.FIND_TRIES + ["scancel"]),
    ],
    ids=["taken already", "taken late", "never seen"],
)
def test_a_submission_that_is_cancelled_leaves_no_job(monkeypatch, queues, asked):
    monkeypatch.setattr(slurm_module, "FIND_PAUSE", 0)

    class Hangs(Says):
        async def run(self, argv, *, stdin=b"", timeout):
            if argv[0] == "sh":
                began.set()
                await asyncio.Event().wait()
            if argv[0] == "squeue":
                self.answers["squeue"] = said(queues.pop(0))
            return await super().run(argv, stdin=stdin, timeout=timeout)

    async def main():
        task = asyncio.ensure_future(Slurm(transport).submit(job()))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = asyncio.Event()
    transport = Hangs(scancel=said())
    asyncio.run(main())
    assert [argv[0] for argv in transport.asked] == asked
    assert transport.asked[-1] == ["scancel", "--name=jupyter-unique"]


def test_a_controller_that_does_not_answer_is_no_news_of_a_job():
    slurm = Slurm(Says(squeue=said(stderr="slurm_load_jobs error: Unable to contact slurm controller", returncode=1)))
    with pytest.raises(CommandError):
        asyncio.run(slurm.queue(["5"]))


@pytest.mark.parametrize("garbage", ["", "Welcome!\n", "\ufffd\x1b[2J\ufffd", f"5{SEP}RUNN"])
def test_an_answer_without_squeues_header_is_none(garbage):
    with pytest.raises(CommandError, match="cannot be understood"):
        asyncio.run(Slurm(Says(squeue=said(garbage))).queue(["5"]))


def test_many_submissions_are_spread():
    async def main():
        moments = []

        class Notes(Says):
            async def run(self, argv, *, stdin=b"", timeout):
                moments.append(asyncio.get_running_loop().time())
                return await super().run(argv, stdin=stdin, timeout=timeout)

        slurm = Slurm(Notes(sbatch=said("1\n")))
        await asyncio.gather(*(slurm.submit(job()) for _ in range(4)))
        return moments[-1] - moments[0]

    assert asyncio.run(main()) > 3 * slurm_module.SUBMIT_PAUSE * 0.9


def test_a_job_that_the_controller_forgot_is_an_answer():
    slurm = Slurm(Says(squeue=said(stderr="slurm_load_jobs error: Invalid job id specified", returncode=1)))
    assert asyncio.run(slurm.queue(["5"])) == {}


SQUEUE = """#!/bin/sh
echo "$*" >> "$0.calls"
printf 'JOBID\037PARTITION\037USER\037REASON\n'
for job in $(seq 1 3000); do printf '%s\037gpu\037user%s\037Priority\n' $job $job; done
"""


def test_a_huge_queue_is_read_so_far_and_no_further(tmp_path):
    squeue = tmp_path / "squeue"
    squeue.write_text(SQUEUE)
    squeue.chmod(0o755)
    slurm = Slurm(LocalTransport(), bin_dir=str(tmp_path))
    assert asyncio.run(slurm.positions({"5", "1500", "2500"}, {"gpu"})) == {
        "5": Position(5, "gpu"),
        "1500": Position(1500, "gpu"),
    }
    (call,) = (tmp_path / "squeue.calls").read_text().splitlines()
    assert "--states=PENDING --partition=gpu " in call


def test_cancelling_a_job_that_is_gone_is_no_error():
    slurm = Slurm(
        Says(scancel=said(stderr="scancel: error: Kill job error on job id 5: Invalid job id specified", returncode=1))
    )
    asyncio.run(slurm.cancel("5"))


# The submission's shell part, run for real with a stand-in for sbatch.

FAKE_SBATCH = """#!/bin/sh
{ echo "args: $*"; env | sort; echo "-- stdin"; cat; } > "$HOME/seen"
echo 42
"""


@pytest.fixture
def login_node(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(FAKE_SBATCH)
    sbatch.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return home


def submit_for_real(run_dir: str, **kwargs: str) -> str:
    request = '{"key": "secret with \\\\n and %s and \'quotes\'"}'
    return asyncio.run(Slurm(LocalTransport(), **kwargs).submit(job(run_dir, request, "#!/bin/bash\necho hi\n")))


def test_one_round_trip_makes_the_run_directory_and_submits(login_node):
    run_dir = login_node / "it's a dir $(x)" / "kernel"
    assert submit_for_real(str(run_dir), clusters="alpha") == "42"
    seen = (login_node / "seen").read_text()
    assert "args: --parsable --clusters=alpha\n" in seen
    assert seen.endswith("-- stdin\n#!/bin/bash\necho hi\n")
    request = run_dir / "request.json"
    assert request.read_text() == '{"key": "secret with \\\\n and %s and \'quotes\'"}\n'
    assert (run_dir / "about.json").read_text() == f"{ABOUT}\n"
    for path in (request, run_dir / "about.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    log = run_dir / "job.log"
    for path in (log, run_dir / "progress"):
        assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("", 0o600)


def shared_by_default(folder: os.PathLike[str]) -> None:
    """Have all that is made in a folder be everybody's: `setfacl -d -m u:nobody:rwx,g::rwx,o::rwx`, see acl(5)."""
    user_obj, user, group_obj, mask, other, nobody = 1, 2, 4, 16, 32, 65534
    entries = [(user_obj, 7, 2**32 - 1), (user, 7, nobody), *((tag, 7, 2**32 - 1) for tag in (group_obj, mask, other))]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder, "system.posix_acl_default", acl)


@pytest.mark.parametrize("there", [False, True])
def test_nobody_else_reaches_a_run_directory_in_a_folder_that_is_shared_by_default(login_node, there):
    shared_by_default(login_node)
    run_dir = login_node / "run"
    if there:
        run_dir.mkdir()
        assert stat.S_IMODE(run_dir.stat().st_mode) == 0o777
    submit_for_real(str(run_dir))
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700


def test_files_of_a_notebook_are_as_shared_as_the_user_wants_them(login_node):
    old = os.umask(0o002)
    try:
        (login_node.parent / "bin" / "sbatch").write_text('#!/bin/sh\numask > "$HOME/seen"\necho 42\n')
        submit_for_real(str(login_node / "run"))
    finally:
        os.umask(old)
    assert (login_node / "seen").read_text() == "0002\n"
    assert stat.S_IMODE((login_node / "run").stat().st_mode) == 0o700


def test_neither_options_nor_tokens_of_the_server_reach_sbatch(login_node, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "wrong")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("JUPYTER_TOKEN", "secret")
    monkeypatch.setenv("SLURM_CONF", "/etc/a slurm.conf")
    submit_for_real(str(login_node / "run"))
    seen = (login_node / "seen").read_text()
    assert "SBATCH_PARTITION" not in seen
    assert "SLURM_JOB_ID" not in seen
    assert "secret" not in seen
    assert "SLURM_CONF=/etc/a slurm.conf\n" in seen
    assert f"HOME={login_node}\n" in seen


def test_what_an_earlier_job_told_is_gone(login_node):
    run_dir = login_node / "run"
    run_dir.mkdir()
    (run_dir / "connection.json").write_text("{}")
    (run_dir / "progress").write_text("loading modules\n")
    submit_for_real(str(run_dir))
    assert not (run_dir / "connection.json").exists()
    assert (run_dir / "progress").read_text() == ""


def test_slurms_folder_may_be_named(login_node, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert submit_for_real(str(login_node / "run"), bin_dir=str(tmp_path / "bin")) == "42"


def test_no_sbatch(login_node, tmp_path):
    (tmp_path / "bin" / "sbatch").unlink()
    empty = tmp_path / "no slurm"
    empty.mkdir()
    for program in ("sh", "mkdir", "rm", "chmod", "readlink", "id", "env"):
        (empty / program).symlink_to(f"/usr/bin/{program}")
    os.environ["PATH"] = str(empty)
    with pytest.raises(CommandNotFoundError, match="login node"):
        submit_for_real(str(login_node / "run"))


def test_a_run_directory_that_cannot_be_made(login_node):
    (login_node / "file").write_text("")
    with pytest.raises(CommandError, match="cannot be written") as caught:
        submit_for_real(str(login_node / "file" / "run"))
    assert "state_dir" in str(caught.value)


def test_only_old_logs_of_failures_are_removed(tmp_path):
    old = time.time() - 8 * 86400

    def folder(name, *files, age=old):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("")
        os.utime(tmp_path / name, (age, age))
        return name

    kept = {
        folder(str(uuid.uuid4()), "job.log", age=time.time()),
        folder(str(uuid.uuid4()), "job.log", "connection.json"),
        folder(str(uuid.uuid4()), "job.log", "request.json"),
        folder(str(uuid.uuid4()), "thesis.tex"),
        folder("thesis", "job.log"),
    }
    folder(str(uuid.uuid4()), "about.json", "job.log", "progress")
    folder(str(uuid.uuid4()))
    asyncio.run(Slurm(LocalTransport()).prune(str(tmp_path)))
    assert set(os.listdir(tmp_path)) == kept


@pytest.mark.parametrize(("clusters", "shown"), [("", ()), ("gpu", ("--clusters=gpu",))])
def test_people_are_shown_the_command_that_they_know(clusters, shown):
    assert as_sbatch(submit_argv("alice", "/run", "/log", "/bin", clusters)) == ("sbatch", "--parsable", *shown)
