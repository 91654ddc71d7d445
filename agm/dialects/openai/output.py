"""
Answers of a model as the Responses API has them: items, each begun, added to and ended by events in a fixed order.

:class:`Output` makes the items of what comes, and says each step as an event; a response that does not stream is what
stands at the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from agm.api import StreamFailure
from agm.dialects.base import stream_error
from agm.dialects.gemini import (
    SPOILT,
    WITHHELD,
    Candidate,
    FunctionCall,
    Part,
    Response,
    Usage,
    compact,
    read_response,
    spoilt,
    why_withheld,
)
from agm.dialects.openai.completion import logprobs_of, text_of
from agm.dialects.openai.grounding import citations
from agm.dialects.openai.resource import error_document
from agm.dialects.openai.tools import SIGNED, CallId, Tools, custom_input

__all__ = ["Output", "ResponseStream"]

Event = tuple[str, dict[str, Any]]
_DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":'
_encode = msgspec.json.Encoder().encode


def _identifier(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"


@attrs.define
class _Open:
    """The item that is being added to: a message, or reasoning; its texts so far."""

    item: dict[str, Any]
    texts: list[str] = attrs.field(factory=list)
    logprobs: list[dict[str, Any]] = attrs.field(factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@attrs.define
class Output:
    """What an answer has come to so far."""

    model: str
    created: int
    echo: Mapping[str, Any]
    tools: Tools
    id: str = attrs.field(factory=lambda: _identifier("resp"))
    items: list[dict[str, Any]] = attrs.field(factory=list)
    usage: Usage = attrs.field(factory=Usage)
    status: str = "in_progress"
    incomplete: str | None = None
    error: dict[str, Any] | None = None
    _open: _Open | None = None
    #: The start of a piece of the text of the message that is open; None while none is.
    _head: bytes | None = None
    _calls: int = 0
    _refusal: str | None = None

    def response(self) -> dict[str, Any]:
        """Return the response as it stands."""
        usage = self.usage
        ended = self.status != "in_progress"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "background": False,
            "error": self.error,
            "incomplete_details": None if self.incomplete is None else {"reason": self.incomplete},
            "model": self.model,
            "output": [item for item in self.items if self._open is None or item is not self._open.item],
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None
            if not ended
            else {
                "input_tokens": usage.input,
                "input_tokens_details": {"cached_tokens": usage.cached_content_token_count},
                "output_tokens": usage.output,
                "output_tokens_details": {"reasoning_tokens": usage.thoughts_token_count},
                "total_tokens": usage.input + usage.output,
            },
            **self.echo,
        }

    def take(self, response: Response) -> list[Event]:
        """
        Add what an event of the upstream says.

        :raises BadUpstreamAnswer: if the answer is of no use.
        """
        if response.usage_metadata is not None:
            self.usage = response.usage_metadata
        candidate = response.candidates[0] if response.candidates else None
        if candidate is None:
            self._refusal = why_withheld(response, None) or self._refusal
            return []
        events: list[Event] = []
        logprobs = logprobs_of(candidate)
        for part in candidate.parts:
            events += self._part(part, logprobs["content"] if logprobs is not None else [])
            logprobs = None
        if candidate.finish_reason is not None:
            self._ends(response, candidate)
        return events

    def takes_text(self, response: Response) -> tuple[str, bytes] | None:
        """
        Add what nearly every event says: one more piece of the text of the message that is open.

        :returns: the piece, and what stands between the event's number and the piece in it; None for all other events.
        """
        candidates = response.candidates
        if candidates is None or len(candidates) != 1 or self._head is None or self._open is None:
            return None
        candidate = candidates[0]
        parts = candidate.content.parts if candidate.content is not None else None
        if candidate.finish_reason is not None or candidate.logprobs_result is not None:
            return None
        if parts is None or len(parts) != 1 or not parts[0].text:
            return None
        if parts[0].thought or parts[0].thought_signature is not None:
            return None
        if response.usage_metadata is not None:
            self.usage = response.usage_metadata
        self._open.texts.append(parts[0].text)
        return parts[0].text, self._head

    def finish(self) -> list[Event]:
        """End the answer: what is open is closed, and the response has its last state."""
        events: list[Event] = []
        if self._refusal and not any(item["type"] == "message" for item in self.items):
            events += self._refused(self._refusal)
        events += self._close()
        if self._refusal:
            self.incomplete = "content_filter"
        self.status = "completed" if self.incomplete is None else "incomplete"
        return events

    def _ends(self, response: Response, candidate: Candidate) -> None:
        reason = candidate.finish_reason
        if reason in SPOILT:
            raise spoilt(candidate)
        if reason == "MAX_TOKENS":
            self.incomplete = "max_output_tokens"
        elif reason in WITHHELD:
            self._refusal = why_withheld(response, candidate)
        if candidate.grounding_metadata is not None and self._open is not None:
            self._open.item["content"][0]["annotations"] = [
                {"type": "url_citation", **one["url_citation"]}
                for one in citations(candidate.grounding_metadata, self._open.text)
            ]

    # Items

    def _part(self, part: Part, logprobs: list[dict[str, Any]]) -> list[Event]:
        if part.function_call is not None:
            if self._calls and self.tools.one:
                return []
            return [*self._close(), *self._call(part, part.function_call)]
        said = text_of(part)
        if part.inline_data is not None:
            return [*self._close(), *self._image(part)]
        if part.thought:
            return self._thought(said)
        events = self._said(said, logprobs) if said else []
        if part.thought_signature is not None:
            events += self._signature(part.thought_signature)
        return events

    def _begin(self, item: dict[str, Any]) -> Event:
        self.items.append(item)
        return "response.output_item.added", {"output_index": len(self.items) - 1, "item": item}

    def _at(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": len(self.items) - 1}

    def _said(self, said: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        events: list[Event] = []
        open_ = self._open
        if open_ is None or open_.item["type"] != "message":
            events += self._close()
            item = {"id": _identifier("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
            events.append(self._begin({**item, "content": []}))
            open_ = self._open = _Open(self.items[-1])
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events.append(("response.content_part.added", {**self._at(open_.item), "content_index": 0, "part": part}))
            open_.item["content"] = [{**part}]
            at = {**self._at(open_.item), "content_index": 0}
            self._head = b"," + _encode(at)[1:-1] + b',"delta":'
        open_.texts.append(said)
        open_.logprobs += logprobs
        delta = {**self._at(open_.item), "content_index": 0, "delta": said, "logprobs": logprobs}
        events.append(("response.output_text.delta", delta))
        return events

    def _thought(self, said: str) -> list[Event]:
        events: list[Event] = []
        open_ = self._open
        if open_ is None or open_.item["type"] != "reasoning":
            events += self._close()
            events.append(self._begin({"id": _identifier("rs"), "type": "reasoning", "summary": []}))
            open_ = self._open = _Open(self.items[-1])
            part = {"type": "summary_text", "text": ""}
            at = {**self._at(open_.item), "summary_index": 0}
            events.append(("response.reasoning_summary_part.added", {**at, "part": part}))
        open_.texts.append(said)
        at = {**self._at(open_.item), "summary_index": 0}
        events.append(("response.reasoning_summary_text.delta", {**at, "delta": said}))
        return events

    def _signature(self, signature: str) -> list[Event]:
        """Carry the signature of what was said before in OpenAI's place for what a client keeps and does not read."""
        events = self._close()
        item = {"id": _identifier("rs"), "type": "reasoning", "summary": [], "encrypted_content": SIGNED + signature}
        begun = self._begin(item)
        return [*events, begun, ("response.output_item.done", {"output_index": len(self.items) - 1, "item": item})]

    def _call(self, part: Part, call: FunctionCall) -> list[Event]:
        self._calls += 1
        identifier = CallId(call.id, part.thought_signature).encode()
        if call.name in self.tools.custom:
            return self._custom(call, identifier)
        arguments = compact(call.args)
        item = {"id": _identifier("fc"), "type": "function_call", "status": "in_progress", "call_id": identifier}
        item |= {**self.tools.called(call.name), "arguments": ""}
        events = [self._begin({**item})]
        at = self._at(item)
        done = {**item, "status": "completed", "arguments": arguments}
        self.items[-1] = done
        events += [
            ("response.function_call_arguments.delta", {**at, "delta": arguments}),
            ("response.function_call_arguments.done", {**at, "name": item["name"], "arguments": arguments}),
            ("response.output_item.done", {"output_index": len(self.items) - 1, "item": done}),
        ]
        return events

    def _custom(self, call: FunctionCall, identifier: str) -> list[Event]:
        text = custom_input(call.args)
        item = {"id": _identifier("ctc"), "type": "custom_tool_call", "status": "in_progress", "call_id": identifier}
        item |= {**self.tools.called(call.name), "input": ""}
        events = [self._begin({**item})]
        at = self._at(item)
        done = {**item, "status": "completed", "input": text}
        self.items[-1] = done
        events += [
            ("response.custom_tool_call_input.delta", {**at, "delta": text}),
            ("response.custom_tool_call_input.done", {**at, "input": text}),
            ("response.output_item.done", {"output_index": len(self.items) - 1, "item": done}),
        ]
        return events

    def _image(self, part: Part) -> list[Event]:
        """Add a picture that the model has made: the item of OpenAI's own tool for it."""
        assert part.inline_data is not None, "the caller has looked"
        item = {"id": _identifier("ig"), "type": "image_generation_call", "status": "in_progress", "result": None}
        events = [self._begin({**item})]
        done = {**item, "status": "completed", "result": part.inline_data.data}
        self.items[-1] = done
        events += [
            ("response.image_generation_call.completed", self._at(item)),
            ("response.output_item.done", {"output_index": len(self.items) - 1, "item": done}),
        ]
        return events

    def _refused(self, why: str) -> list[Event]:
        events = self._close()
        item = {"id": _identifier("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
        events.append(self._begin({**item, "content": []}))
        at = {**self._at(item), "content_index": 0}
        empty, part = {"type": "refusal", "refusal": ""}, {"type": "refusal", "refusal": why}
        done = {**item, "status": "incomplete", "content": [part]}
        self.items[-1] = done
        return [
            *events,
            ("response.content_part.added", {**at, "part": empty}),
            ("response.refusal.delta", {**at, "delta": why}),
            ("response.refusal.done", {**at, "refusal": why}),
            ("response.content_part.done", {**at, "part": part}),
            ("response.output_item.done", {"output_index": len(self.items) - 1, "item": done}),
        ]

    def _close(self) -> list[Event]:
        """End the item that is open."""
        open_, self._open, self._head = self._open, None, None
        if open_ is None:
            return []
        item, text = open_.item, open_.text
        events: list[Event] = []
        if item["type"] == "reasoning":
            at = {**self._at(item), "summary_index": 0}
            part: dict[str, Any] = {"type": "summary_text", "text": text}
            item["summary"] = [part]
            events.append(("response.reasoning_summary_text.done", {**at, "text": text}))
            events.append(("response.reasoning_summary_part.done", {**at, "part": part}))
        else:
            at = {**self._at(item), "content_index": 0}
            part = {**item["content"][0], "text": text, "logprobs": open_.logprobs}
            item["content"] = [part]
            item["status"] = "completed" if self.incomplete is None else "incomplete"
            events.append(("response.output_text.done", {**at, "text": text, "logprobs": open_.logprobs}))
            events.append(("response.content_part.done", {**at, "part": part}))
        events.append(("response.output_item.done", {"output_index": len(self.items) - 1, "item": item}))
        return events


class ResponseStream:
    """The events of a response: a :class:`agm.api.Translation`."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._number = 0

    def event(self, document: bytes) -> bytes:
        begun = b"" if self._number else self._begin()
        response = read_response(document)
        plain = self._output.takes_text(response)
        if plain is None:
            return begun + self._written(self._output.take(response))
        piece, head = plain
        number = b"%d" % self._number
        self._number += 1
        return _DELTA + number + head + _encode(piece) + b',"logprobs":[]}\n\n'

    def _begin(self) -> bytes:
        response = msgspec.Raw(_encode(self._output.response()))
        return self._written(
            [("response.created", {"response": response}), ("response.in_progress", {"response": response})]
        )

    def _written(self, events: list[Event]) -> bytes:
        lines = []
        for name, fields in events:
            data = _encode({"type": name, "sequence_number": self._number, **fields})
            lines.append(b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), data))
            self._number += 1
        return b"".join(lines)

    def end(self) -> bytes:
        begun = b"" if self._number else self._begin()
        ended = self._written(self._output.finish())
        last = [(f"response.{self._output.status}", {"response": self._output.response()})]
        return begun + ended + self._written(last)

    def failure(self, failure: StreamFailure) -> bytes:
        error = msgspec.json.decode(error_document(stream_error(failure)))["error"]
        # OpenAI's SDKs raise for what has an error of its own, and others look at the code and the message beside it
        told = {"code": error["code"], "message": error["message"], "param": None, "error": error}
        return self._written([("error", told)])
