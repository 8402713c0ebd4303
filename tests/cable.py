"""For tests of what happens when a cable is cut, or its other end is gone."""

from __future__ import annotations

import pytest

from slurm_provisioner.transport import openssh

#: A cell that counts, for as long as there is no file; it tells how far it came in another one, every now and then.
COUNTER = """
import pathlib, time
print('begun', flush=True)
number = 0
while not pathlib.Path({go!r}).exists():
    number += 1
    print(number, flush=True)
    pathlib.Path({at!r}).write_text(str(number))
    time.sleep(0.02)
print('and ended')"""


def impatient_with_cable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a silent cable noticed soon, and tried again often."""
    seconds = {
        **dict.fromkeys(["transport.asyncssh.ALIVE_INTERVAL", "transport.ssh.SILENT_AFTER"], 1.0),
        **dict.fromkeys(["transport.asyncssh.CONNECT_TIMEOUT", "transport.openssh.CONNECT_TIMEOUT"], 2.0),
        **dict.fromkeys(["transport.lasting.RETRY_LAST", "transport.lookout.RETRY_LAST", "link.RETRY_LAST"], 1.0),
        **dict.fromkeys(["link.CONNECT_TIMEOUT", "link.ANSWER_TIMEOUT"], 2.0),
        **dict.fromkeys(["cluster.LATER_FIRST", "cluster.LATER_LAST", "slurm.FIND_PAUSE"], 1.0),
        "herald.LOST_AFTER": 1.0,
        "slurm.FIND_TRIES": 2,
    }
    for name, value in seconds.items():
        monkeypatch.setattr(f"slurm_provisioner.{name}", value)
    monkeypatch.setitem(openssh._MASTER, "ServerAliveInterval", "1")
    monkeypatch.setitem(openssh._MASTER, "ConnectTimeout", "2")
