"""Anthropic's API as a client meets it: keys, errors, models, streams at a client's pace."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from agm.testing import Answer, GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import (
    SSE_HEAD,
    ScriptedUpstream,
    account,
    chunk,
    connect,
    eventually,
    post,
    settle,
)

HI: dict[str, Any] = {"model": "gemini-2.5-flash", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
STREAM = json.dumps({**HI, "stream": True}).encode()
#: The paths of the same endpoint.
PATHS = ("/v1/messages", "/v1/messages?beta=true", "/anthropic/v1/messages", "//anthropic//v1/messages")
KEYED = '[[auth.keys]]\nname = "laptop"\nkey = "secret-key"\n'


async def ask(running: RunningGateway, path: str = "/v1/messages", headers: Any = None, **fields: Any) -> Answer:
    body = json.dumps({**HI, **fields}).encode()
    return await running.fetch("POST", path, body=body, headers=headers)


def event(text: str) -> bytes:
    """An event of Google's."""
    return b'data: {"candidates": [{"content": {"parts": [{"text": "%b"}]}}]}\r\n\r\n' % text.encode()


@pytest.mark.parametrize("path", PATHS)
@pytest_twisted.ensureDeferred
async def test_a_message(gateway: GatewayFactory, emulator: RunningEmulator, path: str) -> None:
    running = await gateway(emulator.account())
    answer = await ask(running, path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=UTF-8")
    assert answer.json["content"][0]["text"].startswith("You")
    assert answer.headers["request-id"] == answer.headers["x-agm-request-id"]
    (document,) = emulator.documents
    assert document["generationConfig"] == {"maxOutputTokens": 100, "thinkingConfig": {"thinkingBudget": 0}}


@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
@pytest_twisted.ensureDeferred
async def test_tokens_are_counted_upstream(gateway: GatewayFactory, emulator: RunningEmulator, kind: str) -> None:
    running = await gateway(emulator.account(kind=kind))
    body = json.dumps({"model": "gemini-2.5-flash", "messages": HI["messages"], "system": "Be brief."}).encode()
    answer = await running.fetch("POST", "/v1/messages/count_tokens", body=body)
    assert answer.status == 200, answer.body
    assert answer.json["input_tokens"] > 0
    assert [entry.path.rpartition(":")[2] for entry in emulator.log] == ["countTokens"]


@pytest_twisted.ensureDeferred
async def test_keys_in_the_headers_that_its_clients_have(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(KEYED + emulator.account(), auth_mode="strict")
    for headers in ({"x-api-key": "secret-key"}, {"Authorization": "Bearer secret-key"}):
        assert (await ask(running, headers=headers)).status == 200
    refused = await ask(running, headers={"x-api-key": "other"})
    assert (refused.status, refused.json["type"]) == (401, "error")
    assert refused.json["error"]["type"] == "authentication_error"
    assert refused.headers["request-id"]
    assert b"secret-key" not in b"".join(json.dumps(dict(entry.headers)).encode() for entry in emulator.log)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_errors_of_the_upstream(
    gateway: GatewayFactory, upstream: ScriptedUpstream, status: int, kind: str
) -> None:
    """The status is kept, the words as well, no account is named."""
    running = await gateway("[pool]\nmax_attempts = 1\n" + account(upstream))
    client = await connect(running.port)
    client.send(post("/v1/messages", json.dumps(HI).encode(), "Connection: close"))
    up = await upstream.connection()
    error = json.dumps({"error": {"code": status, "message": "that is why", "status": "X"}}).encode()
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(error))
    up.send(head + error)
    head, _, body = (await client.closed()).partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) == status
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": "that is why"}}
    if status == 429:
        assert b"retry-after: " in head.lower()


@pytest_twisted.ensureDeferred
async def test_errors_of_the_gateway(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """In the same form, each with what helps."""
    running = await gateway("[gateway]\nmax_body = 2000\n" + emulator.account())
    found = await ask(running, model="claude-opus-4-8")
    assert (found.status, found.json["error"]["type"]) == (404, "not_found_error")
    assert '[models.aliases] "claude-opus-4-8"' in found.json["error"]["message"]
    found = await ask(running, seed=1)
    assert (found.status, found.json["error"]["type"]) == (400, "invalid_request_error")
    assert found.json["error"]["message"].startswith("seed: ")
    found = await ask(running, thread={"type": "create"})
    assert found.json["error"]["details"]["error_code"] == "thread_unsupported_request"  # SDKs go on without one
    for path in ("/v1/messages", "/anthropic/v1/messages"):
        found = await ask(running, path, system="x" * 3000)
        assert (found.status, found.json["error"]["type"]) == (413, "request_too_large")
    found = await running.fetch("POST", "/v1/messages", body=b"{")
    assert (found.status, found.json["error"]["type"]) == (400, "invalid_request_error")
    found = await running.fetch("GET", "/v1/messages")
    assert (found.status, found.json["type"]) == (405, "error")
    assert not emulator.log


@pytest_twisted.ensureDeferred
async def test_without_accounts_it_says_what_to_do(gateway: GatewayFactory) -> None:
    running = await gateway("")
    found = await ask(running)
    assert (found.status, found.json["error"]["type"]) == (503, "overloaded_error")
    assert "agm account add" in found.json["error"]["message"]


@pytest_twisted.ensureDeferred
async def test_aliases_and_a_default_serve_other_names(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    settings = (
        '[models.aliases]\n"claude-haiku-*" = "gemini-2.5-flash-lite"\n[dialects]\ndefault_model = "gemini-2.5-pro"\n'
    )
    running = await gateway(settings + emulator.account())
    for asked_for, thinking in (("claude-haiku-4-5", 0), ("claude-opus-4-8", 128)):
        answer = await ask(running, model=asked_for)
        assert (answer.status, answer.json["model"]) == (200, asked_for)
        assert emulator.documents[-1]["generationConfig"]["thinkingConfig"] == {"thinkingBudget": thinking}
    assert [entry.model for entry in emulator.log] == ["gemini-2.5-flash-lite", "gemini-2.5-pro"]


@pytest_twisted.ensureDeferred
async def test_it_is_explained_with_both_bodies(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway('[models.aliases]\n"claude-*" = "gemini-2.5-pro"\n' + emulator.account())
    asked = {**HI, "model": "claude-opus-4-8", "thinking": {"type": "adaptive"}}
    found = await running.explain("claude-opus-4-8", dialect="anthropic", body=asked)
    assert found["dialect"]["name"] == "anthropic"
    assert found["dialect"]["body"] == asked
    config = found["upstream"]["body"]["generationConfig"]
    assert config["thinkingConfig"] == {"includeThoughts": True, "thinkingBudget": -1}
    assert not emulator.log


@pytest_twisted.ensureDeferred
async def test_what_a_schema_loses_is_told_in_a_header(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(emulator.account())
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"not": {}}}}}
    answer = await ask(running, tools=[tool])
    assert answer.headers["x-agm-left-out"] == "tools[0].input_schema/properties/a: not: Gemini has nothing for it"


@pytest.mark.parametrize(
    ("path", "headers", "form"),
    [
        ("/v1/models", {"anthropic-version": "2023-06-01", "Authorization": "Bearer k"}, "anthropic"),
        ("/v1/models", {"anthropic-version": "2023-06-01", "x-api-key": "k"}, "anthropic"),
        ("/anthropic/v1/models", {}, "anthropic"),
        ("/v1/models", {"x-api-key": "k"}, "google"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_models_in_the_form_of_whoever_asks(gateway: GatewayFactory, path: str, headers: Any, form: str) -> None:
    running = await gateway("")
    found = (await running.fetch("GET", path, headers=headers)).json
    assert ("has_more" in found) is (form == "anthropic")
    assert ("models" in found) is (form == "google")


@pytest_twisted.ensureDeferred
async def test_models_in_pages(gateway: GatewayFactory) -> None:
    running = await gateway('[models]\nlist = ["gemini-a", "gemini-b", "gemini-c"]')

    async def page(query: str) -> tuple[list[str], bool]:
        found = (await running.fetch("GET", f"/anthropic/v1/models?{query}")).json
        ids = [model["id"] for model in found["data"]]
        assert (found["first_id"], found["last_id"]) == (ids[0], ids[-1])
        return ids, found["has_more"]

    assert await page("") == (["gemini-a", "gemini-b", "gemini-c"], False)
    assert await page("limit=2") == (["gemini-a", "gemini-b"], True)
    assert await page("limit=2&after_id=gemini-a") == (["gemini-b", "gemini-c"], False)
    assert await page("limit=1&before_id=gemini-c") == (["gemini-b"], True)
    for query in ("limit=0", "limit=x", "after_id=nobody"):
        refused = await running.fetch("GET", f"/anthropic/v1/models?{query}")
        assert (refused.status, refused.json["type"]) == (400, "error")
    one = (await running.fetch("GET", "/anthropic/v1/models/gemini-b")).json
    assert (one["type"], one["id"]) == ("model", "gemini-b")
    missing = await running.fetch("GET", "/anthropic/v1/models/claude-1")
    assert (missing.status, missing.json["error"]["type"]) == (404, "not_found_error")


@pytest_twisted.ensureDeferred
async def test_a_dialect_that_is_off_is_not_there(gateway: GatewayFactory) -> None:
    running = await gateway("[dialects]\nanthropic = false")
    for path in PATHS:
        found = await ask(running, path)
        assert found.status == 404
    listed = await running.fetch("GET", "/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert "models" in listed.json


# -- Streams -----------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_an_event_goes_out_before_the_next_one_comes_in(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post("/v1/messages", STREAM))
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    await client.until(b'"delta":{"type":"text_delta","text":"one"}}\n\n')
    assert b"content-type: text/event-stream" in client.received.lower()
    assert b"message_stop" not in client.received
    up.send(chunk(event("two")))
    await client.until(b'"delta":{"type":"text_delta","text":"two"}}\n\n')
    up.send(b"0\r\n\r\n")
    await client.until(b'event: message_stop\ndata: {"type":"message_stop"}\n\n\r\n0\r\n\r\n')


@pytest.mark.parametrize("ending", ["cut", "garbage", "error"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_breaks_off_never_looks_complete(
    gateway: GatewayFactory, upstream: ScriptedUpstream, ending: str
) -> None:
    """It ends in an error event, and its connection without a last chunk."""
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post("/v1/messages", STREAM))
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    await client.until(b'"text":"one"')
    if ending == "cut":
        up.transport.abortConnection()
    elif ending == "garbage":
        up.send(chunk(b'data: {"candidates": 5}\r\n\r\n'))
    else:
        up.send(chunk(b'data: {"error": {"code": 503, "message": "too many", "status": "UNAVAILABLE"}}\r\n\r\n'))
    received = await client.closed()
    last = received.rstrip().splitlines()[-1]
    error = json.loads(last.partition(b"data: ")[2])
    assert error["type"] == "error"
    assert error["error"]["type"] == ("overloaded_error" if ending == "error" else "api_error")
    assert b"event: error\ndata: " in received
    assert b"message_stop" not in received
    assert not received.endswith(b"0\r\n\r\n")


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_upstreams_request(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post("/v1/messages", STREAM))
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    await client.until(b'"text":"one"')
    client.transport.abortConnection()
    await up.closed()
    await eventually(lambda: not any(running.gateway.pool.loads().values()), "the account given back")


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_holds_the_upstream_back(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """What lies in between stays small, however much the upstream has."""
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post("/v1/messages", STREAM))
    up = await upstream.connection()
    client.transport.pauseProducing()
    piece = chunk(event("x" * 65_000))
    up.send(SSE_HEAD)
    for number in range(1000):  # 65 MB in all
        up.send(piece)
        if number % 16 == 0:
            await settle(0)
    await settle(1.0)
    buffered = len(up.transport.dataBuffer) + up.transport._tempDataLen
    assert buffered > 32 * 1024 * 1024, "the gateway took more than two socket buffers full"
    client.transport.abortConnection()
    await up.closed()
