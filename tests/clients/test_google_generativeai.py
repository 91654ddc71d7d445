"""
google-generativeai, the older Python SDK, over REST: streams as JSON arrays, enums as numbers, role ``function``.

As in the module for google-genai, a scenario has the same outcome straight at the emulator and through a gateway.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import google.generativeai as genai
import pytest
from google.api_core import exceptions
from google.api_core.retry import Retry

from tests.clients.servers import CLIENT_KEY, Emulator, Target, misbehaving, once

MODEL = "models/gemini-2.5-flash"
#: Its own retries of 503 take a quarter of a minute, which says nothing about the gateway.
NO_RETRY: Any = {"retry": Retry(predicate=lambda _: False), "timeout": 30}

Scenario = Callable[[], Any]


@pytest.fixture(autouse=True)
def forget_the_target() -> Iterator[None]:
    """The SDK is configured for the whole process: nothing of a test's stays."""
    yield
    point_at("http://127.0.0.1:1")


def point_at(url: str, key: str = CLIENT_KEY) -> None:
    """As a person does it."""
    genai.configure(api_key=key, transport="rest", client_options={"api_endpoint": url})


def at(target: Target, scenario: Scenario) -> Any:
    """The outcome of a scenario at a target."""
    point_at(target.url)
    return scenario()


def seen(response: Any) -> Any:
    """What a person can see of a response, but for what the kinds of upstream print differently."""
    found = response.to_dict()
    usage = found["usage_metadata"]
    return [
        found["candidates"],
        [usage.get(name, 0) for name in ("prompt_token_count", "candidates_token_count", "total_token_count")],
        found.get("model_version"),
    ]


def answers_a_question() -> Any:
    response = genai.GenerativeModel(MODEL).generate_content("Why is the sky blue?", request_options=NO_RETRY)
    assert "Why is the sky blue?" in response.text
    assert response.candidates[0].finish_reason.name == "STOP"
    assert response.usage_metadata.prompt_token_count > 0
    return seen(response)


def streams_an_answer() -> Any:
    response = genai.GenerativeModel(MODEL).generate_content(
        "Tell me of Köln, 世界 and 🌍.", stream=True, request_options=NO_RETRY
    )
    chunks = list(response)
    assert len(chunks) > 1
    assert "Köln, 世界 and 🌍" in "".join(chunk.text for chunk in chunks)
    return [seen(chunk) for chunk in chunks]


def streams_many_chunks() -> Any:
    chunks = list(genai.GenerativeModel("models/emu-chunks-40").generate_content("Go on.", stream=True))
    assert len(chunks) == 40
    return [seen(chunk) for chunk in chunks]


def streams_text_cut_inside_of_characters() -> Any:
    chunks = list(genai.GenerativeModel("models/emu-splitutf8").generate_content("Go on.", stream=True))
    assert "καλημέρα κόσμε, привет мир, 世界你好" in "".join(chunk.text for chunk in chunks)
    return [seen(chunk) for chunk in chunks]


def streams_byte_by_byte() -> Any:
    return [seen(chunk) for chunk in genai.GenerativeModel("models/emu-drip-1").generate_content("Hm.", stream=True)]


def is_refused_a_blocked_prompt() -> Any:
    response = genai.GenerativeModel("models/emu-blockprompt").generate_content("Something bad.")
    assert response.prompt_feedback.block_reason.name == "SAFETY"
    with pytest.raises(ValueError, match="blocked"):
        print(response.text)
    return response.prompt_feedback.block_reason.name


def chats() -> Any:
    chat = genai.GenerativeModel(MODEL, system_instruction="Be brief.").start_chat()
    first = chat.send_message("My name is Ada.")
    second = chat.send_message("What is my name?", stream=True)
    chunks = list(second)
    assert "My name is Ada." in "".join(chunk.text for chunk in chunks)
    return [seen(first), *map(seen, chunks)]


def weather_in(city: str, days: int) -> dict[str, Any]:
    """The weather in a city for some days."""
    return {"sky": f"clear over {city} for {days} days"}


def calls_functions_by_itself() -> Any:
    chat = genai.GenerativeModel(MODEL, tools=[weather_in]).start_chat(enable_automatic_function_calling=True)
    response = chat.send_message("What is the weather in Berlin?")
    assert "clear over" in response.text
    assert len(chat.history) == 4
    return seen(response)


def is_given_function_calls() -> Any:
    chat = genai.GenerativeModel(MODEL, tools=[weather_in]).start_chat()
    first = chat.send_message("How is it in Lima?", tool_config={"function_calling_config": {"mode": "ANY"}})
    call = first.candidates[0].content.parts[0].function_call
    assert call.name == "weather_in"
    answer = genai.protos.Part(function_response={"name": call.name, "response": {"sky": "grey"}})
    second = chat.send_message(genai.protos.Content(role="function", parts=[answer]))
    assert "grey" in second.text
    return [seen(first), seen(second)]


def fills_a_schema() -> Any:
    config = genai.GenerationConfig(
        response_mime_type="application/json",
        response_schema={
            "type": "object",
            "properties": {"title": {"type": "string"}, "size": {"type": "string", "enum": ["small", "large"]}},
            "required": ["title", "size"],
        },
    )
    response = genai.GenerativeModel(MODEL, generation_config=config).generate_content("A thing.")
    assert json.loads(response.text)["size"] in ("small", "large")
    return seen(response)


def uses_every_setting() -> Any:
    config = genai.GenerationConfig(
        candidate_count=1, stop_sequences=["!"], max_output_tokens=12, temperature=0.2, top_p=0.9, top_k=20
    )
    response = genai.GenerativeModel(MODEL).generate_content(
        "Everything about whales.",
        generation_config=config,
        safety_settings={"HARASSMENT": "BLOCK_ONLY_HIGH", "DANGEROUS": "BLOCK_NONE"},
    )
    assert response.candidates[0].finish_reason.name == "MAX_TOKENS"
    return seen(response)


def sends_an_image() -> Any:
    picture = {"mime_type": "image/png", "data": b"\x89PNG" + b"\x00" * 299_996}
    response = genai.GenerativeModel(MODEL).generate_content([picture, "What is this?"])
    assert "image/png of 300000 bytes" in response.text
    return seen(response)


def counts_tokens() -> Any:
    model = genai.GenerativeModel(MODEL)
    counted = model.count_tokens("How many tokens are these?").total_tokens
    assert counted == model.generate_content("How many tokens are these?").usage_metadata.prompt_token_count > 0
    return counted


SCENARIOS = [
    answers_a_question,
    streams_an_answer,
    streams_many_chunks,
    streams_text_cut_inside_of_characters,
    streams_byte_by_byte,
    is_refused_a_blocked_prompt,
    chats,
    calls_functions_by_itself,
    is_given_function_calls,
    fills_a_schema,
    uses_every_setting,
    sends_an_image,
    counts_tokens,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_gateway_changes_nothing_that_a_person_sees(scenario: Scenario, through: Target, direct: Target) -> None:
    assert at(through, scenario) == at(direct, scenario)


# What only some kinds of upstream have


def embeds_one() -> Any:
    found = genai.embed_content("models/gemini-embedding-001", "A text.", task_type="retrieval_query")["embedding"]
    assert len(found) == 3072
    return found


def embeds_several() -> Any:
    found = genai.embed_content("models/gemini-embedding-001", ["A text.", "Another."], output_dimensionality=64)
    assert [len(embedding) for embedding in found["embedding"]] == [64, 64]
    return found["embedding"]


@pytest.mark.parametrize(
    ("scenario", "kinds"),
    [(embeds_one, {"api-key", "vertex"}), (embeds_several, {"api-key"})],
    ids=["embeds_one", "embeds_several"],
)
def test_a_method_works_where_the_kind_has_it_and_is_501_elsewhere(
    scenario: Scenario, kinds: set[str], through: Target, direct: Target
) -> None:
    if through.kind in kinds:
        assert at(through, scenario) == at(direct, scenario)
    else:
        with pytest.raises(exceptions.MethodNotImplemented):
            at(through, scenario)


# Models


def test_models_are_listed_page_by_page(through: Target) -> None:
    point_at(through.url)
    paged = [model.name for model in genai.list_models(page_size=2)]
    assert paged == [model.name for model in genai.list_models(page_size=1000)]
    assert {MODEL, "models/house-model"} <= set(paged)


def test_a_model_can_be_looked_up(through: Target) -> None:
    point_at(through.url)
    model = genai.get_model(MODEL)
    assert model.name == MODEL
    assert "generateContent" in model.supported_generation_methods
    with pytest.raises(exceptions.NotFound):
        genai.get_model("models/no-such-model")


# Failures


@pytest.mark.parametrize(
    ("code", "exception"),
    [
        (400, exceptions.BadRequest),
        (401, exceptions.Unauthorized),
        (403, exceptions.Forbidden),
        (404, exceptions.NotFound),
        (429, exceptions.TooManyRequests),
        (500, exceptions.InternalServerError),
        (503, exceptions.ServiceUnavailable),
        (504, exceptions.GatewayTimeout),
    ],
)
def test_an_error_is_the_same_exception_as_without_a_gateway(
    code: int, exception: type[exceptions.GoogleAPICallError], through: Target, direct: Target
) -> None:
    model = misbehaving(f"{code}-30")

    def fails(*, stream: bool) -> Any:
        with pytest.raises(exceptions.GoogleAPICallError) as raised:
            list(genai.GenerativeModel(model).generate_content("Hello?", stream=stream, request_options=NO_RETRY))
        return type(raised.value), raised.value.code

    assert at(through, lambda: fails(stream=False)) == at(direct, lambda: fails(stream=False)) == (exception, code)
    # Google's arrays of errors, straight at the upstream, are a 400 of unknown cause to this SDK
    assert at(through, lambda: fails(stream=True)) == (exception, code)


def test_a_wrong_client_key_is_refused_with_401(through: Target) -> None:
    point_at(through.url, "canary-wrong-key")
    with pytest.raises(exceptions.Unauthorized, match="401"):
        genai.GenerativeModel(MODEL).generate_content("Hello?", request_options=NO_RETRY)


@pytest.mark.parametrize("fault", ["midstream", "errdata-2", "errtail-2", "cut", "drop-2", "rst-2"])
def test_a_stream_that_fails_is_never_taken_for_whole(fault: str, through: Target) -> None:
    point_at(through.url)
    model = genai.GenerativeModel(misbehaving(fault))
    with pytest.raises(Exception, match=r"(?i)connection|chunk|prematurely|incomplete"):
        list(model.generate_content("Go on.", stream=True, request_options=NO_RETRY))


@pytest.mark.parametrize("fault", ["401", "429", "500", "503"])
def test_a_single_failure_of_the_upstream_is_not_seen(fault: str, through: Target, emulator: Emulator) -> None:
    point_at(through.url)
    model = once(fault)
    chunks = genai.GenerativeModel(f"models/{model}").generate_content("Hello?", stream=True, request_options=NO_RETRY)
    assert "Hello?" in "".join(chunk.text for chunk in chunks)
    assert [entry["status"] for entry in emulator.log(model)] == [int(fault), 200]
