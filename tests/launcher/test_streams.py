"""Streams from the server side to the kernel's sockets, over a wire that breaks."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from supervisors import PATIENCE, Job
from wire import Linked, sockets

from slurm_provisioner import carrier as carrier_module
from slurm_provisioner import link as link_module
from slurm_provisioner import stream as stream_module

MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(link_module, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(link_module, "RETRY_LAST", 0.05)


def run(coro: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        before = sockets(os.getpid())
        await coro
        await eventually(lambda: sockets(os.getpid()) == before)

    asyncio.run(asyncio.wait_for(whole(), PATIENCE))


async def eventually(condition) -> None:
    """Wait for something that tells nobody when it comes."""
    while not condition():
        await asyncio.sleep(0.01)


async def exchange(linked: Linked, channel: str, chance: random.Random, size: int) -> None:
    """Send bytes in pieces of any size, and have them back."""
    reader, writer = await linked.client(channel)
    data = chance.randbytes(size)

    async def send() -> None:
        place = 0
        while place < size:
            length = chance.choice([10, 10_000, 1_000_000])
            writer.write(data[place : place + length])
            await writer.drain()
            place += length

    sender = asyncio.ensure_future(send())
    received = await reader.readexactly(size)
    await sender
    assert received == data
    writer.close()


def any_budget(chance: random.Random) -> Iterator[float]:
    """Bytes until a connection breaks: within its handshake, its greeting, a frame, or an acknowledgement."""
    while True:
        yield chance.randrange(chance.choice([4000, 10_000, 200_000, 3_000_000]))


@pytest.mark.every_python
@pytest.mark.parametrize("seed", range(2))
def test_no_byte_is_lost_doubled_or_moved(job: Job, seed):
    chance = random.Random(seed)

    async def main():
        async with Linked(job) as linked:
            linked.wire.budgets = any_budget(chance)
            linked.wire.cut(up=True)
            await asyncio.gather(*(exchange(linked, name, chance, 4 * MEGABYTE) for name in ("shell", "iopub", "hb")))
            assert linked.wire.carried > 20

    with job.supervisor():
        run(main())


def test_a_wire_that_holds(job: Job):
    async def main():
        async with Linked(job) as linked:
            await exchange(linked, "iopub", random.Random(0), 64 * MEGABYTE)
            assert linked.wire.carried == 2

    run(main())


@pytest.mark.every_python
def test_a_quiet_stream_goes_on(job: Job):
    async def main():
        async with Linked(job) as linked:
            reader, writer = await linked.client()
            for number in range(5):
                piece = b"%d" % number
                writer.write(piece)
                assert await reader.readexactly(1) == piece
                await linked.lose()
                linked.wire.up = True
                await linked.until(lambda: linked.link.connected)
            writer.close()

    run(main())


def test_what_is_said_meanwhile_waits_as_far_as_it_is_held(make_job, monkeypatch):
    monkeypatch.setattr(stream_module, "HELD_BYTES", MEGABYTE)
    job = make_job(constants={"HELD_BYTES": 1}).start()

    async def main():
        async with Linked(job) as linked:
            reader, writer = await linked.client()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await linked.lose()
            data = random.Random(0).randbytes(32 * MEGABYTE)
            writer.write(data)
            before = MEGABYTE + 2 * carrier_module.WRITE_BUFFER  # and what is on its way to the connection
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(eventually(lambda: writer.transport.get_write_buffer_size() == 0), 0.5)
            assert writer.transport.get_write_buffer_size() > len(data) - before
            linked.wire.up = True
            assert await reader.readexactly(len(data)) == data
            writer.close()

    run(main())


@pytest.mark.every_python
@pytest.mark.parametrize("count", [10, 200_000])
def test_the_last_words_of_a_kernel_that_ends_meanwhile(job: Job, count):
    async def main():
        async with Linked(job) as linked:
            reader, writer = await linked.client("iopub")
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await asyncio.to_thread(job.ask, "say-and-exit", count=count, go=str(job.base / "go"))
            await linked.lose()
            (job.base / "go").touch()
            with job.supervisor(ready=False) as supervisor:
                if supervisor.first["state"] != "exited":
                    await asyncio.to_thread(supervisor.event, "exited")
            linked.wire.up = True
            numbers = b"".join(number.to_bytes(4, "big") for number in range(count))
            assert await reader.read() == numbers
            writer.close()

    run(main())


def test_a_restart_meanwhile_ends_streams_to_the_old_kernel(make_job):
    job = make_job(constants={"FLUSH_SECONDS": 0.1}).start()

    async def main():
        async with Linked(job) as linked:
            reader, writer = await linked.client()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await linked.lose()
            with job.supervisor() as supervisor:
                before = sockets(job.process.pid)
                assert supervisor.call("restart", kernel=job.kernel, session=job.session)["ok"]
                supervisor.event("ready", generation=2)
                await eventually(lambda: sockets(job.process.pid) < before)
            linked.wire.up = True
            assert await reader.read() == b""
            writer.close()
            reader, writer = await linked.client()
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
            writer.close()

    run(main())


@pytest.mark.every_python
def test_ends_are_told_once_that_is_possible(job: Job):
    async def main():
        async with Linked(job) as linked:
            before = sockets(job.process.pid)
            clients = [await linked.client(channel) for channel in ("shell", "iopub", "stdin")]
            for reader, writer in clients:
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
            clients[0][1].close()
            await eventually(lambda: sockets(job.process.pid) == before + 2)
            await linked.lose()
            clients[1][1].close()
            linked.wire.up = True
            reader, writer = clients[2]
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
            await eventually(lambda: sockets(job.process.pid) == before + 1)
            linked.link.detach()
            await eventually(lambda: sockets(job.process.pid) == before - 2)
            assert await reader.read() == b""
            writer.close()

    with job.supervisor():
        run(main())


def test_a_client_that_leaves_without_having_read(make_job):
    job = make_job(constants={"FLUSH_SECONDS": 0.1}).start()

    async def main():
        async with Linked(job) as linked:
            before = sockets(job.process.pid)
            reader, writer = await linked.client()
            for _ in range(64):
                writer.write(bytes(MEGABYTE))
            await eventually(lambda: len(reader._buffer) > 2**16)
            writer.transport.abort()
            await eventually(lambda: sockets(job.process.pid) == before)  # what the kernel does not read is given up
            await eventually(lambda: not linked.link._streams.all())

    with job.supervisor():
        run(main())


@pytest.mark.every_python
def test_silence_does_not_hold_a_stream_back(job: Job):
    async def main():
        async with Linked(job) as linked:
            reader, writer = await linked.client()
            data = random.Random(0).randbytes(8 * MEGABYTE)
            writer.write(data)
            received = await reader.readexactly(MEGABYTE)
            linked.wire.fall_silent()
            with pytest.raises(link_module.LinkError):
                await linked.link.call("status", timeout=0.2)
            received += await reader.readexactly(len(data) - len(received))
            assert received == data
            writer.close()

    run(main())
