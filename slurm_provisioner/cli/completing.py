"""What a shell completes: names of kernelspecs, and what the cluster has.

Nothing is completed where something goes wrong: that is for the command itself to say.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from functools import wraps

import click
from click.shell_completion import CompletionItem

from ..cluster import Place
from ..errors import SlurmProvisionerError
from ..login_host import LoginHost
from ..offers import Offers
from ..quantities import format_duration
from . import kernelspecs, site
from .asking import ask, place_of

__all__ = ["OFFERED", "complete_kernelspec", "complete_ours", "silent"]

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def silent(completer: Completer) -> Completer:
    """Have a completer say nothing: what it prints would stand amid the words that somebody types."""

    @wraps(completer)
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        with redirect_stderr(io.StringIO()), suppress(SlurmProvisionerError, click.ClickException, ValueError):
            return completer(ctx, param, incomplete)
        return []

    return complete


@silent
def complete_kernelspec(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of any kernelspec, or a path."""
    if "/" in incomplete or incomplete.startswith("~"):
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(name) for name in kernelspecs.names() if name.startswith(incomplete)]


@silent
def complete_ours(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a kernelspec whose kernels run in Slurm jobs."""
    return [CompletionItem(name) for name in kernelspecs.names(only_ours=True) if name.startswith(incomplete)]


def _partitions(offers: Offers) -> dict[str, str]:
    offered = [each for each in offers.partitions or () if each.on_offer]
    return {each.name: f"at most {format_duration(each.max_time)}" if each.max_time else "" for each in offered}


def _accounts(offers: Offers) -> dict[str, str]:
    return dict.fromkeys(offers.accounts or (), "")


def _qos(offers: Offers) -> dict[str, str]:
    return {name: f"of {each.account}" for each in offers.associations or () for name in each.qos}


def _gpus(offers: Offers) -> dict[str, str]:
    kinds = {kind: each.name for each in offers.partitions or () if each.on_offer for kind in each.gpus or () if kind}
    return {f"{kind}:": f"in {partition}" for kind, partition in kinds.items()}


def _features(offers: Offers) -> dict[str, str]:
    return {name: f"in {each.name}" for each in offers.partitions or () for name in each.features or ()}


def _reservations(offers: Offers) -> dict[str, str]:
    return dict.fromkeys(offers.reservations or (), "")


def _complete(choices: Callable[[Offers], dict[str, str]]) -> Completer:
    @silent
    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        host = ctx.params.get("config_ssh")
        place = Place(login=LoginHost(host=host)) if host else _of_kernelspec(ctx)
        offers = ask(place, lambda cluster: cluster.slurm.offers(), "")
        found = sorted(choices(offers).items())
        return [CompletionItem(name, help=words or None) for name, words in found if name.startswith(incomplete)]

    return complete


def _of_kernelspec(ctx: click.Context) -> Place:
    name = ctx.params.get("kernelspec")
    return place_of(site.load(kernelspecs.ours(name).config if name else {}))


#: The fields of which the cluster tells what there is to choose from.
OFFERED: dict[str, Completer] = {
    "partition": _complete(_partitions),
    "account": _complete(_accounts),
    "qos": _complete(_qos),
    "gpus": _complete(_gpus),
    "constraint": _complete(_features),
    "reservation": _complete(_reservations),
}
