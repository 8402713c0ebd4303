"""`jupyter slurm clean`: what kernels left behind."""

from __future__ import annotations

import shutil
import socket
import time
from dataclasses import replace

import click

from .. import fields, kernels
from ..books import Kernel
from ..cluster import Cluster
from ..folder import left_behind
from ..quantities import span
from ..status import Phase
from . import show
from .finding import Found, look, on_clusters, server_is_gone
from .main import CLUSTER, NOT_SO
from .places import Where, ask_all, wheres
from .words import name_of, state_of

__all__ = ["clean"]

#: Seconds in which a job may be on its way to the controller, and clocks may differ: nobody knows it yet.
YOUNG = 900.0


def _absolute(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    try:
        return value and fields.path(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option("-n", "--dry-run", is_flag=True, help="Only tell what would be removed.")
@click.option("--unknown", is_flag=True, help="Those, too, whose jobs neither squeue nor sacct knows any more.")
@click.option(
    "--state-dir",
    metavar="PATH",
    callback=_absolute,
    help="Look for run directories in this folder of the cluster, too.",
)
@on_clusters
def clean(dry_run: bool, unknown: bool, state_dir: str | None, ssh: str | None, kernelspec: str | None) -> int:
    """Remove what kernels left behind that ended: run directories with their logs, and private folders of this host.

    Nothing is touched of a kernel that may live. Jobs that hold an allocation though their server is gone are named;
    `jupyter slurm stop` ends them.
    """
    if unknown and (ssh or kernelspec):
        raise click.UsageError(
            "--unknown asks all clusters: another one may know a job. Leave --ssh and --kernelspec out."
        )
    where = wheres(ssh=ssh, kernelspec=kernelspec)
    if state_dir:
        where = [replace(each, state_dirs=(*each.state_dirs, state_dir)) for each in where]
    found, complete = look(where, surely=unknown)
    unknown = unknown and complete  # who has not answered may know them
    over = [
        each
        for each in found
        if each.kernel.phase is Phase.ENDED or (unknown and _is_unknown(each) and not _is_young(each))
    ]
    done = "would be removed" if dry_run else "removed"
    removed, reached = ([each.kernel for each in over], True) if dry_run else _remove(over, unknown)
    for kernel in removed:
        show.say(f"{done}: {kernel.entry.run_dir} ({name_of(kernel)}, {state_of(kernel, time.time())})")
    for each in over:
        if reached and each.kernel not in removed:
            show.note(f"stays: {each.kernel.entry.run_dir} could not be removed, or is another job's by now.")
    folders = [*left_behind()]
    for folder in folders:
        if not dry_run:
            shutil.rmtree(folder, ignore_errors=True)
        show.say(f"{done}: {folder} (its process has ended)")
    _tell_what_stays([each for each in found if each not in over])
    if complete and not over and not folders:
        show.note("There is nothing to remove.")
    if not complete or not reached:
        return CLUSTER
    return NOT_SO if len(removed) < len(over) else 0


def _is_unknown(found: Found) -> bool:
    """Whether no job is known of a kernel, and nothing speaks for one: it ended long ago.

    What was submitted on another host and has not begun may wait in the queue of another cluster with this home.
    """
    entry = found.kernel.entry
    elsewhere = entry.waiting and entry.about.server.host != socket.gethostname()
    return found.kernel.job is None and not entry.listening and not elsewhere


def _is_young(found: Found) -> bool:
    """Whether its job may be on its way: a run directory is there before sbatch has answered."""
    return time.time() - found.kernel.about.submitted < YOUNG


def _remove(over: list[Found], unknown: bool) -> tuple[list[Kernel], bool]:
    by_place: dict[Where, list[Kernel]] = {}
    for each in over:
        by_place.setdefault(each.where, []).append(each.kernel)

    async def remove(cluster: Cluster, where: Where) -> list[Kernel]:
        return await kernels.clear_away(cluster.slurm, by_place[where], unknown=unknown)

    answers, complete = ask_all([*by_place], remove, "Removing …")
    return [kernel for _, answer in answers for kernel in answer], complete


def _tell_what_stays(found: list[Found]) -> None:
    """Tell of what somebody should look at."""
    if count := sum(_is_unknown(each) and not _is_young(each) for each in found):
        what = "a run directory stays whose job" if count == 1 else f"{count} run directories stay whose jobs"
        show.note(f"{what} neither squeue nor sacct knows; --unknown removes {'it' if count == 1 else 'them'}, too.")
    for each in found:
        kernel = each.kernel
        if kernel.job is not None and kernel.alive and kernel.about.lease is not None and server_is_gone(kernel):
            waits = kernel.phase is Phase.PENDING
            ends = "" if waits else f" It ends by itself {span(kernel.about.lease)} after it heard of it last."
            show.note(
                f"Job {kernel.job.job_id} ({name_of(kernel)}) is {'queued' if waits else 'there'}, but the server that "
                f"started it is gone.{ends} `jupyter slurm stop {kernel.job.job_id}` ends it now."
            )
