"""The example that keeps accounts for the night."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import night_shift
import pytest
import pytest_twisted

from agm.api import GatewayRequest
from agm.testing import GatewayFactory, PluginManagerFactory, RunningEmulator, RunningGateway

SETTINGS = '[plugins.night_shift]\naccounts = ["batch-*"]\nbegins = "22:00"\nends = "06:00"\n'
NOON = datetime(2030, 1, 15, 12, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2030, 1, 15, 0, tzinfo=UTC).timestamp()


async def start(gateway: GatewayFactory, accounts: str, now: float) -> RunningGateway:
    running = await gateway(accounts + SETTINGS, plugins=[night_shift])
    running.gateway.wall = lambda: now
    return running


@pytest.mark.parametrize(("now", "serves"), [(NOON, "work"), (MIDNIGHT, "batch-1")], ids=["noon", "midnight"])
@pytest_twisted.ensureDeferred
async def test_each_account_has_its_time(
    gateway: GatewayFactory, emulator: RunningEmulator, now: float, serves: str
) -> None:
    running = await start(gateway, emulator.account("work") + emulator.account("batch-1"), now)
    for text in ("one", "two", "three"):
        assert (await running.ask(text=text)).status == 200
    assert emulator.accounts == [serves] * 3


@pytest_twisted.ensureDeferred
async def test_by_day_a_client_is_told_when_only_the_nights_accounts_are_there(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await start(gateway, emulator.account("batch-1"), NOON)
    answer = await running.ask()
    assert answer.status == 503
    assert not emulator.log
    explained = await running.explain()
    assert [(e["account"], e["reason"], e["plugin"]) for e in explained["excluded"]] == [
        ("batch-1", "on duty from 22:00", "night_shift")
    ]


@pytest.mark.parametrize(
    ("begins", "ends", "hours"),
    [("22:00", "02:00", {22, 23, 0, 1}), ("01:00", "03:00", {1, 2}), ("05:00", "05:00", set())],
)
def test_a_night_may_have_midnight_in_it(
    plugin_manager: PluginManagerFactory,
    make_request: Callable[..., GatewayRequest],
    begins: str,
    ends: str,
    hours: set[int],
) -> None:
    plugin_manager(night_shift, config=f'[plugins.night_shift]\nbegins = "{begins}"\nends = "{ends}"\n')
    nights = {h for h in range(24) if night_shift.is_night(make_request(received_at=MIDNIGHT + h * 3600))}
    assert nights == hours


def test_the_night_is_that_of_the_zone(
    plugin_manager: PluginManagerFactory, make_request: Callable[..., GatewayRequest]
) -> None:
    """Noon in London is night in Tokyo, by these hours."""
    plugin_manager(night_shift, config='[plugins.night_shift]\nbegins = "20:00"\ntimezone = "Asia/Tokyo"\n')
    assert night_shift.is_night(make_request(received_at=NOON))
