"""
Every fault of an upstream, for every kind of account and every framing.

A client gets a correct and complete answer, an error in Google's form, or an answer that visibly breaks off; never a
truncated one that looks complete, and it never waits for ever.  The account is given back, the upstream's connection
closed, and the upstream asked as often as the rules of retries say.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_twisted

from agm.testing import GatewayFactory, RunningGateway
from tests.faults.misbehaving import (
    FAULTS,
    KINDS,
    TARGETS,
    Clients,
    Do,
    Ends,
    Fault,
    MisbehavingUpstream,
    Shape,
    configuration,
)
from tests.faults.seen import outcome, seen_by
from tests.helpers.support import Wire, eventually, post

GOOD = next(fault for fault in FAULTS if fault.name == "a good answer")
Upstreams = Callable[..., MisbehavingUpstream]


SHAPES = [(kind, framing) for kind in KINDS for framing in TARGETS]


SURFACES = [("api-key", "unary", "openai"), ("api-key", "sse", "openai"), ("api-key", "sse", "shaped")]
SURFACES += [("vertex", "unary", "shaped"), ("vertex", "sse", "shaped")]


@pytest.fixture(params=[*SHAPES, *SURFACES], ids="-".join)
def shape(request: pytest.FixtureRequest) -> Shape:
    """Each kind of account with each framing, Google's own OpenAI surface, and the shape of Vertex AI."""
    return Shape(*request.param)


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


async def ask(client: Wire, shape: Shape, upstream: MisbehavingUpstream | None = None) -> str:
    """Ask, and tell how the answer ended."""
    if upstream is not None and not shape.collected:
        upstream.shown = lambda: (seen := seen_by(client)) is not None and seen.body
    client.send(post(shape.target, shape.body))
    return await outcome(client, shape)


async def assert_given_back(running: RunningGateway) -> None:
    await eventually(lambda: not any(running.gateway.pool.loads().values()), "the account given back")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest_twisted.ensureDeferred
async def test_a_fault_with_another_account_beside_it(
    gateway: GatewayFactory, upstreams: Upstreams, clients: Clients, shape: Shape, fault: Fault
) -> None:
    bad, good = upstreams(fault, shape), upstreams(GOOD, shape)
    running = await gateway(configuration(shape.kind, bad.url, good.url, timeouts=fault.timeouts))
    ended = await ask(await clients(running), shape, bad)
    match fault.ends:
        case Ends.SERVED:
            assert (ended, len(bad.requests), len(good.requests)) == ("served", 1, 0)
        case Ends.ELSEWHERE | Ends.AGAIN:
            assert (ended, len(bad.requests), len(good.requests)) == ("served", 1, 1)
        case Ends.LOST | Ends.LATE | Ends.REFUSED:
            assert (ended, len(good.requests)) == (str(fault.status), 0)
            assert len(bad.requests) == (0 if fault.before else 1)
        case Ends.CUT:
            assert (ended, len(bad.requests), len(good.requests)) == ("502" if shape.collected else "cut", 1, 0)
    await assert_given_back(running)
    if fault.ends in (Ends.LOST, Ends.LATE, Ends.CUT):
        await eventually(lambda: not bad.open, "the upstream's connection closed")


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.ends in (Ends.ELSEWHERE, Ends.AGAIN)], ids=lambda fault: fault.name
)
@pytest_twisted.ensureDeferred
async def test_a_fault_with_no_other_account(
    gateway: GatewayFactory, upstreams: Upstreams, clients: Clients, shape: Shape, fault: Fault
) -> None:
    bad = upstreams(fault, shape)
    running = await gateway(configuration(shape.kind, bad.url, timeouts=fault.timeouts))
    assert await ask(await clients(running), shape, bad) == str(fault.status)
    assert len(bad.requests) == (1 if fault.ends is Ends.ELSEWHERE else 3)
    await assert_given_back(running)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if Do.SHOWN in fault.steps], ids=lambda fault: fault.name)
@pytest_twisted.ensureDeferred
async def test_a_fault_that_comes_with_the_first_bytes(
    gateway: GatewayFactory, upstreams: Upstreams, clients: Clients, shape: Shape, fault: Fault
) -> None:
    bad = upstreams(fault, shape, at_once=True)
    running = await gateway(configuration(shape.kind, bad.url, timeouts=fault.timeouts))
    ended = await ask(await clients(running), shape)
    assert ended == "served" if fault.ends is Ends.SERVED else ended in ("cut", "502")
    assert len(bad.requests) == 1
    await assert_given_back(running)
    if fault.ends is Ends.CUT:
        await eventually(lambda: not bad.open, "the upstream's connection closed")


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.ends is Ends.SERVED and not fault.drip], ids=lambda fault: fault.name
)
@pytest_twisted.ensureDeferred
async def test_what_follows_an_answer_never_gets_into_the_next_one(
    gateway: GatewayFactory, upstreams: Upstreams, clients: Clients, shape: Shape, fault: Fault
) -> None:
    upstream = upstreams(fault, shape)
    running = await gateway(configuration(shape.kind, upstream.url, timeouts=fault.timeouts))
    client = await clients(running)
    for number in range(1, 4):
        client.received = b""
        assert await ask(client, shape, upstream) == "served"
        assert client.lost is None, "the client's connection stays"
        assert len(upstream.requests) == number
        await eventually(lambda: upstream.done, "the end of the fault")
    await assert_given_back(running)


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_refuses_connections_is_passed_over(
    gateway: GatewayFactory, upstreams: Upstreams, clients: Clients, shape: Shape
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and not listening
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}"
        good = upstreams(GOOD, shape)
        running = await gateway(configuration(shape.kind, refusing, good.url))
        assert await ask(await clients(running), shape) == "served"
        alone = await gateway(configuration(shape.kind, refusing))
        assert await ask(await clients(alone), shape) == "502"
    assert len(good.requests) == 1
    await assert_given_back(running)
    await assert_given_back(alone)
