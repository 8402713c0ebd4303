"""Streams that stay, connections that come back, and a supervisor that is spoken to over TLS alone.

The supervisor here is a stand-in: one TLS port, mutual certificates, ALPN names the channel. The real one is tested in
tests/launcher, and both together on a real cluster in tests/behaviour.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import stat
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from slurm_provisioner import link as link_module
from slurm_provisioner.carrier import GREETING, HEADER
from slurm_provisioner.credentials import client_context, make_identity
from slurm_provisioner.errors import LinkError, RefusedError
from slurm_provisioner.folder import PrivateFolder
from slurm_provisioner.link import Link, Target
from slurm_provisioner.stream import CHANNELS, END
from slurm_provisioner.transport import Node
from slurm_provisioner.transport.local import LocalTransport

log = logging.getLogger("test")
#: Bytes that a supervisor sends before the first of them are passed on.
WINDOW = 2**20
OURS, THEIRS, STRANGER = (make_identity(name) for name in ("server", "supervisor", "stranger"))


class Supervisor:
    """Echoes on the kernel's channels; answers commands as `answer` says."""

    def __init__(self, tmp_path: Path, identity: Any = THEIRS) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(cadata=OURS.certificate)
        self.context.set_alpn_protocols(["kernel", "supervisor"])
        pem = tmp_path / "identity.pem"
        pem.write_text(identity.certificate + identity.private_key)
        self.context.load_cert_chain(pem)
        self.heard: list[dict[str, Any]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.streams: dict[int, bytearray] = {}
        self.ended: asyncio.Queue[bytes] = asyncio.Queue()
        self.answer: Callable[[dict[str, Any]], Any] = lambda command: {"re": command["id"], "ok": True}
        self.port = 0

    async def __aenter__(self) -> Supervisor:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, ssl=self.context)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection."""
        for writer in self.writers:
            if not writer.transport.is_closing():
                writer.transport.abort()
        self.writers.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        channel = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        try:
            if channel != "supervisor":
                await self.echo(reader, writer)
                return
            writer.write(json.dumps({"event": "status", "state": "ready"}).encode() + b"\n")
            while line := await reader.readline():
                command = json.loads(line)
                self.heard.append(command)
                if (answer := self.answer(command)) is not None:
                    writer.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n")
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        GREETING.unpack(await reader.readexactly(GREETING.size))
        sent: dict[int, int] = {}
        while True:
            header = HEADER.unpack(await reader.readexactly(HEADER.size))
            number, channel, fresh, total, passed, length = header
            assert channel <= len(CHANNELS)
            if channel and fresh:
                self.streams.setdefault(number, bytearray())
            if length == END:
                if number in self.streams:
                    self.ended.put_nowait(bytes(self.streams.pop(number)))
                    writer.write(HEADER.pack(number, 0, False, 0, 0, END))
                continue
            piece = await reader.readexactly(length)
            if number not in self.streams:
                writer.write(HEADER.pack(number, 0, False, 0, 0, END))
                continue
            data = self.streams[number]
            data += piece
            if channel:
                sent[number] = total
            back = data[sent[number] : passed + WINDOW]
            sent[number] += len(back)
            writer.write(HEADER.pack(number, 0, False, len(data), sent[number], len(back)) + back)

    def end_streams(self) -> None:
        """Tell the end of every stream, as when the kernel has ended."""
        for writer in self.writers:
            if writer.get_extra_info("ssl_object").selected_alpn_protocol() != "supervisor":
                for number in self.streams:
                    writer.write(HEADER.pack(number, 0, False, 0, 0, END))
        self.streams.clear()

    def target(self, *, hosts: tuple[str, ...] = ("127.0.0.1",), sign_of_life: float = 60) -> Target:
        return Target(Node("n1"), hosts, self.port, client_context(OURS, THEIRS.certificate), sign_of_life)


class Linked:
    """A link, and the news of it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self.changes: asyncio.Queue[bool] = asyncio.Queue()
        self.link = Link(LocalTransport(), log)

    def heard(self, event: Mapping[str, Any]) -> None:
        self.events.put_nowait(event)

    def link_changed(self, connected: bool) -> None:
        self.changes.put_nowait(connected)

    async def __aenter__(self) -> Linked:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.aclose()

    async def client(self, channel: str = "shell") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        self.link.connect(channel, protocol)
        return reader, asyncio.StreamWriter(protocol._transport, protocol, reader, asyncio.get_running_loop())


def run(coro: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(coro, 60)
        await asyncio.sleep(0)
        left = [
            task
            for task in asyncio.all_tasks()
            if task is not asyncio.current_task() and "Supervisor.serve" not in repr(task)
        ]
        assert not left, left

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(link_module, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(link_module, "RETRY_LAST", 0.05)


def test_bytes_go_through_each_channel_and_early_ones_wait(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(), linked)
            early_reader, early_writer = await linked.client("iopub")
            early_writer.write(b"early")
            assert await early_reader.readexactly(5) == b"early"
            for channel in CHANNELS:
                reader, writer = await linked.client(channel)
                writer.write(b"x" * 3_000_000)
                assert await reader.readexactly(3_000_000) == b"x" * 3_000_000
                writer.close()
            early_writer.close()

    run(main())


def test_streams_that_end_before_there_is_a_connection_leave_nothing():
    async def main():
        async with Linked() as linked:
            for _ in range(20):
                reader, writer = await linked.client()
                writer.write(b"greeting")
                writer.close()
                assert await reader.read() == b""
            assert not linked.link._streams.all()

    run(main())


def test_a_client_that_does_not_read_stops_its_source(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(), linked)
            reader, writer = await linked.client()
            chunk, sent = b"y" * 2**16, 0
            with pytest.raises(asyncio.TimeoutError):
                while sent < 2**30:
                    writer.write(chunk)
                    await asyncio.wait_for(writer.drain(), 2)
                    sent += len(chunk)
            assert sent < 2**26, "nothing holds it back"
            writer.transport.abort()

    run(main())


def test_a_connection_that_is_made_as_the_link_is_closed_is_closed(tmp_path):
    """Also where the addresses that lost against it take their time to be given up."""

    class SlowToGiveUp(Link):
        opened: asyncio.StreamWriter
        giving_up = False

        async def _open_supervisor(self, host):
            if host == "127.0.0.1":
                reader, self.opened = await super()._open_supervisor(host)
                return reader, self.opened
            try:
                await asyncio.Event().wait()
            finally:
                self.giving_up = True
                await asyncio.sleep(0.05)

    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link = link = SlowToGiveUp(LocalTransport(), log)
            link.attach(supervisor.target(hosts=("10.0.0.1", "127.0.0.1")), linked)
            while not link.giving_up:
                await asyncio.sleep(0)
            await link.aclose()
            assert link.opened.transport.is_closing()

    run(main())


def test_of_several_addresses_that_can_be_reached_one_connection_stays(tmp_path):
    async def main():
        for _ in range(10):
            async with Supervisor(tmp_path) as supervisor, Linked() as linked:
                linked.link.attach(supervisor.target(hosts=("127.0.0.1", "localhost", "127.1")), linked)
                assert await linked.changes.get()
                await linked.link.call("status")

                def stay():
                    writers = [each for each in supervisor.writers if not each.transport.is_closing()]
                    return sum(
                        each.get_extra_info("ssl_object").selected_alpn_protocol() == "supervisor" for each in writers
                    )

                while stay() > 1:
                    await asyncio.sleep(0.01)
                assert stay() == 1

    run(main())


def test_both_sides_see_the_others_end(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(), linked)
            reader, writer = await linked.client()
            writer.write(b"first, ")
            await reader.readexactly(7)
            writer.write(b"last words")
            writer.close()
            assert await supervisor.ended.get() == b"first, last words"
            reader, writer = await linked.client()
            writer.write(b"x")
            await reader.readexactly(1)
            supervisor.end_streams()
            assert await reader.read() == b""
            writer.close()

    run(main())


def test_letting_go_ends_streams(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(), linked)
            reader, writer = await linked.client()
            writer.write(b"x")
            await reader.readexactly(1)
            linked.link.detach()
            assert await reader.read() == b""
            assert await supervisor.ended.get() == b"x"
            writer.close()

    run(main())


def test_a_stream_goes_on_where_it_was(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(), linked)
            reader, writer = await linked.client()
            sent = b"".join(b"%d " % number for number in range(100))
            for piece in (sent[place : place + 7] for place in range(0, len(sent), 7)):
                writer.write(piece)
                supervisor.cut()
                assert await reader.readexactly(len(piece)) == piece
            assert list(supervisor.streams.values()) == [sent]
            writer.close()

    run(main())


def test_a_stream_that_the_supervisor_forgot_ends(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(), linked)
            reader, writer = await linked.client()
            writer.write(b"x")
            await reader.readexactly(1)
            supervisor.streams.clear()
            supervisor.cut()
            assert await reader.read() == b""
            writer.close()

    run(main())


def test_a_client_that_leaves_while_nobody_can_be_reached(tmp_path):
    async def main():
        async with Linked() as linked:
            supervisor = Supervisor(tmp_path)
            async with supervisor:
                linked.link.attach(supervisor.target(), linked)
                reader, writer = await linked.client()
                writer.write(b"before")
                await reader.readexactly(6)
            while linked.link.connected:
                await asyncio.sleep(0.01)
            writer.write(b" and after")
            writer.close()
            async with supervisor:
                assert await supervisor.ended.get() == b"before and after"
                while linked.link._streams.all():
                    await asyncio.sleep(0.01)

    run(main())


def test_commands_answers_and_events(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            supervisor.answer = lambda command: {"re": command["id"], "ok": True, "twice": command["n"] * 2}
            linked.link.attach(supervisor.target(), linked)
            answers = await asyncio.gather(*(linked.link.call("double", n=n) for n in range(20)))
            assert [answer["twice"] for answer in answers] == [n * 2 for n in range(20)]
            assert (await linked.events.get())["event"] == "status"
            assert await linked.changes.get() is True
            supervisor.answer = lambda command: {"re": command["id"], "ok": False, "error": "no kernel"}
            with pytest.raises(RefusedError, match="could not signal: no kernel"):
                await linked.link.call("signal", signum=2)

    run(main())


def test_a_call_without_answer_ends(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            with pytest.raises(LinkError, match="no job"):
                await linked.link.call("status")
            linked.link.attach(supervisor.target(), linked)
            supervisor.answer = lambda command: None
            assert await linked.changes.get() is True
            with pytest.raises(LinkError, match="did not answer"):
                await linked.link.call("status", timeout=0.2)
            call = asyncio.ensure_future(linked.link.call("status"))
            while len(supervisor.heard) < 2:
                await asyncio.sleep(0.01)
            supervisor.cut()
            with pytest.raises(LinkError, match="broke"):
                await call

    run(main())


def test_letting_go_ends_calls_that_wait_for_a_connection():
    async def main():
        async with Linked() as linked:
            context = client_context(OURS, THEIRS.certificate)
            linked.link.attach(Target(Node("n1"), ("127.0.0.1",), 1, context, 60), linked)
            call = asyncio.ensure_future(linked.link.call("status"))
            await asyncio.sleep(0.05)
            linked.link.detach()
            with pytest.raises(LinkError, match="gone"):
                await call

    run(main())


def test_a_broken_connection_comes_back(tmp_path):
    async def main():
        async with Linked() as linked:
            supervisor = Supervisor(tmp_path)
            async with supervisor:
                linked.link.attach(supervisor.target(), linked)
                assert await linked.changes.get() is True
            assert await linked.changes.get() is False
            assert not linked.link.connected
            async with supervisor:  # the same port, a while later
                assert await linked.changes.get() is True
                reader, writer = await linked.client()
                writer.write(b"back")
                assert await reader.readexactly(4) == b"back"
                writer.close()

    run(main())


def test_garbage_breaks_the_connection_not_the_link(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(), linked)
            await linked.changes.get()
            supervisor.answer = lambda command: b"\xff not json\n"
            with pytest.raises(LinkError):
                await linked.link.call("status", timeout=60)
            supervisor.answer = lambda command: b"x" * (link_module.LINE_LIMIT * 2 + 1)
            with pytest.raises(LinkError):
                await linked.link.call("status", timeout=60)
            supervisor.answer = lambda command: {"re": command["id"], "ok": True}
            assert (await linked.link.call("status", timeout=60))["ok"]

    run(main())


def test_signs_of_life_and_a_peer_that_fell_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(link_module.Link.call, "__kwdefaults__", {"timeout": 0.2})

    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(sign_of_life=0.05), linked)
            assert await linked.changes.get() is True
            while len([each for each in supervisor.heard if each["do"] == "lease"]) < 3:
                await asyncio.sleep(0.01)
            supervisor.answer = lambda command: None  # as a node that vanished: the connection stays, nobody answers
            assert await linked.changes.get() is False

    run(main())


def test_the_address_that_works_is_found(tmp_path):
    async def main():
        async with Supervisor(tmp_path) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(hosts=("host.invalid", "127.0.0.2", "127.0.0.1")), linked)
            assert (await linked.link.call("status"))["ok"]

    run(main())


def test_a_stranger_at_the_supervisors_address_is_not_spoken_to(tmp_path):
    async def main():
        async with Supervisor(tmp_path, identity=STRANGER) as supervisor, Linked() as linked:
            linked.link.attach(supervisor.target(), linked)
            with pytest.raises(LinkError):
                await linked.link.call("status", timeout=0.5)
            reader, writer = await linked.client()
            writer.write(b"secret")
            await asyncio.sleep(0.2)
            assert supervisor.heard == []
            assert supervisor.writers == []
            writer.close()
            linked.link.detach()

    run(main())


def test_no_key_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client_context(OURS, THEIRS.certificate)
    assert list(tmp_path.iterdir()) == []
    assert OURS.private_key not in repr(OURS)


def test_a_key_file_is_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(PrivateFolder, "remove", lambda self: None)
    client_context(OURS, THEIRS.certificate)
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
