"""What a cluster offers to one user, as records: partitions, accounts, qualities of service, reservations.

What is None was not told, and says nothing: it is neither "none" nor "all".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Association", "Offers", "Partition", "Qos", "Rules"]

#: From which version on a list of accounts may mean those below them, too; the manual of 22.05 does not know of it.
_NESTED_ACCOUNTS = (23, 2)


@dataclass(frozen=True)
class Partition:
    """A partition.

    Attributes
    ----------
    name : str
        Its name.
    is_default : bool
        Whether jobs go there that name none.
    state : str
        ``UP``, ``DOWN``, ``DRAIN`` or ``INACTIVE``, or "" if that is not told.
    hidden : bool
        Whether the site keeps it out of lists; it can be used by its name.
    listed : bool or None
        Whether sinfo shows it to this user; it leaves out the hidden ones and those for other Unix groups.
    max_time, default_time : float or None
        Seconds, `math.inf` for no limit.
    min_nodes : int or None
        The fewest nodes of a job.
    max_nodes : float or None
        The most nodes of a job, `math.inf` for no limit.
    node_count : int or None
        The number of its nodes.
    allowed_accounts, allowed_qos, allowed_groups : frozenset of str or None
        Who may use it; None where that is everybody, or not told.
    denied_accounts, denied_qos : frozenset of str
        Who may not.
    qos : str
        The quality of service whose limits every job there has, or "".
    root_only, needs_reservation : bool
        Whether it takes jobs of administrators only, or in a reservation only.
    max_cpus, max_memory : int or None
        The most CPUs and megabytes that a job may have on one node; None where there is no limit, or it is not told.
    cpus, memory : int or None
        The most CPUs and megabytes that a node has.
    gpus : mapping of str to int, or None
        The most GPUs of each type on one node, "" for those without a type.
    all_gpus : mapping of str to int, or None
        The GPUs of each type on all nodes.
    features : frozenset of str or None
        The features that some node has.
    """

    name: str
    is_default: bool = False
    state: str = ""
    hidden: bool = False
    listed: bool | None = None
    max_time: float | None = None
    default_time: float | None = None
    min_nodes: int | None = None
    max_nodes: float | None = None
    node_count: int | None = None
    allowed_accounts: frozenset[str] | None = None
    denied_accounts: frozenset[str] = frozenset()
    allowed_qos: frozenset[str] | None = None
    denied_qos: frozenset[str] = frozenset()
    allowed_groups: frozenset[str] | None = None
    qos: str = ""
    root_only: bool = False
    needs_reservation: bool = False
    max_cpus: int | None = None
    max_memory: int | None = None
    cpus: int | None = None
    memory: int | None = None
    gpus: Mapping[str, int] | None = None
    all_gpus: Mapping[str, int] | None = None
    features: frozenset[str] | None = None

    @property
    def up(self) -> bool:
        """Whether jobs run there."""
        return self.state == "UP"

    @property
    def on_offer(self) -> bool:
        """Whether to offer it to this user, as far as that is known."""
        return self.state in ("UP", "") and self.listed is not False and not (self.hidden or self.root_only)


@dataclass(frozen=True)
class Association:
    """A way in which this user may charge jobs.

    Attributes
    ----------
    account : str
        The account.
    partition : str
        The partition it is for, or "" for all.
    is_default : bool
        Whether jobs are charged to it that name no account.
    qos : tuple of str
        The qualities of service that may be used with it.
    default_qos : str
        The one of jobs that name none, or "".
    max_wall : float or None
        The most seconds of a job; None where there is no limit, or it is not told.
    above : frozenset of str or None
        The account and all accounts it belongs to; None where that is not told.
    """

    account: str
    partition: str = ""
    is_default: bool = False
    qos: tuple[str, ...] = ()
    default_qos: str = ""
    max_wall: float | None = None
    above: frozenset[str] | None = None


@dataclass(frozen=True)
class Qos:
    """A quality of service.

    Attributes
    ----------
    name : str
        Its name.
    flags : frozenset of str
        What it changes, such as ``PartitionTimeLimit``: its jobs may run longer than the partition allows.
    max_wall : float or None
        The most seconds of a job; None where there is no limit, or it is not told.
    """

    name: str
    flags: frozenset[str] = frozenset()
    max_wall: float | None = None


@dataclass(frozen=True)
class Rules:
    """How strict the controller is.

    Attributes
    ----------
    cluster : str
        The cluster's name.
    version : tuple of int
        Slurm's version, such as ``(22, 5, 8)``; empty if it is not told.
    enforced : frozenset of str
        What accounting refuses jobs for: ``associations``, ``limits``, ``qos``.
    every_partition : bool
        Whether a job that names several partitions has to keep to the limits of each.
    """

    cluster: str = ""
    version: tuple[int, ...] = ()
    enforced: frozenset[str] = frozenset()
    every_partition: bool = False

    @property
    def nested_accounts(self) -> bool:
        """Whether an account in a partition's list may stand for those below it."""
        return not self.version or self.version >= _NESTED_ACCOUNTS


@dataclass(frozen=True)
class Offers:
    """What a cluster offers to this user. What is None could not be asked; what is empty is not there.

    Attributes
    ----------
    partitions : tuple of Partition, or None
        All partitions, in the order of the cluster's configuration; those that are not for this user, too.
    associations : tuple of Association, or None
        Under which accounts this user may submit.
    qos : tuple of Qos, or None
        The qualities of service of the cluster.
    reservations : tuple of str, or None
        The names of the reservations that this user can see.
    rules : Rules or None
        How strict the controller is.
    unknown : mapping of str to str
        Why something could not be asked, by part: ``rules``, ``partitions``, ``nodes``, ``reservations``, ``qos``,
        ``associations``, ``default_account``.
    """

    partitions: tuple[Partition, ...] | None = None
    associations: tuple[Association, ...] | None = None
    qos: tuple[Qos, ...] | None = None
    reservations: tuple[str, ...] | None = None
    rules: Rules | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def accounts(self) -> tuple[str, ...] | None:
        """The accounts of this user, the default one first."""
        if self.associations is None:
            return None
        ordered = sorted(self.associations, key=lambda association: not association.is_default)
        return tuple(dict.fromkeys(association.account for association in ordered))

    @property
    def default_account(self) -> str | None:
        """The account of jobs that name none, if it is known."""
        return next((each.account for each in self.associations or () if each.is_default), None)

    @property
    def default_partition(self) -> Partition | None:
        """The partition of jobs that name none, if it is known."""
        return next((partition for partition in self.partitions or () if partition.is_default), None)

    def partition(self, name: str) -> Partition | None:
        """Return the partition of a name, if it is known."""
        return next((partition for partition in self.partitions or () if partition.name == name), None)
