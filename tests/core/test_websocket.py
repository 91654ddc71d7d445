"""Frames, at every boundary, against the rules of RFC 6455; tests/fuzz holds them to wsproto's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.wire import websocket as ws
from agm.core.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    END,
    PING,
    TEXT,
    Closing,
    Collector,
    Control,
    Event,
    FrameReader,
    NotAnUpgrade,
    Violation,
    accept_of,
    frame,
    unmasked,
    upgrade_key,
)
from tests.core.cuts import cut_at, unhurried

MASK = b"\x01\x02\x03\x04"
DIALOGUE = [
    frame(TEXT, b'{"setup":{}}', MASK),
    frame(PING, b"are you there", b"abcd"),
    frame(BINARY, b"x" * 70_000, MASK, fin=False),
    frame(PING, b"", MASK),
    frame(CONTINUATION, b"y" * 200, b"\xff\x00\xff\x00", fin=False),
    frame(CONTINUATION, b"", MASK),
    frame(TEXT, "über".encode(), MASK),
    frame(CLOSE, Closing(1000, "done").payload, MASK),
]


def passed(events: list[Event]) -> bytes:
    return b"".join(event for event in events if isinstance(event, bytes))


@unhurried
@given(st.sets(st.integers(0, 71_000), max_size=12))
def test_data_passes_as_it_came_wherever_it_is_cut(cuts: set[int]) -> None:
    """Opcode, fragmentation and mask included; control frames are told apart, in their order."""
    whole = b"".join(DIALOGUE)
    collector = Collector()
    reader = FrameReader(masked=True, observer=collector)
    events = [event for piece in cut_at(whole, cuts) for event in reader.feed(piece)]
    assert passed(events) == b"".join(f for i, f in enumerate(DIALOGUE) if i not in (1, 3, 7))
    controls = [event for event in events if isinstance(event, Control)]
    assert controls == [Control(PING, b"are you there"), Control(PING, b""), Control(CLOSE, b"\x03\xe8done")]
    assert collector.complete == [
        (TEXT, b'{"setup":{}}'),
        (BINARY, b"x" * 70_000 + b"y" * 200),
        (TEXT, "über".encode()),
    ]
    assert reader.messages == 3
    assert not reader.mid_frame
    assert not reader.mid_message


def test_what_has_come_of_a_frame_is_passed_at_once() -> None:
    reader = FrameReader(masked=False)
    data = frame(BINARY, b"x" * 1000)
    assert reader.feed(data[:500]) == [data[:500]]
    assert reader.mid_frame
    assert reader.feed(data[500:]) == [data[500:]]
    assert not reader.mid_frame


def test_a_piece_that_passes_whole_is_not_copied() -> None:
    reader = FrameReader(masked=False)
    data = frame(BINARY, b"x" * 1000) + frame(TEXT, b"y")
    assert reader.feed(data)[0] is data


def test_the_end_of_each_message_is_told_where_that_was_asked() -> None:
    reader = FrameReader(masked=False)
    reader.split = True
    first, second, third = frame(TEXT, b"a"), frame(TEXT, b""), frame(TEXT, b"c")
    assert reader.feed(first + second + third[:2]) == [first, END, second, END, third[:2]]
    assert reader.feed(third[2:]) == [third[2:], END]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xc1\x00", 1002),  # a reserved bit
        (b"\x83\x00", 1002),  # reserved opcodes
        (b"\x8b\x00", 1002),
        (b"\x81\x80\x00\x00\x00\x00", 1002),  # masked by a server
        (b"\x09\x00", 1002),  # a fragmented ping
        (b"\x89\x7e\x00\x7e" + b"x" * 126, 1002),  # a long one
        (b"\x80\x00", 1002),  # continues nothing
        (b"\x01\x00\x81\x00", 1002),  # a message in a message
        (b"\x82\x7e\x00\x7d", 1002),  # lengths that are not the shortest
        (b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff", 1002),
        (b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", 1002),
        (b"\x82\x7e\x03\xe9", 1009),
        (b"\x02\x7e\x03\xe8" + b"x" * 1000 + b"\x80\x01", 1009),  # in two frames
        (b"\x81\x02\xc3\x28", 1007),
        (b"\x81\x01\xc3", 1007),
        (b"\x01\x01\xc3\x80\x01\x28", 1007),
    ],
)
def test_what_breaks_the_rules_is_refused_with_its_code(data: bytes, code: int) -> None:
    reader = FrameReader(masked=False, max_message=1000, observer=Collector())
    with pytest.raises(Violation) as caught:
        reader.feed(data)
    assert caught.value.code == code


def test_a_client_has_to_mask() -> None:
    with pytest.raises(Violation) as caught:
        FrameReader(masked=True).feed(frame(TEXT, b"a"))
    assert caught.value.code == 1002


def test_a_character_may_lie_across_frames() -> None:
    collector = Collector()
    reader = FrameReader(masked=False, observer=collector)
    reader.feed(frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"\xbc"))
    assert collector.complete == [(TEXT, "ü".encode())]


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4), st.integers(0, 7))
def test_a_mask_is_its_own_undoing(payload: bytes, mask: bytes, at: int) -> None:
    assert unmasked(unmasked(payload, mask, at), mask, at) == payload
    assert unmasked(payload, mask, at) == bytes(b ^ mask[(at + i) % 4] for i, b in enumerate(payload))


@pytest.mark.parametrize("size", [0, 125, 126, 0xFFFF, 0x10000])
def test_a_frame_says_its_length_in_the_shortest_form(size: int) -> None:
    collector = Collector()
    FrameReader(masked=True, observer=collector).feed(frame(BINARY, b"z" * size, MASK))
    assert collector.complete == [(BINARY, b"z" * size)]


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_a_code_that_may_not_be_sent_is_refused(code: int) -> None:
    with pytest.raises(Violation) as caught:
        Closing.of(code.to_bytes(2, "big"))
    assert caught.value.code == 1002


def test_a_reason_is_cut_between_characters() -> None:
    payload = Closing(1011, "ü" * 100).payload
    assert len(payload) <= 125
    assert Closing.of(payload).reason == "ü" * 61
    assert Closing.of(b"") == Closing(None, "")
    assert Closing().payload == b""
    with pytest.raises(Violation) as caught:
        Closing.of(b"\x03\xe8\xff")
    assert caught.value.code == 1007
    with pytest.raises(Violation):
        Closing.of(b"\x03")


HANDSHAKE = {
    b"upgrade": [b"WebSocket"],
    b"connection": [b"keep-alive, Upgrade"],
    b"sec-websocket-version": [b"13"],
    b"sec-websocket-key": [b"dGhlIHNhbXBsZSBub25jZQ=="],
}


def test_the_handshake_of_the_rfc() -> None:
    """RFC 6455, section 1.3."""
    key = upgrade_key(b"GET", b"HTTP/1.1", HANDSHAKE)
    assert accept_of(key) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({b"upgrade": []}, 426),
        ({b"upgrade": [b"h2c"]}, 426),
        ({b"connection": [b"keep-alive"]}, 400),
        ({b"sec-websocket-version": [b"8"]}, 426),
        ({b"sec-websocket-version": []}, 426),
        ({b"sec-websocket-key": []}, 400),
        ({b"sec-websocket-key": [b"c2hvcnQ="]}, 400),
        ({b"sec-websocket-key": [b"no base64 at all!"]}, 400),
        ({b"sec-websocket-key": [b"dGhlIHNhbXBsZSBub25jZQ=="] * 2}, 400),
    ],
)
def test_what_is_no_handshake_is_refused(change: dict[bytes, list[bytes]], status: int) -> None:
    with pytest.raises(NotAnUpgrade) as caught:
        upgrade_key(b"GET", b"HTTP/1.1", {**HANDSHAKE, **change})
    assert caught.value.status == status


def test_a_post_opens_nothing_and_neither_does_http_1_0() -> None:
    with pytest.raises(NotAnUpgrade):
        upgrade_key(b"POST", b"HTTP/1.1", HANDSHAKE)
    with pytest.raises(NotAnUpgrade):
        upgrade_key(b"GET", b"HTTP/1.0", HANDSHAKE)


def test_nothing_counts_that_follows_a_close_frame() -> None:
    reader = FrameReader(masked=False)
    assert reader.feed(frame(CLOSE, b"") + b"\xff\xff") == [Control(CLOSE, b"")]
    assert reader.feed(b"\xff") == []


def test_what_is_held_is_a_header_or_a_control_frame() -> None:
    """So that a client cannot have much kept."""
    reader = FrameReader(masked=True)
    reader.feed(frame(ws.PONG, b"x" * 125, MASK)[:-1])
    assert reader.held == 130
