"""A network that is far away: a port of this machine that passes on to another, each byte later by a known time.

    python3 relay.py PORT DELAY

Prints the port that it listens on, and ends with its standard input. It is a process of its own: a network takes no
turns with those who use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time

__all__ = ["Relay", "round_trip"]

TRIPS = 20


class Relay:
    """Listens on `port` until `stop`.

    Parameters
    ----------
    target : int
        The port that connections are passed on to.
    delay : float
        Seconds from one side to the other.
    """

    def __init__(self, target: int, delay: float) -> None:
        argv = [sys.executable, __file__, str(target), str(delay)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        """Take no more connections, and lose those that there are."""
        self._process.communicate()


def round_trip(delay: float) -> float:
    """Measure how long a byte takes there and back: the delay twice, and what this machine adds."""
    took = []
    with socket.create_server(("127.0.0.1", 0)) as echo:
        relay = Relay(echo.getsockname()[1], delay)
        with socket.create_connection(("127.0.0.1", relay.port)) as near:
            far, _ = echo.accept()
            for _ in range(TRIPS):
                began = time.perf_counter()
                near.sendall(b"x")
                far.sendall(far.recv(1))
                near.recv(1)
                took.append(time.perf_counter() - began)
            far.close()
        relay.stop()
    return sorted(took)[len(took) // 2]


async def _serve(target: int, delay: float) -> None:
    loop = asyncio.get_running_loop()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        for each in (writer, back):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(carry(reader, back), carry(there, writer))

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.ensure_future(deliver(under_way, writer))
        data = b"x"
        while data:
            data = b""
            with contextlib.suppress(OSError):
                data = await reader.read(2**16)
            under_way.put_nowait((loop.time() + delay, data))
        await delivery

    async def deliver(under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        data = b"x"
        with contextlib.suppress(OSError):
            while data:
                due, data = await under_way.get()
                await asyncio.sleep(due - loop.time())
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
