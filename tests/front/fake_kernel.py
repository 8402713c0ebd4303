"""A kernel's five sockets in the hands of a test, which says itself what the kernel takes, answers and publishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq
from wire import INFO, Read, make, party, read

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
PROBE = [b"slurm-provisioner"]
#: Milliseconds until what does not come counts as lost.
PATIENCE = 60_000


class FakeKernel:
    """Serves on ipc in a folder; with `late`, only once `bind` is called.

    Parameters
    ----------
    folder : str
        With a short path.
    marks : int
        Messages that its sockets keep in each direction; 0 for any number.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: str, *, late: bool = False, marks: int = 1000):
        self.endpoints = {"transport": "ipc", "ip": f"{folder}/f"}
        self.endpoints |= {f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)}
        self.session = party("fake kernel")
        self.sockets = {}
        for channel in CHANNELS:
            sock = context.socket(zmq.XPUB if channel == "iopub" else zmq.ROUTER)
            sock.set_hwm(marks)
            sock.linger = 0
            self.sockets[channel] = sock
        self.sockets["iopub"].setsockopt(zmq.XPUB_NODROP, 1)
        if not late:
            self.bind()

    def bind(self) -> None:
        for number, channel in enumerate(CHANNELS, 1):
            self.sockets[channel].bind(f"ipc://{self.endpoints['ip']}-{number}")

    def close(self) -> None:
        """As if killed: what was not yet sent is lost, and nothing is answered any more."""
        for sock in self.sockets.values():
            sock.close()

    def receive(self, channel: str, timeout: int = PATIENCE) -> list[bytes]:
        assert self.sockets[channel].poll(timeout), f"the kernel got nothing on {channel}"
        return self.sockets[channel].recv_multipart()

    def probed(self) -> Read:
        """The front's next question whether it is there."""
        self._address, *frames = self.receive("shell")
        message = read(frames)
        assert message.identities == PROBE
        return message

    def subscribed(self) -> None:
        assert self.receive("iopub") == [b"\1"]

    def take(self, channel: str = "shell") -> Read:
        """The next message of a client; the front's own questions before it are answered."""
        return read(self.take_frames(channel))

    def take_frames(self, channel: str = "shell") -> list[bytes]:
        """The same, whoever signed it."""
        while True:
            self._address, *frames = self.receive(channel)
            if frames[:1] != PROBE:
                return frames
            self.answer_probe(read(frames))

    def answer_probe(self, probe: Read, implementation: str = "fake") -> None:
        self.publish("status", probe, execution_state="busy")
        self.reply(probe, {**INFO, "implementation": implementation})
        self.publish("status", probe, execution_state="idle")

    def send(self, channel: str, frames: Sequence[bytes]) -> None:
        self.sockets[channel].send_multipart(frames)

    def reply(
        self, request: Read, content: dict[str, Any], channel: str = "shell", kind: str = "", **more: Any
    ) -> None:
        kind = kind or request.kind.replace("_request", "_reply")
        self.to(request, channel, kind, content, **more)

    def to(self, request: Read, channel: str, kind: str, content: dict[str, Any], **more: Any) -> None:
        """Send something to who asked."""
        frames = make(self.session, kind, content, request.header, identities=request.identities, **more)
        self.send(channel, [self._address, *frames])

    def publish(self, kind: str, parent: Read | None = None, buffers: Sequence[bytes] = (), **content: Any) -> None:
        frames = make(
            self.session, kind, content, parent.header if parent else None, identities=[kind.encode()], buffers=buffers
        )
        self.send("iopub", frames)

    def finish(self, request: Read, channel: str = "shell", **content: Any) -> None:
        """Do what was asked."""
        self.publish("status", request, execution_state="busy")
        self.reply(request, {"status": "ok", **content}, channel)
        self.publish("status", request, execution_state="idle")
