"""A stand-in without sockets, with clients and a kernel of the tests' own on both sides."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from wire import INFO, KEY, SCHEME, Listens, Read, make, party, read

from slurm_provisioner.front import zmtp
from slurm_provisioner.front.messages import Codec, Frames
from slurm_provisioner.front.notice import Failure
from slurm_provisioner.front.standin import StandIn, State

ENDED = Failure("JobEndedError", "Job 1 ended.", ("JobEndedError: Job 1 ended.",))
WAITING = (State.WAITING, State.ATTACHING)
PROBE = [b"slurm-provisioner"]


class Stage:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Read, State]] = []
        self.forwarded: list[tuple[str, Read]] = []
        self.noise: list[tuple[str, Frames]] = []  # forwarded, though it cannot be read
        self.probes: list[Read] = []
        self.ups: list[dict[str, Any]] = []
        self.kernel = party("kernel")
        self.standin = StandIn(Codec(KEY, SCHEME), self._to_clients, self._to_kernel, INFO, Listens(self.ups.append))
        self._seen = 0

    def _to_clients(self, channel: str, packed: bytes) -> None:
        self.sent.append((channel, read(zmtp.unpack(packed)), self.standin.state))

    def _to_kernel(self, channel: str, packed: bytes) -> None:
        frames = zmtp.unpack(packed)
        message = None
        with suppress(AssertionError, ValueError, TypeError):
            message = read(frames)
        if message is None or not isinstance(message.header, dict):
            self.noise.append((channel, frames))
        elif message.identities == PROBE:
            assert (channel, message.kind) == ("shell", "kernel_info_request")
            self.probes.append(message)
        else:
            self.forwarded.append((channel, message))

    def from_client(self, channel: str, frames: Frames) -> None:
        self.standin.from_client(channel, zmtp.pack(frames))

    def from_kernel(self, channel: str, frames: Frames) -> None:
        self.standin.from_kernel(channel, zmtp.pack(frames))

    # ------------------------------------------------------------------- clients

    def ask(
        self, client: str, kind: str, channel: str = "shell", buffers: Iterable[bytes] = (), **content: Any
    ) -> Read:
        """Send what a client says; return it."""
        frames = make(party(client), kind, content, identities=[client.encode()], buffers=list(buffers))
        self.from_client(channel, frames)
        return read(frames)

    def execute(self, client: str, **content: Any) -> Read:
        return self.ask(client, "execute_request", **content)

    def news(self, about: Read | None = None) -> list[str]:
        """What clients heard since the last look, of one request or of all."""
        new, self._seen = self.sent[self._seen :], len(self.sent)
        return [message.brief for _, message, _ in new if about is None or message.parent_id == about.id]

    # -------------------------------------------------------------------- kernel

    def answer_probe(self) -> None:
        reply = make(
            self.kernel,
            "kernel_info_reply",
            {**INFO, "implementation": "kernel"},
            self.probes[-1].header,
            identities=self.probes[-1].identities,
        )
        self.from_kernel("shell", reply)

    def publish(self, kind: str = "status", parent: Read | None = None, **content: Any) -> None:
        """Have the kernel publish; while it runs, that passes by the stand-in."""
        content = content or {"execution_state": "idle"}
        frames = make(self.kernel, kind, content, parent.header if parent else None, identities=[b"topic"])
        if self.standin.state is State.RUNNING:
            self._to_clients("iopub", zmtp.pack(frames))
        else:
            self.from_kernel("iopub", frames)

    def run(self) -> None:
        """Have the kernel begin to answer."""
        self.standin.attach()
        self.publish()
        self.answer_probe()
        assert self.standin.state is State.RUNNING

    def finish(self, channel: str, request: Read, status: str = "ok") -> None:
        """Have the kernel do what it was asked."""
        self.publish("status", request, execution_state="busy")
        kind = request.kind.replace("_request", "_reply")
        self.from_kernel(
            channel, make(self.kernel, kind, {"status": status}, request.header, identities=request.identities)
        )
        self.publish("status", request, execution_state="idle")
