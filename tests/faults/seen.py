"""What a client can tell of an answer from the bytes alone, judged as strictly as a client ought to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from support import Wire, dechunk_body, eventually
from twisted.internet.error import ConnectionDone

if TYPE_CHECKING:
    from misbehaving import Shape


@attrs.frozen
class Seen:
    """An answer as far as it came.  `complete` is what its framing says."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool

    @classmethod
    def of(cls, wire: Wire) -> Seen | None:
        """What a connection has brought; None while there is no head."""
        return cls.parse(wire.received, ended=wire.lost is not None and bool(wire.lost.check(ConnectionDone)))

    @classmethod
    def parse(cls, received: bytes, *, ended: bool) -> Seen | None:
        """The same from bytes; `ended` says whether a FIN came behind them."""
        head, found, rest = received.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        if headers.get("transfer-encoding") == "chunked":
            return cls(status, headers, *dechunk_body(rest))
        if "content-length" in headers:
            length = int(headers["content-length"])
            return cls(status, headers, rest[:length], len(rest) >= length)
        return cls(status, headers, rest, ended)

    @property
    def events(self) -> list[Any]:
        """The documents of all events that are there in whole."""
        blocks = self.body.split(b"\r\n\r\n")[:-1]
        return [json.loads(block.removeprefix(b"data: ")) for block in blocks]


async def outcome(wire: Wire, shape: Shape) -> str:
    """
    How an answer ended: ``served``, ``cut``, or a status that came with an error of Google's form.

    Fails if it did not end, or if it ended otherwise: above all with a truncated answer that looks complete.
    """

    def over() -> bool:
        seen = Seen.of(wire)
        return wire.lost is not None or (seen is not None and seen.complete)

    await eventually(over, "the end of the answer")
    seen = Seen.of(wire)
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
