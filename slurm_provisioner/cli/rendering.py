"""A submission as it would be made, with names that no kernel has."""

from __future__ import annotations

import uuid

from ..cluster import Cluster
from ..config import KernelConfig
from ..credentials import Identity
from ..request import KernelCommand, Launch
from ..submission import Submission, prepare
from ..transport import Account
from .asking import ask, place_of

__all__ = ["prepared"]


def prepared(config: KernelConfig) -> Submission:
    """Return what would be submitted for a configuration.

    Raises
    ------
    CommandError
        The cluster could not be asked where your home is there.
    """

    async def account(cluster: Cluster) -> Account:
        return await cluster.transport.account()

    launch = Launch(str(uuid.UUID(int=0)), "0" * 32, Identity("", ""), "", 0.0, [])
    command = KernelCommand([], {}, None, None, {})
    return prepare(config, command, ask(place_of(config), account), launch)
