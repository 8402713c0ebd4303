"""The launcher's pure functions, and what of it can be tried without a process of its own."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import socket
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisors import LAUNCHER

from slurm_provisioner import launcher

MOUNTS = r"""
/dev/sda1 / ext4 rw,relatime 0 0
tmpfs /dev/shm tmpfs rw 0 0
server:/home /home nfs4 rw 0 0
/dev/nvme0 /home/local xfs rw 0 0
10.0.0.1@o2ib:/scratch /scratch lustre rw,flock 0 0
server:/odd /mnt/with\040space nfs rw 0 0
tmpfs /over tmpfs rw 0 0
server:/over /over nfs4 rw 0 0
systemd-1 /tmp autofs rw 0 0
tmpfs /tmp tmpfs rw 0 0
""".lstrip()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "ext4"),
        ("/var/tmp", "ext4"),
        ("/home", "nfs4"),
        ("/home/user", "nfs4"),
        ("/home/local/tmp", "xfs"),
        ("/homestead", "ext4"),
        ("/mnt/with space/x", "nfs"),
        ("/over/x", "nfs4"),  # the last one mounted is the one seen
        ("/tmp/x", "tmpfs"),
        ("/scratch", "lustre"),
    ],
)
def test_the_file_system_of_a_path(path, expected):
    assert launcher.file_system(path, MOUNTS) == expected


@given(st.text(), st.text())
def test_odd_mounts_do_no_harm(path, mounts):
    assert isinstance(launcher.file_system(path, mounts), str)


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "cifs",
        "smb3",
        "9p",
        "afs",
        "fuse.sshfs",
        "fuse.ceph-fuse",
        "fuse.glusterfs",
        "fuse",
        "panfs",
        "wekafs",
    ],
)
def test_network_file_systems_are_refused(kind, tmp_path):
    assert kind in launcher.unsuitable(str(tmp_path), f"x / {kind} rw 0 0\n", "d/k-1")


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuse.fuse-overlayfs", "9pfoo", ""]
)
def test_local_file_systems_are_taken(kind, tmp_path):
    assert launcher.unsuitable(str(tmp_path), f"x / {kind} rw 0 0\n", "d/k-1") == ""


def test_unsuitable_places(tmp_path):
    local = "x / ext4 rw 0 0\n"
    assert launcher.unsuitable("relative", local, "k-1")
    assert launcher.unsuitable(str(tmp_path / "missing"), local, "k-1")
    assert "long" in launcher.unsuitable(str(tmp_path), local, "k" * 107)
    odd = tmp_path / "new\nline"
    odd.mkdir()
    assert launcher.unsuitable(str(odd), local, "k-1")


def test_a_socket_path_fits_up_to_the_limit(tmp_path):
    room = launcher.SOCKET_PATH_BYTES - 1 - len(f"{tmp_path}/")
    assert launcher.unsuitable(str(tmp_path), "", "k" * room) == ""
    assert launcher.unsuitable(str(tmp_path), "", "k" * (room + 1)) != ""
    with socket.socket(socket.AF_UNIX) as longest:
        longest.bind(str(tmp_path / ("k" * room)))


def test_no_usable_place_is_failure_114(monkeypatch):
    monkeypatch.setattr(launcher, "unsuitable", lambda *_: "is on a network file system (nfs4)")
    with pytest.raises(launcher.LauncherError, match=r"'/tmp' is on a network file system \(nfs4\)") as caught:
        launcher.PrivateDir({"TMPDIR": "/x"}, "id")
    assert caught.value.code == 114


def test_the_order_of_places(monkeypatch, tmp_path):
    asked = []

    def refuse(directory, _mounts, _name):
        asked.append(directory)
        return "no"

    monkeypatch.setattr(launcher, "unsuitable", refuse)
    with pytest.raises(launcher.LauncherError):
        launcher.PrivateDir({"TMPDIR": "/t", "SLURM_TMPDIR": "/s"}, "id")
    assert asked == ["/s", "/t", "/tmp", "/var/tmp", "/dev/shm"]


def test_a_place_that_is_too_long_is_passed_over(tmp_path):
    long = tmp_path / ("x" * 80)
    long.mkdir()
    with launcher.PrivateDir({"TMPDIR": str(long)}, "../odd id\n") as private:
        assert os.path.dirname(private.path) == "/tmp"
        assert os.path.dirname(private.connection_file) == private.path
    assert not os.path.exists(private.path)


def test_announced_hosts():
    named = {"c1": ["10.0.0.5"], "login": ["127.0.1.1"], "c1.cluster": ["::1", "10.0.0.5"], "gone": []}
    assert launcher.announced_hosts("10.1.0.5", named, "192.0.2.1") == ["10.1.0.5", "c1", "c1.cluster", "192.0.2.1"]
    assert launcher.announced_hosts("10.1.0.5", {"10.1.0.5": ["10.1.0.5"]}, "10.1.0.5") == ["10.1.0.5"]
    assert launcher.announced_hosts("127.0.0.1", {"c1": ["fe80::1"]}, "") == []


def choose(monkeypatch, tmp_path, addresses, interfaces, **listen):
    """Ask for the address to bind and the hosts to announce, in a network of the given names and interfaces."""
    launcher.import_the_rest()

    async def resolve(name):
        return name, addresses.get(name, [])

    monkeypatch.setattr(launcher, "resolve", resolve)
    monkeypatch.setattr(launcher, "source_address", lambda target: addresses.get(f"to {target}", ""))
    monkeypatch.setattr(launcher, "interface_address", interfaces.get)
    monkeypatch.setattr(socket, "if_nameindex", lambda: list(enumerate(interfaces)))
    monkeypatch.setattr(socket, "gethostname", lambda: "host")
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login")
    monkeypatch.setenv("SLURMD_NODENAME", "c1")
    request = types.SimpleNamespace(**{"address": None, "interface": None, **listen})
    return asyncio.run(launcher.choose_address(request, str(tmp_path)))


def test_a_remote_login_host_gets_the_best_address_first(monkeypatch, tmp_path):
    names = {"login": ["10.0.0.1"], "to 10.0.0.1": "10.0.0.5", "host": ["127.0.1.1"], "c1": ["10.0.0.5"]}
    chosen = choose(monkeypatch, tmp_path, names, {"lo": "127.0.0.1", "eth0": "10.0.0.5"})
    assert chosen == ("0.0.0.0", ["10.0.0.5", "c1"])


def test_a_node_without_names_and_routes_announces_its_interfaces(monkeypatch, tmp_path):
    interfaces = {"lo": "127.0.0.1", "eth0": "10.0.0.5", "down": ""}
    assert choose(monkeypatch, tmp_path, {}, interfaces) == ("0.0.0.0", ["10.0.0.5"])


def test_a_node_without_ipv4_binds_ipv6(monkeypatch, tmp_path):
    chosen = choose(monkeypatch, tmp_path, {"c1": ["fd00::5"]}, {"lo": "127.0.0.1", "eth0": "fd00::5"})
    assert chosen == ("::", ["c1"])


def test_address_and_interface_settings_win(monkeypatch, tmp_path):
    assert choose(monkeypatch, tmp_path, {}, {}, address="10.9.9.9") == ("10.9.9.9", ["10.9.9.9"])
    assert choose(monkeypatch, tmp_path, {}, {"ib0": "10.8.0.1"}, interface="ib0") == ("10.8.0.1", ["10.8.0.1"])
    with pytest.raises(launcher.LauncherError, match="'ib1'") as caught:
        choose(monkeypatch, tmp_path, {}, {"ib0": "10.8.0.1"}, interface="ib1")
    assert caught.value.code == 113


def test_only_the_very_same_host_is_reached_by_loopback(tmp_path):
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read().strip()
    namespace = os.readlink("/proc/self/ns/net")
    assert not launcher.submitted_here(str(tmp_path))
    for text, expected in [
        (f"{boot_id}\n{namespace}\n", True),
        (f"{boot_id}\nnet:[1]\n", False),
        (f"other\n{namespace}\n", False),
        (f"{boot_id}\n", False),
        ("", False),
    ]:
        (tmp_path / "login-host").write_text(text)
        assert launcher.submitted_here(str(tmp_path)) is expected


def test_addresses_of_interfaces():
    table = (
        "fe80000000000000004200fffe000001 04 40 20 80 ib0\n"
        "fd000000000000000000000000000002 04 40 00 80 ib0\n"
        "00000000000000000000000000000001 01 80 10 80 lo\n"
    )
    assert launcher.ipv6_address("ib0", table) == "fd00::2"
    assert launcher.ipv6_address("lo", table) == ""
    launcher.import_the_rest()
    assert launcher.interface_address("lo") == "127.0.0.1"
    assert launcher.interface_address("none-such") == ""
    assert launcher.source_address("127.0.0.1") == "127.0.0.1"
    assert asyncio.run(launcher.resolve("127.0.0.1")) == ("127.0.0.1", ["127.0.0.1"])
    assert asyncio.run(launcher.resolve("a" * 300)) == ("a" * 300, [])


def test_accepted_connections_notice_a_vanished_peer():
    launcher.import_the_rest()
    with (
        launcher.listening_socket("127.0.0.1", None) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 75_000
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_a_port_range_is_kept_to():
    launcher.import_the_rest()
    with launcher.listening_socket("127.0.0.1", None) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(launcher.LauncherError, match=f"no port from {port} to {port} is free") as caught:
            launcher.listening_socket("127.0.0.1", [port, port])
        assert caught.value.code == 113
        with launcher.listening_socket("127.0.0.1", [port - 20, port]) as other:
            assert port - 20 <= other.getsockname()[1] < port
    with pytest.raises(launcher.LauncherError, match="cannot bind") as caught:
        launcher.listening_socket("192.0.2.254", None)
    assert caught.value.code == 113


def executable(path):
    path.write_text("")
    path.chmod(0o755)
    return str(path)


def test_what_a_bare_python_means(tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "three").mkdir()
    for name in ("both/python", "both/python3", "three/python3"):
        executable(tmp_path / name)
    both, three = {"PATH": str(tmp_path / "both")}, {"PATH": str(tmp_path / "three")}
    server = executable(tmp_path / "server-python")
    assert launcher.python_for("python", None, both) == "python"
    assert launcher.python_for("python", None, three) == "python3"
    assert launcher.python_for("python", str(tmp_path / "missing"), three) == "python3"
    assert launcher.python_for("python", None, {"PATH": str(tmp_path)}) == "python"
    for name in ("python", "python3", "python3.11"):
        assert launcher.python_for(name, server, both) == server
    for name in ("/usr/bin/python3", "R", "pythonista", "python3.11-dbg"):
        assert launcher.python_for(name, server, both) == name


def test_the_environment_of_the_kernel():
    job = {"HOME": "/home/u", "SLURM_JOB_ID": "7", "JPY_SESSION_NAME": "old", "JPY_PARENT_PID": "1", "A": "a"}
    wanted = {"A": "b:$A", "B": "${SLURM_JOB_ID}/$NONE/$$", "JPY_OURS": "x", "JPY_PARENT_PID": "2"}
    environment = launcher.kernel_environment(job, wanted, 77)
    assert environment == {
        "HOME": "/home/u",
        "SLURM_JOB_ID": "7",
        "A": "b:a",
        "B": "7/$NONE/$",
        "JPY_OURS": "x",
        "JPY_PARENT_PID": "77",
    }
    assert "JPY_PARENT_PID" not in launcher.kernel_environment(job, wanted, None)


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_document_is_taken_or_refused(document):
    for read in (launcher.Request, launcher.KernelSpec):
        with pytest.raises(launcher.LauncherError):
            read(document)


def test_numbers_are_no_switches():
    assert launcher.field({"a": {"b": True}}, "a.b", bool) is True
    with pytest.raises(launcher.LauncherError, match="'b' is of the wrong type"):
        launcher.field({"b": True}, "b", int)
    with pytest.raises(launcher.LauncherError, match="nothing but str"):
        launcher.field({"b": ["x", 1]}, "b", list, of=str)


def test_a_request_that_never_comes_is_failure_111(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "REQUEST_SECONDS", 0.05)
    signals = types.SimpleNamespace(check=lambda: None)
    with pytest.raises(launcher.LauncherError, match="No such file") as caught:
        launcher.Request.wait_for(str(tmp_path), signals)
    assert caught.value.code == 111
    (tmp_path / "request.json").write_text('{"protocol": 1, "ker')
    with pytest.raises(launcher.LauncherError, match="not complete"):
        launcher.Request.wait_for(str(tmp_path), signals)


def test_a_number_from_another_pid_namespace_is_nobody_to_signal(tmp_path):
    kernel = launcher.Kernel.__new__(launcher.Kernel)
    kernel.private = types.SimpleNamespace(path=str(tmp_path / "private"), pid_file=str(tmp_path / "pid"))
    kernel.pid, kernel.over, kernel.inner = 2**22, False, None
    for text in ("", "x", "-1", "0", str(os.getpid()), str(2**22 + 1)):
        (tmp_path / "pid").write_text(text)
        assert kernel.groups() == [kernel.pid]


class Clock:
    """A loop that has nothing but the time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers = []

    def time(self):
        return self.now

    def call_at(self, *timer):
        self.timers.append(timer)


def test_a_job_that_was_suspended_gets_its_lease_anew():
    supervisor = launcher.Supervisor.__new__(launcher.Supervisor)
    supervisor.loop, supervisor.request = Clock(), types.SimpleNamespace(lease=60.0)
    ends = []
    supervisor.end = lambda *end: ends.append(end)
    supervisor.renew_lease()
    supervisor.check_lease(1000.0)
    assert supervisor.loop.timers == [(1060.0, supervisor.check_lease, 1060.0)]
    supervisor.loop.now = 5000.0  # nothing has run meanwhile
    supervisor.check_lease(1060.0)
    assert supervisor.loop.timers[1:] == [(5060.0, supervisor.check_lease, 5060.0)]
    assert ends == []
    supervisor.loop.now = 5060.0
    supervisor.check_lease(5060.0)
    assert ends == [("lease", 0)]


def test_the_text_is_for_python_3_6():
    tree = ast.parse(LAUNCHER.read_text(), feature_version=(3, 6))
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        if isinstance(node, ast.Name):
            assert node.id != "__file__"


def test_importing_it_changes_nothing():
    assert sys.path[0] != os.path.dirname(os.__file__)
    assert json.loads(json.dumps(launcher.CHANNELS)) == ["shell", "iopub", "stdin", "control", "hb"]
