"""Messages are told from everything else, and only those with the right signature are messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from wire import KEY, SCHEME, make, party, read, signature

from slurm_provisioner.front.messages import Codec

CODEC = Codec(KEY, SCHEME)
OTHER = b"another key"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)
contents = st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=3)


def signed(*parts: bytes) -> list[bytes]:
    return [b"<IDS|MSG>", signature(parts), *parts]


@given(contents, st.lists(st.binary(min_size=1, max_size=9), max_size=3), st.lists(st.binary(), max_size=3))
def test_a_message_is_read_as_it_was_made(content, identities, buffers):
    assume(b"<IDS|MSG>" not in identities)
    frames = make(party("a"), "comm_msg", content, {"msg_id": "p"}, identities=identities, buffers=buffers)
    message = CODEC.read(frames)
    assert message is not None
    assert (message.kind, message.session, message.parent_id) == ("comm_msg", "a", "p")
    assert message.frames is frames
    assert message.identities == identities
    assert CODEC.content(message) == content
    assert message.size == sum(map(len, frames))


@given(contents, contents)
def test_what_it_makes_has_the_right_signature(content, parent):
    made = read(CODEC.make("status", content, parent, [b"topic"]))
    assert (made.kind, made.content, made.parent, made.identities) == ("status", content, parent, [b"topic"])


@given(st.lists(st.binary()) | st.lists(st.binary(), max_size=6).map(lambda frames: [b"<IDS|MSG>", *frames]))
def test_noise_is_no_message(frames):
    assert CODEC.read(frames) is None


@given(st.data())
def test_nothing_that_is_signed_can_be_changed(data):
    frames = make(party("a"), "execute_request", {"code": "1"}, {"msg_id": "p"}, identities=[b"me"])
    number = data.draw(st.integers(2, len(frames) - 1))
    position = data.draw(st.integers(0, len(frames[number]) - 1))
    changed = bytearray(frames[number])
    changed[position] ^= data.draw(st.integers(1, 255))
    frames[number] = bytes(changed)
    assert CODEC.read(frames) is None


@pytest.mark.parametrize(
    "frames",
    [
        make(party("a", OTHER), "execute_request"),
        make(party("a", b""), "execute_request"),
        signed(b"{}", b"{}", b"{}", b"{}"),
        signed(b"[]", b"{}", b"{}", b"{}"),
        signed(b"null", b"{}", b"{}", b"{}"),
        signed(b"{", b"{}", b"{}", b"{}"),
        signed(b"\xff", b"{}", b"{}", b"{}"),
        signed(b"[" * 100_000, b"{}", b"{}", b"{}"),
        signed(b'{"msg_type": 1, "msg_id": "a"}', b"{}", b"{}", b"{}"),
        signed(b'{"msg_type": "a", "msg_id": null}', b"{}", b"{}", b"{}"),
        signed(b'{"msg_type": "a", "msg_id": "\\ud800"}', b"{}", b"{}", b"{}"),  # no reply can name it
        signed(b'{"msg_type": "a", "msg_id": "a"}', b"1", b"{}", b"{}"),
        signed(b'{"msg_type": "a", "msg_id": "a"}', b"{}", b"{}"),
        make(party("a"), "execute_request")[1:],
        [],
    ],
)
def test_what_is_no_message(frames):
    assert CODEC.read(frames) is None


@pytest.mark.parametrize("content", [b"[]", b"1", b"{", b"[" * 100_000])
def test_a_content_that_is_none_is_empty(content):
    message = CODEC.read(signed(b'{"msg_type": "a", "msg_id": "a"}', b"{}", b"{}", content))
    assert message is not None
    assert CODEC.content(message) == {}


def test_without_a_key_nothing_is_signed():
    codec = Codec(b"", SCHEME)
    message = codec.read(make(party("a", b""), "execute_request"))
    assert message is not None
    assert codec.make("status", {})[1] == b""


def test_it_speaks_as_the_kernel_once_that_is_known():
    codec = Codec(KEY, SCHEME)
    codec.adopt("the kernel's")
    header = json.loads(codec.make("status", {})[2])
    assert header["session"] == "the kernel's"
