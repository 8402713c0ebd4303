"""One connection of a socket of ours."""

from __future__ import annotations

import asyncio
import socket
import sys

from slurm_provisioner.front import zmtp
from slurm_provisioner.front.peer import Peer


class Owner:
    """A socket that has nothing to say."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()

    def is_ready(self, peer: Peer) -> None:
        self.ready.set()


def test_one_that_was_closed_and_has_said_all_may_be_cut_as_well():
    async def main() -> None:
        loop, owner = asyncio.get_running_loop(), Owner()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        peer = Peer("ROUTER", owner, waiting=sys.maxsize)
        transport, _ = await loop.create_unix_connection(lambda: peer, sock=ours)
        await loop.sock_sendall(theirs, zmtp.GREETING + zmtp.ready("DEALER", b""))
        await owner.ready.wait()
        peer.send(zmtp.pack([bytes(5_000_000)]))
        assert peer.size
        peer.close()
        while await loop.sock_recv(theirs, 2**20):
            pass
        theirs.close()
        peer.abort()
        assert transport.is_closing()

    asyncio.run(main())
