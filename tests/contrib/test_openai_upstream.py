"""OpenAI-compatible servers behind Gemini's API: a scripted server on loopback, and google-genai as the client."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import pytest_twisted
from google import genai
from google.genai import errors, types
from twisted.internet.threads import deferToThread

from agm.api import Fault
from agm.contrib import openai_upstream
from agm.testing import Answer, GatewayFactory, RunningEmulator, RunningGateway, build_request, check_plugin
from tests.helpers.support import AnsweringUpstream, Asked, connect, post

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
)
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 12,
    "total_tokens": 21,
    "completion_tokens_details": {"reasoning_tokens": 5},
    "prompt_tokens_details": {"cached_tokens": 4},
}
COUNTED = {
    "promptTokenCount": 9,
    "candidatesTokenCount": 7,
    "totalTokenCount": 21,
    "thoughtsTokenCount": 5,
    "cachedContentTokenCount": 4,
}


def completion(message: Mapping[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "c-1", "object": "chat.completion", "model": "m-2024", "choices": [choice], "usage": USAGE, **more}


def call(name: str, arguments: str, number: int = 1) -> dict[str, Any]:
    return {"id": f"call-{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def stream(*deltas: Mapping[str, Any], finish: str | None = "stop", done: bool = True, usage: bool = True) -> bytes:
    """A stream of chunks, a delta each."""
    head = {"id": "c-1", "object": "chat.completion.chunk", "model": "m-2024"}
    chunks: list[dict[str, Any]] = [{**head, "choices": [{"index": 0, "delta": {"role": "assistant"}}]}]
    chunks += [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    if finish is not None:
        chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage:
        chunks.append({**head, "choices": [], "usage": USAGE})
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks) + (b"data: [DONE]\n\n" * done)


SSE = {"content-type": "text/event-stream"}


class Server:
    """A scripted OpenAI-compatible server; `says` are its answers, the last one for ever."""

    def __init__(self) -> None:
        self.says: list[tuple[Any, ...]] = [(200, completion({"content": "hello"}))]
        self._upstream = AnsweringUpstream(self._answer)
        self.url = f"{self._upstream.url}/v1"

    def _answer(self, asked: Asked) -> tuple[Any, ...]:
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]

    @property
    def asked(self) -> list[Asked]:
        return self._upstream.asked

    @property
    def body(self) -> Any:
        """The body of the last request."""
        return json.loads(self.asked[-1].body)

    async def stop(self) -> None:
        await self._upstream.stop()


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    yield running
    await running.stop()


Start = Callable[..., Awaitable[RunningGateway]]


@pytest.fixture
def start(gateway: GatewayFactory, server: Server) -> Start:
    """A gateway with accounts of the kind; `keys` are theirs."""

    async def make(*keys: str, extra: str = "", top: str = "", plugins: list[object] | None = None) -> RunningGateway:
        tables = "".join(
            f'[[accounts]]\nname = "{key}"\nkind = "openai"\napi_key = "{key}"\nendpoints = ["{server.url}"]\n{extra}\n'
            for key in keys or ("one",)
        )
        return await gateway(top + tables, plugins=[openai_upstream, *(plugins or [])])

    return make


def client_of(running: RunningGateway) -> genai.Client:
    return genai.Client(api_key="any", http_options=types.HttpOptions(base_url=running.url))


async def by_sdk(running: RunningGateway, ask: Callable[[genai.Client], Any]) -> Any:
    """Use google-genai in a thread: it blocks."""

    def use() -> Any:
        client = client_of(running)
        try:
            return ask(client)
        finally:
            client.close()

    return await deferToThread(use)


def test_it_keeps_the_rules_of_plugins() -> None:
    check_plugin(openai_upstream)


# The request


@pytest_twisted.ensureDeferred
async def test_a_question_of_google_genai_comes_as_a_chat(start: Start, server: Server) -> None:
    running = await start("key-of-one")
    server.says = [(200, completion({"content": "Red.", "reasoning_content": "Look at it."}))]
    answer = await by_sdk(
        running,
        lambda client: client.models.generate_content(
            model="gpt-x",
            contents=[
                types.Part.from_bytes(data=PIXEL, mime_type="image/png"),
                "Which colour?",
            ],
            config=types.GenerateContentConfig(
                system_instruction="Be brief.",
                temperature=0.5,
                top_p=0.9,
                max_output_tokens=50,
                stop_sequences=["END"],
                seed=7,
            ),
        ),
    )
    asked = server.asked[-1]
    assert (asked.path, asked.headers["authorization"]) == ("/v1/chat/completions", "Bearer key-of-one")
    assert "x-goog-api-key" not in asked.headers
    assert server.body == {
        "model": "gpt-x",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": "data:image/png;base64," + base64.b64encode(PIXEL).decode()},
                    },
                    {"type": "text", "text": "Which colour?"},
                ],
            },
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 50,
        "stop": ["END"],
        "seed": 7,
    }
    assert answer.text == "Red."
    assert answer.candidates[0].content.parts[0].thought
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert answer.model_version == "m-2024"
    assert answer.usage_metadata.prompt_token_count == 9
    assert answer.usage_metadata.thoughts_token_count == 5


@pytest_twisted.ensureDeferred
async def test_tools_go_there_and_back_with_their_ids(start: Start, server: Server) -> None:
    """A conversation with two calls at once, as google-genai makes it of Python functions' declarations."""
    running = await start()
    declared = types.FunctionDeclaration(
        name="weather",
        description="The weather.",
        parameters=types.Schema(
            type=types.Type.OBJECT,
            properties={
                "city": types.Schema(type=types.Type.STRING, nullable=True),
                "days": types.Schema(type=types.Type.ARRAY, items=types.Schema(type=types.Type.INTEGER), min_items=1),
            },
            required=["city"],
        ),
    )
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[declared])],
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(
                mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=["weather"]
            )
        ),
    )
    both = [call("weather", '{"city": "Bonn"}'), call("weather", '{"city": "Ulm"}', 2)]
    server.says = [
        (200, completion({"content": None, "tool_calls": both}, "tool_calls")),
        (200, completion({"content": "Sun in both."})),
    ]
    first = await by_sdk(
        running, lambda client: client.models.generate_content(model="m", contents="Weather?", config=config)
    )
    assert server.body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": ["string", "null"]},
                        "days": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                    },
                    "required": ["city"],
                },
            },
        }
    ]
    assert server.body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert [(one.id, one.name, one.args) for one in first.function_calls] == [
        ("call-1", "weather", {"city": "Bonn"}),
        ("call-2", "weather", {"city": "Ulm"}),
    ]
    responses = [
        types.Part(function_response=types.FunctionResponse(id=one.id, name=one.name, response={"sky": "clear"}))
        for one in reversed(first.function_calls)
    ]
    again = [
        types.UserContent("Weather?"),
        first.candidates[0].content,
        types.Content(role="user", parts=responses),
    ]
    second = await by_sdk(running, lambda client: client.models.generate_content(model="m", contents=again))
    assert server.body["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": both},
        {"role": "tool", "tool_call_id": "call-2", "content": '{"sky": "clear"}'},
        {"role": "tool", "tool_call_id": "call-1", "content": '{"sky": "clear"}'},
    ]
    assert second.text == "Sun in both."


def wrapped(body: Mapping[str, Any], method: str = "generateContent", **settings: Any) -> dict[str, Any]:
    """What becomes of a body."""
    from agm.api import Account

    request = build_request(model="m", body=body, method=method)
    (kind,) = openai_upstream.agm_upstream_kinds()
    account = Account("a", "openai", ("https://x",), settings=openai_upstream.Settings(**settings), upstream=kind)
    found: dict[str, Any] = json.loads(openai_upstream.wrap(request, account, request.body.raw).body)
    return found


def test_calls_without_ids_get_some_in_their_order() -> None:
    """As of clients that have never heard of ids; the responses are for the calls in their order."""
    asked = wrapped(
        {
            "contents": [
                {
                    "role": "model",
                    "parts": [{"functionCall": {"name": name, "args": {"a": 1}}} for name in ("f", "g", "f")],
                },
                {
                    "role": "user",
                    "parts": [{"functionResponse": {"name": name, "response": {}}} for name in ("g", "f", "f")],
                },
            ]
        }
    )
    assert [one["id"] for one in asked["messages"][0]["tool_calls"]] == ["call_1", "call_2", "call_3"]
    assert [one["tool_call_id"] for one in asked["messages"][1:]] == ["call_2", "call_1", "call_3"]


def test_fields_in_snake_case_are_read_too() -> None:
    """As curl users write them."""
    asked = wrapped(
        {
            "system_instruction": {"parts": [{"text": "Be brief."}]},
            "contents": {"parts": {"inline_data": {"mime_type": "image/png", "data": "-_-_"}}},
            "generation_config": {"max_output_tokens": 5, "response_mime_type": "application/json"},
        },
        max_tokens_field="max_completion_tokens",
    )
    assert asked["messages"][1]["content"][0]["image_url"]["url"] == "data:image/png;base64,+/+/"
    assert (asked["max_completion_tokens"], asked["response_format"]) == (5, {"type": "json_object"})


def test_other_files_and_schemas_have_their_forms() -> None:
    asked = wrapped(
        {
            "contents": [
                {
                    "parts": [
                        {"inlineData": {"mimeType": "audio/mpeg", "data": "AAAA"}},
                        {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
                        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://a.example/b.jpg"}},
                    ]
                },
                {"role": "model", "parts": [{"text": "Hm.", "thought": True}, {"text": "Yes."}]},
            ],
            "generationConfig": {
                "responseMimeType": "application/json",
                "responseSchema": {
                    "type": "OBJECT",
                    "properties": {"type": {"anyOf": [{"type": "STRING", "enum": ["a"]}, {"type": "NUMBER"}]}},
                    "propertyOrdering": ["type"],
                },
                "thinkingConfig": {"thinkingLevel": "LOW"},
                "candidateCount": 2,
            },
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
        }
    )
    assert [piece["type"] for piece in asked["messages"][0]["content"]] == ["input_audio", "file", "image_url"]
    assert asked["messages"][0]["content"][0]["input_audio"] == {"data": "AAAA", "format": "mp3"}
    assert asked["messages"][1] == {"role": "assistant", "content": "Yes."}
    assert asked["response_format"]["json_schema"]["schema"] == {
        "type": "object",
        "properties": {"type": {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "number"}]}},
    }
    assert (asked["reasoning_effort"], asked["n"]) == ("low", 2)


TEXT = {"contents": [{"parts": [{"text": "hi"}]}]}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({**TEXT, "cachedContent": "cachedContents/1"}, "cachedContent"),
        ({**TEXT, "tools": [{"googleSearch": {}}]}, "the tool googleSearch"),
        ({**TEXT, "generationConfig": {"responseModalities": ["IMAGE"]}}, "responseModalities other than TEXT"),
        ({**TEXT, "generationConfig": {"responseLogprobs": True}}, "generationConfig.responseLogprobs"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "video/mp4", "data": ""}}]}]}, "inlineData of video/mp4"),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "https://x/v1beta/files/1"}}]}]}, "fileData other than"),
        ({"contents": [{"parts": [{"executableCode": {}}]}]}, "executableCode"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_such_a_server_cannot_be_asked_for_is_refused_by_name(
    start: Start, server: Server, body: dict[str, Any], named: str
) -> None:
    answer = await (await start()).ask("m", body=body)
    assert (answer.status, server.asked) == (400, [])
    assert named in answer.json["error"]["message"]
    assert answer.json["error"]["details"][0]["reason"] == "NOT_IN_OPENAI"


@pytest_twisted.ensureDeferred
async def test_what_it_cannot_be_asked_for_is_left_to_other_kinds(
    start: Start, server: Server, emulator: RunningEmulator
) -> None:
    """Though the strategy prefers it; what it can be asked for goes to it, and an explanation has the reason."""
    running = await start(extra="priority = -1", top='[pool]\nstrategy = "priority"\n' + emulator.account("google"))
    searching = {**TEXT, "tools": [{"googleSearch": {}}]}
    assert (await running.ask("gemini-2.5-flash", body=searching)).status == 200
    assert (server.asked, emulator.accounts) == ([], ["google"])
    assert (await running.ask("gemini-2.5-flash")).text == "hello"
    (excluded,) = (await running.explain("gemini-2.5-flash", body=searching))["excluded"]
    assert "the tool googleSearch" in excluded["reason"]
    assert excluded["plugin"] == "agm.contrib.openai_upstream"


@pytest_twisted.ensureDeferred
async def test_what_it_has_not_is_501_by_its_name(start: Start, server: Server) -> None:
    running = await start()
    answer = await running.ask("m", method="countTokens")
    assert (answer.status, server.asked) == (501, [])
    assert "countTokens" in answer.json["error"]["message"]


# The answer


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", "MAX_TOKENS"), ("content_filter", "SAFETY"), ("eos", "OTHER"), ("tool_calls", "STOP")],
)
@pytest_twisted.ensureDeferred
async def test_reasons_to_end_are_googles(start: Start, server: Server, finish: str, reason: str) -> None:
    running = await start()
    server.says = [(200, completion({"content": "a"}, finish))]
    assert (await running.ask("m")).json["candidates"][0]["finishReason"] == reason
    server.says = [(200, stream({"content": "a"}, finish=finish), SSE)]
    assert (await running.ask("m", method="streamGenerateContent")).events[-1]["candidates"][0][
        "finishReason"
    ] == reason


@pytest_twisted.ensureDeferred
async def test_a_stream_comes_as_events_and_as_an_array(start: Start, server: Server) -> None:
    """What is said at once; the reason and the usage, which comes behind it, in the last event."""
    running = await start()
    server.says = [(200, stream({"reasoning_content": "Hm."}, {"content": "Hel"}, {"content": "lo"}), SSE)]
    answer = await running.ask("m", method="streamGenerateContent")
    assert server.body["stream"] is True
    assert server.body["stream_options"] == {"include_usage": True}
    named = {"modelVersion": "m-2024", "responseId": "c-1"}
    said = [[{"text": "Hm.", "thought": True}], [{"text": "Hel"}], [{"text": "lo"}]]
    expected = [
        *({"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0}], **named} for parts in said),
        {
            "candidates": [{"content": {"role": "model", "parts": []}, "finishReason": "STOP", "index": 0}],
            **named,
            "usageMetadata": COUNTED,
        },
    ]
    assert answer.events == expected
    assert answer.headers["content-type"] == "text/event-stream"
    assert b"[DONE]" not in answer.body
    array = await running.fetch(
        "POST", "/v1beta/models/m:streamGenerateContent?alt=json", body=json.dumps(TEXT).encode()
    )
    assert array.json == expected
    assert array.headers["content-type"].startswith("application/json")


@pytest_twisted.ensureDeferred
async def test_streamed_arguments_of_calls_at_once_are_put_together(start: Start, server: Server) -> None:
    """With google-genai as the client; the pieces are interleaved."""
    running = await start(extra="stream_usage = false")
    pieces = [
        {"index": 0, "id": "call-1", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city": "B'}},
        {"index": 1, "id": "call-2", "function": {"name": "time", "arguments": '{"zo'}},
        {"index": 0, "function": {"arguments": 'onn"}'}},
        {"index": 1, "function": {"arguments": 'ne": 1}'}},
    ]
    deltas = [{"content": "I look."}, *({"tool_calls": [piece]} for piece in pieces)]
    server.says = [(200, stream(*deltas, finish="tool_calls", usage=False), SSE)]
    events = await by_sdk(
        running, lambda client: list(client.models.generate_content_stream(model="m", contents="Weather?"))
    )
    assert "stream_options" not in server.body
    assert [event.text for event in events[:-1]] == ["I look."]
    assert [(one.id, one.name, one.args) for one in events[-1].function_calls] == [
        ("call-1", "weather", {"city": "Bonn"}),
        ("call-2", "time", {"zone": 1}),
    ]


@pytest_twisted.ensureDeferred
async def test_arguments_that_are_no_json_are_a_malformed_call(start: Start, server: Server) -> None:
    running = await start()
    server.says = [(200, completion({"tool_calls": [call("f", '{"a": ')]}, "tool_calls"))]
    (candidate,) = (await running.ask("m")).json["candidates"]
    assert (candidate["finishReason"], candidate["content"]["parts"]) == ("MALFORMED_FUNCTION_CALL", [])


@pytest.mark.parametrize(
    ("finish", "done", "reason"), [("stop", True, "STOP"), ("stop", False, "STOP"), (None, True, "OTHER")]
)
@pytest_twisted.ensureDeferred
async def test_a_reason_to_end_or_done_ends_a_stream(
    start: Start, server: Server, finish: str | None, done: bool, reason: str
) -> None:
    running = await start()
    server.says = [(200, stream({"content": "a"}, finish=finish, done=done, usage=False), SSE)]
    events = (await running.ask("m", method="streamGenerateContent")).events
    assert [event["candidates"][0].get("finishReason") for event in events] == [None, reason]


async def broken(running: RunningGateway) -> list[Any]:
    """The events of a stream that breaks off: its connection is closed without the last chunk."""
    wire = await connect(running.port)
    wire.send(post("/v1beta/models/m:streamGenerateContent?alt=sse"))
    received = await wire.closed()
    assert not received.endswith(b"0\r\n\r\n")
    return [json.loads(line[6:]) for line in received.split(b"\r\n") if line.startswith(b"data: ")]


@pytest_twisted.ensureDeferred
async def test_a_stream_without_either_never_looks_complete(start: Start, server: Server) -> None:
    server.says = [(200, stream({"content": "a"}, finish=None, done=False, usage=False), SSE)]
    said, last = await broken(await start())
    assert said["candidates"][0]["content"]["parts"] == [{"text": "a"}]
    assert last["error"]["code"] == 502
    assert "without a finish_reason" in last["error"]["message"]


@pytest_twisted.ensureDeferred
async def test_embeddings_go_there_and_back(start: Start, server: Server) -> None:
    running = await start()
    data = [{"index": 1, "embedding": [0.5]}, {"index": 0, "embedding": [0.25]}]
    server.says = [(200, {"data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}})]
    found = await by_sdk(
        running,
        lambda client: client.models.embed_content(
            model="embed-x", contents=["one", "two"], config=types.EmbedContentConfig(output_dimensionality=1)
        ),
    )
    assert server.asked[-1].path == "/v1/embeddings"
    assert server.body == {"model": "embed-x", "input": ["one", "two"], "encoding_format": "float", "dimensions": 1}
    assert [one.values for one in found.embeddings] == [[0.25], [0.5]]
    alone = await running.ask("e", method="embedContent", body={"content": {"parts": [{"text": "one"}]}})
    assert alone.json == {
        "embedding": {"values": [0.25]},
        "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 3},
    }


@pytest_twisted.ensureDeferred
async def test_tokens_count_for_the_limits_of_keys_and_edits_see_geminis_events(start: Start, server: Server) -> None:
    """The usage is read from the translation, and a plugin that edits answers gets that, not the server's own."""
    from types import SimpleNamespace

    from agm.api import hookimpl

    seen: list[Any] = []
    records: list[Any] = []

    def edit(event: dict[str, Any]) -> dict[str, Any]:
        seen.append(event)
        return {**event, "modelVersion": "mine"}

    plugin = SimpleNamespace(
        __name__="edits",
        agm_transform_event=hookimpl(edit_event := edit),
        agm_request_finished=hookimpl(lambda record: records.append(record)),
    )
    running = await start(plugins=[plugin])
    assert edit_event is edit
    server.says = [(200, stream({"content": "a"}), SSE)]
    events = (await running.ask("m", method="streamGenerateContent")).events
    assert [event["modelVersion"] for event in events] == ["mine", "mine"]
    assert [list(event["candidates"][0]) for event in seen] == [
        ["content", "index"],
        ["content", "finishReason", "index"],
    ]
    (record,) = records
    assert (record.usage.prompt, record.usage.output, record.usage.thoughts) == (9, 7, 5)
    assert record.finish_reason == "STOP"


# Errors


def error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "some_error", "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "headers", "fault", "delay"),
    [
        (401, error("Incorrect API key.", "invalid_api_key"), {}, Fault.CREDENTIAL, None),
        (429, error("Slow down.", "rate_limit_exceeded"), {"retry-after": "7"}, Fault.RATE, 7.0),
        (429, error("Please try again in 1m30s."), {}, Fault.RATE, 90.0),
        (429, error("Please try again in 250ms."), {}, Fault.RATE, 0.25),
        (429, error("You exceeded your quota.", "insufficient_quota"), {}, Fault.QUOTA, None),
        (404, error("The model `x` does not exist.", "model_not_found"), {}, Fault.NO_MODEL, None),
        (404, {"object": "error", "message": "The model `x` does not exist.", "code": 404}, {}, Fault.NO_MODEL, None),
        (400, error("Too long.", "context_length_exceeded"), {}, Fault.FINAL, None),
        (500, b"<html>", {}, Fault.ENDPOINT, None),
        (403, [{"error": {"message": "No key.", "code": 403}}], {}, Fault.FORBIDDEN, None),
        (503, {"error": "overloaded"}, {}, Fault.CAPACITY, None),
    ],
)
def test_errors_mean_what_they_say(
    status: int, body: Any, headers: Mapping[str, str], fault: Fault, delay: float | None
) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    account: Any = None
    verdict = openai_upstream.read_error(status, raw, headers, account, build_request())
    assert (verdict.fault, verdict.delay) == (fault, delay)
    assert verdict.message
    said = body[0]["error"]["message"] if isinstance(body, list) else None
    assert said is None or verdict.message == said


@pytest_twisted.ensureDeferred
async def test_errors_reach_a_gemini_client_in_googles_form(start: Start, server: Server) -> None:
    running = await start()
    server.says = [(400, error("Too long.", "context_length_exceeded"))]
    with pytest.raises(errors.ClientError) as caught:
        await by_sdk(running, lambda client: client.models.generate_content(model="m", contents="hi"))
    assert (caught.value.code, caught.value.status, caught.value.message) == (400, "INVALID_ARGUMENT", "Too long.")
    server.says = [(429, error("Slow down."), {"retry-after": "7"})]
    limited = await running.ask("m")
    assert (limited.status, limited.headers["retry-after"]) == (429, "7")
    assert limited.json["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert limited.json["error"]["message"].startswith("Slow down.")


@pytest_twisted.ensureDeferred
async def test_another_account_serves_what_one_refuses(start: Start, server: Server) -> None:
    """By status, and by an error in an answer of a good status, before anything has gone to the client."""
    running = await start("one", "two", "three", top='[pool]\nstrategy = "priority"\n')
    server.says = [
        (429, error("Slow down.", "rate_limit_exceeded"), {"retry-after": "60"}),
        (200, b'data: {"error": {"message": "Busy.", "code": 429}}\n\n', SSE),
        (200, stream({"content": "served"}), SSE),
    ]
    answer = await running.ask("m", method="streamGenerateContent")
    assert answer.text == "served"
    assert len({asked.credential for asked in server.asked}) == 3


@pytest_twisted.ensureDeferred
async def test_an_error_within_a_stream_is_its_last_event(start: Start, server: Server) -> None:
    running = await start()
    half = stream({"content": "half"}, finish=None, done=False, usage=False)
    server.says = [(200, half + b'data: {"error": {"message": "It broke.", "code": "oops"}}\n\n', SSE)]
    said, last = await broken(running)
    assert said["candidates"][0]["content"]["parts"] == [{"text": "half"}]
    assert (last["error"]["code"], last["error"]["message"]) == (502, "It broke.")


@pytest_twisted.ensureDeferred
async def test_a_key_never_reaches_an_error(start: Start, server: Server) -> None:
    """Even where the server repeats it."""
    running = await start("canary-key-0123456789")
    server.says = [(400, error("Your key canary-key-0123456789 is odd."))]
    answer = await running.ask("m")
    assert b"canary-key" not in answer.body
    assert "is odd" in answer.json["error"]["message"]


# What shows accounts and models


@pytest_twisted.ensureDeferred
async def test_the_models_of_the_server_are_listed(start: Start, server: Server) -> None:
    running = await start()
    server.says = [(200, {"data": [{"id": "gpt-x", "context_length": 1000}, {"id": "text-embed-x"}]})]
    listed = (await running.fetch("GET", "/v1beta/models")).json["models"]
    assert server.asked[-1].path == "/v1/models"
    found = {one["name"]: one for one in listed}
    assert found["models/gpt-x"]["supportedGenerationMethods"] == ["generateContent", "streamGenerateContent"]
    assert found["models/gpt-x"]["inputTokenLimit"] == 1000
    assert found["models/text-embed-x"]["supportedGenerationMethods"] == ["embedContent", "batchEmbedContents"]


@pytest_twisted.ensureDeferred
async def test_an_explanation_shows_the_kinds_request_without_the_key(start: Start, server: Server) -> None:
    running = await start("canary-1", top='[models.aliases]\nllama = "meta-llama/llama-3"\n')
    found = await running.explain("llama")
    assert found["account"]["kind"] == "openai"
    assert found["upstream"]["plugin"] == "agm.contrib.openai_upstream:openai"
    assert found["upstream"]["url"] == f"{server.url}/chat/completions"
    assert found["upstream"]["headers"]["authorization"] == "[redacted]"
    assert found["upstream"]["body"]["model"] == "meta-llama/llama-3"
    plugins = (await running.fetch("GET", "/_agm/plugins")).json["plugins"]
    assert plugins[0]["kinds"] == ["openai"]
    accounts = (await running.fetch("GET", "/_agm/accounts")).json
    assert "canary-1" not in json.dumps(accounts)
    assert not server.asked


@pytest_twisted.ensureDeferred
async def test_it_speaks_to_an_openai_server_that_nobody_scripted(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Google's own OpenAI surface, as the emulator has it: Gemini's API in, OpenAI's out, and back."""
    text = f'[[accounts]]\nname = "a"\nkind = "openai"\napi_key = "a"\nendpoints = ["{emulator.url}/v1beta/openai"]\n'
    running = await gateway(text, plugins=["agm.contrib.openai_upstream"])
    answers: list[Answer] = [
        await running.ask(text="Say hello"),
        await running.ask(text="Say hello", method="streamGenerateContent"),
    ]
    assert [answer.status for answer in answers] == [200, 200]
    assert all(answer.text for answer in answers)
    assert [entry.path for entry in emulator.log] == ["/v1beta/openai/chat/completions"] * 2
