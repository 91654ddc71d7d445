"""The limits of client keys through the gateway: what is counted, what a client is told, what a restart keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from agm.core.limits import DAY, Allowances, Limits
from agm.persist.key_usage import KeyCounts, path_beside
from agm.testing import Answer, GatewayFactory, RunningEmulator, RunningGateway, parse_config
from testbed import storms
from testbed.processes import Twistd, environment, post
from tests.helpers.support import connect, eventually, reactor
from tests.helpers.support import post as request

ASK = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}).encode()


def key(*lines: str, name: str = "a", secret: str = "right") -> str:
    """An ``[[auth.keys]]`` table."""
    return "\n".join(["[[auth.keys]]", f'name = "{name}"', f'key = "{secret}"', *lines, ""])


def told(answer: Answer) -> dict[str, Any]:
    """What a refusal says: its details by their kind, and its message."""
    error = answer.json["error"]
    details = {detail["@type"].rpartition(".")[2]: detail for detail in error["details"]}
    return {"status": answer.status, "message": error["message"], "code": error["status"], **details}


@pytest.mark.parametrize("limit", ["requests_per_day = 1", "tokens_per_day = 1", "tokens_per_minute = 1"])
@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest_twisted.ensureDeferred
async def test_a_limit_that_is_used_up_is_429_in_googles_form(
    gateway: GatewayFactory, emulator: RunningEmulator, limit: str, method: str
) -> None:
    """On every framing, whichever limit it is; and nothing reaches an upstream."""
    running = await gateway(emulator.account() + key(limit))
    assert (await running.ask(key="right", method=method)).status == 200
    asked = len(emulator.log)
    answer = await running.ask(key="right", method=method)
    assert len(emulator.log) == asked
    refusal = told(answer)
    assert (refusal["status"], refusal["code"]) == (429, "RESOURCE_EXHAUSTED")
    assert refusal["ErrorInfo"]["reason"] == "CLIENT_KEY_LIMIT"
    (violation,) = refusal["QuotaFailure"]["violations"]
    words = limit.partition(" ")[0].replace("_", "").lower()
    assert violation["quotaId"].lower() == f"{words}perclientkey"
    assert violation["quotaValue"] == "1"
    wait = float(refusal["RetryInfo"]["retryDelay"].removesuffix("s"))
    assert wait > 0
    assert f"Please retry in {wait:.3f}s." in refusal["message"]
    assert 0 <= int(answer.headers["retry-after"]) - wait < 1
    assert "right" not in answer.body.decode()
    assert (await running.ask()).status == 200  # nobody else is held to it


@pytest_twisted.ensureDeferred
async def test_tokens_are_those_that_the_upstream_told(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Of unary answers, streams and arrays; a count of tokens uses none, and is let in without any left."""
    running = await gateway(emulator.account() + key("tokens_per_day = 1000000"))
    unary = await running.ask(key="right")
    stream = await running.ask(key="right", method="streamGenerateContent")
    array = await running.fetch(
        "POST", "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=json", body=ASK, key="right"
    )
    assert (await running.ask(key="right", method="countTokens")).status == 200
    used = sum(answer["usageMetadata"]["totalTokenCount"] for answer in (unary.json, stream.events[-1], array.json[-1]))
    assert running.gateway.clients.allowances.today("a") == (4, used)
    await running.gateway.reload(parse_config(emulator.account() + key("tokens_per_day = 1")))
    assert (await running.ask(key="right")).status == 429  # a reload keeps what was counted
    assert (await running.ask(key="right", method="countTokens")).status == 200
    assert (await running.fetch("GET", "/v1beta/models", key="right")).status == 200
    assert running.gateway.clients.allowances.today("a") == (5, used)


@pytest_twisted.ensureDeferred
async def test_an_answer_whose_client_leaves_is_charged_with_what_was_told(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """As far as it had come."""
    running = await gateway(emulator.account() + key())
    client = await connect(running.port)
    target = "/v1beta/models/emu-slow:streamGenerateContent?alt=sse"
    client.send(request(target, ASK, "x-goog-api-key: right"))
    await client.until(b"usageMetadata")
    client.transport.abortConnection()
    await eventually(lambda: running.gateway.clients.allowances.today("a")[1] > 0, "a charge")
    assert running.gateway.clients.allowances.today("a")[0] == 1


async def refusals(running: RunningGateway) -> list[tuple[int, str]]:
    """What the expired key is told, on each of the ways in."""
    asked = [
        await running.ask(key="right"),
        await running.fetch("GET", "/v1beta/models", key="right"),
        await running.fetch("GET", "/v1beta/files", headers={"Authorization": "Bearer right"}),
    ]
    return [(answer.status, answer.json["error"]["details"][0]["reason"]) for answer in asked]


@pytest_twisted.ensureDeferred
async def test_an_expired_key_is_401_with_words_of_its_own(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Also where no key is asked for; the answer names neither the key nor its name."""
    expired = emulator.account() + key("expires = 2020-02-29", name="hidden-name")
    for mode in ("off", "strict"):
        running = await gateway(expired, auth_mode=mode)
        assert await refusals(running) == [(401, "CLIENT_KEY_EXPIRED")] * 3
        answer = await running.ask(key="right")
        assert answer.json["error"]["message"] == (
            "This client key has expired: it was good until 2020-03-01T00:00:00Z. "
            "Ask whoever runs the gateway for another."
        )
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert b"hidden" not in answer.body
        await running.gateway.reload(parse_config(emulator.account() + key("expires = 2999-01-01")))
        assert (await running.ask(key="right")).status == 200
    assert "right" not in emulator.accounts


@pytest_twisted.ensureDeferred
async def test_a_key_that_is_good_goes_before_one_that_has_expired(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Of the keys that a request carries."""
    both = key("expires = 2020-01-01", name="old", secret="old") + key(name="new", secret="new")
    running = await gateway(emulator.account() + both, auth_mode="strict")
    answer = await running.ask(headers={"Authorization": "Bearer old", "x-api-key": "new"})
    assert answer.status == 200
    assert running.gateway.clients.allowances.today("new")[0] == 1


@pytest_twisted.ensureDeferred
async def test_an_explanation_tells_a_limit_and_counts_nothing(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Nor does it charge."""
    running = await gateway(emulator.account() + key("requests_per_day = 1"))
    for _ in range(3):
        assert (await running.explain(key="a"))["account"]["name"] == "work"
    assert (await running.ask(key="right")).status == 200
    assert "1 requests per day" in json.dumps(await running.explain(key="a"))
    assert running.gateway.clients.allowances.today("a")[0] == 1


@pytest_twisted.ensureDeferred
async def test_the_limits_and_their_use_are_told_to_the_person(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """No key among it."""
    running = await gateway(emulator.account() + key("requests_per_day = 5", "expires = 2999-12-31"))
    used = (await running.ask(key="right")).json["usageMetadata"]["totalTokenCount"]
    answer = await running.fetch("GET", "/_agm/keys")
    assert answer.json["client_keys"] == [
        {
            "name": "a",
            "models": [],
            "requests_per_minute": None,
            "requests_per_day": 5,
            "tokens_per_minute": None,
            "tokens_per_day": None,
            "expires": 32503680000.0,
            "admin": False,
            "team": None,
            "weight": 1,
            "today": {"requests": 1, "tokens": used},
        }
    ]
    assert b"right" not in answer.body


# Restarts


@pytest_twisted.ensureDeferred
async def test_counts_are_kept_in_a_file_for_the_day(tmp_path: Path) -> None:
    """With names and numbers alone; another day's say nothing."""
    path = path_beside(tmp_path / "deep" / "state.json")
    assert path.name == "state-limits.json"
    wall = 20_000.0 * DAY
    for life in range(3):
        allowances = Allowances(Clock().seconds, lambda: wall)
        counts = KeyCounts(reactor, allowances, path)
        counts.start()
        assert allowances.today("a") == (life, 10 * life)
        allowances.admit("a", Limits(), spends=True)
        allowances.charge("a", 10)
        await counts.stop()
    assert json.loads(path.read_text()) == {
        "agm": 1,
        "day": 20_000,
        "client_keys": {"a": {"requests": 3, "tokens": 30}},
    }
    wall += DAY
    allowances = Allowances(Clock().seconds, lambda: wall)
    counts = KeyCounts(reactor, allowances, path)
    counts.start()
    assert allowances.today("a") == (0, 0)
    await counts.stop()


@pytest.mark.parametrize(
    "held", ["", "{", "[]", '{"agm": 2}', '{"agm": 1, "day": 20000, "client_keys": {"a": {"requests": -1}}}']
)
@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_used_is_set_aside(tmp_path: Path, held: str) -> None:
    """And the day starts anew."""
    path = tmp_path / "state-limits.json"
    path.write_text(held)
    allowances = Allowances(Clock().seconds, lambda: 20_000.0 * DAY)
    counts = KeyCounts(reactor, allowances, path)
    counts.start()
    assert allowances.today("a") == (0, 0)
    await counts.stop()
    assert path.with_name("state-limits.json.unusable").read_text() == held


@pytest.fixture
def gateways() -> Iterator[list[Twistd]]:
    started: list[Twistd] = []
    yield started
    for each in started:
        each.kill()


@pytest.mark.slow
@pytest.mark.process
def test_a_restart_keeps_what_was_used_today(tmp_path: Path, gateways: list[Twistd]) -> None:
    """Through the real process, and for the configuration's own state file."""
    config = tmp_path / "agm.toml"
    with storms.emulating(tmp_path / "emulator") as emulator:
        config.write_text(
            f"[pool]\nstate = {json.dumps(str(tmp_path / 'state.json'))}\n"
            f'[[accounts]]\nname = "work"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{emulator}"]\n'
            + key("requests_per_day = 2")
        )
        config.chmod(0o600)
        statuses = []
        for life in range(2):
            folder = tmp_path / f"gateway{life}"
            twistd = Twistd.start(folder, "agm", "--port", "0", "--config", str(config), env=environment(folder))
            gateways.append(twistd)
            url = twistd.url()
            for _ in range(2 - life):
                client, answer = post(url, "/v1beta/models/gemini-2.5-flash:generateContent?key=right", ASK)
                statuses.append(answer.status)
                answer.read()
                client.close()
            assert twistd.stop() == 0
    assert statuses == [200, 200, 429]
    kept = json.loads((tmp_path / "state-limits.json").read_text())["client_keys"]["a"]
    assert (kept["requests"], kept["tokens"] > 0) == (2, True)
    assert "right" not in (tmp_path / "state-limits.json").read_text()


@pytest_twisted.ensureDeferred
async def test_while_accounts_are_short_keys_are_served_by_their_weight_and_batches_last(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """One account, one request at a time: whoever floods it gets a turn and no more; streams go before batches."""
    running = await gateway(
        emulator.account(extra="max_concurrency = 1")
        + "[pool]\nmax_wait = 60\n"
        + key(name="crawler", secret="crawler-key")
        + key("weight = 2", name="ada", secret="ada-key")
    )
    slow = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}
    first = running.ask("emu-latency-300", key="crawler-key", body=slow)
    asked = [Deferred.fromCoroutine(first)]
    await eventually(lambda: len(emulator.log) == 1, "the account to be busy")

    def ask(name: str, method: str, body: object) -> None:
        call = running.ask(key=f"{name}-key", method=method, body=json.dumps(body).encode())
        asked.append(Deferred.fromCoroutine(call))

    text = {"parts": [{"text": "x"}]}
    ask("crawler", "batchEmbedContents", {"requests": [{"model": "models/gemini-2.5-flash", "content": text}]})
    for n in range(4):
        await eventually(lambda n=n: running.gateway.pool.waiting() == n + 1, "one more to wait")
        ask("crawler", "generateContent", slow)
    await eventually(lambda: running.gateway.pool.waiting() == 5, "five to wait")
    for n in range(4):
        ask("ada", "streamGenerateContent", slow)
        await eventually(lambda n=n: running.gateway.pool.waiting() == 6 + n, "one more to wait")
    await gatherResults(asked)
    order = [entry.path.rpartition(":")[2] for entry in emulator.log[1:]]
    assert order[-1] == "batchEmbedContents"
    assert sorted(order[:6]) == ["generateContent"] * 2 + ["streamGenerateContent"] * 4
