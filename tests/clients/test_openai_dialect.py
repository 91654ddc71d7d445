"""OpenAI's own SDK at /v1, unmodified, through real processes: every endpoint, streamed and not, and every error."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.clients.servers import CLIENT_KEY, KINDS, Emulator, SessionGateway, misbehaving, once

pytestmark = pytest.mark.process

MODEL = "gemini-2.5-flash"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello"}]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def tool(name: str, argument: str) -> Any:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}


TOOLS = [tool("get_weather", "city"), tool("get_time", "zone")]


@pytest.fixture
def sdk(gateways: SessionGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=CLIENT_KEY, base_url=f"{gateways('api-key').url}/v1", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("kind", KINDS)
def test_chats_with_functions_through_each_kind(gateways: SessionGateway, kind: str) -> None:
    """Asked, called in parallel, answered, whole and streamed, with thoughts and signatures on the way."""
    thinking: Any = {"google": {"thinking_config": {"include_thoughts": True}}}
    with openai.OpenAI(api_key=CLIENT_KEY, base_url=f"{gateways(kind).url}/openai/v1", max_retries=0) as sdk:
        messages: list[Any] = [{"role": "user", "content": "get weather and get time"}]
        asked: dict[str, Any] = {"model": MODEL, "tools": TOOLS, "extra_body": thinking}
        with sdk.chat.completions.stream(messages=messages, **asked) as stream:
            message = stream.until_done().get_final_completion().choices[0].message
        whole = sdk.chat.completions.create(messages=messages, **asked).choices[0]
        assert whole.finish_reason == "tool_calls"
        for said in (message, whole.message):
            calls: list[Any] = list(said.tool_calls or ())
            assert [call.function.name for call in calls] == ["get_weather", "get_time"]
            assert "city" in json.loads(calls[0].function.arguments)
            assert "_sig_" in calls[0].id
            results = [{"role": "tool", "tool_call_id": call.id, "content": "fine"} for call in calls]
            answer = sdk.chat.completions.create(messages=[*messages, said, *results], **asked)
            assert "get_weather returned" in str(answer.choices[0].message.content)
            assert "get_time returned" in str(answer.choices[0].message.content)


def test_chats_with_everything_else(sdk: openai.OpenAI) -> None:
    picture = {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}
    content: Any = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": picture}]
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": content}],
        n=2,
        seed=3,
        stop=["never"],
        temperature=0,
        max_completion_tokens=1000,
        reasoning_effort="low",
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert f"image/png of {len(PNG)} bytes" in str(answer.choices[0].message.content)
    assert "be brief" in str(answer.choices[0].message.content)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    chunks = list(
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True})
    )
    assert len(chunks) > 3
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "stop"
    cut = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2)
    assert cut.choices[0].finish_reason == "length"


class Person(BaseModel):
    """What an answer is parsed into."""

    name: str
    age: int


def test_answers_that_follow_a_schema(sdk: openai.OpenAI) -> None:
    completion = sdk.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Person)
    assert isinstance(completion.choices[0].message.parsed, Person)
    assert isinstance(sdk.responses.parse(model=MODEL, input="x", text_format=Person).output_parsed, Person)


def test_responses_with_functions_and_thoughts(sdk: openai.OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": "get weather and get time"}]
    tools: Any = [{**one["function"], "type": "function", "strict": False} for one in TOOLS]
    asked: dict[str, Any] = {"model": MODEL, "tools": tools, "reasoning": {"effort": "low", "summary": "auto"}}
    with sdk.responses.stream(input=items, **asked) as stream:
        numbers = [event.sequence_number for event in stream]
        first = stream.get_final_response()
    assert numbers == list(range(len(numbers)))
    assert first.status == "completed"
    calls = [item for item in first.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["get_weather", "get_time"]
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "fine"} for call in calls]
    second = sdk.responses.create(input=[*items, *first.output, *outputs], **asked)
    assert "get_weather returned" in second.output_text
    assert second.usage is not None
    assert second.usage.total_tokens > 0


def test_vectors_pictures_sounds_and_models(sdk: openai.OpenAI) -> None:
    """Vectors come in base64, as the SDK asks unless it is told not to."""
    vectors = sdk.embeddings.create(model="gemini-embedding-001", input=["x", "y"], dimensions=8).data
    plain = sdk.embeddings.create(model="gemini-embedding-001", input="x", dimensions=8, encoding_format="float").data
    assert vectors[0].embedding == pytest.approx(plain[0].embedding, abs=1e-6)
    drawn = sdk.images.generate(model="imagen-4.0-generate-001", prompt="x", n=2, size="1792x1024")
    assert len(drawn.data or ()) == 2
    edited = sdk.images.edit(model="gemini-2.5-flash-image", prompt="bluer", image=("a.png", PNG, "image/png"))
    assert base64.b64decode((edited.data or ())[0].b64_json or "").startswith(b"\x89PNG")
    spoken = sdk.audio.speech.create(model="gemini-2.5-flash-preview-tts", voice="alloy", input="hi").read()
    assert spoken.startswith(b"RIFF")
    heard = sdk.audio.transcriptions.create(model=MODEL, file=("a.wav", spoken, "audio/wav"))
    assert f"audio/wav of {len(spoken)} bytes" in heard.text
    assert MODEL in {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve("house-model").id == "house-model"


STATUSES: list[tuple[int, type[openai.APIStatusError]]] = [
    (400, openai.BadRequestError),
    (403, openai.PermissionDeniedError),
    (404, openai.NotFoundError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (503, openai.InternalServerError),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_each_status_raises_the_sdks_own_class(
    sdk: openai.OpenAI, status: int, kind: type[openai.APIStatusError]
) -> None:
    model = misbehaving(f"{status}-30" if status == 429 else str(status)).removeprefix("models/")
    for stream in (False, True):
        with pytest.raises(kind) as e:
            sdk.chat.completions.create(model=model, messages=MESSAGES, stream=stream)
        assert e.value.status_code == status
        assert e.value.request_id
        assert "account-" not in str(e.value)
        assert ("retry-after" in e.value.response.headers) is (status in (429, 503))


def test_errors_of_the_gateways_own(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="wrong").chat.completions.create(model=MODEL, messages=MESSAGES)
    with pytest.raises(openai.NotFoundError, match=r"models\.aliases") as missing:
        sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES, logit_bias={"1": 1})
    assert refused.value.param == "logit_bias"


@pytest.mark.parametrize("fault", ["errdata-2", "cut"])
def test_a_stream_that_breaks_off_raises(sdk: openai.OpenAI, fault: str) -> None:
    model = misbehaving(fault).removeprefix("models/")
    with pytest.raises(openai.APIError):
        list(sdk.chat.completions.create(model=model, messages=MESSAGES, stream=True))
    with pytest.raises(openai.APIError):
        list(sdk.responses.create(model=model, input="x", stream=True))


def test_a_single_failure_is_not_seen(sdk: openai.OpenAI, emulator: Emulator) -> None:
    model = once("503")
    assert sdk.chat.completions.create(model=model, messages=MESSAGES).choices
    assert [entry["status"] for entry in emulator.log(model)] == [503, 200]


@pytest.mark.parametrize("large", [64])
def test_an_answer_of_many_mebibytes_comes_whole(sdk: openai.OpenAI, large: int) -> None:
    """Every character of it, in as many chunks as there were events."""
    model = misbehaving(f"giant-{large}").removeprefix("models/")
    stream = sdk.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    count = sum(len(chunk.choices[0].delta.content or "") for chunk in stream if chunk.choices)
    assert count >= large * 2**20
