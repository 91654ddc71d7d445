"""Requests and answers with anything anywhere: each is translated, or refused in words; none raises something else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import msgspec
import pytest

from agm.api import GatewayError, InvalidRequest, TranslatedCall
from agm.dialects.gemini import read_response
from agm.dialects.openai import chat, embeddings, images, responses, speech
from agm.dialects.openai.completion import Completion, CompletionStream, document_of
from agm.dialects.openai.output import Output, ResponseStream
from agm.dialects.openai.tools import NO_TOOLS

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
GRAMMAR = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}, "syntax": "lark", "definition": "x"}
CHAT = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [
        {"role": "system", "content": "s", "name": "n"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "t"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
            ],
        },
        {
            "role": "assistant",
            "content": "c",
            "refusal": "r",
            "extra_content": {"google": {"thought_signature": "AA=="}},
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": "i"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "t"}]},
    ],
    "tools": [
        {"type": "function", "function": FUNCTION},
        {"type": "custom", "custom": {"name": "g", "format": GRAMMAR}},
    ],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"function": {"name": "f"}}]}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "web_search_options": {"search_context_size": "medium"},
    "extra_body": {"google": {"thinking_config": {"thinking_budget": 1}, "safety_settings": []}},
    "reasoning_effort": "low",
    "stop": ["a"],
    "modalities": ["text"],
    "n": 2,
    "seed": 1,
    "logit_bias": {},
}
RESPONSES = {
    "model": "m",
    "input": [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "t"}, {"type": "input_file", "file_id": "files/a"}],
        },
        {"type": "reasoning", "encrypted_content": "agm-signature:AA=="},
        {"type": "function_call", "call_id": "call_ga", "name": "f", "namespace": "s", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c", "name": "g", "input": "i"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "t"}]},
    ],
    "tools": [
        {"type": "function", **FUNCTION},
        {
            "type": "namespace",
            "name": "s",
            "description": "d",
            "tools": [{"type": "custom", "name": "g", "format": GRAMMAR}],
        },
        {"type": "web_search"},
    ],
    "tool_choice": {"type": "function", "name": "f", "namespace": "s"},
    "text": {"format": {"type": "json_schema", "schema": {"type": "string"}}},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
}
EMBEDDINGS = {"model": "m", "input": ["a", "b"], "dimensions": 3, "encoding_format": "base64"}
IMAGES = {"model": "m", "prompt": "p", "n": 2, "size": "10x20", "quality": "low", "output_format": "png"}
SPEECH = {"model": "m", "input": "i", "voice": {"id": "alloy"}, "instructions": "x", "response_format": "wav"}
#: What may stand where something else should.
ODD = [None, True, 0, -1, 1.5, 10**30, "", "x", "\u0000", [], {}, [None], [[]], {"type": None}, {"a": {}}, [1], ["x"]]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container with a key or an index in it."""
    if isinstance(value, dict | list):
        for at in value if isinstance(value, dict) else range(len(value)):
            yield value, at
            yield from places(value[at])


def mutants(document: Any) -> Iterator[Any]:
    """The document with each place of it replaced by each odd value, left out, or under another name."""
    count = sum(1 for _ in places(document))
    for number in range(count):
        for change in [*ODD, ...]:
            copied = json.loads(json.dumps(document))
            holder, at = list(places(copied))[number]
            if change is ...:
                del holder[at]
            else:
                holder[at] = deepcopy(change)
            yield copied
    chance = random.Random(7)
    for _ in range(300):  # several at once
        copied = json.loads(json.dumps(document))
        for _ in range(3):
            holder, at = chance.choice(list(places(copied)))
            holder[at] = deepcopy(chance.choice(ODD))
        yield copied


@pytest.mark.parametrize(
    ("translate", "document"),
    [
        (chat.translate, CHAT),
        (responses.translate, RESPONSES),
        (embeddings.translate, EMBEDDINGS),
        (images.translate, IMAGES),
        (speech.translate, SPEECH),
    ],
    ids=["chat", "responses", "embeddings", "images", "speech"],
)
def test_a_request_is_translated_or_refused(translate: Callable[[bytes], TranslatedCall], document: Any) -> None:
    json.loads(translate(json.dumps(document).encode()).body)  # as it is, it is good
    for mutant in mutants(document):
        try:
            call = translate(json.dumps(mutant).encode())
            bodies = [call.body]
            if call.for_model is not None:
                bodies += [call.for_model(call.body, model) for model in ("gemini-2.5-pro", "gemini-3-pro")]
        except InvalidRequest:
            continue
        assert all(isinstance(json.loads(body), dict) for body in bodies)


ANSWER = {
    "candidates": [
        {
            "content": {
                "parts": [
                    {"text": "t", "thought": True},
                    {"text": "t", "thoughtSignature": "AA=="},
                    {"functionCall": {"name": "f", "id": "i", "args": {"a": 1}}},
                    {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                    {"executableCode": {"language": "PYTHON", "code": "1"}},
                    {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
                ]
            },
            "finishReason": "STOP",
            "index": 0,
            "logprobsResult": {
                "chosenCandidates": [{"token": "t", "logProbability": -1}],
                "topCandidates": [{"candidates": [{"token": "t"}]}],
            },
            "groundingMetadata": {
                "groundingChunks": [{"web": {"uri": "u", "title": "t"}}],
                "groundingSupports": [{"segment": {"startIndex": 0, "endIndex": 1}, "groundingChunkIndices": [0]}],
            },
        }
    ],
    "promptFeedback": {"blockReason": "SAFETY"},
    "usageMetadata": {"promptTokenCount": 1, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 1}]},
    "responseId": "r",
}


def test_an_answer_is_translated_or_cannot_be_read() -> None:
    """Whole and as an event, in both forms."""

    def responded(document: bytes) -> bytes:
        output = Output("m", 1, {}, NO_TOOLS)
        output.take(read_response(document))
        output.finish()
        return msgspec.json.encode(output.response())

    def streamed(document: bytes, stream: CompletionStream | ResponseStream) -> bytes:
        return stream.event(document) + stream.event(document) + stream.end()

    for mutant in mutants(ANSWER):
        document = json.dumps(mutant).encode()
        for translate in (
            lambda document: document_of(Completion("m", 1), document),
            responded,
            lambda document: streamed(document, CompletionStream(Completion("m", 1), usage=True)),
            lambda document: streamed(document, ResponseStream(Output("m", 1, {}, NO_TOOLS))),
        ):
            try:
                assert translate(document), mutant
            except (msgspec.DecodeError, GatewayError):
                continue
