"""WebSockets to upstreams: the handshake in every way that it can go, and what comes before anybody takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from agm.core.network import Authorities, Network, Proxy
from agm.core.wire.websocket import Control, Event, Violation
from agm.upstream.client import HTTPUpstreamClient, UpstreamFailed
from agm.upstream.websocket import MAX_EARLY, Refused, UpstreamSocket
from tests.helpers.support import ScriptedUpstream, eventually, reactor, settle
from tests.helpers.websockets import accept
from tests.upstream.certificates import TestAuthority
from tests.upstream.proxying import ConnectProxy, SecureUpstream

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


class Receiver:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.broke: Violation | None = None
        self.lost = False

    def upstream_events(self, events: Sequence[Event]) -> None:
        self.events += events

    def upstream_broke(self, violation: Violation) -> None:
        self.broke = violation

    def upstream_lost(self) -> None:
        self.lost = True


@pytest.fixture
def client() -> HTTPUpstreamClient:
    return HTTPUpstreamClient(reactor, connect_timeout=5.0)


def opening(client: HTTPUpstreamClient, upstream: ScriptedUpstream, **options: Any) -> Deferred[UpstreamSocket]:
    headers = [(b"x-goog-api-key", b"canary"), (b"Host", b"other"), (b"User-Agent", b"agm")]
    given = {"timeout": 5.0, "max_message": 1000, **options}
    return Deferred.fromCoroutine(client.open_socket(f"{upstream.url}/ws/x", headers, **given))


@pytest_twisted.ensureDeferred
async def test_a_handshake_is_one_request_with_one_host(client: HTTPUpstreamClient, upstream: ScriptedUpstream) -> None:
    asked = opening(client, upstream)
    peer = await accept(upstream)
    socket = await asked
    head = peer.wire.received
    assert head.startswith(b"GET /ws/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert head.count(b"Host:") == 1
    assert b"\r\nx-goog-api-key: canary\r\nUser-Agent: agm\r\n\r\n" in head
    receiver = Receiver()
    peer.say(b"early")
    await settle(0.05)
    socket.deliver(receiver)
    await eventually(lambda: receiver.events == [b"\x82\x05early"], "what came early")
    socket.write_frame(2, b"hello")
    assert await peer.message() == b"hello"
    peer.ping(b"p")
    await eventually(lambda: receiver.events[-1] == Control(9, b"p"), "a ping")
    peer.wire.transport.loseConnection()
    await eventually(lambda: receiver.lost, "the end")
    await client.close()


@pytest_twisted.ensureDeferred
async def test_frames_may_come_with_the_answer_to_the_handshake(
    client: HTTPUpstreamClient, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agm.upstream.websocket.accept_of", lambda key: b"right")
    asked = opening(client, upstream)
    wire = await upstream.connection()
    wire.send(HEAD + b"Sec-WebSocket-Accept: right\r\n\r\n\x82\x02hi")
    socket = await asked
    receiver = Receiver()
    socket.deliver(receiver)
    assert receiver.events == [b"\x82\x02hi"]
    wire.send(b"\x82\x82")  # masked
    await eventually(lambda: receiver.broke is not None, "a violation")
    assert receiver.broke is not None
    assert receiver.broke.code == 1002
    socket.abort()
    await client.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HEAD + b"Sec-WebSocket-Accept: wrong\r\n\r\n", "BROKEN_ANSWER"),
        (HEAD.replace(b"websocket", b"h2c") + b"Sec-WebSocket-Accept: right\r\n\r\n", "BROKEN_ANSWER"),
        (
            HEAD + b"Sec-WebSocket-Accept: right\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            "BROKEN_ANSWER",
        ),
        (HEAD + b"\r\n", "BROKEN_ANSWER"),
        (HEAD + b"X: " + b"y" * 70_000, "BROKEN_ANSWER"),
        (b"SSH-2.0-OpenSSH\r\n", "PROTOCOL_ERROR"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_grants_nothing_is_no_session(
    client: HTTPUpstreamClient, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, answer: bytes, reason: str
) -> None:
    monkeypatch.setattr("agm.upstream.websocket.accept_of", lambda key: b"right")
    asked = opening(client, upstream)
    wire = await upstream.connection()
    wire.send(answer)
    with pytest.raises(UpstreamFailed) as caught:
        await asked
    assert caught.value.reason == reason
    await wire.closed()
    await client.close()


@pytest.mark.parametrize("cut", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_refusal_has_its_status_its_headers_and_its_body(
    client: HTTPUpstreamClient, upstream: ScriptedUpstream, cut: bool
) -> None:
    """Also one that breaks off: the status is enough."""
    asked = opening(client, upstream)
    wire = await upstream.connection()
    wire.send(b'HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 20\r\n\r\n{"error": {')
    await settle(0.02)
    if cut:
        wire.transport.loseConnection()
    else:
        wire.send(b'"a": 1}}')
        wire.send(b" ")
    with pytest.raises(Refused) as caught:
        await asked
    assert (caught.value.status, caught.value.headers[b"retry-after"]) == (429, b"7")
    assert caught.value.body.startswith(b'{"error": {')
    await wire.closed()
    await client.close()


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_drops_or_says_nothing(client: HTTPUpstreamClient, upstream: ScriptedUpstream) -> None:
    asked = opening(client, upstream)
    wire = await upstream.connection()
    wire.transport.loseConnection()
    with pytest.raises(UpstreamFailed) as caught:
        await asked
    assert caught.value.reason == "CONNECTION_LOST"
    asked = opening(client, upstream, timeout=0.1)
    silent = await upstream.connection(1)
    with pytest.raises(UpstreamFailed) as caught:
        await asked
    assert caught.value.reason == "FIRST_BYTE_TIMEOUT"
    await silent.closed()
    asked = opening(client, upstream)
    left = await upstream.connection(2)
    asked.cancel()
    with pytest.raises(CancelledError):
        await asked
    await left.closed()
    await client.close()


@pytest_twisted.ensureDeferred
async def test_what_nobody_takes_is_held_back_in_bounds(client: HTTPUpstreamClient, upstream: ScriptedUpstream) -> None:
    asked = opening(client, upstream, max_message=2**20)
    peer = await accept(upstream)
    socket = await asked
    for _ in range(128):
        peer.say(b"x" * 65536)
    await settle(0.2)
    held = sum(len(event) for event in socket._early if isinstance(event, bytes))
    assert MAX_EARLY < held < 2 * MAX_EARLY
    receiver = Receiver()
    socket.deliver(receiver)
    await eventually(
        lambda: sum(len(e) for e in receiver.events if isinstance(e, bytes)) > 128 * 65536, "all of it", patience=20
    )
    socket.abort()
    await client.close()


@pytest_twisted.ensureDeferred
async def test_a_header_or_a_url_that_cannot_be_written_is_refused(client: HTTPUpstreamClient) -> None:
    for url, headers in (("http://127.0.0.1:1/a b", []), ("http://127.0.0.1:1/", [(b"X", b"a\r\nb: c")])):
        with pytest.raises(ValueError, match="holds a"):
            await client.open_socket(url, headers, timeout=1.0, max_message=1)
    await client.close()


@pytest_twisted.ensureDeferred
async def test_a_session_goes_through_a_proxy_and_over_tls() -> None:
    """As every other request: the proxy sees where it goes, and nothing of it."""
    ours = TestAuthority("ours")
    upstream = SecureUpstream(ours.server("gemini.test"), "gemini.test")
    proxy = ConnectProxy(upstream.port)
    network = Network(Proxy.parse(f"http://127.0.0.1:{proxy.port}"), Authorities("ours.pem", ours.pem))
    client = HTTPUpstreamClient(reactor, connect_timeout=5.0, network=network)
    asked = opening(client, upstream)
    peer = await accept(upstream)
    socket = await asked
    receiver = Receiver()
    socket.deliver(receiver)
    socket.write_frame(2, b"up")
    assert await peer.message() == b"up"
    peer.say(b"down")
    await eventually(lambda: receiver.events == [b"\x82\x04down"], "a frame")
    (tunnel,) = proxy.tunnels
    assert tunnel.head.startswith(f"CONNECT gemini.test:{upstream.port} HTTP/1.1\r\n".encode())
    assert b"canary" not in tunnel.through
    socket.abort()
    await peer.wire.closed()
    await client.close()
    await proxy.stop()
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_be_verified_gets_no_session() -> None:
    upstream = SecureUpstream(TestAuthority("somebody's").server("localhost"))
    client = HTTPUpstreamClient(reactor, connect_timeout=5.0)
    with pytest.raises(UpstreamFailed) as caught:
        await opening(client, upstream)
    assert caught.value.reason == "TLS_FAILED"
    await client.close()
    await upstream.stop()
