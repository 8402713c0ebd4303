"""What Slurm's programs said to this package on clusters of several releases, and the jobs of whom they said it.

`containers/record.py` writes the recordings; `unit/test_recorded.py` plays them to the package again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slurm_provisioner import batch
from slurm_provisioner.cli import checks
from slurm_provisioner.config import KernelConfig
from slurm_provisioner.credentials import Identity
from slurm_provisioner.environment import clean_environment
from slurm_provisioner.request import KernelCommand, Launch
from slurm_provisioner.submission import Submission, prepare
from slurm_provisioner.transport import Account, Completed

FOLDER = Path(__file__).parent / "unit" / "recorded"
HOME = "/home/alice"
#: The environment of the commands, as the package makes it on a login node.
ENVIRONMENT = clean_environment(
    {"HOME": HOME, "USER": "alice", "LOGNAME": "alice", "SHELL": "/bin/sh", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
)

_SLEEP = "import time; time.sleep(3600)"
_ONE_NODE = {"nodelist": "c2", "cpus_per_task": 64}
#: The jobs: what they ask for, and what they run in the supervisor's place. No name is another one's beginning.
JOBS: dict[str, tuple[dict[str, Any], str]] = {
    "done": ({}, ""),
    "failed": ({}, "raise SystemExit(3)"),
    "killed": ({}, "import os; os.kill(os.getpid(), 9)"),
    # a folder on the login host is a file on the node: slurmd makes folders that are not there, in newer releases
    "nolog": ({"log": "/tmp/login/%j.log"}, ""),
    "timeout": ({"time": "1m"}, _SLEEP),
    "running": ({}, _SLEEP),
    "gone": ({}, _SLEEP),
    "again": ({}, _SLEEP),
    "begin": ({}, _SLEEP),
    "held": ({}, _SLEEP),
    "frozen": ({}, _SLEEP),
    "closed": ({"partition": "gpu", "nodelist": "c2", "time": "3h"}, _SLEEP),
    "weak": ({"partition": "low", **_ONE_NODE}, _SLEEP),
    "whole": (_ONE_NODE, _SLEEP),
    "next": (_ONE_NODE, _SLEEP),
    "later": (_ONE_NODE, _SLEEP),
    "depends": ({"sbatch": {"dependency": "afterok:{running}"}}, _SLEEP),
    "never": ({"sbatch": {"dependency": "afterok:{failed}"}}, _SLEEP),
    "deaf": ({}, _SLEEP),
}
#: Those that may not start before an hour is over.
DELAYED = {"gone", "begin", "held", "frozen"}

#: What no cluster of ours takes.
REFUSED: dict[str, dict[str, Any]] = {
    "account": {"account": "nope"},
    "constraint": {"constraint": "nope"},
    "cpus": {"cpus_per_task": 65},
    "dependency": {"sbatch": {"dependency": "afterok:4711"}},
    "gpus": {"gpus": 5},
    "gputype": {"gpus": "nope:1"},
    "gres": {"gres": "nope:1"},
    "licenses": {"licenses": "nope"},
    "memory": {"mem": "100G"},
    "nodelist": {"nodelist": "nope"},
    "nodes": {"nodes": 3},
    "option": {"sbatch": {"nope": "1"}},
    "partition": {"partition": "nope"},
    "qos": {"qos": "nope"},
    "reservation": {"reservation": "nope"},
    "time": {"partition": "gpu", "time": "5h"},
}

#: What `jupyter slurm doctor` asks of a cluster.
LOOKS = (checks._commands, checks._controller, checks._accounting)


def submission(label: str, config: Mapping[str, Any], program: str = "", *, submitted: float = 0) -> Submission:
    """What the package submits for a configuration, with another program in the supervisor's place."""
    delay = 3600 if label in DELAYED else 0
    known = KernelConfig.model_validate({"time": "10m", "nodelist": "c1", "mem": "200M", **config})
    launch = Launch(label, "0" * 32, Identity("", ""), "", 0.0, [], submitted=submitted)
    job = prepare(known, KernelCommand([], {}, None, None, {}), Account("alice", HOME), launch, delay=delay)
    script = batch.render(
        known, job_name=job.job_name, run_dir=job.run_dir, home=HOME, launcher=f"{program}\n", delay=delay
    )
    return dataclasses.replace(job, script=script)


def job(label: str, ids: Mapping[str, str], *, submitted: float = 0) -> Submission:
    """One of the jobs; `ids` are those that are known."""
    config, program = JOBS[label]
    options = {name: value.format_map(ids) for name, value in config.get("sbatch", {}).items()}
    return submission(label, {**config, "sbatch": options}, program, submitted=submitted)


def refused(label: str, *, submitted: float = 0) -> Submission:
    """One that is refused."""
    spread = {"nodelist": None} if label in ("constraint", "gpus", "gputype", "nodes", "time", "partition") else {}
    return submission(f"no-{label}", {**spread, **REFUSED[label]}, submitted=submitted)


def asked(argv: Sequence[str]) -> str:
    """A command as it is written down: the text of a shell program is long, its name is enough."""
    if list(argv[:2]) == ["sh", "-c"]:
        return shlex.join(["sh", "-c", f"<{argv[3]}>", *argv[3:]])
    return shlex.join(argv)


def digest(argv: Sequence[str]) -> str:
    """The text of a shell program, in short."""
    return hashlib.sha256(argv[2].encode()).hexdigest()[:16]


def directives(script: str) -> list[str]:
    """What a batch script asks for."""
    return [line for line in script.splitlines() if line.startswith("#SBATCH ")]


@dataclasses.dataclass
class Recording:
    """What was said on one cluster.

    `said` has the answers of each scene; `shells` the digests of the shell programs, by name; `jobs` the ids by label.
    """

    version: str = ""
    shells: dict[str, str] = dataclasses.field(default_factory=dict)
    jobs: dict[str, str] = dataclasses.field(default_factory=dict)
    said: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)

    def answer(self, scene: str, argv: Sequence[str]) -> Completed:
        """What was said to a command; KeyError if it was not asked: the package asks something else by now."""
        for each in self.said[scene]:
            if each["command"] == asked(argv):
                texts = ("\n".join(each.get(name, [""])) for name in ("stdout", "stderr"))
                return Completed(tuple(argv), each["code"], *texts)
        raise KeyError(f"`{asked(argv)}` was not recorded in {scene!r}: scripts/containers record")


def load(path: Path) -> Recording:
    """Read a recording."""
    return Recording(**json.loads(path.read_text(encoding="utf-8")))


def save(recording: Recording, path: Path) -> None:
    """Write a recording so that two can be compared line by line."""
    path.write_text(json.dumps(dataclasses.asdict(recording), indent=1) + "\n", encoding="utf-8")
