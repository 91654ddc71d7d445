"""Answers of a model as chat completions: a document, or the chunks of a stream, each as soon as its event is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    Token,
    Usage,
    compact,
    read_response,
    spoilt,
    why_withheld,
)
from agm.dialects.openai.grounding import citations
from agm.dialects.openai.resource import error_document
from agm.dialects.openai.tools import NO_TOOLS, CallId, Tools, custom_input, extra_content

__all__ = ["Completion", "CompletionStream", "document_of", "logprobs_of", "text_of", "usage_of"]

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return token counts in OpenAI's form: the prompt's with what was cached, the answer's with what was thought."""
    audio_in = sum(one.token_count for one in usage.prompt_tokens_details or () if one.modality == "AUDIO")
    audio_out = sum(one.token_count for one in usage.candidates_tokens_details or () if one.modality == "AUDIO")
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached_content_token_count, "audio_tokens": audio_in},
        "completion_tokens_details": {
            "reasoning_tokens": usage.thoughts_token_count,
            "audio_tokens": audio_out,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def finish_of(candidate: Candidate, calls: int) -> str:
    """
    Return why an answer ended, in OpenAI's word.

    :raises BadUpstreamAnswer: if it ended in a call that cannot be read.
    """
    reason = candidate.finish_reason
    if reason in SPOILT:
        raise spoilt(candidate)
    if reason == "MAX_TOKENS":
        return "length"
    if reason in WITHHELD:
        return "content_filter"
    return "tool_calls" if calls else "stop"


def logprobs_of(candidate: Candidate) -> dict[str, Any] | None:
    """Return the likelihoods of what was said, with those of what might have been said in its place."""
    if candidate.logprobs_result is None:
        return None
    tops = candidate.logprobs_result.top_candidates or []
    content = []
    for at, chosen in enumerate(candidate.logprobs_result.chosen_candidates or ()):
        others = tops[at].candidates or [] if at < len(tops) else []
        content.append({**_token(chosen), "top_logprobs": [_token(other) for other in others]})
    return {"content": content, "refusal": None}


def _token(one: Token) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.log_probability, "bytes": list(one.token.encode("utf-8"))}


@attrs.define
class _Choice:
    """One of the alternatives, as far as it has come."""

    calls: int = 0
    begun: bool = False
    finish: str | None = None
    #: Whether something has been said, and what, where citations have their places in it.
    spoke: bool = False
    said: list[str] = attrs.field(factory=list)


@attrs.define
class Completion:
    """What is the same for all of a completion, and its choices by their index."""

    model: str
    created: int
    #: What the request says of its tools: whether one alone may be called, which are custom, whether it may search.
    tools: Tools = NO_TOOLS
    id: str = ""
    choices: dict[int, _Choice] = attrs.field(factory=dict)

    def choice(self, index: int) -> _Choice:
        """Return a choice, begun or not."""
        found = self.choices.get(index)
        if found is None:
            found = self.choices[index] = _Choice()
        return found

    def pieces(self, candidate: Candidate, choice: _Choice) -> Iterator[dict[str, Any]]:
        """Give what a candidate's parts add to a message, each in the form of a delta."""
        for part in candidate.parts:
            if part.function_call is not None:
                if not (self.tools.one and choice.calls):
                    yield {"tool_calls": [self._call(part, part.function_call, choice)]}
            elif part.inline_data is not None:
                url = f"data:{part.inline_data.mime_type};base64,{part.inline_data.data}"
                yield {"images": [{"type": "image_url", "image_url": {"url": url}}]}
            else:
                said = text_of(part)
                signed = {} if not part.thought_signature else {"extra_content": extra_content(part.thought_signature)}
                if said or signed:
                    yield {"reasoning_content" if part.thought else "content": said, **signed}

    def _call(self, part: Part, call: FunctionCall, choice: _Choice) -> dict[str, Any]:
        made: dict[str, Any] = {"index": choice.calls, "id": CallId(call.id, part.thought_signature).encode()}
        if call.name in self.tools.custom:
            made |= {"type": "custom", "custom": {"name": call.name, "input": custom_input(call.args)}}
        else:
            made |= {"type": "function", "function": {"name": call.name, "arguments": compact(call.args)}}
        if part.thought_signature:
            made["extra_content"] = extra_content(part.thought_signature)
        choice.calls += 1
        return made


def text_of(part: Part) -> str:
    """Return what a part says; code that the model has run, and what came of it, in fences."""
    if part.executable_code is not None:
        code = part.executable_code
        return f"\n```{code.language.lower()}\n{code.code.rstrip()}\n```\n"
    if part.code_execution_result is not None:
        return f"\n```\n{part.code_execution_result.output.rstrip()}\n```\n"
    return part.text or ""


# -- Whole -------------------------------------------------------------------------------------------


def document_of(completion: Completion, answer: bytes) -> bytes:
    """
    Make a completion of a whole answer.

    :raises msgspec.DecodeError: if it is none.
    :raises BadUpstreamAnswer: if it is of no use.
    """
    response = read_response(answer)
    choices = [_whole(completion, response, candidate) for candidate in response.candidates or ()]
    if not choices:
        refusal = why_withheld(response, None)
        message = {"role": "assistant", "content": None, "refusal": refusal}
        finish = "content_filter" if refusal else "stop"
        choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}]
    return _encode(
        {
            "id": f"chatcmpl-{response.response_id or completion.created}",
            "object": "chat.completion",
            "created": completion.created,
            "model": completion.model,
            "choices": choices,
            "usage": usage_of(response.usage_metadata or Usage()),
            "system_fingerprint": None,
        }
    )


def _whole(completion: Completion, response: Response, candidate: Candidate) -> dict[str, Any]:
    choice = completion.choice(candidate.index)
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for piece in completion.pieces(candidate, choice):
        for name, value in piece.items():
            if name in ("content", "reasoning_content"):
                message[name] = (message.get(name) or "") + value
            elif name == "extra_content":
                message[name] = value
            else:
                message.setdefault(name, []).extend(value)
    for call in message.get("tool_calls", ()):
        del call["index"]
    finish = finish_of(candidate, choice.calls)
    refusal = why_withheld(response, candidate)
    if refusal and not message["content"]:
        message["refusal"] = refusal
    if candidate.grounding_metadata is not None:
        message["annotations"] = citations(candidate.grounding_metadata, message["content"] or "")
    if message["content"] is None and message["refusal"] is None and not choice.calls and "images" not in message:
        message["content"] = ""
    return {
        "index": candidate.index,
        "message": message,
        "logprobs": logprobs_of(candidate),
        "finish_reason": finish,
    }


# -- Streamed ----------------------------------------------------------------------------------------


class CompletionStream:
    """
    The chunks of a completion: a :class:`agm.api.Translation`.

    :param usage: whether the last chunk tells the tokens.
    """

    def __init__(self, completion: Completion, *, usage: bool) -> None:
        self._completion = completion
        self._tells_usage = usage
        self._usage: Usage | None = None
        self._head = b""
        #: How a chunk of nothing but a piece of the first choice's text begins and ends.
        self._before = b""
        self._after = b',"logprobs":null,"finish_reason":null}]' + self._tail
        self._refused: str | None = None

    @property
    def _tail(self) -> bytes:
        return (b',"usage":null}' if self._tells_usage else b"}") + b"\n\n"

    def _begin(self, response: Response) -> None:
        made = self._completion
        made.id = f"chatcmpl-{response.response_id or made.created}"
        head = {
            "id": made.id,
            "object": "chat.completion.chunk",
            "created": made.created,
            "model": made.model,
            "system_fingerprint": None,
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._before = self._head + b'{"index":0,"delta":{"content":'

    def event(self, document: bytes) -> bytes:
        response = read_response(document)
        if not self._head:
            self._begin(response)
        if response.usage_metadata is not None:
            self._usage = response.usage_metadata
        candidates = response.candidates
        if not candidates:
            self._refused = why_withheld(response, None) or self._refused
            return b""
        if len(candidates) == 1:
            plain = self._plain(candidates[0])
            if plain is not None:
                return plain
        return b"".join([self._chunks(response, candidate) for candidate in candidates])

    def _plain(self, candidate: Candidate) -> bytes | None:
        """Return the chunk of nearly every event: one more piece of the text of the only choice."""
        content = candidate.content
        if content is None or candidate.index or candidate.finish_reason is not None:
            return None
        parts = content.parts
        if parts is None or len(parts) != 1 or candidate.logprobs_result is not None:
            return None
        part = parts[0]
        if not part.text or part.thought or part.thought_signature is not None:
            return None
        choice = self._completion.choices.get(0)
        if choice is None or not choice.begun:
            return None
        if self._completion.tools.searches:
            choice.said.append(part.text)
        return self._before + _encode(part.text) + b"}" + self._after

    def _chunks(self, response: Response, candidate: Candidate) -> bytes:
        made, choice = self._completion, self._completion.choice(candidate.index)
        chunks = []
        logprobs = logprobs_of(candidate)
        for piece in made.pieces(candidate, choice):
            if said := piece.get("content"):
                choice.spoke = True
                if made.tools.searches:
                    choice.said.append(said)
            chunks.append(self._chunk(candidate.index, choice, piece, logprobs))
            logprobs = None
        if logprobs is not None:
            chunks.append(self._chunk(candidate.index, choice, {}, logprobs))
        if candidate.finish_reason is not None:
            choice.finish = finish_of(candidate, choice.calls)
            refusal = why_withheld(response, candidate)
            if refusal and not choice.spoke:
                chunks.append(self._chunk(candidate.index, choice, {"refusal": refusal}))
            if candidate.grounding_metadata is not None:
                found = citations(candidate.grounding_metadata, "".join(choice.said))
                if found:
                    chunks.append(self._chunk(candidate.index, choice, {"annotations": found}))
        return b"".join(chunks)

    def _chunk(
        self,
        index: int,
        choice: _Choice,
        delta: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        finish: str | None = None,
    ) -> bytes:
        if not choice.begun:
            choice.begun = True
            delta = {"role": "assistant", "content": "" if "tool_calls" not in delta else None, **delta}
        one = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._head + _encode(one) + b"]" + self._tail

    def end(self) -> bytes:
        if not self._head:
            self._begin(Response())
        made = self._completion
        if not made.choices:
            choice = made.choice(0)
            choice.finish = "content_filter" if self._refused else "stop"
            if self._refused:
                begun = self._chunk(0, choice, {"content": None, "refusal": self._refused})
            else:
                begun = self._chunk(0, choice, {})
            last = begun
        else:
            last = b""
        for index, choice in sorted(made.choices.items()):
            # an upstream that gives no reason has come to its end all the same
            finish = choice.finish or ("tool_calls" if choice.calls else "stop")
            last += self._chunk(index, choice, {}, None, finish)
        if self._tells_usage:
            usage = _encode(usage_of(self._usage or Usage()))
            last += self._head + b'],"usage":' + usage + b"}\n\n"
        return last + DONE

    def failure(self, failure: StreamFailure) -> bytes:
        return b"data: " + error_document(stream_error(failure)) + b"\n\n"
