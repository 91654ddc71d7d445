"""Requests of Anthropic's clients as Gemini's: what they come to, and what is refused by its name."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.api import InvalidRequest, TranslatedCall
from agm.dialects.anthropic.request import NO_SIGNATURE, read_count, read_request
from agm.dialects.anthropic.signatures import CallId, Seal, read_call_id, read_seal
from agm.dialects.base import BadParameter
from tests.core.cuts import unhurried

MODEL = "gemini-2.5-flash-image"  # does not think, so nothing is added for its thinking
PNG = "iVBORw0KGgo="
HI: list[Any] = [{"role": "user", "content": "Hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {"name": "get_weather", "description": "Look outside", "input_schema": CITY}


def asked(**fields: Any) -> bytes:
    """A request's body."""
    return json.dumps({"model": MODEL, "max_tokens": 100, "messages": HI, **fields}).encode()


def document(call: TranslatedCall, model: str = MODEL) -> Any:
    """The body for a model."""
    body = call.body if call.for_model is None else call.for_model(call.body, model)
    return json.loads(body)


def translated(model: str = MODEL, **fields: Any) -> Any:
    return document(read_request(asked(**fields)).call, model)


def contents(*messages: Any) -> Any:
    return translated(messages=list(messages))["contents"]


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


# -- What is said ------------------------------------------------------------------------------------


def test_a_plain_request() -> None:
    """Every parameter that both have."""
    found = translated(
        system="Be brief.",
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=["END"],
        metadata={"user_id": "u"},
        service_tier="auto",
        cache_control={"type": "ephemeral"},
    )
    assert found == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "generationConfig": {
            "maxOutputTokens": 100,
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40,
            "stopSequences": ["END"],
        },
    }


def test_whether_it_streams() -> None:
    """The method that is called."""
    assert read_request(asked()).call.method == "generateContent"
    assert read_request(asked(stream=True)).call.method == "streamGenerateContent"
    assert read_request(asked(stream=True)).stream


def test_instructions_in_blocks() -> None:
    """Each a part; a note that clients write for Anthropic's bills is none, because it would spoil the cache."""
    system = [
        text("x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli;"),
        {**text("One"), "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        text("Two"),
        text(""),
    ]
    assert translated(system=system)["systemInstruction"] == {"parts": [{"text": "One"}, {"text": "Two"}]}
    assert "systemInstruction" not in translated(system="")


def test_turns_of_one_role_are_one_turn() -> None:
    """As Anthropic reads them; an instruction among them is marked as one."""
    assert contents(
        user(text("a")),
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        assistant(),
        assistant(text("d"), text("")),
    ) == [
        {"role": "user", "parts": [{"text": "a"}, {"text": "<system>\nBe kind.\n</system>"}, {"text": "b"}]},
        {"role": "model", "parts": [{"text": "c"}, {"text": "d"}]},
    ]


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
            [{"inlineData": {"mimeType": "image/png", "data": PNG}}],
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x/y.webp?z=1"}},
            [{"fileData": {"mimeType": "image/webp", "fileUri": "https://x/y.webp?z=1"}}],
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x/y"}},
            [{"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x/y"}}],
        ),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}},
            [{"inlineData": {"mimeType": "application/pdf", "data": PNG}}],
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "https://x/y"}, "citations": {"enabled": False}},
            [{"fileData": {"mimeType": "application/pdf", "fileUri": "https://x/y"}}],
        ),
        (
            {
                "type": "document",
                "title": "T",
                "context": "C",
                "source": {"type": "text", "media_type": "text/plain", "data": "d"},
            },
            [{"text": "Document: T\nC"}, {"text": "d"}],
        ),
        (
            {"type": "document", "source": {"type": "content", "content": [text("a"), text("b")]}},
            [{"text": "a"}, {"text": "b"}],
        ),
        ({"type": "document", "source": {"type": "content", "content": "a"}}, [{"text": "a"}]),
        (
            {"type": "search_result", "title": "T", "source": "https://x", "content": [text("found")]},
            [{"text": "T\nhttps://x"}, {"text": "found"}],
        ),
    ],
)
def test_what_a_user_shows(block: Any, parts: Any) -> None:
    """Images and documents, as bytes, by address, as text."""
    assert contents(user({**block, "cache_control": {"type": "ephemeral"}})) == [{"role": "user", "parts": parts}]


# -- Tools -------------------------------------------------------------------------------------------


def test_tools() -> None:
    """Declared in JSON Schema, with what guides a model in the description."""
    more = {
        **WEATHER,
        "name": "b",
        "type": "custom",
        "input_examples": [{"city": "Oslo"}],
        "eager_input_streaming": True,
    }
    found = translated(tools=[WEATHER, more])
    assert found["tools"] == [
        {
            "functionDeclarations": [
                {"name": "get_weather", "description": "Look outside", "parametersJsonSchema": CITY},
                {
                    "name": "b",
                    "description": 'Look outside\n\nExamples of its input:\n{"city":"Oslo"}',
                    "parametersJsonSchema": CITY,
                },
            ]
        }
    ]
    assert "toolConfig" not in found


@pytest.mark.parametrize(
    ("choice", "config", "one"),
    [
        ({"type": "auto"}, None, False),
        ({"type": "auto", "disable_parallel_tool_use": True}, None, True),
        ({"type": "any"}, {"mode": "ANY"}, False),
        ({"type": "none"}, {"mode": "NONE"}, False),
        (
            {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
            {"mode": "ANY", "allowedFunctionNames": ["get_weather"]},
            True,
        ),
    ],
)
def test_the_choice_of_a_tool(choice: Any, config: Any, one: bool) -> None:
    """In Gemini's words; that there is one call at most is seen to in the answer."""
    read = read_request(asked(tools=[WEATHER], tool_choice=choice))
    assert document(read.call).get("toolConfig") == (None if config is None else {"functionCallingConfig": config})
    assert read.one_call is one


def test_a_strict_tool_is_held_to_its_schema() -> None:
    """By Gemini's mode for that."""
    found = translated(tools=[{**WEATHER, "strict": True}])
    assert found["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}


def test_tools_of_anthropics_that_google_has_too() -> None:
    """Search and code, beside functions."""
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5, "allowed_domains": None}
    code = {"type": "code_execution_20250825", "name": "code_execution"}
    assert translated(tools=[search, WEATHER, code])["tools"] == [
        {
            "functionDeclarations": [
                {"name": "get_weather", "description": "Look outside", "parametersJsonSchema": CITY}
            ]
        },
        {"googleSearch": {}},
        {"codeExecution": {}},
    ]


def test_what_a_schema_loses_is_told_with_its_place() -> None:
    """For the answer's header."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    left_out = read_request(asked(tools=[{"name": "f", "input_schema": schema}])).call.left_out
    assert left_out == ("tools[0].input_schema/properties/a: uniqueItems: Gemini has nothing for it",)


def test_a_format_for_the_answer() -> None:
    """A schema of JSON."""
    wanted = {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"const": 1}}}}
    for fields in ({"output_config": {"format": wanted}}, {"output_format": wanted}):
        config = translated(**fields)["generationConfig"]
        assert config["responseMimeType"] == "application/json"
        assert config["responseJsonSchema"] == {
            "type": "object",
            "properties": {"a": {"type": "integer", "enum": [1]}},
        }


def test_calls_and_results() -> None:
    """In the order of the calls, whatever the client's; with what came with each, and what is said behind them."""
    first, second = CallId("g1", "c2ln").written(), CallId().written()
    found = contents(
        user(text("Weather here and there?")),
        assistant(
            text("I look."),
            {"type": "tool_use", "id": first, "name": "get_weather", "input": {"city": "Oslo"}},
            {"type": "tool_use", "id": second, "name": "get_weather", "input": {"city": "Rome"}},
        ),
        user(
            {"type": "tool_result", "tool_use_id": second, "is_error": True, "content": "down"},
            {
                "type": "tool_result",
                "tool_use_id": first,
                "content": [
                    text("cold"),
                    text("wet"),
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                ],
            },
            text("So?"),
        ),
    )
    assert found[1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "I look."},
                {
                    "functionCall": {"name": "get_weather", "args": {"city": "Oslo"}, "id": "g1"},
                    "thoughtSignature": "c2ln",
                },
                {"functionCall": {"name": "get_weather", "args": {"city": "Rome"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "get_weather", "response": {"output": "cold\nwet"}, "id": "g1"}},
                {"inlineData": {"mimeType": "image/png", "data": PNG}},
                {"functionResponse": {"name": "get_weather", "response": {"error": "down"}}},
                {"text": "So?"},
            ],
        },
    ]


def test_a_result_without_content() -> None:
    """Is an empty one."""
    used = CallId().written()
    found = contents(
        user(text("x")),
        assistant({"type": "tool_use", "id": used, "name": "f", "input": {}}),
        user({"type": "tool_result", "tool_use_id": used}),
    )
    assert found[2]["parts"] == [{"functionResponse": {"name": "f", "response": {"output": ""}}}]


# -- What depends on the model -----------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gemini-3-pro-preview", "gemini-2.5-pro"])
def test_calls_of_another_makers_model_have_a_signature_where_one_is_asked_for(model: str) -> None:
    """The first of a turn, and with the newest models alone."""
    calls = [{"type": "tool_use", "id": name, "name": "f", "input": {}} for name in ("toolu_01", "toolu_02")]
    messages = [
        user(text("x")),
        assistant(*calls),
        user(*({"type": "tool_result", "tool_use_id": one["id"], "content": "y"} for one in calls)),
        assistant({"type": "tool_use", "id": CallId(None, "b3du").written(), "name": "f", "input": {}}, calls[0]),
    ]
    found = translated(model, messages=messages)["contents"]
    signatures = [part.get("thoughtSignature") for turn in found for part in turn["parts"] if "functionCall" in part]
    foreign = NO_SIGNATURE if model.startswith("gemini-3") else None
    assert signatures == [foreign, None, "b3du", None]


BUDGETS = {"type": "enabled", "budget_tokens": 5000}


@pytest.mark.parametrize(
    ("model", "fields", "config"),
    [
        ("gemini-2.5-flash", {}, {"thinkingBudget": 0}),
        ("gemini-2.5-flash-lite", {}, {"thinkingBudget": 0}),
        ("gemini-2.5-pro", {}, {"thinkingBudget": 128}),
        ("gemini-3-pro-preview", {}, {"thinkingLevel": "low"}),
        ("gemini-3-flash-preview", {}, {"thinkingLevel": "minimal"}),
        ("gemini-flash-latest", {"thinking": {"type": "disabled"}}, {"thinkingLevel": "minimal"}),
        ("gemini-2.0-flash", {}, None),
        ("gemini-2.5-flash-image", {}, None),
        ("tuned", {"thinking": {"type": "disabled"}}, None),
        ("gemini-2.5-flash", {"thinking": BUDGETS}, {"includeThoughts": True, "thinkingBudget": 5000}),
        ("tuned", {"thinking": BUDGETS}, {"includeThoughts": True, "thinkingBudget": 5000}),
        ("gemini-3-flash-preview", {"thinking": BUDGETS}, {"includeThoughts": True, "thinkingLevel": "medium"}),
        ("gemini-3-pro-preview", {"thinking": BUDGETS}, {"includeThoughts": True, "thinkingLevel": "high"}),
        (
            "gemini-3-pro-preview",
            {"thinking": {**BUDGETS, "budget_tokens": 1024, "display": "omitted"}},
            {"thinkingLevel": "low"},
        ),
        (
            "gemini-2.5-flash",
            {"thinking": {"type": "enabled", "budget_tokens": 31999}},
            {"includeThoughts": True, "thinkingBudget": 24576},
        ),
        (
            "gemini-2.5-pro",
            {"thinking": {"type": "enabled", "budget_tokens": 31999}},
            {"includeThoughts": True, "thinkingBudget": 31999},
        ),
        ("gemini-2.5-pro", {"thinking": {"type": "adaptive"}}, {"includeThoughts": True, "thinkingBudget": -1}),
        ("gemini-3-pro-preview", {"thinking": {"type": "adaptive"}}, {"includeThoughts": True}),
        (
            "gemini-2.5-pro",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            {"includeThoughts": True, "thinkingBudget": -1},
        ),
        (
            "gemini-2.5-flash",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            {"includeThoughts": True, "thinkingBudget": 24576},
        ),
        (
            "gemini-3-flash-preview",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}},
            {"includeThoughts": True, "thinkingLevel": "medium"},
        ),
        ("gemini-2.5-pro", {"output_config": {"effort": "low"}}, {"thinkingBudget": 1024}),
        (
            "gemini-2.5-flash",
            {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}},
            {"thinkingBudget": 0},
        ),
    ],
)
def test_how_much_a_model_thinks(model: str, fields: Any, config: Any) -> None:
    """In tokens or by a level, within what it has; as little as it can where no thinking is asked for."""
    assert translated(model, **fields)["generationConfig"].get("thinkingConfig") == config


# -- Thinking, and what else comes back --------------------------------------------------------------


def test_thinking_comes_back_with_its_signature() -> None:
    """To the part that it is of; another maker's says nothing to Gemini."""
    call = {"type": "tool_use", "id": CallId().written(), "name": "f", "input": {}}
    turn = assistant(
        {"type": "thinking", "thinking": "theirs", "signature": "EqQBCgIYAhIM"},
        {"type": "redacted_thinking", "data": "EqQBCgIYAhIM"},
        {"type": "thinking", "thinking": "t", "signature": Seal("thought", "MQ==").written()},
        {"type": "thinking", "thinking": "n", "signature": Seal("next", "Mg==").written()},
        text("said"),
        {"type": "redacted_thinking", "data": Seal("empty", "Mw==").written()},
        text("more"),
        {"type": "redacted_thinking", "data": Seal("last", "NA==").written()},
        call,
    )
    parts = [
        {"text": "t", "thought": True, "thoughtSignature": "MQ=="},
        {"text": "n", "thought": True},
        {"text": "said", "thoughtSignature": "Mg=="},
        {"text": "", "thoughtSignature": "Mw=="},
        {"text": "more", "thoughtSignature": "NA=="},
        {"functionCall": {"name": "f", "args": {}}},
    ]
    assert contents(user(text("x")), turn)[1] == {"role": "model", "parts": parts}
    alone = [assistant(block) for block in turn["content"]]
    assert contents(user(text("x")), *alone)[1] == {"role": "model", "parts": parts}


@pytest.mark.parametrize(
    ("keep", "kept"), [("all", ["1", "2", "3"]), ({"type": "thinking_turns", "value": 2}, ["2", "3"]), (None, ["3"])]
)
def test_thinking_of_earlier_turns_is_cleared_as_asked(keep: Any, kept: list[str]) -> None:
    """``clear_thinking`` of ``context_management``, which Claude Code sends."""
    messages = []
    for said in "123":
        messages += [
            user(text("x")),
            assistant({"type": "thinking", "thinking": said, "signature": "agm1.none"}, text("y")),
        ]
    edit = {"type": "clear_thinking_20251015", **({} if keep is None else {"keep": keep})}
    found = translated(messages=messages, context_management={"edits": [edit]})
    assert [part["text"] for turn in found["contents"] for part in turn["parts"] if part.get("thought")] == kept


def test_code_that_ran_comes_back_and_searches_do_not() -> None:
    """As Gemini gets them back from its own clients."""
    used = CallId(None, "c2ln").written("srvtoolu_")
    result = {"type": "code_execution_result", "stdout": "", "stderr": "no", "return_code": 1, "content": []}
    turn = assistant(
        {"type": "server_tool_use", "id": used, "name": "code_execution", "input": {"code": "1/0"}},
        {"type": "code_execution_tool_result", "tool_use_id": used, "content": result},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        {**text("done"), "citations": []},
    )
    assert contents(user(text("x")), turn)[1]["parts"] == [
        {"executableCode": {"language": "PYTHON", "code": "1/0"}, "thoughtSignature": "c2ln"},
        {"codeExecutionResult": {"outcome": "OUTCOME_FAILED", "output": "no"}},
        {"text": "done"},
    ]


# -- Counting ----------------------------------------------------------------------------------------


def test_a_question_for_the_number_of_tokens() -> None:
    """The whole request, without what bounds an answer."""
    body = {"model": "m", "messages": HI, "system": "s", "tools": [WEATHER], "thinking": {"type": "adaptive"}}
    call = read_count(json.dumps(body).encode())
    assert (call.model, call.method) == ("m", "countTokens")
    whole = document(call, "served")["generateContentRequest"]
    assert whole.pop("model") == "models/served"
    assert set(whole) == {"systemInstruction", "contents", "tools"}


# -- What is refused ---------------------------------------------------------------------------------

URL = {"type": "url", "url": "https://x"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name"),
        ({"messages": [user({"type": "video"})]}, "messages[0].content[0].type"),
        (
            {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]},
            "messages[0].content[0].source.type",
        ),
        ({"messages": [user({"type": "tool_result", "tool_use_id": "u"})]}, "messages[0].content[0].tool_use_id"),
        (
            {"messages": [user({"type": "document", "source": URL, "citations": {"enabled": True}})]},
            "messages[0].content[0].citations",
        ),
        ({"messages": [assistant({"type": "image", "source": URL})]}, "messages[0].content[0].type"),
        ({"stop_sequences": list("abcdef")}, "stop_sequences"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0].type"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"speed": "fast"}, "speed"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search", "allowed_domains": ["x"]}]},
            "tools[0].allowed_domains",
        ),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**WEATHER, "color": "red"}]}, "tools[0].color"),
        ({"tools": [WEATHER], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ],
)
def test_what_gemini_does_not_have_is_refused_by_its_name(fields: Any, param: str) -> None:
    """With the place where it stands."""
    with pytest.raises(BadParameter) as refused:
        read_request(asked(**fields))
    assert refused.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(
    [
        *("text", "image", "document", "search_result", "tool_use", "tool_result", "thinking", "redacted_thinking"),
        *("server_tool_use", "web_search_tool_result", "code_execution_tool_result", "x"),
    ]
)
BLOCKS = st.fixed_dictionaries(
    {"type": TYPES},
    optional={
        **dict.fromkeys(
            ("text", "thinking", "signature", "data", "id", "name", "tool_use_id"), st.text(max_size=4) | JSON
        ),
        **dict.fromkeys(("source", "content", "input", "citations", "caller"), JSON),
    },
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.lists(BLOCKS, max_size=4) | JSON}
    ),
    max_size=4,
)


@unhurried
@given(MESSAGES | JSON, JSON, JSON, JSON)
def test_anything_is_translated_or_refused(messages: Any, tools: Any, thinking: Any, system: Any) -> None:
    """With an answer for the client, never an error of Python's."""
    body = asked(messages=messages, tools=tools, thinking=thinking, system=system)
    with contextlib.suppress(InvalidRequest):
        document(read_request(body).call, "gemini-3-pro-preview")


# -- Signatures --------------------------------------------------------------------------------------

SIGNATURES = st.none() | st.binary(min_size=1, max_size=40).map(lambda raw: base64.b64encode(raw).decode())


@given(st.none() | st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True), SIGNATURES)
def test_an_id_holds_what_it_was_given(call: str | None, signature: str | None) -> None:
    """In the characters that Anthropic's ids consist of."""
    held = CallId(call, signature)
    assert read_call_id(held.written()) == held
    assert read_call_id(held.written("srvtoolu_")) == held
    assert held.written().replace("_", "").replace("-", "").isalnum()
    assert read_seal(Seal("next", signature).written()) == Seal("next", signature)


@pytest.mark.parametrize(
    "written", ["", "toolu_01D7FLrfh4GYq7yT1ULFeyMV", "toolu_" + "0" * 24 + "_ff00", "call_1", "toolu_x"]
)
def test_an_id_of_another_make_holds_nothing(written: str) -> None:
    """And is no error."""
    assert read_call_id(written) is None
