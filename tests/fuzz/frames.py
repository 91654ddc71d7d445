"""Two readers of WebSocket frames, one input: the gateway's against wsproto's."""

from __future__ import annotations

import random
from typing import Any

from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from agm.core.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Closing,
    Collector,
    Control,
    FrameReader,
    Violation,
    frame,
)
from tests.fuzz.mutation import pieces

#: What a reader has found: messages and control frames, each kind in its order, and why it stopped, as a close code.
Found = tuple[list[tuple[int, bytes]], list[tuple[int, Any]], int | None]

_MASK = b"\x12\x34\x56\x78"


def _seeds() -> list[bytes]:
    seeds = []
    for mask in (b"", _MASK):
        first = frame(TEXT, '{"setup": {"model": "models/é"}}'.encode(), mask)
        parts = frame(BINARY, b"ab", mask, fin=False) + frame(CONTINUATION, b"", mask, fin=False)
        seeds += [
            first + frame(PING, b"p", mask) + frame(BINARY, b"x" * 300, mask),
            parts + frame(PONG, b"", mask) + frame(CONTINUATION, b"c", mask) + frame(CLOSE, b"", mask),
            frame(TEXT, b"\xc3", mask, fin=False) + frame(CONTINUATION, b"\xa9", mask),
            frame(CLOSE, Closing(1011, "You exceeded your current quota").payload, mask) + first,
            frame(CLOSE, Closing(4000, "é").payload, mask),
            frame(BINARY, b"y" * 70_000, mask)[:200],
        ]
    return seeds


SEEDS = _seeds()


def ours(data: list[bytes], *, masked: bool) -> Found:
    """What the gateway's reader finds."""
    collector = Collector()
    reader = FrameReader(masked=masked, observer=collector)
    controls: list[tuple[int, Any]] = []
    passed = 0
    try:
        for piece in data:
            for event in reader.feed(piece):
                if isinstance(event, bytes):
                    passed += len(event)
                elif isinstance(event, Control):
                    if event.opcode == CLOSE:
                        closing = Closing.of(event.payload)
                        controls.append((CLOSE, (closing.code or 1005, closing.reason)))
                    else:
                        controls.append((event.opcode, event.payload))
        assert passed + reader.held <= sum(map(len, data)), "more passes than has come"
    except Violation as e:
        return collector.complete, controls, e.code
    return collector.complete, controls, None


def wsprotos(data: list[bytes], *, masked: bool) -> Found:
    """What wsproto finds."""
    protocol = FrameProtocol(client=not masked, extensions=[])
    messages: list[tuple[int, bytes]] = []
    controls: list[tuple[int, Any]] = []
    begun: list[bytes] = []
    kind = 0
    try:
        for piece in data:
            protocol.receive_bytes(piece)
            for found in protocol.received_frames():
                if found.opcode is Opcode.CLOSE:
                    code, reason = found.payload  # type: ignore[misc]
                    controls.append((CLOSE, (int(code), reason or "")))
                elif found.opcode in (Opcode.PING, Opcode.PONG):
                    controls.append((int(found.opcode), bytes(found.payload)))  # type: ignore[arg-type]
                else:
                    text = found.payload
                    kind = int(found.opcode) or kind
                    begun.append(text.encode() if isinstance(text, str) else bytes(text))  # type: ignore[arg-type]
                    if found.message_finished:
                        messages.append((kind, b"".join(begun)))
                        begun = []
    except ParseFailed as e:
        return messages, controls, int(e.code)
    return messages, controls, None


def check(data: bytes, rng: random.Random) -> None:
    """Both find the same, as a client's bytes and as a server's, however they are cut."""
    for masked in (False, True):
        theirs = wsprotos([data], masked=masked)
        whole = ours([data], masked=masked)
        assert whole[0] == theirs[0], (masked, whole, theirs)
        # of what comes in one read with the violation, the gateway passes nothing
        assert whole[1] == theirs[1] or (whole[2] is not None and whole[1] == theirs[1][: len(whole[1])])
        if theirs[2] is None and whole[2] is not None:  # two bytes are enough to know; wsproto reads the whole header
            theirs = (theirs[0], theirs[1], wsprotos([data + bytes(14)], masked=masked)[2])
        assert whole[2] == theirs[2] or _bad_gateway(data), (masked, whole, theirs)
        cut = ours(pieces(data, rng), masked=masked)
        assert cut[0] == whole[0], (masked, cut, whole)
        assert cut[2] == whole[2], (masked, cut, whole)
        if whole[2] is None:
            assert cut[1] == whole[1]


def _bad_gateway(data: bytes) -> bool:
    """1014 came into IANA's registry later than wsproto's list."""
    code = (1014).to_bytes(2, "big")
    return code in data or bytes(b ^ m for b, m in zip(code, _MASK[:2], strict=True)) in data
