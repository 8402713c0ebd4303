"""What is printed: tables and words for people, JSON for programs. Colours are for terminals only."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..errors import SlurmProvisionerError

__all__ = ["as_json", "console", "error", "note", "plain", "say", "sure", "table", "told_plainly", "working"]

#: Columns of a table that nobody looks at: a program that reads it wants whole words.
_UNLIMITED = 10_000


def console(*, stderr: bool = False) -> Console:
    """Return where to print; made anew each time, as the streams of tests are."""
    made = Console(stderr=stderr, highlighter=NullHighlighter(), soft_wrap=True, emoji=False)
    if not made.is_terminal:
        made.width = _UNLIMITED
    return made


def as_json(value: Any) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2))


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, folded: Collection[str] = ()) -> Table:
    """Return a table of plain columns, of which the last takes what room is left.

    Parameters
    ----------
    columns, rows : sequence
        Headers, and what is below them.
    folded : collection of str
        Columns that give room, too, where there is little: what is cut off another one could be mistaken for the whole.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(columns):
        made.add_column(name, no_wrap=number < len(columns) - 1 and name not in folded, overflow="fold")
    for row in rows:
        made.add_row(*(each if isinstance(each, Text) else Text(plain(each)) for each in row))
    return made


def say(words: str, *, stderr: bool = False) -> None:
    """Tell people something."""
    click.echo(plain(words), err=stderr)


def note(words: str) -> None:
    """Tell people something that is not the answer."""
    say(words, stderr=True)


def sure(question: str) -> None:
    """Ask people whether they are sure; who is not ends the command, with the exit code of what was not done."""
    if not click.confirm(plain(question), err=True):
        raise click.exceptions.Exit(1)


def plain(text: str) -> str:
    """Return text without what a terminal would act on: names of notebooks may hold anything."""
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text)


def error(problem: SlurmProvisionerError) -> None:
    """Print an error: what happened, what shows it, what to do."""
    summary, *rest = str(problem).splitlines()
    out = console(stderr=True)
    out.print(f"[bold red]error:[/] {escape(plain(summary))}")
    for line in rest:
        out.print(escape(plain(line)))


@contextmanager
def working(words: str) -> Iterator[None]:
    """Show that something is being done, to people at a terminal; without words nothing is shown."""
    out = console(stderr=True)
    if not words or not out.is_terminal:
        yield
        return
    with out.status(f"[dim]{escape(words)}[/]", spinner="dots"):
        yield


@contextmanager
def told_plainly() -> Iterator[None]:
    """Have the package's warnings shown as lines of a command's own, once each."""

    class Plainly(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(f"{record.levelname.lower()}: {record.getMessage()}")

    handler, log = Plainly(logging.WARNING), logging.getLogger("slurm_provisioner")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
