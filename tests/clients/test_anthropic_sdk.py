"""The anthropic SDK, unmodified, through a gateway of each kind of upstream."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import types

from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, Emulator, RunningGateway, SessionGateway, misbehaving

pytestmark = pytest.mark.process

MODEL = "gemini-2.5-flash"
NEWEST = "gemini-3-pro-preview"
HI: list[types.MessageParam] = [{"role": "user", "content": "Hello"}]
TOOLS: list[types.ToolParam] = [
    {"name": name, "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
    for name in ("get_weather", "get_time")
]
OPTIONS: dict[str, Any] = {"max_retries": 0, "timeout": PATIENCE_MS / 1000}


@pytest.fixture
def sdk(gateway: RunningGateway) -> Iterator[anthropic.Anthropic]:
    """Its client, at the gateway of each kind."""
    with anthropic.Anthropic(base_url=gateway.url, api_key=CLIENT_KEY, **OPTIONS) as client:
        yield client


@pytest.fixture
def one(gateways: SessionGateway) -> Iterator[anthropic.Anthropic]:
    """Its client, at one gateway, below its own base."""
    url = gateways("api-key").url
    with anthropic.Anthropic(base_url=f"{url}/anthropic", auth_token=CLIENT_KEY, **OPTIONS) as client:
        yield client


def said(message: types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_messages(sdk: anthropic.Anthropic) -> None:
    """Whole and streamed, they are the same."""
    whole = sdk.messages.create(model=MODEL, max_tokens=200, system="Be brief.", messages=HI)
    assert "Hello" in said(whole)
    assert "Be brief." in said(whole)
    assert (whole.stop_reason, whole.model, whole.role) == ("end_turn", MODEL, "assistant")
    assert whole.usage.input_tokens > 0
    assert whole.usage.output_tokens > 0
    with sdk.messages.stream(model=MODEL, max_tokens=200, system="Be brief.", messages=HI) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == said(whole)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_a_conversation_with_tools_and_thinking(sdk: anthropic.Anthropic, emulator: Emulator) -> None:
    """Two calls at once, their results in the other order, and what Gemini has to get back."""
    messages: list[Any] = [{"role": "user", "content": "get weather and get time"}]
    asked: dict[str, Any] = {"model": NEWEST, "max_tokens": 4000, "tools": TOOLS, "thinking": {"type": "adaptive"}}
    with sdk.messages.stream(messages=messages, **asked) as stream:
        answer = stream.get_final_message()
    assert answer.stop_reason == "tool_use"
    assert [block.type for block in answer.content] == ["thinking", "tool_use", "tool_use"]
    uses = [block for block in answer.content if block.type == "tool_use"]
    assert [use.name for use in uses] == ["get_weather", "get_time"]
    assert all(use.input == {"city": "example city"} for use in uses)
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": f"{use.name}!"} for use in reversed(uses)]
    messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    last = sdk.messages.create(messages=messages, **asked)
    assert said(last).startswith('The function get_weather returned {"output": "get_weather!"}. The function get_time')
    first, second = (entry["body"] for entry in emulator.log(NEWEST, body=True)[-2:])
    assert "thoughtSignature" not in first
    assert second.count("thoughtSignature") == 1
    assert second.index("thoughtSignature") < second.index("get_time!")


def test_a_tool_that_must_be_used(one: anthropic.Anthropic) -> None:
    """By its name, and one at a time."""
    forced = one.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=HI,
        tools=TOOLS,
        tool_choice={"type": "tool", "name": "get_time", "disable_parallel_tool_use": True},
    )
    assert [block.name for block in forced.content if block.type == "tool_use"] == ["get_time"]
    none = one.messages.create(model=MODEL, max_tokens=200, messages=HI, tools=TOOLS, tool_choice={"type": "none"})
    assert none.stop_reason == "end_turn"


def test_pictures_documents_and_formats(one: anthropic.Anthropic) -> None:
    """What is shown arrives; what is asked for in JSON comes in it."""
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    document: Any = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "The report"}}
    content = [image, document, {"type": "text", "text": "See?"}]
    answer = one.messages.create(model=MODEL, max_tokens=200, messages=[{"role": "user", "content": content}])
    assert "I received image/png of 8 bytes." in said(answer)
    assert "The report See?" in said(answer)
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    assert '"city"' in said(one.messages.create(model=MODEL, max_tokens=200, messages=HI, output_config=config))


def test_searches_and_code(one: anthropic.Anthropic) -> None:
    """By Google's, in Anthropic's blocks."""
    search: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    found = one.messages.create(model=MODEL, max_tokens=200, messages=HI, tools=[search])
    assert [block.type for block in found.content] == ["text", "server_tool_use", "web_search_tool_result"]
    assert found.usage.server_tool_use is not None
    code: Any = {"type": "code_execution_20250825", "name": "code_execution"}
    ran = one.messages.create(model=MODEL, max_tokens=200, messages=HI, tools=[code])
    assert [block.type for block in ran.content] == ["server_tool_use", "code_execution_tool_result", "text"]


def test_tokens_and_models(one: anthropic.Anthropic) -> None:
    assert one.messages.count_tokens(model=MODEL, messages=HI, tools=TOOLS).input_tokens > 10
    models = list(one.models.list(limit=1))
    assert {MODEL, "house-model"} <= {model.id for model in models}
    assert one.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (503, anthropic.ServiceUnavailableError),
        (504, anthropic.GatewayTimeoutError),
    ],
)
def test_an_error_of_every_status_is_the_class_of_the_sdk(one: anthropic.Anthropic, status: int, error: Any) -> None:
    """With the id of the request, and when to come back."""
    model = misbehaving(str(status)).removeprefix("models/")
    with pytest.raises(error) as raised:
        one.messages.create(model=model, max_tokens=5, messages=HI)
    assert raised.value.status_code == status
    assert raised.value.request_id
    assert raised.value.body["type"] == "error"
    if status == 429:
        assert int(raised.value.response.headers["retry-after"]) >= 1


def test_a_wrong_key_and_an_unknown_parameter(gateways: SessionGateway, one: anthropic.Anthropic) -> None:
    with (
        anthropic.Anthropic(base_url=gateways("api-key").url, api_key="wrong", **OPTIONS) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model=MODEL, max_tokens=5, messages=HI)
    with pytest.raises(anthropic.BadRequestError, match="seed: "):
        one.messages.create(model=MODEL, max_tokens=5, messages=HI, extra_body={"seed": 1})


@pytest.mark.parametrize("fault", ["midstream", "cut", "errdata-1"])
def test_a_stream_that_breaks_off_raises(one: anthropic.Anthropic, fault: str) -> None:
    """It never looks complete."""
    model = misbehaving(fault).removeprefix("models/")
    stream = one.messages.create(model=model, max_tokens=50, messages=HI, stream=True)
    with pytest.raises(anthropic.APIError):
        list(stream)


def test_a_client_that_leaves_ends_the_upstreams_request(gateways: SessionGateway, emulator: Emulator) -> None:
    """By the asynchronous client."""
    model = misbehaving("hang-2").removeprefix("models/")

    async def leave() -> None:
        url = gateways("api-key").url
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key=CLIENT_KEY, **OPTIONS) as client,
            client.messages.stream(model=model, max_tokens=50, messages=HI) as stream,
        ):
            async for _ in stream:
                break

    asyncio.run(leave())
    assert emulator.log_when(model, "client_gone")["finished"] is False
