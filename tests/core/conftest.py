"""Pure code logs nothing and leaves no Deferred behind: the watch for that, which costs time, is off here."""

from __future__ import annotations

import pytest

from tests.core.hands import Hands


@pytest.fixture(autouse=True)
def logged_failures() -> list[object]:
    """Nothing to see."""
    return []


@pytest.fixture
def hands() -> Hands:
    """A clock that stands still until a test sets it."""
    return Hands()
