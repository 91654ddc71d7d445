"""Calls from within the process: the same way as a client's, with its stream, its backpressure and its record."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from agm import hookimpl
from agm.core.client_keys import ClientKey
from agm.core.errors import BadUpstreamAnswer, Forbidden, TooManyRequests
from agm.core.request import RequestRecord
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import ModelCall
from agm.serving.inprocess import Answer, serve
from agm.serving.prepare import InboundCall
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway, parse_config
from tests.helpers.support import SSE_HEAD, ScriptedUpstream, account, chunk, eventually, settle

BODY = b'{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}'


class Recorder:
    """Keeps the records of requests that have ended."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)


def inbound(model: str = "m", method: str = "streamGenerateContent", key: ClientKey | None = None) -> InboundCall:
    return InboundCall(
        id="inside-1",
        path="/v1/chat/completions",
        call=ModelCall("v1beta", model, method),
        framing=Framing.SSE if method == "streamGenerateContent" else Framing.UNARY,
        query={},
        headers={},
        key=key,
        body=BODY,
        received_at=0.0,
    )


def asking(running: RunningGateway, call: InboundCall) -> Deferred[Answer]:
    return Deferred.fromCoroutine(serve(running.gateway.calls, call))


def event(text: str) -> bytes:
    return b'data: {"text":"%b"}\r\n\r\n' % text.encode()


@pytest_twisted.ensureDeferred
async def test_the_events_come_one_by_one_and_the_record_says_how_it_ended(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    recorder = Recorder()
    running = await gateway(account(upstream), plugins=[recorder])
    serving = asking(running, inbound())
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    answer = await serving
    assert answer.status == 200
    assert await answer.__anext__() == event("one")
    following = Deferred.fromCoroutine(answer.__anext__())
    assert not following.called
    up.send(chunk(event("two")))
    assert await following == event("two")
    assert running.gateway.live.totals()["streams"] == 1
    up.send(b"0\r\n\r\n")
    assert [piece async for piece in answer] == []
    answer.close()
    (record,) = recorder.records
    assert (record.outcome, record.status, record.account) == ("ok", 200, "a")
    assert record.sent == len(event("one")) * 2
    assert (record.request.path, record.request.model) == ("/v1/chat/completions", "m")
    assert running.gateway.live.totals()["open"] == 0


@pytest_twisted.ensureDeferred
async def test_the_upstream_is_read_no_faster_than_the_answer_is_taken(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """What is held is what was on its way when the reading stopped, and not the whole answer."""
    running = await gateway(account(upstream))
    serving = asking(running, inbound())
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    answer: Any = await serving
    size, count = 64 * 1024, 512
    for _ in range(count):
        up.send(chunk(event("x" * size)))
    up.send(b"0\r\n\r\n")
    await settle()
    assert answer.paused
    assert sum(map(len, answer._chunks)) < size * 8
    assert sum([len(piece) async for piece in answer]) == len(event("one")) + count * len(event("x" * size))


@pytest_twisted.ensureDeferred
async def test_an_answer_that_breaks_off_does_not_look_complete(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    recorder = Recorder()
    running = await gateway(account(upstream), plugins=[recorder])
    serving = asking(running, inbound())
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    answer = await serving
    assert await answer.__anext__() == event("one")
    up.transport.abortConnection()
    with pytest.raises(BadUpstreamAnswer, match="aborted the answer"):
        await answer.__anext__()
    answer.close()
    assert [record.outcome for record in recorder.records] == ["aborted"]


@pytest_twisted.ensureDeferred
async def test_closing_it_ends_the_upstreams_work(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    recorder = Recorder()
    running = await gateway(account(upstream), plugins=[recorder])
    serving = asking(running, inbound())
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    (await serving).close()
    await up.closed()
    assert [record.outcome for record in recorder.records] == ["cancelled"]
    assert running.gateway.pool.loads() == {"a": 0}


@pytest_twisted.ensureDeferred
async def test_cancelling_it_before_its_first_byte_ends_the_upstreams_work(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    recorder = Recorder()
    running = await gateway(account(upstream), plugins=[recorder])
    serving = asking(running, inbound())
    up = await upstream.connection()
    serving.cancel()
    with pytest.raises(CancelledError):
        await serving
    await up.closed()
    assert [record.outcome for record in recorder.records] == ["cancelled"]
    assert running.gateway.pool.loads() == {"a": 0}


@pytest_twisted.ensureDeferred
async def test_an_error_of_the_upstreams_is_an_answer(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(emulator.account("a"))
    answer = await serve(running.gateway.calls, inbound("emu-400", "generateContent"))
    assert answer.status == 400
    (body,) = [piece async for piece in answer]
    assert json.loads(body)["error"]["code"] == 400


@pytest_twisted.ensureDeferred
async def test_a_client_key_is_held_to_its_models_and_streams(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway("[limits]\nstreams_per_key = 1\n" + account(upstream))
    key = ClientKey("team", "", models=("m",))
    with pytest.raises(Forbidden):
        await serve(running.gateway.calls, inbound("other", key=key))
    serving = asking(running, inbound(key=key))
    up = await upstream.connection()
    up.send(SSE_HEAD + chunk(event("one")))
    answer = await serving
    with pytest.raises(TooManyRequests):
        await serve(running.gateway.calls, inbound(key=key))
    answer.close()
    again = asking(running, inbound(key=key))
    await eventually(lambda: len(upstream.connections) == 2, "another attempt")
    again.cancel()
    with pytest.raises(CancelledError):
        await again


@pytest_twisted.ensureDeferred
async def test_a_request_goes_on_with_the_configuration_that_it_began_with(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """The next one has the new one."""
    once = "[pool]\nmax_attempts = 1\n" + account(upstream) + account(upstream, name="b")
    running = await gateway(once)
    unavailable = b"HTTP/1.1 503 Unavailable\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    serving = asking(running, inbound())
    up = await upstream.connection()
    await running.gateway.reload(parse_config(once.replace("max_attempts = 1", "max_attempts = 2")))
    up.send(unavailable)
    assert (await serving).status == 503
    assert len(upstream.connections) == 1
    again = asking(running, inbound())
    await eventually(lambda: up.received.count(b"POST ") == 2 or len(upstream.connections) == 2, "another request")
    asked = up if up.received.count(b"POST ") == 2 else await upstream.connection(1)
    asked.send(unavailable)
    await eventually(lambda: sum(wire.received.count(b"POST ") for wire in upstream.connections) == 3, "another try")
    again.cancel()
    with pytest.raises(CancelledError):
        await again
