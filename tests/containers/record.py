"""Record what Slurm's programs say to this package, on a cluster in containers that nobody else uses.

    python3 record.py PROJECT FILE

PROJECT is the compose project of docker-compose.yml; FILE gets what `recordings.Recording` has. Each command is one
that the package itself asks for, run as alice on the login host. Other commands, which bring the jobs where they are to
be, are not recorded.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hosts import Hosts
from recordings import (
    ENVIRONMENT,
    HOME,
    JOBS,
    LOOKS,
    REFUSED,
    Recording,
    asked,
    digest,
    directives,
    job,
    refused,
    save,
    submission,
)

from slurm_provisioner import checkup, kernels, status
from slurm_provisioner import slurm as slurm_module
from slurm_provisioner.cli import checks
from slurm_provisioner.errors import CommandError
from slurm_provisioner.slurm import Slurm
from slurm_provisioner.status import SEPARATOR
from slurm_provisioner.transport import Completed
from slurm_provisioner.transport.local import LocalTransport

#: Seconds that something on the cluster may take.
PATIENCE = 150
#: The id of a job that nobody has.
UNKNOWN = "4711"
#: The lines of the cluster's rules that the package reads.
RULES = re.compile(r"^(?:AccountingStorageEnforce|ClusterName|EnforcePartLimits|SLURM_VERSION)\b.*", re.MULTILINE)


def short(stdout: str, scene: str) -> str:
    """An output without what fills it: columns of blanks, and rules of the cluster that were told already."""
    text = re.sub(" {3,}", "  ", stdout) if SEPARATOR in stdout else stdout
    if scene != "healthy":
        text = re.sub(r"(?<=\x1erules\n)[^\x1e]*", lambda rules: "\n".join(RULES.findall(rules[0])) + "\n", text)
    return text


class Recorder(LocalTransport):
    """Runs commands as alice on the login host, and writes down what they say."""

    def __init__(self, hosts: dict[str, str]) -> None:
        self.hosts = hosts
        self.recording = Recording()
        self.scene = ""

    def begin(self, scene: str) -> None:
        """What comes next belongs to a scene."""
        print(f"{time.strftime('%H:%M:%S')} {scene}", flush=True)
        self.scene = scene

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        entry: dict[str, Any] = {"command": asked(argv)}
        self.recording.said.setdefault(self.scene, []).append(entry)
        if list(argv[:2]) == ["sh", "-c"]:
            self.recording.shells[argv[3]] = digest(argv)
        if "submit" in argv:
            entry["stdin"] = directives(stdin.decode())
        # what a slow answer is, counts here, and not that the package would not wait for it
        done = await self.on("login", *argv, stdin=stdin)
        entry["code"] = done.returncode
        for name, text in ("stdout", short(done.stdout, self.scene)), ("stderr", done.stderr):
            if text:
                entry[name] = text.split("\n")
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)

    async def on(
        self, host: str, *argv: str, user: str = "alice", stdin: bytes = b"", timeout: float = PATIENCE
    ) -> Completed:
        """Run something that is not written down."""
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        enter = ["docker", "exec", "--interactive", "--user", user, "--workdir", HOME if user == "alice" else "/"]
        return await super().run(
            [*enter, self.hosts[host], "env", "-i", *variables, *argv], stdin=stdin, timeout=timeout
        )

    async def docker(self, verb: str, host: str) -> None:
        """Start, stop or kill a host."""
        await super().run(["docker", verb, self.hosts[host]], timeout=PATIENCE)


class Scenario:
    """What happens."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.slurm = Slurm(recorder)
        self.ids = recorder.recording.jobs
        self.began = time.time()

    async def play(self) -> None:
        begin = self.recorder.begin
        begin("healthy")
        await self.ask_about_cluster()
        begin("unknown job")
        await self.ask_about(UNKNOWN)
        await self.slurm.cancel(UNKNOWN)
        await self.slurm.cancel_named("nope")
        await self.refusals()
        await self.first_jobs()
        await self.second_jobs()
        await self.waiting_jobs()
        await self.ends()
        begin("listing")
        await self.list_all()
        begin("accounting down")
        await self.down("slurmdbd")
        await asyncio.gather(self.ask_about_cluster(), self.ask_about(self.ids["done"]))
        await self.up("slurmdbd")
        begin("controller down")
        await self.controller_down()
        begin("forgotten job")
        await self.until(self.forgotten, "a job that is forgotten")
        await self.ask_about(self.ids["done"])
        await self.slurm.queue([self.ids["done"], self.ids["begin"]])
        await self.list_all()

    async def refusals(self) -> None:
        self.recorder.begin("forecast")
        with suppress(CommandError):
            await self.slurm.forecast(submission("fits", {}).script)
        for label in REFUSED:
            self.recorder.begin(f"refused: {label}")
            with suppress(CommandError):
                await self.slurm.forecast(refused(label).script)
            with suppress(CommandError):
                self.ids[f"no-{label}"] = await self.slurm.submit(refused(label))
            await self.recorder.on("login", "rm", "-r", refused(label).run_dir)

    async def first_jobs(self) -> None:
        await self.root("scontrol", "update", "PartitionName=gpu", "State=DOWN")
        await self.recorder.on("c1", "touch", "/tmp/login")
        for label in JOBS:
            if label not in ("whole", "next", "later", "depends", "never", "deaf"):
                await self.submit(label)
        await self.becomes("weak", "RUNNING")

    async def second_jobs(self) -> None:
        await self.submit("whole")
        await self.becomes("failed", "FAILED")
        await self.submit("depends")
        await self.submit("never")
        await self.becomes("whole", "RUNNING")
        await self.submit("next")
        await self.becomes("next", "PENDING", "Resources")
        # one whose other user's job is in between
        theirs = [
            "--array=1-2",
            "--nodelist=c2",
            "--cpus-per-task=64",
            "--mem=200",
            "--chdir=/tmp",
            "--output=/dev/null",
        ]
        await self.recorder.on("login", "sbatch", "--wrap=true", *theirs, user="bob")
        await self.submit("later")

    async def waiting_jobs(self) -> None:
        await self.becomes("later", "PENDING", "Priority")
        await self.becomes("depends", "PENDING", "Dependency")
        await self.becomes("never", "PENDING", "DependencyNeverSatisfied")
        await self.becomes("begin", "PENDING", "BeginTime")
        await self.becomes("closed", "PENDING", "PartitionDown")
        await self.recorder.on("login", "scontrol", "hold", self.ids["held"])
        await self.root("scontrol", "hold", self.ids["frozen"])
        for label in ("running", "next", "later", "depends", "never", "begin", "held", "frozen", "closed"):
            await self.ask_about_state(label)
        self.recorder.begin("positions")
        await self.slurm.positions({self.ids["next"], self.ids["later"]}, {"debug"})
        await self.root("scontrol", "update", "PartitionName=gpu", "State=UP", "MaxTime=01:00:00")
        await self.becomes("closed", "PENDING", "PartitionTimeLimit")
        await self.ask_about_state("closed", "too long for its partition")
        await self.root("scontrol", "update", "PartitionName=gpu", "MaxTime=04:00:00")
        await self.slurm.cancel(self.ids["closed"])

    async def ends(self) -> None:
        self.recorder.begin("steering")
        await self.slurm.signal(self.ids["running"], "URG")
        for label in ("running", "gone"):
            await self.slurm.cancel(self.ids[label])
        await self.recorder.on("login", "scontrol", "update", f"JobId={self.ids['again']}", "Requeue=1")
        await self.root("scontrol", "requeue", self.ids["again"])
        await self.becomes("again", "PENDING", "BeginTime")
        await self.ask_about_state("again")
        await self.slurm.cancel(self.ids["again"])
        await self.becomes("running", "CANCELLED")
        self.recorder.begin("steering what is over")
        await self.slurm.cancel(self.ids["running"])
        with suppress(CommandError):
            await self.slurm.signal(self.ids["running"], "INT")
        await self.recorder.docker("kill", "c2")
        await self.becomes("weak", "PREEMPTED")
        await self.becomes("timeout", "TIMEOUT")
        await self.becomes("whole", "NODE_FAIL")
        await self.recorder.docker("start", "c2")
        for label in ("done", "failed", "killed", "nolog", "timeout", "gone", "weak", "whole"):
            await self.ask_about_state(label)
        await self.ask_about_state("running", "cancelled")

    async def controller_down(self) -> None:
        # so that it forgets soon what is over
        await self.root("sed", "-i", "s/^MinJobAge=.*/MinJobAge=2/", "/etc/slurm/policy.conf")
        await self.down("slurmctld")
        slurm_module.FIND_TRIES, slurm_module.FIND_PAUSE = 1, 0.0

        async def fails(call: Any) -> None:
            with suppress(CommandError):
                await call

        await asyncio.gather(
            self.ask_about_cluster(),
            self.ask_about(self.ids["begin"]),
            fails(self.slurm.submit(job("deaf", self.ids, submitted=self.began))),
            fails(self.slurm.forecast(submission("fits", {}).script)),
            fails(self.slurm.cancel(self.ids["begin"])),
            fails(self.slurm.positions({self.ids["begin"]}, {"debug"})),
        )
        await self.up("slurmctld")

    # What is asked

    async def ask_about_cluster(self) -> None:
        cluster: Any = SimpleNamespace(transport=self.recorder, slurm=self.slurm)
        for look in LOOKS:
            with suppress(CommandError, checks.ProblemError):
                await look(cluster)
        await self.slurm.offers()

    async def ask_about(self, job_id: str) -> None:
        for argv in (
            status.queue_argv([job_id]),
            status.state_argv(job_id),
            status.control_argv(job_id),
            status.account_argv(job_id),
        ):
            await self.recorder.run(argv, timeout=slurm_module.SUBMIT_TIMEOUT)

    async def ask_about_state(self, label: str, scene: str = "") -> None:
        self.recorder.begin(scene or label)
        await self.ask_about(self.ids[label])

    async def list_all(self) -> None:
        await kernels.find(self.slurm, ["~/.slurm_provisioner"])

    # What is done

    async def submit(self, label: str) -> None:
        self.recorder.begin(label)
        self.ids[label] = await self.slurm.submit(job(label, self.ids, submitted=self.began))

    async def root(self, *argv: str) -> Completed:
        return await self.recorder.on("slurmctld", *argv, user="root")

    async def down(self, daemon: str) -> None:
        """Stop a daemon, whose host has its name."""
        await self.recorder.on(daemon, "pkill", "-x", daemon, user="root")

        async def is_down() -> bool:
            return (await self.recorder.on(daemon, "pgrep", "-x", daemon, user="root")).returncode != 0

        await self.until(is_down, f"{daemon} has ended")

    async def up(self, daemon: str) -> None:
        """Start a daemon again."""
        host = ["env", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/bin", "host"]
        await self.recorder.on(daemon, "setsid", "--fork", *host, "daemon", daemon, user="root")

        async def is_well() -> bool:
            return (await self.recorder.on(daemon, *host, "well", daemon, user="root")).returncode == 0

        await self.until(is_well, f"{daemon} is well")

    async def becomes(self, label: str, state: str, reason: str = "") -> None:
        """Wait for a state."""

        async def is_so() -> bool:
            which = f"--jobs={self.ids[label]}"
            done = await self.root("squeue", "--noheader", "--states=all", "--format=%T %r", which)
            now, _, why = done.stdout.strip().partition(" ")
            return now == state and why.startswith(reason)

        await self.until(is_so, f"{label} {state} {reason}")

    async def forgotten(self) -> bool:
        return (await self.root("scontrol", "show", "job", self.ids["done"])).returncode != 0

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not await condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"never happened: {what}")
            await asyncio.sleep(0.5)


async def main(project: str, path: str) -> None:
    hosts = Hosts(project, os.getuid()).hosts
    recorder = Recorder({name: str(host.id) for name, host in hosts.items()})
    await Scenario(recorder).play()
    found = checkup.parse_programs("\n".join(recorder.recording.said["healthy"][0]["stdout"]))
    recorder.recording.version = found.version
    save(recorder.recording, Path(path))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
