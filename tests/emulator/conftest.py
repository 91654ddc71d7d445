"""The emulator without a socket and with one, for every test here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import maybeDeferred

from agm.emulator.site import make_site
from agm.emulator.state import State
from tests.emulator.dialogue import Dialogue
from tests.helpers.support import failures_logged

reactor: Any = _reactor


@pytest.fixture
def emu() -> Dialogue:
    """A fresh emulator whose clock stands still."""
    return Dialogue()


@attrs.frozen
class Listening:
    """An emulator on loopback."""

    port: int
    state: State

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def entries(self) -> list[Any]:
        return list(self.state.log.entries())


@pytest_twisted.async_yield_fixture
async def running() -> AsyncIterator[Listening]:
    """An emulator that listens on a free port of 127.0.0.1."""
    site = make_site(reactor)
    site.noisy = False
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    yield Listening(port.getHost().port, site.state)
    await maybeDeferred(port.stopListening)


@pytest.fixture(scope="module")
def failures_of_module() -> Iterator[list[dict[str, Any]]]:
    """The failures that are logged while a module's tests run; what a test does not take out fails the last of them."""
    with failures_logged() as seen:
        yield seen
    assert not seen, [event.get("log_failure") or event for event in seen]


@pytest.fixture(autouse=True)
def logged_failures(failures_of_module: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One collection of garbage a module: after each of these many small tests it would take most of their time."""
    return failures_of_module
