"""ZMTP as libzmq speaks it: what goes over a connection, taken apart wherever it was cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_provisioner.front import zmtp
from slurm_provisioner.front.zmtp import GREETING, Command, Decoder, ProtocolError

messages = st.lists(st.lists(st.binary(max_size=600), min_size=1, max_size=8), max_size=8)


def decoded(data, cuts=()):
    """What a decoder finds in bytes that come in pieces: commands, and the frames of messages."""
    decoder, found = Decoder(), []
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, end in itertools.pairwise(places):
        found += decoder.feed(data[start:end])
    return [each if isinstance(each, Command) else zmtp.unpack(each) for each in found]


@given(messages=messages, cuts=st.lists(st.integers(min_value=0), max_size=20))
def test_messages_come_whole_however_they_were_cut(messages, cuts):
    data = GREETING + zmtp.ready("DEALER", b"me") + b"".join(map(zmtp.pack, messages))
    ready, *found = decoded(data, cuts)
    assert ready.name == b"READY"
    assert ready.properties() == {b"socket-type": b"DEALER", b"identity": b"me"}
    assert found == messages


def test_every_byte_may_come_alone():
    data = GREETING + zmtp.pack([b"", b"x" * 255, b"y" * 256, b"z"])
    assert decoded(data, range(len(data))) == [[b"", b"x" * 255, b"y" * 256, b"z"]]


def test_a_large_frame_in_small_pieces():
    body = bytes(range(256)) * 10_000
    assert decoded(GREETING + zmtp.pack([b"topic", body]), range(0, 3_000_000, 1000)) == [[b"topic", body]]


def test_frames_that_are_many_and_large_in_pieces():
    frames = [bytes([number]) * 5000 for number in range(50)]
    assert decoded(GREETING + zmtp.pack(frames) + zmtp.pack([b"end"]), range(0, 300_000, 777)) == [frames, [b"end"]]


@given(cuts=st.lists(st.integers(min_value=0), max_size=20), size=st.sampled_from([1, 255, 10_000]))
def test_a_command_may_come_amid_a_message(cuts, size):
    ping = zmtp.pong(Command(b"PING", b"\0\x0acontext"))
    packed = zmtp.pack([b"x" * size, b"y"])
    data = GREETING + ping + packed[:-3] + ping + packed[-3:] + ping + zmtp.pack([b"z"])
    command = Command(b"PONG", b"context")
    found = decoded(data, cuts)
    assert [each for each in found if each == command] == [command] * 3
    assert [each for each in found if each != command] == [[b"x" * size, b"y"], [b"z"]]


def test_a_message_is_passed_on_as_it_came():
    packed = b"\3" + (1).to_bytes(8, "big") + b"a" + b"\0\1b"  # a short frame may say its length in long
    (message,) = Decoder().feed(GREETING + packed)
    assert message == packed
    assert zmtp.first(message) == b"a"
    assert zmtp.unpack(message) == [b"a", b"b"]


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 65_536])
def test_the_length_is_as_the_specification_has_it(size):
    packed = zmtp.pack([bytes(size)])
    assert packed[: len(packed) - size] == (bytes([0, size]) if size < 256 else b"\2" + size.to_bytes(8, "big"))


def test_a_ping_is_answered_with_its_context():
    ping = Command(b"PING", b"\0\x0acontext")
    (pong,) = decoded(GREETING + zmtp.pong(ping))
    assert pong == Command(b"PONG", b"context")


WITH_CURVE = GREETING.replace(b"NULL\0", b"CURVE")
STRANGE = {
    "http": b"GET / HTTP/1.1\r\n".ljust(64, b"\n"),
    "nothing": bytes(64),
    "version 2": GREETING[:10] + b"\1" + GREETING[11:],
    "security": WITH_CURVE,
    "a command without a name": GREETING + b"\4\0",
    "a command without end": GREETING + b"\6" + (2**40).to_bytes(8, "big"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_something_else_is_refused(what):
    with pytest.raises(ProtocolError):
        decoded(STRANGE[what])


@given(noise=st.binary(max_size=500))
def test_noise_ends_in_nothing_worse(noise):
    try:
        for each in decoded(GREETING + noise):
            if isinstance(each, Command):
                each.properties()
    except ProtocolError:
        pass
