"""One Slurm job, from sbatch to its end: how it is submitted, steered and ended.

News come from three sides: Slurm's word through the watcher, the supervisor's through the link, and files of the run
directory. A wait is for the first of two facts, what is hoped for or the end, and has a deadline.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import secrets
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from . import batch, explain
from .arrival import Arrival, await_supervisor
from .cluster import Cluster
from .config import KernelConfig
from .credentials import Identity, client_context, make_identity
from .errors import (
    CommandError,
    ConfigError,
    JobError,
    LinkError,
    LoginHostError,
    RefusedError,
    SlurmProvisionerError,
)
from .link import Link, Target
from .loop import computed, first, to_the_end
from .processes import this_server
from .record import STARTING, JobRecord
from .request import KernelCommand, Launch, kernel_request
from .status import JobStatus, Phase
from .submission import Submission, prepare
from .transport import Account, Node
from .watcher import Watch

__all__ = ["Allocation"]

#: Seconds the supervisor has to end the kernel and itself before scancel does, once it has said that it will.
STOP_TIMEOUT = 8.0
#: Seconds it has to say so, and those of them that are not taken off the time for the rest.
STOP_PATIENCE, STOP_FREE = 5.0, 2.0
#: Seconds that sbatch has to answer where nobody wants the job any more.
SUBMIT_PATIENCE = 5.0
#: Seconds for the first connection to a supervisor that told where it listens.
REACH_TIMEOUT = 30.0
#: Seconds for a restart in place: a lost connection comes back, the old kernel ends, the new one is started.
RESTART_TIMEOUT = STOP_TIMEOUT + 20
#: Seconds that a supervisor has to say that its job ends, whose kernel has got the signal, too.
GOODBYE_TIMEOUT = 2.0
#: Seconds that Slurm has to say how a job ended whose supervisor said goodbye.
END_TIMEOUT = 15.0
#: Signs of life for each time of the lease, and the seconds between two at most.
SIGNS_PER_LEASE, SIGN_PAUSE = 4, 60.0
#: Seconds that a supervisor may need to end all after its lease ran out.
FENCE_MARGIN = 30.0

#: Slurm's names of the signals that reach the supervisor when it cannot be spoken to; it acts on the kernel.
_FALLBACK_SIGNALS: dict[int, str] = {signal.SIGINT: "INT", signal.SIGTERM: "QUIT", signal.SIGKILL: "USR2"}


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
        self._ours: Identity
        self._theirs: Identity
        self._target: Target | None = None
        self._submitting: asyncio.Future[None] | None = None
        self._watch: Watch | None = None
        self._found = asyncio.Event()
        self._unguard: Callable[[], None] = lambda: None
        self._given_up = self._queued_again = False
        self._delay = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._home = ""
        #: What became known of it.
        self.record = JobRecord(log)
        #: The run directory on the cluster.
        self.run_dir = ""
        #: Where its supervisor was found, and when, in seconds since the epoch; None before.
        self.arrival: Arrival | None = None
        self.arrived_at = 0.0

    # ------------------------------------------------------------------- launch

    async def submit(self, command: KernelCommand, *, not_before: float = 0) -> None:
        """Submit the job. If that fails, or is cancelled, no job is left.

        Parameters
        ----------
        command : KernelCommand
            What to run.
        not_before : float
            Time of the event loop before which Slurm shall not start it.

        Raises
        ------
        SlurmProvisionerError
            There is no job.
        """
        self._delay = max(0.0, not_before - asyncio.get_running_loop().time())
        self._submitting = asyncio.ensure_future(self._submit(command, self._delay))
        try:
            await asyncio.shield(self._submitting)
        except BaseException:
            await to_the_end(self._undo())
            raise
        self._log.info("Job %s was submitted for kernel %s.", self.record.job_id, self._kernel_id)

    async def wait_until_up(self) -> None:
        """Wait until the kernel of a job that was submitted is up. If that fails, no job is left.

        Raises
        ------
        SlurmProvisionerError
            There is no kernel.
        """
        try:
            await self._wait_until_up(self._delay)
        except SlurmProvisionerError:
            await to_the_end(self._undo())
            raise
        self._log.info("Kernel %s is up in job %s on %s.", self._kernel_id, self.record.job_id, self.record.node)
        self._let_live()
        self._spawn(self._cluster.prune(batch.expand_home(self._config.state_dir, self._home)))

    def _let_live(self) -> None:
        """Have a persistent kernel that is up outlive us, however we end."""
        if self._config.persistent:
            self._unguard()

    async def _submit(self, command: KernelCommand, delay: float) -> None:
        account = await self._cluster.transport.account()
        slurm = self._cluster.slurm
        job = await computed(self._prepare, command, account, delay)
        self._home, self.run_dir, self.record.job_name = account.home, job.run_dir, job.job_name
        self._unguard = slurm.if_we_die(job.job_name, job.run_dir)
        self.record.job_id = await slurm.submit(job)
        self.record.submitted_at = time.time()
        self.record.log_path = job.log_path(self.record.job_id)
        self._follow_job()
        self.record.changed()

    def _prepare(self, command: KernelCommand, account: Account, delay: float) -> Submission:
        self._ours, self._theirs = make_identity("server"), make_identity("supervisor")
        launch = Launch(
            kernel_id=self._kernel_id,
            nonce=self._nonce,
            supervisor=self._theirs,
            server_certificate=self._ours.certificate,
            stop_timeout=STOP_TIMEOUT / 2,
            squeue=self._cluster.slurm.state_argv(),
            server=this_server(),
            submitted_on=account.machine,
            submitted=time.time(),
        )
        return prepare(self._config, command, account, launch, delay=math.ceil(delay))

    def _follow_job(self) -> None:
        record = self.record
        self._watch = self._cluster.watcher.watch(record.job_id, record.job_name, self._slurm_says, record.notes)

    async def _wait_until_up(self, delay: float) -> None:
        try:
            context = await self._make_context()  # there is time for it now
        except OSError as error:
            hint = "The key of the connection is a file for a moment, in a folder of TMPDIR: is there space?"
            raise LinkError(f"The connection to the job cannot be prepared: {error}.", hint=hint) from error
        files = self._spawn(self._find_supervisor(context))
        wait = self._config.queue_timeout
        try:
            await self._until(self.record.started, None if wait is None else wait + delay)
            deadline = asyncio.get_running_loop().time() + self._config.start_timeout
            await self._until(self._found, self._config.start_timeout)
            await self._until(self.record.reached, REACH_TIMEOUT)
            await self._until(self.record.up, deadline - asyncio.get_running_loop().time())
        finally:
            files.cancel()

    async def _find_supervisor(self, context: ssl.SSLContext) -> None:
        arrival = await await_supervisor(self._cluster.transport, self.run_dir, self._nonce, self._does)
        self.record.node = arrival.node.name
        self._does(STARTING)
        self.arrival, self.arrived_at = arrival, time.time()
        self._found.set()
        self._attach(self._at(arrival.node, arrival.hosts, arrival.port, context))

    def _does(self, step: str) -> None:
        self.record.stage = step
        self._started()
        self.record.changed()

    def _started(self) -> None:
        if not self.record.started.is_set():
            self.record.started.set()
            if self._watch is not None:
                self._watch.begins()

    async def _make_context(self) -> ssl.SSLContext:
        return await computed(client_context, self._ours, self._theirs.certificate)

    def _at(self, node: Node, hosts: tuple[str, ...], port: int, context: ssl.SSLContext) -> Target:
        return Target(node, hosts, port, context, min(self._config.lease / SIGNS_PER_LEASE, SIGN_PAUSE))

    def _attach(self, target: Target) -> None:
        self._target = target
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
        self.record.stopping = True  # the old kernel's end is no news
        request = kernel_request(self._config, command, home=self._home)
        try:
            answer = await self._link.call("restart", timeout=RESTART_TIMEOUT, **request)
        except LinkError as error:
            error.hint = "Restart the kernel to try again; it keeps its job."
            raise
        finally:
            self.record.stopping = False
        self.record.new_kernel(int(answer["generation"]))
        await self._until(self.record.up, self._config.start_timeout)
        self._let_live()  # it may be the first that is up

    async def _until(self, event: asyncio.Event, timeout: float | None) -> None:
        """Wait for `event`, the end of the kernel or of the job, or the deadline, whichever comes first."""
        await first(event, self.record.exited, self.record.ended, timeout=timeout)
        if self.record.ended.is_set() or self.record.exited.is_set() or not event.is_set():
            raise await self._why(event)

    # ----------------------------------------------------------------- takeover

    def info(self) -> dict[str, Any]:
        """Return what another process needs to take the job over, fit for JSON. It holds a private key."""
        assert self._target is not None, "the job has a kernel"
        return {
            "job_id": self.record.job_id,
            "job_name": self.record.job_name,
            "node": self.record.node,
            "log_path": self.record.log_path,
            "run_dir": self.run_dir,
            "home": self._home,
            "ssh_host_keys": list(self._target.node.host_keys),
            "hosts": list(self._target.hosts),
            "port": self._target.port,
            "certificate": self._ours.certificate,
            "private_key": self._ours.private_key,
            "peer_certificate": self._theirs.certificate,
        }

    async def adopt(self, info: Mapping[str, Any]) -> None:
        """Take over a job that another process started. Return once it is known how its kernel is.

        Where neither the supervisor nor Slurm says so for a while, that is not known, and no error.

        Raises
        ------
        ConfigError
            That is not what `info` returned.
        """
        try:
            for name in ("job_id", "job_name", "node", "log_path"):
                setattr(self.record, name, str(info[name]))
            self.run_dir, self._home = str(info["run_dir"]), str(info["home"])
            self._ours = Identity(str(info["certificate"]), str(info["private_key"]))
            self._theirs = Identity(str(info["peer_certificate"]), "")
            node = Node(self.record.node, tuple(map(str, info["ssh_host_keys"])))
            hosts, port = tuple(map(str, info["hosts"])), int(info["port"])
            self._attach(self._at(node, hosts, port, await self._make_context()))
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise ConfigError(f"This does not identify the job of a kernel: {error!r}.") from error
        self.record.started.set()
        if not self._config.persistent:
            self._unguard = self._cluster.slurm.if_we_die(self.record.job_name, self.run_dir)
        self._follow_job()
        await first(self.record.up, self.record.exited, self.record.ended, timeout=REACH_TIMEOUT)
        if not self.record.reached.is_set() and not self.record.ended.is_set():
            self._log.warning(
                "The supervisor of job %s on %s cannot be reached yet: %s",
                self.record.job_id,
                self.record.node,
                self._link.trouble,
            )

    # ------------------------------------------------------------------- errors

    async def _evidence(self) -> explain.Evidence:
        path = self.record.log_path
        return self.record.evidence((await self._cluster.slurm.tail(path)).splitlines() if path else ())

    async def _why(self, missing: asyncio.Event) -> JobError:
        """Return the error of a launch that came to nothing while it waited for an event."""
        if self.record.exit_code == -signal.SIGTERM:  # Slurm, when it ends a job, signals all of it
            await first(self.record.ending, self.record.ended, timeout=GOODBYE_TIMEOUT)
        if self.record.over:
            return await self.end_error(up=False)
        if self.record.exited.is_set():
            seen = self.record.evidence() if self.record.kernel_log else await self._evidence()
            code = self.record.exit_code or 0
            return explain.kernel_not_started(seen, code if code >= 0 else None, -code if code < 0 else None)
        seen = await self._evidence()
        if missing is self.record.started:
            return explain.queued_too_long(seen, self._config.queue_timeout or 0)
        if missing is self.record.reached:
            target = self._target
            where = f"{' or '.join(target.hosts)}, port {target.port}," if target else "its port"
            return explain.node_unreachable(seen, where, self._link.trouble, self._config.ssh)
        return explain.started_too_long(seen, self._config.start_timeout)

    async def end_error(self, *, up: bool = True) -> JobError:
        """Return how the job ended by itself, waiting shortly for Slurm's word if the supervisor said goodbye."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.record.ended.wait(), END_TIMEOUT)
        if self._given_up:
            return explain.given_up(await self._evidence())
        return explain.job_ended(await self._evidence(), up=up)

    # --------------------------------------------------------------------- news

    def heard(self, event: Mapping[str, Any]) -> None:
        """Take an event of the supervisor."""
        self.record.take(event)
        if self.record.leaving and not self.record.stopping and self._watch is not None:
            self._watch.ends()

    def link_changed(self, connected: bool) -> None:
        """Take the news that the supervisor was reached or lost."""
        if self._watch is not None:
            self._watch.linked = connected
            if not connected:
                self._watch.hurry()
        if connected:
            self.record.reached.set()
            if self.record.interrupting:
                self.record.interrupting = False
                self._spawn(self.signal(signal.SIGINT))
        self.record.changed()

    def _slurm_says(self, status: JobStatus) -> None:
        if status.phase is Phase.ENDED:
            self._job_ended(status)
        elif status.phase is Phase.PENDING and self._was_requeued():
            self._spawn(self._cancel())
            self._job_ended(JobStatus(status.job_id, "REQUEUED", status.reason, name=status.name))
        else:
            self.record.status = status
            self._queued_again &= status.phase is Phase.PENDING
            if status.phase is Phase.RUNNING:
                self.record.node = self.record.node or status.node
                self._started()
            self.record.changed()

    def _was_requeued(self) -> bool:
        """Whether a job that is said to be pending has run before. What was asked early may be answered late."""
        again, self._queued_again = self._queued_again, self.record.reached.is_set() and not self._link.connected
        return self._queued_again and (again or bool(self.record.leaving))

    def _job_ended(self, status: JobStatus) -> None:
        connected = self._link.connected
        if self.record.ended.is_set() or (status.state == "NOT_FOUND" and connected):
            return
        if connected:  # Slurm gave its node up, but we reach it
            self._spawn(self._end_forgotten())
        self.record.slurm_ended_it(status)
        self._close(detach=not connected)

    async def _end_forgotten(self) -> None:
        await self._stop_supervisor()
        self._link.detach()

    @property
    def may_run_until(self) -> float:
        """Time of the event loop until which a kernel may run on where Slurm lost sight of it; 0 if it cannot.

        Processes on a node that was cut off go on, until they hear of nobody for the time of their lease.
        """
        state = self.record.status.state if self.record.status is not None else ""
        lost = state in ("NODE_FAIL", "NOT_FOUND") or self._link.lost_in_silence
        if not self.record.ended.is_set() or self.record.bye.is_set() or not lost or self._config.persistent:
            return 0
        return (self._link.last_sent or asyncio.get_running_loop().time()) + self._config.lease + FENCE_MARGIN

    # ------------------------------------------------------------------ control

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group; without a kernel, do nothing.

        Slurm carries it when the supervisor cannot be reached. Where that fails, too, an interrupt is sent later, and
        what ends a kernel is up to the end of its job. It is told in the log, never raised: jupyter_client would not
        go on with a shutdown.
        """
        job_id = self.record.job_id
        if self.record.over or not self.record.generation or self.record.exit_code is not None:
            return
        if signum in (signal.SIGTERM, signal.SIGKILL):
            self.record.stopping = True
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
            self._log.warning("Signal %d cannot be sent while job %s is not connected.", signum, job_id)
            return
        try:
            await self._cluster.slurm.signal(job_id, name)
        except CommandError as error:
            if signum != signal.SIGINT or self.record.over:
                self._log.warning("Signal %d could not be sent to job %s: %s", signum, job_id, error)
                return
            self._log.warning("The kernel in job %s is interrupted once it can be reached: %s", job_id, error)
            self.record.interrupting = True
            if self._link.connected:
                self.link_changed(True)
            else:
                self.record.changed()

    async def wait(self) -> int:
        """Wait for the end of the kernel process and return its exit code."""
        await self.record.exited.wait()
        return self.record.exit_code or 0

    # ---------------------------------------------------------------------- end

    async def end(self) -> None:
        """Have the supervisor end the job; where it cannot, or takes too long, have Slurm cancel it."""
        self.record.stopping = True
        self._given_up = not self.record.over
        slurm = self._cluster.slurm
        if self._submitting is not None:  # most often sbatch is through in a moment, and there is an id to cancel
            await asyncio.wait([self._submitting], timeout=SUBMIT_PATIENCE)
            self._submitting.cancel()
            await asyncio.wait([self._submitting])
        if self.record.job_id and not self.record.ended.is_set() and not await self._stop_supervisor():
            await self._cancel()
        elif self.record.job_name in slurm.unsettled:
            slurm.unsettled.remove(self.record.job_name)
            self._do_later(f"A job {self.record.job_name}", functools.partial(slurm.cancel_named, self.record.job_name))
        self.record.ended.set()
        self.record.kernel_ended(-int(signal.SIGTERM))
        self.leave()

    async def tidy(self, *, keep_log: bool) -> None:
        """Remove the run directory, or all of it but the log, which tells the user of a failure."""
        secret = [f"{self.run_dir}/request.json", f"{self.run_dir}/connection.json"]
        if not self.run_dir:
            return
        remove = functools.partial(self._cluster.slurm.remove, *(secret if keep_log else [self.run_dir]))
        try:
            await remove()
        except LoginHostError:
            self._cluster.do_later(f"{self.run_dir} is removed", remove)
        except CommandError as error:
            self._log.info("%s stays: %s", self.run_dir, error)

    def leave(self) -> None:
        """Have nothing more to do with a job that goes on."""
        self._close()
        for task in self._tasks:
            task.cancel()

    async def _undo(self) -> None:
        await self.end()
        await self.tidy(keep_log=self.record.started.is_set())

    async def _stop_supervisor(self) -> bool:
        if not self._link.connected:
            return False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STOP_TIMEOUT + STOP_FREE  # an interpreter that ends has no more for it
        try:
            await self._link.call("stop", timeout=STOP_PATIENCE)
            await asyncio.wait_for(self.record.bye.wait(), deadline - loop.time())
        except (LinkError, asyncio.TimeoutError):
            return False
        return not self.record.orphaned

    async def _cancel(self) -> None:
        job_id = self.record.job_id
        cancel = functools.partial(self._cluster.slurm.cancel, job_id)
        try:
            await cancel()
        except CommandError as error:
            self._log.warning("Job %s could not be cancelled yet, and will be once that is possible. %s", job_id, error)
            self._do_later(f"Job {job_id}", cancel)

    def _do_later(self, job: str, cancel: Callable[[], Awaitable[None]]) -> None:
        unguard, self._unguard = self._unguard, lambda: None

        async def cancel_it() -> None:
            await cancel()
            unguard()

        self._cluster.do_later(f"{job} is cancelled", cancel_it)

    def _close(self, *, detach: bool = True) -> None:
        self._unguard()
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
            self._log.error("Unexpected error with job %s", self.record.job_id, exc_info=error)
