"""What stands in the way of a login, in words for the user: what happened, the evidence, and the command that helps."""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import (
    ChangedHostKeyError,
    ConnectionLostError,
    HostUnreachableError,
    InteractiveLoginError,
    LoginHostError,
    LoginRefusedError,
    UnknownHostKeyError,
)
from ..login_host import LoginHost, NodeHost

__all__ = [
    "CONTROL_PATH",
    "changed_key",
    "from_stderr",
    "locked_keys",
    "lost",
    "mute",
    "refused",
    "unknown_key",
    "unreachable",
]

#: Where a connection of the user's own is looked for, where neither the kernelspec nor ~/.ssh/config say so.
CONTROL_PATH = "~/.ssh/slurm-provisioner-%C"

_INTERACTIVE = ("keyboard-interactive", "password")


def unreachable(login: LoginHost, why: str) -> HostUnreachableError:
    """Return the error of a host that does not answer."""
    return HostUnreachableError(
        f"The {login.role} {login.host} cannot be reached: {why}.",
        host=login.host,
        hint=f"Is this machine online, in the network or VPN that the cluster wants? "
        f"`{login.command_line('true')}` in a terminal tries it.",
    )


def unknown_key(login: LoginHost, key: str) -> UnknownHostKeyError:
    """Return the error of a host that nobody knows yet; `key` is what it shows, such as its fingerprint, or ""."""
    return UnknownHostKeyError(
        f"The {login.role} {login.host} is not known yet: its host key is in no known_hosts file.",
        host=login.host,
        said=key,
        hint=f"`{login.command_line('true')}` in a terminal shows the key's fingerprint; compare it with the one that "
        "your computing centre publishes before you answer yes.",
    )


def changed_key(login: LoginHost, key: str, name: str = "", file: str = "") -> ChangedHostKeyError:
    """Return the error of a host whose key is not the known one.

    Parameters
    ----------
    login : LoginHost
        The host.
    key : str
        What it shows, such as its fingerprint, or "".
    name, file : str, optional
        What it is called where the other key is, and where that is.
    """
    if isinstance(login, NodeHost):
        return ChangedHostKeyError(
            f"The {login.role} {login.host} shows another host key than those that your job has read there.",
            host=login.host,
            said=key,
            hint="Is it another host that has this name for SSH? Tell the cluster's support.",
        )
    forget = shlex.join(["ssh-keygen", "-R", name or _known_as(login), *(["-f", file] if file else [])])
    return ChangedHostKeyError(
        f"The {login.role} {login.host} shows another host key than the known one: somebody may be in between.",
        host=login.host,
        said=key,
        hint=f"Ask your computing centre whether the key was changed. If it was, `{forget}` forgets the old one, and "
        f"`{login.command_line('true')}` in a terminal takes the new one.",
    )


def refused(login: LoginHost, methods: Sequence[str], said: str, locked: Sequence[str] = ()) -> LoginRefusedError:
    """Return the error of a login that was refused.

    Parameters
    ----------
    login : LoginHost
        The host.
    methods : sequence of str
        Which methods of SSH it would have taken.
    said : str
        What it said.
    locked : sequence of str
        Files of keys that could not be used for want of their passphrase.
    """
    hints = []
    if locked:
        hints.append(f"`ssh-add {locked[0]}` in a terminal unlocks your key for the ssh-agent (SSH_AUTH_SOCK).")
    else:
        hints.append(f"`{login.command_line(program='ssh-copy-id')}` makes your key known there.")
    if not any(method in _INTERACTIVE for method in methods):
        return LoginRefusedError(f"{_refusal(login)}.", host=login.host, said=said, hint=" ".join(hints))
    if login.transport == "openssh":
        hints.append(
            f"Where it has to be a password or a one-time password: `{_master(login)}` in a terminal, once, "
            "opens a connection that kernels use, too."
        )
    else:
        hints.append(
            'Where it has to be a password or a one-time password: set "transport": "openssh" in `ssh`, and open a '
            f"connection for kernels with `{_master(login)}` in a terminal."
        )
    return InteractiveLoginError(
        f"{_refusal(login)}; it would take {' or '.join(m for m in methods if m in _INTERACTIVE)}, which only you "
        "can give.",
        host=login.host,
        said=said,
        hint=" ".join(hints),
    )


def lost(login: LoginHost, why: str = "") -> ConnectionLostError:
    """Return the error of a connection that broke."""
    return ConnectionLostError(
        f"The connection to the {login.role} {login.host} broke" + (f": {why}." if why else "."),
        host=login.host,
        hint="It is made again when it is needed. Try again.",
    )


def mute(login: LoginHost, said: str) -> LoginHostError:
    """Return the error of a host that lets us in and does not do what we say."""
    return LoginHostError(
        f"The {login.role} {login.host} runs no commands.",
        host=login.host,
        said=said,
        hint=f"`{login.command_line('echo', 'hello')}` in a terminal should print hello, and nothing else. Is it a "
        "host for file transfer only, or does a startup file of your shell there ask something?",
    )


def from_stderr(login: LoginHost, stderr: str, locked: Sequence[str] = ()) -> LoginHostError:
    """Return the error that the ssh program's words stand for."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    fingerprint = next((f"its key: {match[0]}" for match in re.finditer(r"SHA256:\S+[^.\s]", stderr)), "")
    if "IDENTIFICATION HAS CHANGED" in stderr:
        name = re.search(r"^Host key for (\S+) has changed", stderr, re.MULTILINE)
        file = re.search(r"^Offending \S+ key in (.+):\d+\s*$", stderr, re.MULTILINE)
        return changed_key(login, fingerprint, name[1] if name else "", file[1] if file else "")
    if re.search("host key is known for|Host key verification failed", stderr):
        return unknown_key(login, fingerprint)
    if denied := re.search(r"Permission denied \(([\w,@.-]*)\)", stderr):
        return refused(login, denied[1].split(","), denied[0], locked)
    if "Too many authentication failures" in stderr:
        return refused(login, (), "Too many authentication failures: the agent has many keys, set IdentitiesOnly yes")
    causes = [line for line in lines if not re.search("UNKNOWN port|^kex_exchange_identification:", line)] or lines
    why = re.sub(r"^ssh: ", "", causes[-1]).rstrip(".") if causes else "ssh gave no reason"
    return unreachable(login, why)


def _refusal(login: LoginHost) -> str:
    return f"The {login.role} {login.host} did not let you in" + (f" as {login.user}" if login.user else "")


def _master(login: LoginHost) -> str:
    # without signs of life, one whose network is gone looks open for many minutes
    options = ["-fNM", "-o", "ServerAliveInterval=15", "-S", login.control_path or CONTROL_PATH]
    return login.command_line(options=options)


def _known_as(login: LoginHost) -> str:
    return f"[{login.host}]:{login.port}" if login.port else login.host


def locked_keys(files: Sequence[str | Path]) -> list[str]:
    """Return which of some files hold a private key that takes a passphrase."""
    locked = []
    for path in map(Path, files):
        try:
            head = path.expanduser().read_text(errors="replace")
        except OSError:
            continue
        if "ENCRYPTED" in head or _is_sealed(head):
            locked.append(str(path))
    return locked


def _is_sealed(text: str) -> bool:
    """Whether a key in OpenSSH's own format has a cipher (PROTOCOL.key of OpenSSH)."""
    match = re.search(r"-----BEGIN OPENSSH PRIVATE KEY-----\s*([A-Za-z0-9+/=\s]{64})", text)
    if match is None:
        return False
    try:
        head = base64.b64decode("".join(match[1].split())[:60])
    except binascii.Error:
        return False
    return head.startswith(b"openssh-key-v1\0") and not head[15:].startswith(b"\0\0\0\4none")
