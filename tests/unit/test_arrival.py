"""A job is seen to start, and its supervisor found, by files that may be late, half there or another launch's."""

from __future__ import annotations

import asyncio
import json

from slurm_provisioner.arrival import Arrival, await_supervisor
from slurm_provisioner.transport import Node

CONNECTION = {
    "nonce": "ours",
    "node": "c1",
    "hosts": ["10.0.0.1", "c1"],
    "port": 4711,
    "ssh_host_keys": ["ssh-ed25519 AAAA"],
    "python": "3.6.8",
    "time": 1767323045.5,
}


class Files:
    """A run directory as it looks from one look to the next."""

    def __init__(self, *looks: tuple[str, object]) -> None:
        self.looks = list(looks)

    async def news(self, directory, names):
        for name, content in self.looks:
            assert name in names
            yield name, content if isinstance(content, bytes) else json.dumps(content).encode()


def arrives(*looks: tuple[str, object]) -> tuple[Arrival, list[str]]:
    steps: list[str] = []
    found = asyncio.run(await_supervisor(Files(*looks), "/run", "ours", steps.append))
    return found, steps


def test_the_script_tells_its_steps_and_the_connection_file_where_the_supervisor_is():
    progress = [b"load", b"loading modules gcc/12\n", b"loading modules gcc/12\nrunning\xff\nstarting the sup"]
    looks = [*(("progress", each) for each in progress), ("connection.json", CONNECTION)]
    found, steps = arrives(*looks)
    assert found == Arrival(Node("c1", ("ssh-ed25519 AAAA",)), ("10.0.0.1", "c1"), 4711, "3.6.8", 1767323045.5)
    assert steps == ["loading modules gcc/12", "running\ufffd"]


def test_files_that_are_not_whole_or_not_ours_are_looked_at_again():
    whole = json.dumps(CONNECTION).encode()
    others = {**CONNECTION, "nonce": "another launch's"}
    odd = [
        {"nonce": "ours"},
        {**CONNECTION, "port": None},
        {**CONNECTION, "hosts": 5},
        {**CONNECTION, "ssh_host_keys": None},
        [],
        None,
    ]
    looks = [("connection.json", each) for each in (b"{", whole[:40], others, *odd, CONNECTION)]
    assert arrives(*looks)[0].port == 4711
