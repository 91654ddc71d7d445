"""How accounts stand, as a running gateway tells it: ``GET /_agm/accounts`` and ``agm account list``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from agm.cli.account_status import details, duration, summary
from agm.core.client_keys import digest
from agm.persist.pool_state import reset
from agm.testing import GatewayFactory, RunningEmulator
from testbed.processes import environment, get, post, run, running, until
from tests.helpers.commands import Command

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
        "sessions": 0,
        "max_sessions": None,
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
    assert (await running.fetch("POST", "/_agm/accounts", key="boss", body=b"{}")).status == 409  # no file


@pytest_twisted.ensureDeferred
@pytest.mark.process
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
    assert lines[4].startswith("work: emu-429rpm-3000: cooling down, 50 min left (RESOURCE_EXHAUSTED)")
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


# -- Taking it back ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_what_is_held_is_taken_back_in_the_running_gateway(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    """For all models or for one; that nothing is held is said, too, also by enabling what is enabled."""
    text = NO_WAIT + emulator.account("work")
    running = await gateway(text)
    pool = running.gateway.pool
    (account,) = pool.accounts
    listen = f'[gateway]\nlisten = ["tcp:{running.port}:interface=127.0.0.1"]\n'
    (tmp_path / "agm.toml").write_text(listen + text)

    async def said(*arguments: str) -> str:
        command = Command.start(
            "account", *arguments, "--config", "agm.toml", env=environment(tmp_path), folder=tmp_path
        )
        await command.ended()
        assert (command.status, command.messages) == (0, "")
        return command.out.decode()

    pool.disable(account, "VALIDATION_REQUIRED")
    pool.note_quota(account, "m", 0.0, running.gateway.reactor.seconds() + 100)
    assert await said("reset", "work", "--model", "m") == "work: cooldowns and errors for m are cleared\n"
    assert await said("reset", "work", "--model", "m") == "work: nothing to reset for m\n"
    assert pool.remember()["work"].disabled is not None
    assert await said("reset", "work") == "work: cooldowns and errors are cleared\n"
    assert pool.remember() == {}
    pool.disable(account, "VALIDATION_REQUIRED")
    assert await said("enable", "work") == "work is enabled\nwork: cooldowns and errors are cleared\n"
    assert await said("enable", "work") == "work is enabled\nwork: nothing to reset\n"


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_reset_is_refused(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """With a sentence; only the person who runs the gateway may."""
    keys = f'[auth]\nmode = "strict"\n[[auth.keys]]\nname = "guest"\nkey_sha256 = "{digest("guest")}"\n'
    running = await gateway(emulator.account("work") + keys)
    for path, body, status in (
        ("/_agm/accounts/work/reset", b"", 200),
        ("/_agm/accounts/work/reset", b'{"model": "m"}', 200),
        ("/_agm/accounts/work/reset", b"{", 400),
        ("/_agm/accounts/work/reset", b'{"models": "m"}', 400),
        ("/_agm/accounts/nobody/reset", b"", 404),
        ("/_agm/accounts/work", b"", 405),
        ("/_agm/accounts/work/reset/more", b"", 404),
    ):
        answer = await running.fetch("POST", path, key="guest", body=body)
        assert answer.status == status, path
        assert (
            (answer.json == {"account": "work", "model": answer.json["model"], "reset": False})
            if status == 200
            else (answer.json["error"]["code"] == status)
        )
    assert (await running.fetch("GET", "/_agm/accounts/work/reset", key="guest")).status == 405
    assert (await running.fetch("POST", "/_agm/accounts/work/reset", body=b"")).status == 401


@pytest.mark.parametrize("model", [None, "m"])
def test_what_a_stopped_gateway_would_know_is_taken_back(tmp_path: Path, model: str | None) -> None:
    """In its file, which stays for its owner alone; other accounts and resources stay in it."""
    path = tmp_path / "state.json"
    rest = {"model": "m", "cause": "RESTING", "reason": "R", "until": 9e9}
    work = {
        "origin": "x",
        "held": {**rest, "model": "*"},
        "rests": [rest],
        "quotas": [{"model": "n", "left": 0, "until": 9e9}],
    }
    path.write_text(json.dumps({"agm": 1, "accounts": {"work": work, "other": work}, "owners": [["files/a", "work"]]}))
    assert reset(path, "work", model)
    assert not reset(path, "work", model)
    assert not reset(path, "nobody", model)
    assert not reset(None, "work", model)
    assert not reset(tmp_path / "none", "work", model)
    written = json.loads(path.read_bytes())
    assert written["owners"] == [["files/a", "work"]]
    assert len(written["accounts"]["other"]["rests"]) == 1
    if model is None:
        assert "work" not in written["accounts"]
    else:
        assert written["accounts"]["work"].keys() == {"origin", "held", "quotas"}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_stopped_gateways_state_is_changed_by_the_command(tmp_path: Path) -> None:
    """It says where; a file that is none is refused."""
    (tmp_path / "agm.toml").write_text(
        '[gateway]\nlisten = ["unix:none"]\n[pool]\nstate = "state.json"\n'
        '[[accounts]]\nname = "work"\nkind = "api-key"\napi_key_env = "NOT_SET"\n'
    )
    state = tmp_path / "state.json"
    state.write_text('{"agm": 1, "accounts": {"work": {"origin": "x", "disabled": "revoked"}}}')

    async def told(*arguments: str) -> Command:
        command = Command.start("account", "reset", *arguments, "--offline", env=environment(tmp_path), folder=tmp_path)
        await command.ended()
        return command

    done = await told("work", "--config", "agm.toml")
    assert (done.status, done.out) == (0, b"work: cooldowns and errors are cleared\n")
    assert json.loads(state.read_bytes())["accounts"] == {}
    state.write_text("{")
    refused = await told("work", "--config", "agm.toml")
    assert refused.status == 1
    assert "the state cannot be changed" in refused.messages


@pytest.mark.process
def test_accounts_that_only_the_running_gateway_has_are_listed_too(tmp_path: Path) -> None:
    """A demo's, and a plugin's.  A demo has a request log of its own, which the commands find."""

    def agm(*arguments: str) -> str:
        done = run([sys.executable, "-m", "agm", *arguments, "--url", url], env=environment(tmp_path),
                   capture_output=True, text=True, check=False)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return str(done.stdout)

    with running(tmp_path, "agm", "--demo", "--port", "0") as twistd:
        url = twistd.url()
        client, answer = post(url, "/v1beta/models/m:generateContent", b'{"contents": [{"parts": [{"text": "x"}]}]}')
        assert answer.status == 200
        client.close()
        listed = agm("account", "list").splitlines()
        assert [line.split()[0] for line in listed] == ["NAME", "demo-1", "demo-2", "demo-3"]
        assert all(line.split()[2:] == ["-", "-", "-", "-", "yes", "ready"] for line in listed[1:])
        until(lambda: json.loads(get(url, "/_agm/log")[1])["written"], "the request is recorded")
        assert agm("usage").splitlines()[1].split()[:3] == ["-", "1", "0"]
        folder = Path(json.loads(get(url, "/_agm/log")[1])["path"]).parent
        assert folder.exists()
        assert twistd.stop() == 0
    assert not folder.exists()
