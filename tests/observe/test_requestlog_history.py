"""What the log says of a stretch of time: to the store, and below ``/_agm/log``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest_twisted

from agm.config import parse
from agm.observe.requestlog.history import described, history
from agm.testing import GatewayFactory, RunningEmulator
from tests.cli.test_log_command import PLAIN, Book
from tests.helpers.support import eventually


def test_counts_and_durations_are_told_step_by_step_and_by_account_and_key(tmp_path: Path) -> None:
    book = Book(tmp_path / "log" / "requests.sqlite3")
    for second in range(100):
        book.add(f"r{second}", started=1000.0 + second, duration=float(second), first_byte=second / 10, tool_tokens=1)
    book.add("e", started=1099.5, outcome="error", account=None, client_key=None, duration=5000.0)
    book.add("before", started=999.0)
    book.add("after", started=1100.0)
    found = history(book.connection, 1000.0, 1100.0, 10)
    assert (found["since"], found["until"], found["step"]) == (1000.0, 1100.0, 10.0)
    assert found["requests"] == [10] * 9 + [11]
    assert found["errors"] == [0] * 9 + [1]
    assert found["prompt_tokens"][0] == 10 * (PLAIN["prompt_tokens"] + 1)
    assert found["output_tokens"][0] == 10 * (PLAIN["output_tokens"] + PLAIN["thought_tokens"])
    assert (found["p50"][0], found["p95"][0], found["p95"][9]) == (4.0, 9.0, 99.0)
    (work,) = found["accounts"]
    assert (work["name"], work["requests"], work["errors"]) == ("work", 100, 0)
    assert (work["p50"], work["p95"], work["first_byte_p50"], work["first_byte_p95"]) == (49.0, 94.0, 4.9, 9.4)
    assert [(key["name"], key["requests"], key["errors"], key["p95"]) for key in found["keys"]] == [
        ("laptop", 100, 0, 94.0),
        (None, 1, 1, None),
    ]
    book.connection.close()


def test_nothing_is_nothing(tmp_path: Path) -> None:
    book = Book(tmp_path / "log" / "requests.sqlite3")
    found = history(book.connection, 0.0, 60.0, 3)
    assert (found["requests"], found["p95"], found["accounts"], found["keys"]) == ([0, 0, 0], [None] * 3, [], [])
    book.connection.close()


@pytest_twisted.ensureDeferred
async def test_the_dashboard_asks_for_both(gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path) -> None:
    """The request has the form that the status has it in, as far as the log knows."""
    config = parse("[pool]\nmax_wait = 0\n" + emulator.account("work") + emulator.account("spare"), environ={})
    running = await gateway(config, request_log_path=tmp_path / "requests.sqlite3")
    for model in ("gemini-2.5-flash", "emu-503-once-history", "emu-400"):
        await running.ask(model)

    async def written() -> Any:
        return (await running.fetch("GET", "/_agm/log")).json["written"] == 3

    while not await written():
        await eventually(lambda: True)
    told = (await running.fetch("GET", "/_agm/log/history?seconds=300&steps=5")).json
    assert (sum(told["requests"]), sum(told["errors"]), len(told["p95"])) == (3, 1, 5)
    assert {account["name"] for account in told["accounts"]} <= {"work", "spare"}
    known = {one["id"]: one for one in (await running.fetch("GET", "/_agm/status")).json["requests"]}
    for id_, one in known.items():
        found = (await running.fetch("GET", f"/_agm/log/requests/{id_}")).json
        assert found.keys() == one.keys()
        same = ("id", "client_key", "asked", "served", "status", "outcome", "prompt_tokens", "output_tokens", "stopped")
        assert {name: found[name] for name in same if name != "stopped" or one["outcome"] != "ok"} == {
            name: one[name] for name in same if name != "stopped" or one["outcome"] != "ok"
        }
        assert [each["account"] for each in found["attempts"]] == [each["account"] for each in one["attempts"]]
        assert [each.keys() for each in found["attempts"]] == [each.keys() for each in one["attempts"]]
    for target, status in (
        ("history?seconds=1", 400),
        ("history?seconds=x", 400),
        ("history?seconds=nan", 400),
        ("history?steps=100000", 400),
        ("requests/nothing", 404),
        ("requests", 404),
        ("requests/a/b", 404),
    ):
        assert (await running.fetch("GET", f"/_agm/log/{target}")).status == status, target
    without = await gateway("")
    for target in ("history", "requests/x"):
        answer = await without.fetch("GET", f"/_agm/log/{target}")
        assert (answer.status, "request log is off" in answer.json["error"]["message"]) == (404, True)


def test_a_row_of_an_older_log_has_no_cost() -> None:
    row = {**PLAIN, "request": "r", "started": 1.0, "reason": None, "message": None, "stopped": None, "timeline": []}
    assert (described(row)["cost"], described(row)["parent"]) == (None, None)
