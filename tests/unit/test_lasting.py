"""One connection for all, made when it is needed, and again after it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from slurm_provisioner.errors import HostUnreachableError, LoginRefusedError
from slurm_provisioner.transport import lasting
from slurm_provisioner.transport.lasting import Lasting
from slurm_provisioner.transport.sessions import MOST, Sessions


class Connection:
    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.closed = False

    async def aclose(self) -> None:
        self.lost.set()
        self.closed = True


class Host:
    """Makes connections, or fails with what it is given."""

    def __init__(self) -> None:
        self.made: list[Connection] = []
        self.tries = 0
        self.trouble: Exception | None = None

    async def make(self) -> Any:
        self.tries += 1
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble
        self.made.append(Connection())
        return self.made[-1]


def play(scene: Callable[[Lasting, Host], Any]) -> Host:
    host = Host()

    async def main() -> None:
        connection = Lasting("the login host hpc", host.make)
        await scene(connection, host)
        await connection.aclose()
        assert all(each.closed for each in host.made)

    asyncio.run(main())
    return host


def test_all_share_one_connection():
    async def scene(connection, host):
        first, *others = await asyncio.gather(*(connection.get() for _ in range(5)))
        assert all(other is first for other in others)
        assert await connection.get() is first

    assert play(scene).tries == 1


def test_who_is_cancelled_takes_it_from_nobody():
    async def scene(connection, host):
        impatient = asyncio.ensure_future(connection.get())
        patient = asyncio.ensure_future(connection.get())
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient is host.made[0]

    assert play(scene).tries == 1


def test_a_lost_connection_is_made_again(caplog):
    async def scene(connection, host):
        (await connection.get()).lost.set()
        assert await connection.get() is host.made[1]
        assert host.made[0].closed

    play(scene)
    assert "The connection to the login host hpc was lost" in caplog.text
    assert "The connection to the login host hpc is back" in caplog.text


@pytest.mark.parametrize(("error", "pause"), [(HostUnreachableError, 1), (LoginRefusedError, 300)])
def test_a_host_that_failed_is_left_alone_for_a_while(error, pause, monkeypatch):
    async def scene(connection, host):
        loop = asyncio.get_running_loop()
        host.trouble = error("no", host="hpc")
        with pytest.raises(error):
            await connection.get()
        with pytest.raises(error):
            await connection.get()
        assert host.tries == 1
        assert connection._not_before == pytest.approx(loop.time() + pause, abs=0.9)
        with pytest.raises(error):
            await connection.get(wanted=True)
        assert host.tries == 2, "somebody waits for it"
        host.trouble = None
        monkeypatch.setattr(loop, "time", lambda: connection._not_before + 1)
        assert await connection.get() is host.made[0]

    play(scene)


def test_a_connection_that_the_user_makes_is_found_meanwhile(monkeypatch):
    found: list[Connection | None] = []

    async def find() -> Any:
        return found.pop() if found else None

    async def main() -> None:
        host = Host()
        host.trouble = LoginRefusedError("no", host="hpc")
        connection = Lasting("the login host hpc", host.make, find)
        clock = asyncio.get_running_loop().time()
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock)
        for _ in range(3):
            with pytest.raises(LoginRefusedError):
                await connection.get()
            clock += lasting.RETRY_LAST + 1
        assert host.tries == 1, "it is not to take us for an intruder"
        found.append(Connection())
        expected = found[0]
        assert await connection.get() is expected
        await connection.aclose()

    asyncio.run(main())


def test_a_start_does_not_take_an_old_refusal_for_an_answer():
    look = asyncio.Event()

    async def find() -> None:
        await look.wait()

    async def main() -> None:
        host = Host()
        host.trouble = LoginRefusedError("no", host="hpc")
        connection = Lasting("the login host hpc", host.make, find)
        with pytest.raises(LoginRefusedError):
            await connection.get()
        connection._no_look_before = 0
        looking = asyncio.ensure_future(connection.get())
        await asyncio.sleep(0)
        host.trouble = None
        wanted = asyncio.ensure_future(connection.get(wanted=True))
        await asyncio.sleep(0)
        look.set()
        with pytest.raises(LoginRefusedError):
            await looking
        assert await wanted is host.made[0]
        await connection.aclose()

    asyncio.run(main())


def test_what_goes_wrong_otherwise_is_told_as_what_everybody_expects():
    async def scene(connection, host):
        host.trouble = RuntimeError("can't start new thread")
        with pytest.raises(HostUnreachableError, match="can't start new thread"):
            await connection.get()

    play(scene)


def test_pauses_grow_up_to_a_limit():
    async def scene(connection, host):
        host.trouble = HostUnreachableError("no", host="hpc")
        for _ in range(10):
            with pytest.raises(HostUnreachableError):
                await connection.get(wanted=True)
        left = connection._not_before - asyncio.get_running_loop().time()
        assert lasting.RETRY_LAST - 1 < left <= lasting.RETRY_LAST

    play(scene)


def test_sessions_take_turns():
    async def main() -> None:
        sessions, now, most = Sessions(), 0, 0

        async def command() -> None:
            nonlocal now, most
            async with sessions.turn():
                now += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1

        await asyncio.gather(*(command() for _ in range(30)))
        assert most == MOST

    asyncio.run(main())


def test_a_host_that_takes_fewer_sessions_is_believed():
    async def main() -> None:
        sessions = Sessions()
        async with sessions.turn(), sessions.turn():
            assert sessions.refused(), "there is another one to wait for"
        async with sessions.turn():
            late = asyncio.ensure_future(sessions.turn().__aenter__())
            await asyncio.sleep(0)
            assert not late.done()
            assert not sessions.refused(), "there is none to wait for"
            late.cancel()
        async with sessions.turn():
            pass

    asyncio.run(main())
