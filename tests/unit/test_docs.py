"""What the documentation quotes and shows is what the package says and takes."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import slurm_provisioner
from slurm_provisioner.cli.main import main
from slurm_provisioner.config import KernelConfig

PACKAGE = Path(slurm_provisioner.__file__).parent
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TROUBLES = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
SOME = "…"


def said() -> str:
    """All texts of the sources but their documentation, a line each, with something in place of what is filled in."""
    texts = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else SOME for part in node.values))
    return "\n".join(texts)


SAID = said()


@pytest.mark.parametrize("quote", TROUBLES)
def test_an_error_that_is_explained_is_still_said(quote):
    parts = [part.strip() for part in quote.split(SOME) if part.strip(" .,:;")]
    assert any(" " in part for part in parts), "one could find anything"
    for part in parts:
        assert part in SAID, f"the sources do not say {part!r}"


def fenced(language: str) -> Iterator[tuple[str, str]]:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            yield path.name, block


def test_configurations_that_are_shown_are_understood():
    shown = 0
    for page, block in fenced("json"):
        document = json.loads(block if block.startswith("{") else f"{{{block}}}")
        config = document["metadata"]["kernel_provisioner"]["config"] if "metadata" in document else document
        assert KernelConfig.load(config.get("config", config)), page
        shown += 1
    assert shown >= 3


def test_settings_of_a_site_that_are_shown_are_understood():
    shown = 0
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for name, value in re.findall(r"c\.SlurmProvisioner\.(defaults|limits) = (\{.*?\})[`\n]", text, re.DOTALL):
            KernelConfig.load({}, **{name: ast.literal_eval(value)})
            shown += 1
        for value in re.findall(r"`limits = (\{.*?\})`", text):
            KernelConfig.load({}, limits=ast.literal_eval(value))
            shown += 1
    assert shown >= 4


def commands() -> Iterator[tuple[str, str]]:
    """The lines of code, and the code within lines, that call the command line."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^ {4,}(?:\S*/)?jupyter slurm (.+)$|`jupyter slurm ([a-z][^`]*)`", text, re.MULTILINE)
        for line in {first or second for first, second in found}:
            yield path.name, line


@pytest.mark.parametrize(("page", "line"), sorted(commands()))
def test_commands_that_are_shown_are_there(page, line):
    name, *words = shlex.split(line.partition(" >>")[0], comments=True)
    context = click.Context(main, **main.context_settings)
    command = main.get_command(context, name)
    assert command is not None
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    taken = {flag for param in command.get_params(context) for flag in [*param.opts, *param.secondary_opts]}
    assert given <= taken | {"-h", "--help"}


def test_links_of_the_readme_lead_somewhere():
    """Those of the other pages are Sphinx's to check."""
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (ROOT / path).read_bytes() if (ROOT / path).is_file() else b""
        assert (ROOT / path).exists(), link
        headings = re.findall("^#+ (.+)$", target.decode(errors="replace"), re.MULTILINE)
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings], (
            link
        )
