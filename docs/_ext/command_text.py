"""The reference of the command line, as Markdown, from the commands themselves. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from config_text import table

from slurm_provisioner.cli.main import main

__all__ = ["commands", "exit_codes"]

#: Before a paragraph of a help text that click leaves as it is.
_AS_IT_IS = "\b\n"
#: The group of options that are a command's own; the others are fields of the configuration.
_OWN = "Options"


def commands() -> str:
    """Return all commands, one section each."""
    context = click.Context(main, info_name="jupyter slurm", **main.context_settings)
    found = [main.get_command(context, name) for name in main.list_commands(context)]
    parts: list[str] = []
    shown: dict[str, str | None] = {}
    for command in filter(None, found):
        own, fields = _options(command, context)
        parts += [_head(command, context), table(["option", "what it does"], own)]
        first = shown.setdefault(str(fields), command.name)
        if fields and first == command.name:
            rows = [(title, " ".join(f"`{name}`" for name in names)) for title, names in fields.items()]
            parts.append("An option for each [field](configuration.md), which says what it is:")
            parts.append(f":::{{container}} options\n{table(['fields', 'options'], rows)}\n:::")
        elif fields:
            parts.append(f"The options of fields are those of [jupyter slurm {first}](#jupyter-slurm-{first}).")
    return "\n\n".join(parts)


def exit_codes() -> str:
    """Return what the exit codes mean."""
    return _paragraphs(main.epilog or "")


def _head(command: click.Command, parent: click.Context) -> str:
    usage = click.Context(command, info_name=command.name, parent=parent).command_path
    arguments = " ".join(command.collect_usage_pieces(parent))
    return f"## {usage}\n\n{_block(f'{usage} {arguments}')}\n\n{_paragraphs(command.help or '')}"


def _options(command: click.Command, parent: click.Context) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Return the command's own options with their words, and the options of fields by group."""
    groups = _Groups()
    command.format_options(click.Context(command, parent=parent), groups)
    own = [(f"`{name}`", words) for name, words in groups.found.pop(_OWN)]
    return own, {title: [name for name, _ in rows] for title, rows in groups.found.items()}


def _paragraphs(text: str) -> str:
    return "\n\n".join(
        _block(paragraph.removeprefix(_AS_IT_IS)) if paragraph.startswith(_AS_IT_IS) else " ".join(paragraph.split())
        for paragraph in inspect.cleandoc(text).split("\n\n")
    )


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


class _Groups(click.HelpFormatter):
    """Takes groups of options, where click would write them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[tuple[str, str]]] = {}
        self._title = _OWN

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Begin a group."""
        self._title = name
        yield

    def write_dl(self, rows: Sequence[tuple[str, str]], *_: object, **__: object) -> None:
        """Take the options of a group."""
        self.found.setdefault(self._title, []).extend(rows)
