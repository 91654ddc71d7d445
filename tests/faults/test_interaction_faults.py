"""
Every fault of an upstream for the Interactions API: one document, and a stream of named events.

As in :mod:`tests.faults.test_upstream_faults`, but that a creation may have been acted on whenever it was answered at
all: an empty answer, or an error that does not say that nothing was done, is not asked of anybody else.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone

from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from testbed.answers import Seen
from tests.faults.misbehaving import FAULTS, Clients, Do, Ends, Fault, MisbehavingUpstream, Shape, configuration
from tests.helpers.support import ScriptedUpstream, Wire, chunk, eventually, post, settle

GOOD = next(fault for fault in FAULTS if fault.name == "a good answer")
#: Of these nobody can tell whether they were acted on.
PERHAPS_DONE = {"an empty 200", "an empty 200 in chunks", "204", "204 with a length", "500 with no body"}
CREATED = {"interaction": {"id": "v1_a", "status": "in_progress"}, "event_type": "interaction.created"}
COMPLETED = {"interaction": {"id": "v1_a", "status": "completed"}, "event_type": "interaction.completed"}
DONE = b"event: done\ndata: [DONE]\n\n"
Upstreams = Callable[..., MisbehavingUpstream]


def framed(event: dict[str, Any]) -> bytes:
    return f"event: {event['event_type']}\ndata: {json.dumps(event)}\n\n".encode()


class InteractionShape(Shape):
    """What an upstream answers where an interaction was created; `framing` is ``unary`` or ``sse``."""

    @property
    def target(self) -> str:
        return "/v1beta/interactions"

    @property
    def asking(self) -> bytes:
        """The request."""
        body = {"model": "m", "input": "hi", "stream": self.framing == "sse"}
        return post(self.target, json.dumps(body).encode())

    @property
    def pieces(self) -> tuple[bytes, bytes]:
        if self.framing == "sse":
            return framed(CREATED), framed(COMPLETED) + DONE
        whole = json.dumps({"id": "v1_a", "status": "completed", "steps": []}).encode()
        return whole[:30], whole[30:]

    def head(self, *lines: str, status: str = "200 OK", version: str = "1.1") -> bytes:
        type_ = "text/event-stream" if self.framing == "sse" else "application/json"
        return "\r\n".join([f"HTTP/{version} {status}", f"Content-Type: {type_}", *lines, "", ""]).encode()


@pytest.fixture(params=["unary", "sse"])
def shape(request: pytest.FixtureRequest) -> InteractionShape:
    """One document, and a stream."""
    return InteractionShape("api-key", request.param)


@pytest_twisted.async_yield_fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    """A function that makes upstreams."""
    made: list[MisbehavingUpstream] = []

    def make(fault: Fault, shape: Shape, *, at_once: bool = False) -> MisbehavingUpstream:
        made.append(MisbehavingUpstream(fault, shape, at_once=at_once))
        return made[-1]

    yield make
    for upstream in made:
        await upstream.stop()


def seen_by(client: Wire) -> Seen | None:
    return Seen.parse(client.received, ended=client.lost is not None and bool(client.lost.check(ConnectionDone)))


async def ask(client: Wire, shape: InteractionShape, upstream: MisbehavingUpstream | None = None) -> str:
    """Ask, and tell how the answer ended: ``served``, ``cut``, or a status."""
    if upstream is not None:
        upstream.shown = lambda: (seen := seen_by(client)) is not None and seen.body
    client.send(shape.asking)

    def over() -> bool:
        seen = seen_by(client)
        return client.lost is not None or (seen is not None and seen.complete)

    await eventually(over, "the end of the answer")
    seen = seen_by(client)
    assert seen is not None, f"closed without an answer: {client.received!r}"
    if seen.status != 200:
        assert seen.complete, "half an error"
        assert json.loads(seen.body)["error"]["message"]
        return str(seen.status)
    if seen.complete:
        assert seen.body == shape.whole, "an answer that looks complete is not"
        return "served"
    if shape.framing == "sse":
        good, _, last = seen.body.rpartition(b"event: error\ndata: ")
        assert shape.whole.startswith(good)
        error = json.loads(last)
        assert error["event_type"] == "error"
        assert isinstance(error["error"]["code"], str)
        assert last.endswith(b"\n\n")
    else:
        assert shape.whole.startswith(seen.body)
    return "cut"


async def assert_given_back(running: RunningGateway) -> None:
    await eventually(lambda: not any(running.gateway.pool.loads().values()), "the account given back")


def ends(fault: Fault) -> Ends:
    return Ends.LOST if fault.name in PERHAPS_DONE else fault.ends


def status_of(fault: Fault) -> str:
    return "500" if fault.name == "500 with no body" else str(fault.status)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest_twisted.ensureDeferred
async def test_a_fault_with_another_account_beside_it(
    gateway: GatewayFactory, upstreams: Upstreams, clients: Clients, shape: InteractionShape, fault: Fault
) -> None:
    bad, good = upstreams(fault, shape), upstreams(GOOD, shape)
    running = await gateway(configuration(shape.kind, bad.url, good.url, timeouts=fault.timeouts))
    ended = await ask(await clients(running), shape, bad)
    match ends(fault):
        case Ends.SERVED:
            assert (ended, len(bad.requests), len(good.requests)) == ("served", 1, 0)
        case Ends.ELSEWHERE | Ends.AGAIN:
            assert (ended, len(bad.requests), len(good.requests)) == ("served", 1, 1)
        case Ends.LOST | Ends.LATE | Ends.REFUSED:
            assert (ended, len(good.requests)) == (status_of(fault), 0)
            assert len(bad.requests) == (0 if fault.before else 1)
        case Ends.CUT:
            assert (ended, len(bad.requests), len(good.requests)) == ("cut", 1, 0)
    await assert_given_back(running)
    if ends(fault) in (Ends.LATE, Ends.CUT):
        await eventually(lambda: not bad.open, "the upstream's connection closed")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if Do.SHOWN in fault.steps], ids=lambda fault: fault.name)
@pytest_twisted.ensureDeferred
async def test_a_fault_that_comes_with_the_first_bytes(
    gateway: GatewayFactory, upstreams: Upstreams, clients: Clients, shape: InteractionShape, fault: Fault
) -> None:
    bad = upstreams(fault, shape, at_once=True)
    running = await gateway(configuration(shape.kind, bad.url, timeouts=fault.timeouts))
    ended = await ask(await clients(running), shape)
    assert ended == "served" if fault.ends is Ends.SERVED else ended in ("cut", "502")
    assert len(bad.requests) == 1
    await assert_given_back(running)


@pytest.mark.parametrize("how", ["FIN", "reset"])
@pytest.mark.parametrize("begun", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_it_upstream(
    gateway: GatewayFactory, clients: Clients, shape: InteractionShape, begun: bool, how: str
) -> None:
    upstream = ScriptedUpstream()
    running = await gateway(configuration(shape.kind, upstream.url))
    client = await clients(running)
    client.send(shape.asking)
    up = await upstream.connection()
    if begun:
        up.send(shape.head("Transfer-Encoding: chunked") + chunk(shape.pieces[0]))
        await client.until(shape.pieces[0][:20])
    client.transport.loseWriteConnection() if how == "FIN" else client.transport.abortConnection()
    await eventually(lambda: up.lost is not None, "the upstream's connection closed")
    await assert_given_back(running)
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_holds_the_upstream_back(
    gateway: GatewayFactory, emulator: RunningEmulator, clients: Clients
) -> None:
    running = await gateway(emulator.account("a"))
    client = await clients(running)
    client.transport.pauseProducing()
    body = json.dumps({"model": "emu-giant-64", "input": "hi", "stream": True}).encode()
    client.send(post("/v1beta/interactions", body))
    await eventually(lambda: emulator.log and emulator.log[0].response_bytes > 0, "the upstream's first bytes")
    sent = -1
    while sent != emulator.log[0].response_bytes:  # it has come to a stop
        sent = emulator.log[0].response_bytes
        await settle()
    assert sent < 32 * 1024 * 1024, "what the client does not take is not fetched"
    client.keep = False
    client.transport.resumeProducing()
    await eventually(lambda: client.count > 64 * 1024 * 1024, "the rest", 60)
    await eventually(lambda: emulator.log[0].finished, "the end")
