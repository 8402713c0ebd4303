"""Messages as clients and kernels make them, and as the tests read them: with a look of their own at the signature."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jupyter_client.session import Session

KEY = b"the key of the tests"
SCHEME = "hmac-sha256"
INFO = {
    "status": "ok",
    "protocol_version": "5.3",
    "implementation": "stand-in",
    "implementation_version": "",
    "banner": "",
    "language_info": {"name": "python", "version": "", "mimetype": "", "file_extension": ""},
}


def signature(parts: Iterable[bytes], key: bytes = KEY) -> bytes:
    return hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()


@cache
def party(name: str, key: bytes = KEY) -> Session:
    """One that takes part in a conversation, and numbers its messages."""
    return Session(key=key, signature_scheme=SCHEME, session=name)


def make(
    sender: Session,
    kind: str,
    content: Mapping[str, Any] | None = None,
    parent: Mapping[str, Any] | None = None,
    *,
    identities: Sequence[bytes] = (),
    buffers: Sequence[bytes] = (),
) -> list[bytes]:
    message = sender.msg(kind, content=dict(content or {}), parent={"header": dict(parent or {})})
    return [*sender.serialize(message, ident=list(identities)), *buffers]


@dataclass(frozen=True)
class Read:
    """A message of which the signature was found to be right."""

    frames: list[bytes]
    identities: list[bytes]
    header: dict[str, Any]
    parent: dict[str, Any]
    metadata: dict[str, Any]
    content: dict[str, Any]
    buffers: list[bytes]

    @property
    def kind(self) -> str:
        return self.header["msg_type"]

    @property
    def id(self) -> str:
        return self.header["msg_id"]

    @property
    def parent_id(self) -> str | None:
        return self.parent.get("msg_id")

    @property
    def brief(self) -> str:
        """The message in a word or two."""
        if self.kind == "status":
            return self.content["execution_state"]
        if self.kind in ("display_data", "update_display_data"):
            return f"{self.kind}: {self.content['data']['text/plain'].rstrip()}"
        if self.kind == "error":
            return f"error: {self.content['ename']}"
        if self.kind.endswith("_reply"):
            return f"{self.kind}: {self.content.get('status')}"
        return self.kind


def read(frames: Iterable[Any]) -> Read:
    plain = [bytes(frame) for frame in frames]
    start = plain.index(b"<IDS|MSG>")
    signed = plain[start + 2 : start + 6]
    assert plain[start + 1] == signature(signed), "a wrong signature"
    return Read(plain, plain[:start], *map(json.loads, signed), buffers=plain[start + 6 :])


class Listens:
    """Takes what a front tells: the kernel's info, and whether a cell shows where the job is."""

    def __init__(self, up: Callable[[dict[str, Any]], object]) -> None:
        self.up = up
        self.watching: list[bool] = []

    def watched(self, whether: bool) -> None:
        self.watching.append(whether)
