"""The real treq over the gateway's connections: whoever asks seldom, and plugins, have it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import Deferred

from agm.core.network import Network
from agm.testing import GatewayFactory
from agm.upstream.client import HTTPUpstreamClient, UpstreamFailed
from tests.helpers.support import ScriptedUpstream, eventually, reactor

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
COOKIE = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=canary-cookie; Path=/\r\n\r\n")


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[ScriptedUpstream]:
    """An upstream that says what it is told to."""
    running = ScriptedUpstream()
    yield running
    await running.stop()


@pytest_twisted.async_yield_fixture
async def client() -> AsyncIterator[HTTPUpstreamClient]:
    """The gateway's client."""
    made = HTTPUpstreamClient(reactor, connect_timeout=5)
    yield made
    await made.close()


@pytest_twisted.ensureDeferred
async def test_it_is_treqs_own_and_keeps_no_cookie(client: HTTPUpstreamClient, server: ScriptedUpstream) -> None:
    http = client.treq()
    assert type(http) is treq.client.HTTPClient
    first = http.post(f"{server.url}/x", json={"a": [1]})
    wire = await server.connection()
    await wire.until(b'{"a":[1]}')
    assert b"\r\nContent-Type: application/json" in wire.received
    assert b"\r\nAccept-Encoding: identity\r\n" in wire.received
    wire.send(COOKIE)
    assert await treq.content(await first) == b"ok"
    before = len(wire.received)
    second = http.get(f"{server.url}/y")
    await eventually(lambda: wire.received.endswith(b"\r\n\r\n") and len(wire.received) > before, "the next request")
    assert b"canary-cookie" not in wire.received
    wire.send(OK)
    assert await (await second).text() == "ok"


@pytest_twisted.ensureDeferred
async def test_it_follows_a_redirect_unless_told_not_to(client: HTTPUpstreamClient, server: ScriptedUpstream) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    asking: Deferred[Any] = client.treq().get(f"{server.url}/here")
    wire = await server.connection()
    await wire.until(b"\r\n\r\n")
    wire.send(moved)
    await wire.until(b"GET /there HTTP/1.1\r\n")
    wire.send(OK)
    assert (await asking).code == 200
    asking = client.treq().get(f"{server.url}/here", allow_redirects=False)
    await eventually(lambda: wire.received.count(b"GET /here") == 2, "the next request")
    wire.send(moved)
    assert (await asking).code == 302


@pytest_twisted.ensureDeferred
async def test_a_client_outlives_a_change_of_the_network(client: HTTPUpstreamClient, server: ScriptedUpstream) -> None:
    """A plugin keeps it for as long as the gateway runs."""
    http = client.treq()
    first = http.get(server.url)
    wire = await server.connection()
    await wire.until(b"\r\n\r\n")
    wire.send(OK)
    assert (await first).code == 200
    client.default_to(Network(None))
    second = http.get(server.url)
    wire = await server.connection(1)
    await wire.until(b"\r\n\r\n")
    wire.send(OK)
    assert (await second).code == 200


@pytest_twisted.ensureDeferred
async def test_what_is_fetched_is_read_whole_within_its_limits(
    client: HTTPUpstreamClient, server: ScriptedUpstream
) -> None:
    asking = Deferred.fromCoroutine(client.fetch("GET", server.url, [(b"X-One", b"1")], timeout=5, limit=1))
    wire = await server.connection()
    await wire.until(b"\r\nX-One: 1\r\n")
    wire.send(OK.replace(b"\r\n\r\n", b"\r\nRetry-After: 7\r\n\r\n"))
    answer = await asking
    assert (answer.status, answer.header("retry-after"), answer.header("x"), answer.body) == (200, "7", None, b"o")
    assert "ok" not in repr(answer)


@pytest.mark.parametrize(("sent", "reason"), [(b"", "FIRST_BYTE_TIMEOUT"), (OK[:-1], "ANSWER_TIMEOUT")])
@pytest_twisted.ensureDeferred
async def test_what_does_not_come_in_time_is_a_failure_and_its_connection_is_closed(
    client: HTTPUpstreamClient, server: ScriptedUpstream, sent: bytes, reason: str
) -> None:
    asking = Deferred.fromCoroutine(client.fetch("GET", server.url, [], timeout=0.2, limit=100))
    wire = await server.connection()
    wire.send(sent)
    with pytest.raises(UpstreamFailed) as refused:
        await asking
    assert refused.value.reason == reason
    await wire.closed()


@pytest_twisted.ensureDeferred
async def test_plugins_have_it_from_the_gateway(gateway: GatewayFactory, server: ScriptedUpstream) -> None:
    running = await gateway()
    asking = running.gateway.http.get(f"{server.url}/status")
    wire = await server.connection()
    await wire.until(b"GET /status HTTP/1.1\r\n")
    wire.send(OK)
    assert await (await asking).text() == "ok"
