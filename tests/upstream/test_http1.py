"""The HTTP client of the gateway, in dialogues with a server whose every byte the test writes."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import treq
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, CertificateOptions, PrivateCertificate, trustRootFromCertificates
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer
from zope.interface.verify import verifyClass

from agm.core.wire.bytechain import ByteChain
from agm.upstream import pool
from agm.upstream.agent import Http1Agent
from agm.upstream.answer import Answer
from agm.upstream.connection import MAX_HEAD, ONE_WRITE, Connection
from agm.upstream.errors import BrokenAnswer, EncodedAnswer, NoAnswer, NotHttp, StaleConnection, TruncatedAnswer
from agm.upstream.origin import split_url
from agm.upstream.pool import ConnectionPool
from agm.upstream.upload import SLICE, WholeBody
from tests.helpers.support import (
    ScriptedUpstream,
    chunk,
    eventually,
    found_out_within,
    needs_keepalive,
    reactor,
    settle,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Body(Protocol):
    """A body as it came; `end` is why it ended."""

    transport: Any

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.end: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end = reason


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[ScriptedUpstream]:
    scripted = ScriptedUpstream()
    yield scripted
    await scripted.stop()


@pytest_twisted.async_yield_fixture
async def connections() -> AsyncIterator[ConnectionPool]:
    made = ConnectionPool(reactor, BrowserLikePolicyForHTTPS(), 5)
    yield made
    made.close()


@pytest.fixture
def agent(connections: ConnectionPool) -> Http1Agent:
    return Http1Agent(connections)


def get(agent: Http1Agent, url: str, **headers: str) -> Deferred[Any]:
    return agent.request(b"GET", url.encode(), Headers({k.replace("_", "-"): [v] for k, v in headers.items()}))


async def whole(response: Any) -> bytes:
    body = Body()
    response.deliverBody(body)
    await eventually(lambda: body.end is not None)
    assert body.end is not None
    body.end.trap(ResponseDone)
    return b"".join(body.pieces)


def test_the_interfaces_are_twisteds() -> None:
    """treq takes the agent for one of Twisted's, and its answers too."""
    verifyClass(IAgent, Http1Agent)
    verifyClass(IBodyProducer, WholeBody)
    verifyClass(IResponse, Answer, tentative=True)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        (b"http://h/p?q=1", ((b"http", b"h", 80), b"h", b"/p?q=1")),
        (b"https://h:8443", ((b"https", b"h", 8443), b"h:8443", b"/")),
        (b"https://[::1]:1/x/y", ((b"https", b"::1", 1), b"[::1]:1", b"/x/y")),
    ],
)
def test_a_url_is_cut_into_origin_host_and_target(url: bytes, parts: object) -> None:
    """Whatever is in the path cannot change the host."""
    assert split_url(url) == parts


@pytest.mark.parametrize("url", [b"ftp://h/", b"http:///p", b"/p", b""])
def test_a_url_without_an_origin_is_refused(url: bytes) -> None:
    """There is nowhere to send it."""
    with pytest.raises(ValueError, match="absolute"):
        split_url(url)


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/\x7f", "/ü"])
def test_a_target_that_is_not_encoded_is_refused(agent: Http1Agent, target: str) -> None:
    """It could carry a second request."""
    with pytest.raises(ValueError, match="must be encoded"):
        agent.request(b"GET", b"http://127.0.0.1:9" + target.encode())


@pytest_twisted.ensureDeferred
async def test_a_request_goes_out_as_it_was_given(agent: Http1Agent, server: ScriptedUpstream) -> None:
    asking = agent.request(
        b"POST",
        f"{server.url}/a:b?c=d".encode(),
        Headers({"X-One": ["1"], "Connection": ["close"], "Content-Length": ["99"], "Accept-Encoding": ["gzip"]}),
        WholeBody(b"body"),
    )
    wire = await server.connection()
    host = server.url.removeprefix("http://").encode()
    assert wire.received == (
        b"POST /a:b?c=d HTTP/1.1\r\nHost: " + host + b"\r\nAccept-Encoding: identity\r\n"
        b"X-One: 1\r\nContent-Length: 4\r\n\r\nbody"
    )
    wire.send(OK)
    response = await asking
    assert (response.code, response.phrase, response.length) == (200, b"OK", 2)
    assert response.first[b"content-length"] == b"2"
    assert await whole(response) == b"ok"


@pytest_twisted.ensureDeferred
async def test_it_serves_under_treq(agent: Http1Agent, server: ScriptedUpstream) -> None:
    asking = treq.client.HTTPClient(agent).get(f"{server.url}/x", headers=Headers({"A": ["b"]}))
    wire = await server.connection()
    wire.send(OK)
    assert await treq.content(await asking) == b"ok"


@pytest_twisted.ensureDeferred
async def test_one_connection_serves_one_request_after_the_other(agent: Http1Agent, server: ScriptedUpstream) -> None:
    for number in range(3):
        asking = get(agent, server.url)
        wire = await server.connection()
        wire.received = b""
        wire.send(OK)
        assert await whole(await asking) == b"ok", number
    assert len(server.connections) == 1


@pytest.mark.parametrize("size", [10, ONE_WRITE * 4, SLICE * 20 + 1])
@pytest.mark.parametrize("spliced", [False, True])
@pytest_twisted.ensureDeferred
async def test_bodies_of_every_size_are_sent_whole(
    agent: Http1Agent, server: ScriptedUpstream, size: int, spliced: bool
) -> None:
    """Also those that are in pieces; and the next request goes over the same connection."""
    text = b"".join(b"%d," % n for n in range(size))[:size]
    body = WholeBody(ByteChain(b"{", memoryview(text), b"}") if spliced else b"{" + text + b"}")
    for number in (1, 2):
        asking = agent.request(b"PUT", server.url.encode(), None, body)
        wire = await server.connection()
        await eventually(lambda: wire.received.count(b"}") == number)  # noqa: B023  # it is waited for here
        assert wire.received.endswith(b"\r\n\r\n{" + text + b"}")
        wire.send(OK)
        await whole(await asking)
    assert len(server.connections) == 1


@pytest_twisted.ensureDeferred
async def test_a_transport_never_holds_a_copy_of_a_large_body(
    connections: ConnectionPool, agent: Http1Agent, server: ScriptedUpstream
) -> None:
    """It is given slices as it takes them: an upstream that reads nothing costs one body, and not two."""
    size = 40 * 1024**2
    asking = agent.request(b"PUT", server.url.encode(), None, WholeBody(b"x" * size))
    await eventually(lambda: server.connections)
    wire = server.connections[0]
    wire.keep = False
    wire.transport.pauseProducing()
    sending: Any = next(iter(connections._open)).transport
    await eventually(lambda: sending.producer is not None and sending.producer._paused)
    assert 0 < len(sending.dataBuffer) - sending.offset + sending._tempDataLen <= 2 * SLICE
    wire.transport.resumeProducing()
    await eventually(lambda: wire.count > size)
    wire.send(OK)
    await whole(await asking)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2 \t",
        b"Transfer-Encoding: chunked ",
        b"content-length: " + b"0" * 5000 + b"2",
        b"Content-Encoding: Identity \r\nContent-Length: 2",
    ],
)
@pytest_twisted.ensureDeferred
async def test_white_space_behind_a_value_and_zeros_before_a_length_say_nothing(
    agent: Http1Agent, server: ScriptedUpstream, head: bytes
) -> None:
    asking = get(agent, server.url)
    wire = await server.connection()
    chunked = b"chunked" in head
    wire.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + (b"2\r\nok\r\n0\r\n\r\n" if chunked else b"ok"))
    answer = await asking
    assert answer.length == (UNKNOWN_LENGTH if chunked else 2)
    assert await whole(answer) == b"ok"


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", NoAnswer),
        (b"HTTP/1.1 200", TruncatedAnswer),
        (b"HTTP/1.1 200 OK\r\nA: ", TruncatedAnswer),
        (b"SMTP\r\n", BrokenAnswer),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", BrokenAnswer),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", BrokenAnswer),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", BrokenAnswer),
        (b"HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\n{}" + OK, NotHttp),
        (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", BrokenAnswer),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * (MAX_HEAD + 1), BrokenAnswer),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", EncodedAnswer),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n\r\nok", EncodedAnswer),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", EncodedAnswer),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", EncodedAnswer),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", EncodedAnswer),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_answer_is_an_error(
    agent: Http1Agent, server: ScriptedUpstream, sent: bytes, error: type[Exception]
) -> None:
    asking = get(agent, server.url)
    wire = await server.connection()
    wire.send(sent)
    await settle(0.02)
    wire.transport.loseConnection()
    with pytest.raises(error):
        await asking
    await wire.closed()
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("head", "body", "error"),
    [
        (b"Content-Length: 9\r\n", b"short", TruncatedAnswer),
        (b"Transfer-Encoding: chunked\r\n", chunk(b"piece"), TruncatedAnswer),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\npieceXX", BrokenAnswer),
        (b"", b"until the end", PotentialDataLoss),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_body_is_complete_only_if_its_end_was_marked(
    agent: Http1Agent, server: ScriptedUpstream, head: bytes, body: bytes, error: type[Exception]
) -> None:
    asking = get(agent, server.url)
    wire = await server.connection()
    wire.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
    response = await asking
    got = Body()
    response.deliverBody(got)
    wire.send(body)
    await settle(0.02)
    wire.transport.loseConnection()
    await eventually(lambda: got.end is not None)
    assert got.end is not None
    assert got.end.check(error)
    assert b"".join(got.pieces) in body or body.startswith(b"5")


@pytest_twisted.ensureDeferred
async def test_interim_answers_are_passed_over(agent: Http1Agent, server: ScriptedUpstream) -> None:
    asking = get(agent, server.url)
    wire = await server.connection()
    wire.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
    response = await asking
    assert response.code == 200
    assert not response.headers.hasHeader("link")
    assert await whole(response) == b"ok"


@pytest_twisted.ensureDeferred
async def test_a_body_waits_paused_until_somebody_takes_it(agent: Http1Agent, server: ScriptedUpstream) -> None:
    asking = get(agent, server.url)
    wire = await server.connection()
    wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"early"))
    response = await asking
    for _ in range(200):
        wire.send(chunk(b"x" * 65_536))
    await settle(0.3)
    assert len(wire.transport.dataBuffer) + wire.transport._tempDataLen > 4_000_000, "the client stopped reading"
    got = Body()
    response.deliverBody(got)
    wire.send(b"0\r\n\r\n")
    await eventually(lambda: got.end is not None)
    assert sum(map(len, got.pieces)) == 5 + 200 * 65_536


class Scripted(StringTransport):
    """A connection whose bytes the test hands over itself, and that counts how often reading is stopped and begun."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[str] = []

    def pauseProducing(self) -> None:
        self.turns.append("pause")

    def resumeProducing(self) -> None:
        self.turns.append("resume")


def asked_on(transport: Scripted) -> tuple[Connection, list[Connection], Deferred[Answer]]:
    free: list[Connection] = []
    connection = Connection(free.append)
    connection.makeConnection(transport)
    return connection, free, connection.request(b"GET / HTTP/1.1\r\n\r\n", b"", None)


def test_an_answer_that_comes_in_one_read_is_all_there_when_it_is_told_of() -> None:
    """Whoever gets it need not wait again; its connection is free already, and was never paused."""
    transport, body = Scripted(), Body()
    connection, free, asking = asked_on(transport)
    seen: list[object] = []

    def look(answer: Answer) -> None:
        answer.deliverBody(body)
        seen.extend([b"".join(body.pieces), body.end is not None, list(free)])

    asking.addCallback(look)
    connection.dataReceived(OK)
    assert seen == [b"ok", True, [connection]]
    assert "pause" not in transport.turns


def test_reading_stops_and_begins_no_more_than_once_for_a_read() -> None:
    """Each time costs a call to the kernel."""
    transport = Scripted()
    connection, _, asking = asked_on(transport)

    class Fickle(Body):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.pauseProducing()
            self.transport.resumeProducing()
            if len(self.pieces) == 2:
                self.transport.pauseProducing()

    body = Fickle()
    asking.addCallback(lambda answer: answer.deliverBody(body))
    connection.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none")
    assert transport.turns == []
    connection.dataReceived(b"two")
    assert transport.turns == ["pause"]
    body.transport.resumeProducing()
    assert transport.turns == ["pause", "resume"]


@pytest_twisted.ensureDeferred
async def test_one_read_of_several_chunks_is_one_piece(agent: Http1Agent, server: ScriptedUpstream) -> None:
    asking = get(agent, server.url)
    wire = await server.connection()
    wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    got = Body()
    (await asking).deliverBody(got)
    wire.send(chunk(b"a") + chunk(b"b") + chunk(b"c") + b"0\r\n\r\n")
    await eventually(lambda: got.end is not None)
    assert got.pieces == [b"abc"]


@pytest_twisted.ensureDeferred
async def test_the_socket_talks_to_the_connection_and_nothing_is_kept_of_how_it_was_made(
    connections: ConnectionPool, agent: Http1Agent, server: ScriptedUpstream
) -> None:
    asking = get(agent, server.url)
    wire = await server.connection()
    (connection,) = connections._open
    assert connection.transport.protocol is connection
    assert connection.ready is None
    wire.send(OK)
    await whole(await asking)
    wire.transport.loseConnection()
    await eventually(lambda: not connections._open)
    assert connection.lost


@pytest.mark.parametrize("moment", ["connecting", "before the head", "in the body"])
@pytest_twisted.ensureDeferred
async def test_cancelling_and_aborting_close_the_connection(
    agent: Http1Agent, server: ScriptedUpstream, moment: str
) -> None:
    asking = get(agent, server.url)
    if moment != "connecting":
        wire = await server.connection()
    if moment == "in the body":
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
        response = await asking
        got = Body()
        response.deliverBody(got)
        got.transport.stopProducing()
        await eventually(lambda: got.end is not None)
        response.abortConnection()  # once more, to no effect
    else:
        asking.cancel()
        with pytest.raises(CancelledError):
            await asking
    if moment == "connecting":
        await settle(0.05)
        assert all(w.lost is not None for w in server.connections)
    else:
        await wire.closed()
    assert len(server.connections) <= 1


@pytest_twisted.ensureDeferred
async def test_a_stale_connection_is_replaced_once_and_a_produced_body_is_not_sent_twice(
    agent: Http1Agent, server: ScriptedUpstream
) -> None:
    asking = get(agent, server.url)
    first = await server.connection(0)
    first.send(OK)
    await whole(await asking)
    first.received = b""
    asking = agent.request(b"POST", server.url.encode(), None, WholeBody(b"x"))
    await first.until(b"\r\n\r\nx")
    first.transport.loseConnection()
    second = await server.connection(1)
    second.send(OK)
    await whole(await asking)
    second.received = b""
    asking = agent.request(b"POST", server.url.encode(), None, Produced([b"a", b"b"], UNKNOWN_LENGTH))
    await second.until(b"0\r\n\r\n")
    second.transport.loseConnection()
    with pytest.raises(StaleConnection):
        await asking
    assert len(server.connections) == 2


@pytest_twisted.ensureDeferred
async def test_a_connection_that_closed_while_idle_is_not_used(agent: Http1Agent, server: ScriptedUpstream) -> None:
    asking = get(agent, server.url)
    first = await server.connection(0)
    first.send(OK)
    await whole(await asking)
    first.transport.loseConnection()
    await first.closed()
    await settle(0.02)
    asking = get(agent, server.url)
    (await server.connection(1)).send(OK)
    assert await whole(await asking) == b"ok"


@pytest_twisted.ensureDeferred
async def test_what_nobody_asked_for_closes_the_connection(agent: Http1Agent, server: ScriptedUpstream) -> None:
    asking = get(agent, server.url)
    wire = await server.connection()
    wire.send(OK)
    await whole(await asking)
    wire.send(OK)
    await wire.closed()


@pytest_twisted.ensureDeferred
async def test_connection_close_is_heeded(agent: Http1Agent, server: ScriptedUpstream) -> None:
    for number in range(2):
        asking = get(agent, server.url)
        wire = await server.connection(number)
        wire.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        assert await whole(await asking) == b""
        await wire.closed()


@implementer(IBodyProducer)
class Produced:
    """A body that comes piece by piece."""

    def __init__(self, pieces: list[bytes], length: Any) -> None:
        self.pieces = pieces
        self.length = length
        self.stopped = False

    def startProducing(self, consumer: Any) -> Deferred[None]:
        done: Deferred[None] = Deferred()

        def step() -> None:
            if self.stopped:
                return
            if self.pieces:
                try:
                    consumer.write(self.pieces.pop(0))
                except ValueError:
                    done.errback()
                    return
                reactor.callLater(0.01, step)
            else:
                done.callback(None)

        consumer.write(b"")
        step()
        return done

    def stopProducing(self) -> None:
        self.stopped = True

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


@pytest.mark.parametrize("length", [UNKNOWN_LENGTH, 6])
@pytest_twisted.ensureDeferred
async def test_a_body_may_be_produced(agent: Http1Agent, server: ScriptedUpstream, length: Any) -> None:
    asking = agent.request(b"POST", server.url.encode(), None, Produced([b"one", b"two"], length))
    wire = await server.connection()
    ending = chunk(b"one") + chunk(b"two") + b"0\r\n\r\n" if length is UNKNOWN_LENGTH else b"onetwo"
    await wire.until(b"\r\n\r\n" + ending)
    await settle(0.05)  # an answer before the producer has said that it is done would cost the connection
    wire.send(OK)
    assert await whole(await asking) == b"ok"
    asking = get(agent, server.url)
    wire.received = b""
    await wire.until(b"GET / ")
    wire.send(OK)
    await whole(await asking)


@pytest.mark.parametrize("length", [5, 7], ids=["too long", "too short"])
@pytest_twisted.ensureDeferred
async def test_a_produced_body_of_another_length_than_it_said_is_not_sent(
    agent: Http1Agent, server: ScriptedUpstream, length: int
) -> None:
    asking = agent.request(b"POST", server.url.encode(), None, Produced([b"one", b"two"], length))
    with pytest.raises(NoAnswer):
        await asking
    assert all(w.lost is not None for w in server.connections) or await server.connections[0].closed()


@pytest_twisted.ensureDeferred
async def test_an_answer_may_come_before_the_body_is_sent(agent: Http1Agent, server: ScriptedUpstream) -> None:
    body = Produced([b"x"] * 20, UNKNOWN_LENGTH)
    asking = agent.request(b"POST", server.url.encode(), None, body)
    wire = await server.connection()
    wire.send(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
    response = await asking
    assert response.code == 413
    assert await whole(response) == b""
    assert not body.pieces or body.stopped


@pytest_twisted.ensureDeferred
async def test_a_producer_is_stopped_when_the_connection_goes(agent: Http1Agent, server: ScriptedUpstream) -> None:
    body = Produced([b"x"] * 1000, UNKNOWN_LENGTH)
    asking = agent.request(b"POST", server.url.encode(), None, body)
    wire = await server.connection()
    wire.transport.abortConnection()
    with pytest.raises((NoAnswer, TruncatedAnswer)):
        await asking
    assert body.stopped


@pytest_twisted.ensureDeferred
async def test_idle_connections_are_bounded_in_number_and_time(
    server: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_IDLE", 2)
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.2)
    connections = ConnectionPool(reactor, BrowserLikePolicyForHTTPS(), 5)
    agent = Http1Agent(connections)
    asking = [get(agent, server.url) for _ in range(3)]
    for number in range(3):
        (await server.connection(number)).send(OK)
    for each in asking:
        await whole(await each)
    await eventually(lambda: sum(w.lost is not None for w in server.connections) == 1)
    await eventually(lambda: all(w.lost is not None for w in server.connections), "all of them closed")
    connections.close()


@needs_keepalive
@pytest_twisted.ensureDeferred
async def test_an_upstream_that_is_gone_is_found_out(
    connections: ConnectionPool, agent: Http1Agent, server: ScriptedUpstream
) -> None:
    """While a model thinks nothing comes, and what is on the way forgets a silent connection."""
    asking = get(agent, server.url)
    wire = await server.connection()
    (connection,) = connections._open
    assert (found_out_within(connection.transport) or 999) <= 120
    wire.send(OK)
    await whole(await asking)


@pytest_twisted.ensureDeferred
async def test_after_a_sleep_of_the_machine_no_kept_connection_is_used(server: ScriptedUpstream) -> None:
    """What they lead through may have forgotten them: nobody would ever answer."""
    slept = 100.0
    connections = ConnectionPool(reactor, BrowserLikePolicyForHTTPS(), 5, asleep=lambda: slept)
    agent = Http1Agent(connections)

    async def ask(number: int) -> None:
        asking = get(agent, server.url)
        await eventually(
            lambda: len(server.connections) > number and b"\r\n\r\n" in server.connections[number].received
        )
        server.connections[number].received = b""
        server.connections[number].send(OK)
        await whole(await asking)

    await ask(0)
    await ask(0)
    slept += 30
    for kept in connections._idle.values():
        kept[0].idle_since -= 30
    await ask(1)
    await server.connections[0].closed()
    await ask(1)
    connections.close()


@pytest_twisted.ensureDeferred
async def test_nobody_there_is_a_connection_error(agent: Http1Agent) -> None:
    port = reactor.listenTCP(0, Site(Resource()), interface="127.0.0.1")
    number = port.getHost().port
    await port.stopListening()
    with pytest.raises(ConnectionRefusedError):
        await get(agent, f"http://127.0.0.1:{number}/")


# TLS


def certificate(name: str, folder: Path, **validity: datetime.timedelta) -> PrivateCertificate:
    """A self-signed certificate for a name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + validity.get("since", datetime.timedelta(days=-2)))
        .not_valid_after(now + validity.get("until", datetime.timedelta(days=2)))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return PrivateCertificate.loadPEM(pem)


async def over_tls(
    served: PrivateCertificate, trusted: Certificate, timeout: float = 5, body: bytes | ByteChain | None = None
) -> bytes:
    """What a server with this certificate answers to a client that trusts that one: ``hello``, or what it was sent."""

    class Hello(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> bytes:
            return b"hello"

        def render_POST(self, request: Any) -> bytes:
            sent: bytes = request.content.read()
            return sent

    site = Site(Hello())
    port = reactor.listenSSL(0, site, served.options(), interface="127.0.0.1")
    policy = BrowserLikePolicyForHTTPS(trustRoot=trustRootFromCertificates([trusted]))
    connections = ConnectionPool(reactor, policy, timeout)
    try:
        agent, url = Http1Agent(connections), f"https://localhost:{port.getHost().port}/"
        if body is not None:
            return await whole(await agent.request(b"POST", url.encode(), None, WholeBody(body)))
        return await whole(await get(agent, url))
    finally:
        connections.close()
        await port.stopListening()
        await settle(0.05)


@pytest_twisted.ensureDeferred
async def test_a_verified_server_is_talked_to(tmp_path: Path) -> None:
    good = certificate("localhost", tmp_path)
    assert await over_tls(good, Certificate(good.original)) == b"hello"


@pytest.mark.parametrize("spliced", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_large_body_goes_over_tls_whole(tmp_path: Path, spliced: bool) -> None:
    """There a slice is copied; it comes out the same."""
    good, text = certificate("localhost", tmp_path), b"0123456789" * SLICE
    body = ByteChain(text[:5], memoryview(text)[5:]) if spliced else text
    assert await over_tls(good, Certificate(good.original), body=body) == text


@pytest.mark.parametrize("wrong", ["name", "expired", "unknown"])
@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_be_verified_is_not(tmp_path: Path, wrong: str) -> None:
    name = "other.example" if wrong == "name" else "localhost"
    until = datetime.timedelta(days=-1 if wrong == "expired" else 1)
    served = certificate(name, tmp_path, until=until)
    trusted = certificate("localhost", tmp_path) if wrong == "unknown" else served
    from OpenSSL.SSL import Error
    from service_identity import VerificationError

    with pytest.raises((Error, VerificationError)):
        await over_tls(served, Certificate(trusted.original))


@pytest_twisted.ensureDeferred
async def test_the_time_limit_for_connecting_holds_for_tls_too(server: ScriptedUpstream) -> None:
    connections = ConnectionPool(reactor, BrowserLikePolicyForHTTPS(), 0.3)
    with pytest.raises(TimeoutError):
        await get(Http1Agent(connections), server.url.replace("http://127.0.0.1", "https://localhost"))
    await server.connections[0].closed()
    connections.close()
    assert isinstance(CertificateOptions(), CertificateOptions)
