"""What a cluster offers to this user: the one command that asks for it, and what the answer means. Pure text.

Each part of the answer can be missing: what could not be asked is None, and `Offers.unknown` says why.

Sources: scontrol(1), sinfo(1), sacctmgr(1), slurm.conf(5).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .catalogue import Association, Offers, Partition, Qos, Rules
from .quantities import gpus_by_type, parse_time
from .sbatch import complaint_of

__all__ = ["Association", "Offers", "Partition", "Qos", "Rules", "offers_argv", "parse_offers"]

#: Separates the fields of sinfo, and the parts of the answer.
SEPARATOR, MARK = "\x1f", "\x1e"
#: Seconds each command may take; where the controller is down they say so after 9 s, and those of 26.05 after 10 s.
PATIENCE = 12


# What is asked

_NODE_FIELDS = ["%R", "%D", "%c", "%m", "%G", "%f"]
_NODE_HEADER = "PARTITION"
_ASSOCIATION_FIELDS = ["Cluster", "Account", "Partition", "QOS", "DefaultQOS", "MaxWall"]
_DEFAULT_FIELDS = ["Cluster", "Account"]
_QOS_FIELDS = ["Name", "Flags", "MaxWall"]

#: The command of each part, for who reads why it could not be asked.
_PROGRAMS = {
    **dict.fromkeys(("rules", "partitions", "reservations"), "scontrol"),
    "nodes": "sinfo",
    **dict.fromkeys(("qos", "associations", "default_account"), "sacctmgr"),
}

_SHELL_NOT_FOUND, _TIMED_OUT = 127, 124

#: How Slurm's commands write that there is nothing.
_NOTHING = {"", "(null)", "N/A", "n/a", "NONE", "none"}

# Run by a POSIX shell on the cluster. Each part is a mark and its name, what the command printed, a mark and its exit
# code and complaints, a mark. A daemon that does not answer one command is not asked by the next ones: each would wait
# as long. --all tells of hidden partitions, which can be used by name, while sinfo tells which are shown to this user.
# Lineage is a field from 23.11 on; where it is not known, the same is asked without it, and the later answer holds.
_OFFERS = r"""
[ -z "$1" ] || PATH=$1:$PATH
cluster=$2 kinds=$3 associations=$4 default=$5 qos=$6 seconds=$7
user=$(id -un)
limit=
timeout --foreground 9 true 2> /dev/null && limit="timeout --foreground $seconds"
ask() {
    printf '\n\036%s\n' "$1"
    shift
    [ -n "$silent" ] || { err=$($limit "$@" 2>&1 >&3 3>&-); code=$?; } 3>&1
    printf '\n\036%s\n%s\n\036' "$code" "$err"
    case "$code $err" in
        124* | *[Uu]"nable to contact"* | *[Tt]"imed out"* | *[Cc]"onnection refused"*) silent=1 ;;
    esac
}
silent=
ask rules scontrol ${cluster:+"--clusters=$cluster"} show config
ask partitions scontrol ${cluster:+"--clusters=$cluster"} --all --oneliner show partition
ask nodes sinfo ${cluster:+"--clusters=$cluster"} --exact "--format=$kinds"
ask reservations scontrol ${cluster:+"--clusters=$cluster"} --oneliner show reservation
silent=
set -- where user="$user" ${cluster:+"cluster=$cluster"}
ask associations sacctmgr --parsable2 show associations "$@" "format=$associations,Lineage"
case $err in
    *"nknown field"*) ask associations sacctmgr --parsable2 show associations "$@" "format=$associations" ;;
esac
ask default_account sacctmgr --parsable2 show associations "$@" onlydefaults "format=$default"
ask qos sacctmgr --parsable2 show qos "format=$qos"
"""


def offers_argv(bin_dir: str = "", clusters: str = "") -> list[str]:
    """Return the command that asks for everything, in one round trip.

    Parameters
    ----------
    bin_dir : str
        The folder of Slurm's commands, or "" for those on PATH.
    clusters : str
        The cluster of a federation, or "".
    """
    formats = [SEPARATOR.join(_NODE_FIELDS), *map(",".join, (_ASSOCIATION_FIELDS, _DEFAULT_FIELDS, _QOS_FIELDS))]
    return ["sh", "-c", _OFFERS, "offers", bin_dir, clusters, *formats, str(PATIENCE)]


# What is answered


@dataclass(frozen=True)
class _Part:
    """One command's answer."""

    returncode: int
    stdout: str
    stderr: str


def parse_offers(stdout: str) -> Offers:
    """Return what is offered, from the output of `offers_argv`'s command."""
    found = re.findall(f"{MARK}([a-z_]+)\n([^{MARK}]*){MARK}([0-9]+)\n([^{MARK}]*)", stdout)
    parts = {name: _Part(int(code), out, err) for name, out, code, err in found}
    rules = _rules(_answer(parts, "rules"))
    kinds = _node_kinds(_answer(parts, "nodes"))
    partitions = _partitions(_answer(parts, "partitions"), kinds)
    cluster = rules.cluster if rules else ""
    defaults = _rows(_answer(parts, "default_account"), _DEFAULT_FIELDS, cluster)
    associations = _associations(_rows(_answer(parts, "associations"), _ASSOCIATION_FIELDS, cluster), defaults)
    if rules is None and not associations:
        associations = None  # there may be no such cluster, of which sacctmgr says nothing either
    qos = _qos(_rows(_answer(parts, "qos"), _QOS_FIELDS))
    reservations = _reservations(_answer(parts, "reservations"))
    answers = {
        "rules": rules,
        "partitions": partitions,
        "nodes": kinds,
        "reservations": reservations,
        "qos": qos,
        "associations": associations,
        "default_account": defaults,
    }
    unknown = {name: _why(name, parts.get(name)) for name, answer in answers.items() if answer is None}
    return Offers(partitions, associations, qos, reservations, rules, unknown)


def _answer(parts: Mapping[str, _Part], name: str) -> str | None:
    part = parts.get(name)
    return part.stdout if part and part.returncode == 0 else None


def _why(name: str, part: _Part | None) -> str:
    """Return why a part could not be asked, as a sentence without its full stop."""
    program = _PROGRAMS[name]
    if part is None:
        return f"{program} gave no answer"
    if part.returncode == _SHELL_NOT_FOUND:
        return f"{program} is not there"
    if part.returncode == _TIMED_OUT:
        return f"{program} did not answer within {PATIENCE} s"
    complaint = complaint_of(part.stderr) if part.returncode else ""
    return f"{program} failed: {complaint or 'its answer cannot be understood'}"


def _rules(stdout: str | None) -> Rules | None:
    told = dict(re.findall(r"^(\w+) *= *(.*?) *$", stdout or "", re.MULTILINE))
    if "ClusterName" not in told:
        return None
    words = _names(told.get("AccountingStorageEnforce", "").lower())
    enforced = set(words)
    if words & {"all", "safe"}:
        enforced |= {"limits"}
    if words & {"all", "qos", "limits", "safe", "wckeys"}:
        enforced |= {"associations"}
    if "all" in words:
        enforced |= {"qos"}
    version = re.match(r"\d+(?:\.\d+)*", told.get("SLURM_VERSION", ""))
    return Rules(
        cluster=told["ClusterName"],
        version=tuple(map(int, version[0].split("."))) if version else (),
        enforced=frozenset(enforced),
        every_partition=told.get("EnforcePartLimits", "").upper() == "ALL",
    )


@dataclass(frozen=True)
class _Kind:
    """Some nodes of a partition that are alike; None is what sinfo does not say exactly (``64+``)."""

    nodes: int | None
    cpus: int | None
    memory: int | None
    gpus: Mapping[str, int]
    features: frozenset[str]


def _node_kinds(stdout: str | None) -> dict[str, list[_Kind]] | None:
    """Return the kinds of nodes of each partition that sinfo shows; None if that is no answer of sinfo."""
    lines = [[each.strip() for each in line.split(SEPARATOR)] for line in (stdout or "").splitlines()]
    lines = [line for line in lines if len(line) == len(_NODE_FIELDS)]
    if not any(line[0] == _NODE_HEADER for line in lines):
        return None
    kinds: dict[str, list[_Kind]] = {}
    for name, nodes, cpus, memory, gres, features in lines:
        if nodes.isdigit():
            kind = _Kind(_count(nodes), _count(cpus), _count(memory), gpus_by_type(gres), _names(features))
            kinds.setdefault(name.rstrip("*"), []).append(kind)
    return kinds


def _partitions(stdout: str | None, kinds: Mapping[str, list[_Kind]] | None) -> tuple[Partition, ...] | None:
    if stdout is None:
        return None
    found = {}
    for line in stdout.splitlines():
        pairs = [word.partition("=") for word in line.split()]
        told = {key: value for key, equals, value in reversed(pairs) if equals}
        if name := told.get("PartitionName"):
            partition = _partition(name, told)
            shown = None if kinds is None else kinds.get(name, [])
            found[name] = partition if shown is None else _with_nodes(partition, shown)
    return tuple(found.values()) if found or "No partitions" in stdout else None


def _partition(name: str, told: Mapping[str, str]) -> Partition:
    def yes(key: str) -> bool:
        return told.get(key) == "YES"

    def allowed(key: str) -> frozenset[str] | None:
        value = told.get(key, "")
        return None if value.upper() == "ALL" else _names(value) or None

    most = told.get("MaxNodes", "")
    return Partition(
        name=name,
        is_default=yes("Default"),
        state=told.get("State", ""),
        hidden=yes("Hidden"),
        max_time=_time(told.get("MaxTime", "")),
        default_time=_time(told.get("DefaultTime", "")),
        min_nodes=_count(told.get("MinNodes", "")),
        max_nodes=math.inf if most == "UNLIMITED" else _count(most),
        node_count=_count(told.get("TotalNodes", "")),
        allowed_accounts=allowed("AllowAccounts"),
        denied_accounts=_names(told.get("DenyAccounts", "")),
        allowed_qos=allowed("AllowQos"),
        denied_qos=_names(told.get("DenyQos", "")),
        allowed_groups=allowed("AllowGroups"),
        qos="".join(_names(told.get("QoS", ""))),
        root_only=yes("RootOnly"),
        needs_reservation=yes("ReqResv"),
        max_cpus=_count(told.get("MaxCPUsPerNode", "")) or None,
        max_memory=_count(told.get("MaxMemPerNode", "")) or None,
    )


def _with_nodes(partition: Partition, kinds: list[_Kind]) -> Partition:
    """Return the partition with what its nodes have; not where sinfo leaves out nodes, such as those in a cloud."""
    if not kinds or sum(kind.nodes or 0 for kind in kinds) != partition.node_count or not partition.node_count:
        return replace(partition, listed=bool(kinds))
    counts = [(type_, kind.nodes or 0, count) for kind in kinds for type_, count in kind.gpus.items() if count]
    gpus: dict[str, int] = {}
    all_gpus: dict[str, int] = {}
    for type_, nodes, count in counts:
        gpus[type_] = max(count, gpus.get(type_, 0))
        all_gpus[type_] = nodes * count + all_gpus.get(type_, 0)
    return replace(
        partition,
        listed=True,
        cpus=_most([kind.cpus for kind in kinds]),
        memory=_most([kind.memory for kind in kinds]),
        gpus=gpus,
        all_gpus=all_gpus,
        features=frozenset().union(*(kind.features for kind in kinds)),
    )


def _most(numbers: list[int | None]) -> int | None:
    """Return the largest number; None if one of them is not known."""
    known = [number for number in numbers if number is not None]
    return max(known) if len(known) == len(numbers) else None


def _rows(stdout: str | None, fields: list[str], cluster: str = "") -> list[list[str]] | None:
    """Return the rows of sacctmgr's output that belong to a cluster; None if that is no answer of sacctmgr."""
    rows = [[each.strip() for each in line.split("|")] for line in (stdout or "").splitlines()]
    rows = [row for row in rows if len(row) >= len(fields)]
    if not any(row[0] == fields[0] for row in rows):
        return None
    rows = [row for row in rows if row[0] != fields[0]]
    return [row for row in rows if not cluster or row[0].lower() == cluster.lower()]


def _associations(rows: list[list[str]] | None, defaults: list[list[str]] | None) -> tuple[Association, ...] | None:
    if rows is None:
        return None
    default = {account for _, account, *_ in defaults or ()}
    found = []
    for _, account, partition, qos, default_qos, max_wall, *lineage in rows:
        # "/root/physics/lab/0-alice/" or ".../0-alice/gpu/"
        above = frozenset(name for name in lineage[0].split("/") if name) if lineage and lineage[0] else None
        names = tuple(name for name in qos.split(",") if name)
        found.append(
            Association(account, partition, account in default, names, default_qos, _time(max_wall), above),
        )
    return tuple(found)


def _qos(rows: list[list[str]] | None) -> tuple[Qos, ...] | None:
    return None if rows is None else tuple(Qos(name, _names(flags), _time(wall)) for name, flags, wall, *_ in rows)


def _reservations(stdout: str | None) -> tuple[str, ...] | None:
    names = tuple(re.findall(r"^ReservationName=(\S+)", stdout or "", re.MULTILINE))
    return names if names or "No reservations" in (stdout or "") else None


def _names(text: str) -> frozenset[str]:
    """Return the names in a list of Slurm's; what stands for no list has none."""
    return frozenset(text.strip().split(",")) - _NOTHING


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None


def _time(text: str) -> float | None:
    try:
        return parse_time(text)
    except ValueError:
        return None
