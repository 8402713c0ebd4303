"""`jupyter slurm doctor`: whether a kernel would start, step by step, and what to do where it would not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from typing import Any

import click
from rich.markup import escape

from ..cluster import Place
from ..quantities import parse_duration
from . import checks, kernelspecs, show, site
from .asking import place_of
from .checks import FAILED, OK, SKIPPED, WARNING, Finding
from .completing import complete_ours
from .kernelspecs import Kernelspec
from .main import NOT_SO
from .places import Where, lasting
from .trial import trial

__all__ = ["doctor"]

_WIDTH = 14
_MARKS = {OK: "[green]✓[/]", WARNING: "[yellow]![/]", FAILED: "[red]✗[/]", SKIPPED: "[dim]-[/]"}


def _duration(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    try:
        return parse_duration(int(value) if value.isdecimal() else value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("kernelspec", required=False, shell_complete=complete_ours)
@click.option("--job/--no-job", default=True, help="Whether to start a kernel in a job, and end it. Default: --job.")
@click.option(
    "--wait",
    default="2m",
    callback=_duration,
    metavar="DURATION",
    help="How long its job may wait in the queue. Default: 2m.",
)
@click.option("--ssh", metavar="HOST", help="Without KERNELSPEC: the cluster's login host.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, for programs.")
def doctor(kernelspec: str | None, job: bool, wait: float, ssh: str | None, as_json: bool) -> int:
    """Check all that a start of KERNELSPEC needs, in order, and say what to do about what is wrong.

    Without KERNELSPEC: a Python kernel with the site's defaults. A job is submitted at the end, as a start would, and
    over when this ends.
    """
    if kernelspec is not None and ssh is not None:
        raise click.UsageError("KERNELSPEC says where it runs; --ssh is for a check without one.")
    spec = kernelspecs.ours(kernelspec, site.default_provisioner()) if kernelspec is not None else _any(ssh)
    found = []
    with closing(_findings(spec, job, wait)) as findings:
        for finding in findings:
            found.append(finding)
            if not as_json:
                _print(finding)
    failures = [finding for finding in found if finding.verdict == FAILED]
    if as_json:
        show.as_json([_document(finding) for finding in found])
    else:
        warnings = sum(finding.verdict == WARNING for finding in found)
        end = f"{len(failures)} failed" if failures else f"All is well{', with warnings' if warnings else ''}"
        show.console().print(f"\n{end}.")
    return NOT_SO if failures else 0


def _any(ssh: str | None) -> Kernelspec:
    """Return a kernelspec of Python with the site's defaults."""
    known = kernelspecs.names()
    spec = kernelspecs.find("python3") if "python3" in known and ssh is None else kernelspecs.python_kernel()
    return spec.with_config({"ssh": ssh} if ssh else {}, spec.display_name)


def _findings(spec: Kernelspec, job: bool, wait: float) -> Generator[Finding, None, None]:
    loaded: list[Any] = []

    def read() -> str:
        loaded.append(site.load(spec.config, os.environ))
        return f"{spec.display_name}{f', in {spec.folder}' if spec.name and spec.folder else ''}"

    finding = checks.examine("kernelspec", read)
    yield finding
    if not loaded:
        return
    config = loaded[0]
    ill = False
    with lasting([Where(place_of(config), ())]):
        for finding in checks.before_a_job(config):
            ill = ill or finding.verdict == FAILED
            yield finding
        if not job or ill:
            why = "a job was not wanted" if not job else "no job is submitted before that is right"
            yield Finding("job", SKIPPED, why)
            return
        yield from _of_a_trial(spec, place_of(config), wait)


def _of_a_trial(spec: Kernelspec, place: Place, wait: float) -> Iterator[Finding]:
    """Yield what a trial finds, as it finds it."""
    runner = asyncio.new_event_loop()
    findings = trial(spec, place, wait)
    step: asyncio.Future[Finding] | None = None
    try:
        while True:
            step = asyncio.ensure_future(anext(findings), loop=runner)
            try:
                with show.working("Trying a kernel in a job …"):
                    finding = runner.run_until_complete(step)
            except StopAsyncIteration:
                return
            yield finding
    finally:
        with show.working("Ending its job …"):
            if step is not None and not step.done():  # Ctrl-C has ended our wait, and told nobody else
                step.cancel()
                with suppress(asyncio.CancelledError):
                    runner.run_until_complete(step)
            runner.run_until_complete(findings.aclose())
        runner.close()


def _print(finding: Finding) -> None:
    out = show.console()
    mark, took = _MARKS[finding.verdict], f"[dim]{finding.seconds:.2f} s[/]"
    out.print(f"{mark} {_escaped(finding.check):<{_WIDTH}} {_escaped(finding.words)}  {took}")
    for line in finding.evidence:
        out.print(f"    {_escaped(line)}")
    if finding.hint:
        out.print(f"  → {_escaped(finding.hint)}")


def _escaped(words: str) -> str:
    return escape(show.plain(words))


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "verdict": finding.verdict,
        "words": finding.words,
        "evidence": [*finding.evidence],
        "hint": finding.hint,
        "seconds": round(finding.seconds, 3),
    }
