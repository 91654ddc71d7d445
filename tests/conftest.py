"""What every test shares: the fixtures of :mod:`agm.testing`, and watches for errors and for secrets that get out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import LogLevel, globalLogPublisher

pytest_plugins = ["agm.testing", "canary"]


@pytest.fixture(scope="session", autouse=True)
def _cheap_collections() -> None:
    """What is there before the tests stays: no collection has to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logged_failures(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """Fail a test in whose time a failure was logged, unless it is marked ``expects_logged_failures``."""
    seen: list[dict[str, Any]] = []

    def watch(event: dict[str, Any]) -> None:
        if event.get("log_level") is LogLevel.critical or event.get("log_failure") is not None:
            seen.append(event)

    globalLogPublisher.addObserver(watch)
    yield seen
    gc.collect()  # an error in a Deferred that nobody waits for is logged when the Deferred goes
    globalLogPublisher.removeObserver(watch)
    if request.node.get_closest_marker("expects_logged_failures") is None:
        assert not seen, [event.get("log_failure") or event for event in seen]
