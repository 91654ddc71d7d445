"""How accounts stand, as a running gateway tells it: ``GET /_agm/accounts`` and ``agm account list``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from commands import Command
from processes import environment

from agm.cli.standing import details, duration, summary
from agm.core.clientkeys import digest
from agm.testing import GatewayFactory, RunningEmulator

NO_WAIT = "[pool]\nmax_wait = 0\nmax_attempts = 1\n"


async def told(running: Any) -> dict[str, Any]:
    answer = await running.fetch("GET", "/_agm/accounts")
    assert answer.status == 200
    return {account["name"]: account for account in answer.json["accounts"]}


@pytest_twisted.ensureDeferred
async def test_the_gateway_tells_who_rests_for_how_long_and_why(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """By model; and what failed last, without a word of what an upstream repeats."""
    running = await gateway(NO_WAIT + emulator.account("work") + emulator.account("team", "code-assist"))
    accounts = await told(running)
    assert list(accounts) == ["work", "team"]
    assert accounts["work"] == {
        "name": "work",
        "kind": "api-key",
        "project": None,
        "in_flight": 0,
        "max_concurrency": None,
        "disabled": None,
        "held": None,
        "models": [],
        "quotas": [],
        "last_failure": None,
    }
    assert accounts["team"]["project"] == "p"
    await running.ask("emu-429rpm-30")
    served = next(account for account in (await told(running)).values() if account["models"])
    (rest,) = served["models"]
    assert (rest["model"], rest["state"], rest["reason"]) == ("emu-429rpm-30", "resting", "RESOURCE_EXHAUSTED")
    assert 0 < rest["seconds_left"] <= 30
    last = served["last_failure"]
    assert last.pop("seconds_ago") < 30
    assert last == {"model": "emu-429rpm-30", "status": 429, "reason": "RESOURCE_EXHAUSTED"}


@pytest_twisted.ensureDeferred
async def test_a_quota_and_a_disabled_account_are_told(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """With the reason for which a person must act."""
    running = await gateway(emulator.account("work"))
    pool = running.gateway.pool
    (account,) = pool.accounts
    pool.note_quota(account, "m", 0.25, running.gateway.reactor.seconds() + 100)
    pool.disable(account, "its refresh token was revoked")
    work = (await told(running))["work"]
    assert work["disabled"] == "its refresh token was revoked"
    (quota,) = work["quotas"]
    assert (quota["model"], quota["remaining"]) == ("m", 0.25)
    assert 90 < quota["seconds_left"] <= 100


@pytest_twisted.ensureDeferred
async def test_it_is_told_to_the_person_only(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """From another machine, to a client key with admin = true; names of accounts are nobody else's."""
    keys = "".join(
        f'[[auth.keys]]\nname = "{name}"\nkey_sha256 = "{digest(name)}"\nadmin = {admin}\n'
        for name, admin in (("boss", "true"), ("guest", "false"))
    )
    running = await gateway('[auth]\nmode = "strict"\n' + keys + emulator.account("work"))
    assert (await running.fetch("GET", "/_agm/accounts")).status == 401
    assert (await running.fetch("GET", "/_agm/accounts", key="boss")).status == 200
    assert (await running.fetch("POST", "/_agm/accounts", key="boss", body=b"{}")).status in (404, 405)


@pytest_twisted.ensureDeferred
async def test_the_list_shows_how_accounts_stand(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    """A word in the table, and a line for what there is to say; --offline shows what is configured alone."""
    text = NO_WAIT + emulator.account("work") + emulator.account("off", extra="enabled = false")
    running = await gateway(text)
    await running.ask("emu-429rpm-3000")
    (tmp_path / "agm.toml").write_text(text + emulator.account("new"))

    async def listed(*arguments: str) -> Command:
        command = Command.start(
            "account", "list", "--config", "agm.toml", *arguments, env=environment(tmp_path), folder=tmp_path
        )
        await command.ended()
        assert (command.status, command.messages) == (0, "")
        return command

    lines = (await listed("--url", running.url)).out.decode().splitlines()
    assert [line.rpartition("  ")[2] for line in lines[:4]] == [
        "STATE",
        "ready but for 1 model",
        "-",
        "not in the running gateway",
    ]
    assert lines[4].startswith("work: emu-429rpm-3000: resting, 50 min left (RESOURCE_EXHAUSTED)")
    assert lines[5].startswith("work: last failure ")
    assert len(lines) == 6
    document = json.loads((await listed("--url", running.url, "--json")).out)
    assert [account["live"] is None for account in document] == [False, True, True]
    assert "STATE" not in (await listed("--offline")).out.decode()


@pytest_twisted.ensureDeferred
async def test_googles_words_and_what_helps_are_told(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """With the page that Google names, for an account that is off and for one that is set aside."""
    running = await gateway(NO_WAIT + emulator.account("work"))
    await running.ask("emu-403validation")
    work = (await told(running))["work"]
    held = work["held"]
    assert (work["disabled"], held["state"], held["seconds_left"]) == ("VALIDATION_REQUIRED", "disabled", None)
    assert held["message"] == "Verify your account to continue."
    assert held["link"].startswith("https://accounts.google.com/")
    assert held["fix"].endswith("then: agm account reset work")
    assert details(work)[:4] == [
        "disabled: VALIDATION_REQUIRED",
        "  Google says: Verify your account to continue.",
        f"  see: {held['link']}",
        f"  fix: {held['fix']}",
    ]
    assert running.gateway.pool.reset("work")
    await running.ask("emu-403disabled")
    work = (await told(running))["work"]
    assert (work["disabled"], work["held"]) == (None, work["models"][0])
    assert 55 < work["held"]["seconds_left"] <= 60
    assert summary(work) == "set aside, 60 s left"
    assert details(work)[0] == "all models: set aside, 60 s left (SERVICE_DISABLED)"
    assert details(work)[1].startswith("  Google says: Generative Language API has not been used in project")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.2, "1 s"), (119, "119 s"), (120, "2 min"), (121, "3 min"), (7200, "2 h"), (7201, "2 h 1 min")],
)
def test_times_are_rounded_up(seconds: float, text: str) -> None:
    """Nobody is to come back too early."""
    assert duration(seconds) == text


def test_a_word_says_it_all() -> None:
    """Disabled goes before full, full before what rests for a model."""
    account: dict[str, Any] = {"disabled": None, "in_flight": 2, "max_concurrency": None, "models": []}
    assert summary(account) == "ready"
    assert summary({**account, "models": [{}, {}]}) == "ready but for 2 models"
    assert summary({**account, "models": [{}], "max_concurrency": 2}) == "full"
    assert summary({**account, "disabled": "why", "max_concurrency": 2}) == "disabled"
    aside = {"state": "set aside", "seconds_left": 59.2}
    assert summary({**account, "held": aside, "max_concurrency": 2}) == "set aside, 60 s left"
    assert summary({**account, "held": {"state": "probe due", "seconds_left": 0.0}}) == "ready"
    assert summary(None) == "not in the running gateway"
