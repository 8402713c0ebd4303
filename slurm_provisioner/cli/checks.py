"""What can be checked of a kernelspec without a job, from near to far."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from .. import checkup
from ..batch import expand_home
from ..cluster import Cluster
from ..config import KernelConfig
from ..errors import CommandError, CommandNotFoundError, SlurmProvisionerError
from ..fit import misfits, passed_over
from ..folder import PrivateFolder
from ..quantities import format_duration
from ..sbatch import complaint_of
from ..slurm import failed
from .asking import ask, place_of
from .kernelspecs import GROUP, PROVISIONER
from .rendering import prepared

__all__ = ["FAILED", "OK", "SKIPPED", "WARNING", "Finding", "ProblemError", "before_a_job", "examine"]

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
_TIMEOUT = 30.0
#: Free kilobytes of `state_dir` below which there is something to say.
_LITTLE = 100 * 1024


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes
    ----------
    check : str
        What was checked.
    verdict : str
        `OK`, `WARNING`, `FAILED` or `SKIPPED`.
    words : str
        What was found.
    evidence : tuple of str
        What shows it.
    hint : str
        What to do.
    seconds : float
        How long it took.
    """

    check: str
    verdict: str
    words: str
    evidence: tuple[str, ...] = ()
    hint: str = ""
    seconds: float = field(default=0.0, compare=False)


class ProblemError(SlurmProvisionerError):
    """Something that is wrong, or, as a `warning`, not as it should be."""

    def __init__(self, summary: str, *, warning: bool = False, **more: Any) -> None:
        super().__init__(summary, **more)
        self.warning = warning


def examine(check: str, look: Callable[[], str]) -> Finding:
    """Return what a check finds; `look` returns what is well, or raises."""
    begin = time.monotonic()
    try:
        finding = Finding(check, OK, look())
    except SlurmProvisionerError as error:
        verdict = WARNING if isinstance(error, ProblemError) and error.warning else FAILED
        finding = Finding(check, verdict, error.summary, error.evidence, error.hint)
    return replace(finding, seconds=time.monotonic() - begin)


def before_a_job(config: KernelConfig) -> Iterator[Finding]:
    """Yield what is found without a job, up to what makes all the rest useless."""
    yield examine("installation", _installation)
    yield examine("sockets", _sockets)
    if config.ssh is not None:
        finding = examine(f"ssh {config.ssh.address}", lambda: _login(config))
        yield finding
        if finding.verdict == FAILED:
            return
    place = place_of(config)
    finding = examine("commands", lambda: ask(place, _commands, ""))
    yield finding
    if finding.verdict == FAILED:
        return
    yield examine("controller", lambda: ask(place, _controller, ""))
    yield examine("accounting", lambda: ask(place, _accounting, ""))
    yield examine("state_dir", lambda: ask(place, lambda cluster: _state_dir(cluster, config.state_dir), ""))
    yield examine("request", lambda: ask(place, lambda cluster: _request(cluster, config), ""))
    yield examine("sbatch", lambda: _forecast(config))
    yield examine("lease", lambda: _lease(config))


def _installation() -> str:
    named = {entry.value: entry for entry in entry_points(group=GROUP, name=PROVISIONER)}
    if not named:
        raise ProblemError(
            f"Jupyter does not find the provisioner: there is no entry point {PROVISIONER}.",
            hint="Install slurm_provisioner anew, into the environment of your Jupyter.",
        )
    if len(named) > 1:
        owners = [f"{value} of {entry.dist.name if entry.dist else '?'}" for value, entry in named.items()]
        raise ProblemError(
            f"Several packages call their provisioner {PROVISIONER}: which of them is used is up to chance.",
            evidence=owners,
            hint="Uninstall all but one.",
        )
    return f"slurm_provisioner {version('slurm_provisioner')}, jupyter_client {version('jupyter_client')}"


def _sockets() -> str:
    if not hasattr(socket, "AF_UNIX"):
        return "this system has no unix sockets: clients connect to ports of 127.0.0.1"
    folder = PrivateFolder()
    try:
        return f"in private folders such as {folder.path}"
    finally:
        folder.remove()


def _login(config: KernelConfig) -> str:
    assert config.ssh is not None

    async def account(cluster: Cluster) -> str:
        there = await cluster.transport.account()
        return f"as {there.user}, home {there.home}, by {config.ssh.transport if config.ssh else ''}"

    return ask(place_of(config), account, "")


async def _commands(cluster: Cluster) -> str:
    done = await cluster.transport.run(checkup.programs_argv(cluster.slurm.bin_dir), timeout=_TIMEOUT)
    found = checkup.parse_programs(done.stdout)
    missing = [name for name in found.missing if name != "sacct"]
    if missing:
        raise CommandNotFoundError(
            f"There is no {', '.join(missing)}: Slurm jobs cannot be submitted from there.",
            argv=["command", "-v", *checkup.PROGRAMS],
            returncode=done.returncode,
            stderr=done.stderr,
            hint="Run Jupyter on a login node of the cluster, or name one in `ssh`. On a login node, set `slurm_bin` "
            "to the folder of Slurm's commands.",
        )
    folders = dict.fromkeys(str(Path(path).parent) for path in found.paths.values() if path)
    words = f"Slurm {found.version or 'of an unknown version'}, in {', '.join(folders)}"
    if found.missing:
        raise ProblemError(f"{words}; there is no sacct.", warning=True, hint=_WITHOUT_ACCOUNTING)
    return words


_WITHOUT_ACCOUNTING = "How a job ended is told only as long as the controller remembers it, mostly five minutes."


async def _controller(cluster: Cluster) -> str:
    slurm = cluster.slurm
    done = await cluster.transport.run(slurm.program(["scontrol", "ping"]), timeout=_TIMEOUT)
    up = checkup.controller_up(done.stdout)
    argv = slurm.program(["squeue", "--me"])
    answer = await cluster.transport.run(argv, timeout=_TIMEOUT)
    if answer.returncode != 0:
        raise failed(answer)
    return f"slurmctld on {up[0]} is up, squeue answers" if up else "squeue answers"


async def _accounting(cluster: Cluster) -> str:
    argv = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobIDRaw", "--starttime=now-1hour"]
    try:
        done = await cluster.transport.run(cluster.slurm.program(argv), timeout=_TIMEOUT)
    except CommandError as error:
        raise ProblemError(error.summary, warning=True, evidence=error.evidence, hint=_WITHOUT_ACCOUNTING) from error
    if done.returncode != 0:
        said = complaint_of(done.stderr) or f"exit code {done.returncode}"
        raise ProblemError(f"sacct does not answer: {said}.", warning=True, hint=_WITHOUT_ACCOUNTING)
    return "sacct answers"


async def _state_dir(cluster: Cluster, path: str) -> str:
    account = await cluster.transport.account()
    full = expand_home(path, account.home)
    done = await cluster.transport.run(checkup.folder_argv(full), timeout=_TIMEOUT)
    found = checkup.parse_folder(done.stdout)
    if found is None:
        raise ProblemError(
            f"{full} cannot be written.",
            evidence=done.stderr.splitlines()[-4:],
            hint="Free some space, or set `state_dir` to a folder that login and compute nodes share.",
        )
    room = "" if found.free is None else f", {_room(found.free)} free"
    words = f"{found.path} can be written{room}{f' ({found.kind})' if found.kind else ''}"
    if found.free is not None and found.free < _LITTLE:
        raise ProblemError(
            f"{words}.", warning=True, hint="A kernel needs little, but its log needs some: free some space."
        )
    return words


def _room(kilobytes: int) -> str:
    size, units = float(kilobytes), iter(("kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 1024:  # noqa: PLR2004
        size, unit = size / 1024, next(units, unit)
        if unit == "TB":
            break
    return f"{size:.0f} {unit}"


async def _request(cluster: Cluster, config: KernelConfig) -> str:
    offers = await cluster.slurm.offers()
    if problems := misfits(config, offers):
        raise ProblemError(
            problems[0] if len(problems) == 1 else "The cluster does not have what is asked for:",
            warning=config.partition is None,  # the site may choose another than the default one
            evidence=problems if len(problems) > 1 else (),
            hint="`jupyter slurm edit` changes what is asked for.",
        )
    default = offers.default_partition
    partition = config.partition or (f"{default.name} (the default)" if default else "the default")
    account = config.account or offers.default_account
    words = f"partition {partition}" + (f", account {account}" if account else "")
    if offers.unknown:
        reasons = list(dict.fromkeys(offers.unknown.values()))
        raise ProblemError(f"{words}; not all could be checked.", warning=True, evidence=reasons)
    if others := passed_over(config, offers):
        raise ProblemError(f"{words}; not everywhere.", warning=True, evidence=others)
    return words


def _forecast(config: KernelConfig) -> str:
    job = prepared(config)
    return ask(place_of(config), lambda cluster: cluster.slurm.forecast(job.script), "") or "it would take the job"


def _lease(config: KernelConfig) -> str:
    if config.persistent:
        return "none: the kernel runs on without its server, until its time is over (`persistent`)"
    return f"a kernel without a sign of life of its server ends after {format_duration(config.lease)}"
