"""Gemini's answers as messages of Anthropic's: whole, as events, and back again in the next turn."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.api import BadUpstreamAnswer, StreamFailure
from agm.dialects.anthropic.answer import Stream, message
from agm.dialects.anthropic.contents import Conversation
from agm.dialects.anthropic.signatures import CallId, Seal, read_call_id
from tests.core.cuts import unhurried

USAGE = {
    "promptTokenCount": 10,
    "cachedContentTokenCount": 4,
    "toolUsePromptTokenCount": 2,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 3,
    "totalTokenCount": 20,
}
COUNTED = {
    "input_tokens": 8,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 8,
    "output_tokens_details": {"thinking_tokens": 3},
}


def said(*parts: Any, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    """An answer of Gemini's, or an event of one."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        candidate["finishReason"] = finish
    candidate.update(more)
    return {"candidates": [candidate], "usageMetadata": USAGE, "responseId": "r1"}


def whole(answer: Any, *, thinks: bool = True, one_call: bool = False) -> Any:
    return json.loads(message(json.dumps(answer).encode(), "claude-x", thinks=thinks, one_call=one_call))


def blocks(*parts: Any, **options: Any) -> Any:
    return whole(said(*parts), **options)["content"]


def streamed(events: Sequence[Any], *, thinks: bool = True, one_call: bool = False) -> list[dict[str, Any]]:
    """The events of a stream; each name is that of its document."""
    stream = Stream("claude-x", "req_1", thinks=thinks, one_call=one_call)
    out = b"".join(stream.event(json.dumps(event).encode()) for event in events) + stream.end()
    return documents(out)


def documents(out: bytes) -> list[dict[str, Any]]:
    found = []
    for event in out.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert name == f"event: {document['type']}"
        found.append(document)
    return found


def accumulated(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client puts together; it holds the order of the events, as Anthropic documents it."""
    assert events[0]["type"] == "message_start"
    built: dict[str, Any] = events[0]["message"]
    assert built["content"] == []
    is_open = False
    written = ""
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(built["content"])
                built["content"].append(event["content_block"])
                is_open, written = True, ""
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(built["content"]) - 1
                block, delta = built["content"][-1], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "input_json_delta":
                        written += delta["partial_json"]
                    case "citations_delta":
                        block.setdefault("citations", []).append(delta["citation"])
                    case other:
                        raise AssertionError(other)
            case "content_block_stop":
                assert is_open
                is_open = False
                if written:
                    built["content"][-1]["input"] = json.loads(written)
            case "message_delta":
                assert not is_open
                built.update(event["delta"], usage=event["usage"])
            case other:
                assert other == "message_stop"
                assert event is events[-1]
    assert events[-1]["type"] == "message_stop"
    return built


def own_ids_taken_out(document: Any) -> Any:
    """The same with one id for all, but for what an id holds."""
    return json.loads(re.sub(r"toolu_[0-9a-f]{24}", "toolu_" + "0" * 24, json.dumps(document)))


# -- Whole -------------------------------------------------------------------------------------------


def test_a_plain_answer() -> None:
    """Every field that clients read."""
    assert whole(said({"text": "Hello"})) == {
        "id": "msg_r1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": COUNTED,
    }


def test_calls_are_tool_uses() -> None:
    """Each with an id that holds what Gemini gets back."""
    called = whole(
        said(
            {"text": "I look."},
            {
                "functionCall": {"name": "f", "args": {"n": 1.50, "big": 12345678901234567890}, "id": "g1"},
                "thoughtSignature": "c2ln",
            },
            {"functionCall": {"name": "g"}},
        )
    )
    assert called["stop_reason"] == "tool_use"
    spoken, first, second = called["content"]
    assert (first["name"], first["input"]) == ("f", {"n": 1.5, "big": 12345678901234567890})
    assert read_call_id(first["id"]) == CallId("g1", "c2ln")
    assert (second["name"], second["input"], read_call_id(second["id"])) == ("g", {}, CallId())
    assert spoken == {"type": "text", "text": "I look."}


def test_one_call_at_most_where_the_client_wants_so() -> None:
    """The others are left out; the model makes them again if it has to."""
    calls = [{"functionCall": {"name": name}} for name in "fgh"]
    assert [block["name"] for block in blocks(*calls, one_call=True)] == ["f"]
    assert [block["name"] for block in blocks(*calls)] == ["f", "g", "h"]


def test_thinking_is_shown_to_who_asked_for_it() -> None:
    """With a signature that is of the part behind it, or of none."""
    parts = [{"text": "hm", "thought": True}, {"text": "so", "thoughtSignature": "c2ln"}]
    assert blocks(*parts) == [
        {"type": "thinking", "thinking": "hm", "signature": Seal("next", "c2ln").written()},
        {"type": "text", "text": "so"},
    ]
    assert blocks(*parts, thinks=False) == [{"type": "text", "text": "so"}]


def test_a_signature_behind_the_last_block_is_given_up() -> None:
    """Clients take the last block for what was said."""
    assert blocks({"text": "so"}, {"text": "", "thoughtSignature": "c2ln"}) == [{"type": "text", "text": "so"}]
    assert [
        block["type"] for block in blocks({"text": "so", "thoughtSignature": "c2ln"}, {"functionCall": {"name": "f"}})
    ] == [
        "text",
        "redacted_thinking",
        "tool_use",
    ]


def test_code_that_ran() -> None:
    """As the tool of Anthropic's that does the same."""
    ran, result = blocks(
        {"executableCode": {"language": "PYTHON", "code": "1/0"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_FAILED", "output": "no"}},
    )
    assert (ran["type"], ran["name"], ran["input"]) == ("server_tool_use", "code_execution", {"code": "1/0"})
    assert result == {
        "type": "code_execution_tool_result",
        "tool_use_id": ran["id"],
        "content": {"type": "code_execution_result", "stdout": "", "stderr": "no", "return_code": 1, "content": []},
    }


def test_searches() -> None:
    """Citations, the search with its results, and their number."""
    grounding = {
        "webSearchQueries": ["q1", "q2"],
        "groundingChunks": [{"web": {"uri": "https://x", "title": "X"}}, {"retrievedContext": {}}],
        "groundingSupports": [{"segment": {"endIndex": 3, "text": "sun"}, "groundingChunkIndices": [0, 1, 7]}],
    }
    found = whole(said({"text": "sun"}, groundingMetadata=grounding))
    spoken, searched, result = found["content"]
    assert spoken["citations"] == [
        {
            "type": "web_search_result_location",
            "cited_text": "sun",
            "url": "https://x",
            "title": "X",
            "encrypted_index": "",
        }
    ]
    assert (searched["name"], searched["input"]) == ("web_search", {"query": "q1; q2"})
    assert result["tool_use_id"] == searched["id"]
    assert [page["url"] for page in result["content"]] == ["https://x"]
    assert found["usage"]["server_tool_use"] == {"web_search_requests": 2, "web_fetch_requests": 0}


def test_media_are_named() -> None:
    """Anthropic's answers have no place for them."""
    (block,) = blocks({"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}})
    assert block["text"].startswith("[image/png, ")


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("STOP", "end_turn"),
        ("MAX_TOKENS", "max_tokens"),
        ("SAFETY", "refusal"),
        ("RECITATION", "refusal"),
        ("SOMETHING_NEW", "end_turn"),
        (None, "end_turn"),
    ],
)
def test_why_it_ended(finish: str | None, reason: str) -> None:
    """In Anthropic's words."""
    found = whole(said({"text": "x"}, finish=finish))
    assert found["stop_reason"] == reason
    assert (found["stop_details"] is None) == (reason != "refusal")
    assert whole(said({"functionCall": {"name": "f"}}, finish="MAX_TOKENS"))["stop_reason"] == "max_tokens"


def test_a_prompt_that_is_blocked() -> None:
    """Is a refusal with nothing in it."""
    found = whole({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}})
    assert (found["content"], found["stop_reason"]) == ([], "refusal")
    assert found["stop_details"]["explanation"] == "The prompt was blocked: SAFETY."


def test_a_call_that_the_model_failed_to_make_is_an_error() -> None:
    """Asked again it mostly succeeds; an answer without it would look complete."""
    with pytest.raises(BadUpstreamAnswer, match="MALFORMED_FUNCTION_CALL"):
        whole(said(finish="MALFORMED_FUNCTION_CALL"))
    with pytest.raises(BadUpstreamAnswer, match="MALFORMED_FUNCTION_CALL"):
        streamed([said(finish="MALFORMED_FUNCTION_CALL")])


# -- Streams -----------------------------------------------------------------------------------------


def test_the_events_of_a_stream_in_their_order() -> None:
    """Each block begun, added to and ended before the next."""
    events = streamed(
        [
            said({"text": "hm", "thought": True}, finish=None),
            said({"text": "so "}, finish=None),
            said({"text": "it is"}, {"functionCall": {"name": "f", "args": {"a": [1, 2]}}}),
        ]
    )
    assert [event.get("delta", event.get("content_block", event)).get("type", event["type"]) for event in events] == [
        "message_start",
        "thinking",
        "thinking_delta",
        "signature_delta",
        "content_block_stop",
        "text",
        "text_delta",
        "text_delta",
        "content_block_stop",
        "tool_use",
        "input_json_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"] == COUNTED
    assert events[-2]["usage"] == COUNTED
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None, "stop_details": None}


def test_an_event_says_at_once_what_came() -> None:
    """Nothing waits for the next one."""
    stream = Stream("m", "req_1", thinks=True, one_call=False)
    first = documents(stream.event(json.dumps(said({"text": "a"}, finish=None)).encode()))
    assert [event["type"] for event in first] == ["message_start", "content_block_start", "content_block_delta"]
    assert len(documents(stream.event(json.dumps(said({"text": "b"}, finish=None)).encode()))) == 1
    assert stream.event(json.dumps(said(finish="STOP")).encode()) == b""


def test_a_stream_that_breaks_off_ends_in_an_error() -> None:
    """With the type of its status, and the upstream's words."""
    stream = Stream("m", "req_1", thinks=True, one_call=False)
    stream.event(json.dumps(said({"text": "a"}, finish=None)).encode())
    (event,) = documents(stream.failure(StreamFailure.of(503, "too many")))
    assert event == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "too many"},
        "request_id": "req_1",
    }


def test_a_stream_without_an_event() -> None:
    """Is an empty message."""
    assert accumulated(streamed([]))["content"] == []


# -- There and back ----------------------------------------------------------------------------------

SIGNATURES = st.binary(min_size=1, max_size=9).map(lambda raw: base64.b64encode(raw).decode())
THOUGHTS = st.builds(lambda text: {"text": text, "thought": True}, st.text(min_size=1, max_size=5))
TEXTS = st.builds(lambda text: {"text": text}, st.text(min_size=1, max_size=5))
CALLS = st.builds(
    lambda name, args, own: {"functionCall": {"name": name, "args": args, **({"id": own} if own else {})}},
    st.sampled_from(["f", "g"]),
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.none(), max_size=2),
    st.none() | st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True),
)
CODES = st.just({"executableCode": {"language": "PYTHON", "code": "print(1)"}})
RESULTS = st.sampled_from(
    [{"codeExecutionResult": {"outcome": outcome, "output": "x"}} for outcome in ("OUTCOME_OK", "OUTCOME_FAILED")]
)
SIGNED = st.builds(lambda part, signature: {**part, "thoughtSignature": signature}, TEXTS | CALLS | CODES, SIGNATURES)
PARTS = st.lists(THOUGHTS | TEXTS | CALLS | CODES | RESULTS | SIGNED, min_size=1, max_size=6)


def merged(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    The same parts with texts that follow each other as one; of two signatures of one text the later counts.

    Of the text at the end only the first part's has a place, in the thinking before it.
    """
    spoken = len(parts)
    while spoken and "text" in parts[spoken - 1] and not parts[spoken - 1].get("thought"):
        spoken -= 1
    found: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        if number > spoken or (number == spoken and not (spoken and parts[spoken - 1].get("thought"))):
            part.pop("thoughtSignature", None)
        last = found[-1] if found else {}
        if "text" in part and "text" in last and part.get("thought") == last.get("thought"):
            found[-1] = {**last, **part, "text": last["text"] + part["text"]}
        else:
            found.append(part)
    return found


def came_back(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts that Gemini gets for an assistant's turn."""
    conversation = Conversation()
    conversation.read([{"role": "user", "content": "x"}, {"role": "assistant", "content": content}])
    parts: list[dict[str, Any]] = conversation.contents[1]["parts"]
    return parts


@unhurried
@given(PARTS)
def test_what_gemini_said_comes_back_to_it_as_it_was(parts: list[dict[str, Any]]) -> None:
    """Thoughts, texts, calls with ids, code, and the signatures of all of them."""
    assert came_back(blocks(*parts)) == merged([dict(part) for part in parts])


@unhurried
@given(PARTS, st.booleans())
def test_a_stream_comes_to_what_the_whole_answer_is(parts: list[dict[str, Any]], thinks: bool) -> None:
    """Cut in any way; only a signature behind what was already streamed goes elsewhere."""
    unsigned = [{name: value for name, value in part.items() if name != "thoughtSignature"} for part in parts]
    events = [said(part, finish=None) for part in unsigned]
    events[-1]["candidates"][0]["finishReason"] = "STOP"
    complete = whole(said(*unsigned), thinks=thinks)
    assert own_ids_taken_out(accumulated(streamed(events, thinks=thinks))) == own_ids_taken_out(complete)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FULL = said(
    {"text": "hm", "thought": True, "thoughtSignature": "c2ln"},
    {"text": "so"},
    {"functionCall": {"name": "f", "args": {"a": 1}, "id": "g"}},
    {"executableCode": {"code": "1"}},
    {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
    {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
    groundingMetadata={
        "webSearchQueries": ["q"],
        "groundingChunks": [{"web": {"uri": "https://x", "title": "X"}}],
        "groundingSupports": [{"segment": {"text": "so"}, "groundingChunkIndices": [0, -9]}],
    },
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place within a document: what holds it, and its name there."""
    inner = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, name) for name, _ in inner] + [place for _, one in inner for place in places(one)]


@unhurried
@given(st.data(), ANYTHING)
def test_an_answer_with_anything_anywhere_is_translated_or_refused(data: st.DataObject, value: Any) -> None:
    """What is no answer of Google's ends in an error for the client, and none of Python's."""
    answer = copy.deepcopy(FULL)
    holder, name = data.draw(st.sampled_from(places(answer)))
    holder[name] = value
    for translate in (whole, lambda one: streamed([one, one])):
        with contextlib.suppress(BadUpstreamAnswer, msgspec.DecodeError):
            translate(answer)


CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"type": "text", "text": "Hello"}],
    [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "ID", "name": "Read", "input": {"file_path": "/a"}},
    ],
    [
        {"type": "thinking", "thinking": "Two at once.", "signature": "agm1.none"},
        {"type": "tool_use", "id": "ID_08g1g1g1g1c2ln", "name": "Read", "input": {}},
        {"type": "tool_use", "id": "ID", "name": "Grep", "input": {"pattern": "x", "n": 3}},
    ],
    [
        {"type": "thinking", "thinking": "Sure.", "signature": "agm1.next.c2ln"},
        {"type": "text", "text": "It is"},
    ],
    [
        {"type": "server_tool_use", "id": "srvID", "name": "code_execution", "input": {"code": "print(1)"}},
        {
            "type": "code_execution_tool_result",
            "tool_use_id": "srvID",
            "content": {
                "type": "code_execution_result",
                "stdout": "1\n",
                "stderr": "",
                "return_code": 0,
                "content": [],
            },
        },
        {"type": "text", "text": "One."},
    ],
]


@pytest.mark.parametrize("content", CONVERSATIONS)
def test_a_turn_as_clients_keep_it_comes_to_itself(content: list[dict[str, Any]]) -> None:
    """Through Gemini's form and back; an id is its own each time."""
    kept = json.loads(json.dumps(content).replace("ID", "toolu_" + "0" * 24))
    assert own_ids_taken_out(blocks(*came_back(kept))) == kept
