"""What leads Live sessions back to their accounts, over a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor as _reactor

from agm.core.live import Pin, Pins
from agm.persist.session_pins import SessionPins, path_beside

reactor: Any = _reactor


@pytest_twisted.ensureDeferred
async def test_pins_survive_a_restart_as_digests(tmp_path: Path) -> None:
    """But not those whose time is over, nor those of keys that no configuration lists."""
    path = path_beside(tmp_path / "state.json")
    assert path.name == "state-sessions.json"
    pins = Pins()
    kept = SessionPins(reactor, pins, path, lambda: 100.0)
    kept.start()
    pins.remember("canary-handle", Pin("work", "laptop", 200.0, "m"))
    pins.remember("canary-old", Pin("work", None, 99.0))
    pins.remember("canary-foreign", Pin("work", "looked-up", 200.0, "", object()))
    await kept.stop()
    written = path.read_text()
    assert "canary" not in written
    assert "looked-up" not in written
    again = Pins()
    reading = SessionPins(reactor, again, path, lambda: 150.0)
    reading.start()
    assert again.find("canary-handle", 150.0) == Pin("work", "laptop", 200.0, "m")
    assert len(again) == 1
    await reading.stop()


@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_used_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "state-sessions.json"
    path.write_text('{"agm": 1, "pins": [{"digest": "00", "account": "a", "expires": 1}]}')
    kept = SessionPins(reactor, Pins(), path, lambda: 0.0)
    kept.start()
    await kept.stop()
    assert (tmp_path / "state-sessions.json.unusable").exists()
