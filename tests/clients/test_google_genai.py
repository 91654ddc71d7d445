"""
google-genai, synchronous and asynchronous: straight at the emulator and through a gateway of each kind, with the same
outcome.

A scenario drives the SDK, asserts what a person would look at, and returns all that they could see.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import httpx2 as httpx
import pytest
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from tests.clients.servers import CANARY, CLIENT_KEY, PATIENCE_MS, Emulator, Target, misbehaving, once

MODEL = "gemini-2.5-flash"
PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\nIDATx\x9cc\x00\x01\x00\x00\x05\x00\x01\r\n-\xb4\x00\x00\x00\x00IEND\xaeB`\x82"
)

Responses = Sequence[types.GenerateContentResponse]


@functools.cache
def kept_client(target: Target, key: str) -> genai.Client:
    """A client that stays, as a person's does: making one costs more than a call."""
    return client(target, key)


def client(target: Target, key: str = CLIENT_KEY) -> genai.Client:
    """The SDK, pointed at a target as a person would; it closes when the last reference to it goes."""
    options = types.HttpOptions(base_url=target.url, timeout=PATIENCE_MS)
    return genai.Client(api_key=key, http_options=options)


class Voice(Protocol):
    """One of the SDK's two ways to call."""

    def generate(self, **asked: Any) -> types.GenerateContentResponse:
        """generateContent."""

    def stream(self, **asked: Any) -> Responses:
        """streamGenerateContent; all of its chunks."""

    def talk(self, turns: Sequence[str], *, streamed: bool = False, **asked: Any) -> Sequence[Responses]:
        """A chat; the responses to each turn."""

    def call(self, method: str, **asked: Any) -> Any:
        """Any other method of ``client.models``."""


class Synchronous:
    """``client.models``."""

    def __init__(self, target: Target, key: str = CLIENT_KEY) -> None:
        self._client = kept_client(target, key)

    def generate(self, **asked: Any) -> types.GenerateContentResponse:
        return self._client.models.generate_content(**asked)

    def stream(self, **asked: Any) -> Responses:
        return list(self._client.models.generate_content_stream(**asked))

    def talk(self, turns: Sequence[str], *, streamed: bool = False, **asked: Any) -> Sequence[Responses]:
        chat = self._client.chats.create(**asked)
        return [list(chat.send_message_stream(turn)) if streamed else [chat.send_message(turn)] for turn in turns]

    def call(self, method: str, **asked: Any) -> Any:
        return getattr(self._client.models, method)(**asked)


class Asynchronous:
    """``client.aio.models``, each call in an event loop of its own."""

    def __init__(self, target: Target, key: str = CLIENT_KEY) -> None:
        self._target, self._key = target, key

    def _run(self, work: Callable[[Any], Any]) -> Any:
        async def run() -> Any:
            async with client(self._target, self._key).aio as aio:
                return await work(aio)

        return asyncio.run(run())

    def generate(self, **asked: Any) -> types.GenerateContentResponse:
        return self._run(lambda aio: aio.models.generate_content(**asked))

    def stream(self, **asked: Any) -> Responses:
        async def stream(aio: Any) -> Responses:
            return [chunk async for chunk in await aio.models.generate_content_stream(**asked)]

        return self._run(stream)

    def talk(self, turns: Sequence[str], *, streamed: bool = False, **asked: Any) -> Sequence[Responses]:
        async def talk(aio: Any) -> Sequence[Responses]:
            chat = aio.chats.create(**asked)
            if streamed:
                return [[chunk async for chunk in await chat.send_message_stream(turn)] for turn in turns]
            return [[await chat.send_message(turn)] for turn in turns]

        return self._run(talk)

    def call(self, method: str, **asked: Any) -> Any:
        return self._run(lambda aio: getattr(aio.models, method)(**asked))


def seen(response: types.GenerateContentResponse) -> dict[str, Any]:
    """What a person can see of a response, but for what the kinds of upstream print differently."""
    usage = response.usage_metadata
    return {
        "candidates": [candidate.model_dump(exclude_none=True) for candidate in response.candidates or ()],
        "feedback": response.prompt_feedback and response.prompt_feedback.block_reason,
        "model": response.model_version,
        "prompt tokens": usage and usage.prompt_token_count,
        "candidate tokens": usage and usage.candidates_token_count,
        "thought tokens": usage and usage.thoughts_token_count,
        "total tokens": usage and usage.total_token_count,
    }


# Scenarios


def answers_a_question(voice: Voice) -> Any:
    response = voice.generate(model=MODEL, contents="Why is the sky blue?")
    assert "Why is the sky blue?" in response.text
    assert response.candidates[0].finish_reason is types.FinishReason.STOP
    assert response.usage_metadata.total_token_count > response.usage_metadata.prompt_token_count > 0
    assert response.response_id
    return seen(response)


def streams_an_answer(voice: Voice) -> Any:
    chunks = voice.stream(model=MODEL, contents="Tell me of Köln, 世界 and 🌍.")
    assert len(chunks) > 1
    assert "Köln, 世界 and 🌍" in "".join(chunk.text for chunk in chunks)
    assert [bool(chunk.candidates[0].finish_reason) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(chunk.usage_metadata for chunk in chunks)
    return [seen(chunk) for chunk in chunks]


def streams_many_chunks(voice: Voice) -> Any:
    chunks = voice.stream(model="emu-chunks-40", contents="Go on.")
    assert len(chunks) == 40
    return [seen(chunk) for chunk in chunks]


def streams_text_cut_inside_of_characters(voice: Voice) -> Any:
    chunks = voice.stream(model="emu-splitutf8", contents="Go on.")
    assert "καλημέρα κόσμε, привет мир, 世界你好" in "".join(chunk.text for chunk in chunks)
    return [seen(chunk) for chunk in chunks]


def streams_byte_by_byte(voice: Voice) -> Any:
    return [seen(chunk) for chunk in voice.stream(model="emu-drip-3", contents="Slowly.")]


def streams_with_line_feeds(voice: Voice) -> Any:
    return [seen(chunk) for chunk in voice.stream(model="emu-lf", contents="Other line ends.")]


def streams_an_end_without_parts(voice: Voice) -> Any:
    return [seen(chunk) for chunk in voice.stream(model="emu-emptyparts", contents="Hm?")]


def streams_without_a_finish_reason(voice: Voice) -> Any:
    chunks = voice.stream(model="emu-nofinish", contents="Hm?")
    assert not any(chunk.candidates[0].finish_reason for chunk in chunks)
    return [seen(chunk) for chunk in chunks]


def is_refused_a_blocked_prompt(voice: Voice) -> Any:
    unary = voice.generate(model="emu-blockprompt", contents="Something bad.")
    assert unary.prompt_feedback.block_reason is types.BlockedReason.SAFETY
    streamed = voice.stream(model="emu-blockprompt", contents="Something bad.")
    assert [chunk.prompt_feedback.block_reason for chunk in streamed] == [types.BlockedReason.SAFETY]
    return [seen(unary), *map(seen, streamed)]


def chats(voice: Voice) -> Any:
    answers = voice.talk(["My name is Ada.", "What is my name?"], model=MODEL)
    assert "My name is Ada." in answers[1][0].text
    return [[seen(response) for response in turn] for turn in answers]


def chats_in_streams(voice: Voice) -> Any:
    answers = voice.talk(["My name is Ada.", "What is my name?"], streamed=True, model=MODEL)
    assert "My name is Ada." in "".join(chunk.text for chunk in answers[1])
    return [[seen(response) for response in turn] for turn in answers]


def calls_functions_by_itself(voice: Voice) -> Any:
    asked: list[dict[str, Any]] = []

    def weather_in(city: str, days: int) -> dict[str, Any]:
        """The weather in a city for some days."""
        asked.append({"city": city, "days": days})
        return {"sky": "clear over the whole city"}

    config = types.GenerateContentConfig(tools=[weather_in])
    response = voice.generate(model=MODEL, contents="What is the weather in Berlin?", config=config)
    assert len(asked) == 1
    assert "clear over the whole city" in response.text
    assert len(response.automatic_function_calling_history) == 3
    return [asked, seen(response), [turn.model_dump() for turn in response.automatic_function_calling_history]]


def chats_with_functions(voice: Voice) -> Any:
    asked: list[str] = []

    def weather_in(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "drizzle"

    config = types.GenerateContentConfig(tools=[weather_in])
    answers = voice.talk(["What is the weather in Rome?", "Thank you."], model=MODEL, config=config)
    assert "drizzle" in answers[0][0].text
    return [asked, [[seen(response) for response in turn] for turn in answers]]


WEATHER = types.FunctionDeclaration(
    name="weather_in",
    description="The weather in a city.",
    parameters=types.Schema(
        type=types.Type.OBJECT,
        properties={
            "city": types.Schema(type=types.Type.STRING),
            "unit": types.Schema(type=types.Type.STRING, enum=["celsius", "fahrenheit"]),
        },
        required=["city", "unit"],
    ),
)


def is_given_function_calls(voice: Voice) -> Any:
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[WEATHER])],
        tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY")),
    )
    question = types.Content(role="user", parts=[types.Part(text="How warm is it in Lima?")])
    first = voice.generate(model=MODEL, contents=[question], config=config)
    call = first.function_calls[0]
    assert call.name == "weather_in"
    assert call.args["unit"] in ("celsius", "fahrenheit")
    streamed = voice.stream(model=MODEL, contents=[question], config=config)
    assert [one.args for chunk in streamed for one in chunk.function_calls or ()] == [call.args]
    answer = types.Content(role="user", parts=[types.Part.from_function_response(name=call.name, response={"t": 31})])
    free = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[WEATHER])])
    second = voice.generate(model=MODEL, contents=[question, first.candidates[0].content, answer], config=free)
    assert "31" in second.text
    return [seen(first), seen(second), *map(seen, streamed)]


def calls_several_functions_of_gemini_3(voice: Voice) -> Any:
    """Gemini 3 gives its calls ids, and signs them."""
    noon = types.FunctionDeclaration(name="noon_in", parameters_json_schema={"type": "object", "properties": {}})
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[WEATHER, noon])],
        thinking_config=types.ThinkingConfig(include_thoughts=True),
    )
    response = voice.generate(model="gemini-3-pro-preview", contents="Use weather_in and noon_in.", config=config)
    assert [call.name for call in response.function_calls] == ["weather_in", "noon_in"]
    assert all(call.id for call in response.function_calls)
    assert any(part.thought_signature for part in response.candidates[0].content.parts)
    return seen(response)


class Recipe(BaseModel):
    """A schema as a person writes it."""

    title: str
    minutes: int
    ingredients: list[str]


def fills_a_pydantic_model(voice: Voice) -> Any:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Recipe)
    response = voice.generate(model=MODEL, contents="A recipe.", config=config)
    assert isinstance(response.parsed, Recipe)
    listed = types.GenerateContentConfig(response_mime_type="application/json", response_schema=list[Recipe])
    several = voice.generate(model=MODEL, contents="Some recipes.", config=listed)
    assert several.parsed
    assert all(isinstance(recipe, Recipe) for recipe in several.parsed)
    return [seen(response), seen(several)]


def fills_a_json_schema(voice: Voice) -> Any:
    schema = {
        "type": "object",
        "properties": {"size": {"enum": ["small", "large"]}, "count": {"type": "integer", "minimum": 3}},
        "required": ["size", "count"],
        "additionalProperties": False,
    }
    config = types.GenerateContentConfig(response_mime_type="application/json", response_json_schema=schema)
    response = voice.generate(model=MODEL, contents="An order.", config=config)
    assert response.parsed["size"] in ("small", "large")
    streamed = voice.stream(model=MODEL, contents="An order.", config=config)
    assert json.loads("".join(chunk.text for chunk in streamed)) == response.parsed
    return [seen(response), *map(seen, streamed)]


def sends_an_image(voice: Voice) -> Any:
    contents = [types.Part.from_bytes(data=PNG, mime_type="image/png"), "What is in this picture?"]
    response = voice.generate(model=MODEL, contents=contents)
    assert f"image/png of {len(PNG)} bytes" in response.text
    return seen(response)


def sends_a_large_image(voice: Voice) -> Any:
    picture = PNG + b"\x00" * (9_000_000 - len(PNG))  # 12 MB on the wire
    contents = [types.Part.from_bytes(data=picture, mime_type="image/png"), "And in this one?"]
    response = voice.generate(model=MODEL, contents=contents)
    assert "image/png of 9000000 bytes" in response.text
    return seen(response)


def gets_an_image(voice: Voice) -> Any:
    response = voice.generate(model="gemini-2.5-flash-image", contents="Draw a gradient.")
    pictures = [part.inline_data for part in response.candidates[0].content.parts if part.inline_data]
    assert [picture.mime_type for picture in pictures] == ["image/png"]
    assert pictures[0].data.startswith(PNG[:8])
    return seen(response)


def thinks(voice: Voice) -> Any:
    config = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))
    response = voice.generate(model="gemini-2.5-pro", contents="Think hard.", config=config)
    parts = response.candidates[0].content.parts
    assert parts[0].thought
    assert response.usage_metadata.thoughts_token_count > 0
    assert any(part.thought_signature for part in parts)
    streamed = voice.stream(model="gemini-2.5-pro", contents="Think hard.", config=config)
    assert any(part.thought for chunk in streamed for part in chunk.candidates[0].content.parts)
    return [seen(response), *map(seen, streamed)]


def uses_every_setting(voice: Voice) -> Any:
    config = types.GenerateContentConfig(
        system_instruction="Be brief.",
        temperature=0.2,
        top_p=0.9,
        top_k=20,
        candidate_count=2,
        max_output_tokens=12,
        stop_sequences=["!"],
        seed=7,
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HARASSMENT,
                threshold=types.HarmBlockThreshold.BLOCK_ONLY_HIGH,
            )
        ],
    )
    response = voice.generate(model=MODEL, contents="Everything about whales.", config=config)
    assert [candidate.finish_reason for candidate in response.candidates] == [types.FinishReason.MAX_TOKENS] * 2
    return seen(response)


def uses_google_s_own_tools(voice: Voice) -> Any:
    searched = voice.generate(
        model=MODEL,
        contents="What happened today?",
        config=types.GenerateContentConfig(tools=[types.Tool(google_search=types.GoogleSearch())]),
    )
    assert searched.candidates[0].grounding_metadata.grounding_chunks
    computed = voice.generate(
        model=MODEL,
        contents="Add the first primes.",
        config=types.GenerateContentConfig(tools=[types.Tool(code_execution=types.ToolCodeExecution())]),
    )
    assert computed.code_execution_result == "28\n"
    return [seen(searched), seen(computed)]


def counts_tokens(voice: Voice) -> Any:
    contents = "How many tokens are these?"
    counted = voice.call("count_tokens", model=MODEL, contents=contents)
    answered = voice.generate(model=MODEL, contents=contents)
    assert counted.total_tokens == answered.usage_metadata.prompt_token_count > 0
    return counted.total_tokens


#: What takes other ways through the SDK when it is asynchronous.
IN_BOTH_VOICES = [
    answers_a_question,
    streams_an_answer,
    streams_text_cut_inside_of_characters,
    chats_in_streams,
    calls_functions_by_itself,
    chats_with_functions,
    fills_a_pydantic_model,
    sends_an_image,
    counts_tokens,
]
IN_ONE_VOICE = [
    streams_many_chunks,
    streams_byte_by_byte,
    streams_with_line_feeds,
    streams_an_end_without_parts,
    streams_without_a_finish_reason,
    is_refused_a_blocked_prompt,
    chats,
    is_given_function_calls,
    calls_several_functions_of_gemini_3,
    fills_a_json_schema,
    sends_a_large_image,
    gets_an_image,
    thinks,
    uses_every_setting,
    uses_google_s_own_tools,
]
VOICES: Sequence[Callable[[Target], Voice]] = (Synchronous, Asynchronous)
Scenario = Callable[[Voice], Any]


@pytest.mark.parametrize("scenario", [*IN_BOTH_VOICES, *IN_ONE_VOICE], ids=lambda scenario: scenario.__name__)
def test_the_gateway_changes_nothing_that_a_person_sees(scenario: Scenario, through: Target, direct: Target) -> None:
    assert scenario(Synchronous(through)) == scenario(Synchronous(direct))


@pytest.mark.parametrize("scenario", IN_BOTH_VOICES, ids=lambda scenario: scenario.__name__)
def test_nor_does_it_for_the_asynchronous_client(scenario: Scenario, through: Target, direct: Target) -> None:
    assert scenario(Asynchronous(through)) == scenario(Asynchronous(direct))


# What only some kinds of upstream have


def embeds(voice: Voice) -> Any:
    single = voice.call("embed_content", model="gemini-embedding-001", contents="A text.")
    batch = voice.call(
        "embed_content",
        model="gemini-embedding-001",
        contents=["A text.", "Another."],
        config=types.EmbedContentConfig(output_dimensionality=256, task_type="RETRIEVAL_DOCUMENT"),
    )
    assert len(single.embeddings[0].values) == 3072
    assert [len(embedding.values) for embedding in batch.embeddings] == [256, 256]
    return [embedding.values for embedding in (*single.embeddings, *batch.embeddings)]


@pytest.mark.parametrize("voice", VOICES)
def test_embeddings_work_where_the_kind_has_them_and_are_501_elsewhere(
    voice: Callable[[Target], Voice], through: Target, direct: Target
) -> None:
    if through.kind == "api-key":
        assert embeds(voice(through)) == embeds(voice(direct))
    else:
        with pytest.raises(errors.ServerError) as raised:
            embeds(voice(through))
        assert (raised.value.code, raised.value.status) == (501, "UNIMPLEMENTED")


# Models


@pytest.mark.parametrize("voice", VOICES)
def test_models_are_listed_page_by_page(voice: Callable[[Target], Voice], through: Target) -> None:
    async def names() -> list[str]:
        async with client(through).aio as aio:
            return [model.name async for model in await aio.models.list(config={"page_size": 2})]

    sdk = client(through)
    if voice is Asynchronous:
        paged = asyncio.run(names())
    else:
        paged = [model.name for model in sdk.models.list(config={"page_size": 2})]
    whole = sdk.models.list(config={"page_size": 1000})
    assert paged == [model.name for model in whole]
    assert {"models/gemini-2.5-flash", "models/gemini-2.5-pro", "models/house-model"} <= set(paged)
    assert len(paged) == len(set(paged)) > 2


def test_a_model_can_be_looked_up(through: Target) -> None:
    model = Synchronous(through).call("get", model=MODEL)
    assert model.name == f"models/{MODEL}"
    assert model.input_token_limit == 1_048_576
    assert "generateContent" in model.supported_actions


def test_a_model_that_nobody_has_is_not_found(target: Target) -> None:
    with pytest.raises(errors.ClientError) as raised:
        Synchronous(target).call("get", model="no-such-model")
    assert (raised.value.code, raised.value.status) == (404, "NOT_FOUND")


def test_an_alias_is_served_by_its_model(through: Target) -> None:
    response = Synchronous(through).generate(model="house-model", contents="Who are you?")
    assert response.model_version == "gemini-2.5-pro"


# Failures


def failure(work: Callable[[], object]) -> Any:
    """What a person can tell a failure by: the exception's type, the code, the status and the words."""
    with pytest.raises(errors.APIError) as raised:
        work()
    error = raised.value
    return type(error).__name__, error.code, error.status, error.message


def failures(of: Voice, models: Sequence[str]) -> Any:
    """The failures of a unary call of one model and a streamed call of another."""
    unary, streamed = models
    return [
        failure(lambda: of.generate(model=unary, contents="Hello?")),
        failure(lambda: of.stream(model=streamed, contents="Hello?")),
    ]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 429, 499, 500, 503, 504])
def test_an_error_is_the_same_exception_as_without_a_gateway(code: int, through: Target, direct: Target) -> None:
    models = [misbehaving(f"{code}-30"), misbehaving(f"{code}-30")]
    met, expected = failures(Synchronous(through), models), failures(Synchronous(direct), models)
    if through.kind != "api-key":  # each kind has words of its own
        met, expected = [error[:3] for error in met], [error[:3] for error in expected]
    assert met == expected
    assert {error[:2] for error in met} == {("ClientError" if code < 500 else "ServerError", code)}


@pytest.mark.parametrize("code", [401, 429, 503])
def test_an_error_is_the_same_for_the_asynchronous_client(code: int, through: Target) -> None:
    models = [misbehaving(f"{code}-30"), misbehaving(f"{code}-30")]
    assert failures(Asynchronous(through), models) == failures(Synchronous(through), models)


@pytest.mark.parametrize("voice", VOICES)
def test_a_wrong_client_key_is_refused_with_401(voice: Callable[[Target, str], Voice], through: Target) -> None:
    stranger = voice(through, f"{CANARY}-wrong-key")
    type_name, code, status, words = failure(lambda: stranger.generate(model=MODEL, contents="Hello?"))
    assert (type_name, code, status) == ("ClientError", 401, "UNAUTHENTICATED")
    assert CANARY not in words


def test_an_unknown_field_is_refused_in_google_s_words(through: Target) -> None:
    config = types.GenerateContentConfig(http_options=types.HttpOptions(extra_body={"surprise": 1}))
    kind, code, status, words = failure(
        lambda: Synchronous(through).generate(model=MODEL, contents="Hello?", config=config)
    )
    assert (kind, code, status) == ("ClientError", 400, "INVALID_ARGUMENT")
    assert 'Unknown name "surprise"' in words


@pytest.mark.parametrize("asynchronous", [False, True], ids=["Synchronous", "Asynchronous"])
@pytest.mark.parametrize(
    ("fault", "good", "code"),
    [
        ("midstream", 1, 503),
        ("errdata-2", 2, 503),
        ("errtail-2", 2, 503),
        ("cut", 1, 502),
        ("drop-2", 2, 502),
        ("rst-2", 2, 502),
    ],
)
def test_a_stream_that_fails_gives_its_good_chunks_and_then_raises(
    fault: str, good: int, code: int, asynchronous: bool, through: Target
) -> None:
    chunks: list[str | None] = []
    model = misbehaving(fault)

    async def read_asynchronously() -> None:
        async with client(through).aio as aio:
            async for chunk in await aio.models.generate_content_stream(model=model, contents="Go on."):
                chunks.append(chunk.text)

    def read() -> None:
        with client(through) as sdk:
            for chunk in sdk.models.generate_content_stream(model=model, contents="Go on."):
                chunks.append(chunk.text)

    with pytest.raises(errors.ServerError) as raised:
        asyncio.run(read_asynchronously()) if asynchronous else read()
    assert (raised.value.code, raised.value.status) == (code, "UNAVAILABLE")
    assert len(chunks) == good
    assert all(chunks)


@pytest.mark.parametrize("fault", ["cut", "rst-1"])
def test_an_answer_that_is_cut_short_is_never_taken_for_whole(fault: str, through: Target) -> None:
    with pytest.raises((errors.ServerError, httpx.TransportError)):
        Synchronous(through).generate(model=misbehaving(fault), contents="Hello?")


@pytest.mark.parametrize("fault", ["401", "429", "500", "503"])
def test_a_single_failure_of_the_upstream_is_not_seen(fault: str, through: Target, emulator: Emulator) -> None:
    unary, streamed = once(fault), once(fault)
    voice = Synchronous(through)
    assert "Hello?" in voice.generate(model=unary, contents="Hello?").text
    assert "Hello?" in "".join(chunk.text for chunk in voice.stream(model=streamed, contents="Hello?"))
    for model in (unary, streamed):
        assert [entry["status"] for entry in emulator.log(model)] == [int(fault), 200]


# A client that leaves


def test_a_person_who_stops_reading_a_stream_ends_it_at_the_upstream(through: Target, emulator: Emulator) -> None:
    model = misbehaving("hang-2")
    sdk = client(through)
    chunks = sdk.models.generate_content_stream(model=model, contents="Go on.")
    assert next(chunks).text
    chunks.close()
    assert emulator.log_when(model, "client_gone")["finished"] is False


def test_an_asynchronous_stream_that_is_cancelled_ends_at_the_upstream(through: Target, emulator: Emulator) -> None:
    model = misbehaving("hang-2")

    async def leave() -> None:
        async with client(through).aio as aio:
            seen_one = asyncio.Event()

            async def read() -> None:
                async for _ in await aio.models.generate_content_stream(model=model, contents="Go on."):
                    seen_one.set()

            reading = asyncio.create_task(read())
            await seen_one.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    asyncio.run(leave())
    assert emulator.log_when(model, "client_gone")["finished"] is False


def test_an_asynchronous_call_that_is_cancelled_before_its_answer_ends_at_the_upstream(
    through: Target, emulator: Emulator
) -> None:
    model = misbehaving("latency-20000")

    async def leave() -> None:
        async with client(through).aio as aio:
            asking = asyncio.create_task(aio.models.generate_content(model=model, contents="Hello?"))
            await asyncio.to_thread(emulator.log_when, model, "seq")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(leave())
    emulator.log_when(model, "client_gone")
