"""Jupyter's messages as frames: told apart, checked, and made. Pure.

Source: "The Wire Protocol" in jupyter_client's documentation of messaging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any

from jupyter_client.session import DELIM, Session

from .zmtp import Frames

__all__ = ["Codec", "Message"]


@dataclass(frozen=True)
class Message:
    """A message of which the signature is right.

    Attributes
    ----------
    frames : sequence
        The whole of it, as it came.
    identities : list of bytes
        The way back to its sender.
    header, parent : dict
        Its header, and that of the message it answers, which may be empty.
    packed : bytes
        Its content, as JSON.
    size : int
        Its bytes, buffers included.
    """

    frames: Frames
    identities: list[bytes]
    header: dict[str, Any]
    parent: dict[str, Any]
    packed: bytes
    size: int

    @property
    def kind(self) -> str:
        """The message's type."""
        return str(self.header["msg_type"])

    @property
    def id(self) -> str:
        """The message's id."""
        return str(self.header["msg_id"])

    @property
    def session(self) -> str:
        """The session of its sender."""
        return str(self.header.get("session", ""))

    @property
    def parent_id(self) -> str:
        """The id of the message that it answers, or ""."""
        return str(self.parent.get("msg_id", ""))


class Codec:
    """Reads and makes messages that are signed with a kernel's key.

    Parameters
    ----------
    key : bytes
        The key; with an empty one, nothing is signed.
    signature_scheme : str
        Such as ``hmac-sha256``.
    """

    def __init__(self, key: bytes, signature_scheme: str) -> None:
        self._session = Session(key=key, signature_scheme=signature_scheme, username="slurm-provisioner")

    def adopt(self, session: str) -> None:
        """Speak as a kernel's session from now on: JupyterLab drops what it has yet to handle of another one."""
        self._session.session = session

    def read(self, frames: Frames) -> Message | None:
        """Return a message, or None if it is none or its signature is wrong."""
        try:
            start = frames.index(DELIM) + 1
            signature, *signed = frames[start : start + 5]
            if self._session.auth is not None and not compare_digest(signature, self._session.sign(signed)):
                return None
            header, parent, _, content = signed
            message = Message(
                frames=frames,
                identities=list(frames[: start - 1]),
                header=dict(self._session.unpack(header)),
                parent=dict(self._session.unpack(parent)),
                packed=content,
                size=sum(map(len, frames)),
            )
            self._session.pack(message.header)  # what cannot be written again cannot be answered
        except (ValueError, TypeError, RecursionError):
            return None
        known = isinstance(message.header.get("msg_type"), str) and isinstance(message.header.get("msg_id"), str)
        return message if known else None

    def parent_id(self, frames: Frames) -> str:
        """Return the id of the message that another one answers, "" if none, without a look at the rest of it."""
        try:
            parent = self._session.unpack(frames[frames.index(DELIM) + 3])
            return str(parent.get("msg_id", ""))
        except (ValueError, IndexError, TypeError, AttributeError, RecursionError):
            return ""

    def content(self, message: Message) -> dict[str, Any]:
        """Return a message's content; {} if it is none."""
        try:
            return dict(self._session.unpack(message.packed))
        except (ValueError, TypeError, RecursionError):
            return {}

    def make(
        self,
        kind: str,
        content: Mapping[str, Any],
        parent: Mapping[str, Any] | None = None,
        identities: Sequence[bytes] = (),
    ) -> list[bytes]:
        """Return a new message's frames, with the identities or the topic in front."""
        message = self._session.msg(kind, content=dict(content), parent={"header": dict(parent or {})})
        return self._session.serialize(message, ident=list(identities))
