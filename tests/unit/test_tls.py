"""TLS on a socket, before a server of asyncio's own."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from slurm_provisioner import launcher, tls
from slurm_provisioner.credentials import client_context, make_identity
from slurm_provisioner.loop import within

OURS, THEIRS, STRANGER = (make_identity(name) for name in ("server", "supervisor", "stranger"))


class Hears(asyncio.Protocol):
    """Takes what comes."""

    def __init__(self):
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()
        self.news = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        self.news.set()

    def connection_lost(self, exc):
        self.lost.set_result(exc)

    async def until(self, size):
        while len(self.data) < size:
            self.news.clear()
            await self.news.wait()


def server_context(tmp_path, identity=THEIRS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=OURS.certificate)
    context.set_alpn_protocols(["kernel", "supervisor"])
    (tmp_path / "pem").write_text(identity.certificate + identity.private_key)
    context.load_cert_chain(tmp_path / "pem")
    return context


@asynccontextmanager
async def listening(tmp_path, serve, identity=THEIRS) -> AsyncIterator[int]:
    context = server_context(tmp_path, identity)

    async def guarded(reader, writer):
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def dial(port, protocol, channel="kernel", identity=OURS):
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    return await tls.connect(sock, client_context(identity, THEIRS.certificate), channel, protocol)


async def echo(reader, writer):
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()


def run(coro):
    asyncio.run(asyncio.wait_for(coro, 60))


@pytest.mark.parametrize("size", [1, 2**15, 2**15 + 1, 5_000_000])
def test_bytes_go_both_ways(tmp_path, size):
    data = os.urandom(size)

    async def main():
        async with listening(tmp_path, echo) as port:
            hears = Hears()
            transport = await dial(port, hears)
            transport.writelines([data[:1], data[1:]])
            await hears.until(size)
            assert hears.data == data
            transport.close()
            assert await hears.lost is None

    run(main())


def test_each_connection_has_its_channel(tmp_path):
    async def tell(_, writer):
        writer.write(writer.get_extra_info("ssl_object").selected_alpn_protocol().encode() + b"\n")

    async def main():
        async with listening(tmp_path, tell) as port:
            context = client_context(OURS, THEIRS.certificate)
            heard = [Hears(), Hears()]
            for hears, channel in zip(heard, ("kernel", "supervisor"), strict=True):
                sock = socket.create_connection(("127.0.0.1", port))
                sock.setblocking(False)
                await tls.connect(sock, context, channel, hears)
            for hears in heard:
                await hears.lost
            assert [bytes(hears.data) for hears in heard] == [b"kernel\n", b"supervisor\n"]

    run(main())


def test_who_is_not_expected_is_not_spoken_to(tmp_path):
    async def main():
        async with listening(tmp_path, echo, identity=STRANGER) as port:
            hears = Hears()
            with pytest.raises(ssl.SSLCertVerificationError):
                await dial(port, hears)
            assert not hasattr(hears, "transport")

    run(main())


def test_who_is_no_server_of_tls(tmp_path):
    async def noise(_, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    async def main():
        server = await asyncio.start_server(noise, "127.0.0.1", 0)
        with pytest.raises(ssl.SSLError):
            await dial(server.sockets[0].getsockname()[1], Hears())
        server.close()

    run(main())


def test_a_silent_server_is_not_waited_for_for_ever(tmp_path):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            hears = Hears()
            with pytest.raises(asyncio.TimeoutError):
                await within(0.1, dial(server.getsockname()[1], hears), asyncio.Transport.abort)
            silent, _ = server.accept()
            with silent:
                silent.settimeout(60)
                while silent.recv(2**16):
                    pass  # it greeted, and has hung up

    run(main())


def test_a_connection_that_is_given_up_while_it_is_made_is_nobodys_complaint(tmp_path):
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with listening(tmp_path, echo) as port:
            for turns in range(6):
                task = asyncio.ensure_future(dial(port, Hears()))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            await asyncio.sleep(0.05)  # what was cut is gone
        del task
        gc.collect()  # asyncio complains when a future is gone

    run(main())
    assert complaints == []


def test_a_goodbye_that_answers_ours_is_no_trouble_of_the_supervisors(tmp_path):
    launcher.import_the_rest()

    async def main():
        loop, ended, refused = asyncio.get_running_loop(), asyncio.Event(), []

        class Says(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(b"last words")
                loop.call_later(0.05, transport.close)

            def connection_lost(self, exc):
                assert exc is None
                ended.set()

        server = await loop.create_server(
            lambda: launcher.TLS(loop, server_context(tmp_path), lambda _: Says(), refused.append), "127.0.0.1", 0
        )
        hears = Hears()
        await dial(server.sockets[0].getsockname()[1], hears)
        assert await hears.lost is None
        await ended.wait()
        server.close()
        assert bytes(hears.data) == b"last words"
        assert refused == []

    run(main())


def test_what_was_said_before_the_close_arrives(tmp_path):
    arrived = []

    async def listen(reader, writer):
        await asyncio.sleep(0.1)
        arrived.append(len(await reader.read()))

    async def main():
        async with listening(tmp_path, listen) as port:
            hears = Hears()
            transport = await dial(port, hears)
            transport.write(bytes(8_000_000))
            transport.close()
            assert transport.is_closing()
            transport.write(b"too late")
            await hears.lost
            while not arrived:
                await asyncio.sleep(0.01)
            assert arrived == [8_000_000]

    run(main())


def test_a_peer_that_takes_nothing_is_cut_off_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tls, "CLOSE_TIMEOUT", 0.1)

    async def sleep(reader, writer):
        reader._transport.pause_reading()
        await asyncio.sleep(1)

    async def main():
        async with listening(tmp_path, sleep) as port:
            hears = Hears()
            transport = await dial(port, hears)
            transport.write(bytes(50_000_000))
            transport.close()
            await hears.lost

    run(main())


def test_who_speaks_is_told_to_pause(tmp_path):
    async def late(reader, writer):
        await asyncio.sleep(0.1)
        await echo(reader, writer)

    async def main():
        async with listening(tmp_path, late) as port:
            hears, told = Hears(), []
            hears.pause_writing = lambda: told.append("pause")
            hears.resume_writing = lambda: told.append("go on")
            transport = await dial(port, hears)
            transport.set_write_buffer_limits(high=2**18)
            transport.write(bytes(20_000_000))
            assert told == ["pause"]
            assert transport.get_write_buffer_size() > 2**18
            await hears.until(20_000_000)
            assert told == ["pause", "go on"]
            transport.abort()
            await hears.lost

    run(main())


def test_a_handshake_that_cannot_begin_is_an_error():
    async def main():
        context = client_context(OURS, THEIRS.certificate)
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # a policy of the system may leave nothing in common
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            with pytest.raises(ssl.SSLError):
                await tls.connect(ours, context, "kernel", Hears())
            with theirs.makefile("rb") as told:
                assert (await asyncio.to_thread(told.read))[:1] == b"\x15", "an alert, and the end"

    run(main())
