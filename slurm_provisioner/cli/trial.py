"""A kernel that is started for a check-up, as Jupyter would start it, and ended again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from ..allocation import Allocation
from ..cluster import Place, acquire, release
from ..errors import SlurmProvisionerError
from ..kernels import wait_until_gone
from ..loop import background_loop, first
from ..provisioner import SlurmProvisioner
from ..quantities import format_duration
from ..reasons import explain_reason
from . import site
from .checks import FAILED, OK, WARNING, Finding
from .kernelspecs import Kernelspec, for_jupyter

__all__ = ["trial"]

#: Seconds that two clocks may be apart before there is something to say; the news of a file may take some of them.
_CLOCKS = 5.0
#: Seconds for a kernel that is up to say what it is.
_ANSWER = 30.0
#: Seconds for a job to leave the queue: Slurm itself takes some, on top of KillWait, which is 30 s as a rule.
_GONE = 60.0


class _One(KernelSpecManager):
    """Knows one kernelspec, which need not be installed."""

    def __init__(self, spec: Kernelspec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._spec = spec

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return it, whatever it is called."""
        return for_jupyter(self._spec)


async def trial(spec: Kernelspec, place: Place, patience: float) -> AsyncGenerator[Finding, None]:
    """Start a kernel, and yield what is found on its way; end it, and see its job gone.

    Parameters
    ----------
    spec : Kernelspec
        Its kernelspec.
    place : Place
        Its cluster.
    patience : float
        Seconds that its job may wait in the queue.
    """
    clock = _Clock()
    manager = AsyncKernelManager(
        kernel_name=spec.name or "trial", kernel_spec_manager=_One(spec), config=site.provisioner().config
    )
    job_id = ""
    try:
        async with contextlib.aclosing(_start(manager, patience, clock)) as findings:
            async for finding in findings:
                yield finding
    finally:
        if manager.has_kernel:
            job_id = cast(SlurmProvisioner, manager.provisioner).job_id or ""
            await manager.shutdown_kernel(now=True)
    if job_id:
        yield await _end(place, job_id, clock)


async def _start(manager: AsyncKernelManager, patience: float, clock: _Clock) -> AsyncGenerator[Finding, None]:
    environ = {**os.environ, "KERNEL_SLURM_START": "now", "KERNEL_SLURM_PERSISTENT": "false"}
    try:
        await manager.start_kernel(env=environ)
    except SlurmProvisionerError as error:
        yield clock.failed("job", error)
        return
    except (TypeError, ValueError, AttributeError) as error:  # jupyter_client's, of a kernelspec that is odd
        what = f"Jupyter cannot start it: {type(error).__name__}: {error}"
        yield clock.finding("job", FAILED, what, "`argv` is a list of texts, `env` and `config` are mappings.")
        return
    provisioner = cast(SlurmProvisioner, manager.provisioner)
    allocation = provisioner.allocation
    assert allocation is not None
    yield clock.well("job", f"Slurm took it as job {provisioner.job_id}")
    up = asyncio.ensure_future(provisioner.wait_until_up())
    try:
        async for finding in _on_its_way(allocation, up, patience, clock):
            yield finding
            if finding.verdict == FAILED or (finding.check == _QUEUED and finding.verdict != OK):
                return
        yield await _answer(manager, clock)
    finally:
        up.cancel()
        with contextlib.suppress(asyncio.CancelledError, SlurmProvisionerError):
            await up


async def _end(place: Place, job_id: str, clock: _Clock) -> Finding:
    async def left() -> list[str]:
        cluster = acquire(place)
        try:
            return await wait_until_gone(cluster.slurm, [job_id], _GONE)
        finally:
            await release(cluster)

    try:
        still = await background_loop().run(left())
    except SlurmProvisionerError as error:
        return clock.failed("end", error)
    if still:
        words = f"job {job_id} is still there {_GONE:g} s after its kernel was shut down"
        return clock.finding("end", FAILED, words, f"`jupyter slurm stop {job_id}` ends it.")
    return clock.well("end", f"job {job_id} is over")


_QUEUED = "queue"


async def _on_its_way(
    allocation: Allocation, up: asyncio.Future[None], patience: float, clock: _Clock
) -> AsyncGenerator[Finding, None]:
    record = allocation.record
    if not await _until(record.started, up, patience):
        if not up.done():
            status = record.status
            why = explain_reason(status.reason)[0] if status is not None else "Slurm has not said why"
            words = f"the job still waited after {format_duration(patience)}: {why}"
            yield clock.finding(_QUEUED, WARNING, words, "What comes after that was not tried; --wait waits longer.")
            return
        yield clock.failed(_QUEUED, up.exception())
        return
    yield clock.well(_QUEUED, f"the job started{f' on {record.node}' if record.node else ''}")
    if not await _until(record.reached, up):
        seen = allocation.arrival
        yield clock.failed("node" if seen is None else "connection", up.exception())
        return
    arrival = allocation.arrival
    assert arrival is not None
    yield clock.well("node", f"{record.node} sees state_dir, and runs the supervisor with Python {arrival.python}")
    yield _clocks(record.node, arrival.told_at - allocation.arrived_at, clock)
    where = " or ".join(arrival.hosts)
    yield clock.well("connection", f"port {arrival.port} of {where}: TLS, with certificates on both sides")
    if not await _until(record.up, up):
        yield clock.failed("kernel", up.exception())


def _clocks(node: str, ahead: float, clock: _Clock) -> Finding:
    """Return how far a node's clock is ahead of ours, as told by a message that was a moment on its way."""
    if abs(ahead) <= _CLOCKS:
        return clock.well("clocks", f"those of {node} and of this host agree")
    words = f"that of {node} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this host's"
    return clock.finding("clocks", WARNING, words, "Times in logs differ; tell the cluster's support.")


async def _answer(manager: AsyncKernelManager, clock: _Clock) -> Finding:
    client = manager.client()
    client.start_channels()
    try:
        # an answer to this can only be the kernel's own: what it is, is known to the stand-in, too
        await client.execute("", silent=True, reply=True, timeout=_ANSWER)
        reply = await client.kernel_info(reply=True, timeout=_ANSWER)
    except TimeoutError:
        words = f"it is up, but did not say what it is within {_ANSWER:g} s"
        return clock.finding("kernel", FAILED, words, "Its log may tell: `jupyter slurm logs`.")
    finally:
        client.stop_channels()
    info = reply["content"]
    language = info.get("language_info", {})
    what = f"{info.get('implementation', '?')} {info.get('implementation_version', '')}".strip()
    return clock.well("kernel", f"{what}, {language.get('name', '?')} {language.get('version', '')}".strip())


async def _until(event: asyncio.Event, up: asyncio.Future[None], timeout: float | None = None) -> bool:
    """Wait for an event of the background loop, the end of the launch, or the time limit; return whether it came."""
    waiting = asyncio.ensure_future(background_loop().run(first(event, timeout=timeout)))
    try:
        await asyncio.wait([waiting, up], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
    return event.is_set()


class _Clock:
    """Tells how long each step took."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def finding(self, check: str, verdict: str, words: str, hint: str = "", evidence: tuple[str, ...] = ()) -> Finding:
        begin, self._last = self._last, time.monotonic()
        return Finding(check, verdict, words, evidence, hint, self._last - begin)

    def well(self, check: str, words: str) -> Finding:
        return self.finding(check, OK, words)

    def failed(self, check: str, error: BaseException | None) -> Finding:
        if isinstance(error, SlurmProvisionerError):
            return self.finding(check, FAILED, error.summary, error.hint, error.evidence)
        assert error is not None
        raise error
