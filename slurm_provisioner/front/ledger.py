"""Requests of clients that have no reply yet. Pure.

What passes by is read later, or when somebody asks: nobody is to wait for that who works with a kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import zmtp
from .messages import Codec, Message

__all__ = ["Ledger", "Request", "first_of_each"]

log = logging.getLogger("slurm_provisioner")

#: Requests that a kernel may leave without a reply (some types it does not know) are remembered up to this number.
REMEMBERED = 10_000
#: Bytes that may wait to be read.
UNREAD_BYTES = 2**20


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
    """The requests that a kernel was given and has not answered, in their order.

    Parameters
    ----------
    codec : Codec
        Reads messages.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._open: dict[str, Request] = {}
        self._last: Request | None = None
        self._unread: list[tuple[str, bytes]] = []  # requests with their channels, replies with none
        self._unread_bytes = 0

    def asked(self, channel: str, packed: bytes) -> None:
        """Take a request, or what may be one."""
        self._put(channel, packed)

    def answered(self, packed: bytes) -> None:
        """Take a reply."""
        self._put("", packed)

    def _put(self, channel: str, packed: bytes) -> None:
        self._unread.append((channel, packed))
        self._unread_bytes += len(packed)
        if self._unread_bytes > UNREAD_BYTES:
            self.settle()

    def settle(self) -> None:
        """Read what has passed by."""
        unread, self._unread, self._unread_bytes = self._unread, [], 0
        for channel, packed in unread:
            frames = zmtp.unpack(packed)
            if not channel:
                self._open.pop(self._codec.parent_id(frames), None)
            elif (message := self._codec.read(frames)) is not None:
                self.note(Request.of(channel, message, self._codec))
            else:
                log.warning("The signature of a message on the %s channel is wrong.", channel)

    @property
    def last(self) -> Request | None:
        """The cell that was run last."""
        self.settle()
        return self._last

    def take_last(self) -> Request | None:
        """Return the cell that was run last, and have none be it until another one is run."""
        last, self._last = self.last, None
        return last

    def note(self, request: Request) -> None:
        """Enter a request."""
        if not request.kind.endswith("_request"):
            return
        self._open[str(request.header["msg_id"])] = request
        if request.executes and not request.silent:
            self._last = request
        if len(self._open) > REMEMBERED:
            others = (msg_id for msg_id, each in self._open.items() if not each.executes)
            del self._open[next(others, next(iter(self._open)))]

    def take_all(self) -> list[Request]:
        """Return all that is open, and close it."""
        self.settle()
        requests = list(self._open.values())
        self._open.clear()
        return requests

    def running(self) -> list[Request]:
        """Return the cells that run: the first of each client's session."""
        self.settle()
        return first_of_each(self._open.values())


def first_of_each(requests: Iterable[Request]) -> list[Request]:
    """Return each session's first cell that shows outputs."""
    firsts: dict[str, Request] = {}
    for request in requests:
        if request.executes and not request.silent:
            firsts.setdefault(request.session, request)
    return list(firsts.values())
