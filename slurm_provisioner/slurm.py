"""Slurm's commands, run over a transport. Their text is in `sbatch`, `status` and `offers`.

Source: scancel(1).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from .checkup import forecast
from .errors import CommandError, CommandTimeoutError, ConnectionLostError, SubmissionError
from .loop import to_the_end
from .offers import Offers, offers_argv, parse_offers
from .sbatch import (
    as_sbatch,
    clusters_option,
    complaint_of,
    parse_submission,
    prune_argv,
    refused,
    submission_error,
    submit_argv,
)
from .status import (
    JobStatus,
    Phase,
    Position,
    account_argv,
    control_argv,
    find_argv,
    parse_account,
    parse_control,
    parse_positions,
    parse_queue,
    positions_argv,
    queue_argv,
    state_argv,
)
from .submission import Submission
from .transport import Completed, Transport, too_slow

__all__ = ["COMMAND_TIMEOUT", "Slurm", "failed"]

#: Seconds a command may take. A controller that is down answers after 9 to 10 s.
COMMAND_TIMEOUT = 15.0
#: Seconds sbatch may take: job submit plugins of sites can be slow.
SUBMIT_TIMEOUT = 60.0
#: Seconds that asking for what is offered may take: two daemons, of which neither may answer.
OFFERS_TIMEOUT = 30.0

#: A job whose submission got no answer is looked for so many times, and the seconds between them: a busy controller may
#: take it only after sbatch has given up.
FIND_TRIES, FIND_PAUSE = 4, 3.0

#: Seconds between two submissions, and how many may be under way: fifty kernels that start together are no storm.
SUBMIT_PAUSE, SUBMISSIONS = 0.05, 8
#: Days that the log of a failure is kept for the user to read.
KEPT_DAYS = 7
#: Jobs asked for one by one at the same time, at most.
LOOK_UPS = 4
#: Jobs of a queue that are looked at for the position of one's own: further back a number says little.
QUEUE_LINES = 2000


class Slurm:
    """One controller, as one user sees it over one transport.

    Parameters
    ----------
    transport : Transport
        How commands get there.
    clusters : str
        The cluster of a federation (``--clusters``), or "".
    bin_dir : str
        The folder of Slurm's commands, or "" for those on PATH.
    """

    def __init__(self, transport: Transport, *, clusters: str = "", bin_dir: str = "") -> None:
        self.transport = transport
        self.clusters = clusters
        self.bin_dir = bin_dir
        #: Names of jobs of which it is not known whether there are any, and whether any follow.
        self.unsettled: set[str] = set()
        self._next_submission = 0.0
        self._submissions = asyncio.Semaphore(SUBMISSIONS)
        self._look_ups = asyncio.Semaphore(LOOK_UPS)

    async def submit(self, job: Submission) -> str:
        """Submit a job and return its id.

        An answer that got lost does not mean that there is no job: it is looked for by its unique name first.

        Raises
        ------
        SubmissionError
            Slurm refused it.
        CommandError
            The run directory cannot be written, sbatch is missing or does not answer.
        """
        async with self._submissions:
            await self._wait_in_turn()
            try:
                return await self._submit(job)
            except asyncio.CancelledError:
                await to_the_end(self._prevent(job.job_name))
                raise

    async def _submit(self, job: Submission) -> str:
        assert "\n" not in job.request + job.about
        argv = submit_argv(job.user, job.run_dir, job.log_directory, self.bin_dir, self.clusters)
        stdin = f"{job.request}\n{job.about}\n{job.script}".encode()
        try:
            done = await self.transport.run(argv, stdin=stdin, timeout=SUBMIT_TIMEOUT)
        except ConnectionLostError:
            if (job_id := await self._find(job.job_name)) is not None:
                return job_id
            raise
        except CommandTimeoutError as timeout:
            if (job_id := await self._find(job.job_name)) is not None:
                return job_id
            raise CommandTimeoutError(
                f"sbatch did not answer within {SUBMIT_TIMEOUT:g} s.",
                argv=as_sbatch(argv),
                hint="The controller may be busy or down; `scontrol ping` tells. Then start the kernel again.",
            ) from timeout
        if (job_id := parse_submission(done.stdout)) is not None:
            return job_id
        error = submission_error(done, run_dir=job.run_dir)
        lost = isinstance(error, SubmissionError) and _answer_lost(done.stderr)
        if lost and (job_id := await self._find(job.job_name)) is not None:
            return job_id
        raise error

    async def _wait_in_turn(self) -> None:
        now = time.monotonic()
        turn = max(now, self._next_submission)
        self._next_submission = turn + SUBMIT_PAUSE
        if turn > now:
            await asyncio.sleep(turn - now)

    async def _find(self, job_name: str) -> str | None:
        """Return the id of the job of that name; where there is none for a while, make sure that none follows."""
        for _ in range(FIND_TRIES):
            with suppress(CommandError):
                jobs = await self._jobs(find_argv(job_name, self.clusters))
                alive = [job for job in jobs.values() if job.phase is not Phase.ENDED]
                if alive:
                    return alive[0].job_id
            await asyncio.sleep(FIND_PAUSE)
        await self._cancel_by_name(job_name)
        return None

    async def _prevent(self, job_name: str) -> None:
        """See to it that a submission that was broken off leaves no job: the controller may yet be about to take it."""
        if await self._find(job_name) is not None:
            await self._cancel_by_name(job_name)

    async def _cancel_by_name(self, job_name: str) -> None:
        try:
            await self.cancel_named(job_name)
        except CommandError:
            self.unsettled.add(job_name)
        else:
            self.unsettled.discard(job_name)

    async def cancel_named(self, job_name: str) -> None:
        """Cancel the job of a name, if there is one.

        Raises
        ------
        CommandError
            The controller could not be told.
        """
        done = await self.transport.run(self._cancel_argv(job_name), timeout=COMMAND_TIMEOUT)
        if done.returncode != 0 and "No active jobs" not in done.stderr:
            raise failed(done)

    def _cancel_argv(self, job_name: str) -> list[str]:
        return self.program(["scancel", f"--name={job_name}", *clusters_option(self.clusters)])

    def if_we_die(self, job_name: str, run_dir: str) -> Callable[[], None]:
        """Have a job cancelled, and its secrets removed, if this process dies; return what takes that back."""
        secrets = [f"{run_dir}/request.json", f"{run_dir}/connection.json"]
        return self.transport.if_we_die(self._cancel_argv(job_name), ["rm", "-f", "--", *secrets])

    def state_argv(self) -> list[str]:
        """Return the command by which a job learns on its node whether Slurm still has it."""
        return self.program(state_argv("{job_id}", self.clusters))

    async def queue(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return what squeue says of some jobs; those it does not know are missing.

        Raises
        ------
        CommandError
            It could not be asked. That is no news of any job.
        """
        return await self._jobs(queue_argv(job_ids, self.clusters))

    async def _jobs(self, argv: list[str]) -> dict[str, JobStatus]:
        done = await self._run(argv)
        # A single job that the controller no longer has is an error to squeue, and an answer to us.
        if done.returncode != 0 and "Invalid job id" in done.stderr:
            return {}
        jobs = parse_queue(done.stdout)
        if done.returncode != 0 or jobs is None:
            raise failed(done)
        return jobs

    async def positions(self, job_ids: Collection[str], partitions: Collection[str]) -> dict[str, Position]:
        """Return the positions of some pending jobs in the queues of some partitions; those not known are missing.

        Raises
        ------
        CommandError
            It could not be asked.
        """
        squeue = self.program(positions_argv(partitions, self.clusters))
        argv = ["sh", "-c", f'"$@" | head -n {QUEUE_LINES}', "squeue", *squeue]
        done = await self.transport.run(argv, timeout=COMMAND_TIMEOUT)
        return parse_positions(done.stdout, job_ids)

    async def look_up(self, job_id: str) -> JobStatus | None:
        """Return what the controller's memory says of a job, or accounting how it ended; None if neither knows it."""
        async with self._look_ups:
            with suppress(CommandError):
                done = await self._run(control_argv(job_id, self.clusters))
                if (status := parse_control(done.stdout, job_id)) is not None:
                    return status
            with suppress(CommandError):
                done = await self._run(account_argv(job_id, self.clusters))
                status = parse_account(done.stdout, job_id)
                if status is not None and status.phase is Phase.ENDED:
                    return status
        return None

    async def offers(self) -> Offers:
        """Return what the cluster offers to this user; what could not be asked is None, and it says why.

        Raises
        ------
        CommandError
            Nothing could be asked.
        """
        try:
            done = await self.transport.run(offers_argv(self.bin_dir, self.clusters), timeout=OFFERS_TIMEOUT)
        except CommandTimeoutError as timeout:
            raise too_slow(["scontrol", "show", "partition"], OFFERS_TIMEOUT) from timeout
        return parse_offers(done.stdout)

    async def forecast(self, script: str) -> str:
        """Return when and where a batch script would start, as far as Slurm tells. No job comes of it.

        Raises
        ------
        SubmissionError
            Slurm would refuse it.
        CommandError
            It could not be asked.
        """
        argv = self.program(["sbatch", "--test-only", *clusters_option(self.clusters)])
        done = await self.transport.run(argv, stdin=script.encode(), timeout=SUBMIT_TIMEOUT)
        if done.returncode != 0:
            raise refused(done, argv)
        return forecast(done.stderr)

    async def cancel(self, job_id: str) -> None:
        """Cancel a job. One that is gone already is no error.

        Raises
        ------
        CommandError
            The controller could not be told.
        """
        await self._control(["scancel", *clusters_option(self.clusters), job_id])

    async def signal(self, job_id: str, name: str) -> None:
        """Send a signal to the job's batch step, which is the supervisor.

        Raises
        ------
        CommandError
            The controller could not be told.
        """
        await self._control(["scancel", f"--signal={name}", "--batch", *clusters_option(self.clusters), job_id])

    async def tail(self, path: str, *, size: int = 8192) -> str:
        """Return the end of a file on the cluster, or "" if it cannot be read."""
        try:
            done = await self.transport.run(["tail", "-c", str(size), "--", path], timeout=COMMAND_TIMEOUT)
        except CommandError:
            return ""
        return done.stdout

    async def remove(self, *paths: str) -> None:
        """Remove files or folders on the cluster; what cannot be removed stays.

        Raises
        ------
        CommandError
            It could not be tried.
        """
        await self.transport.run(["rm", "-rf", "--", *paths], timeout=COMMAND_TIMEOUT)

    async def prune(self, state_dir: str) -> None:
        """Remove the logs of failures that are older than `KEPT_DAYS` from a folder of run directories."""
        with suppress(CommandError):
            await self.transport.run(prune_argv(state_dir, KEPT_DAYS), timeout=COMMAND_TIMEOUT)

    async def _control(self, argv: list[str]) -> None:
        done = await self._run(argv)
        gone = re.search(r"Invalid job id|already completing or completed|not active", done.stderr)
        if done.returncode != 0 and not gone:
            raise failed(done)

    async def _run(self, argv: list[str]) -> Completed:
        return await self.transport.run(self.program(argv), timeout=COMMAND_TIMEOUT)

    def program(self, argv: list[str]) -> list[str]:
        """Return a command of Slurm's with the folder that its program is in."""
        return [f"{self.bin_dir}/{argv[0]}", *argv[1:]] if self.bin_dir else argv


def _answer_lost(stderr: str) -> bool:
    """Whether a job may have been submitted nevertheless: sbatch refused nothing, or lost the controller on the way."""
    refused = re.search(r"^sbatch: ", stderr, re.MULTILINE)
    return not refused or re.search(r"timed out|Zero Bytes|connection|communication", stderr, re.IGNORECASE) is not None


def failed(done: Completed) -> CommandError:
    """Return the error of a command that did not do what it should."""
    program = done.argv[0].rpartition("/")[2]
    return CommandError(
        f"{program} failed: {complaint_of(done.stderr) or 'its answer cannot be understood'}.",
        argv=done.argv,
        returncode=done.returncode,
        stdout=done.stdout,
        stderr=done.stderr,
        hint="`scontrol ping` tells whether the controller answers.",
    )
