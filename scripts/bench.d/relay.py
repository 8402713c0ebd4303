"""A network that is far away: a port of this machine that passes on to another, each byte later by a known time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

__all__ = ["Relay", "round_trip"]


class Relay:
    """Listens on `port`, on a thread of its own, until `stop`.

    Parameters
    ----------
    target : int
        The port that connections are passed on to.
    delay : float
        Seconds from one side to the other.
    """

    def __init__(self, target: int, delay: float) -> None:
        self._target, self._delay = target, delay
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._pass_on, "127.0.0.1", 0)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        for each in (writer, back):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(self._carry(reader, back), self._carry(there, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.ensure_future(self._deliver(under_way, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                under_way.put_nowait((self._loop.time() + self._delay, data))
        under_way.put_nowait((self._loop.time() + self._delay, b""))
        await delivery

    async def _deliver(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - self._loop.time())
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    def stop(self) -> None:
        """Take no more connections, and lose those that there are."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def round_trip(delay: float) -> float:
    """Measure how long a byte takes there and back: the delay twice, and what this machine adds."""
    echo = socket.create_server(("127.0.0.1", 0))
    relay = Relay(echo.getsockname()[1], delay)
    with socket.create_connection(("127.0.0.1", relay.port)) as near:
        far, _ = echo.accept()
        took = []
        for _ in range(10):
            began = time.perf_counter()
            near.sendall(b"x")
            far.sendall(far.recv(1))
            near.recv(1)
            took.append(time.perf_counter() - began)
    relay.stop()
    echo.close()
    return sorted(took)[len(took) // 2]
