"""Whom the login host lets in, how ssh's own configuration is followed, and what is said where it does not work."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import LogIn, happens, soon
from login_host import PATIENCE, Laptop, Sshd, eventually, make_key, public

from slurm_provisioner.errors import (
    ChangedHostKeyError,
    HostUnreachableError,
    InteractiveLoginError,
    LoginHostError,
    LoginRefusedError,
    UnknownHostKeyError,
)
from slurm_provisioner.transport.ssh import SshTransport

ME = getpass.getuser()


def works(log_in: LogIn, **host: object) -> None:
    """Log in, and have a command run."""
    done = log_in(lambda transport: transport.run(["echo", "in"], timeout=PATIENCE), **host)
    assert (done.returncode, done.stdout) == (0, "in\n")


def fails(log_in: LogIn, kind: type[LoginHostError], **host: object) -> str:
    """Have a login fail, with an error of just that kind; what it says."""

    async def main(transport: SshTransport) -> str:
        with pytest.raises(kind) as caught:
            await soon(transport.account())
        assert type(caught.value) is kind
        with pytest.raises(kind) as again:
            await transport.run(["echo"], timeout=PATIENCE)
        assert again.value.summary == caught.value.summary
        assert re.search(rf"host {host.get('host', 'hpc')}\b|host jump\b", caught.value.summary)
        text = re.sub(r"\s+", " ", str(caught.value))
        assert re.search(r"`ssh(-add|-copy-id|-keygen)? [^`]+`", text), text
        return text

    return log_in(main, **host)


def keygen(*words: object) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, words)], stdin=subprocess.DEVNULL, check=True)


# ------------------------------------------------------------------------------ one connection


def test_one_login_does_for_everything_at_once(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    async def main(transport):
        (tmp_path / "a").write_text("news")

        async def news() -> tuple[str, bytes]:
            async with contextlib.aclosing(transport.news(str(tmp_path), ["a"])) as told:
                return await soon(anext(told))

        runs = [transport.run(["echo", str(number)], timeout=PATIENCE) for number in range(5)]
        accounts = [transport.account() for _ in range(3)]
        *dones, _, _, _, told = await soon(asyncio.gather(*runs, *accounts, news()))
        assert [done.stdout for done in dones] == [f"{number}\n" for number in range(5)]
        assert told == ("a", b"news")

    log_in(main)
    assert (sshd.logins(), sshd.tries()) == (1, 1)


def test_a_transport_that_is_not_used_connects_nowhere(log_in: LogIn, sshd: Sshd):
    async def main(transport):
        pass

    log_in(main)
    assert sshd.tries() == 0


def test_a_login_that_is_given_up_leaves_nothing(log_in: LogIn, sshd: Sshd):
    async def main(transport):
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
            log_in.laptop.prefer(f"Host silent\n    HostName 127.0.0.1\n    Port {silent.getsockname()[1]}")
            other = SshTransport(log_in.host(host="silent"))
            trying = asyncio.ensure_future(other.account())
            await happens(lambda: select.select([silent], [], [], 0)[0], "a connection")
            trying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trying
            await soon(other.aclose())

    log_in(main)


def test_one_who_waits_for_a_login_may_give_up_without_the_others(log_in: LogIn, sshd: Sshd):
    async def main(transport):
        tasks = [asyncio.ensure_future(transport.run(["echo", str(n)], timeout=PATIENCE)) for n in range(3)]
        await happens(sshd.tries, "a connection")
        tasks[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[0]
        assert [(await task).stdout for task in tasks[1:]] == ["1\n", "2\n"]

    log_in(main)
    assert sshd.logins() == 1


# -------------------------------------------------------------------------------------- errors


def test_an_unknown_host_is_for_a_person_to_accept(log_in: LogIn, laptop: Laptop):
    laptop.known_hosts.write_text("")
    fails(log_in, UnknownHostKeyError)
    assert laptop.known_hosts.read_text() == ""


def test_an_unknown_host_is_not_accepted_though_ssh_would(log_in: LogIn, laptop: Laptop):
    """What a configuration says about keys of new hosts is kept to by neither or by both ways."""
    laptop.known_hosts.write_text("")
    laptop.prefer("Host hpc\n    StrictHostKeyChecking yes")
    fails(log_in, UnknownHostKeyError)


def test_a_missing_file_of_known_hosts_is_as_an_empty_one(log_in: LogIn, laptop: Laptop):
    laptop.known_hosts.unlink()
    fails(log_in, UnknownHostKeyError)


def test_a_changed_host_key_is_not_accepted(log_in: LogIn, laptop: Laptop, sshd: Sshd, tmp_path: Path):
    laptop.known_hosts.write_text("")
    laptop.know(sshd, public(make_key(tmp_path / "other")))
    text = fails(log_in, ChangedHostKeyError)
    assert f"ssh-keygen -R [127.0.0.1]:{sshd.port}" in re.sub(r"['\"\\]", "", text)
    assert sshd.logins() == 0


def test_a_key_that_the_host_does_not_know_is_refused(log_in: LogIn, sshd: Sshd):
    sshd.let_in()
    fails(log_in, LoginRefusedError)


def test_a_missing_key_is_refused(log_in: LogIn, laptop: Laptop):
    laptop.key.unlink()
    fails(log_in, LoginRefusedError)


def test_a_key_with_a_passphrase_is_for_the_agent(log_in: LogIn, laptop: Laptop, sshd: Sshd):
    laptop.key.unlink()
    sshd.let_in(public(make_key(laptop.key, "secret")))
    assert "ssh-add" in fails(log_in, LoginRefusedError)


@pytest.mark.parametrize(
    "methods",
    ["password", "keyboard-interactive", "publickey,password", "publickey,keyboard-interactive"],
)
def test_a_host_that_asks_a_person_is_told_so(log_in: LogIn, sshd: Sshd, methods: str):
    ways = ["PasswordAuthentication yes", "KbdInteractiveAuthentication yes", f"AuthenticationMethods {methods}"]
    sshd.restart(*ways)
    fails(log_in, InteractiveLoginError)


def test_a_refused_key_is_told_though_a_password_would_do(log_in: LogIn, sshd: Sshd):
    sshd.restart("PasswordAuthentication yes")
    sshd.let_in()
    fails(log_in, InteractiveLoginError)


def test_a_host_that_is_not_there_is_unreachable(log_in: LogIn, sshd: Sshd):
    sshd.stop()
    assert "efused" in fails(log_in, HostUnreachableError)


def test_a_name_that_is_no_hosts_is_unreachable(log_in: LogIn):
    fails(log_in, HostUnreachableError, host="no-such-host.invalid")


def test_what_is_no_ssh_server_is_unreachable(log_in: LogIn, laptop: Laptop):
    async def main(transport):
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        laptop.prefer(f"Host closes\n    HostName 127.0.0.1\n    Port {server.sockets[0].getsockname()[1]}")
        other = SshTransport(log_in.host(host="closes"))
        with pytest.raises(HostUnreachableError, match="closes"):
            await soon(other.account())
        await other.aclose()
        server.close()
        await server.wait_closed()

    log_in(main)


def test_a_missing_configuration_says_where_it_was_looked_for(log_in: LogIn, tmp_path: Path):
    async def main(transport):
        with pytest.raises(LoginHostError, match="no-such-config"):
            await soon(transport.account())

    log_in(main, config=f"{tmp_path}/no-such-config")


def test_a_missing_ssh_program_is_named(sshd: Sshd, laptop: Laptop):
    async def main(transport):
        with pytest.raises(LoginHostError, match="ssh-of-another-world"):
            await soon(transport.account())

    LogIn("openssh", sshd, laptop)(main, program="ssh-of-another-world")


def test_a_wrapper_of_ssh_is_used(sshd: Sshd, laptop: Laptop, tmp_path: Path):
    program = tmp_path / "site ssh"
    program.write_text(f'#!/bin/sh\necho called >> {tmp_path}/calls\nexec ssh "$@"\n')
    program.chmod(0o755)
    works(LogIn("openssh", sshd, laptop), program=str(program))
    assert "called" in (tmp_path / "calls").read_text()


# ------------------------------------------------------------------------------------ back-off


def test_after_a_failure_the_host_is_left_alone_until_somebody_asks(log_in: LogIn, sshd: Sshd, laptop: Laptop):
    sshd.let_in()

    async def main(transport):
        with pytest.raises(LoginRefusedError):
            await soon(transport.account())
        tries = sshd.tries()
        for _ in range(5):
            with pytest.raises(LoginRefusedError):
                await transport.run(["echo"], timeout=PATIENCE)
        assert sshd.tries() == tries
        with pytest.raises(LoginRefusedError):
            await soon(transport.account())
        assert sshd.tries() > tries
        sshd.let_in(public(laptop.key))
        assert (await soon(transport.account())).user == ME
        assert (await transport.run(["echo", "in"], timeout=PATIENCE)).stdout == "in\n"

    log_in(main)


def test_a_host_that_comes_back_is_found_without_being_asked_for(log_in: LogIn, sshd: Sshd):
    sshd.stop()

    async def main(transport):
        for _ in range(3):
            with pytest.raises(HostUnreachableError):
                await transport.run(["echo"], timeout=PATIENCE)
        sshd.start()
        end = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                done = await transport.run(["echo", "in"], timeout=PATIENCE)
                break
            except HostUnreachableError:
                assert asyncio.get_running_loop().time() < end
                await asyncio.sleep(0.1)
        assert done.stdout == "in\n"

    log_in(main)


# --------------------------------------------------------------------------- nobody is asked


ASKING = """
import asyncio, sys
from slurm_provisioner.errors import LoginHostError
from slurm_provisioner.login_host import LoginHost
from slurm_provisioner.transport.ssh import SshTransport

async def main():
    transport = SshTransport(LoginHost(host="hpc", config=sys.argv[1], transport=sys.argv[2]))
    try:
        await transport.account()
    except LoginHostError as error:
        return type(error).__name__
    finally:
        await transport.aclose()

open(sys.argv[3], "w").write(str(asyncio.run(main())))
"""


@pytest.mark.parametrize("what", ["unknown host", "passphrase", "password", "keyboard-interactive"])
def test_nobody_is_asked_at_the_terminal(log_in: LogIn, sshd: Sshd, laptop: Laptop, tmp_path: Path, what: str):
    expected = {"unknown host": "UnknownHostKeyError", "passphrase": "LoginRefusedError"}
    if what == "unknown host":
        laptop.known_hosts.write_text("")
    elif what == "passphrase":
        laptop.key.unlink()
        sshd.let_in(public(make_key(laptop.key, "secret")))
    else:
        both = ["PasswordAuthentication yes", "KbdInteractiveAuthentication yes"]
        sshd.restart(*both, f"AuthenticationMethods publickey,{what}")

    argv = [sys.executable, "-c", ASKING, laptop.config, log_in.kind, f"{tmp_path}/error"]
    pid, terminal = pty.fork()
    if pid == 0:
        for name in ("SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY"):
            os.environ.pop(name, None)
        os.execv(sys.executable, argv)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's end, when nobody has it open any more
        while data := os.read(terminal, 1 << 16):
            shown += data
    os.close(terminal)
    os.waitpid(pid, 0)
    assert (shown, (tmp_path / "error").read_text()) == (b"", expected.get(what, "InteractiveLoginError"))


# ------------------------------------------------------------------------- ssh's configuration


def test_user_and_port_of_the_kernelspec_come_first(log_in: LogIn, laptop: Laptop, sshd: Sshd):
    laptop.prefer("Host bare\n    HostName 127.0.0.1\n    User nobody-here\n    Port 1")
    works(log_in, host="bare", user=ME, port=sshd.port)


def test_user_and_port_of_the_configuration_are_used(log_in: LogIn, laptop: Laptop, sshd: Sshd):
    laptop.prefer(f"Host named\n    HostName 127.0.0.1\n    User nobody-here\n    Port {sshd.port}")
    fails(log_in, LoginRefusedError, host="named")
    assert "nobody-here" in sshd.log


def test_a_host_may_be_matched_and_included(log_in: LogIn, laptop: Laptop, sshd: Sshd, tmp_path: Path):
    (tmp_path / "included").write_text(f"Match host included\n    HostName 127.0.0.1\n    Port {sshd.port}\n")
    laptop.prefer(f"Include {tmp_path}/incl*\n")
    works(log_in, host="included")


def test_a_match_may_ask_a_program(log_in: LogIn, laptop: Laptop, sshd: Sshd):
    laptop.prefer(f'Match host asked exec "test -n %n"\n    HostName 127.0.0.1\n    Port {sshd.port}')
    works(log_in, host="asked")


def test_the_first_of_several_keys_that_fits_is_used(log_in: LogIn, laptop: Laptop, tmp_path: Path):
    other = make_key(tmp_path / "other")
    encrypted = make_key(tmp_path / "encrypted", "secret")
    laptop.prefer(f"IdentityFile {tmp_path}/missing\nIdentityFile {encrypted}\nIdentityFile {other}")
    works(log_in)


@pytest.mark.parametrize("kind", [("rsa", 2048), ("ecdsa", 256)], ids=["rsa", "ecdsa"])
def test_keys_of_other_kinds_do(log_in: LogIn, laptop: Laptop, sshd: Sshd, tmp_path: Path, kind: tuple[str, int]):
    keygen("-t", kind[0], "-b", kind[1], "-N", "", "-f", tmp_path / "key")
    sshd.let_in(public(tmp_path / "key"))
    laptop.prefer(f"IdentityFile {tmp_path}/key")
    works(log_in)


def test_a_hashed_file_of_known_hosts_is_read(log_in: LogIn, laptop: Laptop):
    keygen("-H", "-f", laptop.known_hosts)
    assert "127.0.0.1" not in laptop.known_hosts.read_text()
    works(log_in)


def test_a_host_may_be_known_by_an_alias(log_in: LogIn, laptop: Laptop, sshd: Sshd):
    laptop.known_hosts.write_text(f"the-cluster {sshd.host_key}\n")
    laptop.prefer("Host hpc\n    HostKeyAlias the-cluster")
    works(log_in)


@pytest.fixture
def jump(tmp_path: Path, laptop: Laptop) -> Iterator[Sshd]:
    """A host on the way, which knows the same laptop."""
    with Sshd(tmp_path / "jump") as it:
        laptop.add("jump", it)
        yield it


def test_the_way_may_lead_through_another_host(log_in: LogIn, laptop: Laptop, sshd: Sshd, jump: Sshd):
    laptop.prefer("Host hpc\n    ProxyJump jump")
    works(log_in)
    assert (jump.logins(), sshd.logins()) == (1, 1)
    eventually(lambda: not jump.connections(), "the end of the connection to the other host")


def test_the_way_may_lead_through_a_program(log_in: LogIn, laptop: Laptop, sshd: Sshd, jump: Sshd):
    laptop.prefer(f"Host hpc\n    ProxyCommand ssh -F {laptop.config} -W %h:%p jump")
    works(log_in)
    assert (jump.logins(), sshd.logins()) == (1, 1)


def test_a_host_on_the_way_that_is_not_there_is_unreachable(log_in: LogIn, laptop: Laptop, jump: Sshd):
    laptop.prefer("Host hpc\n    ProxyJump jump")
    jump.stop()
    assert "Connection refused" in fails(log_in, HostUnreachableError)


def test_a_host_on_the_way_whose_key_is_not_known_is_not_used(log_in: LogIn, laptop: Laptop, sshd: Sshd, jump: Sshd):
    laptop.prefer("Host hpc\n    ProxyJump jump")
    laptop.known_hosts.write_text("")
    laptop.know(sshd)
    fails(log_in, UnknownHostKeyError)
    assert jump.logins() == 0


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent without keys, which this process's environment has."""
    with tempfile.TemporaryDirectory(prefix="agent-", dir="/tmp") as folder:
        sock = f"{folder}/sock"
        process = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        monkeypatch.setenv("SSH_AUTH_SOCK", sock)
        yield
        process.terminate()
        process.communicate()


def test_an_agents_key_lets_us_in(log_in: LogIn, laptop: Laptop, agent: None):
    subprocess.run(["ssh-add", "-q", laptop.key], check=True)
    keygen("-p", "-P", "", "-N", "secret", "-f", laptop.key)
    works(log_in)


def test_an_agent_that_the_configuration_names_is_used(
    log_in: LogIn, laptop: Laptop, agent: None, monkeypatch: pytest.MonkeyPatch
):
    subprocess.run(["ssh-add", "-q", laptop.key], check=True)
    keygen("-p", "-P", "", "-N", "secret", "-f", laptop.key)
    laptop.prefer(f"IdentityAgent {os.environ['SSH_AUTH_SOCK']}")
    monkeypatch.delenv("SSH_AUTH_SOCK")
    works(log_in)


def test_an_agent_without_the_key_does_not_let_us_in(log_in: LogIn, laptop: Laptop, sshd: Sshd, agent: None):
    laptop.key.unlink()
    sshd.let_in(public(make_key(laptop.key, "secret")))
    assert "ssh-add" in fails(log_in, LoginRefusedError)


def test_an_agent_that_is_gone_is_as_none(log_in: LogIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SSH_AUTH_SOCK", f"{tmp_path}/gone")
    works(log_in)


def test_a_certificate_lets_us_in(log_in: LogIn, laptop: Laptop, sshd: Sshd, tmp_path: Path):
    authority = make_key(tmp_path / "authority")
    sshd.restart(f"TrustedUserCAKeys {authority}.pub")
    sshd.let_in()
    fails(log_in, LoginRefusedError)
    keygen("-s", authority, "-I", "me", "-n", ME, f"{laptop.key}.pub")  # next to the key, where ssh looks for it
    works(log_in)


def test_a_certificate_elsewhere_lets_us_in(log_in: LogIn, laptop: Laptop, sshd: Sshd, tmp_path: Path):
    authority = make_key(tmp_path / "authority")
    sshd.restart(f"TrustedUserCAKeys {authority}.pub")
    sshd.let_in()
    keygen("-s", authority, "-I", "me", "-n", ME, f"{laptop.key}.pub")
    shutil.move(f"{laptop.key}-cert.pub", tmp_path / "certificate.pub")
    laptop.prefer(f"CertificateFile {tmp_path}/certificate.pub")
    works(log_in)


def test_a_certificate_that_is_over_does_not_let_us_in(log_in: LogIn, laptop: Laptop, sshd: Sshd, tmp_path: Path):
    authority = make_key(tmp_path / "authority")
    sshd.restart(f"TrustedUserCAKeys {authority}.pub")
    sshd.let_in()
    keygen("-s", authority, "-I", "me", "-n", ME, "-V", "-2d:-1d", f"{laptop.key}.pub")
    fails(log_in, LoginRefusedError)


@pytest.mark.parametrize("right", [True, False])
def test_a_host_is_known_by_its_certificate(log_in: LogIn, laptop: Laptop, sshd: Sshd, tmp_path: Path, right: bool):
    authorities = [make_key(tmp_path / name) for name in ("right", "wrong")]
    keygen("-s", authorities[not right], "-I", "hpc", "-h", "-n", "127.0.0.1", f"{sshd.key}.pub")
    laptop.known_hosts.write_text(f"@cert-authority [127.0.0.1]:{sshd.port} {public(authorities[0])}\n")
    sshd.restart(f"HostCertificate {sshd.key}-cert.pub")
    if right:
        works(log_in)
    else:
        fails(log_in, UnknownHostKeyError)


def test_a_revoked_host_key_is_not_accepted(log_in: LogIn, laptop: Laptop, sshd: Sshd):
    with laptop.known_hosts.open("a") as file:
        file.write(f"@revoked * {sshd.host_key}\n")

    async def main(transport):
        with pytest.raises(LoginHostError, match="hpc"):
            await soon(transport.account())

    log_in(main)
    assert sshd.logins() == 0
