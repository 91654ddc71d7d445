"""What every test shares: the fixtures of :mod:`agm.testing`, and watches for errors and for secrets that get out."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import settings
from twisted.logger import formatEvent, globalLogPublisher

from testbed.hermetic import isolate
from tests.helpers.support import ScriptedUpstream, failures_logged

pytest_plugins = ["agm.testing", "tests.helpers.canary", "tests.helpers.patience", "tests.helpers.processes"]

isolate()

# No test is timed; and where not every test runs, a property is tried with fewer examples.
settings.register_profile("all", deadline=None)
settings.register_profile("short", deadline=None, max_examples=30)
settings.load_profile("all" if os.environ.get("AGM_TEST_ALL") else "short")

#: Rows of large tables that say again what others say: accounts of Vertex AI are relayed as those with an API key are,
#: and an array with an API key as a stream of events is.
_SAID_TWICE = re.compile(r"[\[-]vertex[\]-]|[\[-]api-key-(?:.+-)?array[\]-]|[\[-]array-(?:.+-)?api-key[\]-]")
_TABLES = ("faults", "clients")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what large tables say twice to ``tests/run.sh --all``."""
    for item in items:
        if item.path.parent.name in _TABLES and _SAID_TWICE.search(item.name):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _cheap_collections() -> None:
    """What is there before the tests stays: no collection has to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logged_failures(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """Fail a test in whose time a failure was logged, unless it is marked ``expects_logged_failures``."""
    with failures_logged() as seen:
        yield seen
    if request.node.get_closest_marker("expects_logged_failures") is None:
        assert not seen, [event.get("log_failure") or event for event in seen]


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged meanwhile, as text."""
    seen: list[str] = []

    def watch(event: dict[str, Any]) -> None:
        seen.append(formatEvent(event))

    globalLogPublisher.addObserver(watch)
    yield seen
    globalLogPublisher.removeObserver(watch)


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """An upstream whose every byte a test writes."""
    scripted = ScriptedUpstream()
    yield scripted
    await scripted.stop()
