"""
What breaks real clients, a test for each: raw bytes through a gateway process, for each kind of upstream.

Nine clients were watched while they took every answer in turn: google-genai, google-generativeai, langchain, litellm,
ai-sdk, gemini-cli and their like.  What broke one of them has a section below; each section fails if the gateway breaks
its promise, whether or not an SDK of the other modules would notice.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from typing import Any

import pytest

from agm.emulator.requestlog import fingerprint
from tests.clients.servers import (
    CANARY,
    CLIENT_KEY,
    Emulator,
    GatewayFactory,
    RunningGateway,
    SessionGateway,
    misbehaving,
    once,
)
from tests.clients.wire import HELLO, KEY, Answer, ask, call, exchange, look

MODEL = "gemini-2.5-flash"
#: Streams of every sort that must come whole: usual, long, slow, in crumbs, and framed as Google does not.
STREAMS = (MODEL, "emu-chunks-40", "emu-slow", "emu-drip-5", "emu-splitutf8", "emu-lf", "emu-noblank", "emu-nofinish")
FRAMINGS = ("unary", "sse", "array")


@functools.cache
def stream(url: str, model: str) -> Answer:
    """An event stream through a gateway; read once for all the tests that look at it."""
    return ask(url, call(model, "sse"))


def documents(answer: Answer, framing: str) -> list[Any]:
    """The documents of an answer in a framing."""
    if framing == "sse":
        return answer.events
    return answer.json if framing == "array" else [answer.json]


def text_of(found: list[Any]) -> str:
    """All the text of an answer's documents."""
    return "".join(document["candidates"][0]["content"]["parts"][0]["text"] for document in found)


# Unwrap {response: …}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_answer_is_not_wrapped(gateway: RunningGateway, framing: str) -> None:
    found = documents(ask(gateway.url, call(MODEL, framing)), framing)
    assert found
    for document in found:
        assert document["candidates"]
        assert not document.keys() & {"response", "traceId", "consumedCredits"}


# Answer alt=sse with SSE, and an array where one was asked for


@pytest.mark.parametrize("query", ["?alt=sse", "?alt=sse&prettyPrint=false", "?%24alt=sse", ""])
def test_a_stream_is_server_sent_events(gateway: RunningGateway, query: str) -> None:
    answer = ask(gateway.url, f"/v1beta/models/{MODEL}:streamGenerateContent{query}")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.body.startswith(b'data: {"')
    assert answer.whole
    assert len(answer.events) > 1


@pytest.mark.parametrize("query", ["?alt=json", "?%24alt=json", "?$alt=json;enum-encoding=int", "?alt=json&key=x"])
def test_an_array_is_one_with_nothing_around_it(gateway: RunningGateway, query: str) -> None:
    answer = ask(gateway.url, f"/v1beta/models/{MODEL}:streamGenerateContent{query}")
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.body.startswith(b"[{")
    assert answer.body.endswith(b"]")
    assert len(answer.json) > 1
    assert answer.whole


# The lines of an event stream


@pytest.mark.parametrize("model", STREAMS)
def test_there_is_no_line_but_data(gateway: RunningGateway, model: str) -> None:
    """Neither ``event:`` nor ``id:``, no comment while the upstream is silent, and the space after ``data:``."""
    answer = stream(gateway.url, model)
    assert answer.whole
    assert [line for line in answer.lines if line and not line.startswith(b"data: ")] == []


@pytest.mark.parametrize("model", STREAMS)
def test_no_data_is_empty_or_done(gateway: RunningGateway, model: str) -> None:
    data = [line.removeprefix(b"data:").strip() for line in stream(gateway.url, model).lines if line]
    assert data
    assert all(line.startswith(b"{") and line.endswith(b"}") for line in data)


@pytest.mark.parametrize("model", STREAMS)
def test_every_event_ends_with_one_blank_line(gateway: RunningGateway, model: str) -> None:
    """The last one too, where the upstream leaves it out."""
    body = stream(gateway.url, model).body
    assert re.fullmatch(rb"(?:data: [^\r\n]+(?:\r\n\r\n|\n\n))+", body), body[-300:]


def test_an_event_s_json_is_on_one_line_though_the_upstream_s_is_not(gateways: SessionGateway) -> None:
    answer = stream(gateways("code-assist").url, "emu-multiline")
    assert re.fullmatch(rb"(?:data: \{[^\r\n]+\}\r\n\r\n)+", answer.body), answer.body[:300]
    assert answer.whole
    assert all(event["candidates"] for event in answer.events)


def test_a_done_of_the_upstream_passes(gateway: RunningGateway) -> None:
    answer = ask(gateway.url, call("emu-done", "sse"))
    assert answer.whole
    assert answer.body.endswith(b"}\r\n\r\ndata: [DONE]\r\n\r\n")
    assert answer.body.count(b"[DONE]") == 1
    assert ask(gateway.url, call("emu-done", "array")).json


def test_a_done_of_the_upstream_is_dropped_where_that_is_set(new_gateway: GatewayFactory, kind: str) -> None:
    running = new_gateway(kind, gateway='sse_done = "drop"')
    answer = ask(running.url, call("emu-done", "sse"))
    assert answer.whole
    assert answer.body.endswith(b"}\r\n\r\n")
    assert b"[DONE]" not in answer.body
    assert ask(running.url, call("emu-done", "array")).json


# Byte for byte


def upstream_target(kind: str, model: str, framing: str) -> tuple[str, str]:
    """The target at the upstream that a call of a gateway leads to, and the header with a credential."""
    target = call(model, framing)
    if kind == "api-key":
        return target, "x-goog-api-key: someone"
    version = "/v1beta1/projects/project-0/locations/us-central1/publishers/google"
    return target.replace("/v1beta", version, 1), "Authorization: Bearer someone"


@pytest.mark.parametrize("kind", ["api-key", "vertex"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(
    "model", [MODEL, "emu-chunks-40", "emu-splitutf8", "emu-drip-5", "emu-lf", "emu-multiline", "emu-blockprompt"]
)
def test_an_answer_passes_byte_for_byte(gateway: RunningGateway, emulator: Emulator, framing: str, model: str) -> None:
    target, credential = upstream_target(gateway.kind, model, framing)
    expected = ask(emulator.url, target, key=credential)
    met = ask(gateway.url, call(model, framing))
    assert (met.status, met.body, met.whole) == (200, expected.body, True)


@pytest.mark.parametrize("kind", ["code-assist"])
@pytest.mark.parametrize("model", [MODEL, "emu-chunks-40", "emu-splitutf8", "emu-drip-5", "emu-blockprompt"])
def test_what_is_unwrapped_is_cut_out_and_not_written_again(
    gateway: RunningGateway, emulator: Emulator, model: str
) -> None:
    envelope = b'{"model":"%s","project":"project-0","request":%s}' % (model.encode(), HELLO)
    wrapped = ask(
        emulator.url, "/v1internal:streamGenerateContent?alt=sse", envelope, key="Authorization: Bearer someone"
    )
    cut = re.sub(rb'(?m)^data: \{"response":(\{.*\}),"traceId":"[^"]*"\}', rb"data: \1", wrapped.body)
    assert b"traceId" not in cut
    assert ask(gateway.url, call(model, "sse")).body == cut


# Finish reasons and usage


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_finish_reason_and_the_usage_are_kept(gateway: RunningGateway, framing: str) -> None:
    found = documents(ask(gateway.url, call(MODEL, framing)), framing)
    assert [document["candidates"][0].get("finishReason") for document in found] == [None] * (len(found) - 1) + ["STOP"]
    for document in found:
        usage = document["usageMetadata"]
        assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]


# Failures in the middle of a stream

BROKEN = {"midstream": 503, "errdata-2": 503, "errtail-2": 503, "cut": 502, "drop-2": 502, "rst-2": 502}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_stream_that_fails_ends_with_an_error_event_and_is_then_aborted(gateway: RunningGateway, fault: str) -> None:
    answer = ask(gateway.url, call(misbehaving(fault), "sse"))
    assert answer.status == 200
    *good, error = answer.events
    assert len(good) == (2 if fault.endswith("2") else 1)
    assert all("candidates" in event for event in good)
    assert list(error) == ["error"]
    assert error["error"]["code"] == BROKEN[fault]
    assert error["error"]["status"] == "UNAVAILABLE"
    assert answer.body.count(b'data: {"error":') == 1
    assert answer.body.endswith(b"}\r\n\r\n")
    assert not answer.whole, "the stream looks as if it had ended in order"


def test_an_event_that_cannot_be_read_is_such_a_failure(gateways: SessionGateway) -> None:
    answer = ask(gateways("code-assist").url, call("emu-badjson", "sse"))
    assert [list(event) for event in answer.events][1:] == [["error"]]
    assert not answer.whole


@pytest.mark.parametrize("fault", BROKEN)
def test_an_array_that_fails_is_never_closed(gateway: RunningGateway, fault: str) -> None:
    answer = ask(gateway.url, call(misbehaving(fault), "array"))
    assert answer.body.startswith(b"[{")
    assert not answer.whole


@pytest.mark.parametrize("fault", ["cut", "drop-1", "rst-1"])
def test_a_unary_answer_that_is_cut_short_is_aborted_or_an_error(gateway: RunningGateway, fault: str) -> None:
    answer = ask(gateway.url, call(misbehaving(fault)))
    if gateway.kind == "code-assist":  # read whole before anything goes out
        assert_is_status(answer, 502)
    else:
        assert not answer.whole


# Errors are google.rpc.Status


def assert_is_status(answer: Answer, status: int) -> dict[str, Any]:
    """The error in an answer, which every client must be able to read."""
    assert answer.status == status, answer
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.whole
    assert list(answer.json) == ["error"]
    error: dict[str, Any] = answer.json["error"]
    assert error["code"] == status
    assert type(error["code"]) is int
    assert isinstance(error["message"], str)
    assert error["message"]
    assert re.fullmatch(r"[A-Z_]+", error["status"])
    assert all("@type" in detail for detail in error.get("details", []))
    return error


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 499, 500, 503, 504])
def test_an_error_of_the_upstream_is_a_status(gateway: RunningGateway, status: int, framing: str) -> None:
    error = assert_is_status(ask(gateway.url, call(misbehaving(f"{status}-30"), framing)), status)
    assert error["code"] == status


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("429rpm-30", 429),
        ("429day", 429),
        ("429nodetails", 429),
        ("quota-30", 429),
        ("capacity429", 429),
        ("capacity503", 503),
        ("403validation", 403),
        ("403disabled", 403),
        ("errarray-503", 503),
        ("emptystream", 502),
        ("close", 502),
    ],
)
def test_any_other_failure_is_a_status(gateway: RunningGateway, fault: str, status: int, framing: str) -> None:
    assert_is_status(ask(gateway.url, call(misbehaving(fault), framing)), status)


REFUSED = {
    "a wrong key": (lambda url: ask(url, call(MODEL), key=f"x-goog-api-key: {CANARY}-wrong"), 401),
    "no key": (lambda url: ask(url, call(MODEL), key="X-Nothing: 1"), 401),
    "an unknown path": (lambda url: look(url, "/v2/nothing"), 404),
    "an unknown method": (lambda url: ask(url, f"/v1beta/models/{MODEL}:sing"), 404),
    "an unknown model": (lambda url: look(url, "/v1beta/models/no-such-model"), 404),
    "a wrong HTTP method": (lambda url: look(url, call(MODEL), method="GET"), 405),
    "a model is deleted": (lambda url: look(url, "/v1beta/models/gemini-2.5-flash", method="DELETE"), 404),
    "a model is updated": (lambda url: look(url, "/v1beta/models/gemini-2.5-flash", method="PATCH"), 404),
    "no such method": (lambda url: look(url, "/v1beta/models", method="BREW"), 405),
    "a bad alt": (lambda url: ask(url, call(MODEL) + "?alt=proto"), 400),
    "no JSON": (lambda url: ask(url, call(MODEL), b"{nothing"), 400),
    "an unknown field": (lambda url: ask(url, call(MODEL), HELLO[:-1] + b',"surprise":1}'), 400),
    "a bad page size": (lambda url: look(url, "/v1beta/models?pageSize=many"), 400),
    "a body beyond the limit": (
        lambda url: exchange(
            url,
            b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999999999999\r\n%s\r\n\r\n"
            % (call(MODEL).encode(), KEY.encode()),
        ),
        413,
    ),
    "a foreign host": (
        lambda url: exchange(url, b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"),
        403,
    ),
    "a strange encoding": (lambda url: ask(url, call(MODEL), HELLO, "Content-Encoding: br"), 415),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_of_the_gateway_is_a_status(gateways: SessionGateway, what: str) -> None:
    refused, status = REFUSED[what]
    answer = refused(gateways("api-key").url)
    assert_is_status(answer, answer.status if what == "a foreign host" else status)
    assert answer.status in (status, 421)
    assert CANARY.encode() not in answer.body


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("embedContent", ("api-key", "vertex")),
        ("batchEmbedContents", ("api-key",)),
        ("predict", ("api-key", "vertex")),
    ],
)
def test_a_method_that_the_kind_lacks_is_501(gateway: RunningGateway, method: str, kinds: tuple[str, ...]) -> None:
    bodies = {
        "embedContent": ("gemini-embedding-001", {"content": {"parts": [{"text": "A text."}]}}),
        "batchEmbedContents": (
            "gemini-embedding-001",
            {"requests": [{"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "A text."}]}}]},
        ),
        "predict": ("imagen-4.0-generate-001", {"instances": [{"prompt": "A gradient."}], "parameters": {}}),
    }
    model, body = bodies[method]
    answer = ask(gateway.url, f"/v1beta/models/{model}:{method}", json.dumps(body).encode())
    if gateway.kind in kinds:
        assert answer.status == 200
        field = {"embedContent": "embedding", "batchEmbedContents": "embeddings", "predict": "predictions"}[method]
        assert answer.json[field]
    else:
        assert assert_is_status(answer, 501)["status"] == "UNIMPLEMENTED"


# 429 with RetryInfo when the pool is empty


def retry_delay(error: dict[str, Any]) -> float:
    """The seconds of an error's only RetryInfo."""
    (delay,) = (d["retryDelay"] for d in error["details"] if d["@type"].endswith("google.rpc.RetryInfo"))
    return float(delay.removesuffix("s"))


def test_an_empty_pool_is_429_with_the_earliest_recovery(
    new_gateway: GatewayFactory, emulator: Emulator, kind: str
) -> None:
    running = new_gateway(kind, accounts=2)
    for framing in FRAMINGS:
        model = misbehaving("429-40")
        for _ in range(3):
            answer = ask(running.url, call(model, framing))
            error = assert_is_status(answer, 429)
            assert error["status"] == "RESOURCE_EXHAUSTED"
            assert 0 < retry_delay(error) <= 41
            assert 0 < int(answer.headers["retry-after"]) <= 41
        assert len(emulator.log(model)) == 2, "accounts that rest were asked all the same"


# A single failure is hidden


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("401", 401),
        ("403", 403),
        ("404", 404),
        ("429-30", 429),
        ("429-0.1", 429),
        ("500", 500),
        ("503", 503),
        ("504", 504),
        ("capacity503", 503),
        ("emptystream", 200),
    ],
)
def test_a_single_failure_is_hidden(
    gateway: RunningGateway, emulator: Emulator, fault: str, status: int, framing: str
) -> None:
    model = once(fault)
    answer = ask(gateway.url, call(model, framing))
    assert answer.status == 200
    assert answer.whole
    assert "Hello, world" in text_of(documents(answer, framing))
    assert [entry["status"] for entry in emulator.log(model)] == [status, 200]


# 12 MB on the wire


@pytest.mark.parametrize("framing", FRAMINGS)
def test_twelve_megabytes_arrive(gateway: RunningGateway, emulator: Emulator, framing: str) -> None:
    picture = base64.b64encode(bytes(9_000_000)).decode()
    parts = [{"inlineData": {"mimeType": "image/png", "data": picture}}, {"text": "What is this?"}]
    body = json.dumps({"contents": [{"role": "user", "parts": parts}]}).encode()
    model = f"twelve-megabytes-{framing}-{gateway.kind}"
    answer = ask(gateway.url, call(model, framing), body)
    assert "of 9000000 bytes" in text_of(documents(answer, framing))
    assert emulator.log(model)[0]["body_length"] >= len(body) > 12_000_000


# What clients send


@pytest.mark.parametrize(
    ("target", "model"),
    [
        ("/v1beta/models/models/m-1:generateContent", "m-1"),
        ("/v1beta/models/m-2%3AgenerateContent", "m-2"),
        ("/v1beta/models/m-3%3agenerateContent", "m-3"),
        ("//v1beta/models/m-4:generateContent", "m-4"),
        ("/v1beta//models/m-5:generateContent", "m-5"),
        ("/v1/models/m-6:generateContent", "m-6"),
        ("/v1alpha/models/m-7:generateContent", "m-7"),
        ("/v1beta/models/my/model:free:generateContent", "my/model:free"),
        ("/v1beta/models/a%20b:generateContent", "a b"),
    ],
)
def test_a_path_as_clients_write_it_is_understood(
    gateway: RunningGateway, emulator: Emulator, target: str, model: str
) -> None:
    before = len(emulator.log(model))
    answer = ask(gateway.url, target)
    assert answer.status == 200, answer
    assert answer.json["candidates"]
    asked = emulator.log(model)
    assert len(asked) == before + 1
    assert "models/models" not in asked[-1]["path"]
    assert "//" not in asked[-1]["path"]


@pytest.mark.parametrize("query", ["?%24alt=json%3Benum-encoding%3Dint", "?$alt=json;enum-encoding=int"])
@pytest.mark.parametrize("framing", ["unary", "array"])
def test_enums_come_as_numbers_where_a_client_wants_them_so(gateway: RunningGateway, framing: str, query: str) -> None:
    answer = ask(gateway.url, call(MODEL, framing).partition("?")[0] + query)
    assert documents(answer, framing)[-1]["candidates"][0]["finishReason"] in (1, "STOP")
    if gateway.kind != "code-assist":  # which knows names only; the SDK that asks for numbers reads both
        assert documents(answer, framing)[-1]["candidates"][0]["finishReason"] == 1


@pytest.mark.parametrize("framing", FRAMINGS)
def test_what_is_the_client_s_alone_stays_here(gateway: RunningGateway, emulator: Emulator, framing: str) -> None:
    model = f"private-{framing}-{gateway.kind}"
    target = call(model, framing)
    answer = ask(
        gateway.url,
        f"{target}{'&' if '?' in target else '?'}key={CLIENT_KEY}",
        HELLO,
        "Accept-Encoding: gzip, deflate, zstd",
        "X-Server-Timeout: 30",
        "X-Goog-Api-Client: google-genai-sdk/3.4.0",
        f"Authorization: Bearer {CLIENT_KEY}",
        "Cookie: a=b",
        "X-Forwarded-For: 10.0.0.1",
    )
    assert answer.status == 200
    assert "content-encoding" not in answer.headers
    (entry,) = emulator.log(model)
    headers = entry["headers"]
    assert headers["accept-encoding"] == "identity"
    assert headers["x-server-timeout"] == "30"
    assert not headers.keys() & {"cookie", "x-forwarded-for", "x-goog-api-client", "via"}
    assert "key" not in entry["query"]
    assert fingerprint(CLIENT_KEY) not in json.dumps(entry)


@pytest.mark.parametrize("way", ["x-goog-api-key", "x-api-key", "bearer", "query"])
def test_a_client_key_is_read_wherever_clients_put_it(gateways: SessionGateway, way: str) -> None:
    url, target = gateways("api-key").url, call(MODEL)
    match way:
        case "query":
            answer = ask(url, f"{target}?key={CLIENT_KEY}", key="X-Nothing: 1")
        case "bearer":
            answer = ask(url, target, key=f"Authorization: Bearer {CLIENT_KEY}")
        case _:
            answer = ask(url, target, key=f"{way}: {CLIENT_KEY}")
    assert answer.status == 200


CONVERSATION: dict[str, Any] = {
    "system_instruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "How warm is it?"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "weather_in", "args": {"city": "Lima"}}}]},
        {"role": "function", "parts": [{"functionResponse": {"name": "weather_in", "response": {"degrees": 31}}}]},
    ],
    "tools": [
        {
            "function_declarations": [
                {"name": "weather_in", "parameters": {"type": 6, "properties": {"city": {"type": 1}}}}
            ]
        }
    ],
    "tool_config": {"function_calling_config": {"mode": 1}},
    "generation_config": {"max_output_tokens": 900, "candidateCount": 1},
    "safetySettings": [{"category": 7, "threshold": 3}],
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_function_roles_snake_case_and_numbers_for_enums_are_taken(gateway: RunningGateway, framing: str) -> None:
    answer = ask(gateway.url, call(MODEL, framing), json.dumps(CONVERSATION).encode())
    assert answer.status == 200, answer
    assert 'The function weather_in returned {"degrees": 31}' in text_of(documents(answer, framing))


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent", "countTokens"])
def test_a_turn_without_a_role_is_the_user_s(gateway: RunningGateway, method: str) -> None:
    body = b'{"contents":[{"parts":[{"text":"Hello, world"}]}]}'
    answer = ask(gateway.url, f"/v1beta/models/{MODEL}:{method}", body)
    assert answer.status == 200, answer


def test_invented_ids_of_function_calls_are_taken_and_passed_on(gateway: RunningGateway, emulator: Emulator) -> None:
    turns = [
        {"role": "user", "parts": [{"text": "How warm is it?"}]},
        {"role": "model", "parts": [{"functionCall": {"id": "made-up-1", "name": "f", "args": {}}}]},
        {"role": "user", "parts": [{"functionResponse": {"id": "made-up-1", "name": "f", "response": {"t": 1}}}]},
    ]
    model = f"invented-{gateway.kind}"
    answer = ask(gateway.url, call(model), json.dumps({"contents": turns}).encode())
    assert answer.status == 200, answer
    assert emulator.log(model, body=True)[0]["body"].count("made-up-1") == 2


@pytest.mark.parametrize(
    "body",
    [
        HELLO,
        b'{"generateContentRequest":{"model":"models/m","contents":[{"parts":[{"text":"Hello, world"}]}]}}',
    ],
    ids=["contents", "generateContentRequest"],
)
@pytest.mark.parametrize("target", [":countTokens", "/countTokens"])
def test_tokens_are_counted_in_either_form(gateway: RunningGateway, body: bytes, target: str) -> None:
    answer = ask(gateway.url, f"/v1beta/models/{MODEL}{target}", body)
    assert answer.status == 200, answer
    assert answer.json["totalTokens"] == 3


def test_a_model_that_nobody_named_is_asked_for_all_the_same(gateway: RunningGateway) -> None:
    assert ask(gateway.url, call("gemini-9.9-not-yet-known")).json["modelVersion"] == "gemini-9.9-not-yet-known"
