"""Another model serves in the same request while quota or capacity alone keeps one from serving, and only then."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted

from agm import hookimpl
from agm.api import GatewayRequest, ModelChoice, RequestRecord
from agm.testing import GatewayFactory, RunningEmulator

NO_WAIT = "[pool]\nmax_wait = 0\nmax_attempts = 2\n"


class Kept:
    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)


def fallbacks(**models: list[str]) -> str:
    rows = "\n".join(f"{json.dumps(name)} = {json.dumps(tried)}" for name, tried in models.items())
    return f"[models.fallbacks]\n{rows}\n"


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest.mark.parametrize("model", ["emu-quota-90", "emu-capacity503", "emu-429day"])
@pytest_twisted.ensureDeferred
async def test_quota_and_capacity_lead_to_the_fallback_in_the_same_request(
    gateway: GatewayFactory, emulator: RunningEmulator, model: str, method: str
) -> None:
    kept = Kept()
    running = await gateway(
        NO_WAIT + fallbacks(**{model: ["good"]}) + emulator.account("a") + emulator.account("b"), plugins=[kept]
    )
    found = await running.ask(model, method=method)
    assert found.status == 200
    asked = [entry.model for entry in emulator.log]
    assert asked == [model, model, "good"]
    (record,) = kept.records
    assert (record.request.asked_model, record.request.model, record.outcome) == (model, "good", "ok")
    assert [(attempt.number, attempt.model) for attempt in record.attempts] == [*enumerate(asked, 1)]
    assert record.attempts[-1].chosen.endswith(f"(fallback: {model} has no quota or capacity left)")
    assert record.usage is not None


@pytest_twisted.ensureDeferred
async def test_a_model_whose_accounts_are_cooling_down_is_not_asked_again_and_explained_so(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    config = NO_WAIT + fallbacks(**{"emu-quota-90": ["emu-429day", "good"]}) + emulator.account("a")
    running = await gateway(config)
    for _ in range(2):
        assert (await running.ask("emu-quota-90")).status == 200
    assert [entry.model for entry in emulator.log] == ["emu-quota-90", "emu-429day", "good", "good"]
    explained = await running.explain("emu-quota-90")
    assert explained["model"]["served"] == "good"
    assert explained["model"]["fallbacks"] == ["emu-429day", "good"]
    assert explained["model"]["reason"] == "fallback: emu-429day has no quota or capacity left"
    assert explained["account"]["name"] == "a"
    assert len(emulator.log) == 4, "an explanation sends nothing"


@pytest.mark.parametrize(
    ("model", "status"),
    [("emu-400", 400), ("emu-404", 404), ("emu-500", 500), ("emu-403disabled", 503), ("emu-blockprompt", 200)],
)
@pytest_twisted.ensureDeferred
async def test_nothing_else_leads_to_it(
    gateway: GatewayFactory, emulator: RunningEmulator, model: str, status: int
) -> None:
    running = await gateway(NO_WAIT + fallbacks(**{"*": ["good"]}) + emulator.account("a"))
    found = await running.ask(model)
    assert "good" not in [entry.model for entry in emulator.log]
    assert found.status in (status, 403)


@pytest_twisted.ensureDeferred
async def test_the_client_gets_the_error_of_the_last_model_when_none_is_left(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(NO_WAIT + fallbacks(**{"emu-quota-90": ["emu-quota-30"]}) + emulator.account("a"))
    found = await running.ask("emu-quota-90")
    assert found.status == 429
    assert 0 < int(found.headers["retry-after"]) <= 30


@pytest_twisted.ensureDeferred
async def test_a_plugins_fallbacks_go_before_those_of_the_file_and_its_edits_are_made_for_each_model(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    def agm_map_model(model: str) -> ModelChoice:
        return ModelChoice("emu-quota-90", "mine", fallbacks=("good",))

    def agm_transform_request(body: dict[str, Any], request: GatewayRequest) -> dict[str, Any]:
        return {**body, "systemInstruction": {"parts": [{"text": request.model}]}}

    mapping = SimpleNamespace(
        __name__="mapping",
        agm_map_model=hookimpl(agm_map_model),
        agm_transform_request=hookimpl(agm_transform_request),
    )
    running = await gateway(
        NO_WAIT + fallbacks(**{"emu-quota-90": ["never"]}) + emulator.account("a"), plugins=[mapping]
    )
    await running.ask("m")
    told = [body["systemInstruction"]["parts"][0]["text"] for body in emulator.documents]
    assert [entry.model for entry in emulator.log] == told == ["emu-quota-90", "good"]


@pytest_twisted.ensureDeferred
async def test_hooks_find_what_a_client_key_says_of_whoever_has_it(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    kept = Kept()
    keys = """
[auth]
mode = "strict"
[[auth.keys]]
name = "ada"
key = "ada-key"
metadata = { team = "research", user = "ada" }
"""
    running = await gateway(keys + emulator.account("a"), plugins=[kept])
    assert (await running.ask("m", key="ada-key")).status == 200
    assert kept.records[0].request.key_metadata == {"team": "research", "user": "ada"}
