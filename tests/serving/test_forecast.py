"""The forecast through the gateway: of cooldowns, budgets and limits, and what a client is told of it."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from agm.cli.forecast import text
from agm.core.spending import ends
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import eventually

#: 2026-12-01, noon UTC.
NOON = 1_796_126_400.0
PRICES = '[prices."gemini-2.5-flash"]\ninput = 1000.0\noutput = 2000.0\n'


async def forecast(running: RunningGateway) -> Any:
    answer = await running.fetch("GET", "/_agm/forecast")
    assert answer.status == 200
    return answer.json


@pytest.mark.parametrize("shown", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_429_says_when_accounts_are_back(
    gateway: GatewayFactory, emulator: RunningEmulator, shown: bool
) -> None:
    """The gateway's own in its message, an upstream's that is passed on in a detail; names only where clients may
    know them."""
    running = await gateway(
        f"[gateway]\nshow_account = {str(shown).lower()}\n[pool]\nmax_wait = 0\n"
        + emulator.account("north")
        + emulator.account("south")
    )
    passed_on = (await running.ask("emu-429rpm-50")).json["error"]
    own = (await running.ask("emu-429rpm-50")).json["error"]
    (told,) = [it for it in passed_on["details"] if it["@type"].endswith("LocalizedMessage")]
    for words in (told["message"], own["message"]):
        assert ("Back: north in " in words) is shown
        assert ("2 accounts are expected back" in words) is not shown
        assert ("south" in words) is shown
    assert "Please retry in" in own["message"]


@pytest_twisted.ensureDeferred
async def test_the_forecast_tells_who_is_back_and_who_is_out_at_this_pace(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """By the cooldown of one account and the budget of the other; a day limit and a budget of a key, too."""
    running = await gateway(
        emulator.account("a")
        + emulator.account("b", extra="priority = 1")
        + '[[auth.keys]]\nname = "ada"\nkey = "k"\nrequests_per_day = 4\n'
        + PRICES
        + '[[budgets]]\nof = "account:a"\nper = "day"\nlimit = 0.25\n'
        + '[[budgets]]\nof = "key:ada"\nlimit = 5.0\n'
        + '[pool]\nstrategy = "priority"\n'
    )
    running.gateway.wall = lambda: NOON
    assert (await forecast(running))["models"][0]["text"] == "2 accounts are ready, and no end is in sight"
    for _ in range(2):
        assert (await running.ask(key="k")).status == 200
    await eventually(lambda: running.gateway.live.ended == 2, "two requests to end")
    spent = running.gateway.money.spending.of("account:a", "day").cost
    running.gateway.wall = lambda: NOON + 3600
    found = await forecast(running)
    (model,) = [it for it in found["models"] if it["model"] == "gemini-2.5-flash"]
    account, other = model["accounts"]
    left = (0.25 - spent) / spent * 3600
    assert account["out_in"] == pytest.approx(left, abs=1)
    assert (account["out_by"], other["out_in"], model["out_in"]) == ("budget a day", None, None)
    (limit,) = found["client_keys"]
    assert (limit["limit"], limit["used"], limit["value"]) == ("requests_per_day", 2, 4)
    assert limit["out_in"] == pytest.approx(3600)
    day, month = found["budgets"]
    assert day["out_in"] == pytest.approx(left, abs=1)
    assert month["begins_in"] == pytest.approx(ends("month", NOON) - NOON - 3600)
    running.gateway.money.spending.add(NOON + 3600, "ada", None, "a", "m", 1, 10.0)
    assert [it["out_in"] for it in (await forecast(running))["budgets"]] == [0.0, 0.0]
    shown = text(found)
    assert "at this pace a is out" in shown
    assert "2 of 4 requests a day" in shown
    assert f"${spent:,.2f} of $0.25 a day" in shown
