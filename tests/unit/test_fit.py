"""What a user is told of a request that the cluster does not offer; in comments, what Slurm 22.05 said to the same."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from slurm_provisioner.config import KernelConfig
from slurm_provisioner.fit import misfits, passed_over
from slurm_provisioner.offers import Association, Offers, Partition, Qos, Rules

HOUR, DAY = 3600, 86400
NODES = {"state": "UP", "listed": True, "max_nodes": math.inf, "min_nodes": 0, "memory": 60000, "cpus": 64}

DEBUG = Partition(
    "debug",
    is_default=True,
    max_time=DAY,
    node_count=4,
    gpus={"a100": 2},
    all_gpus={"a100": 2},
    features=frozenset({"amd", "ib"}),
    **NODES,
)
GPU = Partition(
    "gpu",
    max_time=4 * HOUR,
    node_count=2,
    gpus={"a100": 4},
    all_gpus={"a100": 8},
    features=frozenset({"intel"}),
    **NODES,
)
LONG = Partition("long", max_time=math.inf, node_count=10, gpus={}, all_gpus={}, features=frozenset(), **NODES)
RULES = Rules("demo", (22, 5, 8), frozenset({"associations", "limits", "qos"}))
SCIENCE = Association("science", is_default=True, qos=("normal",))
PHYSICS = Association("physics", qos=("high", "normal"), default_qos="high", max_wall=12 * HOUR)
OFFERS = Offers(
    partitions=(DEBUG, GPU, LONG),
    associations=(SCIENCE, PHYSICS),
    qos=(Qos("normal"), Qos("high", max_wall=2 * HOUR)),
    reservations=("course",),
    rules=RULES,
)


def said(offers: Offers = OFFERS, **asked: object) -> list[str]:
    return misfits(KernelConfig(**asked), offers)


def with_gpu(**changes: object) -> Offers:
    """The offers, with another partition gpu."""
    return replace(OFFERS, partitions=(DEBUG, replace(GPU, **changes), LONG))


def with_rules(offers: Offers = OFFERS, **changes: object) -> Offers:
    return replace(offers, rules=replace(RULES, **changes))


# One partition


def test_what_fits_is_not_spoken_of():
    assert said() == []
    assert said(partition="gpu", time="4h", gpus=8, nodes=2, cpus_per_task=32, mem="30G") == []
    assert said(partition="gpu", gpus="a100:4", nodes=1, constraint="intel", account="physics", time="2h") == []
    assert said(partition="long", time="UNLIMITED", nodes="2-20", ntasks=640, reservation="course") == []


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        # Invalid partition name specified
        (
            {"partition": "gpus"},
            "`partition`: there is no partition gpus here; did you mean `gpu`? (debug, gpu, long)",
        ),
        ({"partition": "x"}, "`partition`: there is no partition x here (debug, gpu, long)"),
        # Requested time limit is invalid (missing or exceeds some limit)
        ({"partition": "gpu", "time": "2d"}, "`time`: gpu allows at most 04:00:00, not 2-00:00:00"),
        ({"time": "2d"}, "`time`: debug allows at most 1-00:00:00, not 2-00:00:00"),
        ({"time": "UNLIMITED"}, "`time`: debug allows at most 1-00:00:00, not UNLIMITED"),
        # Requested node configuration is not available
        ({"partition": "gpu", "gpus": "v100:1"}, "`gpus`: no node of gpu has v100 GPUs; it has a100 (4 a node)"),
        ({"partition": "gpu", "gpus": "A100:1"}, "`gpus`: no node of gpu has A100 GPUs; it has a100 (4 a node)"),
        ({"partition": "gpu", "gres": "gpu:v100:1"}, "`gres`: no node of gpu has v100 GPUs; it has a100 (4 a node)"),
        ({"partition": "gpu", "gpus": "a100:9"}, "`gpus`: 2 nodes of gpu can give at most 8 a100 GPUs, not 9"),
        ({"partition": "gpu", "gpus": 5, "nodes": 1}, "`gpus`: 1 node of gpu can give at most 4 GPUs, not 5"),
        ({"gpus": 3}, "`gpus`: debug as a whole can give at most 2 GPUs, not 3"),
        ({"partition": "gpu", "gres": "gpu:5"}, "`gres`: 1 node of gpu can give at most 4 GPUs, not 5"),
        ({"partition": "long", "gpus": 1}, "`gpus`: long has no GPUs; there are some in debug and gpu"),
        ({"cpus_per_task": 65}, "`cpus_per_task`: debug has at most 64 CPUs on a node, not 65"),
        (
            {"ntasks_per_node": 10, "cpus_per_task": 8},
            "`ntasks_per_node`: debug has at most 64 CPUs on a node, not 80 for 10 tasks",
        ),
        (
            {"nodes": 1, "ntasks": 65},
            "`ntasks`: debug has at most 64 CPUs on a node, and 65 tasks with 1 CPU each do not fit on 1 node",
        ),
        (
            {"ntasks": 5, "cpus_per_task": 40},
            "`ntasks`: debug has at most 64 CPUs on a node, and 5 tasks with 40 CPUs each do not fit on 4 nodes",
        ),
        ({"mem": "64G"}, "`mem`: debug has at most 60000M on a node, not 64G"),
        (
            {"mem_per_cpu": "10G", "cpus_per_task": 8},
            "`mem_per_cpu`: debug has at most 60000M on a node, not 80G",
        ),
        # Node count specification invalid
        ({"partition": "gpu", "nodes": "3-4"}, "`nodes`: gpu has 2 nodes, not 3"),
        # Invalid feature specification
        ({"constraint": "intel&ib"}, "`constraint`: no node of debug has the feature intel (amd, ib)"),
        ({"constraint": "x|y"}, "`constraint`: no node of debug has the feature x or y (amd, ib)"),
        ({"constraint": "idb"}, "`constraint`: no node of debug has the feature idb; did you mean `ib`? (amd, ib)"),
        # Requested reservation is invalid
        (
            {"reservation": "curse"},
            "`reservation`: you see no reservation curse here; did you mean `course`? (course)",
        ),
        # Invalid account or account/partition combination specified
        (
            {"account": "scienze"},
            "`account`: scienze is not among yours; did you mean `science`? (science, physics)",
        ),
        # Invalid qos specification
        ({"qos": "high"}, "`qos`: high is not yours with account science (normal)"),
        # Job violates accounting/QOS policy, or it waits for ever: QOSMaxWallDurationPerJobLimit
        (
            {"account": "physics", "partition": "gpu", "time": "3h"},
            "`time`: the QOS high allows at most 02:00:00, not 03:00:00",
        ),
        (
            {"account": "physics", "qos": "normal", "time": "13h"},
            "`time`: your account physics allows at most 12:00:00, not 13:00:00",
        ),
    ],
)
def test_what_does_not_fit(asked, sentence):
    assert said(**asked) == [sentence]


def test_all_that_does_not_fit_is_said_at_once():
    sentences = said(partition="gpu", time="1d", gpus="v100:1", mem="1T", account="x")
    assert [sentence.partition(":")[0] for sentence in sentences] == ["`account`", "`time`", "`mem`", "`gpus`"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"state": "DOWN"}, "`partition`: gpu is down: jobs wait until the site brings it up"),
        ({"state": "DRAIN"}, "`partition`: gpu takes no new jobs: it is being drained"),
        ({"state": "INACTIVE"}, "`partition`: gpu is inactive: it neither takes nor starts jobs"),
        ({"node_count": 0, "gpus": None, "cpus": None}, "`partition`: gpu has no nodes"),
        ({"root_only": True}, "`partition`: gpu is for administrators only"),
        (
            {"listed": False, "allowed_groups": frozenset({"staff", "gpuusers"})},
            "`partition`: gpu is for the Unix groups gpuusers and staff only",
        ),
        ({"needs_reservation": True}, "`reservation`: gpu takes jobs in a reservation only"),
        (
            {"allowed_accounts": frozenset({"physics"})},
            "`account`: gpu is not for science, your default account, but for physics",
        ),
        ({"denied_accounts": frozenset({"science"})}, "`account`: gpu is not for science, your default account"),
        ({"allowed_qos": frozenset({"high"})}, "`qos`: gpu is not for normal, but for high"),
        ({"denied_qos": frozenset({"normal"})}, "`qos`: gpu is not for normal"),
        ({"max_memory": 1000}, "`mem`: gpu allows at most 1000M on a node, not 2G"),
        ({"min_nodes": 2}, "`nodes`: gpu wants at least 2, not 1"),
    ],
)
def test_partitions_that_are_not_for_everybody_or_everything(changes, sentence):
    assert said(with_gpu(**changes), partition="gpu", mem="2G", nodes=1) == [sentence]


def test_limits_of_a_job_are_not_what_nodes_have():
    offers = with_gpu(max_nodes=1, max_cpus=8)
    assert said(offers, partition="gpu", nodes=2) == ["`nodes`: gpu allows at most 1, not 2"]
    assert said(offers, partition="gpu", cpus_per_task=9) == [
        "`cpus_per_task`: gpu allows at most 8 CPUs on a node, not 9"
    ]
    assert said(offers, partition="gpu", ntasks=9) == [
        "`ntasks`: gpu allows at most 8 CPUs on a node, and 9 tasks with 1 CPU each do not fit on 1 node"
    ]
    assert said(offers, partition="gpu", ntasks=9, sbatch={"overcommit": True}) == []


def test_tasks_on_a_node_count_in_full_also_beside_a_number_of_tasks():
    # CPU count per node can not be satisfied
    assert said(ntasks=2, ntasks_per_node=2, cpus_per_task=40) == [
        "`ntasks_per_node`: debug has at most 64 CPUs on a node, not 80 for 2 tasks"
    ]


# Accounts and qualities of service


def test_names_of_accounting_are_compared_as_slurm_does():
    assert said(account="Science", qos="NORMAL") == []


def test_an_account_that_is_for_one_partition_only():
    offers = replace(OFFERS, associations=(SCIENCE, replace(PHYSICS, partition="gpu")))
    assert said(offers, account="physics") == ["`account`: physics is yours in gpu only, not in debug"]
    assert said(offers, account="physics", partition="gpu") == []


def test_a_user_without_any_account():
    offers = replace(OFFERS, associations=())
    assert said(offers) == [
        "`account`: you have none on this cluster, and it takes no jobs without one: ask its administrators"
    ]
    assert said(with_rules(offers, enforced=frozenset())) == []


def test_an_account_below_an_allowed_one_is_allowed_where_slurm_sees_it_so():
    allowed = with_gpu(allowed_accounts=frozenset({"root_of_all"}))
    newer = with_rules(allowed, version=(24, 11, 5))
    assert len(said(allowed, partition="gpu")) == 1
    assert said(newer, partition="gpu") == [], "the accounts above are not known"
    below = replace(SCIENCE, above=frozenset({"root_of_all", "science"}))
    beside = replace(SCIENCE, above=frozenset({"other", "science"}))
    assert said(replace(newer, associations=(below,)), partition="gpu") == []
    assert said(replace(newer, associations=(beside,)), partition="gpu") == [
        "`account`: gpu is not for science, your default account, but for root_of_all"
    ]


def test_a_qos_can_lift_the_limits_of_a_partition():
    waiving = Qos("normal", frozenset({"PartitionTimeLimit", "PartitionMaxNodes"}))
    offers = replace(with_gpu(max_nodes=1), qos=(waiving, Qos("high")))
    assert said(offers, partition="gpu", time="1d", nodes=2) == []


def test_of_qos_and_account_the_first_that_has_a_limit_counts():
    asked = {"account": "physics", "time": "3h"}
    short = replace(OFFERS, qos=(*(OFFERS.qos or ()), Qos("short", max_wall=HOUR)))
    short = replace(short, partitions=(replace(DEBUG, qos="short"),))
    assert said(short, **asked) == ["`time`: the QOS short allows at most 01:00:00, not 03:00:00"]
    over = Qos("high", frozenset({"OverPartQOS"}), 2 * HOUR)
    assert said(replace(short, qos=(over, Qos("short", max_wall=HOUR))), **asked) == [
        "`time`: the QOS high allows at most 02:00:00, not 03:00:00"
    ]
    assert said(replace(short, qos=(Qos("high"),)), **asked) == [], "the partition's QOS is not known"


# Several partitions


def test_one_of_several_partitions_is_enough_and_the_others_can_be_named():
    asked = {"partition": "long,gpu,debug", "gpus": 4, "time": "3h"}
    assert said(**asked) == []
    assert passed_over(KernelConfig(**asked), OFFERS) == [
        "`gpus`: long has no GPUs; there are some in debug and gpu",
        "`gpus`: debug as a whole can give at most 2 GPUs, not 4",
    ]


def test_where_none_of_several_fits_each_is_spoken_of():
    asked = {"partition": "gpu,debug", "time": "2d"}
    assert said(**asked) == [
        "`time`: gpu allows at most 04:00:00, not 2-00:00:00",
        "`time`: debug allows at most 1-00:00:00, not 2-00:00:00",
    ]
    assert passed_over(KernelConfig(**asked), OFFERS) == []


def test_a_misspelt_partition_is_refused_with_the_others():
    assert len(said(partition="debug,nope")) == 1


def test_a_site_can_want_the_limits_of_each_partition_kept():
    asked = {"partition": "gpu,debug", "time": "10h"}
    assert said(**asked) == []
    assert said(with_rules(every_partition=True), **asked) == ["`time`: gpu allows at most 04:00:00, not 10:00:00"]
    down = with_rules(with_gpu(state="DOWN"), every_partition=True)
    assert said(down, partition="gpu,debug", gpus=2) == [], "what the nodes have is enough in one"
    assert said(down, partition="gpu") != []


# What is not told


@pytest.mark.parametrize(
    "asked",
    [
        {"partition": "nope", "reservation": "x", "account": "x", "qos": "x"},
        {"partition": "gpu", "time": "UNLIMITED", "nodes": 1000, "ntasks": 10000, "cpus_per_task": 1000},
        {"mem": "1000T", "gpus": "h100:1000", "gres": "gpu:h100:10", "constraint": "nope"},
        {"mem_per_cpu": "1000T", "ntasks_per_node": 1000},
    ],
)
def test_nothing_is_said_of_what_is_not_told(asked):
    assert said(Offers(), **asked) == []
    if "account" not in asked:
        assert said(Offers(partitions=(Partition("gpu", is_default=True),)), **asked) == []


def test_without_a_default_partition_a_job_submit_plugin_may_choose_one():
    assert said(replace(OFFERS, partitions=(GPU, LONG)), time="100d", gpus=100) == []


def test_accounting_that_is_not_enforced_refuses_nothing():
    offers = with_rules(with_gpu(allowed_accounts=frozenset({"x"}), allowed_qos=frozenset({"x"})), enforced=frozenset())
    assert said(offers, partition="gpu", account="nope", qos="nope", time="3h") == []


def test_gpus_without_a_type_may_be_of_any():
    offers = with_gpu(gpus={"": 4}, all_gpus={"": 8})
    assert said(offers, partition="gpu", gpus="v100:2") == []
    assert len(said(offers, partition="gpu", gpus="v100:9")) == 1


def test_constraints_that_are_not_simple_are_up_to_slurm():
    for constraint in ("[rack1*2&rack2*4]", "x&(y|z)", "x*2", "x,y"):
        assert said(constraint=constraint) == []


def test_hidden_partitions_can_be_used_but_are_not_suggested():
    offers = with_gpu(hidden=True, listed=False)
    assert said(offers, partition="gpu") == []
    assert said(offers, partition="gpux") == ["`partition`: there is no partition gpux here (debug, long)"]
