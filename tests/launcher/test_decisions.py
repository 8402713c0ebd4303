"""The launcher's pure functions, and what of it can be tried without a process of its own."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import shutil
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


def test_the_keys_of_the_nodes_ssh_server(tmp_path):
    for name, text in {
        "ssh_host_rsa_key.pub": "ssh-rsa AAAAB3 root@n1\n",
        "ssh_host_ed25519_key.pub": "ssh-ed25519 AAAAC3\n",
        "ssh_host_ed25519_key": "PRIVATE",
        "ssh_host_odd_key.pub": "\n",
        "other.pub": "ssh-rsa AAAA",
    }.items():
        (tmp_path / name).write_text(text)
    assert launcher.ssh_host_keys(str(tmp_path)) == ["ssh-ed25519 AAAAC3", "ssh-rsa AAAAB3"]
    assert launcher.ssh_host_keys(str(tmp_path / "missing")) == []


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


def test_sockets_in_tmp_have_names_that_kernels_made_with_xeus_can_hold():
    with launcher.PrivateDir({"TMPDIR": "/tmp"}, "id") as private:
        ip, ports = launcher.kernel_ports("ipc", private)
        assert all(len(f"ipc://{ip}-{port}") < 32 for port in ports.values())


def test_announced_hosts():
    named = {"c1": ["10.0.0.5"], "login": ["127.0.1.1"], "c1.cluster": ["::1", "10.0.0.5"], "gone": []}
    assert launcher.announced_hosts("10.1.0.5", named, "192.0.2.1") == ["10.1.0.5", "c1", "c1.cluster", "192.0.2.1"]
    assert launcher.announced_hosts("10.1.0.5", {"10.1.0.5": ["10.1.0.5"]}, "10.1.0.5") == ["10.1.0.5"]
    assert launcher.announced_hosts("127.0.0.1", {"c1": ["fe80::1"]}, "") == []


def choose(monkeypatch, addresses, interfaces, **listen):
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
    request = types.SimpleNamespace(**{"address": None, "interface": None, "submitted_on": "", **listen})
    return asyncio.run(launcher.choose_address(request))


def test_a_remote_login_host_gets_the_best_address_first(monkeypatch):
    names = {"login": ["10.0.0.1"], "to 10.0.0.1": "10.0.0.5", "host": ["127.0.1.1"], "c1": ["10.0.0.5"]}
    chosen = choose(monkeypatch, names, {"lo": "127.0.0.1", "eth0": "10.0.0.5"})
    assert chosen == ("0.0.0.0", ["10.0.0.5", "c1"])


def test_a_node_without_names_and_routes_announces_its_interfaces(monkeypatch):
    interfaces = {"lo": "127.0.0.1", "eth0": "10.0.0.5", "down": ""}
    assert choose(monkeypatch, {}, interfaces) == ("0.0.0.0", ["10.0.0.5"])


def test_a_node_without_ipv4_binds_ipv6(monkeypatch):
    chosen = choose(monkeypatch, {"c1": ["fd00::5"]}, {"lo": "127.0.0.1", "eth0": "fd00::5"})
    assert chosen == ("::", ["c1"])


def test_address_and_interface_settings_win(monkeypatch):
    assert choose(monkeypatch, {}, {}, address="10.9.9.9") == ("10.9.9.9", ["10.9.9.9"])
    assert choose(monkeypatch, {}, {"ib0": "10.8.0.1"}, interface="ib0") == ("10.8.0.1", ["10.8.0.1"])
    with pytest.raises(launcher.LauncherError, match="'ib1'") as caught:
        choose(monkeypatch, {}, {"ib0": "10.8.0.1"}, interface="ib1")
    assert caught.value.code == 113


def test_only_the_very_same_host_is_reached_by_loopback():
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read().strip()
    namespace = os.readlink("/proc/self/ns/net")
    for text, expected in [
        (f"{boot_id} {namespace}", True),
        (f"{boot_id} net:[1]", False),
        (f"other {namespace}", False),
        (boot_id, False),
        ("", False),
    ]:
        assert launcher.submitted_here(text) is expected


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

    def call_later(self, delay, *timer):
        self.call_at(self.now + delay, *timer)


def test_patience_does_not_run_out_while_the_job_is_suspended():
    clock, ends = Clock(), []
    patience = launcher.Patience(clock, 60.0, lambda: ends.append(clock.now))
    patience.begin()
    assert clock.timers == [(1060.0, patience.check, 1060.0)]
    clock.now = 1050.0
    patience.renew()
    clock.now = 1060.0
    patience.check(1060.0)
    assert clock.timers[1:] == [(1110.0, patience.check, 1110.0)]
    assert not patience.suspended
    clock.now = 5000.0  # nothing has run meanwhile
    patience.check(1110.0)
    assert clock.timers[2:] == [(5060.0, patience.check, 5060.0)]
    assert patience.suspended
    assert ends == []
    clock.now = 5060.0
    patience.check(5060.0)
    assert ends == [5060.0]
    assert len(clock.timers) == 3
    patience.begin()
    assert clock.timers[3:] == [(5120.0, patience.check, 5120.0)]


@pytest.mark.parametrize(("suspended", "ended"), [(False, [("forgotten", 0)]), (True, [])])
def test_a_suspension_moves_the_end_of_the_job_to_we_do_not_know_when(monkeypatch, suspended, ended):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1000000000")
    launcher.import_the_rest()
    supervisor = launcher.Supervisor.__new__(launcher.Supervisor)
    supervisor.alone = launcher.Patience(Clock(), 60.0, lambda: None)
    supervisor.alone.suspended = suspended
    supervisor.channels, supervisor.request = set(), types.SimpleNamespace(squeue=None)
    supervisor.ending = types.SimpleNamespace(done=lambda: False)
    ends = []
    supervisor.end = lambda *end: ends.append(end)
    asyncio.run(supervisor.look_for_slurm())
    assert ends == ended
    assert supervisor.alone.loop.timers  # it goes on


def test_the_server_is_away_from_the_end_of_its_connection_on(monkeypatch):
    monkeypatch.setattr(launcher, "send", lambda *_: None)
    supervisor = launcher.Supervisor.__new__(launcher.Supervisor)
    supervisor.alone, supervisor.channels = launcher.Patience(Clock(), 60.0, lambda: None), set()
    supervisor.lease = launcher.Patience(Clock(), 600.0, lambda: None)
    supervisor.status = dict

    async def talk():
        reader = asyncio.StreamReader()
        reader.feed_eof()
        supervisor.alone.loop.now += 50.0
        await supervisor.converse(reader, object())

    asyncio.run(talk())
    assert supervisor.alone.until == 1110.0
    assert supervisor.channels == set()


GIVEN_UP = """
PENDING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT REVOKED BOOT_FAIL CANCELLED COMPLETED DEADLINE
FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED RECONFIG_FAIL TIMEOUT
"""
LIVING = "RUNNING COMPLETING SUSPENDED STOPPED SIGNALING RESIZING STAGE_OUT CONFIGURING UPDATE_DB"
NONSENSE = ["", "\n", "FAILED FAILED", "NODE_FAIL\nRUNNING", "failed", "NODE_FAIL+", "UNFAILED", "POWER_UP_NODE"]


def test_what_squeue_answers():
    for state in GIVEN_UP.split():
        assert launcher.given_up(0, f"  {state}\n", "some warning") is True
        assert launcher.given_up(1, f"{state}\n", "") is None
    for state in LIVING.split():
        assert launcher.given_up(0, f"{state}\n", "") is False
    for answer in NONSENSE:
        assert launcher.given_up(0, answer, "") is None
    assert launcher.given_up(0, "", "slurm_load_jobs error: Invalid job id specified") is None
    assert launcher.given_up(1, "", "slurm_load_jobs error: Invalid job id specified\n") is True
    assert launcher.given_up(1, "", "slurm_load_jobs error: Socket timed out on send/recv operation\n") is None


VERSION_1 = """\
11:devices:/slurm/uid_1000/job_77/step_batch
10:cpuacct,cpu:/slurm/uid_1000/job_77/step_batch
7:hugetlb,memory:/slurm/uid_1000/job_77/step_batch/task_0
1:name=systemd:/system.slice/slurmd.service
0::/system.slice/slurmd.service
"""
MOUNTS_1 = """\
25 30 0:22 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
26 25 0:23 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,name=systemd
27 25 0:24 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw
31 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpuacct,cpu
35 25 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,hugetlb,memory
"""
VERSION_2 = "0::/system.slice/slurmstepd.scope/job_77/step_batch/user/task_0\n"
MOUNTS_2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n"
BOUND_1 = MOUNTS_1.replace("0:32 / ", "0:32 /docker/f00 ")
HERE = "9:name=systemd:/\n4:memory:/process_api/3135\n3:cpuset:/\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "expected"),
    [
        (VERSION_1, MOUNTS_1, "/sys/fs/cgroup/memory/slurm/uid_1000/job_77"),
        (VERSION_1.replace("/slurm/", "/slurm_c1/"), MOUNTS_1, "/sys/fs/cgroup/memory/slurm_c1/uid_1000/job_77"),
        (VERSION_1.replace(":/slurm", ":/docker/f00/slurm"), BOUND_1, "/sys/fs/cgroup/memory/slurm/uid_1000/job_77"),
        (VERSION_1, BOUND_1, ""),  # not to be seen from here
        ("4:memory:/docker/f00\n", BOUND_1, "/sys/fs/cgroup/memory"),
        ("4:memory:/\n", MOUNTS_1, "/sys/fs/cgroup/memory"),
        ("4:memory:/system.slice/slurmd.service\n0::/\n", MOUNTS_1, ""),  # shared with other jobs
        (VERSION_1, MOUNTS_2, ""),
        (VERSION_2, MOUNTS_2, "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_77"),
        (VERSION_2, MOUNTS_1, "/sys/fs/cgroup/unified/system.slice/slurmstepd.scope/job_77"),
        ("0::/\n", MOUNTS_2, "/sys/fs/cgroup"),
        ("0::/\n", MOUNTS_2.replace("0:26 / ", "0:26 /.. "), ""),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", MOUNTS_2, ""),
        (HERE, MOUNTS_1, ""),
        ("", "", ""),
    ],
)
def test_the_control_group_of_the_jobs_memory(groups, mounts, expected):
    assert launcher.memory_group(groups, mounts) == expected


@given(
    st.text() | st.from_regex(r"(\d+:(memory)?:/(job_\d+/?)*\n){1,3}"),
    st.text() | st.from_regex(r"(1 1 0:1 /\w* /\w* rw - cgroup2? x (rw|memory)\n){1,3}"),
)
def test_odd_control_groups_do_no_harm(groups, mounts):
    assert isinstance(launcher.memory_group(groups, mounts), str)


def fill(folder, name, kills):
    """A control group, as the system shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {
        "memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n",
        "memory.events": f"low 0\nhigh 0\nmax 12\noom 3\noom_kill {kills}\noom_group_kill 9\n",
    }[name]
    (folder / name).write_text(text)


@pytest.fixture
def group(monkeypatch, tmp_path):
    job = tmp_path / "job_77"
    monkeypatch.setattr(launcher, "memory_group", lambda *_: str(job))
    return job


@pytest.mark.parametrize("name", ["memory.oom_control", "memory.events"])
def test_out_of_memory_is_what_the_system_has_counted_since_the_kernel_began(group, name):
    fill(group, name, 1)
    fill(group / "step_0", name, 1)
    (group / "step_1").mkdir()
    kernel = launcher.Kernel.__new__(launcher.Kernel)
    kernel.process = types.SimpleNamespace(returncode=-9)
    kernel.oom_kills = launcher.oom_kills()
    assert kernel.oom_kills == {str(group): 1, str(group / "step_0"): 1}
    assert kernel.outcome() == {"code": None, "signal": 9, "oom": False}
    fill(group / "step_0", name, 2)
    assert kernel.outcome() == {"code": None, "signal": 9, "oom": True}
    fill(group / "step_0", name, 1)
    fill(group / "step_2" / "task_0", name, 1)
    kernel.process.returncode = 137
    assert kernel.outcome() == {"code": 137, "signal": None, "oom": True}
    shutil.rmtree(group / "step_2")
    assert kernel.outcome() == {"code": 137, "signal": None, "oom": False}


def test_counts_that_cannot_be_read_are_none(group, monkeypatch):
    assert launcher.oom_kills() == {}
    group.mkdir()
    (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\n")  # Linux 3.10 counts none
    assert launcher.oom_kills() == {str(group): 0}
    (group / "memory.oom_control").unlink()
    (group / "memory.oom_control").mkdir()
    assert launcher.oom_kills() == {}

    def refuse(_path):
        raise PermissionError

    monkeypatch.setattr(launcher, "read_text", refuse)
    assert launcher.oom_kills() == {}


def test_other_jobs_beside_ours_are_not_counted(monkeypatch, tmp_path):
    fill(tmp_path, "memory.events", 1)
    fill(tmp_path / "job_78", "memory.events", 2)
    monkeypatch.setattr(launcher, "memory_group", lambda *_: str(tmp_path))
    assert launcher.oom_kills() == {str(tmp_path): 1}


def test_an_endpoint_that_was_seen_is_not_tried_again(monkeypatch):
    bound, tried = {"a"}, []

    def accepts(endpoint):
        tried.append(endpoint)
        return endpoint in bound

    monkeypatch.setattr(launcher, "accepts", accepts)
    supervisor = launcher.Supervisor.__new__(launcher.Supervisor)
    supervisor.loop, supervisor.channels = Clock(), set()
    supervisor.kernel = types.SimpleNamespace(
        poll=lambda: False, groups=list, unbound=["a", "b"], ready=False, pid=1, generation=1
    )
    for _ in range(3):
        supervisor.look_for_sockets(supervisor.kernel, 1020.0)
    assert tried == ["a", "b", "b", "b"]
    bound.add("b")
    supervisor.look_for_sockets(supervisor.kernel, 1020.0)
    assert supervisor.kernel.ready
    assert len(supervisor.loop.timers) == 3


def test_the_text_is_for_python_3_6():
    tree = ast.parse(LAUNCHER.read_text(), feature_version=(3, 6))
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        if isinstance(node, ast.Name):
            assert node.id != "__file__"


def test_importing_it_changes_nothing():
    assert sys.path[0] != os.path.dirname(os.__file__)
    assert json.loads(json.dumps(launcher.CHANNELS)) == ["shell", "iopub", "stdin", "control", "hb"]
