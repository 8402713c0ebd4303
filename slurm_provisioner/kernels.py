"""Kernels of this user on a cluster, whoever started them: found, waited for, cleared away. The text is in `listing`.

Could not ask is not gone: what raises tells nothing of any kernel.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from . import listing
from .about import About
from .books import Job, Kernel, joined
from .errors import CommandError, CommandNotFoundError, CommandTimeoutError
from .slurm import COMMAND_TIMEOUT, Slurm, failed
from .status import SEPARATOR, Phase
from .transport import Completed, too_slow

__all__ = ["Chunk", "clear_away", "find", "find_log", "read_log", "wait_until_gone"]

log = logging.getLogger(__name__)

#: Seconds between two looks whether jobs are gone: first, and at most.
LOOK_FIRST, LOOK_LAST = 0.3, 3.0
#: Seconds that a command waits on the cluster for a log to grow.
LOG_PATIENCE = 15.0
#: Bytes of a log that are read at a time.
CHUNK = 48 * 1024
#: Jobs that accounting is asked for at a time.
ACCOUNT_NAMES = 500
_SHELL_NOT_FOUND = 127


async def find(slurm: Slurm, state_dirs: Collection[str], *, ended: bool = True, surely: bool = False) -> list[Kernel]:
    """Return the kernels that left a run directory, the latest first.

    Parameters
    ----------
    slurm : Slurm
        The cluster.
    state_dirs : collection of str
        The folders of the run directories; ``~`` in front is the home on the cluster.
    ended : bool
        Whether accounting is asked about those that the controller does not have any more.
    surely : bool
        Whether it is an error that accounting, where there is one, does not answer.

    Raises
    ------
    CommandError
        The cluster could not be asked.
    """
    argv = listing.listing_argv(state_dirs, slurm.program(["squeue"])[0], slurm.clusters)
    squeue = (slurm.program(["squeue"])[0], "--me")
    done = await _run(slurm, argv, squeue)
    queue = listing.parse_queue(done.stdout)
    if done.returncode != 0 or queue is None:
        if done.returncode == _SHELL_NOT_FOUND:
            raise CommandNotFoundError(
                f"The command {squeue[0]} cannot be run: there is no such program.",
                argv=squeue,
                hint="Is this a login node of the cluster? Set `slurm_bin` to the folder of Slurm's commands.",
            )
        raise failed(replace(done, stdout=""))
    entries = listing.parse_entries(done.stdout, slurm.clusters)
    kernels = joined(entries, queue, {})
    over = [kernel.about for kernel in kernels if not kernel.alive]
    if not ended or not over:
        return kernels
    try:
        return joined(entries, queue, await _account(slurm, over))
    except CommandError as error:
        if surely:
            raise
        log.warning("How jobs ended is not known: %s", error.summary)
        return kernels


async def _account(slurm: Slurm, over: list[About]) -> dict[str, Job]:
    """Return what accounting knows of kernels whose jobs have ended; nothing where there is none."""
    known: dict[str, Job] = {}
    for begin in range(0, len(over), ACCOUNT_NAMES):
        argv = listing.account_argv(over[begin : begin + ACCOUNT_NAMES], time.time(), slurm.clusters)
        try:
            done = await slurm.transport.run(slurm.program(argv), timeout=COMMAND_TIMEOUT)
        except CommandNotFoundError:
            break
        if done.returncode != 0:
            if done.returncode == _SHELL_NOT_FOUND or "accounting storage is disabled" in done.stderr:
                break
            raise failed(done)
        known |= listing.parse_account(done.stdout)
    return known


async def wait_until_gone(slurm: Slurm, job_ids: Collection[str], timeout: float) -> list[str]:
    """Wait until jobs have ended, and return those that have not in time.

    Raises
    ------
    CommandError
        The controller could not be asked to the end.
    """
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + timeout, LOOK_FIRST
    left = [*job_ids]
    while left:
        try:
            jobs = await slurm.queue(left)
        except CommandError:
            if loop.time() > deadline:
                raise
        else:
            left = [job_id for job_id in left if job_id in jobs and jobs[job_id].phase is not Phase.ENDED]
        if not left or loop.time() > deadline:
            break
        await asyncio.sleep(pause)
        pause = min(2 * pause, LOOK_LAST)
    return left


async def clear_away(slurm: Slurm, kernels: Iterable[Kernel], *, unknown: bool = False) -> list[Kernel]:
    """Remove the run directories of kernels whose jobs have ended; return those of which nothing of ours is left.

    Parameters
    ----------
    slurm : Slurm
        The cluster.
    kernels : iterable of Kernel
        The kernels.
    unknown : bool
        Whether a job that neither squeue nor sacct knows counts as one that has ended.

    Raises
    ------
    CommandError
        It could not be tried.
    """
    over = [kernel for kernel in kernels if kernel.phase is Phase.ENDED or (unknown and kernel.job is None)]
    removed: set[str] = set()
    for begin in range(0, len(over), ACCOUNT_NAMES):
        argv = listing.remove_argv(over[begin : begin + ACCOUNT_NAMES])
        removed.update((await _run(slurm, argv, ("rm", over[begin].entry.run_dir))).stdout.split())
    return [kernel for kernel in over if kernel.about.job_name in removed]


async def _run(
    slurm: Slurm, argv: Sequence[str], known_as: tuple[str, ...], timeout: float = COMMAND_TIMEOUT
) -> Completed:
    """Run a script of ours; errors name the command in it that people know."""
    try:
        done = await slurm.transport.run(argv, timeout=timeout)
    except CommandTimeoutError as error:
        raise too_slow(known_as, timeout) from error
    return replace(done, argv=known_as)


# Logs

# Waits until a file has more than so many bytes, or the kernel's supervisor came or went. Prints up to where it was
# read, its size and whether the supervisor is there, then what is new, in plain characters. A file that shrank was
# begun anew. POSIX, sh; base64(1) and `head -c` as everywhere.
_READ = r"""
path=$1 run_dir=$2 from=$3 lines=$4 was=$5 rounds=$6 most=$7
while :; do
    size=$({ wc -c < "$path"; } 2> /dev/null) && size=$((size)) || size=-1
    [ -e "$run_dir/connection.json" ] && is=1 || is=0
    [ $size -lt 0 ] || [ $size -ge $from ] || from=0
    [ $size -gt $from ] || [ $is != $was ] && break
    [ $rounds -gt 0 ] || break
    rounds=$((rounds - 1))
    sleep 0.5 2> /dev/null || sleep 1
done
if [ $size -ge 0 ] && [ -n "$lines" ]; then
    from=$((size - $(tail -n "$lines" -- "$path" | wc -c)))
    [ $from -ge 0 ] || from=0
fi
to=$size
[ $((to - from)) -le $most ] || to=$((from + most))
printf '\nlog\037%s\037%s\037%s\n' $to $size $is
[ $to -le $from ] || tail -c +$((from + 1)) -- "$path" | head -c $((to - from)) | base64
"""


async def find_log(slurm: Slurm, kernel: Kernel) -> str | None:
    """Return the path of a kernel's log; None if neither its pattern nor the files that are there tell it.

    Raises
    ------
    CommandError
        The cluster could not be asked.
    """
    if not kernel.about.log or kernel.log is not None:
        return kernel.log or None
    script = f'for each in {kernel.log_glob}; do [ ! -f "$each" ] || printf \'%s\\n\' "$each"; done'
    done = await _run(slurm, ["sh", "-c", script], ("ls", kernel.about.log))
    found = [line for line in done.stdout.splitlines() if line.startswith("/")]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class Chunk:
    """A piece of a log.

    Attributes
    ----------
    content : bytes
        What is new.
    position : int
        Up to where it has been read.
    there : bool
        Whether there is such a file.
    more : bool
        Whether there is more to read at once.
    listening : bool
        Whether the kernel's supervisor can be reached: when that changes, something happened to the job.
    """

    content: bytes = b""
    position: int = 0
    there: bool = False
    more: bool = False
    listening: bool = False


async def read_log(
    slurm: Slurm, path: str, run_dir: str, last: Chunk, *, lines: int | None = None, wait: bool = False
) -> Chunk:
    """Return what a log has since the `last` piece of it.

    Parameters
    ----------
    slurm : Slurm
        The cluster.
    path, run_dir : str
        The log, and the kernel's run directory.
    last : Chunk
        The piece before this one.
    lines : int, optional
        Begin so many lines before the end, wherever the last piece ended.
    wait : bool
        Whether to wait for something new: one command there waits, at most `LOG_PATIENCE`.

    Raises
    ------
    CommandError
        It could not be asked for.
    """
    rounds = int(2 * LOG_PATIENCE) if wait else 0
    words = [path, run_dir, last.position, "" if lines is None else lines, int(last.listening), rounds, CHUNK]
    argv = ["sh", "-c", _READ, "log", *map(str, words)]
    done = await _run(slurm, argv, ("tail", path), COMMAND_TIMEOUT + 2 * LOG_PATIENCE)
    before, found, text = done.stdout.rpartition(f"\nlog{SEPARATOR}")
    numbers, _, encoded = text.partition("\n")
    try:
        to, size, listening = map(int, numbers.split(SEPARATOR))
        content = base64.b64decode(encoded)
    except (ValueError, binascii.Error) as error:
        raise failed(replace(done, stdout=before if found else done.stdout)) from error
    if size < 0:
        return Chunk(listening=bool(listening))
    return Chunk(content, to, there=True, more=to < size, listening=bool(listening))
