"""ZMTP 3.0, the protocol that ZeroMQ's sockets speak on a connection, as far as Jupyter's need it. Pure.

Frames in and out, and the greeting; there is no security but that of what carries them. Source: ZeroMQ RFC 23,
https://rfc.zeromq.org/spec/23/. libzmq would do the same with a thread, a mailbox and two buffers for each socket, of
which a server has ten for each of its kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = [
    "GREETING",
    "Command",
    "Decoder",
    "Frames",
    "ProtocolError",
    "addressed",
    "first",
    "pack",
    "pong",
    "ready",
    "split",
    "unpack",
]

#: A message.
Frames = Sequence[bytes]

_SIGNATURE, _VERSION, _MECHANISM = b"\xff" + bytes(8) + b"\x7f", bytes([3, 0]), b"NULL".ljust(20, b"\0")
#: What both sides begin with. With this version, peers tell their subscriptions by messages.
GREETING = (_SIGNATURE + _VERSION + _MECHANISM).ljust(64, b"\0")
_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_BYTES = 255
#: Bytes of a command at most: they are few.
_COMMAND_BYTES = 2**16
#: Bytes of a message's first frames up to which they are looked at again when more of it has come.
_SHORT_BEGINNING = 2**12


class ProtocolError(Exception):
    """What came is not ZMTP 3 without security."""


@dataclass(frozen=True)
class Command:
    """What the other side's socket says to ours.

    Attributes
    ----------
    name : bytes
        Such as ``READY``.
    body : bytes
        The rest.
    """

    name: bytes
    body: bytes

    def properties(self) -> dict[bytes, bytes]:
        """Return the properties of a ``READY``: names in small letters, and their values."""
        found, rest = {}, self.body
        while rest:
            end = 1 + rest[0]
            name, size = rest[1:end].lower(), int.from_bytes(rest[end : end + 4], "big")
            found[name], rest = rest[end + 4 : end + 4 + size], rest[end + 4 + size :]
        return found


def ready(kind: str, identity: bytes) -> bytes:
    """Return the command that ends our side of the handshake.

    Parameters
    ----------
    kind : str
        The type of our socket.
    identity : bytes
        Its name, by which a ROUTER knows it again; empty for none.
    """
    body = _property(b"Socket-Type", kind.encode()) + (_property(b"Identity", identity) if identity else b"")
    return _command(b"READY", body)


def pong(ping: Command) -> bytes:
    """Return the answer to a ``PING`` (RFC 37), of which some peers make sure that we live."""
    return _command(b"PONG", ping.body[2:])


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


def _command(name: bytes, body: bytes) -> bytes:
    whole = bytes([len(name)]) + name + body
    return _head(_COMMAND, len(whole)) + whole


def _head(flags: int, size: int) -> bytes:
    if size > _SHORT_BYTES:
        return bytes([flags | _LONG]) + size.to_bytes(8, "big")
    return bytes([flags, size])


def pack(frames: Frames) -> bytes:
    """Return a message as it goes over a connection."""
    last = len(frames) - 1
    pieces = []
    for number, frame in enumerate(frames):
        pieces += [_head(_MORE if number < last else 0, len(frame)), frame]
    return b"".join(pieces)


def unpack(message: bytes) -> list[bytes]:
    """Return the frames of a message, as they came over a connection."""
    frames, end = [], 0
    while end < len(message):
        start, end = _body(message, end)
        frames.append(message[start:end])
    return frames


def first(message: bytes) -> bytes:
    """Return the first frame of a message, as it came over a connection."""
    start, end = _body(message, 0)
    return message[start:end]


def addressed(name: bytes, message: bytes) -> bytes:
    """Return a packed message with one more frame in front: whose it is."""
    return _head(_MORE, len(name)) + name + message


def split(message: bytes) -> tuple[bytes, bytes]:
    """Return the first frame of a packed message, and the others as a message, which is empty if there are none."""
    start, end = _body(message, 0)
    return message[start:end], message[end:]


def _body(data: bytes, at: int) -> tuple[int, int]:
    """Return where the body of a frame begins and ends, whose head is there."""
    start = at + (9 if data[at] & _LONG else 2)
    return start, start + int.from_bytes(data[at + 1 : start], "big")


class Decoder:
    """Takes what comes by one connection apart."""

    def __init__(self) -> None:
        self._greeted = False
        self._begun: list[bytes] = []  # whole frames of a message that is not whole
        self._pieces: list[bytes] = []  # and what came after those
        self._missing = len(GREETING)

    def feed(self, data: bytes) -> Iterator[Command | bytes]:
        """Take some bytes; yield the commands that are whole now, and the messages, packed as they came.

        Raises
        ------
        ProtocolError
            They are no ZMTP that we speak.
        """
        self._pieces.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        data = b"".join(self._pieces) if len(self._pieces) > 1 else data
        self._pieces.clear()
        begin = at = 0
        if not self._greeted:
            _check(data)
            self._greeted, begin = True, len(GREETING)
            at = begin
        size = len(data)
        while True:
            flags = data[at] if at < size else 0
            start = end = at + (9 if flags & _LONG else 2)
            if start <= size:
                end += int.from_bytes(data[at + 1 : start], "big") if flags & _LONG else data[at + 1]
                if flags & _COMMAND and not 1 < end - start <= _COMMAND_BYTES:
                    raise ProtocolError(f"a command of {end - start} bytes")
            if end > size:
                self._missing = end - size
                break
            if flags & _COMMAND:
                name_end = start + 1 + data[start]
                yield Command(data[start + 1 : name_end], data[name_end:end])
                data = data[begin:at] + data[end:]  # it may come amid a message
                begin, at, size = 0, at - begin, len(data)
            elif flags & _MORE:
                at = end
            else:
                yield self._whole_message(data[begin:end])
                begin = at = end
        if at - begin > _SHORT_BEGINNING:
            self._begun.append(data[begin:at])
            begin = at
        if begin < len(data):
            self._pieces.append(data[begin:])

    def _whole_message(self, rest: bytes) -> bytes:
        if not self._begun:
            return rest
        message = b"".join((*self._begun, rest))
        self._begun.clear()
        return message


def _check(greeting: bytes) -> None:
    if greeting[0] != _SIGNATURE[0] or greeting[9] != _SIGNATURE[9] or greeting[10] < _VERSION[0]:
        raise ProtocolError("no greeting of ZMTP 3")
    if (mechanism := greeting[12:32]) != _MECHANISM:
        raise ProtocolError(f"security by {mechanism!r}")
