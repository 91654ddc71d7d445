"""What requests cost, who has spent it, and the budgets that refuse or warn, through the gateway."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from agm import hookimpl
from agm.core.alerts import Alert
from agm.core.forecast import DayQuotas
from agm.core.spending import Budget, Budgets, Spending, Sums, begins, ends, period
from agm.observe.requestlog import store as logfile
from agm.persist.spending import SpendingFile, path_beside
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway, parse_config
from tests.helpers.support import eventually, reactor

#: 2026-12-01, a quarter past one in the night, UTC.
NOW = 1_796_087_700.0
PRICES = '[prices."gemini-2.5-flash"]\ninput = 1000.0\noutput = 2000.0\n'


def key(name: str, team: str | None = None, *lines: str) -> str:
    """An ``[[auth.keys]]`` table."""
    of = [] if team is None else [f'team = "{team}"']
    return "\n".join(["[[auth.keys]]", f'name = "{name}"', f'key = "{name}-key"', *of, *lines, ""])


def budget(of: str, limit: float, *lines: str) -> str:
    """A ``[[budgets]]`` table."""
    return "\n".join(["[[budgets]]", f'of = "{of}"', f"limit = {limit}", *lines, ""])


class Pager:
    """A plugin that hears alerts."""

    def __init__(self) -> None:
        self.heard: list[Alert] = []

    @hookimpl
    def agm_alert(self, alert: Alert) -> None:
        """Keep it."""
        self.heard.append(alert)


async def usage(running: RunningGateway) -> Any:
    """``/_agm/usage``, its lists by name."""
    found = (await running.fetch("GET", "/_agm/usage")).json
    lists = ("keys", "teams", "accounts", "models")
    return {**found, **{each: {row["name"]: row for row in found[each]} for each in lists}}


@pytest_twisted.ensureDeferred
async def test_a_request_costs_what_its_usage_says(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Its key, team, account and model have spent it, in every framing; a count of tokens costs nothing."""
    running = await gateway(emulator.account() + key("ada", "search") + PRICES)
    costs = 0.0
    for method in ("generateContent", "streamGenerateContent"):
        answer = await running.ask(key="ada-key", method=method)
        told = (answer.events[-1] if method.startswith("stream") else answer.json)["usageMetadata"]
        output = told["candidatesTokenCount"] + told.get("thoughtsTokenCount", 0)
        costs += (told["promptTokenCount"] * 1000 + output * 2000) / 1e6
    await running.ask(key="ada-key", method="countTokens")
    await eventually(lambda: running.gateway.live.ended == 3, "three requests to end")
    found = await usage(running)
    for each, name in (("keys", "ada"), ("teams", "search"), ("accounts", "work"), ("models", "gemini-2.5-flash")):
        for per in ("day", "month"):
            assert found[each][name][per]["cost"] == pytest.approx(costs)
            assert found[each][name][per]["requests"] == 3
            assert found[each][name][per]["unpriced"] == 0
    rows = (await running.fetch("GET", "/_agm/status")).json["requests"]
    assert sum(row["cost"] for row in rows) == pytest.approx(costs)
    assert {row["team"] for row in rows} == {"search"}
    metrics = (await running.fetch("GET", "/metrics")).body.decode()
    line = next(line for line in metrics.splitlines() if line.startswith('agm_cost_dollars_total{model="gemini-2.5-'))
    assert float(line.rpartition(" ")[2]) == pytest.approx(costs)


@pytest_twisted.ensureDeferred
async def test_a_model_without_a_price_is_unknown_and_never_zero(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """It is counted as such wherever costs are told; an error costs nothing and is not unknown."""
    running = await gateway(
        emulator.account() + key("ada") + budget("key:ada", 0.01) + '[models]\nlist = ["mystery"]\n'
    )
    assert (await running.ask("mystery", key="ada-key")).status == 200
    assert (await running.ask("emu-400", key="ada-key")).status == 400
    await eventually(lambda: running.gateway.live.ended == 2, "two requests to end")
    found = await usage(running)
    assert found["keys"]["ada"]["day"] == {
        "requests": 1,
        "tokens": found["keys"]["ada"]["day"]["tokens"],
        "cost": None,
        "unpriced": 1,
    }
    assert found["budgets"][0]["unpriced"] == 1
    assert (await running.fetch("GET", "/_agm/status")).json["requests"][1]["cost"] is None
    metrics = (await running.fetch("GET", "/metrics")).body.decode()
    assert 'agm_requests_unpriced_total{model="mystery"} 1.0' in metrics


@pytest.mark.parametrize(
    ("of", "whose"), [("key:ada", "This client key's budget"), ("team:search", "This team's budget")]
)
@pytest_twisted.ensureDeferred
async def test_a_spent_budget_refuses_before_anything_is_sent(
    gateway: GatewayFactory, emulator: RunningEmulator, of: str, whose: str
) -> None:
    """429 in Google's form, with the time at which it begins anew; counts of tokens and other keys go on."""
    running = await gateway(
        emulator.account() + key("ada", "search") + key("bob", "search") + key("eve") + PRICES + budget(of, 0.000001)
    )
    running.gateway.wall = lambda: NOW
    assert (await running.ask(key="ada-key")).status == 200
    asked = len(emulator.log)
    answer = await running.ask(key="ada-key", method="streamGenerateContent")
    error = answer.json["error"]
    details = {it["@type"].rpartition(".")[2]: it for it in error["details"]}
    assert (answer.status, error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert details["ErrorInfo"]["reason"] == "BUDGET_SPENT"
    assert error["message"].startswith(f"{whose} of $0.000001 a month is spent. It begins anew at 2027-01-01 00:00 UTC")
    wait = ends("month", NOW) - NOW
    assert float(details["RetryInfo"]["retryDelay"].removesuffix("s")) == wait
    assert int(answer.headers["retry-after"]) == wait
    assert details["QuotaFailure"]["violations"][0]["quotaId"].startswith("DollarsPerMonthPer")
    assert len(emulator.log) == asked
    assert (await running.ask(key="ada-key", method="countTokens")).status == 200
    assert (await running.ask(key="eve-key")).status == 200
    assert (await running.ask(key="bob-key")).status == (429 if of.startswith("team") else 200)
    explained = await running.explain(key="ada")
    assert explained["error"]["code"] == 429
    assert [(it["of"], it["spent"] > it["limit"]) for it in explained["budgets"]] == [(of, True)]
    running.gateway.wall = lambda: NOW + wait
    assert (await running.ask(key="ada-key")).status == 200  # another month


@pytest_twisted.ensureDeferred
async def test_an_account_over_its_budget_is_out_with_a_reason(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Others serve; when none is left the client is told when, and a larger budget lets it in at once."""
    config = emulator.account("a") + emulator.account("b", extra="priority = 1") + PRICES
    config += '[pool]\nmax_wait = 0\nstrategy = "priority"\n'
    small = budget("account:a", 0.000001, 'per = "day"') + budget("account:b", 0.000001, 'per = "day"')
    running = await gateway(config + small)
    running.gateway.wall = lambda: NOW
    assert [(await running.ask(text=f"{n}")).status for n in range(3)] == [200, 200, 429]
    assert list(emulator.accounts) == ["a", "b"]
    error = (await running.ask()).json["error"]
    assert "2 over its budget" in error["message"]
    (excluded, _) = (await running.explain())["excluded"]
    assert (excluded["account"], excluded["cause"]) == ("a", "over its budget")
    assert excluded["retry_after"] == pytest.approx(ends("day", NOW) - NOW, abs=60)
    assert "of $0.000001 a day is spent" in excluded["reason"]
    larger = small.replace("limit = 1e-06", "limit = 5.0", 1)
    await running.gateway.reload(parse_config(config + larger))
    assert (await running.ask()).status == 200
    assert emulator.accounts[-1] == "a"


@pytest_twisted.ensureDeferred
async def test_a_budget_that_only_warns_says_so_once_at_each_level(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """At ``warn_at``, and when it is spent; requests go on."""
    pager = Pager()
    running = await gateway(
        emulator.account() + key("ada") + PRICES + budget("key:ada", 0.15, "warn_at = 0.5", 'then = "warn"'),
        plugins=[pager],
    )
    words = " ".join(["word"] * 50)
    for n in range(6):
        assert (await running.ask(text=words, key="ada-key")).status == 200
        await eventually(lambda n=n: running.gateway.live.ended == n + 1, "the request to end")
    assert [alert.about for alert in pager.heard] in (
        ["key:ada per month, 50%", "key:ada per month, spent"],
        ["key:ada per month, spent"],
    )
    assert {alert.kind for alert in pager.heard} == {"budget"}
    assert pager.heard[-1].text.startswith("The budget of key:ada is spent: $")
    assert pager.heard[-1].details["limit"] == 0.15
    assert running.gateway.money.budgets.all()[0].used_up


@pytest_twisted.ensureDeferred
async def test_what_was_spent_is_kept_over_a_restart(tmp_path: Path) -> None:
    """A budget that is spent stays spent; the file names no key."""
    spending = Spending(lambda: NOW)
    kept = SpendingFile(reactor, spending, DayQuotas(lambda: NOW), path_beside(tmp_path / "state.json"))
    kept.start()
    spending.add(NOW, "ada", "search", "work", "m", 100, 1.5)
    spending.add(NOW, "ada", None, "work", "m", 10, None)
    await kept.stop()
    text = (tmp_path / "state-spending.json").read_text()
    assert json.loads(text)["spent"]["key:ada"]["2026-12"] == {
        "requests": 2,
        "tokens": 110,
        "cost": 1.5,
        "unpriced": 1,
        "since": NOW,
    }
    again = Spending(lambda: NOW + 86_400)
    reading = SpendingFile(reactor, again, DayQuotas(lambda: NOW), path_beside(tmp_path / "state.json"))
    reading.start()
    await reading.stop()
    assert again.of("key:ada", "month") == Sums(2, 110, 1.5, 1, NOW)
    assert again.of("key:ada", "day") == Sums()


def test_days_and_months_are_those_of_utc() -> None:
    """Also at the end of a year, and in February."""
    assert (period("day", NOW), period("month", NOW)) == ("2026-12-01", "2026-12")
    assert begins("month", NOW) == begins("day", NOW) == NOW - 4500
    assert period("day", ends("month", NOW)) == "2027-01-01"
    february = 1_803_816_000.0
    assert period("day", february) == "2027-02-28"
    assert period("day", ends("month", february)) == period("day", ends("day", february)) == "2027-03-01"


def test_a_budget_says_something_new_once_a_level_and_a_period() -> None:
    """A limit that is raised and reached again is told again."""
    now = [NOW]
    spending = Spending(lambda: now[0])
    budgets = Budgets(spending, lambda: now[0])
    budgets.configure([Budget("key:a", "day", 10.0, 0.8)])
    assert budgets.news("key:a") == []
    spending.add(now[0], "a", None, "b", "m", 1, 8.0)
    assert [it.level for it in budgets.news("key:a", "key:b")] == [1]
    assert budgets.news("key:a") == []
    spending.add(now[0], "a", None, "b", "m", 1, 2.0)
    assert [it.level for it in budgets.news("key:a")] == [2]
    budgets.configure([Budget("key:a", "day", 11.0, 0.8)])
    assert budgets.news("key:a") == []
    spending.add(now[0], "a", None, "b", "m", 1, 2.0)
    assert [it.level for it in budgets.news("key:a")] == [2]
    now[0] += 86_400
    assert budgets.news("key:a") == []
    spending.add(now[0], "a", None, "b", "m", 1, 9.0)
    assert [it.level for it in budgets.news("key:a")] == [1]


@pytest_twisted.ensureDeferred
async def test_costs_and_teams_are_in_the_log_and_summed_up(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    """By team, with what is not known apart; a log of before costs is read, and then written."""
    path = tmp_path / "log.sqlite3"
    running = await gateway(emulator.account() + key("ada", "search") + key("bob") + PRICES, request_log_path=path)
    await running.ask(key="ada-key")
    await running.ask("mystery", key="ada-key")
    await running.ask(key="bob-key")
    await eventually(lambda: running.gateway.request_log.written == 3, "three rows")  # type: ignore[union-attr]
    connection = logfile.open_to_read(path)
    by_team = {row["team"]: row for row in logfile.totals(connection, "team", cost=True)}
    assert by_team["search"]["unpriced"] == 1
    assert by_team["search"]["cost"] == pytest.approx(by_team[None]["cost"])
    assert by_team[None]["cost"] > 0
    assert "cost" not in logfile.totals(connection, "key")[0]
    connection.close()


def test_a_log_of_before_costs_is_read_and_then_goes_on(tmp_path: Path) -> None:
    """What is in it has no price, which is said; the next to write gives it the columns."""
    path = tmp_path / "log.sqlite3"
    logfile.make(path)
    old = sqlite3.connect(path)
    logfile.prepare(old, path)
    for column in ("cost", "team", "parent"):
        old.execute(f"ALTER TABLE requests DROP COLUMN {column}")
    names = [name for name in logfile.COLUMNS if name not in ("cost", "team", "parent")]
    numbers = {"started", "attempts", "status", "bytes_in", "bytes_out", "duration", "total_tokens"}
    row = [10 if name in numbers else "[]" if name == "timeline" else "ok" for name in names]
    insert = f"INSERT INTO requests ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    old.execute(insert, row)
    old.close()
    reading = logfile.open_to_read(path)
    for by in ("team", "key", "model"):
        (sums,) = logfile.totals(reading, by, cost=True)
        assert (sums["requests"], sums["cost"], sums["unpriced"]) == (1, None, 1)
    assert "cost" not in logfile.latest(reading, 1)[0]
    reading.close()
    writing = sqlite3.connect(path)
    logfile.prepare(writing, path)
    writing.execute(insert, row)  # as the last release would: it names its columns
    writing.row_factory = sqlite3.Row
    assert [it["cost"] for it in logfile.latest(writing, 2)] == [None, None]
    writing.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1beta/interactions", {"model": "gemini-2.5-flash", "input": "hello"}),
        ("/v1beta/interactions", {"model": "gemini-2.5-flash", "input": "hello", "stream": True}),
        (
            "/v1beta/openai/chat/completions",
            {"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": "x"}]},
        ),
        ("/v1beta/models/gemini-2.5-flash:predict", {"instances": [{"prompt": "x"}], "parameters": {"sampleCount": 2}}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_every_surface_has_its_cost_and_is_held_to_budgets(
    gateway: GatewayFactory, emulator: RunningEmulator, path: str, body: dict[str, Any]
) -> None:
    """Interactions, Google's OpenAI surface, images."""
    prices = PRICES + "image = 0.5\n"
    running = await gateway(emulator.account() + key("ada", "search") + prices + budget("team:search", 0.000001))
    sent = json.dumps(body).encode()
    answer = await running.fetch("POST", path, body=sent, key="ada-key")
    assert answer.status == 200, answer.body
    await eventually(lambda: running.gateway.live.ended == 1, "the request to end")
    (row,) = (await running.fetch("GET", "/_agm/status")).json["requests"]
    assert row["cost"] > 0
    assert row["team"] == "search"
    if path.endswith("predict"):
        assert row["cost"] == pytest.approx(1.0)
    refused = await running.fetch("POST", path, body=sent, key="ada-key")
    assert refused.status == 429
    assert b"budget of $0.000001 a month is spent" in refused.body
