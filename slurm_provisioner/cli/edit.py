"""`jupyter slurm edit` and `remove`: kernelspecs that are there."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ..config import KernelConfig
from ..errors import ConfigError
from . import kernelspecs, naming, show, site
from .completing import complete_ours
from .kernelspecs import Kernelspec
from .options import ConfigCommand, config_options, given, laid_over
from .request import checked

__all__ = ["edit", "remove"]


@click.command(cls=ConfigCommand)
@click.argument("kernelspec", shell_complete=complete_ours)
@click.option("--display-name", help="What people pick it by. Default: made anew, unless you chose one.")
@click.option("--unset", multiple=True, metavar="FIELD", help="Give a field its default back.")
@click.option("--no-check", is_flag=True, help="Do not ask the cluster whether it has what is asked for.")
@config_options
def edit(kernelspec: str, **params: Any) -> None:
    """Change what the kernels of KERNELSPEC ask for. Without options its config opens in your $EDITOR."""
    spec = kernelspecs.ours(kernelspec)
    config, unset = laid_over(spec.config, given(params)), [name.replace("-", "_") for name in params["unset"]]
    for name in unset:
        if name not in config:
            raise ConfigError(f"The config of {spec.name} has no `{name}`.", hint=_fields_of(spec))
        del config[name]
    if not (given(params) or unset or params["display_name"]):
        config = _edited(spec)
    loaded = checked(config, check=not params["no_check"])
    display_name = params["display_name"] or _renamed(spec, loaded)
    changed = spec.with_config(config, display_name)
    kernelspecs.rewrite(changed)
    show.say(f"{display_name}\n  kernelspec {spec.name}, in {spec.folder}")
    if changed.document == spec.document:
        show.say("  Nothing has changed.")
    else:
        show.say("  Kernels that run go on as they are; it holds for their next job.")


@click.command()
@click.argument("kernelspec", nargs=-1, required=True, shell_complete=complete_ours)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove(kernelspec: tuple[str, ...], yes: bool) -> None:
    """Remove kernelspecs whose kernels run in Slurm jobs. Kernels that run go on."""
    specs = [kernelspecs.ours(name) for name in dict.fromkeys(kernelspec)]
    for spec in specs:
        if not yes:
            show.sure(f"Remove {spec.name} ({spec.display_name}), in {spec.folder}?")
        show.say(f"Removed {kernelspecs.remove(spec)}.")


def _edited(spec: Kernelspec) -> dict[str, Any]:
    if not sys.stdin.isatty():
        raise click.UsageError("Say what to change: see `jupyter slurm edit --help`.")
    text = click.edit(json.dumps(spec.config, indent=2, ensure_ascii=False) + "\n", extension=".json")
    if text is None:
        raise click.Abort
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"That is not JSON: {error}.", hint="Nothing was changed.") from error
    if not isinstance(config, dict):
        raise ConfigError("That is no mapping of fields to values.", hint="Nothing was changed.")
    return config


def _renamed(spec: Kernelspec, loaded: KernelConfig) -> str:
    """Return the display name of a changed kernelspec: made anew, unless a person chose it."""
    base = naming.language(spec.display_name)
    try:
        before = site.load(spec.config)
    except ConfigError:  # it is being mended
        return spec.display_name
    if spec.display_name == naming.display_name(base, before):
        return naming.display_name(base, loaded)
    return spec.display_name


def _fields_of(spec: Kernelspec) -> str:
    return f"It has: {', '.join(spec.config) or 'nothing'}."
