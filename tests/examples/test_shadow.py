"""The example that compares another model's answers."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
import shadow

from agm.testing import GatewayFactory, RunningEmulator
from tests.helpers.support import eventually

SETTINGS = '[plugins.shadow]\nmodel = "gemini-3-flash"\npercent = {percent}\n'


class Log:
    """Takes the lines in the place of the log."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def info(self, text: str, **values: Any) -> None:
        self.lines.append({"text": text.format(**values), **values})


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    found = Log()
    monkeypatch.setattr(shadow, "log", found)
    return found


@pytest_twisted.ensureDeferred
async def test_another_model_is_asked_the_same_and_compared(
    gateway: GatewayFactory, emulator: RunningEmulator, log: Log
) -> None:
    """Once, though the gateway's own call is a request, too."""
    running = await gateway(emulator.account() + SETTINGS.format(percent=100), plugins=[shadow])
    answer = await running.ask(text="Why is the sky blue?")
    assert answer.status == 200
    await eventually(lambda: log.lines, "the comparison")
    first, second = emulator.documents
    assert first == second
    assert [entry.model for entry in emulator.log] == ["gemini-2.5-flash", "gemini-3-flash"]
    (line,) = log.lines
    assert 0.0 < line["alike"] <= 1.0
    assert (line["status"], line["model"]) == (200, "gemini-3-flash")
    assert "% alike" in line["text"]


@pytest_twisted.ensureDeferred
async def test_nobody_else_is_asked_where_no_percent_says_so(
    gateway: GatewayFactory, emulator: RunningEmulator, log: Log
) -> None:
    running = await gateway(emulator.account() + SETTINGS.format(percent=0), plugins=[shadow])
    assert (await running.ask()).status == 200
    assert [entry.model for entry in emulator.log] == ["gemini-2.5-flash"]
    assert not log.lines


def test_the_text_of_an_odd_answer_is_none() -> None:
    assert shadow.text_of({}) == shadow.text_of({"candidates": []}) == ""
    assert shadow.text_of({"candidates": [{"content": {"parts": [{"text": "a"}, {"functionCall": {}}]}}]}) == "a"
