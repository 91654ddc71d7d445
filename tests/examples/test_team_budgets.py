"""The example that gives each team tokens for a day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import pytest_twisted
import team_budgets
from twisted.web.client import ResponseFailed

from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import eventually

SETTINGS = """
[auth]
mode = "strict"
[[auth.keys]]
name = "research-ada"
key = "ada"
[[auth.keys]]
name = "research-bob"
key = "bob"
[[auth.keys]]
name = "sales"
key = "eve"
[plugins.team_budgets.teams]
"research-*" = "research"
[plugins.team_budgets.tokens]
research = 1
"""
EVENING = datetime(2030, 1, 15, 23, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def nothing_spent() -> Iterator[None]:
    """Each test begins a day."""
    team_budgets.spent.clear()
    yield
    assert not team_budgets.under_way, "a request that ended is forgotten"


async def start(gateway: GatewayFactory, emulator: RunningEmulator) -> RunningGateway:
    running = await gateway(emulator.account() + SETTINGS, plugins=[team_budgets])
    running.gateway.wall = lambda: EVENING
    return running


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest_twisted.ensureDeferred
async def test_a_team_is_refused_until_midnight_when_its_tokens_are_used_up(
    gateway: GatewayFactory, emulator: RunningEmulator, method: str
) -> None:
    """One budget for all keys of a team; other teams have theirs."""
    running = await start(gateway, emulator)
    answer = await running.ask(key="ada", method=method)
    assert answer.status == 200
    document = answer.events[-1] if method == "streamGenerateContent" else answer.json
    await eventually(lambda: team_budgets.spent)
    assert list(team_budgets.spent.values()) == [document["usageMetadata"]["totalTokenCount"]]

    refused = await running.ask(key="bob", method=method)
    assert refused.status == 429
    assert refused.json["error"]["message"] == "Team research has used its 1 tokens of today."
    assert refused.headers["retry-after"] == "3600"
    assert len(emulator.log) == 1

    assert (await running.ask(key="eve", method=method)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_new_day_is_a_new_budget(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """And the day before yesterday is forgotten."""
    running = await start(gateway, emulator)
    for day in range(3):
        running.gateway.wall = lambda day=day: EVENING + day * team_budgets.DAY  # type: ignore[misc]
        assert (await running.ask(key="ada")).status == 200
        await eventually(lambda day=day: len(team_budgets.spent) == min(day + 1, 2))  # type: ignore[misc]


@pytest_twisted.ensureDeferred
async def test_what_a_broken_answer_has_cost_is_counted(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await start(gateway, emulator)
    with pytest.raises(ResponseFailed):
        await running.ask("emu-cut", key="ada", method="streamGenerateContent")
    await eventually(lambda: sum(team_budgets.spent.values()) > 0)


@pytest_twisted.ensureDeferred
async def test_an_explanation_tells_that_a_team_would_be_refused(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await start(gateway, emulator)
    await running.ask(key="ada")
    await eventually(lambda: team_budgets.spent)
    explained = await running.fetch("POST", "/_agm/explain", body=b'{"model": "m", "key": "research-bob"}', key="eve")
    assert explained.json["error"]["code"] == 429
