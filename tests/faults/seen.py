"""What a client can tell of an answer of the gateway in the process of the test, and what it has to be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionDone

from testbed.answers import Seen
from tests.helpers.support import Wire, eventually

if TYPE_CHECKING:
    from tests.faults.misbehaving import Shape


def seen_by(wire: Wire) -> Seen | None:
    """Read what a connection has brought; None while there is no head."""
    return Seen.parse(wire.received, ended=wire.lost is not None and bool(wire.lost.check(ConnectionDone)))


async def outcome(wire: Wire, shape: Shape) -> str:
    """
    How an answer ended: ``served``, ``cut``, or a status that came with an error of Google's form.

    Fails if it did not end, or if it ended otherwise: above all with a truncated answer that looks complete.
    """

    def over() -> bool:
        seen = seen_by(wire)
        return wire.lost is not None or (seen is not None and seen.complete)

    await eventually(over, "the end of the answer")
    seen = seen_by(wire)
    assert seen is not None, f"closed without an answer: {wire.received!r}"
    if seen.status != 200:
        assert seen.complete, "half an error"
        error = json.loads(seen.body)["error"]
        assert error["code"] == seen.status
        assert error["message"]
        assert error["status"]
        if seen.status in (429, 503):
            assert int(seen.headers["retry-after"]) >= 1
        return str(seen.status)
    if seen.complete:
        assert documents(seen, shape) == shape.documents, "an answer that looks complete is not"
        if shape.kind != "code-assist":
            assert seen.body == shape.whole, "the answer was changed on its way"
        return "served"
    if shape.framing == "sse":
        *events, last = seen.events
        assert events == shape.documents[: len(events)]
        assert next(iter(last)) == "error", "the last event tells of the break"
        assert seen.body.endswith(b"\r\n\r\n")
    elif shape.kind != "code-assist":
        assert shape.whole.startswith(seen.body)
    return "cut"


def documents(seen: Seen, shape: Shape) -> Any:
    """What a client reads of a complete answer."""
    if shape.framing == "sse":
        return seen.events
    read = json.loads(seen.body)
    return [read] if shape.framing == "unary" else read
