"""
An interaction on the wire: one compact document, or server-sent events with names, and at most one fault.

Pure, as :mod:`agm.emulator.generation` is, which does the same for ``generateContent``.  Line ends are LF here and JSON
is compact, as Google's pages show these streams; each ends with ``event: done`` and ``data: [DONE]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from agm.emulator import answers, framing, generation, steps
from agm.emulator.errors import GoogleError
from agm.emulator.faults import Fault
from agm.emulator.generation import AFTER_EVENTS, BEFORE_RESET, BLOCK, MEBIBYTE, SLOW, SLOW_EVENTS
from agm.emulator.replies import SCAFFOLDING, Cut, Fill, Hang, Reply, Reset, Send, Step, Wait, body_reply

DONE = b"event: done\ndata: [DONE]\n\n"
#: The code of an error by its status.  Four were seen (400, 404, 429, 504); the others are named alike.
CODES: Mapping[int, str] = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    409: "conflict",
    429: "too_many_requests",
    499: "cancelled",
    500: "internal_error",
    501: "not_implemented",
    503: "service_unavailable",
    504: "gateway_timeout",
}


def error_fields(error: GoogleError) -> dict[str, str]:
    """Return an error as these APIs write it: the message, and a word for a code."""
    return {"message": error.message, "code": CODES[error.status]}


def error_reply(error: GoogleError) -> Reply:
    """Return an error in place of an answer."""
    return body_reply(error.status, framing.compact({"error": error_fields(error)}), framing.JSON_TYPE)


def frame(event: Mapping[str, Any]) -> bytes:
    """One event: its name is also in its data."""
    return b"event: %b\ndata: %b\n\n" % (event["event_type"].encode(), framing.compact(event))


@attrs.frozen
class Telling:
    """An interaction that is to be told: `interaction` is whole, `numbered` says whether its events have ids."""

    interaction: Mapping[str, Any]
    fault: Fault | None = None
    numbered: bool = True
    #: The id of the event after which it goes on; "" for its beginning.
    after: str = ""
    #: What a fault in the middle says.
    trouble: GoogleError = attrs.field(factory=lambda: GoogleError(503, "The service is currently unavailable."))

    @property
    def name(self) -> str:
        """The fault's name, "" without one."""
        return "" if self.fault is None else self.fault.name


def text_for(fault: Fault | None) -> str | None:
    """Return what an interaction says under a fault that needs so many pieces or characters; else None."""
    name = "" if fault is None else fault.name
    if name == "splitutf8":
        return answers.MANY_SCRIPTS
    count = _pieces(fault)
    return None if count is None else generation.numbered(count)


def _pieces(fault: Fault | None) -> int | None:
    """Return how many pieces a text is cut into, where a fault needs so many."""
    if fault is None:
        return None
    if fault.name in AFTER_EVENTS:
        return generation.events_before(fault) + 2
    return {"chunks": max(fault.count, 1), "slow": SLOW_EVENTS, "badjson": 3}.get(fault.name)


def unary(telling: Telling) -> Reply:
    """One document."""
    name = telling.name
    if name in ("midstream", "errtail", "errdata"):
        return error_reply(telling.trouble)
    if name == "emptystream":
        return body_reply(200, b"", framing.JSON_TYPE)
    if name in ("giant", "bigunary") and telling.fault is not None:
        return _big(telling.interaction, telling.fault.number or 0.0)
    answered = generation.whole(framing.compact(telling.interaction), name, SCAFFOLDING)
    return generation.paced(answered, telling.fault)


def streamed(telling: Telling) -> Reply:
    """
    Server-sent events.

    :raises GoogleError: 400, if there is no event to go on after.
    """
    name, fault = telling.name, telling.fault
    headers = (("Content-Type", framing.SSE_TYPE), ("Content-Disposition", "attachment"), *SCAFFOLDING)
    if name == "emptystream":
        return Reply(200, headers, (Send(b""),))
    events = numbered_events(telling)
    if telling.after:
        ids = [event["event_id"] for event in events]
        if telling.after not in ids:
            raise GoogleError(400, "The last_event_id is not one of this interaction's.")
        events = events[ids.index(telling.after) + 1 :]
    frames = [frame(event) for event in events]
    if name in ("giant", "bigunary") and fault is not None:
        return Reply(200, headers, tuple(_endless(events, frames, fault.number or 0.0)))
    if name in AFTER_EVENTS and fault is not None:
        return Reply(200, headers, tuple(_broken_off(telling, fault, frames)))
    answered = Reply(
        200, headers, tuple(generation.between(_disfigured(name, events, frames), SLOW if name == "slow" else 0.0))
    )
    return generation.paced(answered, fault)


def numbered_events(telling: Telling) -> list[dict[str, Any]]:
    """Return the events, each with its id if it has one."""
    events = steps.events_of(telling.interaction, wanted=_pieces(telling.fault))
    if telling.name == "nofinish":
        del events[-1]
    if not telling.numbered:
        return events
    start = telling.interaction["id"][-12:]
    return [{**event, "event_id": f"{start}-{number:06}"} for number, event in enumerate(events, 1)]


def _disfigured(name: str, events: Sequence[Mapping[str, Any]], frames: list[bytes]) -> list[bytes]:
    match name:
        case "badjson":
            at = next(n for n, event in enumerate(events) if event["event_type"] == "step.delta")
            frames[at] = frames[at][: len(frames[at]) // 2] + b"\n\n"
        case "multiline":
            frames = [_many_lines(event) for event in events]
        case "nofinish":
            return frames
        case "noblank":
            return [*frames, DONE.removesuffix(b"\n")]
    return [*frames, DONE]


def _many_lines(event: Mapping[str, Any]) -> bytes:
    lines = framing.pretty(event).split(b"\n")
    return b"event: %b\n" % event["event_type"].encode() + b"".join(b"data: %b\n" % line for line in lines) + b"\n"


def _broken_off(telling: Telling, fault: Fault, frames: Sequence[bytes]) -> list[Step]:
    """Return some good events, and then what the fault says."""
    before: list[Step] = [Send(b""), *generation.between(frames[: generation.events_before(fault)], 0.0)]
    match fault.name:
        case "hang":
            return [*before, Hang()]
        case "cut" | "drop":
            return [*before, Cut()]
        case "rst":
            return [*before, Wait(BEFORE_RESET), Reset()]
        case "errtail":
            document = {"error": error_fields(telling.trouble)}
            return [*before, Wait(0), Send(framing.pretty(document) + b"\n")]
    return [*before, Wait(0), Send(frame({"error": error_fields(telling.trouble), "event_type": "error"}))]


def _endless(events: Sequence[Mapping[str, Any]], frames: list[bytes], mebibytes: float) -> list[Step]:
    """Many mebibytes in deltas of 64 KiB, none of which is ever held but the one that repeats."""
    at = next(n for n, event in enumerate(events) if event.get("delta", {}).get("type") == "text")
    delta = {name: value for name, value in events[at].items() if name != "event_id"}
    block = frame({**delta, "delta": {"text": "x" * BLOCK, "type": "text"}})
    count = max(1, round(mebibytes * MEBIBYTE / BLOCK))
    return [Send(b"".join(frames[:at])), Fill(block, count), Send(b"".join([*frames[at:], DONE]))]


def _big(interaction: Mapping[str, Any], mebibytes: float) -> Reply:
    """One document of many mebibytes with its Content-Length, the text in it made block by block."""
    mark = "agm-emulator-block"
    told = [
        {**step, "content": [{"text": mark, "type": "text"}]} if step["type"] == "model_output" else step
        for step in interaction["steps"]
    ]
    before, _, after = framing.compact({**interaction, "steps": told}).partition(mark.encode())
    count = max(1, round(mebibytes * MEBIBYTE / BLOCK))
    return Reply(
        status=200,
        headers=(("Content-Type", framing.JSON_TYPE), *SCAFFOLDING),
        steps=(Send(before), Fill(b"x" * BLOCK, count), Send(after)),
        length=len(before) + BLOCK * count + len(after),
    )
