"""What observers are told of a request: the account that served, tokens, and the reason to end, on every way."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from agm.api import RequestRecord, Usage, hookimpl
from agm.testing import GatewayFactory, RunningEmulator
from tests.helpers.support import JSON_HEAD, SSE_HEAD, ScriptedUpstream, chunk, connect, eventually, google_error, post

KINDS = ("api-key", "vertex", "code-assist")
TARGETS = {
    "unary": "/v1beta/models/m:generateContent",
    "sse": "/v1beta/models/m:streamGenerateContent?alt=sse",
    "array": "/v1beta/models/m:streamGenerateContent?alt=json",
}


class Observer:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)

    async def told(self, count: int = 1) -> RequestRecord:
        """The last record, once there are this many."""
        await eventually(lambda: len(self.records) >= count, "the record")
        return self.records[-1]


class Editor:
    """Edits every event, and hides its usage from the client."""

    @hookimpl
    def agm_transform_event(self, event: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in event.items() if name != "usageMetadata"}


def account(url: str, kind: str) -> str:
    credential = 'api_key = "k"' if kind == "api-key" else 'access_token = "t"\nproject = "p"'
    return f'[[accounts]]\nname = "a"\nkind = "{kind}"\n{credential}\nendpoints = ["{url}"]\n'


@pytest.mark.parametrize("edited", [False, True], ids=["as it comes", "edited"])
@pytest.mark.parametrize("framing", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_observers_are_told_what_the_upstream_counted(
    gateway: GatewayFactory, emulator: RunningEmulator, kind: str, framing: str, edited: bool
) -> None:
    """In every framing and of every kind, also of answers that pass unread, and whatever a plugin makes of them."""
    observer = Observer()
    plugins = [observer, Editor()] if edited else [observer]
    running = await gateway(emulator.account("work", kind), plugins=plugins)
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "tell me something"}]}]}).encode()
    answer = await running.fetch("POST", TARGETS[framing].replace("/m:", "/gemini-2.5-flash:"), body=body)
    assert answer.status == 200
    assert (b"usageMetadata" in answer.body) is not edited
    record = await observer.told()
    assert (record.account, record.finish_reason, record.outcome) == ("work", "STOP", "ok")
    assert record.usage is not None
    assert record.usage.prompt > 0
    assert record.usage.output > 0
    assert record.usage.total == record.usage.prompt + record.usage.output + record.usage.thoughts + record.usage.tool


@pytest.mark.parametrize("framing", ["sse", "array"])
@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_an_answer_that_breaks_off_is_recorded_with_what_it_had_told(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str, framing: str
) -> None:
    observer = Observer()
    running = await gateway(account(upstream.url, kind), plugins=[observer])
    client = await connect(running.port)
    client.send(post(TARGETS[framing]))
    up = await upstream.connection()
    event: dict[str, Any] = {"candidates": [{}], "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1}}
    document = json.dumps({"response": event} if kind == "code-assist" else event).encode()
    if framing == "sse" or kind == "code-assist":
        up.send(SSE_HEAD + chunk(b"data: " + document + b"\r\n\r\n"))
    else:
        up.send(JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"[" + document + b"\n,\r\n"))
    await client.until(b"usageMetadata")
    up.transport.loseConnection()
    record = await observer.told()
    assert (record.outcome, record.account, record.finish_reason) == ("aborted", "a", None)
    assert record.usage == Usage(prompt=9, output=1, total=10)


@pytest_twisted.ensureDeferred
async def test_what_takes_no_tokens_is_recorded_without(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Counting tokens uses none; a picture of predict tells of none, a text that it embeds does."""
    observer = Observer()
    running = await gateway(emulator.account("work", "vertex"), plugins=[observer])
    assert (await running.ask(method="countTokens")).status == 200
    assert (await observer.told()).usage is None
    answer = await running.ask("text-embedding-005", method="predict", body={"instances": [{"content": "some text"}]})
    assert answer.status == 200, answer.body
    usage = (await observer.told(2)).usage
    assert usage is not None
    assert usage.prompt == sum(it["embeddings"]["statistics"]["token_count"] for it in answer.json["predictions"])


@pytest_twisted.ensureDeferred
async def test_an_upstreams_error_is_recorded_with_its_account(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """The client got an account's answer, though it is an error; the gateway's own is nobody's."""
    observer = Observer()
    running = await gateway(account(upstream.url, "api-key"), plugins=[observer])
    client = await connect(running.port)
    client.send(post(TARGETS["unary"]))
    error = json.dumps(google_error(400, "INVALID_ARGUMENT")).encode()
    up = await upstream.connection()
    up.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(error), error))
    record = await observer.told()
    assert (record.status, record.outcome, record.account, record.usage) == (400, "error", "a", None)
    assert (await (await gateway("", plugins=[observer])).ask()).status == 503
    assert (await observer.told(2)).account is None
