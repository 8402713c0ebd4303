"""`jupyter slurm list`, `info` and `stop`: kernels and their jobs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import click
from rich.live import Live
from rich.table import Table

from .. import kernels
from ..books import Job, Kernel
from ..cluster import Cluster
from ..quantities import span
from ..status import JobStatus, Phase
from . import show
from .finding import Found, choose, complete_kernel, look, on_clusters, server_is_gone
from .main import CLUSTER, NOT_SO
from .places import Where, ask_all, lasting, wheres
from .words import as_document, clock, hint_of, name_of, resources, state_of

__all__ = ["info", "list", "stop"]

#: Seconds between two looks, unless somebody says otherwise, at least, and at most.
WATCH_INTERVAL, WATCH_LEAST, WATCH_MOST = 10.0, 2.0, 86_400.0
#: Seconds for jobs to end: KillWait is 30 s, most often.
STOP_PATIENCE = 120.0
#: Columns that are left out where there is no room, the first one first, and characters of a state that fill a line.
_SPARED = ("RESOURCES", "NODE", "KERNELSPEC", "LEFT", "USED")
_STATE_WIDTH = 30


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Those, too, whose jobs have ended and left something.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, for programs.")
@click.option(
    "-w",
    "--watch",
    type=click.FloatRange(WATCH_LEAST, WATCH_MOST),
    is_flag=False,
    flag_value=WATCH_INTERVAL,
    metavar="[SECONDS]",
    help=f"Show it anew every so many seconds, until Ctrl-C. Default: {WATCH_INTERVAL:g}.",
)
@on_clusters
def list(everything: bool, as_json: bool, watch: float | None, ssh: str | None, kernelspec: str | None) -> int:  # noqa: A001
    """List your kernels and their jobs, whoever started them."""
    where = wheres(ssh=ssh, kernelspec=kernelspec)

    def seen(words: str = "Asking for kernels …") -> tuple[Sequence[Found], bool]:
        found, complete = look(where, ended=everything, words=words)
        return [each for each in found if everything or each.kernel.alive], complete

    out = show.console()
    if watch is not None and out.is_terminal and not as_json:
        with lasting(where), Live(console=out, auto_refresh=False) as live:
            while True:
                found, _ = seen(words="")
                live.update(_table(found, out.width, where), refresh=True)
                time.sleep(watch)
    found, complete = seen()
    if as_json:
        show.as_json([_document(each) for each in found])
    elif found:
        out.print(_table(found, out.width, where))
    elif complete:
        show.note(
            "No kernels." if everything else "No kernels. `jupyter slurm list --all` shows those that ended, too."
        )
    return 0 if complete else CLUSTER


@click.command()
@click.argument("kernel", metavar="KERNEL|JOB", shell_complete=complete_kernel)
@click.option("--json", "as_json", is_flag=True, help="Print an object, for programs.")
@on_clusters
def info(kernel: str, as_json: bool, ssh: str | None, kernelspec: str | None) -> int:
    """Tell all that is known of a kernel, by its job, its id or the beginning of that, or its notebook."""
    found, complete = look(wheres(ssh=ssh, kernelspec=kernelspec))
    one = choose(found, kernel, complete=complete)
    if as_json:
        show.as_json(_document(one))
    else:
        table = show.table(["", ""], [(name, words) for name, words in _told(one) if words])
        table.show_header = False
        show.console().print(table)
    return 0 if complete else CLUSTER


@click.command()
@click.argument("kernel", nargs=-1, metavar="KERNEL|JOB...", shell_complete=complete_kernel)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@on_clusters
def stop(kernel: tuple[str, ...], everything: bool, yes: bool, ssh: str | None, kernelspec: str | None) -> int:
    """Cancel the jobs of kernels, and wait until they are gone. What a kernel holds in its memory is lost."""
    if everything == bool(kernel):
        raise click.UsageError("Name kernels, or give --all.")
    found, complete = look(wheres(ssh=ssh, kernelspec=kernelspec))
    named = {choose(found, word, complete=complete).kernel.about.job_name for word in kernel}
    chosen = [each for each in found if everything or each.kernel.about.job_name in named]
    living = [each for each in chosen if each.kernel.alive]
    for each in chosen:
        if not each.kernel.alive and not everything:
            show.say(f"{_title(each.kernel)} {state_of(each.kernel, time.time())}.")
    if not living:
        if everything and complete:
            show.note("No kernels.")
        unknown = [each for each in chosen if each.kernel.job is None and not everything]
        return CLUSTER if unknown or not complete else 0
    if not yes:
        for each in living:
            show.say(f"  {_title(each.kernel)}, {state_of(each.kernel, time.time())}", stderr=True)
        show.sure(f"Stop {'these' if len(living) > 1 else 'this'}?")
    code = _stop(living)
    return code if complete else CLUSTER


def _stop(living: Sequence[Found]) -> int:
    by_place: dict[Where, dict[str, Found]] = {}
    for each in living:
        assert each.kernel.job is not None, "it is alive"
        by_place.setdefault(each.where, {})[each.kernel.job.job_id] = each

    async def cancel(cluster: Cluster, where: Where) -> Sequence[str]:
        wanted = by_place[where]
        # People take their time to say yes, and Slurm may give a number to another job: the name tells them apart.
        jobs = await cluster.slurm.queue([*wanted])
        still = [job_id for job_id, each in wanted.items() if _is_its_job(jobs.get(job_id), each.kernel)]
        for job_id in still:
            await cluster.slurm.cancel(job_id)
        return await kernels.wait_until_gone(cluster.slurm, still, STOP_PATIENCE)

    answers, complete = ask_all([*by_place], cancel, "Waiting until they are gone …")
    code = 0 if complete else CLUSTER
    for where, left in answers:
        for job_id, each in by_place[where].items():
            if job_id in left:
                code = code or NOT_SO
                show.note(f"{_title(each.kernel)} was told to end, and has not yet after {STOP_PATIENCE:g} s.")
            else:
                show.say(f"{_title(each.kernel)} is gone.")
    return code


def _is_its_job(status: JobStatus | None, kernel: Kernel) -> bool:
    return status is not None and status.phase is not Phase.ENDED and status.name == kernel.about.job_name


# How they are shown


def _title(kernel: Kernel) -> str:
    job = f"Job {kernel.job.job_id}" if kernel.job is not None else f"Kernel {kernel.about.kernel_id[:8]}"
    return f"{job} ({name_of(kernel)})"


def _document(found: Found) -> dict[str, object]:
    return as_document(found.kernel, found.where.name, time.time())


def _table(found: Iterable[Found], width: int, where: Sequence[Where]) -> Table:
    """Return a table that is no wider than so many columns, as far as possible."""
    now = time.time()
    rows = [_row(each, now) for each in found]
    names = [name for name in (rows[0] if rows else {"JOB": "", "STATE": ""}) if name != "CLUSTER" or len(where) > 1]
    state = min(_STATE_WIDTH, max((len(row["STATE"]) for row in rows), default=0))
    for spared in _SPARED:
        widths = [max(len(name), *(len(row[name]) for row in rows)) + 2 for name in names[:-1]] if rows else []
        if sum(widths) + state <= width:
            break
        names = [name for name in names if name != spared]
    return show.table(names, [[row[name] for name in names] for row in rows], folded=["NOTEBOOK"])


def _row(found: Found, now: float) -> dict[str, str]:
    kernel, job = found.kernel, found.kernel.job
    return {
        "CLUSTER": found.where.name,
        "JOB": job.job_id if job is not None else "",
        "NOTEBOOK": kernel.notebook or "-",
        "KERNELSPEC": kernel.about.kernelspec,
        "NODE": job.node if job is not None else "",
        "USED": span(job.time_used) if job is not None and job.time_used else "",
        "LEFT": span(job.time_left) if job is not None else "",
        "RESOURCES": resources(job) if job is not None else "",
        "STATE": state_of(kernel, now),
    }


def _told(found: Found) -> Iterable[tuple[str, str]]:
    """Yield what is known of a kernel, each with its name; what is not known is ""."""
    kernel, about, now = found.kernel, found.kernel.about, time.time()
    yield "kernel", about.kernel_id
    yield "state", state_of(kernel, now)
    yield "", hint_of(kernel)
    yield "notebook", about.notebook
    yield "kernelspec", f"{about.kernelspec} ({about.display_name})" if about.display_name else about.kernelspec
    yield "cluster", found.where.name
    job = kernel.job
    if job is not None:
        yield "job", f"{job.job_id} ({about.job_name})"
        yield "partition", job.partition
        yield "account", ", ".join(filter(None, [job.account, job.qos and f"QOS {job.qos}"]))
        yield "resources", resources(job)
        yield "node", job.node
        yield "nodes", job.nodes if job.nodes != job.node else ""
        yield "submitted", clock(job.submitted or about.submitted, now)
        begun = job.phase is not Phase.PENDING
        yield ("started" if begun else "starts"), clock(job.start, now) if job.start else ""
        yield "ended", clock(job.end, now) if job.end and job.phase is Phase.ENDED else ""
        yield "time limit", span(job.time_limit)
        yield "time used", span(job.time_used) if begun else ""
        yield "time left", span(job.time_left) if job.phase is Phase.RUNNING else ""
        yield "exit", _exit(job)
    else:
        yield "job", about.job_name
        yield "submitted", clock(about.submitted, now)
    yield "server", "@".join(filter(None, [about.server.user, about.server.host]))
    yield "", "It is gone." if server_is_gone(kernel) else ""
    yield "without it", "runs on until its time is over" if about.lease is None else f"ends after {span(about.lease)}"
    yield "run directory", kernel.entry.run_dir
    yield "log", kernel.log or (f"{about.log} (on its node)" if about.log else "")


def _exit(job: Job) -> str:
    parts = [
        f"code {job.exit_code}" if job.exit_code is not None else "",
        f"signal {job.exit_signal}" if job.exit_signal else "",
    ]
    return ", ".join(filter(None, parts)) if job.phase is Phase.ENDED else ""
