"""What a user reads who cannot log in."""

from __future__ import annotations

import subprocess

import pytest

from slurm_provisioner.errors import (
    ChangedHostKeyError,
    HostUnreachableError,
    InteractiveLoginError,
    LoginHostError,
    LoginRefusedError,
    UnknownHostKeyError,
)
from slurm_provisioner.login_host import JumpHost, LoginHost, NodeHost
from slurm_provisioner.transport import login as words

HPC = LoginHost(host="hpc", user="ann", port=2222, config="~/my ssh/config")
OPENSSH = LoginHost(host="hpc", transport="openssh")
CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
The fingerprint for the ED25519 key sent by the remote host is
SHA256:Z/RWXG3ZRirYNmPkHWWxGVEvOQiaz37baIo6zUGeFLc.
Host key verification failed.
"""
UNKNOWN = """\
No ED25519 host key is known for [127.0.0.1]:2299 and you have requested strict checking.
Host key verification failed.
"""


@pytest.mark.parametrize(
    ("stderr", "error", "parts"),
    [
        (CHANGED, ChangedHostKeyError, ["SHA256:Z/RWXG3ZRirYNmPkHWWxGVEvOQiaz37baIo6zUGeFLc", "ssh-keygen -R hpc"]),
        (UNKNOWN, UnknownHostKeyError, ["`ssh hpc true`"]),
        ("ann@hpc: Permission denied (publickey).\n", LoginRefusedError, ["ssh-copy-id hpc"]),
        ("Permission denied (publickey,keyboard-interactive).", InteractiveLoginError, ["ssh -fNM "]),
        ("Received disconnect: Too many authentication failures", LoginRefusedError, ["IdentitiesOnly"]),
        ("ssh: Could not resolve hostname hpc: Name or service not known", HostUnreachableError, ["not known"]),
        ("ssh: connect to host hpc port 22: Connection refused", HostUnreachableError, ["Connection refused", "VPN"]),
        ("", HostUnreachableError, ["no reason"]),
    ],
)
def test_the_words_of_ssh(stderr, error, parts):
    found = words.from_stderr(OPENSSH, stderr)
    assert type(found) is error
    text = " ".join(str(found).split())
    for part in ["hpc", *parts]:
        assert part in text


def test_commands_that_help_are_for_this_host():
    text = " ".join(str(words.unreachable(HPC, "timed out")).split())
    assert "`ssh -F '~/my ssh/config' -p 2222 ann@hpc true`" in text
    assert "'[hpc]:2222'" in str(words.changed_key(HPC, ""))


def test_one_time_passwords_are_for_the_ssh_program():
    with_library = " ".join(str(words.refused(HPC, ["keyboard-interactive"], "no")).split())
    assert '"transport": "openssh"' in with_library
    with_program = " ".join(str(words.refused(OPENSSH, ["password"], "no")).split())
    assert '"transport"' not in with_program
    assert "ssh -fNM -o ServerAliveInterval=15 -S '~/.ssh/slurm-provisioner-%C' hpc" in with_program
    own = OPENSSH.model_copy(update={"control_path": "~/.ssh/mine"})
    assert "-S '~/.ssh/mine'" in " ".join(str(words.refused(own, ["password"], "no")).split())


def test_hosts_on_the_way_are_called_by_what_they_are():
    node = NodeHost.behind(HPC, "c1")
    assert "The node c1 cannot be reached" in str(words.unreachable(node, "no"))
    assert "-J ann@hpc:2222" in str(words.unknown_key(node, ""))
    assert "ssh-keygen" not in str(words.changed_key(node, "")), "its keys are in no file"
    assert "The jump host gate" in str(words.unreachable(JumpHost(host="gate"), "no"))


def test_what_is_lost_or_mute():
    assert "made again" in str(words.lost(HPC))
    assert "broke: reset." in str(words.lost(HPC, "reset"))
    assert "for transfers only" in str(words.mute(HPC, "for transfers only"))
    assert issubclass(LoginHostError, ConnectionError)


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "rsa -m PEM", "ecdsa"])
def test_keys_that_take_a_passphrase_are_known(tmp_path, kind):
    for name, passphrase in (("open", ""), ("locked", "secret")):
        argv = ["ssh-keygen", "-q", "-t", *kind.split(), "-N", passphrase, "-f", str(tmp_path / name)]
        subprocess.run(argv, check=True)
    files = [tmp_path / name for name in ("open", "open.pub", "locked", "missing")]
    assert words.locked_keys(files) == [str(tmp_path / "locked")]
