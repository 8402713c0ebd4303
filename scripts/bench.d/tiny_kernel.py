"""A kernel that does next to nothing and takes little memory: of it, hundreds fit on one machine.

    python3 tiny_kernel.py CONNECTION_FILE

It answers to kernel_info, to cells that are expressions, and to a shutdown, as "Messaging in Jupyter" has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import zmq

DELIMITER = b"<IDS|MSG>"
INFO = {
    "protocol_version": "5.3",
    "implementation": "tiny",
    "implementation_version": "1",
    "language_info": {"name": "python", "version": "3", "mimetype": "text/x-python", "file_extension": ".py"},
    "banner": "",
    "help_links": [],
}


class Kernel:
    """Answers, one message at a time."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.key = info["key"].encode()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        joint = "-" if info["transport"] == "ipc" else ":"

        def bind(kind: int, channel: str) -> zmq.Socket[bytes]:
            sock = context.socket(kind)
            sock.bind(f"{info['transport']}://{info['ip']}{joint}{info[f'{channel}_port']}")
            return sock

        self.channels = {channel: bind(zmq.ROUTER, channel) for channel in ("shell", "control", "hb", "stdin")}
        self.iopub = bind(zmq.PUB, "iopub")
        self.session = uuid.uuid4().hex
        self.count = 0

    def send(
        self, sock: zmq.Socket[bytes], idents: list[bytes], kind: str, content: Any, parent: dict[str, Any]
    ) -> None:
        header = {
            "msg_id": uuid.uuid4().hex,
            "session": self.session,
            "username": "",
            "date": parent.get("date", "2026-01-01T00:00:00Z"),
            "msg_type": kind,
            "version": "5.3",
        }
        parts = [json.dumps(each).encode() for each in (header, parent, {}, content)]
        digest = hmac.new(self.key, b"".join(parts), hashlib.sha256).hexdigest().encode()
        sock.send_multipart([*idents, DELIMITER, digest, *parts])

    def publish(self, kind: str, content: Any, parent: dict[str, Any]) -> None:
        self.send(self.iopub, [kind.encode()], kind, content, parent)

    def answer(self, channel: str, frames: list[bytes]) -> bool:
        """Answer a message; return whether there is to be another one."""
        sock = self.channels[channel]
        if channel == "hb":
            sock.send_multipart(frames)
            return True
        at = frames.index(DELIMITER)
        idents, header, content = frames[:at], json.loads(frames[at + 2]), json.loads(frames[at + 5])
        kind = header["msg_type"]
        self.publish("status", {"execution_state": "busy"}, header)
        reply: dict[str, Any] = {"status": "ok"}
        if kind == "kernel_info_request":
            reply.update(INFO)
        elif kind == "execute_request":
            self.count += 1
            reply.update(execution_count=self.count, user_expressions={}, payload=[])
            result = {
                "execution_count": self.count,
                "data": {"text/plain": repr(eval(content["code"]))},
                "metadata": {},
            }
            self.publish("execute_result", result, header)
        self.send(sock, idents, kind.replace("_request", "_reply"), reply, header)
        self.publish("status", {"execution_state": "idle"}, header)
        return bool(kind != "shutdown_request")

    def run(self) -> None:
        poller = zmq.Poller()
        for sock in self.channels.values():
            poller.register(sock, zmq.POLLIN)
        goes_on = True
        while goes_on:
            with contextlib.suppress(KeyboardInterrupt):
                ready = dict(poller.poll())
                for channel, sock in self.channels.items():
                    if sock in ready:
                        goes_on &= self.answer(channel, sock.recv_multipart())


if __name__ == "__main__":
    Kernel(json.loads(Path(sys.argv[-1]).read_text())).run()
