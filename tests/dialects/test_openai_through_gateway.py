"""OpenAI's endpoints through a gateway in this process: streams as they come, limits, records, errors, explanations."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from agm import hookimpl
from agm.api import LocalAnswer, RequestRecord
from agm.net.writes import buffered
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import (
    JSON_HEAD,
    SSE_HEAD,
    AnsweringUpstream,
    Asked,
    ScriptedUpstream,
    account,
    chunk,
    connect,
    eventually,
    google_error,
    post,
    retry,
    settle,
)

CHAT = "/v1/chat/completions"


class Recorder:
    """Keeps the records of requests that have ended, and adds a header to their answers."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)

    @hookimpl
    def agm_answer_headers(self, request: Any) -> dict[str, str]:
        return {"x-served": request.model}


def chat(model: str = "gemini-2.5-flash", **fields: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def event(text: str, **more: Any) -> bytes:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, **more}
    return b"data: " + json.dumps({"candidates": [candidate], "responseId": "r"}).encode() + b"\r\n\r\n"


async def said(running: RunningGateway, path: str, body: bytes, *headers: str) -> tuple[int, dict[str, str], Any]:
    """The status, the headers and the document of an answer."""
    client = await connect(running.port)
    client.send(post(path, body, "Connection: close", *headers))
    head, _, answer = (await client.closed()).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), found, json.loads(answer) if answer else None


@pytest_twisted.ensureDeferred
async def test_each_chunk_goes_out_in_the_turn_in_which_its_event_came(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    recorder = Recorder()
    running = await gateway(account(upstream), plugins=[recorder])
    client = await connect(running.port)
    client.send(post(CHAT, chat(stream=True)))
    up = await upstream.connection()
    assert up.received.startswith(b"POST /v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse ")
    up.send(SSE_HEAD + chunk(event("one")))
    head = await client.until(b'"content":"one"')
    assert b"Content-Type: text/event-stream\r\n" in head
    assert b"x-served: gemini-2.5-flash\r\n" in head.lower()
    assert b"X-Request-Id: " in head
    up.send(chunk(event("two")))
    await client.until(b'"content":"two"')
    assert b"[DONE]" not in client.received
    up.send(chunk(event("", finishReason="STOP")) + b"0\r\n\r\n")
    received = await client.until(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert received.count(b"[DONE]") == 1
    (record,) = recorder.records
    assert (record.outcome, record.status, record.request.dialect, record.request.path) == ("ok", 200, "openai", CHAT)


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_upstreams_request(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    recorder = Recorder()
    running = await gateway(account(upstream), plugins=[recorder])
    for stream in (True, False):
        client = await connect(running.port)
        client.send(post(CHAT, chat(stream=stream)))
        up = await upstream.connection(len(recorder.records))
        if stream:
            up.send(SSE_HEAD + chunk(event("one")))
            await client.until(b"one")
        client.transport.abortConnection()
        await up.closed()
        assert recorder.records[-1].outcome == "cancelled"


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_holds_the_upstream_back(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """Of 32 MiB, the gateway has taken what the sockets' buffers hold, and no more."""
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post(CHAT, chat(stream=True)))
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    await client.until(b"one")
    client.transport.pauseProducing()
    client.keep = False
    count, size = 512, 64 * 1024
    for _ in range(count):
        up.send(chunk(event("x" * size)))
    up.send(b"0\r\n\r\n")
    await eventually(lambda: [relay for relay in running.gateway.live.relays() if relay.paused], "a paused answer")
    await settle()
    (channel,) = running.site.channels
    assert buffered(channel.transport) < 2**20
    assert up.transport.dataBuffer or up.transport._tempDataBuffer, "the upstream has to wait"
    client.transport.resumeProducing()
    await eventually(lambda: client.count > count * size, "the rest")


@pytest.mark.parametrize("how", ["cut", "error", "nonsense"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_breaks_off_ends_in_an_error_and_is_cut(
    gateway: GatewayFactory, upstream: ScriptedUpstream, how: str
) -> None:
    recorder = Recorder()
    running = await gateway(account(upstream), plugins=[recorder])
    client = await connect(running.port)
    client.send(post(CHAT, chat(stream=True)))
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    await client.until(b"one")
    if how == "cut":
        up.transport.abortConnection()
    elif how == "error":
        up.send(chunk(b"data: " + json.dumps(google_error(503, "UNAVAILABLE", "busy")).encode() + b"\r\n\r\n"))
    else:
        up.send(chunk(b'data: {"candidates": 3}\r\n\r\n'))
    received = await client.closed()
    body = received.partition(b"\r\n\r\n")[2]
    assert b'data: {"error":{"message":"' in body
    assert b"[DONE]" not in received
    assert not received.endswith(b"0\r\n\r\n")
    assert (b"busy" in body) is (how == "error")
    await eventually(lambda: recorder.records, "the record")
    assert recorder.records[0].outcome == "aborted"


@pytest_twisted.ensureDeferred
async def test_errors_keep_their_status_their_words_and_when_to_come_again(
    gateway: GatewayFactory,
) -> None:
    def answer(asked: Asked) -> tuple[Any, ...]:
        status = int(asked.path.rpartition("-")[2].partition(":")[0])
        return status, google_error(status, "X", f"words of {status}", *([retry("30s")] if status == 429 else []))

    upstream = AnsweringUpstream(answer)
    running = await gateway("".join(account(upstream, name=name) for name in "ab"))
    for status, kind in [(400, "invalid_request_error"), (429, "rate_limit_error"), (500, "server_error")]:
        for stream in (False, True):
            got, headers, document = await said(running, CHAT, chat(f"gemini-{status}", stream=stream))
            assert got == status
            assert (document["error"]["type"], document["error"]["param"]) == (kind, None)
            assert ("retry-after" in headers) is (status == 429)
            assert "x-request-id" in headers
    assert document["error"]["message"] == "words of 500"
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_model_that_nobody_has_named(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Is 404 with the alias to write, or the default's to serve; Google's own names are known, listed or not."""
    tables = emulator.account() + '[models.aliases]\n"gpt-4*" = "gemini-2.5-pro"\n'
    running = await gateway(tables)
    status, _, document = await said(running, CHAT, chat("o9"))
    assert (status, document["error"]["code"], document["error"]["param"]) == (404, "model_not_found", "model")
    assert '[models.aliases] "o9" = "gemini-2.5-flash"' in document["error"]["message"]
    for model in ("gpt-4o", "gemini-9-preview", "models/gemini-2.5-flash"):
        status, _, document = await said(running, CHAT, chat(model))
        assert (status, document.get("model")) == (200, model)
    assert [entry.model for entry in emulator.log] == ["gemini-2.5-pro", "gemini-9-preview", "gemini-2.5-flash"]
    running = await gateway(tables + '[dialects]\ndefault_model = "gpt-4o"\n')
    assert (await said(running, CHAT, chat("o9")))[0] == 200
    assert emulator.log[-1].model == "gemini-2.5-pro"


@pytest_twisted.ensureDeferred
async def test_keys_and_their_limits_hold(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    key = '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "k"\nkey = "canary-k"\nmodels = ["gemini-2.5-*"]\n'
    running = await gateway(emulator.account() + key + "requests_per_minute = 2\n")
    status, headers, document = await said(running, CHAT, chat())
    assert (status, document["error"]["code"]) == (401, "invalid_api_key")
    bearer = "Authorization: Bearer canary-k"
    status, _, document = await said(running, CHAT, chat("gemini-3-pro-preview"), bearer)
    assert (status, document["error"]["type"]) == (403, "permission_error")
    # many texts are several calls, and one request to the limit
    many = json.dumps({"model": "gemini-2.5-embed", "input": ["x"] * 250}).encode()
    status, _, document = await said(running, "/v1/embeddings", many, bearer)
    assert (status, len(document["data"])) == (200, 250)
    assert (await said(running, CHAT, chat(), bearer))[0] == 200
    status, headers, document = await said(running, CHAT, chat(), bearer)
    assert (status, document["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(headers["retry-after"]) > 0


@pytest_twisted.ensureDeferred
async def test_several_calls_are_rows_of_one_request(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    recorder = Recorder()
    running = await gateway(emulator.account(), plugins=[recorder])
    body = json.dumps({"model": "gemini-2.5-flash-image", "prompt": "x", "n": 3}).encode()
    status, headers, document = await said(running, "/v1/images/generations", body)
    assert (status, len(document["data"])) == (200, 3)
    first, *others = [record.request for record in recorder.records]
    assert first.id == headers["x-request-id"]
    assert [request.parent for request in others] == [first.id] * 2
    assert {request.dialect for request in [first, *others]} == {"openai"}


@pytest_twisted.ensureDeferred
async def test_an_answer_of_a_plugin_is_translated_as_any(gateway: GatewayFactory) -> None:
    class Answering:
        @hookimpl
        def agm_answer_request(self) -> LocalAnswer:
            parts = [{"text": "mine"}]
            return LocalAnswer({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})

    running = await gateway("", plugins=[Answering()])
    _, _, document = await said(running, CHAT, chat())
    assert document["choices"][0]["message"]["content"] == "mine"
    client = await connect(running.port)
    client.send(post(CHAT, chat(stream=True)))
    assert (await client.until(b"[DONE]")).count(b'"content":"mine"') == 1


@pytest_twisted.ensureDeferred
async def test_vertex_has_no_batches_and_embeds_text_by_text(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(emulator.account("v", "vertex"))
    body = json.dumps({"model": "gemini-embedding-001", "input": ["a", "b", "c"], "dimensions": 8}).encode()
    status, _, document = await said(running, "/v1/embeddings", body)
    assert (status, [len(one["embedding"]) for one in document["data"]]) == (200, [8, 8, 8])
    assert document["usage"]["prompt_tokens"] > 0


@pytest_twisted.ensureDeferred
async def test_the_fallback_gets_the_body_in_its_own_form(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """A model of levels stands in for one of budgets."""
    fallbacks = '[models.fallbacks]\n"gemini-2.5-pro" = ["gemini-3-flash"]\n'
    running = await gateway(account(upstream) + fallbacks)
    client = await connect(running.port)
    client.send(post(CHAT, chat("gemini-2.5-pro", reasoning_effort="medium")))
    up = await upstream.connection()
    assert b'"thinkingBudget":8192' in up.received
    error = json.dumps(google_error(429, "RESOURCE_EXHAUSTED", "no", retry("60s"))).encode()
    head = b"HTTP/1.1 429 X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(error)
    up.send(head + error)
    await up.asked(2)
    await up.until(b'"thinkingLevel":"MEDIUM"')
    answer = b'{"candidates":[{"content":{"parts":[{"text":"x"}]},"finishReason":"STOP"}]}'
    up.send(JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(answer) + answer)
    await client.until(b'"content":"x"')


@pytest_twisted.ensureDeferred
async def test_methods_and_forms_are_refused_in_openais_form(gateway: GatewayFactory) -> None:
    running = await gateway("")
    for path, body, status in [
        (CHAT, b"[]", 400),
        (CHAT, b"{", 400),
        ("/v1/images/edits", b"{}", 400),
        ("/v1/audio/transcriptions", b"{}", 400),
        ("/openai/v1/nothing", b"{}", 404),
    ]:
        got, _, document = await said(running, path, body)
        assert (got, document["error"]["type"]) == (status, "invalid_request_error"), path


@pytest_twisted.ensureDeferred
async def test_an_explanation_shows_both_bodies(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(emulator.account() + '[models.aliases]\n"gpt-4o" = "gemini-3-pro-preview"\n')
    schema = {"type": "object", "patternProperties": {"^a": {}}}
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
    }
    question = {"model": "gpt-4o", "dialect": "openai", "body": body}
    _, _, found = await said(running, "/_agm/explain", json.dumps(question).encode())
    assert found["dialect"]["name"] == "openai"
    assert found["dialect"]["body"] == {**body, "model": "gpt-4o"}
    assert found["dialect"]["translated"]["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]
    assert "patternProperties" in found["dialect"]["left_out"][0]
    assert found["model"]["served"] == "gemini-3-pro-preview"
    assert found["upstream"]["body"]["generationConfig"]["thinkingConfig"] == {"thinkingLevel": "LOW"}
    assert not emulator.log
    for wrong, status in [({"dialect": "klingon"}, 400), ({"dialect": "openai", "path": "/v1/nothing"}, 404)]:
        got, _, _ = await said(running, "/_agm/explain", json.dumps({"model": "m", **wrong}).encode())
        assert got == status
