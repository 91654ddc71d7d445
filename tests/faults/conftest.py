"""What every test of a fault shares: nothing that it made is left in the reactor."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from misbehaving import KINDS, TARGETS, Shape
from support import eventually, reactor


@pytest_twisted.async_yield_fixture(autouse=True)
async def nothing_left_in_the_reactor() -> AsyncIterator[None]:
    """Every timer and every socket that a test or its gateway made is gone when the gateway has stopped."""
    timers, readers = set(reactor.getDelayedCalls()), set(reactor.getReaders())
    yield
    own = None

    def left() -> list[object]:
        found = [*(set(reactor.getDelayedCalls()) - timers), *(set(reactor.getReaders()) - readers)]
        return [it for it in found if it is not own and "eventually" not in repr(it) and "deferLater" not in repr(it)]

    await eventually(lambda: not left(), "an empty reactor")


@pytest.fixture(params=[(kind, framing) for kind in KINDS for framing in TARGETS], ids="-".join)
def shape(request: pytest.FixtureRequest) -> Shape:
    """Each kind of account with each framing."""
    return Shape(*request.param)
