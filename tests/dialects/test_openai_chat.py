"""Chat completions: what a request is translated to, and what becomes of answers, as a dialogue with an upstream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agm.dialects.base import BadParameter
from agm.dialects.openai import chat
from agm.dialects.openai.completion import Completion, CompletionStream, document_of
from agm.dialects.openai.tools import CallId, Tools

USER = {"role": "user", "content": "hi"}


def translated(served: str = "gemini-2.5-flash", **fields: Any) -> dict[str, Any]:
    """The body that goes upstream, to the model that serves."""
    asked = {"model": "m", "messages": [USER], **fields}
    call = chat.translate(json.dumps(asked).encode())
    body = call.body if call.for_model is None else call.for_model(call.body, served)
    found: dict[str, Any] = json.loads(body)
    return found


def config(served: str = "gemini-2.5-flash", **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = translated(served, **fields).get("generationConfig", {})
    return found


def refused(**fields: Any) -> str:
    """The parameter that a request is refused for."""
    with pytest.raises(BadParameter) as e:
        translated(**fields)
    assert e.value.param in e.value.message
    return e.value.param


# -- Requests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 7}, {"temperature": 0.5, "topP": 0.9, "topK": 7}),
        ({"max_tokens": 5}, {"maxOutputTokens": 5}),
        ({"max_completion_tokens": 5, "max_tokens": None}, {"maxOutputTokens": 5}),
        ({"stop": "a"}, {"stopSequences": ["a"]}),
        ({"stop": ["a", "b"]}, {"stopSequences": ["a", "b"]}),
        ({"n": 3}, {"candidateCount": 3}),
        ({"n": 1}, {}),
        ({"seed": 2**40 + 5}, {"seed": 5}),
        ({"logprobs": True, "top_logprobs": 4}, {"responseLogprobs": True, "logprobs": 4}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presencePenalty": 1, "frequencyPenalty": -1}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object", "properties": {}}},
        ),
        ({"modalities": ["text", "image"]}, {"responseModalities": ["TEXT", "IMAGE"]}),
        (
            {"google": {"thinking_config": {"thinking_budget": 7, "include_thoughts": True}}},
            {"thinkingConfig": {"thinkingBudget": 7, "includeThoughts": True}},
        ),
        ({"user": "u", "metadata": {}, "store": False, "logit_bias": {}, "parallel_tool_calls": True}, {}),
    ],
)
def test_a_parameter_has_its_namesake(given: dict[str, Any], made: dict[str, Any]) -> None:
    found = config(**given)
    if "responseJsonSchema" in found:
        found["responseJsonSchema"].setdefault("properties", {})
    assert found == made


@pytest.mark.parametrize(
    ("effort", "served", "made"),
    [
        ("none", "gemini-2.5-flash", {"thinkingBudget": 0}),
        ("low", "gemini-2.5-pro", {"thinkingBudget": 1024}),
        ("medium", "models/gemini-2.5-pro", {"thinkingBudget": 8192}),
        ("xhigh", "gemini-2.5-pro", {"thinkingBudget": 24576}),
        ("minimal", "gemini-3-flash-preview", {"thinkingLevel": "MINIMAL"}),
        ("minimal", "gemini-3-pro-preview", {"thinkingLevel": "LOW"}),
        ("medium", "gemini-3-pro-preview", {"thinkingLevel": "HIGH"}),
        ("medium", "gemini-3.1-pro", {"thinkingLevel": "MEDIUM"}),
    ],
)
def test_effort_is_a_budget_or_a_level_as_the_model_that_serves_has_it(
    effort: str, served: str, made: dict[str, Any]
) -> None:
    assert config(served, reasoning_effort=effort) == {"thinkingConfig": made}


def test_a_model_that_always_thinks_is_not_told_not_to() -> None:
    with pytest.raises(BadParameter, match="reasoning_effort: thinking cannot be turned off"):
        config("gemini-3-pro-preview", reasoning_effort="none")


def part(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [fields]}]


PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("messages", "made"),
    [
        (
            part(type="image_url", image_url={"url": PNG}),
            {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
        ),
        (
            part(type="image_url", image_url={"url": "https://example.com/a.jpg?x=1"}),
            {"fileData": {"fileUri": "https://example.com/a.jpg?x=1", "mimeType": "image/jpeg"}},
        ),
        (
            part(type="image_url", image_url={"url": "gs://bucket/a.webp"}),
            {"fileData": {"fileUri": "gs://bucket/a.webp", "mimeType": "image/webp"}},
        ),
        (
            part(type="input_audio", input_audio={"data": "AAAA", "format": "wav"}),
            {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}},
        ),
        (
            part(type="file", file={"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}),
            {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
        ),
        (
            part(type="file", file={"file_id": "files/abc"}),
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        ),
    ],
)
def test_media_are_parts(messages: list[dict[str, Any]], made: dict[str, Any]) -> None:
    assert translated(messages=messages)["contents"] == [{"role": "user", "parts": [made]}]


def test_detail_is_the_resolution_of_all_images() -> None:
    low, high = ({"type": "image_url", "image_url": {"url": PNG, "detail": detail}} for detail in ("low", "high"))
    assert config(messages=[{"role": "user", "content": [low]}]) == {"mediaResolution": "MEDIA_RESOLUTION_LOW"}
    assert config(messages=[{"role": "user", "content": [high, low]}]) == {"mediaResolution": "MEDIA_RESOLUTION_HIGH"}


def test_instructions_are_one_wherever_they_stand() -> None:
    messages = [
        {"role": "system", "content": "a"},
        USER,
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
    ]
    made = translated(messages=messages)
    assert made["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    assert made["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]


def test_a_name_is_said_before_what_is_said() -> None:
    made = translated(messages=[{"role": "user", "name": "ada", "content": "hi"}])
    assert made["contents"] == [{"role": "user", "parts": [{"text": "ada: "}, {"text": "hi"}]}]


FUNCTION = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
}
DECLARED = {
    "name": "f",
    "description": "d",
    "parametersJsonSchema": {"type": "object", "properties": {"a": {"type": "string"}}},
}
STRICT = {"type": "function", "function": {"name": "g", "strict": True}}


def test_functions_are_declared_with_their_json_schema() -> None:
    made = translated(tools=[FUNCTION])
    assert made["tools"] == [{"functionDeclarations": [DECLARED]}]
    assert "toolConfig" not in made


@pytest.mark.parametrize(
    ("choice", "tools", "made"),
    [
        ("auto", [FUNCTION], None),
        ("none", [FUNCTION], {"mode": "NONE"}),
        ("required", [FUNCTION], {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "f"}}, [FUNCTION], {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        ("auto", [STRICT], {"mode": "VALIDATED"}),
        ("auto", [STRICT, FUNCTION], None),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
            [FUNCTION],
            {"mode": "VALIDATED", "allowedFunctionNames": ["f"]},
        ),
    ],
)
def test_a_choice_of_tools_is_a_mode(choice: Any, tools: list[Any], made: dict[str, Any] | None) -> None:
    found = translated(tools=tools, tool_choice=choice).get("toolConfig")
    assert found == (None if made is None else {"functionCallingConfig": made})


def test_what_a_schema_cannot_say_is_told_with_its_place() -> None:
    schema = {"type": "object", "patternProperties": {"^a": {}}}
    asked = {
        "model": "m",
        "messages": [USER],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
    }
    (left_out,) = chat.translate(json.dumps(asked).encode()).left_out
    assert left_out.startswith("tools[0].function.parameters")
    assert "patternProperties" in left_out


def test_parallel_calls_and_their_answers_are_one_turn_each() -> None:
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.50}'}},
        {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    messages = [
        USER,
        {"role": "assistant", "content": "I call.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "plain"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"ok": true}'},
    ]
    made = translated(messages=messages)["contents"]
    assert made[1] == {
        "role": "model",
        "parts": [
            {"text": "I call."},
            {"functionCall": {"name": "f", "args": {"a": 1.5}}},
            {"functionCall": {"name": "g", "args": {}}},
        ],
    }
    assert made[2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "g", "response": {"result": "plain"}}},
            {"functionResponse": {"name": "f", "response": {"ok": True}}},
        ],
    }


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("logit_bias", {"logit_bias": {"1": 1}}),
        ("prediction", {"prediction": {"type": "content", "content": "x"}}),
        ("store", {"store": True}),
        ("verbosity", {"verbosity": "low"}),
        ("audio", {"audio": {"voice": "alloy", "format": "wav"}}),
        ("modalities", {"modalities": ["audio"]}),
        ("service_tier", {"service_tier": "priority"}),
        ("invented", {"invented": 1}),
        ("temperature", {"temperature": "warm"}),
        ("n", {"n": 9}),
        ("stop", {"stop": list("abcdef")}),
        ("max_tokens", {"max_tokens": 4, "max_completion_tokens": 5}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("reasoning_effort", {"reasoning_effort": "enormous"}),
        ("response_format.type", {"response_format": {"type": "xml"}}),
        (
            "response_format.json_schema.schema",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        ),
        ("tools[0].type", {"tools": [{"type": "file_search"}]}),
        ("tools[0].function.name", {"tools": [{"type": "function", "function": {}}]}),
        ("tool_choice", {"tool_choice": "required"}),
        ("messages", {"messages": []}),
        ("messages[0].role", {"messages": [{"role": "robot", "content": "x"}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": 4}]}),
        ("messages[0].content[0].type", {"messages": part(type="hologram")}),
        (
            "messages[0].content[0].image_url.url",
            {"messages": part(type="image_url", image_url={"url": "http://a/b.png"})},
        ),
        (
            "messages[0].content[0].image_url.url",
            {"messages": part(type="image_url", image_url={"url": "https://a/b"})},
        ),
        (
            "messages[0].content[0].image_url.url",
            {"messages": part(type="image_url", image_url={"url": "data:image/png;base64,&&"})},
        ),
        (
            "messages[0].content[0].input_audio.format",
            {"messages": part(type="input_audio", input_audio={"format": "aac"})},
        ),
        ("messages[0].content[0].file.file_id", {"messages": part(type="file", file={"file_id": "file-1"})}),
        ("messages[1].tool_call_id", {"messages": [USER, {"role": "tool", "tool_call_id": "x", "content": "y"}]}),
        (
            "messages[1].tool_calls[0].function.arguments",
            {
                "messages": [
                    USER,
                    {"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{"}}]},
                ]
            },
        ),
        ("web_search_options.user_location", {"web_search_options": {"user_location": {}}}),
        ("google.invented", {"google": {"invented": 1}}),
        ("stream_options.invented", {"stream": True, "stream_options": {"invented": True}}),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_name(param: str, fields: dict[str, Any]) -> None:
    assert refused(**fields) == param


# -- Signatures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("google", [None, "abcd1234", "with_sig_inside", "not plain!"])
@pytest.mark.parametrize("signature", [None, "AA==", "+/+/", "a" * 4096])
def test_an_id_carries_what_gemini_has_to_get_back(google: str | None, signature: str | None) -> None:
    written = CallId(google, signature).encode()
    assert set(written) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    carried = google if google == "abcd1234" else None
    assert CallId.decode(written) == CallId(carried, signature)


@pytest.mark.parametrize("written", ["call_AbCdEf0123456789abcdefgh", "toolu_01", "", "call_n12"])
def test_an_id_of_another_make_carries_nothing(written: str) -> None:
    assert CallId.decode(written) == CallId()


def test_a_signature_survives_the_round_trip_by_the_id_alone_and_beside_it() -> None:
    part_ = {"functionCall": {"id": "g1", "name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"}
    answer = {"candidates": [{"content": {"role": "model", "parts": [part_]}, "finishReason": "STOP"}]}
    message = json.loads(document_of(Completion("m", 1), json.dumps(answer).encode()))["choices"][0]["message"]
    for stripped in (False, True):
        said = json.loads(json.dumps(message))
        if stripped:  # as a client sends it that knows OpenAI's fields alone
            for call in said["tool_calls"]:
                del call["extra_content"]
        assert translated(messages=[USER, said])["contents"][1] == {"role": "model", "parts": [part_]}


def test_the_signature_of_a_text_survives_in_the_message() -> None:
    part_ = {"text": "hello", "thoughtSignature": "c2ln"}
    answer = {"candidates": [{"content": {"role": "model", "parts": [part_]}, "finishReason": "STOP"}]}
    message = json.loads(document_of(Completion("m", 1), json.dumps(answer).encode()))["choices"][0]["message"]
    assert translated(messages=[USER, message])["contents"][1] == {"role": "model", "parts": [part_]}


def test_a_call_of_another_models_is_marked_so_for_the_models_that_insist() -> None:
    call = {"id": "call_x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "call_y"}]}]
    first, second = translated("gemini-3-pro-preview", messages=messages)["contents"][1]["parts"]
    assert first["thoughtSignature"] == "skip_thought_signature_validator"
    assert "thoughtSignature" not in second
    (plain, _) = translated("gemini-2.5-pro", messages=messages)["contents"][1]["parts"]
    assert "thoughtSignature" not in plain


# -- Answers -----------------------------------------------------------------------------------------


def answered(*parts: dict[str, Any], finish: str = "STOP", tools: Tools | None = None, **more: Any) -> dict[str, Any]:
    """The completion of an answer with one candidate."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, **more}
    document = {"candidates": [candidate], "usageMetadata": USAGE, "responseId": "r"}
    completion = Completion("gpt-4o", 7) if tools is None else Completion("gpt-4o", 7, tools)
    found: dict[str, Any] = json.loads(document_of(completion, json.dumps(document).encode()))
    return found


USAGE = {
    "promptTokenCount": 100,
    "candidatesTokenCount": 20,
    "thoughtsTokenCount": 30,
    "cachedContentTokenCount": 40,
    "toolUsePromptTokenCount": 5,
}


def test_usage_counts_what_was_cached_and_what_was_thought() -> None:
    usage = answered({"text": "x"})["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (105, 50, 155)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 40
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 30


def test_a_completion_has_the_name_that_was_asked_for_and_googles_id() -> None:
    found = answered({"text": "a"}, {"text": "b"})
    assert (found["id"], found["model"], found["created"]) == ("chatcmpl-r", "gpt-4o", 7)
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "ab", "refusal": None}


def test_thoughts_are_never_text() -> None:
    message = answered({"text": "hmm", "thought": True}, {"text": "yes"})["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hmm", "yes")


@pytest.mark.parametrize(
    ("google", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SOMETHING_NEW", "stop"),
    ],
)
def test_reasons_to_end(google: str, finish: str) -> None:
    assert answered({"text": "x"}, finish=google)["choices"][0]["finish_reason"] == finish


def test_what_is_withheld_is_a_refusal() -> None:
    choice = answered(finish="SAFETY")["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", None)
    assert "SAFETY" in choice["message"]["refusal"]


def test_a_call_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(Exception, match="MALFORMED_FUNCTION_CALL"):
        answered(finish="MALFORMED_FUNCTION_CALL")


def test_arguments_keep_every_digit_and_their_order() -> None:
    args = b'{\n "z": 1.10,\n "a": 12345678901234567890123\n}'
    document = b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":' + args + b"}}]}}]}"
    choice = json.loads(document_of(Completion("m", 1), document))["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"z":1.10,"a":12345678901234567890123}'
    assert choice["finish_reason"] == "tool_calls"


def test_without_parallel_calls_the_first_one_counts() -> None:
    calls = [{"functionCall": {"name": name, "args": {}}} for name in "fg"]
    assert len(answered(*calls)["choices"][0]["message"]["tool_calls"]) == 2
    assert len(answered(*calls, tools=Tools({}, True, ()))["choices"][0]["message"]["tool_calls"]) == 1


def test_a_custom_tool_gets_its_text_back() -> None:
    tools = [
        {
            "type": "custom",
            "custom": {
                "name": "sh",
                "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /x/"}},
            },
        }
    ]
    asked = chat.Chat(json.dumps({"model": "m", "messages": [USER], "tools": tools}).encode())
    assert "not enforced" in asked.call.left_out[0]
    call = {"functionCall": {"name": "sh", "args": {"input": "ls -l"}}}
    message = answered(call, tools=asked.tools)["choices"][0]["message"]
    assert message["tool_calls"][0]["custom"] == {"name": "sh", "input": "ls -l"}
    assert translated(messages=[USER, message])["contents"][1]["parts"] == [call]


def test_likelihoods_come_token_by_token() -> None:
    chosen, other = {"token": "é", "logProbability": -0.5}, {"token": "e", "logProbability": -1.5}
    result = {"chosenCandidates": [chosen], "topCandidates": [{"candidates": [chosen, other]}]}
    (one,) = answered({"text": "é"}, logprobsResult=result)["choices"][0]["logprobs"]["content"]
    assert (one["token"], one["logprob"], one["bytes"]) == ("é", -0.5, [195, 169])
    assert [top["token"] for top in one["top_logprobs"]] == ["é", "e"]


def test_citations_are_counted_in_characters() -> None:
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://a/", "title": "A"}}],
        "groundingSupports": [{"segment": {"startIndex": 2, "endIndex": 5}, "groundingChunkIndices": [0, 9]}],
    }
    (found,) = answered({"text": "éabc"}, groundingMetadata=grounding)["choices"][0]["message"]["annotations"]
    assert found["url_citation"] == {"url": "https://a/", "title": "A", "start_index": 1, "end_index": 4}


# -- Streams -----------------------------------------------------------------------------------------


def stream(*events: dict[str, Any], usage: bool = False) -> tuple[list[dict[str, Any]], bytes]:
    """The chunks of a stream, and all of its bytes."""
    made = CompletionStream(Completion("m", 7), usage=usage)
    written = b"".join([made.event(json.dumps(event).encode()) for event in events]) + made.end()
    chunks = [json.loads(line[6:]) for line in written.split(b"\n\n") if line and line != b"data: [DONE]"]
    return chunks, written


def event(*parts: dict[str, Any], index: int = 0, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, "index": index, **more}], "usageMetadata": USAGE}


def test_a_stream_begins_with_the_role_and_ends_once() -> None:
    chunks, written = stream(event({"text": "a"}), event({"text": "b"}), event(finishReason="STOP"))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": "a"}, {"content": "b"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert written.count(b"[DONE]") == 1
    assert written.endswith(b"data: [DONE]\n\n")
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_is_in_the_last_chunk_where_it_is_asked_for() -> None:
    chunks, _ = stream(event({"text": "a"}), event({"text": "b"}, finishReason="STOP"), usage=True)
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 155


def test_the_alternatives_of_a_stream_are_told_apart() -> None:
    chunks, _ = stream(
        event({"text": "a"}), event({"text": "b"}, index=1, finishReason="STOP"), event(finishReason="MAX_TOKENS")
    )
    said = [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"].get("content")) for chunk in chunks]
    assert said == [(0, "a"), (1, "b"), (0, None), (1, None)]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[2:]] == ["length", "stop"]


def test_calls_of_a_stream_are_numbered_and_signed() -> None:
    calls = [{"functionCall": {"name": name, "args": {"a": 1}}} for name in "fg"]
    chunks, _ = stream(event({**calls[0], "thoughtSignature": "c2ln"}), event(calls[1], finishReason="STOP"))
    first, second = (chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks[:2])
    assert (first["index"], second["index"]) == (0, 1)
    assert first["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert first["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("events", [[], [{"promptFeedback": {"blockReason": "SAFETY"}}]])
def test_a_stream_without_an_answer_ends_in_order(events: list[dict[str, Any]]) -> None:
    chunks, written = stream(*events)
    assert chunks[-1]["choices"][0]["finish_reason"] == ("content_filter" if events else "stop")
    assert ("SAFETY" in json.dumps(chunks)) is bool(events)
    assert written.count(b"[DONE]") == 1
