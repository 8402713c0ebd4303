"""`jupyter slurm logs`: what a kernel and its job have printed."""

from __future__ import annotations

import asyncio
import codecs
import queue
import sys
from collections.abc import Awaitable, Callable

import click

from .. import kernels
from ..cluster import Cluster, acquire, release
from ..errors import CommandError
from ..kernels import Chunk
from ..loop import background_loop
from ..status import JobStatus, Phase
from . import show
from .asking import ask
from .finding import Found, NotFoundError, choose, complete_kernel, look, on_clusters
from .main import CLUSTER
from .places import wheres

__all__ = ["logs"]

#: Seconds between two tries while the cluster does not answer.
RETRY = 3.0
#: Seconds after a job's end in which its last lines may arrive.
LATE = 1.0


@click.command()
@click.argument("kernel", metavar="KERNEL|JOB", shell_complete=complete_kernel)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is printed, until the job ends.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Begin so many lines before the end. Default: all.")
@on_clusters
def logs(kernel: str, follow: bool, lines: int | None, ssh: str | None, kernelspec: str | None) -> int:
    """Print the log of a job: what it and its kernel have printed, beside the outputs of cells."""
    found, complete = look(wheres(ssh=ssh, kernelspec=kernelspec))
    one = choose(found, kernel, complete=complete)
    path = ask(one.where.place, lambda cluster: kernels.find_log(cluster.slurm, one.kernel), "Looking for its log …")
    if not path:
        raise NotFoundError(
            f"Where the log is, cannot be told: {one.kernel.about.log or 'that was not written down'}.",
            hint="The job fills in its %-patterns when it starts; %j, its id, leaves no doubt.",
        )
    if follow and one.kernel.alive:
        there = _shown(one, lambda cluster, out: _follow(cluster, one, path, lines, out))
    else:
        there = _shown(one, lambda cluster, out: _print(cluster, one, path, lines, out))
    if not there:
        raise NotFoundError(f"There is no log {path}.", hint="It may have been removed, or be on the node alone.")
    return 0 if complete else CLUSTER


class _Out:
    """Takes pieces of a log to the main thread, which prints them: a full pipe stops nobody else, and Ctrl-C that."""

    def __init__(self) -> None:
        self.pieces: queue.SimpleQueue[tuple[bytes, Callable[[], object]] | None] = queue.SimpleQueue()

    async def print(self, content: bytes) -> None:
        """Return once it was printed."""
        printed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.pieces.put((content, lambda: loop.call_soon_threadsafe(printed.set)))
        await printed.wait()


def _shown(one: Found, show_it: Callable[[Cluster, _Out], Awaitable[bool]]) -> bool:
    """Print what comes, of which characters may be split between two pieces; return whether there is a log."""

    async def go() -> bool:
        cluster = acquire(one.where.place)
        try:
            return await show_it(cluster, out)
        finally:
            await release(cluster)

    out, decoder = _Out(), codecs.getincrementaldecoder("utf-8")(errors="replace")
    there = background_loop().submit(go())
    there.add_done_callback(lambda _: out.pieces.put(None))
    try:
        while (piece := out.pieces.get()) is not None:
            content, tell = piece
            sys.stdout.write(decoder.decode(content))
            sys.stdout.flush()
            tell()
        return there.result()
    except BaseException:
        there.cancel()
        raise


async def _print(cluster: Cluster, one: Found, path: str, lines: int | None, out: _Out) -> bool:
    last = Chunk()
    while True:
        last = await kernels.read_log(cluster.slurm, path, one.kernel.entry.run_dir, last, lines=lines)
        await out.print(last.content)
        lines = None
        if not last.more:
            return last.there


async def _follow(cluster: Cluster, one: Found, path: str, lines: int | None, out: _Out) -> bool:
    job = one.kernel.job
    assert job is not None, "it is alive"
    last, silent, there = Chunk(), False, False
    ended = asyncio.Event()

    def seen(status: JobStatus) -> None:
        if status.phase is Phase.ENDED:
            ended.set()

    watch = cluster.watcher.watch(job.job_id, job.name, seen)
    try:
        while True:
            over = ended.is_set()
            if over:
                await asyncio.sleep(LATE)
            listened = last.listening
            reading = asyncio.ensure_future(
                kernels.read_log(cluster.slurm, path, one.kernel.entry.run_dir, last, lines=lines, wait=not over)
            )
            ending = asyncio.ensure_future(ended.wait())
            try:
                await asyncio.wait([reading, *([] if over else [ending])], return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    continue
                last = reading.result()
            except CommandError as error:
                if not silent:
                    show.error(error)
                silent = True
                await asyncio.sleep(RETRY)
                continue
            finally:
                ending.cancel()
                reading.cancel()
                await asyncio.gather(reading, ending, return_exceptions=True)
            silent, there = False, there or last.there
            if last.there:
                lines = None
            await out.print(last.content)
            if listened and not last.listening:
                watch.hurry()
            if over and not last.more:
                return there
    finally:
        watch.close()
