"""The emulator without a socket, for every test here."""

from __future__ import annotations

import pytest

from emulator.dialogue import Dialogue


@pytest.fixture
def emu() -> Dialogue:
    """A fresh emulator whose clock stands still."""
    return Dialogue()
