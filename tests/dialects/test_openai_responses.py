"""The Responses API: items in, items out, and the events between, in OpenAI's order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agm.dialects.base import BadParameter
from agm.dialects.gemini import read_response
from agm.dialects.openai import responses
from agm.dialects.openai.output import Output, ResponseStream
from agm.dialects.openai.tools import NO_TOOLS

SH = {"type": "custom", "name": "sh"}


def asked(**fields: Any) -> responses.Request:
    return responses.Request(json.dumps({"model": "m", "input": "hi", **fields}).encode())


def translated(served: str = "gemini-2.5-flash", **fields: Any) -> dict[str, Any]:
    call = asked(**fields).call
    found: dict[str, Any] = json.loads(call.body if call.for_model is None else call.for_model(call.body, served))
    return found


def event(*parts: dict[str, Any], **more: Any) -> bytes:
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 1}
    return json.dumps({"candidates": [{"content": {"parts": list(parts)}, **more}], "usageMetadata": usage}).encode()


def streamed(*events: bytes, request: responses.Request | None = None) -> list[dict[str, Any]]:
    """The events of a stream; each has its name twice, and the next number."""
    tools = NO_TOOLS if request is None else request.tools
    stream = ResponseStream(Output("m", 7, {}, tools))
    written = b"".join([stream.event(one) for one in events]) + stream.end()
    found = []
    for block in written.strip().split(b"\n\n"):
        name, data = block.split(b"\n")
        found.append(json.loads(data.removeprefix(b"data: ")))
        assert name.decode() == f"event: {found[-1]['type']}"
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    return found


def test_settings_have_their_namesakes() -> None:
    made = translated(
        instructions="brief",
        max_output_tokens=5,
        temperature=0.1,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "string"}}, "verbosity": "medium"},
        store=False,
        include=["reasoning.encrypted_content"],
    )
    assert made["systemInstruction"] == {"parts": [{"text": "brief"}]}
    assert made["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]
    assert made["generationConfig"] == {
        "temperature": 0.1,
        "maxOutputTokens": 5,
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "string"},
        "thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": True},
    }


def test_items_are_turns() -> None:
    items = [
        {"role": "developer", "content": "rule"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "agm-signature:c2ln"},
        {"type": "function_call", "call_id": "call_gid1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "sh", "input": "ls"},
        {"type": "function_call_output", "call_id": "call_gid1", "output": "1"},
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
            ],
        },
    ]
    made = translated(input=items)
    assert made["systemInstruction"] == {"parts": [{"text": "rule"}]}
    assert made["contents"] == [
        {"role": "user", "parts": [{"text": "q"}]},
        {
            "role": "model",
            "parts": [
                {"text": "a", "thoughtSignature": "c2ln"},
                {"functionCall": {"name": "f", "args": {}, "id": "id1"}},
                {"functionCall": {"name": "sh", "args": {"input": "ls"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "f", "response": {"result": "1"}, "id": "id1"}},
                {"functionResponse": {"name": "sh", "response": {"result": "see"}}},
            ],
        },
        {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]},
    ]


def test_tools_stand_flat_and_searching_is_one() -> None:
    function = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
    made = translated(tools=[function, SH, {"type": "web_search"}], tool_choice={"type": "function", "name": "f"})
    declared, search = made["tools"]
    assert [one["name"] for one in declared["functionDeclarations"]] == ["f", "sh"]
    assert search == {"googleSearch": {}}
    assert made["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("previous_response_id", {"previous_response_id": "resp_1"}),
        ("conversation", {"conversation": "c"}),
        ("store", {"store": True}),
        ("background", {"background": True}),
        ("prompt", {"prompt": {"id": "p"}}),
        ("truncation", {"truncation": "auto"}),
        ("max_tool_calls", {"max_tool_calls": 3}),
        ("include", {"include": ["code_interpreter_call.outputs"]}),
        ("reasoning.effort", {"reasoning": {"effort": "much"}}),
        ("text.verbosity", {"text": {"verbosity": "high"}}),
        ("tools[0].type", {"tools": [{"type": "code_interpreter"}]}),
        ("input[0].type", {"input": [{"type": "item_reference", "id": "x"}]}),
        ("input[0].call_id", {"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}),
        ("input", {"input": []}),
        ("invented", {"invented": 1}),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_name(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(BadParameter) as e:
        translated(**fields)
    assert e.value.param == param


TEXT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


def test_the_events_of_a_text_come_in_order() -> None:
    events = streamed(event({"text": "a"}), event({"text": "b"}, finishReason="STOP"))
    assert [one["type"] for one in events] == [
        "response.created",
        "response.in_progress",
        *TEXT,
        "response.completed",
    ]
    assert "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta") == "ab"
    response = events[-1]["response"]
    assert response["output"][0]["content"][0]["text"] == "ab"
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}
    assert (response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (3, 3)
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["usage"] is None


def test_thoughts_text_and_calls_are_items_one_after_the_other() -> None:
    events = streamed(
        event({"text": "hmm", "thought": True}),
        event({"text": "a"}, {"functionCall": {"name": "f", "args": {"x": 1}, "id": "g1"}, "thoughtSignature": "c2ln"}),
        event(finishReason="STOP"),
    )
    assert [one["type"].removeprefix("response.") for one in events] == [
        *("created", "in_progress", "output_item.added"),
        *("reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done"),
        *("reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    added = [one["output_index"] for one in events if one["type"] == "response.output_item.added"]
    assert added == [0, 1, 2]
    reasoning, message, call = events[-1]["response"]["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "hmm"}]
    assert message["status"] == "completed"
    assert (call["call_id"], call["arguments"]) == ("call_gg1_sig_c2ln", '{"x":1}')


def test_the_signature_of_a_text_survives_the_round_trip() -> None:
    events = streamed(event({"text": "hel"}), event({"text": "lo", "thoughtSignature": "c2ln"}, finishReason="STOP"))
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "reasoning"]
    made = translated(input=[{"role": "user", "content": "q"}, *output])["contents"]
    assert made[1] == {"role": "model", "parts": [{"text": "hello", "thoughtSignature": "c2ln"}]}


def test_a_custom_tool_gets_its_text() -> None:
    call = {"functionCall": {"name": "sh", "args": {"input": "ls"}}}
    events = streamed(event(call, finishReason="STOP"), request=asked(tools=[SH]))
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["input"]) == ("custom_tool_call", "ls")


def test_functions_of_a_namespace_have_its_name_before_their_own() -> None:
    """And come back in it, as Codex has it."""
    function = {"type": "function", "name": "close", "description": "d", "defer_loading": True}
    space = {"type": "namespace", "name": "agents", "description": "about", "tools": [function, SH]}
    request = asked(tools=[space], tool_choice={"type": "function", "namespace": "agents", "name": "close"})
    made = json.loads(request.call.body)
    close, sh = made["tools"][0]["functionDeclarations"]
    assert (close["name"], close["description"]) == ("agents__close", "d\n\nagents: about")
    assert sh["name"] == "agents__sh"
    assert made["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == ["agents__close"]
    parts = [{"functionCall": {"name": name, "args": {"input": "x"}}} for name in ("agents__close", "agents__sh")]
    output = streamed(event(*parts, finishReason="STOP"), request=request)[-1]["response"]["output"]
    assert [(item["namespace"], item["name"]) for item in output] == [("agents", "close"), ("agents", "sh")]
    assert output[1]["type"] == "custom_tool_call"
    again = translated(input=[{"role": "user", "content": "q"}, *output])["contents"][1]["parts"]
    assert again == parts


@pytest.mark.parametrize(
    ("finish", "last", "reason"),
    [("MAX_TOKENS", "response.incomplete", "max_output_tokens"), ("SAFETY", "response.incomplete", "content_filter")],
)
def test_an_answer_that_is_not_whole_says_so(finish: str, last: str, reason: str) -> None:
    events = streamed(event({"text": "a"}, finishReason=finish))
    assert events[-1]["type"] == last
    assert events[-1]["response"]["incomplete_details"] == {"reason": reason}


def test_a_blocked_prompt_is_a_refusal() -> None:
    events = streamed(b'{"promptFeedback": {"blockReason": "SAFETY"}}')
    assert "response.refusal.delta" in [one["type"] for one in events]
    (item,) = events[-1]["response"]["output"]
    assert item["content"][0]["type"] == "refusal"


def test_a_response_that_does_not_stream_is_what_stands_at_the_end() -> None:
    request = asked(instructions="i", tools=[SH])
    output = Output("m", 7, request.echo, request.tools)
    output.take(read_response(event({"text": "a"}, finishReason="STOP")))
    output.finish()
    found = output.response()
    assert (found["status"], found["object"], found["created_at"]) == ("completed", "response", 7)
    assert (found["instructions"], found["tools"]) == ("i", [SH])
