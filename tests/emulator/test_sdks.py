"""Google's own SDKs against the emulator: what they send is accepted, what they read is understood."""

from __future__ import annotations

import io
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.emulator.conftest import Listening

pytestmark = pytest.mark.filterwarnings("ignore")  # the SDKs warn of themselves, of Python's age, and of open sockets


def get_weather(city: str) -> dict[str, Any]:
    """The weather in a city."""
    return {"city": city, "temperature": 21}


def with_google_genai(url: str) -> dict[str, Any]:
    from google import genai
    from google.genai import types
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int
        tags: list[str]

    found: dict[str, Any] = {}
    with genai.Client(api_key="k1", http_options=types.HttpOptions(base_url=url)) as client:
        models = client.models
        found["text"] = models.generate_content(model="gemini-2.5-flash", contents="Hello").text
        stream = models.generate_content_stream(model="gemini-2.5-flash", contents="Hello")
        found["stream"] = "".join(piece.text or "" for piece in stream)
        found["count"] = models.count_tokens(model="gemini-2.5-flash", contents="Hello").total_tokens
        embedded = models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
        found["embeddings"] = [len(one.values or ()) for one in embedded.embeddings or ()]
        found["models"] = [model.name for model in models.list(config={"page_size": 5})]
        found["parsed"] = models.generate_content(
            model="gemini-2.5-flash",
            contents="Who?",
            config={"response_mime_type": "application/json", "response_schema": Person},
        ).parsed
        chat = client.chats.create(model="gemini-2.5-flash", config={"tools": [get_weather]})
        found["chat"] = chat.send_message("get weather, please").text
        thinking = models.generate_content(
            model="gemini-2.5-pro", contents="Why?", config={"thinking_config": {"include_thoughts": True}}
        )
        found["thoughts"] = [part.thought for part in thinking.candidates[0].content.parts]  # type: ignore[index,union-attr]
        file = client.files.upload(file=io.BytesIO(b"hello"), config={"mime_type": "text/plain"})
        found["with file"] = models.generate_content(model="gemini-2.5-flash", contents=["Read", file]).text
        blocked = models.generate_content(model="emu-blockprompt", contents="x")
        found["blocked"] = blocked.prompt_feedback.block_reason.value  # type: ignore[union-attr]
        for name in ("emu-429", "emu-503", "emu-403disabled"):
            try:
                models.generate_content(model=name, contents="x")
            except genai.errors.APIError as error:
                found[name] = (error.code, error.status)
    return found


def with_vertex(url: str) -> dict[str, Any]:
    from google import genai
    from google.genai import types
    from google.oauth2.credentials import Credentials

    options = types.HttpOptions(base_url=url)
    credentials = Credentials("t1")  # type: ignore[no-untyped-call]
    found: dict[str, Any] = {}
    with genai.Client(
        vertexai=True, project="p", location="global", credentials=credentials, http_options=options
    ) as client:
        found["text"] = client.models.generate_content(model="gemini-2.5-flash", contents="Hello").text
        stream = client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hello")
        found["stream"] = "".join(piece.text or "" for piece in stream)
        found["count"] = client.models.count_tokens(model="gemini-2.5-flash", contents="Hello").total_tokens
        embedded = client.models.embed_content(model="text-embedding-005", contents="a")
        found["embeddings"] = [len(one.values or ()) for one in embedded.embeddings or ()]
        pictures = client.models.generate_images(model="imagen-4.0-generate-001", prompt="cat")
        found["pictures"] = [one.image.mime_type for one in pictures.generated_images or () if one.image]
    return found


def with_google_generativeai(url: str) -> dict[str, Any]:
    import google.generativeai as genai

    genai.configure(api_key="k2", transport="rest", client_options={"api_endpoint": url})
    model = genai.GenerativeModel("gemini-2.5-flash")
    answered = model.generate_content("Hello")
    must = {"function_calling_config": {"mode": "ANY"}}
    calling = genai.GenerativeModel("gemini-2.5-flash", tools=[get_weather], tool_config=must)
    return {
        "text": answered.text,
        "reason": answered.candidates[0].finish_reason.name,
        "stream": "".join(piece.text for piece in model.generate_content("Hello", stream=True)),
        "count": model.count_tokens("Hello").total_tokens,
        "embedding": len(genai.embed_content(model="models/text-embedding-004", content="x")["embedding"]),
        "call": calling.generate_content("weather").candidates[0].content.parts[0].function_call.name,
    }


@pytest_twisted.ensureDeferred
async def test_google_genai(running: Listening) -> None:
    """Text, streams, counting, embeddings, JSON, functions, thoughts, files, and errors with their codes."""
    found = await deferToThread(with_google_genai, running.url)
    assert '"Hello"' in found["text"]
    assert found["stream"] == found["text"]
    assert found["count"] == 2
    assert found["embeddings"] == [3072, 3072]
    assert len(found["models"]) > 10
    assert found["parsed"].name == "example name"
    assert 'get_weather returned {"result": {"city": "example city", "temperature": 21}}' in found["chat"]
    assert found["thoughts"] == [True, True, None]
    assert "I read the file " in found["with file"]
    assert found["blocked"] == "SAFETY"
    assert found["emu-429"] == (429, "RESOURCE_EXHAUSTED")
    assert found["emu-503"] == (503, "UNAVAILABLE")
    assert found["emu-403disabled"] == (403, "PERMISSION_DENIED")


@pytest_twisted.ensureDeferred
async def test_google_genai_on_vertex(running: Listening) -> None:
    """The same SDK with a project and a token."""
    found = await deferToThread(with_vertex, running.url)
    assert '"Hello"' in found["text"]
    assert found["stream"] == found["text"]
    assert found["count"] == 2
    assert found["embeddings"] == [768]
    assert found["pictures"] == ["image/png"]


@pytest_twisted.ensureDeferred
async def test_google_generativeai(running: Listening) -> None:
    """The older SDK: arrays for streams, enums as numbers both ways."""
    found = await deferToThread(with_google_generativeai, running.url)
    assert '"Hello"' in found["text"]
    assert found["reason"] == "STOP"
    assert found["stream"] == found["text"]
    assert found["count"] == 2
    assert found["embedding"] == 768
    assert found["call"] == "get_weather"
    streams = [entry for entry in running.entries if entry.rpc == "streamGenerateContent"]
    assert "enum-encoding=int" in streams[0].query["$alt"]
