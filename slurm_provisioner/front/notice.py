"""What the stand-in shows in cells: a line about the job, and errors. Pure."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from ..errors import SlurmProvisionerError

__all__ = ["Failure", "bundle", "failure", "interrupted"]

_STYLE = "color: var(--jp-ui-font-color2, gray); font-size: var(--jp-ui-font-size1, 13px); padding-left: 1ch"
_LINE = f'<div style="{_STYLE}">{{}}</div>'
_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True)
class Failure:
    """An error as cells have it.

    Attributes
    ----------
    name, value : str
        The error's class and what it says.
    traceback : tuple of str
        The lines that are shown.
    """

    name: str
    value: str
    traceback: tuple[str, ...]

    @property
    def plain(self) -> str:
        """The lines without colour."""
        return "\n".join(self.traceback).replace(_RED, "").replace(_PLAIN, "")

    @property
    def content(self) -> dict[str, Any]:
        """The fields of an ``error`` message, and of a reply that tells of one."""
        return {"ename": self.name, "evalue": self.value, "traceback": list(self.traceback)}


def failure(error: SlurmProvisionerError, *, brief: bool = False) -> Failure:
    """Return an error for a cell: its sentence, the evidence, which a `brief` one leaves out, and the next step."""
    name = type(error).__name__
    text = str(SlurmProvisionerError(error.summary, hint=error.hint)) if brief else str(error)
    first, *rest = text.splitlines()
    return Failure(name, error.summary, (f"{_RED}{name}{_PLAIN}: {first}", *rest))


def interrupted(line: str) -> Failure:
    """Return what a cell gets that was interrupted before it ran, while its kernel's job was where `line` says."""
    text = "interrupted before it ran"
    return Failure("KeyboardInterrupt", text, (f"{_RED}KeyboardInterrupt{_PLAIN}: {text}", *line.splitlines()[:1]))


def bundle(text: str) -> dict[str, str]:
    """Return some lines as a display's data; `jupyter run` prints the plain ones as they are, one after another."""
    lines = "<br>".join(html.escape(line) for line in text.splitlines())
    return {"text/plain": f"{text}\n", "text/html": _LINE.format(lines)}
