"""Whom the client believes, that it says nothing to anybody else, and that TLS cut short is never a whole answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.python.failure import Failure
from twisted.web.http import PotentialDataLoss

from agm.core.network import Authorities, Network
from agm.net.trust import certificates_in, policy_of
from agm.upstream.agent import Http1Agent
from agm.upstream.client import HTTPUpstreamClient, UpstreamFailed
from agm.upstream.errors import TruncatedAnswer
from agm.upstream.pool import ConnectionPool
from tests.helpers.support import ScriptedUpstream, chunk, eventually, reactor
from tests.upstream.certificates import TestAuthority
from tests.upstream.proxying import SecureUpstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OURS, THEIRS = TestAuthority("ours"), TestAuthority("theirs")
TRUSTING = Network("none", Authorities("ours.pem", OURS.pem))

Starts = Callable[..., SecureUpstream]


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[Starts]:
    """Starts upstreams behind TLS."""
    started: list[SecureUpstream] = []

    def start(options: CertificateOptions, host: str = "localhost") -> SecureUpstream:
        started.append(SecureUpstream(options, host))
        return started[-1]

    yield start
    for each in started:
        await each.stop()


def client(network: Network = TRUSTING, timeout: float = 5) -> HTTPUpstreamClient:
    return HTTPUpstreamClient(reactor, connect_timeout=timeout, network=network)


async def ask(client: HTTPUpstreamClient, url: str) -> Any:
    return await client.send("POST", f"{url}/x", ((b"x-goog-api-key", b"canary"),), b"canary", timeout=5)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_a_server_of_the_authority_that_was_added_is_talked_to(upstream: Starts, host: str) -> None:
    """By its name, and by its address if the certificate is for that."""
    server = upstream(OURS.server(host), host)
    asking = client()
    answering = Deferred.fromCoroutine(ask(asking, server.url))
    wire = await server.connection()
    assert b"canary" in wire.received
    wire.send(OK)
    assert await (await answering).read(10) == b"ok"
    await asking.close()


@pytest_twisted.ensureDeferred
async def test_the_end_of_a_connection_does_not_wait_for_the_servers_word(upstream: Starts) -> None:
    """One that never says that nothing follows would keep a descriptor for ever."""
    server = upstream(OURS.server("localhost"))
    asking = client()
    answering = Deferred.fromCoroutine(ask(asking, server.url))
    wire = await server.connection()
    wire.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    wire.transport.pauseProducing()
    assert await (await answering).read(10) == b"ok"
    await eventually(lambda: not asking.connections(), "the connection closed")
    wire.transport.resumeProducing()
    await wire.closed()
    await asking.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda: OURS.server("other.example"), "for another name"),
        (lambda: OURS.server("127.0.0.1"), "for another name"),
        (lambda: OURS.server("localhost", since=-3, until=-1), "cannot be verified"),
        (lambda: OURS.server("localhost", since=1, until=3), "cannot be verified"),
        (lambda: OURS.server("localhost", self_signed=True), "cannot be verified"),
        (lambda: THEIRS.server("localhost"), "cannot be verified"),
    ],
    ids=["wrong name", "address for a name", "expired", "not valid yet", "self-signed", "unknown authority"],
)
@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_be_believed_gets_nothing(
    upstream: Starts, options: Callable[[], CertificateOptions], words: str
) -> None:
    """Not a byte of the request has been decrypted there when the attempt is over, and its connection is closed."""
    server = upstream(options())
    with pytest.raises(UpstreamFailed, match=words) as caught:
        await ask(client(), server.url)
    assert caught.value.reason == "TLS_FAILED"
    assert "localhost" not in str(caught.value)
    await eventually(lambda: server.connections and all(wire.lost is not None for wire in server.connections))
    assert [wire.received for wire in server.connections] == [b""]


@pytest_twisted.ensureDeferred
async def test_without_the_authority_the_same_server_is_not_believed(upstream: Starts) -> None:
    """It is the file that makes the difference, and nothing else."""
    server = upstream(OURS.server("localhost"))
    with pytest.raises(UpstreamFailed, match="see ca_file") as caught:
        await ask(client(Network("none")), server.url)
    assert caught.value.reason == "TLS_FAILED"


@pytest_twisted.ensureDeferred
async def test_the_platforms_authorities_stay(upstream: Starts, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Those of a file are believed beside them, not in their place."""
    (tmp_path / "platform.pem").write_bytes(THEIRS.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "platform.pem"))
    asking = client()
    for authority in (OURS, THEIRS):
        server = upstream(authority.server("localhost"))
        answering = Deferred.fromCoroutine(ask(asking, server.url))
        (await server.connection()).send(OK)
        assert (await answering).status == 200
    await asking.close()


@pytest_twisted.ensureDeferred
async def test_a_connection_is_not_shared_between_accounts_that_trust_differently(upstream: Starts) -> None:
    """One that was opened under another policy would skip the verification."""
    server = upstream(OURS.server("localhost"))
    asking = client(Network("none"))
    for _ in range(2):
        answering = Deferred.fromCoroutine(asking.send("GET", server.url, (), None, timeout=5, network=TRUSTING))
        wire = await server.connection()
        wire.send(OK)
        assert await (await answering).read(10) == b"ok"
    assert len(server.connections) == 1, "the connection is kept"
    with pytest.raises(UpstreamFailed) as caught:
        await asking.send("GET", server.url, (), None, timeout=5)
    assert caught.value.reason == "TLS_FAILED"
    await asking.close()


@pytest_twisted.ensureDeferred
async def test_a_changed_default_leaves_no_connection_behind(upstream: Starts) -> None:
    """After a reload without the authority, a server is not believed because it once was."""
    server = upstream(OURS.server("localhost"))
    asking = client()
    answering = Deferred.fromCoroutine(ask(asking, server.url))
    first = await server.connection(0)  # now it is clear whose it is: handshakes may overtake each other
    under_way = Deferred.fromCoroutine(ask(asking, server.url))
    second = await server.connection(1)
    first.send(OK)
    assert await (await answering).read(10) == b"ok"
    asking.default_to(Network("none"))
    with pytest.raises(UpstreamFailed):
        await ask(asking, server.url)
    second.send(OK)
    assert await (await under_way).read(10) == b"ok", "what is under way comes to its end"
    await eventually(lambda: all(wire.lost is not None for wire in server.connections))


@pytest_twisted.ensureDeferred
async def test_a_handshake_that_hangs_is_over_with_the_time_for_connecting() -> None:
    """The server takes the connection and says nothing; another account may be tried."""
    server = ScriptedUpstream()
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client(timeout=0.3), server.url.replace("http://127.0.0.1", "https://localhost"))
    assert caught.value.reason == "CONNECT_TIMEOUT"
    await server.connections[0].closed()
    assert b"canary" not in server.connections[0].received
    await server.stop()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["closes", "speaks plain HTTP"])
@pytest_twisted.ensureDeferred
async def test_a_handshake_that_is_cut_counts_as_not_reached(answer: bytes) -> None:
    """Nothing was sent, so that it must not look like a request that was."""
    server = ScriptedUpstream()
    asking = Deferred.fromCoroutine(ask(client(), server.url.replace("http://127.0.0.1", "https://localhost")))
    await eventually(lambda: server.connections and server.connections[0].received)
    server.connections[0].send(answer)
    server.connections[0].transport.loseConnection()
    with pytest.raises(UpstreamFailed) as caught:
        await asking
    assert caught.value.reason == "TLS_FAILED"
    await server.stop()


class Body(Protocol):
    """A body; `end` is why it ended."""

    received = b""
    end: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end = reason


HEADS = {
    "until the end": b"HTTP/1.1 200 OK\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "of a length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
}


@pytest.mark.parametrize("framing", HEADS)
@pytest.mark.parametrize("end", ["without close_notify", "with a reset"])
@pytest_twisted.ensureDeferred
async def test_tls_that_ends_abruptly_is_a_truncation(upstream: Starts, framing: str, end: str) -> None:
    """An attacker on the way can end a connection, and must not be able to shorten an answer by it."""
    server = upstream(OURS.server("localhost"))
    connections = ConnectionPool(reactor, policy_of(TRUSTING.authorities), 5)
    answering = Http1Agent(connections).request(b"GET", server.url.encode())
    wire = await server.connection()
    wire.send(HEADS[framing] + (chunk(b"begun") if framing == "chunked" else b"begun"))
    body = Body()
    (await answering).deliverBody(body)
    await eventually(lambda: body.received == b"begun")
    below = wire.transport.transport
    if end == "with a reset":
        below.abortConnection()
    else:
        below.loseConnection()
    await eventually(lambda: body.end is not None)
    assert body.end is not None
    assert body.end.check(TruncatedAnswer, PotentialDataLoss)
    connections.close()


def test_a_file_may_hold_several_certificates_and_words_between_them() -> None:
    """As bundles do."""
    assert len(certificates_in(b"# ours\n" + OURS.pem + b"\n# theirs\n" + THEIRS.pem)) == 2


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (b"", "no certificate in PEM form"),
        (b"\x30\x82\x01\x0a", "no certificate in PEM form"),
        (OURS.pem + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "number 2 of 2"),
    ],
)
def test_what_is_no_certificate_is_refused(pem: bytes, words: str) -> None:
    """And never taken for no wish."""
    with pytest.raises(ValueError, match=words):
        policy_of(Authorities("ours.pem", pem))
