"""Requests of clients that have no reply yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .messages import Codec, Message

__all__ = ["Ledger", "Request"]

#: Requests that a kernel may leave without a reply (some types it does not know) are remembered up to this number.
REMEMBERED = 10_000


@dataclass(frozen=True)
class Request:
    """What is needed to answer a request, and to show something in its cell.

    Attributes
    ----------
    channel : str
        The channel it came by.
    identities : list of bytes
        The way back.
    header : dict
        Its header.
    silent : bool
        Whether a cell's outputs are not wanted.
    """

    channel: str
    identities: list[bytes]
    header: dict[str, Any]
    silent: bool

    @classmethod
    def of(cls, channel: str, message: Message, codec: Codec) -> Request:
        """Return a message as a request."""
        silent = message.kind == "execute_request" and bool(codec.content(message).get("silent"))
        return cls(channel, message.identities, message.header, silent)

    @property
    def kind(self) -> str:
        """The request's type."""
        return str(self.header["msg_type"])

    @property
    def session(self) -> str:
        """The client's session."""
        return str(self.header.get("session", ""))

    @property
    def executes(self) -> bool:
        """Whether it runs a cell."""
        return self.kind == "execute_request"


class Ledger:
    """The requests that a kernel was given and has not answered, in their order."""

    def __init__(self) -> None:
        self._open: dict[str, Request] = {}
        #: The cell that was run last.
        self.last: Request | None = None

    def note(self, request: Request) -> None:
        """Enter a request."""
        if not request.kind.endswith("_request"):
            return
        self._open[str(request.header["msg_id"])] = request
        if request.executes and not request.silent:
            self.last = request
        if len(self._open) > REMEMBERED:
            others = (msg_id for msg_id, each in self._open.items() if not each.executes)
            del self._open[next(others, next(iter(self._open)))]

    def answered(self, msg_id: str) -> None:
        """Strike out a request."""
        self._open.pop(msg_id, None)

    def take_all(self) -> list[Request]:
        """Return all that is open, and close it."""
        requests = list(self._open.values())
        self._open.clear()
        return requests

    def running(self) -> list[Request]:
        """Return the cells that run: the first of each client's session."""
        return first_of_each(self._open.values())


def first_of_each(requests: Iterable[Request]) -> list[Request]:
    """Return each session's first cell that shows outputs."""
    firsts: dict[str, Request] = {}
    for request in requests:
        if request.executes and not request.silent:
            firsts.setdefault(request.session, request)
    return list(firsts.values())
