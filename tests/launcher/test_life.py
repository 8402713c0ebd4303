"""The kernel's life and end, in the hands of the server side, of Slurm, and of time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from supervisors import FAKE_ARGV, Job, eventually


def restart(supervisor, job: Job, **kernel) -> dict:
    session = {**job.session, "key": job.session["key"] + "-2"}
    return supervisor.call("restart", kernel={**job.kernel, **kernel}, session=session)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends meanwhile
        return False


def test_a_signal_goes_to_the_whole_group(job: Job):
    notes = job.base / "notes"
    job.ask("spawn", notes=str(notes))
    with job.supervisor() as supervisor:
        assert supervisor.call("signal", signum=signal.SIGINT)["ok"]
        job.ask("await-interrupt")
        eventually(notes.exists, "the grandchild's note")


@pytest.mark.every_python
def test_an_exit_code_is_told_with_the_log(make_job):
    job = make_job(crash_grace=0.2).start()
    grandchild = job.ask("spawn", notes=str(job.base / "notes"), manner="stubborn")["pid"]
    job.ask("print", text="".join(f"line {number}\n" for number in range(30)))
    with job.supervisor() as supervisor:
        pid = supervisor.first["pid"]
        with pytest.raises(AssertionError, match="without an answer"):
            job.ask("exit", code=7)
        exited, ending, bye = supervisor.until_end()
        assert exited == {
            "event": "exited",
            "pid": pid,
            "generation": 1,
            "code": 7,
            "signal": None,
            "oom": False,
            "expected": False,
            "log": [f"line {number}" for number in range(10, 30)],
        }
        assert ending == {"event": "ending", "reason": "crash-grace"}
        assert bye == {"event": "bye", "reason": "crash-grace"}
    assert job.wait() == 7
    eventually(lambda: not alive(grandchild), "the end of what the kernel has left behind")


def test_a_signal_that_ended_the_kernel_is_told(make_job):
    job = make_job(crash_grace=3.0).start()
    with job.supervisor() as supervisor:
        assert supervisor.call("signal", signum=signal.SIGKILL)["ok"]
        exited = supervisor.event("exited", code=None, signal=9, expected=False)
        status = supervisor.call("status")
        assert (status["state"], status["pid"], status["code"], status["signal"]) == ("exited", None, None, 9)
        assert status["log"] == exited["log"]
        assert "not running" in supervisor.call("signal", signum=2)["error"]
        assert supervisor.until_end()[-1] == {"event": "bye", "reason": "crash-grace"}
    assert job.wait() == 128 + 9


@pytest.mark.every_python
def test_restart_in_place(job: Job):
    with job.supervisor() as supervisor, job.stream("shell") as shell:
        shell.sendall(b"x")
        assert shell.recv(1) == b"x"
        before = job.ask("report")
        files = sorted(job.private_dirs[0].iterdir())
        assert restart(supervisor, job, env={"AGAIN": "yes"})["ok"]
        exited = supervisor.event("exited", generation=1, expected=True, signal=15)
        started = supervisor.event("started", generation=2)
        assert started["pid"] != exited["pid"] == before["pid"]
        supervisor.event("ready", generation=2)
        assert shell.recv(1) == b""
        after = job.ask("report")
        assert after["pid"] == started["pid"]
        assert after["argv"] == before["argv"]
        assert after["environ"]["AGAIN"] == "yes"
        assert after["info"] == {**before["info"], "key": before["info"]["key"] + "-2"}
        assert sorted(job.private_dirs[0].iterdir()) == files


@pytest.mark.every_python
def test_of_a_signal_to_all_of_the_job_it_is_the_jobs_end_that_is_told_first(make_job):
    """Slurm's signal to the supervisor and the kernel's end are often there at the same time."""
    job = make_job(crash_grace=60.0).start()
    with job.supervisor() as supervisor:
        kernel = supervisor.first["pid"]
        job.process.send_signal(signal.SIGSTOP)
        os.kill(kernel, signal.SIGKILL)
        eventually(lambda: not alive(kernel), "the kernel's end")
        job.process.send_signal(signal.SIGTERM)
        job.process.send_signal(signal.SIGCONT)
        ending, exited, bye = supervisor.until_end()
        assert ending == {"event": "ending", "reason": "terminated"}
        assert (exited["event"], exited["signal"]) == ("exited", signal.SIGKILL)
        assert bye == {"event": "bye", "reason": "terminated"}
    assert job.wait() == 143


def test_restart_within_the_grace(make_job):
    job = make_job(crash_grace=60.0).start()
    with job.supervisor() as supervisor:
        supervisor.call("signal", signum=signal.SIGKILL)
        supervisor.event("exited")
        answer = restart(supervisor, job)
        assert answer == {"re": 2, "ok": True, "pid": answer["pid"], "generation": 2}
        supervisor.event("ready", generation=2)
        assert supervisor.call("status")["state"] == "ready"


def test_a_restart_ends_the_grace(make_job):
    job = make_job(crash_grace=3.0).start()
    with job.supervisor() as supervisor:
        supervisor.call("signal", signum=signal.SIGKILL)
        exited_at = time.monotonic()
        supervisor.event("exited")
        assert restart(supervisor, job)["ok"]
        supervisor.event("ready", generation=2)
        while time.monotonic() < exited_at + 3.2:
            assert supervisor.call("status")["state"] == "ready"
            time.sleep(0.05)


def test_a_restart_that_fails_leaves_time_for_another(job: Job):
    with job.supervisor() as supervisor:
        refusal = restart(supervisor, job, argv=["/none/such"])
        assert refusal["ok"] is False
        assert "'/none/such': No such file" in refusal["error"]
        assert supervisor.call("status")["state"] == "exited"
        assert restart(supervisor, job)["ok"]
        supervisor.event("ready", generation=2)


def test_a_restart_that_fails_again_and_again_ends_in_the_grace(make_job):
    job = make_job(crash_grace=3.0).start()
    with job.supervisor() as supervisor:
        assert not restart(supervisor, job, argv=["/none/such"])["ok"]
        assert not restart(supervisor, job, argv=["/none/such"])["ok"]
        assert supervisor.until_end()[-1] == {"event": "bye", "reason": "crash-grace"}
    assert job.wait() == 143


def test_two_restarts_at_once_are_one(make_job):
    job = make_job(stop_timeout=600.0).start()
    job.ask("ignore-term")
    with job.supervisor() as supervisor:
        first = supervisor.send("restart", kernel=job.kernel, session=job.session)
        second = supervisor.send("restart", kernel=job.kernel, session=job.session)
        assert "a restart is under way" in supervisor.answer(second)["error"]
        job.process.send_signal(signal.SIGUSR2)
        assert supervisor.answer(first)["ok"]
        assert supervisor.call("status")["generation"] == 2


def test_stop_while_a_restart_is_under_way(make_job):
    job = make_job(stop_timeout=600.0).start()
    job.ask("ignore-term")
    with job.supervisor() as supervisor:
        first = supervisor.send("restart", kernel=job.kernel, session=job.session)
        assert supervisor.call("stop") == {"re": 2, "ok": True}
        job.process.send_signal(signal.SIGUSR2)
        messages = supervisor.until_end()
        refusal = next(message for message in messages if message.get("re") == first)
        assert refusal["ok"] is False
        assert "ending" in refusal["error"]
        assert [message["event"] for message in messages if "event" in message] == ["ending", "exited", "bye"]
    assert job.wait() == 0


def test_slurms_end_while_a_restart_is_under_way(make_job):
    job = make_job(stop_timeout=600.0).start()
    job.ask("ignore-term")
    with job.supervisor() as supervisor:
        first = supervisor.send("restart", kernel=job.kernel, session=job.session)
        assert supervisor.call("status")["generation"] == 1
        job.process.terminate()
        supervisor.event("ending")
        job.process.send_signal(signal.SIGUSR2)
        exited, refusal, bye = supervisor.until_end()
        assert exited["event"] == "exited"
        assert refusal == {"re": first, "ok": False, "error": "the job is ending"}
        assert bye == {"event": "bye", "reason": "terminated"}
    assert job.wait() == 143


def test_a_restart_after_the_stop_is_refused(make_job):
    job = make_job(stop_timeout=600.0).start()
    job.ask("ignore-term")
    with job.supervisor() as supervisor:
        assert supervisor.call("stop")["ok"]
        answer = supervisor.call("restart", kernel=job.kernel, session=job.session)
        assert answer == {"re": 2, "ok": False, "error": "the job is ending"}
        job.process.send_signal(signal.SIGUSR2)
        assert [message["event"] for message in supervisor.until_end()] == ["ending", "exited", "bye"]
    assert job.wait() == 0


def test_a_lease_that_runs_out(make_job):
    job = make_job(lease=5.0).start()
    with job.supervisor(ready=False) as supervisor:
        *_, ending, exited, bye = supervisor.until_end()
        assert ending == {"event": "ending", "reason": "lease"}
        assert exited["expected"] is True
        assert bye == {"event": "bye", "reason": "lease"}
    assert job.wait() == 0


def test_a_persistent_kernel_has_no_lease(make_job):
    job = make_job(lease=None).start()
    with job.supervisor() as supervisor:
        assert supervisor.call("lease")["ok"]
        assert supervisor.call("status")["lease_left"] is None


@pytest.mark.every_python
def test_signals_to_the_supervisor(make_job):
    job = make_job().start()
    with job.supervisor() as supervisor:
        job.process.send_signal(signal.SIGCONT)
        job.process.send_signal(signal.SIGINT)
        job.ask("await-interrupt")
        job.process.send_signal(signal.SIGUSR1)
        assert supervisor.event("time-left") == {"event": "time-left", "seconds": 300}
        job.process.send_signal(signal.SIGUSR2)
        supervisor.event("exited", signal=9, expected=False)
        job.process.send_signal(signal.SIGINT)  # nobody is there to have it
        assert supervisor.call("status")["state"] == "exited"
        restart(supervisor, job)
        supervisor.event("ready", generation=2)
        job.process.send_signal(signal.SIGQUIT)
        supervisor.event("exited", signal=15, expected=False)
        restart(supervisor, job)
        supervisor.event("ready", generation=3)
        job.process.terminate()
        job.process.terminate()
        ending, exited, bye = supervisor.until_end()
        assert ending == {"event": "ending", "reason": "terminated"}
        assert exited["event"] == "exited"
        assert exited["expected"] is True
        assert bye == {"event": "bye", "reason": "terminated"}
    assert job.wait() == 143


def test_the_time_left_is_slurms_if_it_says(make_job):
    job = make_job()
    job.environ["SLURM_JOB_END_TIME"] = str(int(time.time()) + 1000)
    job.start()
    with job.supervisor() as supervisor:
        job.process.send_signal(signal.SIGUSR1)
        assert 900 < supervisor.event("time-left")["seconds"] <= 1000


def test_slurms_end_while_the_grace_runs(job: Job):
    with job.supervisor() as supervisor:
        supervisor.call("signal", signum=signal.SIGKILL)
        supervisor.event("exited")
        job.process.terminate()
        assert supervisor.until_end()[-1] == {"event": "bye", "reason": "terminated"}
    assert job.wait() == 143


def test_a_kernel_that_ignores_sigterm(make_job):
    job = make_job(stop_timeout=600.0, constants={"FINISH_SECONDS": 0.3}).start()
    job.ask("ignore-term")
    with job.supervisor() as supervisor:
        job.process.terminate()
        _, exited, bye = supervisor.until_end()
        assert (exited["signal"], exited["expected"]) == (9, True)
        assert bye["reason"] == "terminated"
    assert job.wait() == 143


@pytest.mark.every_python
def test_a_kernel_that_slurm_ends_may_finish_its_work_unless_the_user_is_in_a_hurry(make_job):
    job = make_job(stop_timeout=0.1, constants={"FINISH_SECONDS": 600.0}).start()
    job.ask("ignore-term")
    with job.supervisor() as supervisor:
        job.process.terminate()
        assert supervisor.event("ending", reason="terminated")
        time.sleep(0.5)
        assert job.ask("report")["pid"] == supervisor.first["pid"]
        assert supervisor.call("stop")["ok"]
        assert supervisor.event("exited")["signal"] == 9
        assert supervisor.until_end() == [{"event": "bye", "reason": "terminated"}]
    assert job.wait() == 143


def test_the_end_is_told_at_once(make_job):
    job = make_job(stop_timeout=600.0).start()
    job.ask("ignore-term")
    with job.supervisor() as supervisor:
        assert supervisor.call("status")["ending"] is None
        assert supervisor.call("stop")["ok"]
        assert supervisor.event("ending") == {"event": "ending", "reason": "stop"}
        status = supervisor.call("status")
        assert (status["state"], status["ending"]) == ("ready", "stop")
        job.process.terminate()  # the first reason counts
        with job.supervisor() as late:
            assert late.first["ending"] == "stop"
        job.process.send_signal(signal.SIGUSR2)
        assert [message["event"] for message in supervisor.until_end()] == ["exited", "bye"]
    assert job.wait() == 0


def test_a_kernel_that_is_stopped_can_be_ended_orderly(make_job):
    job = make_job(stop_timeout=600.0).start()
    with job.supervisor() as supervisor:
        assert supervisor.call("signal", signum=signal.SIGSTOP)["ok"]
        supervisor.call("stop")
        assert supervisor.event("exited")["signal"] == signal.SIGTERM
        assert supervisor.until_end()[-1]["event"] == "bye"
    assert job.wait() == 0


def test_descendants_of_a_shell_script_have_time_to_end(make_job):
    """The shell, which leads the group, ends at once; the kernel it has started takes a little longer."""
    job = make_job(stop_timeout=60.0)
    kernel = f"trap 'sleep 0.2; touch {job.base}/orderly; exit' TERM; touch {job.base}/up; while :; do sleep 0.05; done"
    job.kernel["argv"] = ["sh", "-c", f"trap 'exit 0' TERM; ({kernel}) & wait"]
    job.start()
    eventually((job.base / "up").exists, "the kernel")
    with job.supervisor(ready=False) as supervisor:
        supervisor.call("stop")
        assert supervisor.until_end()[-1]["event"] == "bye"
    assert job.wait() == 0
    assert (job.base / "orderly").exists()


def test_a_grandchild_that_ignores_sigterm_is_killed(make_job):
    job = make_job(stop_timeout=3.0).start()
    notes = job.base / "notes"
    grandchild = job.ask("spawn", notes=str(notes), manner="stubborn")["pid"]
    with job.supervisor() as supervisor:
        supervisor.call("stop")
        supervisor.until_end()
    assert job.wait() == 0
    assert notes.read_text() == f"{signal.SIGTERM:d}\n"
    eventually(lambda: not alive(grandchild), "the grandchild's end")


def test_a_run_directory_that_has_vanished(job: Job):
    with job.supervisor() as supervisor:
        aside = job.base / "aside"
        job.run_dir.rename(aside)
        shutil.copytree(aside, job.base / "copy")
        assert supervisor.call("log", lines=1)["ok"]
        supervisor.call("stop")
        assert supervisor.until_end()[-1]["event"] == "bye"
    assert job.wait() == 0
    aside.rename(job.run_dir)


def test_the_supervisor_is_killed(job: Job):
    """Nothing can be done then but by Slurm, or by a kernel that watches its parent; here the test cleans up."""
    with job.supervisor() as supervisor:
        pid = supervisor.first["pid"]
    job.process.send_signal(signal.SIGKILL)
    job.wait()
    subprocess.run(["kill", "-KILL", str(pid)], check=True)
    for private in job.private_dirs:
        shutil.rmtree(private)


def test_a_kernel_that_never_binds(make_job):
    job = make_job()
    job.kernel["argv"] = [*FAKE_ARGV, str(job.base / "never")]
    job.start()
    with job.supervisor(ready=False) as supervisor, job.stream("shell") as shell:
        assert supervisor.call("status")["state"] == "starting"
        assert supervisor.call("stop")["ok"]
        assert supervisor.until_end()[-1]["event"] == "bye"
        assert shell.recv(1) == b""
    assert job.wait() == 0


@pytest.mark.every_python
def test_a_run_directory_that_is_anothers_by_now_is_left_alone(job: Job):
    told = job.run_dir / "connection.json"
    told.write_text(json.dumps({**job.connection, "nonce": "another"}))
    with job.supervisor() as supervisor:
        supervisor.call("stop")
        supervisor.until_end()
    assert job.wait() == 0
    assert job.files == ["connection.json", "job.log"]


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"nonce": 1}', b"\xff".decode("latin-1")])
def test_a_connection_file_that_is_no_more_ours_to_read(job: Job, text):
    assert job.connection
    (job.run_dir / "connection.json").write_text(text, encoding="latin-1")
    with job.supervisor() as supervisor:
        supervisor.call("stop")
        assert supervisor.until_end()[-1]["event"] == "bye"
    assert job.wait() == 0


def test_a_file_system_that_hangs_does_not_keep_the_job(make_job):
    job = make_job(constants={"LAST_FLUSH_SECONDS": 0.1}).start()
    assert job.connection
    told = job.run_dir / "connection.json"
    told.unlink()
    os.mkfifo(told)  # opened for ever
    with job.supervisor() as supervisor:
        supervisor.call("stop")
        assert supervisor.until_end()[-1]["event"] == "bye"
    assert job.wait() == 0


# Forgotten by Slurm


def squeue(job: Job, script: str) -> list[str]:
    """A command that notes how it was asked, and answers by a shell script."""
    return ["sh", "-c", f'echo "$1 ${{SLURM_CLUSTERS-}}" >> {job.base}/asked; {script}', "squeue", "--jobs={job_id}"]


def times_asked(job: Job) -> int:
    asked = job.base / "asked"
    return len(asked.read_text().splitlines()) if asked.exists() else 0


@pytest.mark.every_python
@pytest.mark.parametrize(
    "answer", ["echo NODE_FAIL", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"]
)
def test_a_job_that_slurm_has_given_up_ends(make_job, answer):
    job = make_job(lease=None, constants={"FORGOTTEN_SECONDS": 2.0})  # longer than an answer can take
    job.request["squeue"] = squeue(job, answer)
    job.environ["SLURM_CLUSTERS"] = "elsewhere"
    job.start()
    assert job.wait() == 0
    assert (job.base / "asked").read_text() == "--jobs=1234 \n"
    assert "the job ends: Slurm has given the job up" in job.log
    assert job.files == ["job.log"]


def test_slurm_is_asked_only_while_the_server_is_away(make_job):
    job = make_job(constants={"FORGOTTEN_SECONDS": 2.0})  # longer than an answer can take
    job.request["squeue"] = squeue(job, f"[ -e {job.base}/gone ] && echo PENDING || echo RUNNING")
    job.start()
    with job.supervisor():
        eventually(lambda: len(job.processes()) == 2, "the end of a question that came before us")
        before = times_asked(job)
        (job.base / "gone").touch()
        time.sleep(4.5)
        assert times_asked(job) == before
    assert job.wait() == 0
    assert times_asked(job) == before + 1


NO_ANSWERS = {
    "living": "echo RUNNING",
    "unknown": "echo EXPLODED",
    "banner": "echo 'Welcome to the cluster'; echo NODE_FAIL",
    "nothing": ":",
    "trouble": "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
    "failed": "echo NODE_FAIL; exit 1",
    "absent": "exec no-such-squeue",
    "hanging": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; sleep 1000; :",
}


@pytest.mark.parametrize("script", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_only_a_definite_answer_ends_the_job(make_job, script):
    job = make_job(constants={"FORGOTTEN_SECONDS": 0.3, "ASK_SECONDS": 0.2})
    job.request["squeue"] = squeue(job, script)
    job.environ["SLURM_JOB_END_TIME"] = str(int(time.time()) - 100)  # Slurm may be late
    job.start()
    eventually(lambda: times_asked(job) >= 3, "the third question")
    with job.supervisor() as supervisor:
        assert supervisor.first["ending"] is None
        eventually(lambda: len(job.processes()) == 2, "the end of the questions")
    assert job.log == ""


def test_a_question_that_is_open_when_the_job_ends(make_job):
    job = make_job(constants={"FORGOTTEN_SECONDS": 0.3, "ASK_SECONDS": 600.0})
    job.request["squeue"] = squeue(job, "trap '' TERM; sleep 1000; :")
    job.start()
    eventually(lambda: times_asked(job), "the question")
    job.process.terminate()
    assert job.wait() == 143
    eventually(lambda: not job.processes(), "the end of the question")


@pytest.mark.parametrize("answer", [None, "exit 1", "echo RUNNING"])
def test_a_job_beyond_its_time_that_nobody_knows_ends(make_job, answer):
    job = make_job(lease=None, constants={"FORGOTTEN_SECONDS": 0.3})
    job.request["squeue"] = answer and squeue(job, answer)
    job.environ["SLURM_JOB_END_TIME"] = str(int(time.time()) - 1000)
    job.start()
    if answer == "echo RUNNING":
        eventually(lambda: times_asked(job) >= 3, "the third question")
        assert job.process.poll() is None
    else:
        assert job.wait() == 0
        assert "the job ends: Slurm has given the job up" in job.log


def test_a_job_without_a_number_is_not_asked_for(make_job):
    """squeue would call that an invalid job id."""
    job = make_job(constants={"FORGOTTEN_SECONDS": 0.1})
    job.request["squeue"] = squeue(job, "echo NODE_FAIL")
    job.environ["SLURM_JOB_ID"] = ""
    job.start()
    assert job.connection
    time.sleep(1)
    assert times_asked(job) == 0
    assert job.process.poll() is None
