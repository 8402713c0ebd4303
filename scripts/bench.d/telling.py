"""What is told of a run that goes on, at a terminal alone."""

from __future__ import annotations

import sys

__all__ = ["progress"]


def progress(text: str) -> None:
    """Show what is being done, in place of what was."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
