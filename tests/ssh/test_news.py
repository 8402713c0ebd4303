"""Small files on the cluster, told when they change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from conftest import LogIn, happens, soon
from login_host import PATIENCE, Sshd, shell

NOISE = "Welcome!\n0 0 0\nno newline at the end"


def put(file: Path, content: bytes | str) -> None:
    """Write a file as what is told of is written: at once."""
    new = file.with_name(f".{file.name}.new")
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    new.replace(file)


class Reader:
    """Reads news, in the background; what was told is in `heard`."""

    def __init__(self, news: AsyncIterator[tuple[str, bytes]]) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._news = news
        self._task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for each in self._news:
            self.heard.append(each)

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._news.aclose()

    async def hears(self, name: str, content: str) -> None:
        """Wait until this is the last that was told of a file."""

        def told() -> bool:
            if self._task.done():
                self._task.result()  # nothing is told any more
            return dict(self.heard).get(name) == content.encode()

        await happens(told, f"{name}: {content}")


def test_a_file_is_told_when_it_appears(log_in: LogIn, tmp_path: Path):
    async def main(transport):
        folder = tmp_path / "later"
        async with Reader(transport.news(str(folder), ["a", "b"])) as reader:
            await soon(transport.account())
            folder.mkdir()
            put(folder / "c", "not this")
            put(folder / "a", "")
            put(folder / "b", "content")
            await reader.hears("b", "content")
            assert reader.heard == [("b", b"content")]

    log_in(main)


def test_a_file_that_was_there_before_is_told(log_in: LogIn, tmp_path: Path):
    async def main(transport):
        put(tmp_path / "a", "old")
        async with contextlib.aclosing(transport.news(str(tmp_path), ["a"])) as news:
            assert await soon(anext(news)) == ("a", b"old")

    log_in(main)


def test_a_file_is_told_each_time_it_changes(log_in: LogIn, tmp_path: Path):
    async def main(transport):
        async with Reader(transport.news(str(tmp_path), ["a", "b"])) as reader:
            for content in ("one", "two", "thr", "three", "one"):  # of the same length, too
                put(tmp_path / "a", content)
                await reader.hears("a", content)
            put(tmp_path / "a", "")
            put(tmp_path / "b", "b")
            await reader.hears("b", "b")
            assert [content for name, content in reader.heard if name == "a"] == [
                b"one",
                b"two",
                b"thr",
                b"three",
                b"one",
            ]

    log_in(main)


def test_the_same_again_is_no_news(log_in: LogIn, tmp_path: Path):
    async def main(transport):
        put(tmp_path / "a", "same")
        async with Reader(transport.news(str(tmp_path), ["a", "b"])) as reader:
            await reader.hears("a", "same")
            put(tmp_path / "a", "same")
            put(tmp_path / "b", "first")
            await reader.hears("b", "first")
            put(tmp_path / "b", "second")
            await reader.hears("b", "second")
            assert reader.heard == [("a", b"same"), ("b", b"first"), ("b", b"second")]

    log_in(main)


def test_text_is_told_to_the_byte(log_in: LogIn, tmp_path: Path):
    texts = [
        "\n",
        "no newline",
        "\n\n  \n",
        " \t ",
        "a\\nb\\",
        "Zürich 🙂\n",
        "x" * 20_000,
        "%s $HOME `id` 'a' \"b\" * -n\n",
    ]

    async def main(transport):
        async with contextlib.aclosing(transport.news(str(tmp_path), ["a"])) as news:
            for text in texts:
                put(tmp_path / "a", text)
                assert await soon(anext(news)) == ("a", text.encode())

    log_in(main)


def test_a_folder_has_any_name(log_in: LogIn, tmp_path: Path):
    names = ["two  words ", "it's", "-n", "$HOME", "a\nb", "Zürich", "*", "back\\slash", "%s"]

    async def main(transport):
        for name in names:
            folder = tmp_path / "folders" / name
            folder.mkdir(parents=True)
            put(folder / "a", name)
            async with contextlib.aclosing(transport.news(str(folder), ["other", "a"])) as news:
                assert await soon(anext(news)) == ("a", name.encode())

    log_in(main)


@pytest.mark.parametrize("name", ["bash", "tcsh", "fish"])
def test_noise_is_no_news(log_in: LogIn, sshd: Sshd, tmp_path: Path, name: str):
    (tmp_path / "noise").write_text(NOISE)
    noisy = f"cat {tmp_path}/noise; sh -c 'cat {tmp_path}/noise >&2'\n"
    files = dict.fromkeys((".bashrc", ".bash_profile", ".tcshrc", ".config/fish/config.fish"), noisy)
    sshd.restart(shell(tmp_path, name, files, NOISE))

    async def main(transport):
        async with Reader(transport.news(str(tmp_path), ["a"])) as reader:
            for content in ("one", "two"):
                put(tmp_path / "a", content)
                await reader.hears("a", content)
            assert reader.heard == [("a", b"one"), ("a", b"two")]

    log_in(main)


def test_many_folders_take_one_session(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    sshd.restart("MaxSessions 2")

    async def main(transport):
        folders = [tmp_path / str(number) for number in range(12)]
        async with contextlib.AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(Reader(transport.news(str(each), ["a"]))) for each in folders]
            for content in ("one", "two"):
                for folder in folders:
                    folder.mkdir(exist_ok=True)
                    put(folder / "a", f"{folder.name} {content}")
                for folder, reader in zip(folders, readers, strict=True):
                    await reader.hears("a", f"{folder.name} {content}")
                assert (await transport.run(["echo", "up"], timeout=PATIENCE)).stdout == "up\n"

    log_in(main)
    assert sshd.logins() == 1


def test_each_of_two_who_look_at_a_folder_is_told(log_in: LogIn, tmp_path: Path):
    async def main(transport):
        async with Reader(transport.news(str(tmp_path), ["a"])) as first:
            put(tmp_path / "a", "one")
            await first.hears("a", "one")
            async with Reader(transport.news(str(tmp_path), ["a", "b"])) as second:
                await second.hears("a", "one")
                put(tmp_path / "a", "two")
                for reader in (first, second):
                    await reader.hears("a", "two")
            put(tmp_path / "a", "three")
            await first.hears("a", "three")
            assert first.heard == [("a", b"one"), ("a", b"two"), ("a", b"three")]
            assert second.heard == [("a", b"one"), ("a", b"two")]

    log_in(main)


def test_who_no_longer_listens_leaves_nothing_running(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    async def main(transport):
        put(tmp_path / "a", "one")
        async with Reader(transport.news(str(tmp_path), ["a"])) as first:
            await first.hears("a", "one")
            async with Reader(transport.news(str(tmp_path / "later"), ["a"])) as second:
                assert second.heard == []
            assert sshd.commands() != []
        await happens(lambda: not sshd.commands(), "the end of what looks for news")
        async with Reader(transport.news(str(tmp_path), ["a"])) as again:
            await again.hears("a", "one")

    log_in(main)
    assert sshd.logins() == 1


def interruptions(sshd: Sshd) -> list[Callable[[], None]]:
    return [sshd.cut, sshd.restart]


@pytest.mark.parametrize("number", [0, 1], ids=["cut", "restarted"])
def test_news_outlive_a_connection_and_are_not_repeated(log_in: LogIn, sshd: Sshd, tmp_path: Path, number: int):
    async def main(transport):
        put(tmp_path / "a", "one")
        put(tmp_path / "b", "same")
        async with Reader(transport.news(str(tmp_path), ["a", "b", "c"])) as reader:
            await reader.hears("a", "one")
            await reader.hears("b", "same")
            await asyncio.to_thread(interruptions(sshd)[number])
            put(tmp_path / "a", "two")
            await reader.hears("a", "two")
            await asyncio.to_thread(interruptions(sshd)[number])
            put(tmp_path / "c", "new")
            await reader.hears("c", "new")
            assert sorted(reader.heard) == [("a", b"one"), ("a", b"two"), ("b", b"same"), ("c", b"new")]

    log_in(main)


def test_nothing_looks_for_news_on_a_host_that_lost_us(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    async def main(transport):
        put(tmp_path / "a", "one")
        async with Reader(transport.news(str(tmp_path), ["a"])) as reader:
            await reader.hears("a", "one")
            await asyncio.to_thread(sshd.stop)
            await happens(lambda: not sshd.commands(), "the end of what looks for news")
            sshd.start()
            put(tmp_path / "a", "two")
            await reader.hears("a", "two")

    log_in(main)


def test_what_looks_for_news_ends_after_a_while_and_another_goes_on(
    log_in: LogIn, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("slurm_provisioner.transport.ssh.LOOKOUT_TIME", 0.1)

    async def main(transport):
        put(tmp_path / "a", "one")
        async with Reader(transport.news(str(tmp_path), ["a"])) as reader:
            await reader.hears("a", "one")
            before = sshd.sessions()
            await happens(lambda: sshd.sessions() > before, "another command that looks")
            put(tmp_path / "a", "two")
            await reader.hears("a", "two")
            assert len(reader.heard) == 2

    log_in(main)


def test_news_wait_for_a_host_that_is_not_there_yet(log_in: LogIn, sshd: Sshd, tmp_path: Path):
    sshd.stop()

    async def main(transport):
        put(tmp_path / "a", "one")
        async with Reader(transport.news(str(tmp_path), ["a"])) as reader:
            with pytest.raises(ConnectionError):
                await transport.account()
            sshd.start()
            await reader.hears("a", "one")

    log_in(main)
