"""Kernels as their users have them, for tests of all parts."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

#: What every kernel of the suite asks for, so that many fit on a small cluster.
RESOURCES = {"time": "10", "mem": "500M", "cpus_per_task": 1}
#: Seconds for what comes in one of them if all is well, on a machine with much else to do.
PATIENCE = 60.0
#: Tells how long everything took to happen: ``--log-cli-level=INFO`` shows it.
log = logging.getLogger("tests")


def eventually(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Wait for a condition of the world outside, of which there is no event."""
    begin = asked = time.monotonic()
    while not (result := condition()):
        assert time.monotonic() < begin + timeout, f"never happened: {what}"
        time.sleep(max(0.02, time.monotonic() - asked))  # whom we wait for is to have half of the time at least
        asked = time.monotonic()
    log.info("%s after %.2f s", what, time.monotonic() - begin)
    return result


def plain(text: str) -> str:
    """An error without colours, on one line: how its lines are broken is not what the tests are about."""
    return " ".join(re.sub(r"\x1b\[\d+m", "", text).split())


def install_kernelspec(
    data_dir: Path,
    name: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    config: Mapping[str, Any] | None,
    *,
    interrupt_mode: str = "signal",
) -> str:
    """Install a kernelspec, whose kernels are run by us if there is a config; return its name."""
    folder = data_dir / "kernels" / name
    folder.mkdir(parents=True, exist_ok=True)
    spec: dict[str, Any] = {"display_name": name, "language": "python", "argv": [*argv], "env": {**env}}
    spec["interrupt_mode"] = interrupt_mode
    if config is not None:
        spec["metadata"] = {"kernel_provisioner": {"provisioner_name": "slurm-provisioner", "config": {**config}}}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return name


class Heard:
    """What a cell prints or returns; an error is raised as RuntimeError, with its traceback."""

    def __init__(self) -> None:
        self._printed: list[str] = []
        self._failed: list[str] = []

    def __call__(self, msg: dict[str, Any]) -> None:
        content = msg["content"]
        if msg["msg_type"] == "stream":
            self._printed.append(content["text"])
        elif msg["msg_type"] == "execute_result":
            self._printed.append(content["data"]["text/plain"])
        elif msg["msg_type"] == "error":
            self._failed.append("\n".join(content["traceback"]))

    def text(self) -> str:
        if self._failed:
            raise RuntimeError(self._failed[0])
        return "".join(self._printed).strip()


class Kernel:
    """A started kernel and a client of it, with the few verbs that the tests need."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.client: BlockingKernelClient = manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    @property
    def job_id(self) -> str:
        return self.manager.provisioner.job_id

    def run(self, code: str, timeout: float = PATIENCE, **kwargs: Any) -> str:
        """What some code prints or returns; an error is raised as RuntimeError."""
        heard = Heard()
        self.client.execute_interactive(code, timeout=timeout, output_hook=heard, **kwargs)
        return heard.text()

    def begin(self, code: str) -> str:
        """Run a cell, which begins by printing "begun", and return its request's id once it has."""
        request: str = self.client.execute(code, stop_on_error=False)  # what is run next must not be aborted
        while (msg := self.client.get_iopub_msg(timeout=PATIENCE))["msg_type"] != "stream":
            pass
        assert msg["content"]["text"] == "begun\n"
        return request

    def reply(self, request: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait for the reply to a request."""
        while (reply := self.client.get_shell_msg(timeout=timeout))["parent_header"].get("msg_id") != request:
            pass
        return reply["content"]

    def interrupt(self, code: str) -> dict[str, Any]:
        """Interrupt a cell, which begins by printing "begun", and return its reply."""
        request = self.begin(code)
        for _ in range(3):
            self.manager.interrupt_kernel()
            with contextlib.suppress(Empty):  # one in a hundred is lost on ipykernel while it prints, locally too
                return self.reply(request, timeout=10)
        raise AssertionError("interrupts are lost")

    def restart(self, *, now: bool = False) -> None:
        self.manager.restart_kernel(now=now)
        self.client.wait_for_ready(timeout=PATIENCE)

    def close(self) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel()
        self.manager.cleanup_resources()
