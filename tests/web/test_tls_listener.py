"""A listener with TLS: clients see the same as without, and nobody waits for what they have no reason to say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import SSL4ClientEndpoint, SSL4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.task import Clock

from agm.app.listeners import ListenerService
from agm.testing import GatewayFactory, RunningGateway
from agm.web import site
from agm.web.site import SPARE_CONNECTIONS
from tests.helpers.support import Wire, connect, eventually, found_out_within, get, needs_keepalive, reactor
from tests.upstream.certificates import TestAuthority

AUTHORITY = TestAuthority()
Connect = Callable[[RunningGateway], Awaitable[Wire]]


@pytest_twisted.async_yield_fixture
async def connect_tls() -> AsyncIterator[Connect]:
    """A function that connects a client by TLS; the gateway listens for it from the first call on."""
    listeners: dict[int, tuple[ListenerService, int]] = {}
    trusted = optionsForClientTLS("127.0.0.1", Certificate.loadPEM(AUTHORITY.pem))

    async def make(running: RunningGateway) -> Wire:
        if running.port not in listeners:
            endpoint = SSL4ServerEndpoint(reactor, 0, AUTHORITY.server("127.0.0.1"), interface="127.0.0.1")
            listener = ListenerService(reactor, endpoint, "ssl:0", running.site)
            listener.privilegedStartService()
            await listener.bound
            scheme, _, number = running.gateway.live.listening[-1].rpartition(":")
            assert scheme == "https://127.0.0.1"
            listeners[running.port] = listener, int(number)
        _, number = listeners[running.port]
        return await connectProtocol(SSL4ClientEndpoint(reactor, "127.0.0.1", number, trusted), Wire())

    yield make
    for listener, _ in listeners.values():
        await maybeDeferred(listener.stopService)


async def served(client: Wire) -> None:
    """See a client served."""
    client.received = b""
    client.send(get("/healthz"))
    await client.until(b'{"status":"ok"}')


@needs_keepalive
@pytest_twisted.ensureDeferred
async def test_a_client_that_is_gone_is_found_out(gateway: GatewayFactory, connect_tls: Connect) -> None:
    running = await gateway()
    await served(await connect_tls(running))
    (channel,) = running.site.channels
    assert (found_out_within(channel.transport) or 999) <= 120


@pytest_twisted.ensureDeferred
async def test_requests_that_come_ahead_are_answered_in_turn(gateway: GatewayFactory, connect_tls: Connect) -> None:
    running = await gateway()
    client = await connect_tls(running)
    client.send(get("/healthz") + get("/nowhere") + get("/healthz", "Connection: close"))
    received = await client.closed()
    assert [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]] == [200, 404, 200]
    assert client.lost is not None
    assert client.lost.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_seen_by_who_sends_on(gateway: GatewayFactory, connect_tls: Connect) -> None:
    """And nothing is logged when the client closes then."""
    running = await gateway('[gateway]\nmax_body = "1KiB"\n')
    client = await connect_tls(running)
    client.send(b"POST /v1beta/models/m:generateContent HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999\r\n\r\n")
    client.send(b"x" * 4_000_000)
    received = await client.closed()
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"max_body" in received
    await eventually(lambda: not running.site.channels, "the connection gone")


@pytest_twisted.ensureDeferred
async def test_the_end_of_a_connection_does_not_wait_for_the_clients_word(
    gateway: GatewayFactory, connect_tls: Connect
) -> None:
    """Who keeps a connection for later does not read from it, and would hold up the stop of the gateway."""
    running = await gateway()
    idle, last = await connect_tls(running), await connect_tls(running)
    await served(idle)
    await served(last)
    idle.transport.pauseProducing()
    last.transport.pauseProducing()
    last.send(get("/healthz", "Connection: close"))
    await eventually(lambda: len(running.site.channels) == 1, "one connection closed")
    clock = running.site.reactor = Clock()  # no time passes
    await running.site.drain(60)
    assert not clock.getDelayedCalls()
    for client in (idle, last):
        client.transport.resumeProducing()
        await client.closed()
        assert client.lost is not None
        assert client.lost.check(ConnectionDone), "it was closed in good order"
    assert last.received.count(b"HTTP/1.1 200 ") == 2


@pytest_twisted.ensureDeferred
async def test_far_too_many_connections_are_closed_at_once(
    gateway: GatewayFactory, connect_tls: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word in the log but the warning."""
    monkeypatch.setattr(site, "SILENT_SECONDS", 3600.0)
    running = await gateway("[limits]\nconnections = 1\n")
    held = [await connect_tls(running) for _ in range(1 + SPARE_CONNECTIONS)]
    for client in held:
        await served(client)
    await (await connect_tls(running)).closed()
    await (await connect(running.port)).closed()
    for client in held:
        client.transport.abortConnection()
    await eventually(lambda: not running.site.channels, "no connection")
    again = await connect_tls(running)
    await served(again)
    again.transport.loseConnection()
    await again.closed()


@pytest_twisted.ensureDeferred
async def test_health_is_told_whoever_holds_the_connections(
    gateway: GatewayFactory, connect_tls: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who have not even begun to agree on keys among them."""
    monkeypatch.setattr(site, "SILENT_SECONDS", 3600.0)
    running = await gateway("[limits]\nconnections = 2\n")
    first = await connect_tls(running)
    await served(first)
    port = int(running.gateway.live.listening[-1].rpartition(":")[2])
    held = [first, *[await connect(port) for _ in range(1 + SPARE_CONNECTIONS)]]
    await eventually(lambda: len(running.site.channels) == 2 + SPARE_CONNECTIONS, "all connections")
    monkeypatch.setattr(site, "SILENT_SECONDS", 0.0)
    last = await connect_tls(running)
    await served(last)
    await first.closed()
    assert first.lost is not None
    assert first.lost.check(ConnectionDone), "it was closed in good order"
    for client in (*held[1:], last):
        client.transport.abortConnection()
    await eventually(lambda: not running.site.channels, "no connection")
