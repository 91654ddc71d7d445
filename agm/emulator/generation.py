"""
generateContent and streamGenerateContent: an answer, a framing and at most one fault make a reply.

Pure: the same arguments give the same reply, whose bytes :mod:`agm.emulator.playback` sends.  Faults that are an error
in place of the whole answer are not met here; :mod:`agm.emulator.modelcalls` answers those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from agm.emulator import answers, errors, framing
from agm.emulator.calls import Call, Target
from agm.emulator.errors import Circumstances, Kind
from agm.emulator.faults import Fault
from agm.emulator.replies import ESF, SCAFFOLDING, Cut, Fill, Hang, Reply, Reset, Send, Step, Wait, body_reply

MEBIBYTE = 1024 * 1024
#: The text of one event, or of one write, of an answer of many mebibytes.
BLOCK = 64 * 1024
#: Time for what was sent to reach the client before a reset throws away the rest.
BEFORE_RESET = 0.05
#: Between the events of ``slow``.
SLOW = 0.7
SLOW_EVENTS = 4

#: The faults that end a stream after some of its events.
AFTER_EVENTS = frozenset({"midstream", "cut", "drop", "rst", "errtail", "errdata", "hang"})


@attrs.frozen
class Generation:
    """What is needed to answer: the request as it was read, how it came, and what is to go wrong."""

    call: Call
    target: Target
    request: Mapping[str, Any]
    about: Circumstances
    fault: Fault | None = None
    cached: Mapping[str, Any] | None = None
    seed: int = 0

    @property
    def vertex(self) -> bool:
        """Whether documents look as Vertex AI's; code-assist hands those on."""
        return self.target.kind is not Kind.API_KEY

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of this kind."""
        return ESF if self.target.kind is Kind.CODE_ASSIST else SCAFFOLDING

    def framing(self) -> framing.Framing:
        """Return the framing that the request asked for."""
        if not self.call.sse:
            return framing.JsonArray()
        if self.target.kind is Kind.CODE_ASSIST:
            return framing.EventStream(framing.compact)
        return framing.EventStream()

    def compose(self, text: str | None = None) -> answers.Answer:
        """Return the answer; `text` replaces what would be said."""
        return answers.compose(
            self.target.model,
            self.request,
            seed=self.seed,
            vertex=self.vertex,
            text=text,
            cached=self.cached,
        )

    def dressed(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return a document as this call wants it: in code-assist's envelope, and with enums as numbers."""
        if self.call.enum_numbers:
            document = framing.enums_as_numbers(document)
        if self.target.kind is Kind.CODE_ASSIST:
            trace = answers.digest_of(self.seed, self.target.model, self.request).hex()[:16]
            return {"response": document, "traceId": trace}
        return document


def reply(work: Generation) -> Reply:
    """Return the reply to a generation call."""
    answered = _streamed(work) if work.target.streaming else _unary(work)
    return paced(answered, work.fault)


# -- documents under a fault -------------------------------------------------------------------------------------


def numbered(count: int) -> str:
    """Return a text that falls into `count` equal pieces, each with its number."""
    return "".join(f"This is piece {index + 1:7} of {count:7}. " for index in range(count))


def _documents(work: Generation) -> list[dict[str, Any]]:
    """Return the documents of a stream; where a fault needs a certain number of them, so many and a plain text."""
    name = work.fault.name if work.fault is not None else ""
    count = work.fault.count if work.fault is not None else 0
    if name in AFTER_EVENTS:
        count = events_before(work.fault) + 2
    elif name == "slow":
        count = SLOW_EVENTS
    elif name == "badjson":
        count = 3
    elif name == "splitutf8":
        return answers.events(work.compose(answers.MANY_SCRIPTS), wanted=4)
    elif name != "chunks":
        return _changed(answers.events(work.compose()), work, name)
    return answers.events(work.compose(numbered(count)), wanted=max(count, 1))


def _changed(documents: list[dict[str, Any]], work: Generation, name: str) -> list[dict[str, Any]]:
    if name == "blockprompt":
        return [answers.blocked(work.compose())]
    if name == "nofinish":
        return [_without_reason(document) for document in documents]
    if name == "emptyparts":
        last = documents[-1]
        ending = {**last, "candidates": [_without_parts(candidate) for candidate in last["candidates"]]}
        return [*(_without_reason(document) for document in documents), ending]
    return documents


def _without_reason(document: dict[str, Any]) -> dict[str, Any]:
    bare = [
        {key: value for key, value in candidate.items() if key != "finishReason"}
        for candidate in document["candidates"]
    ]
    return {**document, "candidates": bare}


def _without_parts(candidate: dict[str, Any]) -> dict[str, Any]:
    return {**candidate, "content": {"role": "model"}}


def events_before(fault: Fault | None) -> int:
    """After how many events a stream ends."""
    return 1 if fault is None or fault.number is None else fault.count


# -- streams -----------------------------------------------------------------------------------------------------


def _streamed(work: Generation) -> Reply:
    frames = work.framing()
    name = work.fault.name if work.fault is not None else ""
    headers = (("Content-Type", frames.content_type), ("Content-Disposition", "attachment"), *work.headers)
    if name in ("giant", "bigunary") and work.fault is not None:
        return Reply(200, headers, tuple(_endless(work, frames, work.fault.number or 0.0)))
    if name == "emptystream":
        return Reply(200, headers, (Send(frames.end(0)),))
    documents = [work.dressed(document) for document in _documents(work)]
    events = [frames.event(index, document) for index, document in enumerate(documents)]
    if name in AFTER_EVENTS and work.fault is not None:
        return Reply(200, headers, tuple(broken_off(work.about, work.fault, frames, events)))
    if isinstance(frames, framing.EventStream):
        events = _disfigured(name, documents, events)
    elif name == "badjson":
        events[1] = events[1][: len(events[1]) // 2] + b"\n"
    closing = frames.end(len(events))
    if closing:
        events[-1] += closing
    return Reply(200, headers, tuple(between(events, SLOW if name == "slow" else 0.0)))


def between(events: Sequence[bytes], seconds: float) -> list[Step]:
    """Events with a pause between them; even none at all ends the turn, so that each goes out on its own."""
    steps: list[Step] = []
    for event in events:
        if steps:
            steps.append(Wait(seconds))
        steps.append(Send(event))
    return steps


def _disfigured(name: str, documents: Sequence[Any], events: list[bytes]) -> list[bytes]:
    """Server-sent events written in ways that Google's are not."""
    match name:
        case "badjson":
            broken = events[1].rstrip()
            events[1] = broken[: len(broken) // 2] + b"\r\n\r\n"
        case "noblank":
            events[-1] = events[-1].removesuffix(b"\r\n")
        case "lf":
            events = [event.replace(b"\r\n", b"\n") for event in events]
        case "done":
            events.append(b"data: [DONE]\r\n\r\n")
        case "multiline":
            events = [_many_lines(document) for document in documents]
    return events


def _many_lines(document: Any) -> bytes:
    lines = framing.pretty(document).split(b"\n")
    return b"".join(b"data: " + line + b"\r\n" for line in lines) + b"\r\n"


def broken_off(about: Circumstances, fault: Fault, frames: framing.Framing, events: list[bytes]) -> list[Step]:
    """Return a stream that ends early: some good events, and then what the fault says."""
    count = events_before(fault)
    steps: list[Step] = [Send(b""), *between(events[:count], 0.0)]
    match fault.name:
        case "hang":
            return [*steps, Hang()]
        case "cut" | "drop":
            return [*steps, Cut()]
        case "rst":
            return [*steps, Wait(BEFORE_RESET), Reset()]
    document = errors.of_status(about, 503).document()
    if isinstance(frames, framing.EventStream) and fault.name == "errtail":
        tail = framing.pretty(document) + b"\n"
    else:
        tail = frames.event(count, document) + frames.end(count + 1)
    return [*steps, Wait(0), Send(tail)]


def _endless(work: Generation, frames: framing.Framing, mebibytes: float) -> list[Step]:
    """Many mebibytes of text in events of 64 KiB."""
    documents = [work.dressed(document) for document in answers.events(work.compose("x" * BLOCK), wanted=1)]
    ending = [work.dressed(document) for document in answers.events(work.compose("."), wanted=1)]
    block = {**documents[0]}
    inner = block["response"] if work.target.kind is Kind.CODE_ASSIST else block
    inner["candidates"] = _without_reason(inner)["candidates"]
    return many(frames, ending[0], mebibytes, block)


def many(frames: framing.Framing, ending: Any, mebibytes: float, block: Any) -> list[Step]:
    """So many mebibytes of the one event `block`, which alone is ever held, and then `ending`."""
    count = max(1, round(mebibytes * MEBIBYTE / BLOCK))
    return [
        Send(frames.event(0, block)),
        Fill(frames.event(1, block), count - 1),
        Send(frames.event(count, ending) + frames.end(count + 1)),
    ]


# -- unary -------------------------------------------------------------------------------------------------------


def _unary(work: Generation) -> Reply:
    name = work.fault.name if work.fault is not None else ""
    if name in ("giant", "bigunary") and work.fault is not None:
        return _big(work, work.fault.number or 0.0)
    if name in ("midstream", "errtail", "errdata"):
        document = errors.of_status(work.about, 503).document()
        return body_reply(503, framing.unary(document), framing.JSON_TYPE, work.headers)
    if name == "emptystream":
        return body_reply(200, b"", framing.JSON_TYPE, work.headers)
    return whole(_body(work, _unary_document(work, name)), name, work.headers)


def whole(body: bytes, name: str, headers: tuple[tuple[str, str], ...]) -> Reply:
    """Return a unary answer with its Content-Length, under the fault of this name that cuts or delays it."""
    match name:
        case "badjson":
            body = body[: len(body) // 2]
        case "noblank":
            body = body.rstrip()
    answered = body_reply(200, body, framing.JSON_TYPE, headers)
    half: tuple[Step, ...] = (Send(body[: len(body) // 2]),)
    match name:
        case "cut" | "drop":
            return attrs.evolve(answered, steps=(*half, Cut()))
        case "rst":
            return attrs.evolve(answered, steps=(*half, Wait(BEFORE_RESET), Reset()))
        case "hang":
            return attrs.evolve(answered, steps=(*half, Hang()))
        case "slow":
            pause = SLOW * (SLOW_EVENTS - 1)
            return attrs.evolve(answered, steps=(Send(b""), Wait(pause), *answered.steps))
    return answered


def _body(work: Generation, document: dict[str, Any]) -> bytes:
    return framing.unary(work.dressed(document), pretty_print=work.call.pretty_print)


def _unary_document(work: Generation, name: str) -> dict[str, Any]:
    if name == "blockprompt":
        return answers.blocked(work.compose())
    text = None
    if name == "splitutf8":
        text = answers.MANY_SCRIPTS
    elif name == "chunks" and work.fault is not None:
        text = numbered(work.fault.count)
    document = answers.unary(work.compose(text))
    if name == "nofinish":
        return _without_reason(document)
    if name == "emptyparts":
        return {**document, "candidates": [_without_parts(candidate) for candidate in document["candidates"]]}
    return document


def _big(work: Generation, mebibytes: float) -> Reply:
    """One document of many mebibytes with its Content-Length, the text in it made block by block."""
    mark = "agm-emulator-block"
    around = _body(work, answers.unary(work.compose(mark)))
    before, _, after = around.partition(mark.encode())
    count = max(1, round(mebibytes * MEBIBYTE / BLOCK))
    block = b"x" * BLOCK
    return Reply(
        status=200,
        headers=(("Content-Type", framing.JSON_TYPE), *work.headers),
        steps=(Send(before), Fill(block, count), Send(after)),
        length=len(before) + len(block) * count + len(after),
    )


# -- pace --------------------------------------------------------------------------------------------------------


def paced(answered: Reply, fault: Fault | None) -> Reply:
    """Return the same bytes in other writes, or later."""
    if fault is None:
        return answered
    match fault.name:
        case "ttft":
            wait = Wait((fault.number or 0.0) / 1000)
            return attrs.evolve(answered, steps=(Send(b""), wait, *answered.steps))
        case "drip":
            size = max(1, fault.count)
            return _rewritten(answered, lambda body: [body[at : at + size] for at in range(0, len(body), size)])
        case "splitutf8":
            return _rewritten(answered, split_inside_characters)
    return answered


def _rewritten(answered: Reply, cut: Callable[[bytes], list[bytes]]) -> Reply:
    body = b"".join(step.data for step in answered.steps if isinstance(step, Send))
    return attrs.evolve(answered, steps=tuple(between(cut(body), 0.0)))


def split_inside_characters(body: bytes) -> list[bytes]:
    """Return a UTF-8 text in pieces that all end inside of a character, but for the last."""
    pieces, start = [], 0
    for at in range(1, len(body)):
        # A continuation byte right after its leading byte: here a character is cut in two.
        if body[at] & 0xC0 == 0x80 and body[at - 1] & 0xC0 == 0xC0:
            pieces.append(body[start:at])
            start = at
    return [*pieces, body[start:]]


def delayed(answered: Reply, seconds: float) -> Reply:
    """Return the same reply after a wait, headers included."""
    return attrs.evolve(answered, steps=(Wait(seconds), *answered.steps))
