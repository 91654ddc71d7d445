"""The openai SDK pointed at Google's own OpenAI surface, straight at the emulator and through a gateway."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, Emulator, SessionGateway, Target, misbehaving, once

MODEL = "gemini-2.5-flash"
MESSAGES: list[Any] = [{"role": "user", "content": "Hello, get weather"}]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(params=["direct", "api-key"])
def sdk(request: pytest.FixtureRequest, direct: Target, gateways: SessionGateway) -> Iterator[openai.OpenAI]:
    url = direct.url if request.param == "direct" else gateways("api-key").url
    options: Any = {"api_key": CLIENT_KEY, "max_retries": 0, "timeout": PATIENCE_MS / 1000}
    with openai.OpenAI(base_url=f"{url}/v1beta/openai/", **options) as client:
        yield client


def test_chats(sdk: openai.OpenAI) -> None:
    """Whole, streamed, and with a tool."""
    whole = sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
    said = whole.choices[0].message.content
    assert said
    stream = sdk.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said
    assert chunks[-1].usage == whole.usage
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    called = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[tool]).choices[0].message.tool_calls
    assert called
    assert called[0].type == "function"


def test_vectors_pictures_and_models(sdk: openai.OpenAI) -> None:
    vectors = sdk.embeddings.create(model="gemini-embedding-001", input=["x", "y"], dimensions=8).data
    assert [len(one.embedding) for one in vectors] == [8, 8]
    assert (sdk.images.generate(model="imagen-4.0-generate-001", prompt="x").data or ())[0].b64_json
    assert f"models/{MODEL}" in {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve(f"models/{MODEL}").id == f"models/{MODEL}"


def test_videos(sdk: openai.OpenAI) -> None:
    """Asked for by a form."""
    video = sdk.videos.create(model="veo-3.0-generate-001", prompt="a cat")
    for _ in range(2):
        video = sdk.videos.retrieve(video.id)
    assert video.status == "completed"
    assert b"a cat" in sdk.videos.download_content(video.id).read()


def test_batches_with_their_files(sdk: openai.OpenAI) -> None:
    line = {"custom_id": "1", "body": {"model": MODEL, "messages": MESSAGES}}
    file = sdk.files.create(file=("a.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    for _ in range(2):
        batch = sdk.batches.retrieve(batch.id)
    assert batch.status == "completed"
    answers = sdk.files.content(str(batch.output_file_id)).read()
    assert json.loads(answers)["custom_id"] == "1"
    assert batch.id in {one.id for one in sdk.batches.list()}
    assert file.id in {one.id for one in sdk.files.list(limit=1)}
    assert sdk.files.delete(file.id).deleted


def test_errors_are_exceptions(sdk: openai.OpenAI) -> None:
    """Before an answer, within one, and instead of its end."""
    with pytest.raises(openai.RateLimitError):
        sdk.chat.completions.create(model=misbehaving("429-30").removeprefix("models/"), messages=MESSAGES)
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="emu-404", messages=MESSAGES)
    for fault in ("errdata-2", "cut"):
        model = misbehaving(fault).removeprefix("models/")
        with pytest.raises(openai.APIError):
            list(sdk.chat.completions.create(model=model, messages=MESSAGES, stream=True))


def test_a_single_failure_is_not_seen(gateways: SessionGateway, emulator: Emulator) -> None:
    model = once("503")
    url = f"{gateways('api-key').url}/v1beta/openai/"
    with openai.OpenAI(api_key=CLIENT_KEY, base_url=url, max_retries=0) as sdk:
        assert sdk.chat.completions.create(model=model, messages=MESSAGES).choices
    assert [entry["status"] for entry in emulator.log(model)] == [503, 200]
