"""A policy tried on the requests of a log: limits, budgets, strategies and fallbacks, with accounts as they were."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from agm.cli import main
from agm.config import load
from agm.diagnose.log_replay import NothingToReplay, Tried, replay_log
from agm.diagnose.recording import Head, Recording, config_for
from agm.observe.requestlog import store as logfile
from agm.testing import GatewayFactory, RunningEmulator
from tests.helpers.support import eventually

#: 2026-12-01, noon UTC.
NOON = 1_796_126_400.0
ACCOUNTS = "".join(
    f'[[accounts]]\nname = "{name}"\nkind = "api-key"\napi_key_env = "NOBODY_SETS_{name}"\npriority = {n}\n'
    for n, name in enumerate("ab")
)
PRIORITY = '[pool]\nstrategy = "priority"\nmax_wait = 0\n'
PRICES = '[prices."m"]\ninput = 1000.0\noutput = 1000.0\n[prices."n"]\ninput = 10.0\noutput = 10.0\n'


def attempt(account: str, *, after: int = 0, ms: int = 500, **failed: Any) -> dict[str, Any]:
    return {"account": account, "endpoint": "e", "chosen": "x", "after_ms": after, "ms": ms, **failed}


def rate(account: str, delay: float, **more: Any) -> dict[str, Any]:
    return attempt(account, status=429, fault="rate", reason="RESOURCE_EXHAUSTED", delay=delay, **more)


class Log:
    """A request log that a test writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        logfile.make(path)
        self.connection = sqlite3.connect(path)
        logfile.prepare(self.connection, path)
        self.connection.row_factory = sqlite3.Row
        self._count = 0

    def add(self, at: float, *timeline: Mapping[str, Any], **different: Any) -> str:
        """Add a request, at a number of seconds after noon; returns its id."""
        self._count += 1
        good = next((it for it in timeline if "fault" not in it), None)
        row = {
            "request": f"r{self._count}",
            "started": NOON + at,
            "client": "test",
            "method": "generateContent",
            "framing": "unary",
            "asked_model": "m",
            "model": "m",
            "account": timeline[-1]["account"] if timeline else None,
            "attempts": len(timeline),
            "status": 200 if good else 429,
            "outcome": "ok" if good else "error",
            "bytes_in": 10,
            "bytes_out": 10,
            "prompt_tokens": 900 if good else None,
            "output_tokens": 100 if good else None,
            "cached_tokens": 0 if good else None,
            "thought_tokens": 0 if good else None,
            "tool_tokens": 0 if good else None,
            "total_tokens": 1000 if good else None,
            "first_byte": 0.5 if good else None,
            "duration": 1.5,
            "timeline": json.dumps(timeline),
            "cost": 1.0 if good else None,
            **different,
        }
        values = [row.get(name) for name in logfile.COLUMNS]
        logfile.insert(self.connection, [values])
        return f"r{self._count}"

    def tried(self, config: str, *changes: tuple[str, str], since: float = 0.0) -> Tried:
        """Try a policy on all that came from a number of seconds after noon on."""
        path = self.path.with_name("agm.toml")
        path.write_text(config)
        found = config_for(Recording(Head(1), (), ()), path, changes)
        return replay_log(self.connection, found, NOON + since, NOON + 1e6)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log.sqlite3")


def test_a_limit_refuses_what_it_would_have_refused(log: Log) -> None:
    """These, and no others; of another key nothing."""
    for n in range(10):
        log.add(n * 10, attempt("a"), client_key="ci")
        log.add(n * 10 + 5, attempt("a"), client_key="ada")
    keys = '[[auth.keys]]\nname = "ci"\nkey = "x"\nrequests_per_day = 7\n'
    found = log.tried(ACCOUNTS + PRIORITY + keys).document()
    assert (found["requests"], found["replayed"]["refused"], found["replayed"]["served"]) == (20, 3, 17)
    assert [(it["request"], it["client_key"], it["limit"]) for it in found["refused"]] == [
        (name, "ci", "RequestsPerDayPerClientKey") for name in ("r15", "r17", "r19")
    ]
    assert found["refused"][0]["was"] == {"status": 200, "outcome": "ok", "account": "a", "reason": None}


def test_a_limit_that_is_taken_away_serves_what_was_refused(log: Log) -> None:
    """With what such a request usually uses."""
    log.add(0, attempt("a"), client_key="ci")
    log.add(1, client_key="ci", reason="CLIENT_KEY_LIMIT")
    log.add(2, client_key="ci", reason="INVALID_REQUEST", status=400)  # no policy serves that
    found = log.tried(ACCOUNTS + PRIORITY + PRICES).document()
    assert [it["request"] for it in found["served"]] == ["r2"]
    assert (found["left_out"], found["recorded"]["refused"], found["replayed"]["refused"]) == (1, 1, 0)
    assert found["replayed"]["cost"] == pytest.approx(2.0)


def test_a_budget_is_spent_with_the_tokens_that_were_used(log: Log) -> None:
    """And what was spent before in this month counts."""
    log.add(-3600, attempt("a"), client_key="ci", cost=2.5)
    for n in range(5):
        log.add(n * 10, attempt("a"), client_key="ci")
    config = ACCOUNTS + PRIORITY + PRICES + '[[auth.keys]]\nname = "ci"\nkey = "x"\nteam = "t"\n'
    budget = '[[budgets]]\nof = "team:t"\nlimit = 4.4\n'
    found = log.tried(config + budget).document()
    # 2.5 was spent, and two requests of 1.0 each go beyond 4.4
    assert [it["request"] for it in found["refused"]] == ["r4", "r5", "r6"]
    assert {it["reason"] for it in found["refused"]} == {"BUDGET_SPENT"}
    assert (found["recorded"]["cost"], found["replayed"]["cost"]) == (5.0, pytest.approx(2.0))
    assert log.tried(config + budget.replace("refuse", "warn") + 'then = "warn"\n').document()["refused"] == []


def test_an_account_that_was_out_of_quota_is_out_of_it(log: Log) -> None:
    """For whoever asks it, as long as the log says; another answers as ever."""
    log.add(0, rate("a", 100.0), attempt("b", after=500))
    log.add(50, attempt("b"))
    log.add(150, attempt("a"))
    found = log.tried(ACCOUNTS + PRIORITY).document()
    assert found["accounts"] == {"a": {"recorded": 1, "replayed": 1}, "b": {"recorded": 2, "replayed": 2}}
    only_a = found = log.tried(ACCOUNTS.partition('[[accounts]]\nname = "b"')[0] + PRIORITY).document()
    assert [it["request"] for it in only_a["failed"]] == ["r1"]
    assert [it["request"] for it in only_a["refused"]] == ["r2"]
    assert only_a["refused"][0]["reason"] == "ALL_ACCOUNTS_RESTING"
    assert found["replayed"]["served"] == 1


def test_a_fallback_serves_while_a_model_has_no_quota(log: Log) -> None:
    """At its own price, and it is told which."""
    log.add(0, rate("a", 600.0), rate("b", 600.0, after=500), status=429)
    log.add(60, status=429, reason="ALL_ACCOUNTS_RESTING")
    log.add(700, attempt("a"))
    fallbacks = '[models.fallbacks]\n"m" = ["n"]\n'
    found = log.tried(ACCOUNTS + PRIORITY + PRICES + fallbacks).document()
    assert [it["request"] for it in found["served"]] == ["r1", "r2"]
    assert found["replayed"]["cost"] == pytest.approx(1.0 + 2 * 0.01)
    assert log.tried(ACCOUNTS + PRIORITY).document()["served"] == []


def test_what_was_about_the_request_is_about_it_wherever_it_goes(log: Log) -> None:
    """An error of the request, of one attempt, an answer that was aborted, a credential that was refused."""
    log.add(0, attempt("a", status=400, fault="final", reason="INVALID_ARGUMENT"), status=400)
    log.add(10, attempt("a", status=503, fault="endpoint", reason="UNAVAILABLE"), attempt("b", after=500))
    log.add(20, attempt("a"), outcome="aborted")
    log.add(30, attempt("a", status=401, fault="credential", reason="UNAUTHENTICATED"), attempt("b", after=500))
    log.add(40, attempt("b"))
    for strategy in ("priority", "round-robin"):
        tried = log.tried(ACCOUNTS + PRIORITY, ("pool.strategy", strategy))
        found = tried.document()
        assert (found["replayed"]["served"], found["replayed"]["failed"], found["replayed"]["refused"]) == (4, 1, 0)
        assert tried.records["r1"].status == 400
        assert tried.records["r5"].account == "b"
    assert found["failed"] == []


def test_a_strategy_is_tried_on_the_same_requests(log: Log) -> None:
    """Accounts get their share by it."""
    for n in range(10):
        log.add(n * 10, attempt("a"))
    found = log.tried(ACCOUNTS + PRIORITY, ("pool.strategy", "round-robin")).document()
    assert found["accounts"] == {"a": {"recorded": 10, "replayed": 5}, "b": {"recorded": 0, "replayed": 5}}


def test_what_is_no_call_of_a_model_is_left_out_and_counted(log: Log) -> None:
    """Files, sessions, and what plugins called for another request."""
    log.add(0, attempt("a"))
    log.add(1, attempt("a"), method="files.get", asked_model="", model="")
    log.add(2, attempt("a"), framing="live")
    log.add(3, attempt("a"), parent="r1")
    found = log.tried(ACCOUNTS + PRIORITY).document()
    assert (found["requests"], found["left_out"]) == (1, 3)
    with pytest.raises(NothingToReplay, match="no request to replay in this time; 3 others are no calls"):
        log.tried(ACCOUNTS + PRIORITY, since=0.5)


@pytest_twisted.ensureDeferred
async def test_what_a_gateway_has_logged_is_replayed_as_it_was(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same policy comes to the same end, and another one says what would differ."""
    path, config = tmp_path / "log.sqlite3", tmp_path / "agm.toml"
    text = (
        emulator.account("work")
        + emulator.account("code", kind="code-assist", extra="priority = 1")
        + '[[auth.keys]]\nname = "ci"\nkey = "ci-key"\nrequests_per_day = 100\n'
        + f'[request_log]\npath = "{path}"\n[pool]\nstrategy = "priority"\n'
    )
    config.write_text(text)
    running = await gateway(text, request_log_path=path)
    for method in ("generateContent", "streamGenerateContent", "countTokens"):
        assert (await running.ask(method=method, key="ci-key")).status == 200
    assert (await running.ask("emu-400", key="ci-key")).status == 400
    await eventually(lambda: running.gateway.request_log.written == 4, "four rows")  # type: ignore[union-attr]
    assert main(["replay", "--config", str(config), "--since", "1h"]) == 0
    shown = capsys.readouterr().out
    assert "4 requests from " in shown
    assert "would have refused 0 of 4" in shown
    assert "would have failed" not in shown
    assert main(["replay", str(path), "--config", str(config), "--set", "models.list=[]", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    same = ("served", "refused", "failed", "attempts", "unpriced")
    assert [found["recorded"][name] for name in same] == [found["replayed"][name] for name in same]
    assert found["recorded"]["cost"] == pytest.approx(found["replayed"]["cost"])
    config.write_text(text.replace("requests_per_day = 100", "requests_per_day = 3"))
    assert main(["replay", "--config", str(config), "--since", "1h"]) == 0
    shown = capsys.readouterr().out
    assert "would have refused 1 of 4" in shown
    assert "RequestsPerDayPerClientKey" in shown


def test_a_copy_of_the_configuration_is_tried_on_the_gateways_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy has a log of its own place, where nothing is: what is meant is that of the gateway."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config, changed = tmp_path / "agm.toml", tmp_path / "next.toml"
    for path in (config, changed):
        path.write_text("[gateway]\nlisten = []\n".replace("[]", '["unix:nowhere.sock"]') + ACCOUNTS)
    monkeypatch.setenv("AGM_CONFIG", str(config))
    place = logfile.path_of(load(config, environ={}))
    assert place is not None
    place.parent.mkdir(parents=True)
    log = Log(place)
    log.add(0, attempt("a"))
    times = ["--since", "2026-12-01T00:00", "--until", "2026-12-02T23:00"]
    assert main(["replay", "--config", str(changed), *times]) == 0
    assert "1 request from" in capsys.readouterr().out
    Log(logfile.path_of(load(changed, environ={})))  # type: ignore[arg-type]  # it has a log by now
    assert main(["replay", "--config", str(changed), *times]) == 1
    assert "no request to replay" in capsys.readouterr().err


def test_what_cannot_be_tried_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No log, no request of the time, and times for a recording."""
    config = tmp_path / "agm.toml"
    config.write_text(f'[request_log]\npath = "{tmp_path / "log.sqlite3"}"\n')
    assert main(["replay", "--config", str(config)]) == 1
    assert "no request was logged there yet" in capsys.readouterr().err
    Log(tmp_path / "log.sqlite3").connection.close()
    assert main(["replay", "--config", str(config)]) == 1
    assert "there is no request to replay in this time" in capsys.readouterr().err
    (tmp_path / "r.jsonl").write_text('{"request": "r"}')
    assert main(["replay", str(tmp_path / "r.jsonl"), "--since", "1h"]) == 1
    assert "is a recording" in capsys.readouterr().err
