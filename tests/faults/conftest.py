"""What every test of a fault shares: nothing that it made is left in the reactor."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from agm.testing import RunningGateway
from tests.faults.misbehaving import KINDS, TARGETS, Clients, Shape
from tests.helpers.support import Wire, connect, eventually, reactor


@pytest_twisted.async_yield_fixture(autouse=True)
async def nothing_left_in_the_reactor() -> AsyncIterator[None]:
    """Every timer and every socket that a test or its gateway made is gone when the gateway has stopped."""
    timers, readers = set(reactor.getDelayedCalls()), set(reactor.getReaders())
    yield

    def left() -> list[object]:
        return [*(set(reactor.getDelayedCalls()) - timers), *(set(reactor.getReaders()) - readers)]

    try:
        await eventually(lambda: not left(), "an empty reactor")
    except AssertionError:
        raise AssertionError(f"left in the reactor: {left()}") from None


@pytest_twisted.async_yield_fixture
async def clients() -> AsyncIterator[Clients]:
    """A function that connects a client."""
    made: list[Wire] = []

    async def make(running: RunningGateway) -> Wire:
        made.append(await connect(running.port))
        return made[-1]

    yield make
    for wire in made:
        if wire.lost is None:
            wire.transport.abortConnection()
    await eventually(lambda: all(wire.lost is not None for wire in made), "closed clients")


@pytest.fixture(params=[(kind, framing) for kind in KINDS for framing in TARGETS], ids="-".join)
def shape(request: pytest.FixtureRequest) -> Shape:
    """Each kind of account with each framing."""
    return Shape(*request.param)
