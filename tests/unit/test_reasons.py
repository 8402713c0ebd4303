"""Slurm's reason codes in plain words."""

from __future__ import annotations

import pytest

from slurm_provisioner.reasons import explain_reason

# src/common/job_state_reason.c of Slurm 24.11, without those of ended jobs; and what slurmctld says in its own words.
TRES = ["CPU", "Cpu", "Mem", "Memory", "Node", "GRES", "License", "Energy", "BB", "Billing", "Unknown"]
CODES = [
    *("None", "Prolog", "Priority", "Dependency", "Resources", "PartitionNodeLimit", "PartitionTimeLimit"),
    *("PartitionDown", "PartitionInactive", "JobHeldAdmin", "JobHeldUser", "BeginTime", "Licenses"),
    *("AssociationJobLimit", "AssociationResourceLimit", "AssociationTimeLimit", "Reservation", "ReqNodeNotAvail"),
    *("FrontEndDown", "SchedDefer", "NodeDown", "BadConstraints", "SystemFailure", "JobLaunchFailure"),
    *("InactiveLimit", "InvalidAccount", "InvalidQOS", "QOSUsageThreshold", "QOSJobLimit", "QOSResourceLimit"),
    *("QOSTimeLimit", "Cleaning", "QOSNotAllowed", "AccountNotAllowed", "DependencyNeverSatisfied"),
    *("QOSGrpCpuLimit", "QOSGrpCPUMinutesLimit", "QOSGrpCPURunMinutesLimit", "QOSGrpJobsLimit", "QOSGrpMemLimit"),
    *("QOSGrpNodeLimit", "QOSGrpSubmitJobsLimit", "QOSGrpWallLimit", "QOSMaxCpuPerJobLimit"),
    *("QOSMaxCpuMinutesPerJobLimit", "QOSMaxNodePerJobLimit", "QOSMaxWallDurationPerJobLimit"),
    *("QOSMaxCpuPerUserLimit", "QOSMaxJobsPerUserLimit", "QOSMaxNodePerUserLimit", "QOSMaxSubmitJobPerUserLimit"),
    *("QOSMinCpuNotSatisfied", "AssocGrpCpuLimit", "AssocGrpCPUMinutesLimit", "AssocGrpCPURunMinutesLimit"),
    *("AssocGrpJobsLimit", "AssocGrpMemLimit", "AssocGrpNodeLimit", "AssocGrpSubmitJobsLimit", "AssocGrpWallLimit"),
    *("AssocMaxJobsLimit", "AssocMaxCpuPerJobLimit", "AssocMaxCpuMinutesPerJobLimit", "AssocMaxNodePerJobLimit"),
    *("AssocMaxWallDurationPerJobLimit", "AssocMaxSubmitJobLimit", "JobHoldMaxRequeue", "JobArrayTaskLimit"),
    *("BurstBufferResources", "BurstBufferStageIn", "BurstBufferOperation", "PowerNotAvail", "PowerReserved"),
    *("DeadLine", "MaxJobsPerAccount", "MaxSubmitJobsPerAccount", "PartitionConfig", "AccountingPolicy"),
    *("FedJobLock", "MaxMemPerLimit", "ReservationDeleted", "ReservationInvalid", "Constraints"),
    *("MaxPoweredUpNodes", "WaitingForScheduling"),
    *(
        f"{whose}Grp{what}{time}"
        for whose in ("Assoc", "QOS")
        for what in TRES
        for time in ("", "Minutes", "RunMinutes")
    ),
    *(f"{whose}Max{what}Per{each}" for whose in ("Assoc", "QOS") for what in TRES for each in ("Job", "Node", "User")),
    *(f"{whose}Max{what}MinutesPerJob" for whose in ("Assoc", "QOS") for what in TRES),
    *(f"QOSMin{what}" for what in TRES),
    *(f"Max{what}PerAccount" for what in TRES),
    "ReqNodeNotAvail, UnavailableNodes:c[1-2]",
    "ReqNodeNotAvail, Reserved for maintenance",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions",
    "launch failed requeued held",
    "job requeued in held state",
    "",
]


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_a_short_clause(code):
    words, hint = explain_reason(code)
    assert words != code
    assert len(words.partition(" (")[0]) < 70, "a line has a hundred characters, for other things too"
    assert not words.endswith(".")
    assert not hint or hint.endswith(".")
    hint.format(job_id="7")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("Resources", "waiting for free resources"),
        ("Priority", "jobs of higher priority come first"),
        ("QOSMaxJobsPerUserLimit", "your limit of running jobs is reached (QOSMaxJobsPerUserLimit)"),
        ("AssocMaxJobsLimit", "your limit of running jobs is reached (AssocMaxJobsLimit)"),
        ("QOSMaxGRESPerUser", "your limit of GPUs is reached (QOSMaxGRESPerUser)"),
        ("QOSGrpCpuLimit", "the limit of CPUs of its QOS is reached (QOSGrpCpuLimit)"),
        ("MaxMemoryPerAccount", "the limit of memory of your account is reached (MaxMemoryPerAccount)"),
        ("AssocGrpCPUMinutesLimit", "your account has used up its CPU minutes (AssocGrpCPUMinutesLimit)"),
        (
            "AssocGrpGRESRunMinutes",
            "the limit of GPU minutes of your account is reached (AssocGrpGRESRunMinutes)",
        ),
        (
            "QOSMaxWallDurationPerJobLimit",
            "it asks for more run time than its QOS allows a job (QOSMaxWallDurationPerJobLimit)",
        ),
        ("AssociationJobLimit", "the limit of running jobs of your account is reached (AssociationJobLimit)"),
        ("ReqNodeNotAvail, UnavailableNodes:c1", "nodes it needs are in use, reserved or down"),
        ("ReqNodeNotAvail, Reserved for maintenance", "its nodes are reserved for maintenance"),
        ("launch_failed_requeued_held", "held: it could not be launched"),
    ],
)
def test_some_of_them_in_full(code, words):
    assert explain_reason(code)[0] == words


@pytest.mark.parametrize(
    "code",
    [
        *("PartitionTimeLimit", "DependencyNeverSatisfied", "JobHeldUser", "JobHeldAdmin", "BadConstraints"),
        *("InvalidAccount", "InvalidQOS", "launch failed requeued held", "QOSMaxCpuPerJobLimit", "AssocMaxMemPerNode"),
        *("QOSMinGRES", "AssocGrpBillingMinutes", "QOSGrpWallLimit"),
    ],
)
def test_what_needs_somebody_says_what_to_do(code):
    assert explain_reason(code)[1]


@pytest.mark.parametrize("code", ["Priority", "Resources", "QOSMaxJobsPerUserLimit", "AssocGrpGRES", "BeginTime"])
def test_what_passes_needs_no_hint(code):
    assert not explain_reason(code)[1]


@pytest.mark.parametrize("code", ["SomethingNew", "QOSMaxFooPerUser", "217", "a text of the site's own plugin"])
def test_what_is_not_known_is_shown_as_it_is(code):
    assert explain_reason(code) == (code, "")
