"""Nothing of one account or upstream goes to another, and no upstream can make the client hold more than it should."""

from __future__ import annotations

import json
import re
import socket
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from zope.interface import implementer

from agm.core.network import Network
from agm.net.trust import policy_of
from agm.testing import GatewayFactory
from agm.upstream.agent import Http1Agent
from agm.upstream.client import HTTPUpstreamClient, UpstreamFailed
from agm.upstream.connection import MAX_HEAD, MAX_HEADERS
from agm.upstream.errors import BrokenAnswer
from agm.upstream.pool import ConnectionPool
from tests.helpers.support import AnsweringUpstream, Asked, ScriptedUpstream, chunk, eventually, reactor

UNARY = "/v1beta/models/gemini-2.5-flash:generateContent"
BODY = b'{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}'
GOOD = {"candidates": [{"content": {"parts": [{"text": "hello"}]}}]}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Answer = Callable[[Asked], tuple[Any, ...]]


@pytest_twisted.async_yield_fixture
async def answering() -> AsyncIterator[Callable[[Answer], AnsweringUpstream]]:
    """Starts upstreams that answer as a function says."""
    started: list[AnsweringUpstream] = []

    def start(answer: Answer) -> AnsweringUpstream:
        started.append(AnsweringUpstream(answer))
        return started[-1]

    yield start
    for each in started:
        await each.stop()


def account(name: str, url: str) -> str:
    return f'[[accounts]]\nname = "{name}"\nkind = "api-key"\napi_key = "key-of-{name}"\nendpoints = ["{url}"]\n'


# Between accounts


@pytest_twisted.ensureDeferred
async def test_no_cookie_is_ever_sent_back(
    gateway: GatewayFactory, answering: Callable[[Answer], AnsweringUpstream]
) -> None:
    """Not to the account that got it, and still less to another of the same host."""
    upstream = answering(lambda asked: (200, GOOD, {"set-cookie": f"session={asked.credential}; Path=/"}))
    running = await gateway(
        '[pool]\nstrategy = "round-robin"\n' + account("a", upstream.url) + account("b", upstream.url)
    )
    for _ in range(4):
        answer = await running.fetch("POST", UNARY, body=BODY)
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
    assert Counter(upstream.credentials) == {"key-of-a": 2, "key-of-b": 2}
    assert [asked.headers.get("cookie") for asked in upstream.asked] == [None] * 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest_twisted.ensureDeferred
async def test_a_redirect_is_an_error_and_leads_nowhere(
    gateway: GatewayFactory, answering: Callable[[Answer], AnsweringUpstream], status: int
) -> None:
    """Whoever it names gets neither the request nor the key; the client does not learn where it led."""
    elsewhere = answering(lambda _: (200, GOOD))
    upstream = answering(lambda asked: (status, b"", {"location": elsewhere.url + asked.uri}))
    running = await gateway(account("a", upstream.url))
    answer = await running.fetch("POST", UNARY, body=BODY)
    assert answer.status in (status, 502, 503)
    assert "location" not in answer.headers
    assert elsewhere.url not in answer.body.decode()
    assert elsewhere.asked == []
    assert set(upstream.credentials) == {"key-of-a"}


@pytest_twisted.ensureDeferred
async def test_a_key_goes_to_its_accounts_endpoint_and_nowhere_else(
    gateway: GatewayFactory, answering: Callable[[Answer], AnsweringUpstream]
) -> None:
    """Neither when one account stands in for another, nor on a connection that another has used."""
    down = {"status": 503, "error": {"code": 503, "message": "no", "status": "UNAVAILABLE"}}
    failing = answering(lambda _: (503, {"error": down["error"]}))
    good = answering(lambda _: (200, GOOD))
    running = await gateway(
        '[pool]\nstrategy = "priority"\n'
        + account("a", failing.url)
        + account("b", good.url)
        + "priority = 1\n"
        + account("c", good.url)
        + "priority = 1\n"
    )
    for _ in range(6):
        assert (await running.fetch("POST", UNARY, body=BODY)).status == 200
    assert set(failing.credentials) == {"key-of-a"}
    assert set(good.credentials) == {"key-of-b", "key-of-c"}
    for asked in (*failing.asked, *good.asked):
        everything = json.dumps([asked.uri, asked.headers, asked.body.decode()])
        assert set(re.findall("key-of-[abc]", everything)) == {asked.credential}


@pytest.mark.parametrize(
    "header",
    [
        (b"X-One", b"1\r\nX-Two: 2"),
        (b"X-One", b"1\nX-Two: 2"),
        (b"X-One", b"1\rX-Two: 2"),
        (b"X-One: 1\r\nX-Two", b"2"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_header_cannot_carry_another(header: tuple[bytes, bytes]) -> None:
    """A plugin may make headers of what a client has sent: a line break in one is refused."""
    upstream = ScriptedUpstream()
    client = HTTPUpstreamClient(reactor, connect_timeout=5, network=Network("none"))
    with pytest.raises(ValueError, match="line break"):
        await client.send("GET", f"{upstream.url}/", (header,), None, timeout=5)
    assert upstream.connections == []
    await client.close()
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_what_is_about_the_connection_is_the_clients_alone() -> None:
    """However a plugin spells it: two lengths would leave open where the request ends."""
    upstream = ScriptedUpstream()
    client = HTTPUpstreamClient(reactor, connect_timeout=5, network=Network("none"))
    given = [b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"host", b"Transfer-Encoding", b"connection"]
    headers = [(name, b"7") for name in given]
    asking = Deferred.fromCoroutine(client.send("POST", f"{upstream.url}/", headers, b"body", timeout=5))
    wire = await upstream.connection()
    wire.send(OK)
    await asking
    lines = wire.received.lower().split(b"\r\n")
    assert sum(line.startswith(b"content-length:") for line in lines) == 1
    assert sum(line.startswith(b"host:") for line in lines) == 1
    assert not any(line.startswith((b"transfer-encoding:", b"connection:")) for line in lines)
    await client.close()
    await upstream.stop()


# Kept connections that close


class _Closing(Protocol):
    """Serves one request, and closes when the next one has arrived, without having looked at it."""

    transport: Any

    def __init__(self, served: list[bytes]) -> None:
        self._served = served
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and length is not None and len(body) >= int(length[1]):
            self._served.append(body)
            self.transport.pauseProducing()  # what comes now stays with the kernel
            self.transport.write(OK)
            self._watch = LoopingCall(self._look)
            self._watch.start(0.002, now=False)

    def _look(self) -> None:
        try:
            self.transport.getHandle().recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:  # the client has closed
            pass
        self._watch.stop()
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        watch = getattr(self, "_watch", None)
        if watch is not None and watch.running:
            watch.stop()


@pytest_twisted.ensureDeferred
async def test_connections_that_close_under_a_request_cost_no_request_and_double_none(gateway: GatewayFactory) -> None:
    """200 POSTs, ten at a time; all but the first ten find a connection that closes as they come."""
    served: list[bytes] = []
    opened: list[_Closing] = []

    class Upstream(Factory):
        noisy = False

        def buildProtocol(self, addr: Any) -> _Closing:
            opened.append(_Closing(served))
            return opened[-1]

    port = reactor.listenTCP(0, Upstream(), interface="127.0.0.1")
    running = await gateway(account("a", f"http://127.0.0.1:{port.getHost().port}"))
    for batch in range(20):
        asking = [
            Deferred.fromCoroutine(running.fetch("POST", UNARY, body=BODY.replace(b"hi", b"no. %d." % number)))
            for number in range(batch * 10, batch * 10 + 10)
        ]
        outcomes = await DeferredList(asking, consumeErrors=True)
        assert [(good, getattr(answer, "status", answer)) for good, answer in outcomes] == [(True, 200)] * 10
    numbers = Counter(re.search(rb"no\. (\d+)\.", body)[1] for body in served)  # type: ignore[index]
    assert set(numbers.values()) == {1}
    assert len(numbers) == 200
    assert len(opened) == 200, "each kept connection was tried, and then replaced by one new one"
    await running.gateway.client.close()
    await port.stopListening()


# What an upstream may send


def test_the_limits_are_far_from_what_google_sends() -> None:
    """Some 20 lines and 1 KiB; so that raising them is no accident."""
    assert (MAX_HEAD, MAX_HEADERS) == (256 * 1024, 1000)


@implementer(IPullProducer)
class _Endless:
    """Writes piece after piece, as fast as they are taken; `sent` counts bytes."""

    def __init__(self, transport: Any, pieces: Iterator[bytes]) -> None:
        self._transport = transport
        self._pieces = pieces
        self.sent = 0

    def resumeProducing(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            self._transport.unregisterProducer()
        else:
            self.sent += len(piece)
            self._transport.write(piece)

    def stopProducing(self) -> None:
        """The other side has closed."""


STATUS = b"HTTP/1.1 200 OK\r\n"
CHUNKED = STATUS + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"begun")
KIB = b"x" * 1000


def lines() -> Iterator[bytes]:
    return (b"X-%d: %b\r\n" % (number, KIB) for number in range(100_000))


@pytest.mark.parametrize(
    ("begin", "pieces"),
    [
        (STATUS, lines),
        (STATUS + b"X: ", lambda: (KIB for _ in range(100_000))),
        (STATUS + b"X", lambda: (KIB for _ in range(100_000))),
        (b"HTTP/1.1 200 ", lambda: (KIB for _ in range(100_000))),
        (b"", lambda: (b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % KIB for _ in range(100_000))),
        (CHUNKED + b"0\r\n", lines),
        (CHUNKED + b"0\r\nX: ", lambda: (KIB for _ in range(100_000))),
        (CHUNKED + b"5;x=", lambda: (KIB for _ in range(100_000))),
    ],
    ids=[
        "100,000 headers",
        "an endless value",
        "an endless name",
        "an endless phrase",
        "endless interim answers",
        "100,000 trailers",
        "an endless trailer",
        "an endless chunk extension",
    ],
)
@pytest_twisted.ensureDeferred
async def test_100_megabytes_around_an_answer_are_neither_kept_nor_read(
    begin: bytes, pieces: Callable[[], Iterator[bytes]]
) -> None:
    """The connection is closed after some hundred kilobytes, and no more than that was ever in memory."""
    upstream = ScriptedUpstream()
    connections = ConnectionPool(reactor, policy_of(None), 5)
    asking = Http1Agent(connections).request(b"GET", f"{upstream.url}/".encode())
    wire = await upstream.connection()
    tracemalloc.start()
    wire.send(begin)
    endless = _Endless(wire.transport, pieces())
    wire.transport.registerProducer(endless, False)
    if begin.startswith(CHUNKED):
        body = _Ended()
        (await asking).deliverBody(body)
        await eventually(lambda: body.end is not None)
        assert body.end is not None
        assert body.end.check(BrokenAnswer)
    else:
        with pytest.raises(BrokenAnswer, match="larger than"):
            await asking
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    await wire.closed()
    assert peak < 4_000_000
    assert endless.sent < 20_000_000, "what the buffers of two sockets hold, at the most"
    connections.close()
    await upstream.stop()


class _Ended(Protocol):
    """A body of which only its end matters."""

    end: Failure | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end = reason


@pytest.mark.parametrize("count", [MAX_HEADERS, MAX_HEADERS + 1])
@pytest_twisted.ensureDeferred
async def test_header_lines_are_bounded_in_number(count: int) -> None:
    """However short they are, and though all of them come in one read together with the body."""
    upstream = ScriptedUpstream()
    client = HTTPUpstreamClient(reactor, connect_timeout=5, network=Network("none"))
    asking = Deferred.fromCoroutine(client.send("GET", f"{upstream.url}/", (), None, timeout=5))
    wire = await upstream.connection()
    wire.send(STATUS + b"Content-Length: 0\r\n" + b"a:b\r\n" * (count - 1) + b"\r\n")
    if count <= MAX_HEADERS:
        assert (await asking).status == 200
    else:
        with pytest.raises(UpstreamFailed, match="1000 header lines") as caught:
            await asking
        assert caught.value.reason == "BROKEN_ANSWER"
        await wire.closed()
    await client.close()
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_trailers_are_no_headers_and_end_the_body(gateway: GatewayFactory) -> None:
    """They come when the head has long been judged, and must not change what was read from it."""
    upstream = ScriptedUpstream()
    connections = ConnectionPool(reactor, policy_of(None), 5)
    asking = Http1Agent(connections).request(b"GET", f"{upstream.url}/".encode())
    wire = await upstream.connection()
    wire.send(CHUNKED)
    response: Any = await asking
    body = _Ended()
    response.deliverBody(body)
    wire.send(b"0\r\nContent-Type: text/html\r\n\r\n")
    await eventually(lambda: body.end is not None)
    assert body.end is not None
    assert body.end.check(ResponseDone)
    assert b"content-type" not in response.first
    assert not response.headers.hasHeader("content-type")
    connections.close()
    await upstream.stop()
