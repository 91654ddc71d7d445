"""A client's connection: what it gets although it sends early, reads late or leaves, and what it cannot take."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from agm import hookimpl
from agm.core.request import RequestRecord
from agm.net.stalls import Stalls
from agm.net.writes import buffered, unacked
from agm.testing import GatewayFactory, RunningGateway
from agm.web.channel import MAX_AHEAD, MAX_BUFFERED, GatewayChannel
from tests.helpers.support import (
    JSON_HEAD,
    ScriptedUpstream,
    Wire,
    account,
    connect,
    eventually,
    found_out_within,
    get,
    needs_keepalive,
    post,
    reactor,
    settle,
)

UNARY = "/v1beta/models/m:generateContent"
MIB = 1024 * 1024


def upload(running: RunningGateway, upstream: ScriptedUpstream, *, absolute: bool = False, length: int) -> bytes:
    """The head of a request with the bytes of an upload."""
    root: Any = running.site.resource
    token = root.owned.uploads.begin("a", f"{upstream.url}/up", running.gateway.wall())
    target = f"{running.url if absolute else ''}/upload/v1beta/files?upload_id={token}"
    return f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode()


async def channel_of(running: RunningGateway) -> GatewayChannel:
    """The only connection of a gateway."""
    await eventually(lambda: len(running.site.channels) == 1, "one connection")
    return next(iter(running.site.channels))


async def leave(client: Wire, running: RunningGateway) -> None:
    """End a client, and wait until the gateway has seen it."""
    client.transport.abortConnection()
    await eventually(lambda: not running.site.channels, "the client gone")


@needs_keepalive
@pytest.mark.parametrize("inherited", [False, True], ids=["tcp", "systemd"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_is_gone_is_found_out(gateway: GatewayFactory, inherited: bool) -> None:
    """Also behind a socket that the service manager has bound."""
    running = await gateway()
    port = running.port
    listening: Any = None
    if inherited:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            bound.setblocking(False)
            port = bound.getsockname()[1]
            listening = reactor.adoptStreamPort(bound.fileno(), socket.AF_INET, running.site)
    client = await connect(port)
    client.send(get("/healthz"))
    await client.until(b'{"status":"ok"}')
    assert (found_out_within((await channel_of(running)).transport) or 999) <= 120
    await leave(client, running)
    if listening is not None:
        await listening.stopListening()


class Big(Resource):
    """A page of a megabyte."""

    isLeaf = True
    text = b"x" * MIB

    def render_GET(self, request: Any) -> bytes:
        return self.text


class Pages:
    """A plugin with that page."""

    @hookimpl
    def agm_resources(self) -> dict[str, Any]:
        return {"big": Big()}


class Observer:
    """A plugin that keeps what is recorded of requests."""

    def __init__(self, ended: list[RequestRecord]) -> None:
        self._ended = ended

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        self._ended.append(record)


# What is sent early


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_who_asks_on_without_reading_gets_no_further_answer(gateway: GatewayFactory) -> None:
    """However many requests come ahead: the answers that wait for the client would fill the memory."""
    running = await gateway("", plugins=[Pages()])
    client = await connect(running.port)
    client.transport.pauseProducing()
    channel = await channel_of(running)
    ask = get("/big")
    count = MAX_AHEAD // len(ask) - 1
    client.send(ask * count)
    await eventually(lambda: buffered(channel.transport) > MAX_BUFFERED, "an answer that waits")
    await settle()
    assert buffered(channel.transport) < 2 * MIB
    client.keep = False
    client.transport.resumeProducing()
    await eventually(lambda: client.count > count * MIB, "all answers, once it reads", patience=30)
    client.keep = True
    client.send(get("/healthz", "Connection: close"))
    assert (await client.closed()).endswith(b'{"status":"ok"}')


@pytest_twisted.ensureDeferred
async def test_who_asks_for_more_than_is_kept_gets_the_answer_to_its_end(gateway: GatewayFactory) -> None:
    """A socket that is closed with bytes unread resets the connection, and what the client has not read is lost."""
    running = await gateway("", plugins=[Pages()])
    client = await connect(running.port)
    client.transport.pauseProducing()
    channel = await channel_of(running)
    client.send(get("/big") * 8)
    await eventually(lambda: buffered(channel.transport) > MAX_BUFFERED, "an answer that waits")
    for _ in range(64):
        client.send(get("/healthz") * 1000)
        await settle(0)
    client.transport.resumeProducing()
    received = await client.closed()
    assert client.lost is not None
    assert client.lost.check(ConnectionDone), client.lost
    heads = received.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert heads
    assert all(part.partition(b"\r\n\r\n")[2] == Big.text for part in heads)


@pytest_twisted.ensureDeferred
async def test_what_follows_the_last_request_does_not_cost_its_answer(gateway: GatewayFactory) -> None:
    running = await gateway("", plugins=[Pages()])
    client = await connect(running.port)
    client.transport.pauseProducing()
    client.send(get("/big", "Connection: close") + b"GET /more HTTP/1.1\r\n" * 100_000)
    await channel_of(running)
    await settle()
    client.transport.resumeProducing()
    received = await client.closed()
    assert client.lost is not None
    assert client.lost.check(ConnectionDone), client.lost
    assert received.endswith(Big.text)


@pytest_twisted.ensureDeferred
async def test_an_answer_that_says_close_is_the_last_although_the_body_came_in_time(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """It began before the body was complete, so the client was told that nothing can follow."""
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(upload(running, upstream, length=10) + b"first")
    await eventually(lambda: upstream.connections and b"first" in upstream.connections[0].received, "the first half")
    wire = upstream.connections[0]
    wire.send(JSON_HEAD + b"Content-Length: 8\r\n\r\n1234")
    await client.until(b"1234")
    assert b"Connection: close\r\n" in client.received
    client.send(b"other")
    channel = await channel_of(running)
    await eventually(lambda: channel._complete, "the second half")
    wire.send(b"5678")
    assert (await client.closed()).endswith(b"12345678")


# Time


@pytest_twisted.ensureDeferred
async def test_a_request_has_its_time_from_its_own_first_byte(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """Not from the answer before it: a client may come again at the last moment."""
    running = await gateway(account(upstream))
    clock = running.site.reactor = Clock()
    client = await connect(running.port)
    client.send(get("/healthz"))
    await client.until(b'"ok"')
    clock.advance(59)
    request = post(UNARY, b"{}")
    client.send(request[:-1])
    channel = await channel_of(running)
    await eventually(lambda: channel.request is not None, "the head")
    clock.advance(59)
    client.send(request[-1:])
    (await upstream.connection()).send(JSON_HEAD + b'Content-Length: 7\r\n\r\n{"a":1}')
    await client.until(b'{"a":1}')
    client.send(request[:-1])
    await eventually(lambda: channel.request is not None, "another head")
    clock.advance(61)
    assert b" 408 " in await client.closed()
    await eventually(lambda: not running.site.channels, "the connection gone")
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_client_is_not_blamed_for_what_it_was_not_let_send(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """While a slow upstream holds an upload back, its time does not run."""
    running = await gateway(account(upstream))
    clock = running.site.reactor = Clock()
    client = await connect(running.port)
    client.send(upload(running, upstream, length=64 * MIB))
    await eventually(lambda: upstream.connections and upstream.connections[0].received, "the head")
    wire = upstream.connections[0]
    wire.keep = False
    wire.transport.pauseProducing()
    client.send(b"x" * 64 * MIB)
    channel = await channel_of(running)
    assert channel.request is not None
    streamed = channel.request.streamed
    assert streamed is not None
    await eventually(lambda: streamed._paused, "the upload held back")
    clock.advance(3600)
    wire.transport.resumeProducing()
    await eventually(lambda: wire.count > 64 * MIB, "all bytes at the upstream")
    wire.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
    await client.until(b"{}")
    await leave(client, running)


@pytest.mark.parametrize("kind", ["api-key", "code-assist"], ids=["relayed", "whole"])
@pytest_twisted.ensureDeferred
async def test_who_reads_a_large_answer_slowly_is_not_cut_and_who_stops_is(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    """The kernel holds megabytes of it, and takes more only when a good part of them has gone."""
    running = await gateway(account(upstream, kind) + "[timeouts]\nclient_stall = 5\n")
    clock = running.site.reactor = running.gateway.reactor = Clock()
    running.gateway.stalls = Stalls(clock)
    client = await connect(running.port)
    client.keep = False
    client.transport.pauseProducing()
    client.send(post(UNARY, b"{}"))
    wire = await upstream.connection()
    body = b'{"response":{"a":"' + b"x" * 32 * MIB + b'"}}'
    wire.send(JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    channel = await channel_of(running)
    await eventually(lambda: any(0 < call.getTime() <= 5 for call in clock.getDelayedCalls()), "the client too slow")
    for _ in range(8):
        clock.pump([0.25] * 8)
        left = unacked(channel.transport)
        client.transport.resumeProducing()
        await eventually(lambda left=left: unacked(channel.transport) < left, "it reads")  # type: ignore[misc]
        client.transport.pauseProducing()
        await settle(0.02)
        clock.pump([0.25] * 10)
        assert running.site.channels
    assert buffered(channel.transport), "there is more to read"
    clock.pump([0.25] * 9)  # it is 4.75 seconds since it last read
    await settle(0.02)
    assert running.site.channels
    clock.pump([0.25] * 5)
    await eventually(lambda: not running.site.channels, "the client cut within a second")


@pytest_twisted.ensureDeferred
async def test_with_the_last_connection_its_request_has_ended(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """The gateway stops when the last connection has gone, and what it stops must have got all records by then."""
    ended: list[RequestRecord] = []
    running = await gateway(account(upstream), plugins=[Observer(ended)])
    client = await connect(running.port)
    client.send(post(UNARY, b"{}"))
    await upstream.connection()
    seen: list[int] = []
    drained = running.site.drain(60)

    async def wait() -> None:
        await drained
        seen.append(len(ended))

    waiting = Deferred.fromCoroutine(wait())
    client.transport.abortConnection()
    await waiting
    assert seen == [1]


# Who leaves


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_made_for_who_has_left_is_dropped(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """Without a word in the log: what is waited for here does not know for whom."""
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(get("/v1beta/models"))
    await eventually(lambda: upstream.connections and upstream.connections[0].received, "the account to be asked")
    await leave(client, running)


class Stubborn:
    """A plugin that waits, and does not heed that nobody waits for it any more."""

    def __init__(self) -> None:
        self.waiting: Deferred[None] = Deferred()

    @hookimpl
    async def agm_transform_request(self, body: dict[str, Any]) -> dict[str, Any]:
        with suppress(CancelledError):
            await self.waiting
        return body


@pytest_twisted.ensureDeferred
async def test_nothing_is_asked_for_who_has_left_although_a_plugin_goes_on(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    ended: list[RequestRecord] = []
    running = await gateway(account(upstream), plugins=[Stubborn(), Observer(ended)])
    client = await connect(running.port)
    client.send(post(UNARY, b"{}"))
    channel = await channel_of(running)
    await eventually(lambda: channel.request is not None, "the request")
    await leave(client, running)
    assert [record.outcome for record in ended] == ["cancelled"]
    assert not upstream.connections
    assert not any(running.gateway.pool.loads().values())


# Forms of requests


@pytest_twisted.ensureDeferred
async def test_an_upload_with_a_url_as_its_target_is_streamed(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """As it is with a path: RFC 9112 has servers take both."""
    running = await gateway(account(upstream) + '[gateway]\nmax_body = "1KiB"\n')
    client = await connect(running.port)
    client.send(upload(running, upstream, absolute=True, length=5000) + b"x" * 5000)
    wire = await upstream.connection()
    await eventually(lambda: wire.received.endswith(b"x" * 5000), "the whole body")
    wire.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
    await client.until(b"{}")
    await leave(client, running)


@pytest_twisted.ensureDeferred
async def test_health_with_a_url_as_its_target_is_told_while_the_gateway_stops(gateway: GatewayFactory) -> None:
    running = await gateway()
    running.site.draining = True
    client = await connect(running.port)
    client.send(get(f"{running.url}/healthz", "Connection: close"))
    assert (await client.closed()).endswith(b'{"status":"ok"}')


@pytest_twisted.ensureDeferred
async def test_what_is_refused_of_a_head_request_has_no_body(gateway: GatewayFactory) -> None:
    running = await gateway()
    running.site.draining = True
    client = await connect(running.port)
    client.send(get("/v1beta/models", method="HEAD"))
    received = await client.closed()
    assert received.startswith(b"HTTP/1.1 503 ")
    assert received.endswith(b"\r\n\r\n")
