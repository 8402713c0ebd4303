"""What is asked of a cluster, and what is understood of its answers."""

from __future__ import annotations

import asyncio
import math
import stat
from pathlib import Path

import pytest

from slurm_provisioner import slurm as slurm_module
from slurm_provisioner.errors import CommandTimeoutError
from slurm_provisioner.offers import Association, Offers, Partition, Qos, Rules, offers_argv, parse_offers
from slurm_provisioner.quantities import gpus_by_type
from slurm_provisioner.slurm import Slurm
from slurm_provisioner.transport.local import LocalTransport

# As 22.05 prints it.
RULES = """\
Configuration data as of 2026-11-22T23:03:56
AccountingStorageEnforce = associations,limits,qos
ClusterName             = demo
EnforcePartLimits       = ALL
SLURM_CONF              = /etc/slurm/slurm.conf
SLURM_VERSION           = 22.05.8

Cgroup Support Configuration:

Slurmctld(primary) at login is UP
"""
PARTITIONS = """\
PartitionName=debug AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A \
DefaultTime=01:00:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=1-00:00:00 \
MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n[1-2] PriorityJobFactor=1 PriorityTier=10 RootOnly=NO ReqResv=NO \
OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=128 TotalNodes=2 SelectTypeParameters=NONE \
JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=128,mem=120000M,node=2,gres/gpu=2
PartitionName=closed AllowGroups=root,staff DenyAccounts=science AllowQos=high,normal AllocNodes=ALL Default=NO \
QoS=short DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=1 MaxTime=UNLIMITED \
MinNodes=1 LLN=NO MaxCPUsPerNode=8 Nodes=n1 PriorityJobFactor=1 PriorityTier=1 RootOnly=YES ReqResv=YES \
OverSubscribe=NO OverTimeLimit=NONE PreemptMode=REQUEUE State=DRAIN TotalCPUs=64 TotalNodes=1 \
SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=1000 TRES=cpu=64,mem=60000M,node=1
"""
NODES = """\
PARTITION|NODES|CPUS|MEMORY|GRES|AVAIL_FEATURES
debug|1|64|60000|(null)|(null)
debug|1|32|120000|gpu:a100:2(S:0-1)|ib,intel
"""
ASSOCIATIONS = """\
Cluster|Account|Partition|QOS|Def QOS|MaxWall
demo|physics|gpu|high,normal|high|1-00:00:00
demo|science||normal||
other|chemistry||normal||
"""
ANSWER = {
    "rules": RULES,
    "partitions": PARTITIONS,
    "nodes": NODES,
    "reservations": "ReservationName=course StartTime=2026-11-22T22:48:07 Nodes=n1 Features=(null) State=ACTIVE\n",
    "associations": ASSOCIATIONS,
    "default_account": "Cluster|Account\nother|chemistry\ndemo|science\n",
    "qos": "Name|Flags|MaxWall\nnormal||\nhigh|DenyOnLimit,PartitionTimeLimit|02:00:00\n",
}


def printed(changes: dict[str, str | tuple[int, str]] | None = None, *, before: str = "") -> str:
    """What the command printed: with other parts, as text, or as exit code and complaint."""
    text = before
    for name, part in {**ANSWER, **(changes or {})}.items():
        code, out, err = (0, part, "") if isinstance(part, str) else (part[0], "", part[1])
        out = out.replace("|", "\x1f") if name == "nodes" else out
        text += f"\n\x1e{name}\n{out}\n\x1e{code}\n{err}\n\x1e"
    return text


def offered(changes: dict[str, str | tuple[int, str]] | None = None, *, before: str = "") -> Offers:
    return parse_offers(printed(changes, before=before))


def partition(line: str, nodes: str = "", name: str = "a") -> Partition:
    """A partition as its line of scontrol and its lines of sinfo tell it."""
    offers = offered({"partitions": f"PartitionName={name} {line}\n", "nodes": f"PARTITION|N|C|M|G|F\n{nodes}"})
    assert offers.partitions is not None
    return offers.partitions[0]


# What is understood


def test_a_partition_as_scontrol_and_sinfo_tell_it():
    debug = offered().partition("debug")
    assert debug == Partition(
        "debug",
        is_default=True,
        state="UP",
        listed=True,
        max_time=86400,
        default_time=3600,
        min_nodes=0,
        max_nodes=math.inf,
        node_count=2,
        cpus=64,
        memory=120000,
        gpus={"a100": 2},
        all_gpus={"a100": 2},
        features=frozenset({"ib", "intel"}),
    )
    assert debug.up
    assert debug.on_offer
    assert offered().default_partition == debug


def test_a_partition_that_is_not_for_this_user():
    closed = offered().partition("closed")
    assert closed == Partition(
        "closed",
        state="DRAIN",
        listed=False,
        max_time=math.inf,
        min_nodes=1,
        max_nodes=1,
        node_count=1,
        denied_accounts=frozenset({"science"}),
        allowed_qos=frozenset({"high", "normal"}),
        allowed_groups=frozenset({"root", "staff"}),
        qos="short",
        root_only=True,
        needs_reservation=True,
        max_cpus=8,
        max_memory=1000,
    )
    assert not closed.up
    assert not closed.on_offer


def test_accounts_of_this_cluster_the_default_one_first():
    offers = offered()
    assert offers.accounts == ("science", "physics")
    assert offers.default_account == "science"
    assert offers.associations == (
        Association("physics", "gpu", qos=("high", "normal"), default_qos="high", max_wall=86400),
        Association("science", is_default=True, qos=("normal",)),
    )


def test_qos_reservations_and_rules():
    offers = offered()
    assert offers.qos == (Qos("normal"), Qos("high", frozenset({"DenyOnLimit", "PartitionTimeLimit"}), 7200))
    assert offers.reservations == ("course",)
    assert offers.rules == Rules("demo", (22, 5, 8), frozenset({"associations", "limits", "qos"}), every_partition=True)
    assert not offers.rules.nested_accounts
    assert offers.unknown == {}


@pytest.mark.parametrize(
    ("written", "enforced"),
    [
        ("none", set()),
        ("(null)", set()),
        ("associations", {"associations"}),
        ("associations,limits,qos,safe", {"associations", "limits", "qos", "safe"}),
        ("qos", {"associations", "qos"}),
        ("all", {"all", "associations", "limits", "qos"}),
    ],
)
def test_what_accounting_enforces(written, enforced):
    rules = offered({"rules": RULES.replace("associations,limits,qos", written)}).rules
    assert rules is not None
    assert rules.enforced == enforced


def test_accounts_above_ones_own_are_told_from_23_11_on():
    text = (
        "Cluster|Account|Partition|QOS|Def QOS|MaxWall|Lineage\n"
        "demo|lab||normal|||/physics/lab/0-alice/\ndemo|lab|gpu|normal|||/physics/lab/0-alice/gpu/\n"
    )
    newer = {"rules": RULES.replace("22.05.8", "24.11.5"), "associations": text}
    offers = offered(newer)
    assert offers.associations is not None
    assert offers.rules is not None
    assert offers.rules.nested_accounts
    assert [each.above is not None and {"physics", "lab"} <= each.above for each in offers.associations] == [True, True]


def test_banners_clusters_and_nonsense_are_passed_over():
    changes = {
        "partitions": f"CLUSTER: demo\nWelcome = to the cluster\nState=UP\n{PARTITIONS}Bye\n",
        "nodes": f"CLUSTER: demo\n{NODES}a|b\nx|many|2|3|(null)|(null)\n",
        "associations": f"Quota: 1|2\n{ASSOCIATIONS}\nsacctmgr: done\n",
    }
    assert offered(changes, before="Message of the day\nrules\n0\n") == offered()


def test_fields_that_are_missing_or_odd_are_not_told():
    odd = partition(
        "MaxTime=soon DefaultTime=N/A MaxNodes=(null) MinNodes=-1 TotalNodes= AllowAccounts=(null) Default="
    )
    assert odd == Partition("a", listed=False)
    assert odd.on_offer is False


def test_one_kind_of_node_a_line_and_the_most_of_all():
    lines = (
        "a*|2|64|256000|gpu:a100:4(S:0-1),mps:400|amd\n"
        "a*|1|128|512000|gpu:tesla:no_consume:1(S:0),gpu:2|amd,big\na*|1|8|16000|(null)|\n"
    )
    found = partition("TotalNodes=4", lines)
    assert (found.cpus, found.memory, found.node_count) == (128, 512000, 4)
    assert found.gpus == {"a100": 4, "tesla": 1, "": 2}
    assert found.all_gpus == {"a100": 8, "tesla": 1, "": 2}
    assert found.features == {"amd", "big"}


def test_numbers_that_are_only_the_least_are_not_the_most():
    found = partition("TotalNodes=2", "a|2|64+|256000+|(null)|x\n")
    assert (found.cpus, found.memory, found.features) == (None, None, {"x"})


def test_where_sinfo_leaves_out_nodes_nothing_is_said_of_them():
    cloud = partition("TotalNodes=10", "a|2|64|256000|gpu:2|x\n")
    assert (cloud.cpus, cloud.memory, cloud.gpus, cloud.features) == (None, None, None, None)
    assert cloud.listed


def test_hidden_partitions_are_known_but_not_on_offer():
    hidden = partition("Hidden=YES State=UP TotalNodes=1")
    assert hidden.hidden
    assert not hidden.on_offer


def test_limits_of_older_and_newer_versions():
    newer = partition(
        "State=UP TotalNodes=1 MaxCPUsPerNode=UNLIMITED MaxCPUsPerSocket=UNLIMITED NodeSets=x CpuBind=cores"
    )
    older = partition("State=UP TotalNodes=1 MaxCPUsPerNode=UNLIMITED")
    assert newer == older


@pytest.mark.parametrize(
    ("gres", "found"),
    [
        ("(null)", {}),
        ("gpu:2", {"": 2}),
        ("gpu", {"": 1}),
        ("gpu:a100", {"a100": 1}),
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:a100:2(S:0,2),gpu:a100:2(S:1)", {"a100": 4}),
        ("gres/gpu:tesla=2", {"tesla": 2}),
        ("gpu:3090:8", {"3090": 8}),
        ("gpu:1g.5gb:7,shard:4,nvme:1", {"1g.5gb": 7}),
        ("craynetwork:4", {}),
    ],
)
def test_gpus_by_type(gres, found):
    assert gpus_by_type(gres) == found


# What could not be asked


def test_what_could_not_be_asked_is_none_and_says_why():
    refused = "slurm_load_partitions error: Unable to contact slurm controller (connect failure)\n"
    offers = offered({"partitions": (1, refused), "nodes": (127, "sinfo: not found"), "qos": (124, "")})
    assert (offers.partitions, offers.qos) == (None, None)
    assert offers.accounts == ("science", "physics")
    assert offers.unknown == {
        "partitions": "scontrol failed: Unable to contact slurm controller (connect failure)",
        "nodes": "sinfo is not there",
        "qos": "sacctmgr did not answer within 12 s",
    }


def test_an_answer_of_nothing_and_no_answer_are_two_things():
    nothing = {
        "partitions": "No partitions in the system\n",
        "reservations": "No reservations in the system\n",
        "associations": "Cluster|Account|Partition|QOS|Def QOS|MaxWall\n",
    }
    offers = offered(nothing)
    assert (offers.partitions, offers.reservations, offers.associations, offers.unknown) == ((), (), (), {})
    offers = offered(dict.fromkeys(ANSWER, "\n"))
    assert offers == Offers(unknown=offers.unknown)
    assert set(offers.unknown) == set(parse_offers("Connection closed.\n").unknown) == set(ANSWER)


def test_a_partition_without_word_of_its_nodes():
    debug = offered({"nodes": (1, "sinfo: error: banner")}).partition("debug")
    assert debug is not None
    assert (debug.listed, debug.cpus, debug.gpus, debug.max_time) == (None, None, None, 86400)
    assert debug.on_offer


def test_no_account_on_a_cluster_that_is_not_known_is_no_news():
    nothing = "Cluster|Account|Partition|QOS|Def QOS|MaxWall\n"
    offers = offered({"rules": (1, "scontrol: error: No cluster 'nope' known by database."), "associations": nothing})
    assert offers.associations is None
    assert "associations" in offers.unknown


def test_an_answer_that_is_cut_off_lacks_its_last_parts():
    text = printed()
    offers = parse_offers(text[: text.index("\x1edefault_account") + 20])
    assert offers.partitions is not None
    assert offers.default_account is None
    assert offers.unknown == {
        "qos": "sacctmgr gave no answer",
        "default_account": "sacctmgr gave no answer",
    }


# How it is asked


class Commands:
    """Stand-ins for Slurm's commands in a folder, which write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("scontrol", "sinfo", "sacctmgr"):
            self.put(name, "echo hello")

    def put(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/calls\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def offers(self, clusters: str = "") -> Offers:
        return asyncio.run(Slurm(LocalTransport(), clusters=clusters, bin_dir=str(self.folder)).offers())


@pytest.fixture
def commands(tmp_path):
    return Commands(tmp_path)


def test_each_command_is_asked_on_its_own(commands):
    commands.put("sinfo", f"printf '%s' '{NODES.replace('|', chr(31))}'")
    commands.put("scontrol", f"case $* in *partition) printf '%s' '{PARTITIONS}';; *) echo no >&2; exit 1;; esac")
    offers = commands.offers()
    assert offers.partition("debug") == offered().partition("debug")
    assert offers.unknown["rules"] == "scontrol failed: no"


def test_the_cluster_is_named_to_each_command(commands):
    commands.offers("beta")
    for call in commands.calls:
        if "show qos" not in call:
            assert "--clusters=beta" in call or " cluster=beta" in call, call
    commands.folder.joinpath("calls").unlink()
    commands.offers()
    assert not any("cluster" in call.lower().replace("format=cluster", "") for call in commands.calls)


def test_a_version_that_knows_no_lineage_is_asked_without_it(commands):
    rows = f"printf '%s' '{ASSOCIATIONS}'"
    commands.put("sacctmgr", f"case $* in *Lineage*) echo \" Unknown field 'lineage'\" >&2; exit 1;; *) {rows};; esac")
    offers = commands.offers()
    assert offers.associations is not None
    assert len(offers.associations) == 3


def test_a_daemon_that_does_not_answer_is_not_asked_again(commands):
    commands.put("scontrol", "echo 'x error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    commands.put("sacctmgr", f"printf '%s' '{ASSOCIATIONS}'")
    offers = commands.offers()
    assert [call.partition(" ")[0] for call in commands.calls] == ["scontrol", "sacctmgr", "sacctmgr", "sacctmgr"]
    assert offers.accounts is not None
    assert {"partitions", "nodes", "reservations", "rules"} <= set(offers.unknown)


def test_a_command_that_hangs_takes_only_its_own_part_along(commands):
    commands.put("sacctmgr", "exec sleep 60")
    commands.put("scontrol", f"printf '%s' '{PARTITIONS}'")
    argv = offers_argv(str(commands.folder))
    done = asyncio.run(LocalTransport().run([*argv[:-1], "5"], timeout=60))
    offers = parse_offers(done.stdout)
    assert offers.partitions is not None
    assert offers.unknown["associations"].startswith("sacctmgr did not answer")
    assert sum(call.startswith("sacctmgr") for call in commands.calls) == 1


def test_commands_that_are_not_there(commands, tmp_path, monkeypatch):
    for name in ("sh", "id", "timeout", "true"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    for name in ("scontrol", "sinfo", "sacctmgr"):
        (tmp_path / name).unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    offers = commands.offers()
    assert offers.unknown["partitions"] == "scontrol is not there"
    assert offers.unknown["associations"] == "sacctmgr is not there"


def test_a_cluster_that_never_answers_is_an_error_that_names_a_command(commands, monkeypatch):
    monkeypatch.setattr(slurm_module, "OFFERS_TIMEOUT", 0.2)
    commands.put("scontrol", "exec sleep 60")
    with pytest.raises(CommandTimeoutError, match="scontrol did not answer") as caught:
        commands.offers()
    assert "command: scontrol show partition" in str(caught.value)
