"""What clients may take of the gateway: each limit is named in the refusal, and the client gets to read it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import pytest_twisted
from twisted.web.resource import EncodingResourceWrapper, Resource
from twisted.web.server import GzipEncoderFactory

from agm import hookimpl
from agm.net.writes import buffered
from agm.testing import GatewayFactory, RunningGateway
from agm.web import site
from agm.web.channel import MAX_AHEAD
from agm.web.site import SPARE_CONNECTIONS
from tests.helpers.support import (
    JSON_HEAD,
    SSE_HEAD,
    ScriptedUpstream,
    Wire,
    account,
    chunk,
    connect,
    eventually,
    get,
    post,
)

UNARY = "/v1beta/models/m:generateContent"
STREAM = "/v1beta/models/m:streamGenerateContent?alt=sse"


async def refusal(client: Wire, status: int, word: str) -> dict[str, Any]:
    """The error that a client got, which names the limit, on a connection that then closes."""
    received = await client.closed()
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"connection: close" in head.lower()
    error: dict[str, Any] = json.loads(body)["error"]
    assert error["code"] == status
    assert word in error["message"]
    return error


async def told(port: int, path: str) -> bytes:
    """What a path answers, in one go."""
    client = await connect(port)
    client.send(get(path, "Connection: close"))
    return await client.closed()


@pytest_twisted.ensureDeferred
async def test_the_head_is_bounded_in_bytes_and_in_lines(gateway: GatewayFactory) -> None:
    running = await gateway('[limits]\nheader_bytes = "2KiB"\nheader_lines = 5\n')
    for request in (get("/healthz", "X: " + "y" * 3000), get("/" + "z" * 3000), get("/healthz", *["X: y"] * 6)):
        client = await connect(running.port)
        client.send(request)
        await refusal(client, 431, "[limits] header_bytes and header_lines")
    assert b'"ok"' in await told(running.port, "/healthz")


@pytest_twisted.ensureDeferred
async def test_the_bodies_of_all_requests_are_bounded_together(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """A body counts from its head on, and no more once its answer has ended; in chunks, as it comes."""
    running = await gateway(account(upstream) + '[limits]\nbodies = "100KiB"\n')
    first = await connect(running.port)
    first.send(post(UNARY, b"{}" + b" " * 60 * 1024))
    served = await upstream.connection()
    second = await connect(running.port)
    second.send(post(UNARY, b"{}" + b" " * 60 * 1024))
    error = await refusal(second, 503, "[limits] bodies")
    assert b"Retry-After: 1" in second.received
    assert any("retryDelay" in detail for detail in error["details"])
    third = await connect(running.port)
    third.send(get(UNARY, "Transfer-Encoding: chunked", method="POST") + chunk(b"{}" + b" " * 60 * 1024))
    await refusal(third, 503, "[limits] bodies")
    served.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
    await first.until(b"{}")
    assert running.site.reserved == 0
    first.send(post(UNARY, b"{}" + b" " * 90 * 1024))
    await served.asked(2)
    first.transport.abortConnection()
    await eventually(lambda: running.site.reserved == 0, "the bytes of a client that has left to be given back")


@pytest_twisted.ensureDeferred
async def test_beyond_the_connections_only_health_is_told(
    gateway: GatewayFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 503 for everything else, and nothing at all for far too many, as long as nobody has been silent for long."""
    monkeypatch.setattr(site, "SILENT_SECONDS", 3600.0)
    running = await gateway("[limits]\nconnections = 2\n")
    held = [await connect(running.port) for _ in range(2)]
    await eventually(lambda: len(running.site.channels) == 2, "two connections")
    third = await connect(running.port)
    third.send(get("/v1beta/models"))
    await refusal(third, 503, "[limits] connections, 2")
    assert b"Retry-After: " in third.received
    assert b'{"status":"ok"}' in await told(running.port, "/healthz")
    assert b'{"status":"ok"}' in await told(running.port, "/readyz")
    held += [await connect(running.port) for _ in range(SPARE_CONNECTIONS)]
    await eventually(lambda: len(running.site.channels) == 2 + SPARE_CONNECTIONS, "the spare connections")
    assert await (await connect(running.port)).closed() == b""
    for client in held:
        client.transport.abortConnection()
    await eventually(lambda: not running.site.channels, "no connection")
    assert b'"models"' in await told(running.port, "/v1beta/models")


async def crowd(running: RunningGateway, count: int, said: bytes = b"G") -> list[Wire]:
    """Clients that have connected, have said something, and stay, whatever they are told."""
    clients = []
    for number in range(1, count + 1):
        clients.append(await connect(running.port))
        clients[-1].transport.pauseProducing()
        clients[-1].send(said)
        await eventually(lambda: len(running.site.channels) >= number, "a connection")  # noqa: B023
    return clients


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"G",
        get("/healthz")[:-2],
        get("/healthz", "Content-Length: 5"),
        get("/healthz"),
        get("/v1beta/models"),
        get("/nowhere", "Content-Length: 5"),
        b"NOT HTTP\r\n\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_health_is_told_whoever_holds_the_connections(
    gateway: GatewayFactory, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """The oldest of those on which nothing is under way gives way; there are never more than there may be."""
    monkeypatch.setattr(site, "SILENT_SECONDS", 3600.0)
    running = await gateway("[limits]\nconnections = 3\n")
    clients = await crowd(running, 3 + SPARE_CONNECTIONS, said)
    assert await told(running.port, "/healthz") == b""
    oldest = next(iter(running.site.silent))
    monkeypatch.setattr(site, "SILENT_SECONDS", 0.0)
    assert b'{"status":"ok"}' in await told(running.port, "/healthz")
    assert b'{"status":"ok"}' in await told(running.port, "/readyz")
    assert oldest not in running.site.channels
    assert len(running.site.channels) <= 3 + SPARE_CONNECTIONS
    for client in clients:
        client.transport.abortConnection()
    await eventually(lambda: not running.site.channels and not running.site.silent, "nothing left")


@pytest_twisted.ensureDeferred
async def test_who_says_something_is_served_though_others_say_nothing(
    gateway: GatewayFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "SILENT_SECONDS", 0.0)
    running = await gateway("[limits]\nconnections = 3\n")
    for _ in range(5):
        await crowd(running, 3)
        assert b'"models"' in await told(running.port, "/v1beta/models")
    assert len(running.site.channels) <= 3


class Large(Resource):
    """A page of so many bytes that a socket does not hold it."""

    isLeaf = True
    size = 32 * 1024 * 1024

    def render_GET(self, request: Any) -> bytes:
        return bytes(self.size)


class LargePage:
    """A plugin with that page."""

    @hookimpl
    def agm_resources(self) -> dict[str, Any]:
        return {"large": Large()}


@pytest_twisted.ensureDeferred
async def test_nobody_gives_way_who_has_something_under_way(
    gateway: GatewayFactory, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while the answer is waited for, nor while a body comes, nor while the end of an answer is taken slowly."""
    monkeypatch.setattr(site, "SILENT_SECONDS", 0.0)
    running = await gateway(account(upstream) + "[limits]\nconnections = 3\n", plugins=[LargePage()])
    waiting, sending, reading = [await connect(running.port) for _ in range(3)]
    waiting.send(post(STREAM, b"{}"))
    served = await upstream.connection()
    sending.send(get(UNARY, "Content-Length: 2", method="POST") + b"{")
    reading.transport.pauseProducing()
    reading.send(get("/large"))
    await eventually(lambda: any(buffered(c.transport) for c in running.site.silent), "an answer that is being taken")
    await eventually(lambda: len(running.site.silent) == 1, "two requests under way")
    refused = await connect(running.port)
    refused.send(get("/v1beta/models"))
    await refusal(refused, 503, "[limits] connections, 3")
    assert not [client for client in (waiting, sending, reading) if client.lost]
    reading.keep = False
    reading.transport.resumeProducing()
    await eventually(lambda: reading.count > Large.size, "all of the answer")
    sending.send(b"}")
    (await upstream.connection(1)).send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
    await sending.until(b"\r\n\r\n{}")
    served.send(SSE_HEAD + chunk(b'data: {"a":1}\r\n\r\n') + b"0\r\n\r\n")
    await waiting.until(b'{"a":1}', b"0\r\n\r\n")
    for client in (waiting, sending, reading):
        client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_a_key_has_no_more_calls_at_once_than_it_may(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """And may make another as soon as one has ended, or its client has left."""
    running = await gateway(
        account(upstream)
        + '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "a"\nkey = "first-key"\n'
        + '[[auth.keys]]\nname = "b"\nkey = "other-key"\n[limits]\nstreams_per_key = 1\n'
    )
    first = await connect(running.port)
    first.send(post(STREAM, b"{}", "x-goog-api-key: first-key"))
    (await upstream.connection()).send(SSE_HEAD + chunk(b'data: {"a":1}\r\n\r\n'))
    await first.until(b'{"a":1}')
    again = await connect(running.port)
    again.send(post(STREAM, b"{}", "x-goog-api-key: first-key"))
    await again.until(b"[limits] streams_per_key, 1", b"retryDelay")
    assert again.received.startswith(b"HTTP/1.1 429 ")
    other = await connect(running.port)
    other.send(post(UNARY, b"{}", "x-goog-api-key: other-key"))
    await upstream.connection(1)
    first.transport.abortConnection()
    await eventually(lambda: upstream.connections[0].lost, "the first call to end")
    again.send(post(UNARY, b"{}", "x-goog-api-key: first-key"))
    await upstream.connection(2)
    for client in (again, other):
        client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_requests_that_come_ahead_are_answered_in_turn(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post(UNARY, b"{}") + get("/healthz") + get("/nowhere"))
    wire = await upstream.connection()
    assert client.received == b""
    wire.send(JSON_HEAD + b'Content-Length: 7\r\n\r\n{"a":1}')
    await client.until(b"NOT_FOUND")
    assert [int(part[:3]) for part in client.received.split(b"HTTP/1.1 ")[1:]] == [200, 200, 404]
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_too_much_that_comes_ahead_ends_the_connection_after_the_answer(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """It is read, so that a client that leaves is noticed, but not kept."""
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post(UNARY, b"{}"))
    wire = await upstream.connection()
    client.send(get("/healthz") * (2 + MAX_AHEAD // len(get("/healthz"))))
    await eventually(lambda: not next(iter(running.site.channels)).stays_open, "the requests to have come")
    wire.send(JSON_HEAD + b'Content-Length: 7\r\n\r\n{"a":1}')
    received = await client.closed()
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.endswith(b'{"a":1}')


@pytest_twisted.ensureDeferred
async def test_while_it_stops_nothing_begins_and_readiness_says_so(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """Health stays good, what is under way is finished."""
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post(STREAM, b"{}"))
    wire = await upstream.connection()
    wire.send(SSE_HEAD + chunk(b'data: {"a":1}\r\n\r\n'))
    await client.until(b'{"a":1}')
    running.site.draining = True
    assert b"HTTP/1.1 503 " in await told(running.port, "/readyz")
    assert b'{"status":"ok"}' in await told(running.port, "/healthz")
    refused = await connect(running.port)
    refused.send(post(UNARY, b"{}"))
    await refusal(refused, 503, "is stopping")
    wire.send(chunk(b'data: {"b":2}\r\n\r\n') + b"0\r\n\r\n")
    await client.until(b'{"b":2}', b"0\r\n\r\n")
    client.transport.abortConnection()


class Page(Resource):
    """A page as twisted.web's own manual has it."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        request.setHeader(
            "X-Seen", b"; ".join([request.args[b"a"][0], request.getCookie(b"c"), request.getHeader(b"X-H")])
        )
        request.addCookie(b"session", b"1", httpOnly=True)
        request.setETag(b'"tag"')
        return b"<p>hello</p>" * 10

    def render_POST(self, request: Any) -> bytes:
        request.redirect(b"/page?" + request.content.read())
        return b""


class Pages:
    """A plugin of pages."""

    @hookimpl
    def agm_resources(self) -> dict[str, Any]:
        return {"page": Page(), "small": EncodingResourceWrapper(Page(), [GzipEncoderFactory()])}


@pytest_twisted.ensureDeferred
async def test_a_plugins_page_has_all_of_twisted_webs_request(gateway: GatewayFactory) -> None:
    running = await gateway("", plugins=[Pages()])
    client = await connect(running.port)
    given = ("Cookie: c=crumb; d=e", "X-H: head", "Accept-Encoding: gzip")
    client.send(get("/page?a=b%20c", *given))
    page = await client.until(b"<p>hello</p>" * 10)
    assert b"X-Seen: b c; crumb; head\r\n" in page
    assert b"Content-Type: text/html\r\n" in page
    assert b"Set-Cookie: session=1; HttpOnly\r\n" in page
    assert b'ETag: "tag"\r\n' in page
    assert b"X-Agm-Request-Id: " in page
    client.received = b""
    client.send(get("/page?a=b", *given, method="HEAD"))
    head = await client.until(b"\r\n\r\n")
    assert b"Content-Length: 120\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    client.received = b""
    client.send(post("/page", b"to=there"))
    moved = await client.until(b"\r\n\r\n")
    assert moved.startswith(b"HTTP/1.1 302 Found\r\n")
    assert b"Location: /page?to=there\r\n" in moved
    client.received = b""
    client.send(get("/small?a=b", *given, "Connection: close"))
    head, _, body = (await client.closed()).partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    if b"chunked" in head:
        pieces = body.split(b"\r\n")
        body = b"".join(pieces[1::2])
    assert gzip.decompress(body) == b"<p>hello</p>" * 10
