"""What a centre has to bear, as Markdown: computed from what was measured, for so many people. Pure."""

from __future__ import annotations

from typing import Any

from config_text import table
from performance_text import results

from slurm_provisioner.transport import scout
from slurm_provisioner.watcher import LINKED_INTERVAL, QUEUED_INTERVAL

__all__ = ["assumptions", "load"]

USERS, LOGIN_NODES = 5000, 20
#: Per cent of the users who work at the same time; of these, per cent who have a job in the queue.
AT_ONCE, WAITING = 20, 10
#: Kernels of each who works, and how many of them are started in an hour.
KERNELS, STARTS = 2, 1


def assumptions() -> str:
    """Return what is assumed of the people."""
    return (
        f"{USERS:,} users and {LOGIN_NODES} login nodes; {AT_ONCE} % of the users work at the same time, each with a"
        f" Jupyter server of their own and {KERNELS} kernels, of which {STARTS} is started anew in an hour;"
        f" {WAITING} % of them have a job that waits in the queue. Multiply for others: all grows in proportion."
    )


def load() -> str:
    """Return what that makes, for the whole centre and for a login node."""
    measured = results()["measured"]["load"]["slurm"]
    one, many = measured["1"], measured[max(measured, key=int)]
    servers = USERS * AT_ONCE / 100
    kernels, waiting, starts = servers * KERNELS, servers * WAITING / 100, servers * STARTS / 60

    asks = one["calls of a squeue"]
    polls = servers / (LINKED_INTERVAL / 60) + waiting / (QUEUED_INTERVAL / 60)
    begun, ended = one["until settled"], one["ending"]
    commands = sum(begun["programs"].values()) + sum(ended["programs"].values())
    calls = begun["calls"] + ended["calls"]
    looks = waiting / scout.LAST_LOOK
    folder = many["run directory"]

    def row(what: str, whole: float, unit: str, how: str, *, digits: int = 0) -> list[str]:
        return [what, *(f"{value:,.{digits}f} {unit}".rstrip() for value in (whole, whole / LOGIN_NODES)), how]

    lines = [
        row(
            "`squeue` of servers that only watch, a minute",
            polls,
            "",
            f"one in {LINKED_INTERVAL:.0f} s for each server, one in {QUEUED_INTERVAL:.0f} s where a job waits long",
        ),
        row(
            "commands of starts and ends, a minute",
            starts * commands,
            "",
            f"{commands} for each: {_counted(begun, ended)}",
        ),
        row(
            "remote procedure calls at slurmctld, a second",
            (polls * asks + starts * calls) / 60,
            "",
            f"{asks} for a `squeue`, {calls} for a start and its end; `sdiag` counts them",
            digits=1,
        ),
        row(
            "TCP connections to compute nodes",
            kernels * many["connections per kernel"],
            "",
            _each(many, "connections per kernel"),
        ),
        row(
            "memory of the servers for their kernels",
            kernels * many["memory per kernel"] / 2**30,
            "GiB",
            _memory(many),
            digits=1,
        ),
        row(
            "open files of the servers for their kernels",
            kernels * many["files per kernel"],
            "",
            _each(many, "files per kernel"),
        ),
        row(
            "files in `/home`",
            kernels * folder["files"],
            "",
            f"{folder['files']} for each, {folder['bytes']:,} bytes; gone with the job",
        ),
        row(
            "looks into folders of `/home`, a second",
            looks,
            "",
            f"at most one in {scout.LAST_LOOK:g} s for each kernel that waits or starts; none once it is reached",
        ),
    ]
    return table(["", "all", "a login node", "from"], lines)


def _counted(*counts: dict[str, Any]) -> str:
    found: dict[str, int] = {}
    for each in counts:
        for name, times in each["programs"].items():
            found[name] = found.get(name, 0) + times
    return ", ".join(f"{times} {name}" for name, times in found.items())


def _each(many: dict[str, Any], key: str) -> str:
    return f"{many[key]:.0f} for each kernel"


def _memory(many: dict[str, Any]) -> str:
    return f"{many['memory per kernel'] / 2**20:.2f} MiB for each kernel, beside what a Jupyter server takes itself"
