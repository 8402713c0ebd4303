"""What the supervisor is asked to do: the content of ``request.json`` and of its restart command. Pure.

The request travels in a private file of the run directory, so it is where secrets may be: keys and environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import batch
from .about import Server
from .config import KernelConfig
from .credentials import Identity

__all__ = ["KernelCommand", "Launch", "kernel_request", "launch_request"]

PROTOCOL = 1


@dataclass(frozen=True)
class KernelCommand:
    """What to run, in terms of the cluster.

    Attributes
    ----------
    argv : list of str
        The kernelspec's command; ``{connection_file}`` is filled in on the node.
    env : dict
        Variables set for the kernel on top of the job's environment.
    cwd : str or None
        The working directory, if it exists there; the home directory otherwise.
    python : str or None
        The interpreter that a bare ``python`` in argv means, if it exists there.
    session : dict
        Key, signature scheme, kernel name and session of the connection file.
    display_name : str
        What people pick its kernelspec by.
    """

    argv: list[str]
    env: dict[str, str] = field(repr=False)
    cwd: str | None
    python: str | None
    session: dict[str, str] = field(repr=False)
    display_name: str = ""


def kernel_request(config: KernelConfig, command: KernelCommand, *, home: str) -> dict[str, Any]:
    """Return the part of a request that says which kernel to run; a restart sends it again.

    Parameters
    ----------
    config : KernelConfig
        How to run it.
    command : KernelCommand
        What to run.
    home : str
        The user's home directory on the cluster.
    """
    wrapper, direct_child = batch.kernel_wrapper(config, home=home)
    return {
        "kernel": {
            "argv": command.argv,
            "python": command.python,
            "env": command.env,
            "cwd": command.cwd and batch.expand_home(command.cwd, home),
            "transport": config.kernel_transport,
            "wrapper": wrapper,
            "direct_child": direct_child,
        },
        "session": command.session,
    }


@dataclass(frozen=True)
class Launch:
    """What is made anew for each job.

    Attributes
    ----------
    kernel_id : str
        Jupyter's id of the kernel.
    nonce : str
        Tells this launch from any other with the same run directory.
    supervisor : Identity
        The supervisor's certificate and key.
    server_certificate : str
        The one certificate that the supervisor accepts, PEM.
    stop_timeout : float
        Seconds between SIGTERM and SIGKILL when the supervisor ends the kernel.
    squeue : list of str
        The command that prints the job's state, for a supervisor that hears of nobody any more.
    server : Server
        Who submits it.
    submitted_on : str
        The machine that does, see `Account`: a job on the very same one is reached by loopback.
    submitted : float
        When, in seconds since the epoch.
    """

    kernel_id: str
    nonce: str
    supervisor: Identity
    server_certificate: str
    stop_timeout: float
    squeue: list[str]
    server: Server = field(default_factory=Server)
    submitted_on: str = ""
    submitted: float = 0.0


def launch_request(config: KernelConfig, command: KernelCommand, launch: Launch, *, home: str) -> dict[str, Any]:
    """Return the request of a new job.

    Parameters
    ----------
    config, command, home
        As for `kernel_request`.
    launch : Launch
        What belongs to this job alone.
    """
    return {
        "protocol": PROTOCOL,
        "nonce": launch.nonce,
        "kernel_id": launch.kernel_id,
        **kernel_request(config, command, home=home),
        "tls": {
            "certificate": launch.supervisor.certificate,
            "private_key": launch.supervisor.private_key,
            "peer_certificate": launch.server_certificate,
        },
        "listen": {"address": config.address, "interface": config.interface, "port_range": config.port_range},
        "submitted_on": launch.submitted_on,
        "lease": None if config.persistent else config.lease,
        "crash_grace": config.crash_grace,
        "warn_before_end": batch.warning_seconds(config),
        "stop_timeout": launch.stop_timeout,
        "squeue": launch.squeue,
    }
