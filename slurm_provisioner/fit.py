"""Whether a cluster offers what a configuration asks for, in sentences for the user. Pure.

Nothing is said of what the offers do not tell: no sentence means that nothing speaks against the request, not that
Slurm takes it. Most are of what Slurm would refuse; some of what it would queue for ever.

Sources: sbatch(1), slurm.conf(5) (``EnforcePartLimits``, ``AllowAccounts``), sacctmgr(1) (QOS flags, limits).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .config import KernelConfig
from .offers import Association, Offers, Partition, Qos, Rules
from .quantities import (
    format_size,
    format_time,
    gpus_by_type,
    largest_node_count,
    parse_size,
    parse_time,
    smallest_node_count,
)
from .sbatch_options import nearest

__all__ = ["misfits", "passed_over"]

#: Names in a sentence, at most.
_NAMES = 12

_FEATURE = r"[\w.:+/-]+"
#: A constraint of features that are all needed, or of which any will do; others are Slurm's to judge.
_ALL_OF, _ANY_OF = re.compile(rf"{_FEATURE}(&{_FEATURE})*"), re.compile(rf"{_FEATURE}(\|{_FEATURE})+")

_STATES = {
    "DOWN": "is down: jobs wait until the site brings it up",
    "DRAIN": "takes no new jobs: it is being drained",
    "INACTIVE": "is inactive: it neither takes nor starts jobs",
}


def misfits(config: KernelConfig, offers: Offers) -> list[str]:
    """Return why a request does not fit what is offered, each reason a sentence without its full stop.

    Of several partitions it is enough to fit one, but for limits where the site wants those of each to be kept. A
    request without a partition is held against the default one.
    """
    return [*_everywhere(config, offers), *_Verdict.of(config, offers).problems]


def passed_over(config: KernelConfig, offers: Offers) -> list[str]:
    """Return why some of the partitions that are asked for will not run this, where another one will."""
    return [] if misfits(config, offers) else _Verdict.of(config, offers).remarks


@dataclass(frozen=True)
class _Verdict:
    """What is to be said of the partitions: problems, or else remarks on those that are passed over."""

    problems: list[str]
    remarks: list[str]

    @classmethod
    def of(cls, config: KernelConfig, offers: Offers) -> _Verdict:
        partitions = _partitions(config, offers)
        limits = [_limits(config, each, offers) for each in partitions]
        lacks = [_lacks(config, each, offers) for each in partitions]
        together = [[*limit, *lack] for limit, lack in zip(limits, lacks, strict=True)]
        if offers.rules is not None and offers.rules.every_partition:
            wrong = [*limits, *([] if [] in lacks else lacks)]
        else:
            wrong = [] if [] in together else together
        return cls(_once(wrong), _once(together))


def _once(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(sentence for sentences in lists for sentence in sentences))


def _partitions(config: KernelConfig, offers: Offers) -> list[Partition]:
    """Return the partitions that the job may go to, as far as they are known."""
    if config.partition is None:
        return [offers.default_partition] if offers.default_partition else []
    return [found for name in config.partition.split(",") if (found := offers.partition(name.strip()))]


# Whatever the partition


def _everywhere(config: KernelConfig, offers: Offers) -> list[str]:
    known = offers.partitions or ()
    shown = [each.name for each in known if each.on_offer]
    strange = _strange(config.partition, [each.name for each in known]) if known else []
    problems = [
        f"`partition`: there is no partition {name} here{nearest(name, shown)}{_from(shown)}" for name in strange
    ]
    if (seen := offers.reservations) is not None:
        strange = _strange(config.reservation, seen)
        problems += [
            f"`reservation`: you see no reservation {name} here{nearest(name, seen)}{_from(seen)}" for name in strange
        ]
    return [*problems, *_account_anywhere(config, offers)]


def _strange(names: str | None, known: Collection[str]) -> list[str]:
    """Return those of some names with commas between them that are not known."""
    return [name for each in (names or "").split(",") if (name := each.strip()) and name not in known]


def _account_anywhere(config: KernelConfig, offers: Offers) -> list[str]:
    own = offers.accounts
    if own is None or not _enforces(offers.rules, "associations"):
        return []
    if not own:
        return ["`account`: you have none on this cluster, and it takes no jobs without one: ask its administrators"]
    if config.account is not None and not _is_in(config.account, own):
        return [f"`account`: {config.account} is not among yours{nearest(config.account, own)}{_from(own)}"]
    return []


# Who may use a partition, and how much of it a job may have


def _limits(config: KernelConfig, partition: Partition, offers: Offers) -> list[str]:
    charged = _charged(config, partition, offers)
    qos = _qos(config, charged, offers)
    allows = f"{partition.name} allows at most"
    return [
        *_closed(config, partition),
        *_account(config, partition, offers),
        *_quality(config, partition, charged, offers),
        *_time(config, partition, qos),
        *_wall(config, partition, charged, qos, offers),
        *_nodes(config, partition, qos),
        *_cpus(config, allows, partition.max_cpus, _most_nodes(config, partition, qos)),
        *_memory(config, allows, partition.max_memory),
    ]


def _closed(config: KernelConfig, partition: Partition) -> list[str]:
    problems = []
    if partition.node_count == 0:
        problems.append(f"`partition`: {partition.name} has no nodes")
    if partition.root_only:
        problems.append(f"`partition`: {partition.name} is for administrators only")
    if partition.listed is False and not partition.hidden and partition.allowed_groups:
        problems.append(f"`partition`: {partition.name} is for the Unix groups {_list(partition.allowed_groups)} only")
    if partition.needs_reservation and config.reservation is None:
        problems.append(f"`reservation`: {partition.name} takes jobs in a reservation only")
    return problems


def _account(config: KernelConfig, partition: Partition, offers: Offers) -> list[str]:
    account = config.account or offers.default_account
    if account is None or offers.rules is None or not _enforces(offers.rules, "associations"):
        return []
    called = account if config.account else f"{account}, your default account,"
    own = [each for each in offers.associations or () if each.account.lower() == account.lower()]
    if own and not any(each.partition in ("", partition.name) for each in own):
        return [
            f"`account`: {called} is yours in {_list(each.partition for each in own)} only, not in {partition.name}"
        ]
    if partition.allowed_accounts is None:
        denied = _is_in(account, partition.denied_accounts)
        return [f"`account`: {partition.name} is not for {called.rstrip(',')}"] if denied else []
    if _is_in(account, partition.allowed_accounts):
        return []
    outside = bool(own) and all(_is_outside(each, partition.allowed_accounts) for each in own)
    if offers.rules.nested_accounts and not outside:
        return []
    return [f"`account`: {partition.name} is not for {called} but for {_list(partition.allowed_accounts)}"]


def _is_outside(association: Association, allowed: Collection[str]) -> bool:
    """Whether it is known that neither the account nor one above it is allowed."""
    return association.above is not None and not any(_is_in(name, allowed) for name in association.above)


def _charged(config: KernelConfig, partition: Partition, offers: Offers) -> list[Association]:
    """Return the associations that the job may be charged to."""
    account = config.account or offers.default_account
    own = [each for each in offers.associations or () if each.partition in ("", partition.name)]
    own = [each for each in own if account is not None and each.account.lower() == account.lower()]
    return [each for each in own if each.partition] or own  # the one for the partition comes first


def _qos_names(config: KernelConfig, charged: list[Association]) -> tuple[str, ...]:
    """Return of which names the job's quality of service can be; nothing if only Slurm knows."""
    if config.qos is not None:
        return (config.qos,)
    if not charged:
        return ()
    return (charged[0].default_qos,) if charged[0].default_qos else charged[0].qos


def _qos(config: KernelConfig, charged: list[Association], offers: Offers) -> Qos | None:
    names = _qos_names(config, charged)
    found = [each for each in offers.qos or () if _is_in(each.name, names)]
    return found[0] if len(found) == len(names) == 1 else None


def _quality(config: KernelConfig, partition: Partition, charged: list[Association], offers: Offers) -> list[str]:
    if not _enforces(offers.rules, "qos"):
        return []
    own = list(dict.fromkeys(name for each in charged for name in each.qos))
    if config.qos is not None and own and not _is_in(config.qos, own):
        account = charged[0].account
        return [f"`qos`: {config.qos} is not yours with account {account}{nearest(config.qos, own)}{_from(own)}"]
    names = _qos_names(config, charged)
    allowed, denied = partition.allowed_qos, partition.denied_qos
    if names and allowed is not None and not any(_is_in(name, allowed) for name in names):
        return [f"`qos`: {partition.name} is not for {_list(names, 'or')}, but for {_list(allowed)}"]
    if names and allowed is None and all(_is_in(name, denied) for name in names):
        return [f"`qos`: {partition.name} is not for {_list(names, 'or')}"]
    return []


def _time(config: KernelConfig, partition: Partition, qos: Qos | None) -> list[str]:
    if config.time is None or partition.max_time is None or _waives(qos, "PartitionTimeLimit"):
        return []
    return _too_long(config.time, partition.max_time, partition.name)


def _wall(
    config: KernelConfig, partition: Partition, charged: list[Association], qos: Qos | None, offers: Offers
) -> list[str]:
    """Hold the time against accounting: the partition's QOS, the job's and the account; the first limit counts."""
    if config.time is None or offers.qos is None or not charged or not _enforces(offers.rules, "limits"):
        return []
    steps = [(partition.qos,) if partition.qos else (), _qos_names(config, charged)]
    if _waives(qos, "OverPartQOS"):
        steps.reverse()
    for names in steps:
        walls = {each.max_wall for each in offers.qos if _is_in(each.name, names)}
        if len(walls) > 1 or (names and not walls):
            return []  # only Slurm knows which it is, or what it says
        if walls and (wall := walls.pop()) is not None:
            return _too_long(config.time, wall, f"the QOS {names[0]}")
    limit = charged[0].max_wall
    return [] if limit is None else _too_long(config.time, limit, f"your account {charged[0].account}")


def _too_long(time: str, limit: float, who: str) -> list[str]:
    asked = parse_time(time)
    return [f"`time`: {who} allows at most {format_time(limit)}, not {format_time(asked)}"] if asked > limit else []


def _nodes(config: KernelConfig, partition: Partition, qos: Qos | None) -> list[str]:
    if config.nodes is None:
        return []
    fewest, most = smallest_node_count(config.nodes), largest_node_count(config.nodes)
    if partition.node_count and fewest > partition.node_count:
        return [f"`nodes`: {partition.name} has {_counted(partition.node_count, 'node')}, not {fewest}"]
    if partition.max_nodes and fewest > partition.max_nodes and not _waives(qos, "PartitionMaxNodes"):
        return [f"`nodes`: {partition.name} allows at most {partition.max_nodes:.0f}, not {fewest}"]
    if partition.min_nodes and most < partition.min_nodes and not _waives(qos, "PartitionMinNodes"):
        return [f"`nodes`: {partition.name} wants at least {partition.min_nodes}, not {most}"]
    return []


# What a partition's nodes have


def _lacks(config: KernelConfig, partition: Partition, offers: Offers) -> list[str]:
    qos = _qos(config, _charged(config, partition, offers), offers)
    nodes = _most_nodes(config, partition, qos)
    # a job that names another partition, too, waits for that one
    idle = [f"`partition`: {partition.name} {_STATES[partition.state]}"] if partition.state in _STATES else []
    has = f"{partition.name} has at most"
    return [
        *idle,
        *_cpus(config, has, partition.cpus, nodes),
        *_memory(config, has, partition.memory),
        *_gpus(config, partition, nodes, offers),
        *_features(config, partition),
    ]


def _most_nodes(config: KernelConfig, partition: Partition, qos: Qos | None) -> float:
    """Return the most nodes that the job can have there."""
    asked = largest_node_count(config.nodes) if config.nodes is not None else math.inf
    allowed = math.inf if _waives(qos, "PartitionMaxNodes") else partition.max_nodes
    return min(asked, allowed or math.inf, partition.node_count or math.inf)


def _cpus(config: KernelConfig, has: str, most: int | None, nodes: float) -> list[str]:
    if most is None or "overcommit" in config.sbatch:
        return []
    each, together = config.cpus_per_task or 1, config.ntasks_per_node or 1
    if each > most:
        return [f"`cpus_per_task`: {has} {_counted(most, 'CPU')} on a node, not {each}"]
    if each * together > most:
        asked = f"{each * together} for {_counted(together, 'task')}"
        return [f"`ntasks_per_node`: {has} {_counted(most, 'CPU')} on a node, not {asked}"]
    tasks = config.ntasks or 1
    if tasks > most // each * nodes:
        asked = f"{_counted(tasks, 'task')} with {_counted(each, 'CPU')} each do not fit on {_counted(nodes, 'node')}"
        return [f"`ntasks`: {has} {_counted(most, 'CPU')} on a node, and {asked}"]
    return []


def _memory(config: KernelConfig, has: str, most: int | None) -> list[str]:
    if most is None:
        return []
    if config.mem is not None and parse_size(config.mem) > most:
        return [f"`mem`: {has} {format_size(most)} on a node, not {config.mem}"]
    if config.mem_per_cpu is not None:
        asked = parse_size(config.mem_per_cpu) * (config.cpus_per_task or 1) * (config.ntasks_per_node or 1)
        if asked > most:
            return [f"`mem_per_cpu`: {has} {format_size(most)} on a node, not {format_size(asked)}"]
    return []


def _gpus(config: KernelConfig, partition: Partition, nodes: float, offers: Offers) -> list[str]:
    has = partition.gpus
    if has is None:
        return []
    # `gpus` is of the whole job, `gres` of each node
    whole = gpus_by_type(",".join(f"gpu:{part}" for part in config.gpus.split(","))) if config.gpus else {}
    asked = [("gpus", type_, count, nodes) for type_, count in whole.items()]
    asked += [("gres", type_, count, 1.0) for type_, count in gpus_by_type(config.gres or "").items()]
    asked = [each for each in asked if each[2]]
    if asked and not has:
        names = [each.name for each in offers.partitions or () if each.gpus and each.listed]
        return [
            f"`{asked[0][0]}`: {partition.name} has no GPUs{f'; there are some in {_list(names)}' if names else ''}"
        ]
    problems = []
    for name, type_, count, places in asked:
        if type_ and type_ not in has and "" not in has:
            there = ", ".join(f"{each} ({number} a node)" for each, number in sorted(has.items()))
            problems.append(f"`{name}`: no node of {partition.name} has {type_} GPUs; it has {there}")
            continue
        most, where = _of_type(type_, has) * places, f"{_counted(places, 'node')} of {partition.name}"
        if partition.all_gpus is not None and (in_all := _of_type(type_, partition.all_gpus)) < most:
            most, where = in_all, f"{partition.name} as a whole"
        if count > most:
            kind = f"{type_} GPUs" if type_ else "GPUs"
            problems.append(f"`{name}`: {where} can give at most {most:.0f} {kind}, not {count}")
    return problems


def _of_type(type_: str, has: Mapping[str, int]) -> float:
    """Return how many GPUs a request for a type can get, if those without a type are of it; "" is any type."""
    return has.get(type_, 0) + has.get("", 0) if type_ else sum(has.values())


def _features(config: KernelConfig, partition: Partition) -> list[str]:
    if config.constraint is None or partition.features is None:
        return []
    asked = re.split(r"[&|]", config.constraint)
    missing = [name for name in asked if name not in partition.features]
    if _ALL_OF.fullmatch(config.constraint):
        wrong = bool(missing)
    else:
        wrong = bool(_ANY_OF.fullmatch(config.constraint)) and len(missing) == len(asked)
    if not wrong:
        return []
    there = sorted(partition.features)
    like = nearest(missing[0], there) if len(missing) == 1 else ""
    return [f"`constraint`: no node of {partition.name} has the feature {_list(missing, 'or')}{like}{_from(there)}"]


# Words


def _enforces(rules: Rules | None, what: str) -> bool:
    return rules is not None and what in rules.enforced


def _waives(qos: Qos | None, flag: str) -> bool:
    """Whether a quality of service lifts a partition's limit."""
    return qos is not None and flag in qos.flags


def _is_in(name: str, names: Iterable[str]) -> bool:
    """Whether a name is among some, as accounting compares them."""
    return name.lower() in (each.lower() for each in names)


def _counted(number: float, what: str) -> str:
    return f"{number:.0f} {what}" if number == 1 else f"{number:.0f} {what}s"


def _list(names: Iterable[str], word: str = "and") -> str:
    listed = sorted(names)
    if len(listed) > _NAMES:
        return f"{', '.join(listed[:_NAMES])} …"
    return f" {word} ".join(filter(None, [", ".join(listed[:-1]), listed[-1]])) if listed else ""


def _from(names: Collection[str]) -> str:
    """Return what there is to choose from, as the end of a sentence."""
    more = ", …" if len(names) > _NAMES else ""
    return f" ({', '.join([*names][:_NAMES])}{more})" if names else ""
