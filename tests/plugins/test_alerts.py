"""Alerts: when they are raised, who hears them, and how webhooks are told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import pytest_twisted
from twisted.logger import globalLogPublisher

from agm.api import Alert, hookimpl
from agm.plugins.builtin import alerts as webhooks
from agm.testing import GatewayFactory, RunningGateway, parse_config
from tests.helpers.support import AnsweringUpstream, Asked, ScriptedUpstream, account, eventually

OFF = {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}
OFF["error"]["details"] = [  # type: ignore[assignment]
    {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
]
SPENT = {"error": {"code": 429, "message": "Quota exceeded. Please retry in 600s.", "status": "RESOURCE_EXHAUSTED"}}


class Told:
    """A webhook on loopback, whose answers a test gives; the last one goes on."""

    def __init__(self, *answers: tuple[Any, ...]) -> None:
        self._answers = list(answers) or [(200, {})]
        self.server = AnsweringUpstream(self._answer)

    def _answer(self, asked: Asked) -> tuple[Any, ...]:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def table(self, on: str = '"account_off", "quota_storm", "budget"', more: str = "") -> str:
        url = f"{self.server.url}/hooks/T0000/s3cret"
        return f'[[alerts]]\nname = "ops"\non = [{on}]\nurl = "{url}"\n{more}'

    @property
    def documents(self) -> list[Any]:
        return [json.loads(asked.body) for asked in self.server.asked]


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[AnsweringUpstream]:
    answering = AnsweringUpstream(lambda asked: (429, SPENT) if "/spent:" in asked.path else (400, OFF))
    yield answering
    await answering.stop()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again without a pause."""
    monkeypatch.setattr(webhooks, "PAUSES", (0.001, 0.001))


@pytest.fixture
def logged() -> Any:
    lines: list[str] = []

    def watch(event: dict[str, Any]) -> None:
        if str(event.get("log_format", "")).startswith("alert"):
            lines.append(str(event["log_format"]).format(**event))

    globalLogPublisher.addObserver(watch)
    yield lines
    globalLogPublisher.removeObserver(watch)


def raise_alert(running: RunningGateway, about: str = "team:search", text: str = "It is spent.") -> None:
    running.gateway.hooks.alert(Alert("budget", about, text, {"limit": 200.0}))


@pytest_twisted.ensureDeferred
async def test_an_account_that_goes_off_is_told_once_with_the_reason(
    gateway: GatewayFactory, upstream: AnsweringUpstream
) -> None:
    told, heard = Told(), []

    class Hearing:
        @hookimpl
        def agm_alert(self, alert: Alert) -> None:
            heard.append(alert)

    running = await gateway(account(upstream) + account(upstream, name="b") + told.table(), plugins=[Hearing()])
    assert (await running.ask("m")).status == 400
    await eventually(lambda: len(told.documents) == 2, "two alerts")
    first = min(told.documents, key=lambda document: str(document["about"]))
    assert first["text"].startswith(
        "Account a is disabled and needs manual action: API_KEY_INVALID. API key not valid. Fix: create"
    )
    assert first["alert"] == "account_off"
    assert first["details"] == {"account": "a", "reason": "API_KEY_INVALID"}
    assert datetime.fromisoformat(first["at"]).tzinfo is not None
    assert {alert.about for alert in heard} == {"a", "b"}
    assert (await running.ask("m")).status == 503  # nobody is left, and nothing new is told
    assert len(told.documents) == 2
    await told.server.stop()


@pytest_twisted.ensureDeferred
async def test_an_account_without_its_secret_is_told_at_the_start_and_after_a_reload(gateway: GatewayFactory) -> None:
    told = Told()
    lacking = '[[accounts]]\nname = "{}"\nkind = "api-key"\napi_key_env = "NOT_THERE"\n'
    running = await gateway(lacking.format("a") + told.table())
    await eventually(lambda: told.documents, "the alert")
    assert "the environment variable NOT_THERE is not set" in told.documents[0]["text"]
    await running.gateway.reload(parse_config(lacking.format("a") + lacking.format("b") + told.table()))
    await eventually(lambda: len(told.documents) == 2, "the other alert")
    assert [document["about"] for document in told.documents] == ["a", "b"]
    await told.server.stop()


@pytest_twisted.ensureDeferred
async def test_requests_that_find_no_quota_are_a_storm(gateway: GatewayFactory, upstream: AnsweringUpstream) -> None:
    told = Told()
    running = await gateway(account(upstream) + told.table() + "[pool]\nmax_wait = 0\n")
    for _ in range(25):
        assert (await running.ask("spent")).status == 429
    await eventually(lambda: told.documents, "the alert")
    (document,) = told.documents  # the second ten are within the hour
    assert (document["alert"], document["details"]["models"]) == ("quota_storm", "spent")
    await told.server.stop()


@pytest_twisted.ensureDeferred
async def test_a_webhook_hears_what_it_is_for_in_its_form(gateway: GatewayFactory) -> None:
    told = Told()
    running = await gateway(told.table('"budget"', 'form = "slack"\n'))
    running.gateway.hooks.alert(Alert("account_off", "a", "Account a is off."))
    raise_alert(running, text="Search & <more> is spent.")
    raise_alert(running)  # the same
    raise_alert(running, "team:ads")
    await eventually(lambda: len(told.documents) == 2, "two alerts")
    assert told.documents == [{"text": "agm: Search &amp; &lt;more&gt; is spent."}, {"text": "agm: It is spent."}]
    assert told.server.asked[0].headers["content-type"] == "application/json"
    await told.server.stop()


@pytest.mark.parametrize(
    ("answers", "tries", "line"),
    [
        ([(500, {}), (200, {})], 2, None),
        ([(), (429, {}), (204, b"")], 3, None),
        ([(503, {})], 3, "alert: webhook ops was not told: it answered 503"),
        ([()], 3, "alert: webhook ops was not told: it cannot be reached (NoAnswer)"),
        ([(404, b"canary-body")], 1, "alert: webhook ops was not told: it answered 404"),
        (
            [(302, b"", {"location": "http://127.0.0.1:1/canary"})],
            1,
            "alert: webhook ops was not told: it answered 302",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_webhook_is_tried_again_where_that_may_help_and_no_secret_is_logged(
    gateway: GatewayFactory, logged: list[str], answers: list[tuple[Any, ...]], tries: int, line: str | None
) -> None:
    told = Told(*answers)
    running = await gateway(told.table())
    raise_alert(running)
    await eventually(lambda: len(told.server.asked) == tries, f"{tries} tries")
    expected = ["alert to webhook ops: It is spent."] + ([line] if line else [])
    await eventually(lambda: len(logged) >= len(expected), "the line")
    assert logged == expected
    await running.gateway.stop()
    assert len(told.server.asked) == tries
    await told.server.stop()


@pytest_twisted.ensureDeferred
async def test_a_webhook_that_does_not_answer_is_given_up(
    gateway: GatewayFactory, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "PATIENCE", 0.02)
    silent = ScriptedUpstream()
    running = await gateway(f'[[alerts]]\non = ["budget"]\nurl = "{silent.url}/x"\n')
    raise_alert(running)
    await eventually(lambda: len(logged) == 2, "the line")
    assert logged[1] == "alert: webhook alerts[0] was not told: it did not answer within 0.02 seconds"
    assert len(silent.connections) == 3
    await silent.stop()


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_what_is_on_its_way_and_no_longer(
    gateway: GatewayFactory, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = ScriptedUpstream()
    running = await gateway(f'[[alerts]]\non = ["budget"]\nurl = "{silent.url}/x"\n')
    raise_alert(running)
    await silent.connection()
    monkeypatch.setattr(webhooks, "PATIENCE", 0.02)
    await running.gateway.stop()
    assert logged[1:] == ["alert: webhook alerts[0] was not told: the gateway stops"]
    raise_alert(running, "late")  # nothing is told any more
    assert len(logged) == 2
    await silent.stop()


@pytest_twisted.ensureDeferred
async def test_a_reload_takes_webhooks_up_and_those_that_stay_know_what_they_were_told(gateway: GatewayFactory) -> None:
    told = Told()
    running = await gateway("")
    raise_alert(running)
    await running.gateway.reload(parse_config(told.table()))
    raise_alert(running)
    await eventually(lambda: told.documents, "the alert")
    await running.gateway.reload(parse_config(told.table() + "[pool]\nmax_wait = 1\n"))
    raise_alert(running)
    raise_alert(running, "team:ads")
    await eventually(lambda: len(told.documents) == 2, "the other alert")
    assert [document["about"] for document in told.documents] == ["team:search", "team:ads"]
    await told.server.stop()


@pytest_twisted.ensureDeferred
async def test_a_webhook_that_does_not_keep_up_is_not_waited_for_for_ever(
    gateway: GatewayFactory, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_WAITING", 2)
    told = Told()
    running = await gateway(told.table())
    for number in range(3):
        raise_alert(running, f"team:{number}")
    assert logged[-1] == "alert: webhook ops does not keep up, and is not told"
    await eventually(lambda: len(told.documents) == 2, "two alerts")
    await told.server.stop()


@pytest_twisted.ensureDeferred
async def test_the_hour_ends(gateway: GatewayFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "REPEAT", 0.0)
    told = Told()
    running = await gateway(told.table())
    raise_alert(running)
    raise_alert(running)
    await eventually(lambda: len(told.documents) == 2, "both")
    await told.server.stop()
