"""
Gemini's answer as a message of Anthropic's: its parts as blocks, whole or as the events of a stream.

Both are made by one :class:`Writer`, so that a stream accumulates to what the whole answer is.  A block ends when the
next begins, as Anthropic's do; what belongs to the whole answer (searches, citations, the reason why it ended) is in
Gemini's last event, and comes at the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from agm.api import BadUpstreamAnswer, StreamFailure, read_error
from agm.dialects.anthropic.errors import error_document
from agm.dialects.anthropic.signatures import CallId, Seal
from agm.dialects.gemini import Candidate, Grounding, Part, Response, Usage, compact, read_response

__all__ = ["Stream", "message"]

#: What ``stop_reason`` says, by Gemini's reason; a message with tool uses that ends well says ``tool_use``.
_REASONS: Mapping[str, str] = {
    "STOP": "end_turn",
    "FINISH_REASON_UNSPECIFIED": "end_turn",
    "OTHER": "end_turn",
    "MAX_TOKENS": "max_tokens",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER", "NO_IMAGE"),
        ),
        "refusal",
    ),
}
#: The model has failed to call: nothing of it can be told in a message, and asked again it mostly succeeds.
_FAILURES = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE")


class Sink(Protocol):
    """Where blocks go."""

    def start(self, block: dict[str, Any]) -> None:
        """Begin a block, without what its deltas hold."""

    def delta(self, kind: str, name: str, value: str) -> None:
        """Add to a block: ``text_delta`` with ``text``, and so on."""

    def cite(self, citation: dict[str, Any]) -> None:
        """Add a citation to a block of text."""

    def stop(self) -> None:
        """End the block."""


class Writer:
    """
    Writes what Gemini says, part by part.

    :param thinks: whether the client asked for thinking: it is shown, and what belongs to it is kept.
    :param one_call: whether further calls are left out, because the client wants one at most.
    """

    def __init__(self, sink: Sink, *, thinks: bool, one_call: bool) -> None:
        self._sink = sink
        self._thinks = thinks
        self._one_call = one_call
        #: The type of the block that is open.
        self._open: str | None = None
        self._seal = Seal("none")
        #: A signature that waits for a block behind it.
        self._kept: Seal | None = None
        self._calls = 0
        self._ran: str | None = None
        self._grounding: Grounding | None = None
        self._finish: str | None = None
        self._finish_message: str | None = None
        self._blocked: str | None = None
        self.searches = 0

    def response(self, response: Response) -> None:
        """Write an answer, or a piece of it."""
        if response.prompt_feedback is not None and response.prompt_feedback.block_reason:
            feedback = response.prompt_feedback
            self._blocked = feedback.block_reason_message or f"The prompt was blocked: {feedback.block_reason}."
        for candidate in response.candidates or ():
            if candidate.index == 0:
                self._candidate(candidate)

    def _candidate(self, candidate: Candidate) -> None:
        for part in candidate.parts:
            self._part(part)
        if candidate.grounding_metadata is not None:
            self._grounding = candidate.grounding_metadata
        if candidate.finish_reason is not None:
            self._finish = candidate.finish_reason
            self._finish_message = candidate.finish_message

    def end(self) -> tuple[str, dict[str, Any] | None]:
        """
        End it.

        :returns: ``stop_reason`` and ``stop_details``.
        :raises BadUpstreamAnswer: if the model has failed.
        """
        if self._finish in _FAILURES:
            said = self._finish_message or "its call of a tool cannot be read"
            raise BadUpstreamAnswer(f"The model failed with {self._finish}: {said}.")
        self._ground()
        self._close()
        reason = "refusal" if self._blocked else _REASONS.get(self._finish or "STOP", "end_turn")
        if self._calls and reason == "end_turn":
            reason = "tool_use"
        if reason != "refusal":
            return reason, None
        explanation = self._blocked or self._finish_message or f"Gemini ended its answer with {self._finish}."
        return reason, {"type": "refusal", "category": None, "explanation": explanation}

    # -- Parts ----------------------------------------------------------------------------------------

    def _part(self, part: Part) -> None:
        signature = part.thought_signature
        if part.text is not None:
            if part.thought:
                self._thought(part.text, signature)
            else:
                self._text(part.text, signature)
            return
        if part.function_call is not None:
            call = part.function_call
            self._calls += 1
            if self._one_call and self._calls > 1:
                return
            own = CallId(call.id, signature).written()
            self._block({"type": "tool_use", "id": own, "name": call.name, "input": {}}, "tool_use")
            self._sink.delta("input_json_delta", "partial_json", compact(call.args))
            return
        if part.executable_code is not None:
            self._ran = CallId(None, signature).written("srvtoolu_")
            self._block({"type": "server_tool_use", "id": self._ran, "name": "code_execution", "input": {}}, "code")
            code = msgspec.json.encode({"code": part.executable_code.code}).decode()
            self._sink.delta("input_json_delta", "partial_json", code)
            return
        if part.code_execution_result is not None:
            self._result(part.code_execution_result.outcome, part.code_execution_result.output)
        elif part.inline_data is not None:
            blob = part.inline_data
            self._text(f"[{blob.mime_type}, {len(blob.data) * 3 // 4} bytes: Anthropic's answers hold no media.]", None)
        elif not signature:
            return
        self._sealed("last", signature)

    def _thought(self, said: str, signature: str | None) -> None:
        if not self._thinks:
            return
        if self._open != "thinking":
            self._block({"type": "thinking", "thinking": "", "signature": ""}, "thinking")
        if said:
            self._sink.delta("thinking_delta", "thinking", said)
        if signature:
            self._seal = Seal("thought", signature)

    def _text(self, said: str, signature: str | None) -> None:
        if not said:
            self._sealed("empty", signature)
            return
        if self._open == "thinking" and signature and self._seal.signature is None:
            self._seal = Seal("next", signature)
            signature = None
        if self._open != "text":
            self._block({"type": "text", "text": ""}, "text")
        self._sink.delta("text_delta", "text", said)
        self._sealed("last", signature)

    def _sealed(self, of: Any, signature: str | None) -> None:
        """
        Keep a signature that has no block of its own, where the client keeps such, and something follows.

        At the end of a message it is given up: clients take the last block for what was said, and Google asks for
        signatures of calls alone.
        """
        if signature and self._thinks:
            self._kept = Seal(of, signature)

    def _result(self, outcome: str, output: str) -> None:
        good = outcome in ("OUTCOME_OK", "")
        result: dict[str, Any] = {
            "type": "code_execution_result",
            "stdout": output if good else "",
            "stderr": "" if good else output,
            "return_code": 0 if good else 1,
            "content": [],
        }
        used = self._ran or CallId().written("srvtoolu_")
        self._block({"type": "code_execution_tool_result", "tool_use_id": used, "content": result}, None)

    def _block(self, block: dict[str, Any], kind: str | None) -> None:
        """Begin a block, after the end of the one before; it is whole where it has no `kind`."""
        self._close()
        kept, self._kept = self._kept, None
        if kept is not None:
            self._sink.start({"type": "redacted_thinking", "data": kept.written()})
            self._sink.stop()
        self._sink.start(block)
        self._open = kind
        if kind is None:
            self._sink.stop()

    def _close(self) -> None:
        if self._open == "thinking":
            self._sink.delta("signature_delta", "signature", self._seal.written())
            self._seal = Seal("none")
        if self._open is not None:
            self._sink.stop()
        self._open = None

    # -- Google Search --------------------------------------------------------------------------------

    def _ground(self) -> None:
        """Write what Google has searched and found: citations, and then the searches with their results."""
        grounding = self._grounding
        if grounding is None:
            return
        pages = [chunk.web for chunk in grounding.grounding_chunks or ()]
        if self._open == "text":
            for support in grounding.grounding_supports or ():
                for index in support.grounding_chunk_indices or ():
                    page = pages[index] if 0 <= index < len(pages) else None
                    if page is not None and support.segment is not None:
                        self._sink.cite(
                            {
                                "type": "web_search_result_location",
                                "cited_text": support.segment.text,
                                "url": page.uri,
                                "title": page.title,
                                "encrypted_index": "",
                            }
                        )
        queries = grounding.web_search_queries or ()
        self.searches = len(queries)
        found = {"type": "web_search_result", "encrypted_content": "", "page_age": None}
        results = [{**found, "url": page.uri, "title": page.title} for page in pages if page is not None]
        if not queries and not results:
            return
        used = CallId().written("srvtoolu_")
        self._block({"type": "server_tool_use", "id": used, "name": "web_search", "input": {}}, "search")
        query = msgspec.json.encode({"query": "; ".join(queries)}).decode()
        self._sink.delta("input_json_delta", "partial_json", query)
        self._block({"type": "web_search_tool_result", "tool_use_id": used, "content": results}, None)


def _counted(usage: Usage | None, searches: int = 0) -> dict[str, Any]:
    """Return the tokens as Anthropic counts them: what was cached apart from what was not."""
    if usage is None:
        usage = Usage()
    counted: dict[str, Any] = {
        "input_tokens": max(usage.input - usage.cached_content_token_count, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_content_token_count,
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.thoughts_token_count},
    }
    if searches:
        counted["server_tool_use"] = {"web_search_requests": searches, "web_fetch_requests": 0}
    return counted


def _head(response: Response, model: str, usage: dict[str, Any]) -> dict[str, Any]:
    """Return a message that has nothing yet."""
    return {
        "id": f"msg_{response.response_id or secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


# -- A whole message ---------------------------------------------------------------------------------


class _Blocks:
    """Blocks as a list."""

    def __init__(self) -> None:
        self.blocks: list[dict[str, Any]] = []
        self._said: list[str] = []
        self._name = ""

    def start(self, block: dict[str, Any]) -> None:
        self.blocks.append(block)

    def delta(self, kind: str, name: str, value: str) -> None:
        if kind == "signature_delta":
            self.blocks[-1]["signature"] = value
            return
        self._name = name
        self._said.append(value)

    def cite(self, citation: dict[str, Any]) -> None:
        self.blocks[-1].setdefault("citations", []).append(citation)

    def stop(self) -> None:
        if self._said:
            said = "".join(self._said)
            if self._name == "partial_json":
                self.blocks[-1]["input"] = msgspec.Raw(said.encode())
            else:
                self.blocks[-1][self._name] = said
            self._said = []


def message(document: bytes, model: str, *, thinks: bool, one_call: bool) -> bytes:
    """
    Translate a whole answer.

    :param model: as the client called it.
    :raises BadUpstreamAnswer: if the model has failed.
    :raises msgspec.DecodeError: if it is no answer.
    """
    response = read_response(document)
    blocks = _Blocks()
    writer = Writer(blocks, thinks=thinks, one_call=one_call)
    writer.response(response)
    reason, details = writer.end()
    made = _head(response, model, _counted(response.usage_metadata, writer.searches))
    made.update(content=blocks.blocks, stop_reason=reason, stop_details=details)
    return msgspec.json.encode(made)


# -- A stream ----------------------------------------------------------------------------------------


_DELTA = b"""event: content_block_delta
data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}

"""


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, data)


class Stream:
    """
    A stream of Gemini's as one of Anthropic's: :class:`agm.api.Translation`.

    :param model: as the client called it.
    :param request_id: for the error of a stream that breaks off.
    """

    def __init__(self, model: str, request_id: str, *, thinks: bool, one_call: bool) -> None:
        self._model = model
        self._request_id = request_id
        self._writer = Writer(self, thinks=thinks, one_call=one_call)
        self._out: list[bytes] = []
        self._index = -1
        self._usage: Usage | None = None
        self._started = False

    # Of a translation

    def event(self, document: bytes) -> bytes:
        """See :class:`agm.api.Translation`."""
        response = read_response(document)
        self._usage = response.usage_metadata or self._usage
        if not self._started:
            self._begin(response)
        self._writer.response(response)
        return self._taken()

    def end(self) -> bytes:
        """See :class:`agm.api.Translation`."""
        if not self._started:
            self._begin(Response())
        reason, details = self._writer.end()
        delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": details}
        usage = _counted(self._usage, self._writer.searches)
        data = msgspec.json.encode({"type": "message_delta", "delta": delta, "usage": usage})
        self._out += [_event(b"message_delta", data), _event(b"message_stop", b'{"type":"message_stop"}')]
        return self._taken()

    def failure(self, failure: StreamFailure) -> bytes:
        """See :class:`agm.api.Translation`."""
        found = read_error(failure.document)
        message = found.message if found is not None else "The answer broke off."
        return _event(b"error", error_document(failure.code, message, self._request_id))

    def _begin(self, response: Response) -> None:
        self._started = True
        head = msgspec.json.encode(
            {"type": "message_start", "message": _head(response, self._model, _counted(self._usage))}
        )
        self._out.append(_event(b"message_start", head))

    def _taken(self) -> bytes:
        out, self._out = self._out, []
        return b"".join(out)

    # Of a sink

    def start(self, block: dict[str, Any]) -> None:
        """See :class:`Sink`."""
        self._index += 1
        data = msgspec.json.encode({"type": "content_block_start", "index": self._index, "content_block": block})
        self._out.append(_event(b"content_block_start", data))

    def delta(self, kind: str, name: str, value: str) -> None:
        """See :class:`Sink`."""
        self._out.append(_DELTA % (self._index, kind.encode(), name.encode(), msgspec.json.encode(value)))

    def cite(self, citation: dict[str, Any]) -> None:
        """See :class:`Sink`."""
        delta = {"type": "citations_delta", "citation": citation}
        data = msgspec.json.encode({"type": "content_block_delta", "index": self._index, "delta": delta})
        self._out.append(_event(b"content_block_delta", data))

    def stop(self) -> None:
        """See :class:`Sink`."""
        self._out.append(b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index)
