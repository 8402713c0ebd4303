"""Why a job waits: Slurm's reason codes in plain words, and what to do about those that do not resolve by themselves.

Sources: squeue(1) (JOB REASON CODES), https://slurm.schedmd.com/job_reason_codes.html, src/common/job_state_reason.c,
and texts that slurmctld sets instead of a code (src/slurmctld, ``state_desc``).
"""

from __future__ import annotations

import re

__all__ = ["explain_reason"]

# What passes by itself.
_PASSING = {
    "BeginTime": "its begin time has not come yet",
    "BurstBufferResources": "waiting for room in the burst buffer",
    "BurstBufferStageIn": "copying files into the burst buffer",
    "Cleaning": "its earlier run is being cleaned up",
    "Dependency": "waiting for the jobs it depends on",
    "FedJobLock": "waiting for the clusters of the federation to agree",
    "JobArrayTaskLimit": "waiting for other tasks of its array",
    "Licenses": "waiting for a license",
    "MaxPoweredUpNodes": "no more nodes may be powered up at the moment",
    "Nodes required for job are DOWN": "its nodes are down, or kept for jobs of higher priority",
    "None": "waiting for the scheduler",
    "PowerNotAvail": "waiting for electrical power",
    "PowerReserved": "waiting for electrical power",
    "Priority": "jobs of higher priority come first",
    "Prolog": "its nodes are being prepared",
    "QOSUsageThreshold": "its QOS has used too much of late",
    "ReqNodeNotAvail": "nodes it needs are in use, reserved or down",
    "ReqNodeNotAvail, May be reserved for other job": "its nodes are kept for other jobs",
    "ReqNodeNotAvail, Reserved for maintenance": "its nodes are reserved for maintenance",
    "Reservation": "waiting for its reservation to begin",
    "Resources": "waiting for free resources",
    "SchedDefer": "waiting for the scheduler",
    "WaitingForScheduling": "waiting for the scheduler",
}

_RELEASE = "`scontrol release {job_id}` lets it go on."
_SUPPORT = "Ask the cluster's support."
_PARTITION = "`sinfo -s` shows the partitions: wait, or choose another `partition`."
_ALLOWED = "`sacctmgr show associations user=$USER format=account,partition,qos` lists what you may use."
_LESS = "It will not start as it is: ask for less, or for another `qos`, `account` or `partition`."

# What needs somebody.
_STUCK = {
    "AccountNotAllowed": ("its account may not use its partition", f"`account`: {_ALLOWED}"),
    "BadConstraints": (
        "no node meets its constraints",
        "`constraint`: `sinfo -o '%P %f'` lists the features of nodes.",
    ),
    "BurstBufferOperation": ("its burst buffer failed", _SUPPORT),
    "Constraints": ("no node meets its constraints", "`constraint`: `sinfo -o '%P %f'` lists the features of nodes."),
    "DeadLine": ("it cannot be done before its deadline", "Ask for less `time`, or a later deadline."),
    "DependencyNeverSatisfied": (
        "what it depends on never comes true",
        "It will never start: correct `dependency` and start the kernel again.",
    ),
    "FrontEndDown": ("no front-end node is up", _SUPPORT),
    "InactiveLimit": ("it reached the system's limit of inactivity", _SUPPORT),
    "InvalidAccount": ("its account is not valid", f"`account`: {_ALLOWED}"),
    "InvalidQOS": ("its QOS is not valid", f"`qos`: {_ALLOWED}"),
    "JobHeldAdmin": ("held by an administrator", _SUPPORT),
    "JobHeldUser": ("held by you", _RELEASE),
    "JobHoldMaxRequeue": ("held: it was queued again too often", _SUPPORT),
    "JobLaunchFailure": ("it could not be launched", _SUPPORT),
    "MaxMemPerLimit": ("it asks for more memory than its partition allows", "Ask for less `mem`."),
    "NodeDown": ("a node it needs is down", "Ask for other nodes (`nodelist`), or wait until it is back."),
    "PartitionConfig": ("its partition does not take such jobs", _PARTITION),
    "PartitionDown": ("its partition is down", _PARTITION),
    "PartitionInactive": ("its partition starts no jobs at the moment", _PARTITION),
    "PartitionNodeLimit": (
        "its partition does not give so many nodes",
        "Ask for other `nodes`, or choose another `partition`.",
    ),
    "PartitionTimeLimit": (
        "it asks for more time than its partition gives",
        "Ask for less `time`, or choose another `partition`: `sinfo -o '%P %l'` shows their limits.",
    ),
    "QOSNotAllowed": ("its QOS may not be used in its partition", f"`qos`: {_ALLOWED}"),
    "ReservationDeleted": ("its reservation was deleted", "`reservation`: `scontrol show reservation` lists them."),
    "ReservationInvalid": ("its reservation is not valid", "`reservation`: `scontrol show reservation` lists them."),
    "SystemFailure": ("Slurm, a file system or the network failed", _SUPPORT),
    "job requeued in held state": ("held: it was queued again", _RELEASE),
    "launch failed requeued held": ("held: it could not be launched", _RELEASE),
    "user env retrieval failed requeued held": ("held: your environment could not be loaded", _RELEASE),
}

# Limits of associations and QOSes: whose, kind, of what, in all or of running jobs, for each of what.
_LIMIT = re.compile(
    r"(?P<whose>Assoc|QOS|)(?P<kind>Grp|Max|Min)"
    r"(?P<what>CPU|Cpu|Mem(?:ory)?|Node|GRES|License|Energy|BB|Billing|Unknown|SubmitJobs?|Jobs?|Wall(?:Duration)?)"
    r"(?P<time>RunMinutes|Minutes|)(?:Per(?P<each>Job|Node|User|Account))?(?:Limit|NotSatisfied)?"
)
# The same before Slurm told them apart.
_OLD_LIMIT = re.compile(r"(?P<whose>Association|QOS)(?P<what>Job|Resource|Time)Limit")
_WHAT = {
    "BB": "burst buffers",
    "Billing": "billing units",
    "CPU": "CPUs",
    "Cpu": "CPUs",
    "Energy": "energy",
    "GRES": "GPUs",
    "Job": "running jobs",
    "Jobs": "running jobs",
    "License": "licenses",
    "Mem": "memory",
    "Memory": "memory",
    "Node": "nodes",
    "Resource": "resources",
    "SubmitJob": "submitted jobs",
    "SubmitJobs": "submitted jobs",
    "Time": "time",
    "Unknown": "resources",
    "Wall": "run time",
    "WallDuration": "run time",
}


def explain_reason(reason: str) -> tuple[str, str]:
    """Return why a job waits, as a clause, and what to do about it, or "" where it is to be waited for.

    Parameters
    ----------
    reason : str
        What squeue or scontrol say, "" for nothing. What is not known is returned as it is.

    Returns
    -------
    tuple of str
        Clause and hint; the hint has ``{job_id}`` where the job's id belongs.
    """
    reason = reason.replace("_", " ") or "None"  # scontrol has no spaces
    code = reason.partition(",")[0]
    for known in (reason, code):
        if known in _PASSING:
            return _PASSING[known], ""
    if code in _STUCK:
        words, hint = _STUCK[code]
    elif match := _LIMIT.fullmatch(code):
        words, hint = _limit(**match.groupdict())
    elif match := _OLD_LIMIT.fullmatch(code):
        words, hint = f"the limit of {_WHAT[match['what']]} of {_owner(match['whose'])} is reached", ""
    elif code == "AccountingPolicy":
        words, hint = "a limit of your account or QOS is reached", ""
    else:
        return reason, ""
    return f"{words} ({code})" if " " not in code else words, hint


def _owner(whose: str) -> str:
    return "your account" if whose.startswith("Assoc") else "its QOS"


def _limit(whose: str, kind: str, what: str, time: str, each: str | None) -> tuple[str, str]:
    goods = f"{_WHAT[what].rstrip('s')} minutes" if time else _WHAT[what]
    if kind == "Min":
        return f"it asks for less {goods} than {_owner(whose)} wants", "It will not start as it is: ask for more."
    if each in ("Job", "Node"):
        return f"it asks for more {goods} than {_owner(whose)} allows a {each.lower()}", _LESS
    if kind == "Max" and each != "Account":
        return f"your limit of {goods} is reached", ""
    owner = "your account" if each == "Account" else _owner(whose)
    if time == "Minutes" or what == "Wall":  # counts what was used before, too
        return f"{owner} has used up its {goods}", "Choose another `account` or `qos`, or ask for more to be granted."
    return f"the limit of {goods} of {owner} is reached", ""
