"""The example that splits requests between models."""

from __future__ import annotations

import ab_split
import pytest_twisted

from agm.testing import GatewayFactory, PluginManagerFactory, RunningEmulator, build_request

SETTINGS = '[plugins.ab_split]\nmodel = "chat"\nvariants = { "gemini-2.5-flash" = 75, "gemini-2.5-pro" = 25 }\n'


def test_the_weights_hold_and_a_client_stays(plugin_manager: PluginManagerFactory) -> None:
    """Of 400 clients three quarters, give or take; who is asked twice says the same."""
    hook = plugin_manager(ab_split, config=SETTINGS).hook
    requests = [build_request(model="chat", client_key=f"client-{number}") for number in range(400)]
    chosen = [hook.agm_map_model(model="chat", request=request).model for request in requests]
    assert 260 < chosen.count("gemini-2.5-flash") < 340
    again = [build_request(model="chat", client_key=f"client-{number}", text="more") for number in range(400)]
    assert [hook.agm_map_model(model="chat", request=request).model for request in again] == chosen


def test_without_a_key_a_conversation_stays(plugin_manager: PluginManagerFactory) -> None:
    hook = plugin_manager(ab_split, config=SETTINGS).hook
    first = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    later = {"contents": [*first["contents"], {"role": "model", "parts": [{"text": "hello"}]}]}
    chosen = {hook.agm_map_model(model="chat", request=build_request(model="chat", body=b)) for b in (first, later)}
    assert len(chosen) == 1


def test_other_models_are_left_alone(plugin_manager: PluginManagerFactory) -> None:
    hook = plugin_manager(ab_split, config=SETTINGS).hook
    assert hook.agm_map_model(model="gemini-2.5-pro", request=build_request()) is None
    hook = plugin_manager(ab_split).hook
    assert hook.agm_map_model(model="", request=build_request()) is None


@pytest_twisted.ensureDeferred
async def test_answers_tell_which_it_was(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(emulator.account() + SETTINGS, plugins=[ab_split])
    answer = await running.ask("chat")
    variant = answer.headers["x-variant"]
    assert emulator.log[0].model == variant
    assert "x-variant" not in (await running.ask("gemini-2.5-pro")).headers
