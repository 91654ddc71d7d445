"""Answers on their way to the client, as dialogues with an upstream whose every byte the test writes."""

from __future__ import annotations

import gc
import itertools
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone

from agm.testing import GatewayFactory, RunningGateway
from testbed.answers import dechunk
from tests.helpers.support import JSON_HEAD, SSE_HEAD, ScriptedUpstream, Wire, chunk, connect, eventually, post, settle

KINDS = ("api-key", "vertex", "code-assist")


def accounts(upstream: str, kind: str, count: int = 1) -> str:
    """The [[accounts]] tables of `count` accounts of a kind, at a scripted upstream."""
    credential = 'api_key = "k"' if kind == "api-key" else 'access_token = "t"\nproject = "p"'
    return "\n".join(
        f'[[accounts]]\nname = "a{n}"\nkind = "{kind}"\n{credential}\nendpoints = ["{upstream}"]' for n in range(count)
    )


def event(kind: str, text: str) -> bytes:
    """One event as an upstream of this kind sends it."""
    document = f'{{"candidates": [{{"content": {{"parts": [{{"text": "{text}"}}]}}}}]}}'
    if kind == "code-assist":
        document = f'{{"response": {document}, "traceId": "t"}}'
    return f"data: {document}\r\n\r\n".encode()


def passed(text: str) -> bytes:
    """The same event as the client gets it."""
    return event("api-key", text)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


STREAM = "/v1beta/models/m:streamGenerateContent?alt=sse"
ARRAY = "/v1beta/models/m:streamGenerateContent?alt=json"
UNARY = "/v1beta/models/m:generateContent"


async def asked(gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str, target: str, extra: str = "") -> Any:
    """A gateway with one account, a client that has asked it for `target`, and the upstream's end of that."""
    running = await gateway(extra + accounts(upstream.url, kind))
    client = await connect(running.port)
    client.send(post(target))
    return running, client, await upstream.connection()


@pytest_twisted.ensureDeferred
async def test_an_event_goes_out_before_the_next_one_comes_in(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM)
    up.send(SSE_HEAD + chunk(event(kind, "one")))
    await client.until(passed("one"))
    assert b"content-type: text/event-stream" in client.received.lower()
    up.send(chunk(event(kind, "two")))
    await client.until(passed("two"))
    up.send(b"0\r\n\r\n")
    await eventually(lambda: dechunk(client.received)[1], "the last chunk")
    assert dechunk(client.received) == (passed("one") + passed("two"), True)


@pytest_twisted.ensureDeferred
async def test_a_stream_that_breaks_off_ends_with_an_error_event_and_without_a_last_chunk(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM)
    up.send(SSE_HEAD + chunk(event(kind, "one")))
    await client.until(passed("one"))
    up.transport.abortConnection()
    body, complete = dechunk(await client.closed())
    assert body.startswith(passed("one") + b'data: {"error":')
    assert body.endswith(b"}\r\n\r\n")
    assert not complete


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("target", [STREAM, ARRAY])
async def test_http_1_0_gets_what_came_and_then_a_reset(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str, target: str
) -> None:
    running = await gateway(accounts(upstream.url, kind))
    client = await connect(running.port)
    client.send(post(target).replace(b"HTTP/1.1", b"HTTP/1.0"))
    up = await upstream.connection()
    first = event(kind, "one") if kind == "code-assist" or target == STREAM else b'[{"candidates": ["one"]}'
    up.send(SSE_HEAD + chunk(first))
    await client.until(b"one")
    up.transport.loseConnection()
    received = await client.closed()
    assert b"Transfer-Encoding" not in received
    assert (b'data: {"error":' in received) is (target == STREAM)
    assert client.lost is not None
    assert not client.lost.check(ConnectionDone), "without a framing only a reset tells that it is not the end"


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_ends_without_marking_the_end_has_broken_off(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM)
    up.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event(kind, "one"))
    await client.until(passed("one"))
    up.transport.loseConnection()
    body, complete = dechunk(await client.closed())
    assert b'data: {"error":' in body
    assert not complete


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "tail",
    [
        b'data: {"error": {"code": 503, "message": "high demand", "status": "UNAVAILABLE"}}\r\n\r\n',
        b'{\n  "error": {\n    "code": 503,\n    "message": "high demand",\n    "status": "UNAVAILABLE"\n  }\n}\n',
    ],
    ids=["event", "bare"],
)
async def test_an_error_that_ends_a_stream_is_one_event_and_then_the_connection_breaks_off(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str, tail: bytes
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM)
    up.send(SSE_HEAD + chunk(event(kind, "one")))
    await client.until(passed("one"))
    up.send(chunk(tail) + b"0\r\n\r\n")
    body, complete = dechunk(await client.closed())
    assert body.count(b'"error"') == 1
    assert b'data: {"error":' in body
    assert b'"high demand"' in body
    assert not complete


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("cut", ["reset", "no end"])
async def test_a_broken_array_is_not_closed(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str, cut: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, ARRAY)
    first = event(kind, "one") if kind == "code-assist" else b'[{"candidates": ["one"]}\n,\r\n'
    up.send(SSE_HEAD + chunk(first))
    await client.until(b"one")
    if cut == "reset":
        up.transport.abortConnection()
    else:
        up.send(chunk(b'{"error": {"code": 500, "message": "x", "status": "INTERNAL"}}') + b"0\r\n\r\n")
    body, complete = dechunk(await client.closed())
    assert body.startswith(b"[")
    assert not complete


@pytest_twisted.ensureDeferred
async def test_a_unary_answer_that_breaks_off_is_not_complete(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    _, client, up = await asked(gateway, upstream, "api-key", UNARY)
    up.send(JSON_HEAD + b"Content-Length: 100\r\n\r\n" + b'{"half":')
    await client.until(b'{"half":')
    up.transport.loseConnection()
    received = await client.closed()
    assert b"Content-Length: 100" in received
    assert len(received.partition(b"\r\n\r\n")[2]) < 100


@pytest_twisted.ensureDeferred
async def test_an_answer_that_has_to_be_unwrapped_whole_and_breaks_off_is_an_error(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    _, client, up = await asked(gateway, upstream, "code-assist", UNARY)
    up.send(JSON_HEAD + b"Content-Length: 100\r\n\r\n" + b'{"response":')
    await settle()
    up.transport.loseConnection()
    await client.until(b'"code": 502')
    assert len(upstream.connections) == 1, "an answer that had begun is not asked for again"


@pytest_twisted.ensureDeferred
async def test_a_client_that_reads_nothing_holds_back_the_upstream(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM)
    client.transport.pauseProducing()
    piece = chunk(event(kind, "x" * 65_000))
    up.send(SSE_HEAD)
    sent = 0
    for _ in range(2000):  # 130 MB in all
        up.send(piece)
        sent += len(piece)
        if sent % (16 * len(piece)) == 0:
            await settle(0)
    await settle(1.0)
    buffered = len(up.transport.dataBuffer) + up.transport._tempDataLen
    assert buffered > sent - 32 * 1024 * 1024, "the gateway took more than two socket buffers full"
    client.keep = False
    client.transport.resumeProducing()
    up.send(b"0\r\n\r\n")
    await eventually(lambda: client.count > sent * 0.9 and not len(up.transport.dataBuffer), "the whole stream")


@pytest_twisted.ensureDeferred
async def test_a_slow_client_holds_back_an_upstream_that_sent_its_head_and_first_event_at_once(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM)
    client.transport.pauseProducing()
    piece = chunk(event(kind, "x" * 65_000))
    up.send(SSE_HEAD + piece)
    for number in range(1000):  # 65 MB in all
        up.send(piece)
        if number % 16 == 0:
            await settle(0)
    await settle(1.0)
    buffered = len(up.transport.dataBuffer) + up.transport._tempDataLen
    assert buffered > 32 * 1024 * 1024, "the gateway took more than two socket buffers full"
    client.transport.abortConnection()
    await up.closed()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("target", [STREAM, ARRAY, UNARY], ids=["sse", "array", "unary"])
@pytest.mark.parametrize("moment", ["before the head", "after the head", "streaming", "paused"])
async def test_a_client_that_leaves_ends_the_upstream_request(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str, target: str, moment: str
) -> None:
    running, client, up = await asked(gateway, upstream, kind, target)
    if moment != "before the head":
        up.send(SSE_HEAD)
    if moment in ("streaming", "paused"):
        up.send(chunk(event(kind, "one")))
        await settle()
    if moment == "paused":
        client.transport.pauseProducing()
        for _ in range(200):
            up.send(chunk(event(kind, "x" * 65_000)))
        await settle()
    else:
        await settle()
    client.transport.abortConnection()
    await up.closed()
    await eventually(lambda: not any(running.gateway.pool.loads().values()), "the lease given back")


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_a_stream_leaves_nothing_behind(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    """No circle of references: with its bytes it would stay until the next full collection, and those are rare."""
    running, client, up = await asked(gateway, upstream, kind, STREAM)
    up.send(SSE_HEAD + chunk(event(kind, "one")))
    await eventually(lambda: client.count)
    (channel,) = running.site.channels
    left = [ref(channel.request), ref(channel.request.producer), ref(channel.request.producer._body)]
    del channel
    gc.collect()
    gc.disable()
    try:
        client.transport.abortConnection()
        await up.closed()
        await eventually(lambda: not any(it() is not None for it in left), "the relay is gone")
    finally:
        gc.enable()


@pytest_twisted.ensureDeferred
async def test_nothing_is_tried_for_a_client_that_has_left(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    running = await gateway(accounts(upstream.url, kind, 3))
    client = await connect(running.port)
    client.send(post(UNARY))
    up = await upstream.connection()
    client.transport.abortConnection()
    await up.closed()
    await settle()
    assert len(upstream.connections) == 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_takes_nothing_for_too_long_is_cut(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM, "[timeouts]\nclient_stall = 0.5\n")
    client.transport.pauseProducing()
    up.send(SSE_HEAD)
    for _ in range(200):
        up.send(chunk(event(kind, "x" * 65_000)))
    await up.closed()
    client.keep = False
    client.transport.resumeProducing()
    await client.closed()


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_falls_silent_is_given_up(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM, "[timeouts]\nidle = 0.4\n")
    up.send(SSE_HEAD + chunk(event(kind, "one")))
    body, complete = dechunk(await client.closed())
    assert b"sent nothing for 0.4 seconds" in body
    assert not complete
    await up.closed()


@pytest_twisted.ensureDeferred
async def test_an_upstream_without_a_first_byte_is_504_at_once(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM, "[timeouts]\nfirst_byte = 0.4\n")
    await client.until(b"504 Gateway Timeout", b"DEADLINE_EXCEEDED")
    await up.closed()
    assert len(upstream.connections) == 1


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("begun", [False, True], ids=["before the first byte", "streaming"])
async def test_the_total_time_ends_a_request(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str, begun: bool
) -> None:
    _, client, up = await asked(gateway, upstream, kind, STREAM, "[timeouts]\ntotal = 0.5\n")
    if begun:
        up.send(SSE_HEAD + chunk(event(kind, "one")))
        body, complete = dechunk(await client.closed())
        assert body.startswith(passed("one") + b'data: {"error":')
        assert b"longer than 0.5 seconds in all" in body
        assert not complete
    else:
        await client.until(b"504 Gateway Timeout")
    await up.closed()


@pytest_twisted.ensureDeferred
async def test_a_stream_cut_anywhere_gives_the_same_events(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    running = await gateway(accounts(upstream.url, kind))
    stream = event(kind, "größe") + event(kind, "two").replace(b"\r\n", b"\n")
    number = itertools.count()
    for at in range(0, len(stream), 7):
        client = await connect(running.port)
        client.send(post(STREAM, b"{}", "Connection: close"))
        up = await upstream.connection(next(number))
        up.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(stream) + stream[:at])
        await settle(0.005)
        up.send(stream[at:])
        body, complete = dechunk(await client.closed())
        if kind == "code-assist":
            assert body == passed("größe") + passed("two")
        else:
            assert body == stream
        assert complete


@pytest_twisted.ensureDeferred
async def test_an_empty_stream_is_a_failure_that_another_account_hides(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    running = await gateway(accounts(upstream.url, kind, 2))
    client = await connect(running.port)
    client.send(post(STREAM))
    up = await upstream.connection()
    up.send(SSE_HEAD + b"0\r\n\r\n")
    up.received = b""
    await eventually(lambda: b"alt=sse" in up.received or len(upstream.connections) > 1, "a second attempt")
    second = upstream.connections[-1]
    second.send(SSE_HEAD + chunk(event(kind, "two")) + b"0\r\n\r\n")
    await client.until(passed("two"), b"\r\n0\r\n\r\n")
    assert b" 200 OK" in client.received


@pytest_twisted.ensureDeferred
async def test_connections_are_reused_and_a_stale_one_costs_nothing(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    running = await gateway(accounts(upstream.url, kind))
    answer = b'{"response": {"n": 1}}' if kind == "code-assist" else b'{"n": 1}'

    async def ask(up: Wire | None, number: int) -> Wire:
        client = await connect(running.port)
        if up is not None:
            up.received = b""
        client.send(post(UNARY, b"{}", "Connection: close"))
        up = await upstream.connection(number)
        up.send(JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(answer) + answer)
        assert (await client.closed()).endswith(b'{"n": 1}')
        return up

    up = await ask(None, 0)
    await ask(up, 0)
    client = await connect(running.port)
    up.received = b""
    client.send(post(UNARY, b"{}"))
    await upstream.connection(0)
    up.transport.loseConnection()  # as an upstream does that closes an idle connection just then
    second = await upstream.connection(1)
    second.send(JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(answer) + answer)
    await client.until(b'{"n": 1}')


@pytest_twisted.ensureDeferred
async def test_a_request_on_a_new_connection_that_closes_is_not_silently_sent_again_there(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    _, client, up = await asked(gateway, upstream, kind, UNARY)
    up.transport.loseConnection()
    await client.until(b"502 Bad Gateway", b"CONNECTION_LOST")
    assert len(upstream.connections) == 1


@pytest_twisted.ensureDeferred
async def test_what_the_hop_says_stays_on_the_hop(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    running = await gateway('[auth]\nmode = "off"\n' + accounts(upstream.url, "api-key"))
    client = await connect(running.port)
    client.send(
        post(
            UNARY + "?key=client-secret&prettyPrint=false",
            b"{}",
            "x-goog-api-key: client-secret",
            "Cookie: a=b",
            "X-Forwarded-For: 1.2.3.4",
            "X-Server-Timeout: 30",
        )
    )
    up = await upstream.connection()
    assert b"client-secret" not in up.received
    assert b"Cookie" not in up.received
    assert b"Forwarded" not in up.received
    assert b"X-Server-Timeout: 30" in up.received
    assert up.received.startswith(b"POST /v1beta/models/m:generateContent?prettyPrint=false HTTP/1.1\r\n")
    up.send(JSON_HEAD + b"Set-Cookie: x=y\r\nAlt-Svc: h3\r\nServer: other\r\nContent-Length: 2\r\n\r\n{}")
    await client.until(b"\r\n\r\n{}")
    assert b"Set-Cookie" not in client.received
    assert b"Alt-Svc" not in client.received
    assert b"other" not in client.received
    assert b"Accept-Encoding: identity" in up.received


@pytest_twisted.ensureDeferred
async def test_what_is_cut_at_the_end_of_the_drain_is_told_in_its_own_form(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    running, streaming, up = await asked(gateway, upstream, kind, STREAM)
    up.send(SSE_HEAD + chunk(event(kind, "one")))
    await streaming.until(passed("one"))
    waiting = await connect(running.port)
    waiting.send(post(UNARY))
    silent = await upstream.connection(1)
    await running.site.drain(0.1)
    body, complete = dechunk(await streaming.closed())
    assert body.startswith(passed("one") + b'data: {"error":')
    assert b"The gateway is stopping." in body
    assert not complete
    assert b"503 Service Unavailable" in await waiting.closed()
    assert b"STOPPING" in waiting.received
    await up.closed()
    await silent.closed()


@pytest_twisted.ensureDeferred
async def test_stopping_lets_answers_finish_and_closes_idle_connections(
    gateway: GatewayFactory, upstream: ScriptedUpstream, kind: str
) -> None:
    running: RunningGateway
    running, client, up = await asked(gateway, upstream, kind, STREAM)
    idle = await connect(running.port)
    up.send(SSE_HEAD + chunk(event(kind, "one")))
    await client.until(passed("one"))
    from twisted.internet.defer import Deferred

    draining = Deferred.fromCoroutine(running.site.drain(5))
    await idle.closed()
    assert not draining.called
    up.send(chunk(event(kind, "two")) + b"0\r\n\r\n")
    assert dechunk(await client.closed()) == (passed("one") + passed("two"), True)
    await draining
