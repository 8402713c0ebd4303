"""A job is seen to start, and its supervisor found, by files that may be late, half there or another launch's."""

from __future__ import annotations

import asyncio
import json

from slurm_provisioner import arrival
from slurm_provisioner.arrival import Arrival, await_supervisor

CONNECTION = {"nonce": "ours", "node": "c1", "hosts": ["10.0.0.1", "c1"], "port": 4711}


class Files:
    """A run directory as it looks from one look to the next."""

    def __init__(self, *looks: tuple[str, object]) -> None:
        self.looks = list(looks)

    async def await_file(self, directory, names):
        while True:
            name, content = self.looks.pop(0)
            if name in names:
                return name, content if isinstance(content, bytes) else json.dumps(content).encode()


def arrives(monkeypatch, *looks: tuple[str, object]) -> tuple[Arrival, int]:
    monkeypatch.setattr(arrival, "STALE_PAUSE", 0)
    started: list[int] = []
    found = asyncio.run(await_supervisor(Files(*looks), "/run", "ours", lambda: started.append(1)))
    return found, len(started)


def test_the_log_tells_of_the_start_and_the_connection_file_of_the_supervisor(monkeypatch):
    looks = [("job.log", b"loading modules"), ("job.log", b"loading modules"), ("connection.json", CONNECTION)]
    assert arrives(monkeypatch, *looks) == (Arrival("c1", ("10.0.0.1", "c1"), 4711), 2)


def test_files_that_are_not_whole_or_not_ours_are_looked_at_again(monkeypatch):
    whole = json.dumps(CONNECTION).encode()
    others = {**CONNECTION, "nonce": "another launch's"}
    odd = [{"nonce": "ours"}, {**CONNECTION, "port": None}, {**CONNECTION, "hosts": 5}, [], None]
    looks = [("connection.json", each) for each in (b"{", whole[:40], others, *odd, CONNECTION)]
    found, started = arrives(monkeypatch, *looks)
    assert found.port == 4711
    assert started == 1
