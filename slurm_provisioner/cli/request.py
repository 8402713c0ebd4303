"""What `add` and `edit` have in common: a request is completed, checked, and compared with what the cluster has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..cluster import Place
from ..config import KernelConfig
from ..errors import CommandError, ConfigError
from ..fit import misfits
from ..offers import Offers
from ..sources import HINTS, KERNELSPEC
from . import show, site
from .asking import ask, place_of

__all__ = ["MisfitError", "checked", "offers_of"]


class MisfitError(ConfigError):
    """The cluster does not have what is asked for."""

    exit_code = 3


def offers_of(place: Place) -> Offers:
    """Return what a cluster has for this user.

    Raises
    ------
    CommandError
        It could not be asked.
    """
    return ask(place, lambda cluster: cluster.slurm.offers(), "Asking the cluster what it has …")


def checked(values: Mapping[str, Any], *, check: bool, offers: Offers | None = None) -> KernelConfig:
    """Return the configuration of a kernelspec's `config` on this site, which the cluster can give.

    Parameters
    ----------
    values : mapping
        The `config`.
    check : bool
        Whether the cluster is asked. If it does not answer, that is said, and no error.
    offers : Offers, optional
        What the cluster has, where that is known.

    Raises
    ------
    ConfigError
        It cannot be used, the site does not allow it, or the cluster does not have it.
    """
    try:
        config = site.load(values)
    except ConfigError as error:
        if error.hint == HINTS[KERNELSPEC]:  # which there is not yet
            error.hint = "`jupyter slurm add --help` describes the options."
        raise
    if not check:
        return config
    try:
        offers = offers or offers_of(place_of(config))
    except CommandError as error:
        show.note(f"warning: what it asks for was not checked: {error}")
        return config
    for words in dict.fromkeys(offers.unknown.values()):
        show.note(f"warning: not all could be checked: {words}")
    if problems := misfits(config, offers):
        raise MisfitError(
            f"The cluster does not have what is asked for: {problems[0]}"
            if len(problems) == 1
            else "The cluster does not have what is asked for:",
            evidence=problems if len(problems) > 1 else (),
            hint="Ask for something else, or see `sinfo`. --no-check makes the kernelspec nevertheless.",
        )
    return config
