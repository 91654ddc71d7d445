"""Calls from within the process: the same way as a client's, with its stream, its backpressure and its record."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from agm import hookimpl
from agm.api import ApiResource, InvalidRequest, Site, Visit
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


# As plugins call it


class Dialect(ApiResource):
    """Answers with what a call of a model gives: an event a line."""

    methods = ("POST",)

    async def respond(self, visit: Visit) -> None:
        answer = await self.gateway.call(
            "m", {"contents": [{"parts": [{"text": "hi"}]}]}, method="streamGenerateContent", visit=visit
        )
        visit.wire.start(answer.status, [])
        async for document in answer.events():
            visit.wire.write(json.dumps(document).encode() + b"\n")
        visit.wire.finish()


class Dialects:
    @hookimpl
    def agm_resources(self, site: Site) -> Any:
        return {"dialect": Dialect(site.gateway, site.access)}


KEYS = """
[auth]
mode = "strict"
[[auth.keys]]
name = "team"
key = "team-key"
requests_per_minute = 1
"""


@pytest_twisted.ensureDeferred
async def test_a_dialect_of_a_plugins_counts_once_and_is_one_row_with_the_clients_id(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    recorder = Recorder()
    running = await gateway(KEYS + emulator.account("a"), plugins=[recorder, Dialects()])
    found = await running.fetch("POST", "/dialect", headers={"x-goog-api-key": "team-key"}, body=b"{}")
    assert found.status == 200
    documents = [json.loads(line) for line in found.body.splitlines()]
    assert len(documents) > 1
    assert "usageMetadata" in documents[-1]
    (record,) = recorder.records
    assert record.request.id == found.headers["x-agm-request-id"]
    assert (record.request.client_key, record.request.path, record.request.parent) == ("team", "/dialect", None)
    assert record.usage is not None
    refused = await running.fetch("POST", "/dialect", headers={"x-goog-api-key": "team-key"}, body=b"{}")
    assert refused.status == 429, "the one before has used the limit up, and no more than that"


class Shadow:
    """Makes a call for each request that has ended, and forgets to look whether that was such a call."""

    def __init__(self) -> None:
        self.gateway: Any = None
        self.statuses: list[int] = []
        self.refused: list[Exception] = []

    @hookimpl
    async def agm_request_finished(self, record: RequestRecord) -> None:
        try:
            answer = await self.gateway.call("shadow", record.request.body.raw, parent=record.request)
            self.statuses.append(answer.status)
            answer.close()
        except InvalidRequest as e:
            self.refused.append(e)


@pytest_twisted.ensureDeferred
async def test_a_call_for_a_request_has_its_parents_id_is_not_counted_again_and_makes_none_for_itself(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    recorder, shadow = Recorder(), Shadow()
    running = await gateway(KEYS + emulator.account("a"), plugins=[recorder, shadow])
    shadow.gateway = running.gateway
    assert (await running.ask("m", key="team-key")).status == 200
    await eventually(lambda: shadow.refused, "the refusal of a call for the call")
    mine, its = sorted(recorder.records, key=lambda record: record.request.parent is not None)
    assert shadow.statuses == [200]
    assert (its.request.parent, its.request.client_key, its.request.model) == (mine.request.id, "team", "shadow")
    assert its.request.id != mine.request.id
    assert len(emulator.log) == 2
    latest = running.gateway.live.latest()
    assert {row["id"]: row["parent"] for row in latest} == {mine.request.id: None, its.request.id: mine.request.id}
    assert mine.usage is not None
    assert its.usage is not None
    assert running.gateway.clients.allowances.today("team")[0] == 1


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"method": "sing"}, "no method 'sing'"),
        ({"version": "v9"}, "no version 'v9'"),
        ({"model": "models/"}, "the name of a model"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_call_that_cannot_be_made_is_refused_in_words(
    gateway: GatewayFactory, given: dict[str, Any], what: str
) -> None:
    running = await gateway()
    with pytest.raises(InvalidRequest, match=what):
        await running.gateway.call(**{"model": "m", "body": b"{}", **given})


@pytest_twisted.ensureDeferred
async def test_a_call_of_the_gateways_own_is_read_whole(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(emulator.account("a"))
    answer = await running.gateway.call("models/m", BODY)
    assert (answer.status, answer.account) == (200, "a")
    assert "candidates" in await answer.json()
    assert running.gateway.pool.loads() == {"a": 0}
