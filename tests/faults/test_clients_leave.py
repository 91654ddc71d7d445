"""
A client that leaves: whatever the state, the upstream's connection is closed and the account given back.

By a FIN or by a reset, over HTTP/1.0 and HTTP/1.1, with nothing behind the request or with 100 KB that nobody reads.
A FIN here is a half-close with nothing read any more: the least that a client does when it goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.task import LoopingCall

from agm.testing import GatewayFactory, RunningGateway
from tests.faults.misbehaving import TARGETS, Clients, Shape, configuration
from tests.helpers.support import ScriptedUpstream, Wire, chunk, eventually, post, reactor, settle

#: Seconds after which an upstream's connection that is still open counts as kept.
SOON = 2.0

SHAPES = [Shape(kind, framing) for kind in ("api-key", "code-assist") for framing in TARGETS]
SHAPES += [Shape("api-key", "sse", "openai"), Shape("vertex", "sse", "shaped")]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> Shape:
    """Answers that pass as they are, and such that are unwrapped, in each framing."""
    found: Shape = request.param
    return found


@pytest.fixture(params=["1.0", "1.1"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["FIN", "reset"])
def leave(request: pytest.FixtureRequest) -> Callable[[Wire], None]:
    """How a client goes."""

    def go(client: Wire) -> None:
        if request.param == "FIN":
            client.transport.loseWriteConnection()
        else:
            client.transport.abortConnection()

    return go


@pytest.fixture(params=[b"", b"POST /v1beta/mod" + b"x" * 100_000], ids=["", "100 KB behind"])
def behind(request: pytest.FixtureRequest) -> bytes:
    """What comes behind the request, and is never read as one."""
    found: bytes = request.param
    return found


def asking(shape: Shape, version: str, behind: bytes) -> bytes:
    return post(shape.target, shape.body).replace(b"HTTP/1.1", f"HTTP/{version}".encode()) + behind


def filler(shape: Shape) -> bytes:
    """A chunk of 65 KB in the middle of an answer."""
    text = b"x" * 65_000
    if shape.framing == "unary":
        return chunk(text)
    if shape.framing == "sse" or shape.kind == "code-assist":
        wrapped = b'{"response": {"t": "%b"}}' if shape.kind == "code-assist" else b'{"t": "%b"}'
        return chunk(b"data: " + wrapped % text + b"\r\n\r\n")
    return chunk(b'{"t": "%b"}\n,\r\n' % text)


async def assert_cancelled(running: RunningGateway, up: Wire) -> None:
    await eventually(lambda: up.lost is not None, "the upstream's connection closed", SOON)
    await eventually(lambda: not any(running.gateway.pool.loads().values()), "the account given back")


@pytest_twisted.ensureDeferred
async def test_before_the_upstream_says_anything(
    gateway: GatewayFactory,
    upstream: ScriptedUpstream,
    clients: Clients,
    shape: Shape,
    version: str,
    leave: Callable[[Wire], None],
    behind: bytes,
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url))
    client = await clients(running)
    client.send(asking(shape, version, behind))
    up = await upstream.connection()
    leave(client)
    await assert_cancelled(running, up)
    assert len(upstream.connections) == 1, "nothing is tried for a client that has left"


@pytest_twisted.ensureDeferred
async def test_while_the_upstream_is_silent(
    gateway: GatewayFactory,
    upstream: ScriptedUpstream,
    clients: Clients,
    shape: Shape,
    version: str,
    leave: Callable[[Wire], None],
    behind: bytes,
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url))
    client = await clients(running)
    client.send(asking(shape, version, behind))
    up = await upstream.connection()
    up.send(shape.head("Transfer-Encoding: chunked") + chunk(shape.pieces[0]))
    if shape.collected:
        await settle()
    else:
        await client.until(b"one")
    leave(client)
    await assert_cancelled(running, up)


@pytest_twisted.ensureDeferred
async def test_while_the_answer_streams(
    gateway: GatewayFactory,
    upstream: ScriptedUpstream,
    clients: Clients,
    shape: Shape,
    version: str,
    leave: Callable[[Wire], None],
    behind: bytes,
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url))
    client = await clients(running)
    client.keep = False
    client.send(asking(shape, version, behind))
    up = await upstream.connection()
    up.send(shape.head("Transfer-Encoding: chunked") + chunk(shape.pieces[0]))
    streaming = LoopingCall(lambda: up.lost is None and up.send(filler(shape)))
    streaming.clock = reactor
    done = streaming.start(0.002)
    try:
        if shape.collected:
            await settle()
        else:
            await eventually(lambda: client.count > 500_000, "a stream")
        leave(client)
        await assert_cancelled(running, up)
    finally:
        streaming.stop()
        await done


# A unary answer that is collected has been taken from the upstream before its client can be slow.
@pytest.mark.parametrize("shape", [s for s in SHAPES if not s.collected], indirect=True, ids=str)
@pytest_twisted.ensureDeferred
async def test_while_it_reads_nothing(
    gateway: GatewayFactory,
    upstream: ScriptedUpstream,
    clients: Clients,
    shape: Shape,
    version: str,
    leave: Callable[[Wire], None],
    behind: bytes,
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url))
    client = await clients(running)
    client.transport.pauseProducing()
    client.send(asking(shape, version, behind))
    up = await upstream.connection()
    up.send(shape.head("Transfer-Encoding: chunked") + chunk(shape.pieces[0]))
    for _ in itertools.takewhile(lambda _: not buffered(up), range(4000)):  # until it is held back
        up.send(filler(shape))
        await settle(0)
    assert buffered(up), "the upstream is held back"
    await settle(0.05)
    leave(client)
    await assert_cancelled(running, up)


def buffered(up: Wire) -> int:
    """Bytes that an upstream cannot get rid of: more than its own socket takes at once."""
    waiting = len(up.transport.dataBuffer) - up.transport.offset + up.transport._tempDataLen
    return waiting if waiting > 4 * 65_000 else 0


@pytest_twisted.ensureDeferred
async def test_while_it_is_lined_up_for_an_account(
    gateway: GatewayFactory,
    upstream: ScriptedUpstream,
    clients: Clients,
    shape: Shape,
    version: str,
    leave: Callable[[Wire], None],
    behind: bytes,
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, account="max_concurrency = 1"))
    pool = running.gateway.pool
    first = await clients(running)
    first.send(post(shape.target, shape.body))
    up = await upstream.connection()
    second = await clients(running)
    second.send(asking(shape, version, behind))
    await eventually(pool.waiting, "a request that waits")
    leave(second)
    await eventually(lambda: not pool.waiting(), "nobody who waits")
    assert list(pool.loads().values()) == [1], "the first one is not touched"
    up.send(shape.with_length)
    await first.until(b"one")
    await eventually(lambda: not any(pool.loads().values()), "the account given back")
    assert up.received.count(b"POST ") == 1
    assert len(upstream.connections) == 1
