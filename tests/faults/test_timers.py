"""The timers of [timeouts]: each ends what it is for, in its own words, and closes what it was about."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
import pytest_twisted

from agm.config import TimeoutsConfig
from agm.serving.attempts import first_byte_within
from agm.testing import GatewayFactory
from tests.faults.misbehaving import Clients, Shape, configuration
from tests.faults.seen import outcome, seen_by
from tests.helpers.support import ScriptedUpstream, Wire, chunk, eventually, post, settle

ASK = b'{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}'


@pytest.fixture
def full() -> Iterator[str]:
    """The address of a socket that listens and has no room in its backlog: nothing answers who wants to connect."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
            waiting.append(client)
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        for client in waiting:
            client.close()


def error_of(client: Wire) -> tuple[int, str, str]:
    """Status, message and reason of an error."""
    seen = seen_by(client)
    assert seen is not None
    error = json.loads(seen.body)["error"]
    return seen.status, error["message"], error["details"][0]["reason"]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_connect_ends_the_wait_for_a_connection(
    gateway: GatewayFactory, clients: Clients, shape: Shape, full: str, scheme: str
) -> None:
    running = await gateway(configuration(shape.kind, f"{scheme}://{full}", timeouts="connect = 0.2"))
    client = await clients(running)
    client.send(post(shape.target))
    assert await outcome(client, shape) == "504"
    _, message, reason = error_of(client)
    assert reason == "CONNECT_TIMEOUT"
    assert "[timeouts] connect" in message
    assert not any(running.gateway.pool.loads().values())


@pytest_twisted.ensureDeferred
async def test_connect_covers_the_agreement_on_tls(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    """The upstream takes the connection, and says nothing to the greeting."""
    url = upstream.url.replace("http://", "https://")
    running = await gateway(configuration(shape.kind, url, timeouts="connect = 0.2"))
    client = await clients(running)
    client.send(post(shape.target))
    assert await outcome(client, shape) == "504"
    assert error_of(client)[2] == "CONNECT_TIMEOUT"
    await upstream.connections[0].closed()


@pytest_twisted.ensureDeferred
async def test_connect_makes_another_account_serve(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape, full: str
) -> None:
    running = await gateway(configuration(shape.kind, f"http://{full}", upstream.url, timeouts="connect = 0.2"))
    client = await clients(running)
    client.send(post(shape.target))
    (await upstream.connection()).send(shape.with_length)
    assert await outcome(client, shape) == "served"


@pytest_twisted.ensureDeferred
async def test_first_byte_ends_the_wait_for_an_answer(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, timeouts="first_byte = 0.2"))
    client = await clients(running)
    client.send(post(shape.target))
    up = await upstream.connection()
    assert await outcome(client, shape) == "504"
    _, message, reason = error_of(client)
    assert reason == "FIRST_BYTE_TIMEOUT"
    assert "within 0.2 seconds" in message
    await up.closed()


@pytest_twisted.ensureDeferred
async def test_first_byte_is_not_pushed_away_by_bytes_of_a_head_or_interim_answers(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, timeouts="first_byte = 0.4"))
    client = await clients(running)
    client.send(post(shape.target))
    up = await upstream.connection()
    while not client.received:
        up.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await settle(0.05)
        assert len(up.received) < 1_000_000
    assert await outcome(client, shape) == "504"


@pytest.mark.parametrize("begun", [False, True], ids=["before its head", "behind its head"])
@pytest_twisted.ensureDeferred
async def test_first_byte_is_as_long_as_the_client_asks_with_x_server_timeout(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape, begun: bool
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, timeouts="first_byte = 0.1\nidle = 0.2"))
    client = await clients(running)
    client.send(post(shape.target, ASK, "X-Server-Timeout: 30"))
    up = await upstream.connection()
    assert b"X-Server-Timeout: 30\r\n" in up.received
    head = shape.head(f"Content-Length: {len(shape.whole)}")
    if begun:
        up.send(head)
    await settle(0.5)
    up.send(shape.whole if begun else head + shape.whole)
    assert await outcome(client, shape) == "served"


@pytest_twisted.ensureDeferred
async def test_what_the_client_asks_for_is_not_beyond_total(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, timeouts="first_byte = 0.1\ntotal = 0.4"))
    client = await clients(running)
    client.send(post(shape.target, ASK, "X-Server-Timeout: 3600"))
    up = await upstream.connection()
    assert await outcome(client, shape) == "504"
    assert b"0.4 seconds" in client.received
    await up.closed()


@pytest.mark.parametrize(
    ("asked", "within"),
    [
        ("600", 600.0),
        ("30000", 3600.0),
        ("299", 300.0),
        ("600.5", 600.5),
        ("0", 300.0),
        *((text, 300.0) for text in ("", "-600", "+600", "1e3", "600s", "0x400", "nan", "inf", "600 ", "9" * 40)),
    ],
)
def test_x_server_timeout_lengthens_first_byte_up_to_total_and_is_ignored_where_it_is_no_number(
    asked: str, within: float
) -> None:
    """What is wrong with it is the upstream's to say: it gets the header as it is."""
    assert first_byte_within({"x-server-timeout": asked}, TimeoutsConfig()) == within
    assert first_byte_within({}, TimeoutsConfig()) == 300.0


@pytest_twisted.ensureDeferred
async def test_idle_cuts_an_answer_that_falls_silent(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, timeouts="idle = 0.2"))
    client = await clients(running)
    client.send(post(shape.target))
    up = await upstream.connection()
    up.send(shape.head("Transfer-Encoding: chunked") + chunk(shape.pieces[0]))
    assert await outcome(client, shape) == ("502" if shape.collected else "cut")
    if shape.framing == "sse":
        assert b"sent nothing for 0.2 seconds" in client.received
    await up.closed()


@pytest_twisted.ensureDeferred
async def test_idle_starts_anew_with_every_piece(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, timeouts="idle = 0.5"))
    client = await clients(running)
    client.send(post(shape.target))
    up = await upstream.connection()
    up.send(shape.head("Transfer-Encoding: chunked"))
    whole = shape.whole
    for at in range(0, len(whole), len(whole) // 8 + 1):
        up.send(chunk(whole[at : at + len(whole) // 8 + 1]))
        await settle(0.1)  # in all more than [timeouts] idle
    up.send(b"0\r\n\r\n")
    assert await outcome(client, shape) == "served"


@pytest.mark.parametrize("begun", [False, True], ids=["before the first byte", "in the middle"])
@pytest_twisted.ensureDeferred
async def test_total_ends_an_exchange_however_busy(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape, begun: bool
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, timeouts="total = 0.3"))
    client = await clients(running)
    client.send(post(shape.target))
    up = await upstream.connection()
    if begun:
        up.send(shape.head("Transfer-Encoding: chunked") + chunk(shape.pieces[0]))
    assert await outcome(client, shape) == ("cut" if begun and not shape.collected else "504")
    if shape.framing == "sse" or not begun:
        assert b"0.3 seconds" in client.received
    await up.closed()
    assert not any(running.gateway.pool.loads().values())


@pytest_twisted.ensureDeferred
async def test_total_ends_the_wait_for_an_account(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(
        configuration(shape.kind, upstream.url, timeouts="total = 0.4", account="max_concurrency = 1")
    )
    first, second = await clients(running), await clients(running)
    first.send(post(shape.target))
    await upstream.connection()
    second.send(post(shape.target))
    assert await outcome(second, shape) == "504"
    assert not running.gateway.pool.waiting()


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1beta/mo",
        b"POST /v1beta/models/m:generateContent HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        post("/v1beta/models/m:generateContent")[:-1],
        post("/v1beta/models/m:generateContent").replace(b"Content-Length: 53", b"Transfer-Encoding: chunked")[:-60],
    ],
    ids=["in its first line", "in its head", "in its body", "in its chunks"],
)
@pytest_twisted.ensureDeferred
async def test_request_read_ends_a_request_that_does_not_come(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, sent: bytes
) -> None:
    running = await gateway(configuration("api-key", upstream.url, timeouts="request_read = 0.3"))
    client = await clients(running)
    client.send(sent)
    await client.closed()
    status, message, reason = error_of(client)
    assert (status, reason) == (408, "REQUEST_TIMEOUT")
    assert "[timeouts] request_read" in message
    assert not upstream.connections


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /healthz HTTP/1.1\r\nX-",
        post("/v1beta/models/m:generateContent", b"x" * 5000)[:-4999],
        post("/v1beta/models/m:generateContent", b"{").replace(b"Content-Length: 1", b"Transfer-Encoding: chunked")[:-1]
        + b"fff\r\n",
    ],
    ids=["in its head", "in its body", "in a chunk"],
)
@pytest_twisted.ensureDeferred
async def test_request_read_is_not_pushed_away_by_single_bytes(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, begun: bytes
) -> None:
    running = await gateway(configuration("api-key", upstream.url, timeouts="request_read = 0.4"))
    client = await clients(running)
    client.send(begun)
    sent = 0
    while client.lost is None and not client.received:
        client.send(b"x")
        sent += 1
        assert sent < 500, "it was read for ten times as long as request_read"
        await settle(0.01)
    await client.until(b" 408 ", b"REQUEST_TIMEOUT")


@pytest_twisted.ensureDeferred
async def test_request_read_closes_an_idle_connection_quietly(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients
) -> None:
    running = await gateway(configuration("api-key", upstream.url, timeouts="request_read = 0.3"))
    silent, kept = await clients(running), await clients(running)
    kept.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await kept.until(b'"ok"')
    assert await silent.closed() == b""
    assert (await kept.closed()).count(b"HTTP/1.1") == 1


@pytest_twisted.ensureDeferred
async def test_client_stall_cuts_a_client_that_takes_nothing(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, timeouts="client_stall = 0.3"))
    client = await clients(running)
    client.transport.pauseProducing()
    client.send(post(shape.target))
    up = await upstream.connection()
    text = b"x" * 20_000_000  # more than the sockets hold
    if shape.framing == "sse" or shape.kind == "code-assist":
        large = shape.pieces[0].replace(b"one", text)
    else:
        large = shape.pieces[0] + text
    if shape.collected:
        large = shape.whole.replace(b"one", text)
        up.send(shape.head(f"Content-Length: {len(large)}") + large)
    else:
        up.send(shape.head("Transfer-Encoding: chunked") + chunk(large))
    await eventually(lambda: not running.site.channels, "the client cut")
    await eventually(lambda: not any(running.gateway.pool.loads().values()), "the account given back")
    if not shape.collected:
        await up.closed()
    client.keep = False
    client.transport.resumeProducing()
    await client.closed()
