"""One Slurm job, from sbatch to its end: what was submitted, what became known of it, and how it is ended.

News come from three sides: Slurm's word through the watcher, the supervisor's through the link, and files of the run
directory. A wait is for the first of two facts, what is hoped for or the end, and has a deadline.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import signal
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from typing import Any

from . import batch, explain
from .cluster import Cluster
from .config import KernelConfig
from .credentials import make_identity
from .errors import CommandError, JobError, LinkError, RefusedError
from .link import Link, Target
from .loop import first, to_the_end
from .request import KernelCommand, kernel_request, launch_request
from .slurm import JobStatus, Phase
from .watcher import Watch

__all__ = ["Allocation"]

#: Seconds the supervisor has to end the kernel and itself before scancel does.
STOP_TIMEOUT = 8.0
#: Seconds for the first connection to a supervisor that told where it listens.
REACH_TIMEOUT = 30.0
#: Seconds until a connection file is read again that is half there, or another launch's: some file systems are late.
STALE_PAUSE = 0.2
#: Seconds for a restart in place: a lost connection comes back, the old kernel ends, the new one is started.
RESTART_TIMEOUT = STOP_TIMEOUT + 20
#: Seconds that Slurm has to say how a job ended whose supervisor said goodbye.
END_TIMEOUT = 15.0
#: Tries to have Slurm cancel a job while the controller does not answer, and the seconds between them.
CANCEL_TRIES, CANCEL_PAUSE = 5, 3.0
#: Signs of life for each time of the lease, and the seconds between two at most.
SIGNS_PER_LEASE, SIGN_PAUSE = 4, 60.0

#: Slurm's names of the signals that reach the supervisor when it cannot be spoken to; it acts on the kernel.
_FALLBACK_SIGNALS: dict[int, str] = {signal.SIGINT: "INT", signal.SIGKILL: "USR2", signal.SIGTERM: "USR2"}


class Allocation:
    """A job that holds one kernel after another, as long as Slurm lets it.

    Parameters
    ----------
    cluster : Cluster
        Where to submit.
    link : Link
        The kernel's endpoints, to be connected to this job.
    config : KernelConfig
        What to ask Slurm for.
    kernel_id : str
        Jupyter's id of the kernel; names the run directory.
    log : logging.Logger
        Where its story is told.
    """

    def __init__(self, cluster: Cluster, link: Link, config: KernelConfig, kernel_id: str, log: logging.Logger) -> None:
        self._cluster = cluster
        self._link = link
        self._config = config
        self._kernel_id = kernel_id
        self._log = log
        self._nonce = secrets.token_hex(16)
        self._ours, self._theirs = make_identity("server"), make_identity("supervisor")
        self._submitting: asyncio.Future[None] | None = None
        self._watch: Watch | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._generation = 0
        self._kernel_log: tuple[str, ...] = ()
        self._being_ended = self._given_up = False
        self._home = self._log_path = ""
        self._address = ""
        self._started, self._found, self._reached = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._up, self._exited, self._bye, self._ended = (asyncio.Event() for _ in range(4))
        #: Slurm's id, "" before there is one.
        self.job_id = ""
        #: The run directory on the cluster.
        self.run_dir = ""
        #: The node that the kernel runs on, or "".
        self.node = ""
        #: Slurm's last word.
        self.status: JobStatus | None = None
        #: Exit code of the kernel process, negative for a signal; None while it is not known to have ended.
        self.exit_code: int | None = None
        #: Whether the kernel's end is wanted, so that it is no news.
        self.stopping = False

    @property
    def over(self) -> bool:
        """Whether no kernel can run in it any more: Slurm said so, or the supervisor, which is ending."""
        return self._ended.is_set() or self._bye.is_set() or self._being_ended

    # ------------------------------------------------------------------- launch

    async def start(self, command: KernelCommand) -> None:
        """Submit the job and wait until its kernel is up. If that fails, or is cancelled, no job is left.

        Raises
        ------
        SlurmProvisionerError
            There is no kernel.
        """
        self._submitting = asyncio.ensure_future(self._submit(command))
        try:
            await asyncio.shield(self._submitting)
            self._log.info("Job %s was submitted for kernel %s.", self.job_id, self._kernel_id)
            await self._wait_until_up()
        except BaseException:
            await to_the_end(self._undo())
            raise
        self._log.info("Kernel %s is up in job %s on %s.", self._kernel_id, self.job_id, self.node)

    async def _submit(self, command: KernelCommand) -> None:
        account = await self._cluster.transport.account()
        config, home = self._config, account.home
        run_dir = f"{batch.expand_home(config.state_dir, home)}/{self._kernel_id}"
        job_name = f"{config.job_name}-{self._kernel_id[:8]}-{self._nonce[:6]}"
        launcher = resources.files(__package__).joinpath("launcher.py").read_text(encoding="utf-8")
        request = launch_request(
            config,
            command,
            home=home,
            kernel_id=self._kernel_id,
            nonce=self._nonce,
            supervisor=self._theirs,
            server_certificate=self._ours.certificate,
            stop_timeout=STOP_TIMEOUT / 2,
        )
        self._home, self.run_dir = home, run_dir
        self.job_id = await self._cluster.slurm.submit(
            run_dir=run_dir,
            log_directory=batch.log_directory(config, run_dir=run_dir, home=home) or "",
            request=json.dumps(request),
            script=batch.render(config, job_name=job_name, run_dir=run_dir, home=home, launcher=launcher),
            job_name=job_name,
        )
        self._watch = self._cluster.watcher.watch(self.job_id, self._slurm_says)
        path = batch.log_path(
            config, run_dir=run_dir, home=home, job_id=self.job_id, job_name=job_name, user=account.user
        )
        self._log_path = path or ""

    async def _wait_until_up(self) -> None:
        files = self._spawn(self._follow_files())
        try:
            await self._until(self._started, self._config.queue_timeout)
            deadline = asyncio.get_running_loop().time() + self._config.start_timeout
            await self._until(self._found, self._config.start_timeout)
            await self._until(self._reached, REACH_TIMEOUT)
            await self._until(self._up, deadline - asyncio.get_running_loop().time())
        finally:
            files.cancel()

    async def _follow_files(self) -> None:
        """See the job start by its log, and the supervisor by its connection file: sooner than squeue could tell.

        The log is there from the submission on, empty and private, and the first step of the script writes to it.
        """
        transport, names = self._cluster.transport, ["connection.json", "job.log"]
        while True:
            name, content = await transport.await_file(self.run_dir, names)
            if name == "job.log":
                self._started.set()
                self._hurry()
                names.remove(name)
                continue
            with suppress(ValueError):
                connection = json.loads(content)
                if connection["nonce"] == self._nonce:
                    break
            await asyncio.sleep(STALE_PAUSE)
        self.node = connection["node"]
        hosts, port = tuple(connection["hosts"]), connection["port"]
        self._address = f"{' or '.join(hosts)}, port {port},"
        self._started.set()
        self._found.set()
        target = Target(
            hosts=hosts,
            port=port,
            identity=self._ours,
            peer_certificate=self._theirs.certificate,
            sign_of_life=min(self._config.lease / SIGNS_PER_LEASE, SIGN_PAUSE),
        )
        self._link.attach(target, self)

    async def restart(self, command: KernelCommand) -> None:
        """Put a new kernel in the place of the old one and wait until it is up.

        Raises
        ------
        LinkError
            The supervisor cannot be reached, or could not do it.
        JobError
            The new kernel ended before it was up, or the job did.
        """
        self.stopping = True  # the old kernel's end is no news
        request = kernel_request(self._config, command, home=self._home)
        answer = await self._link.call("restart", timeout=RESTART_TIMEOUT, **request)
        self.stopping = False
        self._new_kernel(int(answer["generation"]))
        await self._until(self._up, self._config.start_timeout)

    async def _until(self, event: asyncio.Event, timeout: float | None) -> None:
        """Wait for `event`, the end of the kernel or of the job, or the deadline, whichever comes first."""
        await first(event, self._exited, self._ended, timeout=timeout)
        if self._ended.is_set() or self._exited.is_set() or not event.is_set():
            raise await self._why(event)

    # ------------------------------------------------------------------- errors

    async def _evidence(self) -> explain.Evidence:
        log = await self._cluster.slurm.tail(self._log_path) if self._log_path else ""
        status = self.status or JobStatus(self.job_id, "")
        if self._started.is_set() and status.phase is not Phase.ENDED:
            status = replace(status, state="RUNNING", reason="")  # the supervisor knows before squeue is asked again
        return explain.Evidence(self.job_id, status, self.node or status.node, log.splitlines(), self._log_path)

    async def _why(self, missing: asyncio.Event) -> JobError:
        """Return the error of a launch that came to nothing while it waited for an event."""
        if self.over:
            return await self.end_error(up=False)
        seen = await self._evidence()
        if self._exited.is_set():
            code = self.exit_code or 0
            seen = replace(seen, log=self._kernel_log or seen.log)
            return explain.kernel_not_started(seen, code if code >= 0 else None, -code if code < 0 else None)
        if missing is self._started:
            return explain.queued_too_long(seen, self._config.queue_timeout or 0)
        if missing is self._reached:
            return explain.node_unreachable(seen, self._address, self._link.trouble)
        return explain.started_too_long(seen, self._config.start_timeout)

    async def end_error(self, *, up: bool = True) -> JobError:
        """Return how the job ended by itself, waiting shortly for Slurm's word if the supervisor said goodbye."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ended.wait(), END_TIMEOUT)
        if self._given_up:
            return explain.given_up(await self._evidence())
        return explain.job_ended(await self._evidence(), up=up)

    # --------------------------------------------------------------------- news

    def heard(self, event: Mapping[str, Any]) -> None:
        """Take an event of the supervisor."""
        generation = int(event.get("generation", self._generation))
        if generation < self._generation:
            return
        self._new_kernel(generation)
        kind = event["state"] if event["event"] == "status" else event["event"]
        if kind == "ready":
            self._up.set()
        elif kind == "exited":
            self._kernel_exited(event)
        elif kind == "time-left":
            self._log.warning(
                "Job %s reaches its time limit in %d s, and its kernel ends then.", self.job_id, event["seconds"]
            )
        elif kind == "bye":
            self._supervisor_ends(str(event.get("reason", "")))

    def link_changed(self, connected: bool) -> None:
        """Take the news that the supervisor was reached or lost."""
        if self._watch is not None:
            self._watch.linked = connected
        if connected:
            self._reached.set()
        else:
            self._hurry()

    def _new_kernel(self, generation: int) -> None:
        """Start the books of another kernel process, unless its own events did so already."""
        if generation > self._generation:
            self._generation = generation
            self._kernel_log = ()
            self.exit_code = None
            self._up.clear()
            self._exited.clear()

    def _kernel_exited(self, event: Mapping[str, Any]) -> None:
        code, signum = event.get("code"), event.get("signal")
        self._kernel_log = tuple(str(line) for line in event.get("log", ()))
        # The supervisor ended it, and not because we said so: Slurm wants the whole job to end.
        self._being_ended = bool(event.get("expected")) and not self.stopping
        self._set_exit(-signum if signum else int(code or 0))
        if self._up.is_set() and not self.stopping and not self._being_ended:
            how = explain.exit_text(code, signum)
            log = "".join(f"\n  {line}" for line in self._kernel_log[-explain.LOG_LINES :])
            self._log.warning("The kernel in job %s on %s ended with %s.%s", self.job_id, self.node, how, log)

    def _supervisor_ends(self, why: str) -> None:
        self._bye.set()
        self._set_exit(1)
        if not self.stopping:
            self._hurry()
            self._log.warning("The supervisor of job %s ends (%s).", self.job_id, why)

    def _slurm_says(self, status: JobStatus) -> None:
        self.status = status
        if status.phase is Phase.RUNNING:
            self.node = self.node or status.node
            self._started.set()
        elif status.phase is Phase.ENDED and not self._ended.is_set():
            if self._link.connected:  # Slurm gave its node up, but we reach it
                self._spawn(self._end_forgotten())
            self._close(detach=not self._link.connected)
            self._set_exit(-status.exit_signal if status.exit_signal else (status.exit_code or 1))
            if self._up.is_set() and not self.stopping:
                self._spawn(self._tell_end())

    async def _end_forgotten(self) -> None:
        await self._stop_supervisor()
        self._link.detach()

    async def _tell_end(self) -> None:
        self._log.warning("%s", await self.end_error())

    def _set_exit(self, code: int) -> None:
        """Note the kernel's exit code; the first source knows best."""
        if self.exit_code is None:
            self.exit_code = code
        self._exited.set()

    def _hurry(self) -> None:
        if self._watch is not None:
            self._watch.hurry()

    # ------------------------------------------------------------------ control

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group; without a kernel, do nothing.

        Slurm carries it when the supervisor cannot be reached. A failure is told in the log, never raised:
        jupyter_client would not go on with a shutdown.
        """
        if self.over or not self._generation or self.exit_code is not None:
            return
        if signum in (signal.SIGTERM, signal.SIGKILL):
            self.stopping = True
        if self._link.connected:
            try:
                await self._link.call("signal", signum=int(signum))
            except RefusedError as error:
                self._log.info("%s", error)  # by way of Slurm it would come late, perhaps to the next kernel
                return
            except LinkError as error:
                self._log.warning("Signal %d goes by way of Slurm: %s", signum, error)
            else:
                return
        name = _FALLBACK_SIGNALS.get(signum)
        if name is None:
            self._log.warning("Signal %d cannot be sent while job %s is not connected.", signum, self.job_id)
            return
        try:
            await self._cluster.slurm.signal(self.job_id, name)
        except CommandError as error:
            self._log.warning("Signal %d could not be sent to job %s: %s", signum, self.job_id, error)

    async def wait(self) -> int:
        """Wait for the end of the kernel process and return its exit code."""
        await self._exited.wait()
        return self.exit_code or 0

    # ---------------------------------------------------------------------- end

    async def end(self) -> None:
        """Have the supervisor end the job; where it cannot, or takes too long, have Slurm cancel it."""
        self.stopping = True
        self._given_up = not self.over
        if self._submitting is not None:  # sbatch may get through although nobody waits for it any more
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.shield(self._submitting)
        if self.job_id and not self._ended.is_set() and not await self._stop_supervisor():
            await self._cancel()
        self._close()
        self._set_exit(-int(signal.SIGTERM))
        for task in self._tasks:
            task.cancel()

    async def tidy(self, *, keep_log: bool) -> None:
        """Remove the run directory, or all of it but the log, which tells the user of a failure."""
        if self.run_dir and keep_log:
            await self._cluster.slurm.remove(f"{self.run_dir}/request.json", f"{self.run_dir}/connection.json")
        elif self.run_dir:
            await self._cluster.slurm.remove(self.run_dir)

    async def _undo(self) -> None:
        await self.end()
        await self.tidy(keep_log=self._started.is_set())

    async def _stop_supervisor(self) -> bool:
        if not self._link.connected:
            return False
        try:
            await self._link.call("stop", timeout=2)
            await asyncio.wait_for(self._bye.wait(), STOP_TIMEOUT)
        except (LinkError, asyncio.TimeoutError):
            return False
        return True

    async def _cancel(self) -> None:
        for tries_left in reversed(range(CANCEL_TRIES)):
            try:
                await self._cluster.slurm.cancel(self.job_id)
            except CommandError as error:
                if tries_left:
                    await asyncio.sleep(CANCEL_PAUSE)
                    continue
                self._log.error(
                    "Job %s could not be cancelled; its lease ends it. %s\nTo be sure: scancel %s",
                    self.job_id,
                    error,
                    self.job_id,
                )
            return

    def _close(self, *, detach: bool = True) -> None:
        self._ended.set()
        if detach:
            self._link.detach()
        if self._watch is not None:
            self._watch.close()

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(coro)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("Unexpected error with job %s", self.job_id, exc_info=error)
