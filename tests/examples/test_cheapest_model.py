"""The example that routes by the size of the prompt."""

from __future__ import annotations

import cheapest_model
import pytest
import pytest_twisted

from agm.testing import GatewayFactory, RunningEmulator

SETTINGS = """
[plugins.cheapest_model]
name = "cheap"
otherwise = "large"
[plugins.cheapest_model.up_to]
"medium" = 1000
"small" = 100
"""


@pytest.mark.parametrize(
    ("words", "served"), [(1, "small"), (100, "medium"), (10_000, "large")], ids=["short", "longer", "very long"]
)
@pytest_twisted.ensureDeferred
async def test_a_longer_prompt_gets_a_larger_model(
    gateway: GatewayFactory, emulator: RunningEmulator, words: int, served: str
) -> None:
    running = await gateway(emulator.account() + SETTINGS, plugins=[cheapest_model])
    answer = await running.ask("cheap", "word " * words)
    assert answer.status == 200
    assert [entry.model for entry in emulator.log] == [served]


@pytest_twisted.ensureDeferred
async def test_a_model_that_was_asked_for_by_its_name_is_served(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(emulator.account() + SETTINGS, plugins=[cheapest_model])
    await running.ask("gemini-2.5-pro", "word")
    assert [entry.model for entry in emulator.log] == ["gemini-2.5-pro"]


@pytest_twisted.ensureDeferred
async def test_without_settings_auto_has_models_of_todays(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """And an explanation tells the reason."""
    running = await gateway(emulator.account(), plugins=[cheapest_model])
    explained = await running.explain("auto", body={"contents": []})
    assert explained["model"] == {
        "asked": "auto",
        "served": "gemini-2.5-flash-lite",
        "reason": "about 4 tokens, at most 2000",
        "plugin": "cheapest_model",
        "fallbacks": [],
    }
