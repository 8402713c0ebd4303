"""Files that appear are seen, with one look for many folders, and whatever one file system does."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest

from slurm_provisioner.transport import scout
from slurm_provisioner.transport.scout import Scouts


def run(coro):
    asyncio.run(asyncio.wait_for(coro, 60))


@pytest.fixture
def looked(monkeypatch):
    """How many folders each look was at."""
    counts = []
    look_at = scout._look_at

    def counted(folders):
        counts.append(len(folders))
        return look_at(folders)

    monkeypatch.setattr(scout, "_look_at", counted)
    return counts


def test_many_folders_are_looked_at_together(tmp_path, looked):
    async def main():
        scouts = Scouts()
        folders = [tmp_path / str(number) for number in range(40)]
        heard = [scouts.news(str(folder), ["a"]) for folder in folders]
        first = [asyncio.ensure_future(anext(each)) for each in heard]
        while len(looked) < 20:
            await asyncio.sleep(0.01)
        for folder in folders:
            folder.mkdir()
            (folder / "a").write_text(folder.name)
        assert await asyncio.gather(*first) == [("a", str(number).encode()) for number in range(40)]
        for each in heard:
            await each.aclose()
        assert not scouts._scouts

    run(main())
    assert sum(looked[:20]) > 20 * 10


def test_a_machine_without_a_thread_to_spare_is_no_end_of_it(tmp_path, monkeypatch):
    refused = []

    async def to_thread(function, *args):
        if len(refused) < 3:
            refused.append(True)
            raise RuntimeError("can't start new thread")
        return function(*args)

    async def main():
        async with aclosing(Scouts().news(str(tmp_path), ["a"])) as news:
            (tmp_path / "a").write_text("x")
            assert await anext(news) == ("a", b"x")

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    run(main())
    assert len(refused) == 3


def test_what_changes_is_told_again_and_what_stays_is_not(tmp_path, looked):
    async def main():
        async with aclosing(Scouts().news(str(tmp_path), ["a", "b"])) as news:
            (tmp_path / "a").write_bytes(b"1")
            (tmp_path / "other").write_bytes(b"1")
            assert await anext(news) == ("a", b"1")
            (tmp_path / "a").write_bytes(b"2")
            assert await anext(news) == ("a", b"2")
            again = asyncio.ensure_future(anext(news))
            (tmp_path / "a").write_bytes(b"2")
            (tmp_path / "b").write_bytes(b"")
            looks = len(looked)
            while len(looked) < looks + 3:
                await asyncio.sleep(0.01)
            assert not again.done()
            (tmp_path / "b").write_bytes(b"3")
            assert await again == ("b", b"3")

    run(main())


def test_a_file_system_that_hangs_holds_nobody_else_up(tmp_path, monkeypatch):
    go_on, look = threading.Event(), scout._news

    def news(directory, known):
        if "/stuck/" in directory:
            go_on.wait(60)
        return look(directory, known)

    monkeypatch.setattr(scout, "_news", news)

    async def main():
        scouts = Scouts()
        folders = [tmp_path / "stuck" / "1", tmp_path / "works" / "1"]
        for folder in folders:
            folder.mkdir(parents=True)
        heard = [scouts.news(str(folder), ["a"]) for folder in folders]
        hanging, working = (asyncio.ensure_future(anext(each)) for each in heard)
        for folder in folders:
            (folder / "a").write_text("x")
        assert await working == ("a", b"x")
        assert not hanging.done()
        go_on.set()
        assert await hanging == ("a", b"x")
        for each in heard:
            await each.aclose()

    run(main())


def test_one_that_comes_later_is_looked_at_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(scout, "FIRST_LOOK", 600.0)
    monkeypatch.setattr(scout, "LAST_LOOK", 600.0)

    async def main():
        scouts = Scouts()
        early = scouts.news(str(tmp_path / "early"), ["a"])
        waits = asyncio.ensure_future(anext(early))
        await asyncio.sleep(0.1)
        (tmp_path / "late").mkdir()
        (tmp_path / "late" / "a").write_text("x")
        async with aclosing(scouts.news(str(tmp_path / "late"), ["a"])) as late:
            assert await anext(late) == ("a", b"x")
        waits.cancel()
        await asyncio.wait([waits])
        await early.aclose()

    run(main())
