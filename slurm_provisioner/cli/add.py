"""`jupyter slurm add`: a kernelspec whose kernels run in Slurm jobs, from another one or from an environment."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ..errors import ConfigError
from . import kernelspecs, naming, picker, show, site
from .asking import place_of
from .completing import complete_kernelspec
from .kernelspecs import Kernelspec
from .options import ConfigCommand, config_options, given, laid_over
from .request import checked, offers_of
from .source import ENVIRONMENTS, from_environment, is_environment, made_from

__all__ = ["add"]


@click.command(cls=ConfigCommand)
@click.argument("source", required=False, shell_complete=complete_kernelspec)
@click.option("--name", help="Its name. Default: made of the source, the partition and the GPUs.")
@click.option("--display-name", help="What people pick it by. Default: made of what it asks for.")
@click.option("--user", is_flag=True, help="Install it for yourself alone. This is the default.")
@click.option("--sys-prefix", is_flag=True, help="Install it into this Python's environment.")
@click.option("--prefix", metavar="PATH", help="Install it into PATH/share/jupyter/kernels.")
@click.option("--replace", is_flag=True, help="Replace a kernelspec of that name.")
@click.option("--no-check", is_flag=True, help="Do not ask the cluster whether it has what is asked for.")
@config_options
def add(source: str | None, **params: Any) -> None:
    """Make a kernelspec whose kernels run in Slurm jobs.

    SOURCE is the kernelspec to make it from, or the environment that it runs: the path, on the cluster, of a conda
    environment, a virtual environment, a Python or an image, or an image's URI. Default: python3.

    \b
    jupyter slurm add                                       be asked for the rest
    jupyter slurm add python3 --partition gpu --gpus 1 --time 4h --mem 32G
    jupyter slurm add ~/envs/torch --name torch --gpus a100:1
    jupyter slurm add docker://python:3.12 --ssh hpc        from a laptop
    """
    prefix = _prefix(params)
    config = given(params)
    ask_people = not {*config} - {*_PLACE} and sys.stdin.isatty() and sys.stderr.isatty()
    spec, needed = _source(source, config)
    config = laid_over(laid_over(spec.config, needed), config)
    offers = None
    if ask_people:
        offers = offers_of(place_of(site.load(config)))
        config.update(picker.pick(offers))
    loaded = checked(config, check=not params["no_check"], offers=offers)
    spec, words = made_from(spec, config) if spec.name else (spec, "")  # else the command was made for it
    base = spec.name or (source or "").rstrip("/").rpartition("/")[2].removesuffix(".sif")
    name = params["name"] or naming.kernel_name(base, loaded)
    if ask_people and not params["name"]:
        name = click.prompt("Name", default=name, err=True)
    display_name = params["display_name"] or naming.display_name(spec.display_name, loaded)
    _make_room(name, prefix, replace=params["replace"], ask_people=ask_people)
    made = spec.with_config(config, display_name)
    folder = kernelspecs.install(Kernelspec(name, made.document, made.folder), prefix=prefix)
    show.say(f"{display_name}\n  kernelspec {folder.name}, in {folder}")
    if words:
        show.say(f"  {words}")
    show.say(f"  Try it: jupyter slurm doctor {folder.name}")


def _prefix(params: dict[str, Any]) -> str | None:
    places = [name for name in ("user", "sys_prefix", "prefix") if params[name]]
    if len(places) > 1:
        raise click.UsageError("Of --user, --sys-prefix and --prefix only one can be given.")
    return sys.prefix if params["sys_prefix"] else params["prefix"]


def _source(source: str | None, config: dict[str, Any]) -> tuple[Kernelspec, dict[str, Any]]:
    if source is not None and is_environment(source):
        return from_environment(source, place_of(site.load({key: config[key] for key in _PLACE if key in config})))
    if source is None and any(name in config for name in ENVIRONMENTS):
        return kernelspecs.python_kernel(), {}
    return kernelspecs.find(source or "python3"), {}


_PLACE = ("ssh", "clusters", "slurm_bin")


def _make_room(name: str, prefix: str | None, *, replace: bool, ask_people: bool) -> None:
    """Take care that nothing is replaced unasked: neither what Jupyter finds, nor what is where it is going to be."""
    folder = kernelspecs.folder_for(name, prefix)
    there = folder if os.path.lexists(folder) else kernelspecs.names().get(name.lower())
    if there is None or replace:
        return
    if ask_people:
        show.sure(f"There is a kernelspec {name}, in {there}. Replace it?")
        return
    raise ConfigError(f"There is a kernelspec {name}, in {there}.", hint="Give another --name, or --replace.")
