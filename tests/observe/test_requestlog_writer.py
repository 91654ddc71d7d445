"""The request log of a running gateway: what is written and when, what it does when it cannot, and bodies."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from agm.config import RequestLogConfig
from agm.core.classify import Fault, Verdict
from agm.core.request import AttemptRecord
from agm.core.wire.answer_filters import Framing
from agm.core.wire.usage import Usage
from agm.observe.finished import Finished
from agm.observe.requestlog import store as logfile
from agm.observe.requestlog import writer as requestlog
from agm.observe.requestlog.rows import row_of
from agm.observe.requestlog.store import COLUMNS, Filter, Unusable
from agm.observe.requestlog.writer import RequestLog
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import AnsweringUpstream, eventually, google_error, reactor

GOOD = AttemptRecord(
    "r", 2, "b", "its turn", "https://u:p@e.example:8443/base?x=y", "m", 100.5, 0.25, 0.25, 200, None, probe=True
)
BAD = AttemptRecord(
    "r", 1, "a", "first", "https://e.example", "m", 100.0, None, 0.4, 429, Verdict(Fault.RATE, "RATE", 20.0), "too many"
)
ENDED = Finished(
    "r", 100.0, "laptop", "curl/8", "generateContent", Framing.UNARY, "gpt-4o", "m", 200, "ok", 0.75, 0.9, 1234,
    (BAD, GOOD), Usage(10, 20, 5, 3, 2, 35), "STOP", None, None, "b", 77, 0, 3, None, "search", 0.25,
)  # fmt: skip


def evolve(**different: Any) -> Finished:
    fields = {name: getattr(ENDED, name) for name in ENDED.__struct_fields__}
    return Finished(**{**fields, **different})


def as_dict(finished: Finished, redact: Callable[[str], str] = lambda text: text) -> dict[str, Any]:
    found: dict[str, Any] = dict(zip(COLUMNS, row_of(finished, redact), strict=True))
    return found


# -- Rows --------------------------------------------------------------------------------------------


def test_a_row_tells_everything_of_a_request() -> None:
    row = as_dict(ENDED)
    timeline = json.loads(row.pop("timeline"))
    assert row == {
        "request": "r",
        "started": 100.0,
        "client_key": "laptop",
        "client": "curl/8",
        "method": "generateContent",
        "framing": "unary",
        "asked_model": "gpt-4o",
        "model": "m",
        "account": "b",
        "attempts": 2,
        "status": 200,
        "outcome": "ok",
        "reason": None,
        "message": None,
        "stopped": None,
        "bytes_in": 77,
        "bytes_out": 1234,
        "prompt_tokens": 10,
        "output_tokens": 20,
        "cached_tokens": 5,
        "thought_tokens": 3,
        "tool_tokens": 2,
        "total_tokens": 35,
        "first_byte": 0.75,
        "duration": 0.9,
        "finish_reason": "STOP",
        "parent": None,
        "cost": 0.25,
        "team": "search",
        "dialect": None,
    }
    assert timeline == [
        {
            "account": "a",
            "endpoint": "e.example",
            "chosen": "first",
            "after_ms": 0,
            "ms": 400,
            "status": 429,
            "fault": "rate",
            "reason": "RATE",
            "delay": 20.0,
            "message": "too many",
        },
        {
            "account": "b",
            "endpoint": "e.example:8443",
            "chosen": "its turn",
            "after_ms": 500,
            "ms": 250,
            "status": 200,
            "probe": True,
        },
    ]


def test_a_row_says_why_a_request_failed_and_why_nothing_more_was_tried() -> None:
    """By the gateway's own error if there was one, else by what the last attempt met."""
    failed = as_dict(evolve(outcome="error", status=429, attempts=(BAD,), account="a", usage=None, first_byte=None))
    assert failed["reason"] == "RATE"
    assert failed["stopped"] == "No other account could serve it in time."
    assert {failed[name] for name in logfile.TOKENS} == {None}
    own = as_dict(
        evolve(outcome="error", status=403, attempts=(), reason="MODEL_NOT_ALLOWED", message="No.", account=None)
    )
    assert (own["reason"], own["message"], own["attempts"]) == ("MODEL_NOT_ALLOWED", "No.", 0)


def test_a_key_that_was_pasted_where_a_name_belongs_is_not_written() -> None:
    def redact(text: str) -> str:
        return text.replace("sesame", "[redacted]")

    row = as_dict(
        evolve(asked="sesame", client="x sesame", attempts=(attrs.evolve(BAD, message='"sesame" {'),)), redact
    )
    assert (row["asked_model"], row["client"], row["model"]) == ("[redacted]", "x [redacted]", "m")
    assert json.loads(row["timeline"])[0]["message"] == '"[redacted]" {'


# -- Writing -----------------------------------------------------------------------------------------


class Lines:
    """What is logged in the time of a test."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("log_namespace") == "agm.observe.requestlog.writer":
            self.events.append(event)

    @property
    def texts(self) -> list[str]:
        return [event["log_format"].format(**event) for event in self.events]


@pytest.fixture
def lines() -> Iterator[Lines]:
    found = Lines()
    globalLogPublisher.addObserver(found)
    yield found
    globalLogPublisher.removeObserver(found)


class HalfClock(Clock):
    """The timers of a log, which a test lets pass; threads report to the reactor of the test."""

    callFromThread = reactor.callFromThread
    callWhenRunning = reactor.callWhenRunning
    addSystemEventTrigger = reactor.addSystemEventTrigger
    removeSystemEventTrigger = reactor.removeSystemEventTrigger


@attrs.define
class Setting:
    """A request log on a clock that stands still."""

    path: Path
    clock: HalfClock = attrs.Factory(HalfClock)
    settings: RequestLogConfig = attrs.Factory(RequestLogConfig)
    wall: float = 1000.0
    log: RequestLog = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.log = RequestLog(self.clock, self.path, lambda: self.settings, lambda: self.wall)
        self.log.start()

    def note(self, *ids: str, **different: Any) -> None:
        for each in ids:
            self.log.note(evolve(id=each, **different), *NOTHING)

    async def rows(self) -> list[str]:
        return [it["request"] for it in await self.log.latest(10_000)]

    async def written(self, count: int) -> None:
        await eventually(lambda: self.log.written == count, f"{count} written requests")

    async def failed(self) -> str:
        await eventually(lambda: self.log.failing is not None and self.log.waiting, "a failure")
        assert self.log.failing is not None
        return self.log.failing


#: Where no bodies are kept nobody looks at these.
NOTHING: Any = (None, None)


@pytest_twisted.async_yield_fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    made = Setting(tmp_path / "log" / "requests.sqlite3")
    yield made
    await made.log.stop()
    assert made.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_requests_are_written_in_one_batch_after_a_moment(setting: Setting) -> None:
    setting.note("r1", "r2")
    setting.clock.advance(requestlog.DELAY / 2)
    setting.note("r3")
    assert setting.log.waiting == 3
    setting.clock.advance(requestlog.DELAY / 2)
    assert setting.log.waiting == 0
    await setting.written(3)
    assert await setting.rows() == ["r3", "r2", "r1"]


@pytest_twisted.ensureDeferred
async def test_many_requests_do_not_wait_for_the_moment(setting: Setting) -> None:
    """And what came while a batch was written goes with the next."""
    setting.note(*(f"r{n}" for n in range(requestlog.BATCH + 1)))
    setting.clock.advance(0)
    await setting.written(requestlog.BATCH)
    setting.clock.advance(requestlog.DELAY)
    await setting.written(requestlog.BATCH + 1)
    assert (await setting.rows())[0] == f"r{requestlog.BATCH}"


@pytest_twisted.ensureDeferred
async def test_what_waits_at_the_end_is_written(setting: Setting) -> None:
    """Also while a batch is being written, and also several batches."""
    setting.note(*(f"r{n}" for n in range(2 * requestlog.BATCH)))
    setting.clock.advance(0)
    setting.note(*(f"s{n}" for n in range(requestlog.BATCH)))
    await setting.log.stop()
    setting.note("late")
    reader = logfile.open_to_read(setting.path)
    assert len(logfile.latest(reader, 10_000)) == 3 * requestlog.BATCH
    reader.close()
    with pytest.raises(Unusable, match="closed"):
        await setting.log.latest(1)


@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_written_stops_the_log_and_is_tried_again(setting: Setting, lines: Lines) -> None:
    """One line says so, another that it is over; what came meanwhile is not lost."""
    setting.path.parent.write_text("a file where a folder should be")
    setting.note("r1")
    setting.clock.advance(requestlog.DELAY)
    assert "requests.sqlite3: " in await setting.failed()
    for _ in range(3):
        setting.note("more")
        setting.clock.advance(requestlog.RETRY)
        await eventually(lambda: setting.clock.getDelayedCalls(), "another try")
    assert len(lines.texts) == 1
    assert lines.texts[0].startswith("the request log stops, and the gateway goes on: ")
    with pytest.raises(Unusable):
        await setting.log.latest(1)
    setting.path.parent.unlink()
    setting.clock.advance(requestlog.RETRY)
    await setting.written(4)
    assert await setting.rows() == ["more"] * 3 + ["r1"]
    assert lines.texts[1:] == [f"the request log in {setting.path} can be written again"]
    assert setting.log.failing is None


@pytest_twisted.ensureDeferred
async def test_a_full_disk_stops_the_log_until_there_is_room(setting: Setting) -> None:
    setting.note("r1")
    setting.clock.advance(requestlog.DELAY)
    await setting.written(1)
    assert setting.log._pool is not None
    connection = setting.log._pool.connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    setting.note("r2", message="x" * 100_000)
    setting.clock.advance(requestlog.DELAY)
    assert (await setting.failed()).endswith("database or disk is full")
    setting.clock.advance(requestlog.RETRY)
    await setting.written(2)
    assert await setting.rows() == ["r2", "r1"]


@pytest_twisted.ensureDeferred
async def test_a_newer_file_stops_the_log_and_stays_as_it_is(setting: Setting) -> None:
    logfile.make(setting.path)
    connection = sqlite3.connect(setting.path)
    logfile.prepare(connection, setting.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = setting.path.read_bytes()
    setting.note("r1")
    setting.clock.advance(requestlog.DELAY)
    assert "was written by a newer agm" in await setting.failed()
    assert setting.path.read_bytes() == before


@pytest_twisted.ensureDeferred
async def test_the_queue_has_a_bound_and_what_was_dropped_is_said(
    setting: Setting, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest go first, also those that were on their way into a file that failed."""
    monkeypatch.setattr(requestlog, "QUEUE", 5)
    setting.path.parent.write_text("in the way")
    setting.note("r1", "r2", "r3")
    setting.clock.advance(requestlog.DELAY)
    setting.note("r4", "r5", "r6", "r7", "r8", "r9")
    await setting.failed()
    assert (setting.log.waiting, setting.log.dropped) == (5, 4)
    setting.path.parent.unlink()
    setting.clock.advance(requestlog.RETRY)
    await setting.written(5)
    assert await setting.rows() == ["r9", "r8", "r7", "r6", "r5"]
    assert lines.texts[-1] == "4 requests missing in the request log: more came than could be written"


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize(
    "odd", [{"status": "\ud800"}, {"attempts": (attrs.evolve(GOOD, chosen="\ud800"),)}], ids=["row", "timeline"]
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_a_row_does_not_stop_the_log(
    setting: Setting, odd: dict[str, Any], logged_failures: list[dict[str, Any]]
) -> None:
    setting.note("r1", **odd)
    setting.clock.advance(requestlog.DELAY)
    await eventually(lambda: setting.log.dropped == 1, "the drop")
    setting.note("r2")
    setting.clock.advance(requestlog.DELAY)
    await setting.written(1)
    assert await setting.rows() == ["r2"]
    assert len(logged_failures) == 1


@pytest_twisted.ensureDeferred
async def test_what_could_not_be_written_at_the_end_is_said(setting: Setting, lines: Lines) -> None:
    setting.path.parent.write_text("in the way")
    setting.note("r1", "r2")
    await setting.log.stop()
    assert lines.texts[-1] == "2 requests could not be written to the request log"


@pytest_twisted.ensureDeferred
async def test_a_file_that_was_moved_away_is_begun_anew(setting: Setting) -> None:
    """A person may put a log aside without stopping the gateway."""
    setting.note("r1")
    setting.clock.advance(requestlog.DELAY)
    await setting.written(1)
    for path in list(setting.path.parent.iterdir()):
        path.rename(path.with_name(f"old-{path.name}"))
    setting.note("r2")
    setting.clock.advance(requestlog.DELAY)
    await setting.written(2)
    assert await setting.rows() == ["r2"]


@pytest_twisted.ensureDeferred
async def test_old_requests_are_forgotten_now_and_then_and_a_large_file_at_once(setting: Setting) -> None:
    setting.wall = 31 * 86_400.0
    setting.note("old", at=0.0)
    setting.note("young", at=5 * 86_400.0)
    setting.clock.advance(requestlog.DELAY)
    await setting.written(2)
    assert await setting.rows() == ["young"]
    setting.note("old", at=0.0)
    setting.clock.advance(requestlog.DELAY)
    await setting.written(3)
    assert await setting.rows() == ["old", "young"]
    setting.settings = RequestLogConfig(max_size=2**20, max_days=1000)
    setting.note(*(f"r{n}" for n in range(200)), message="x" * 10_000)
    setting.clock.advance(requestlog.DELAY)
    await setting.written(203)
    rows = await setting.rows()
    assert rows[0] == "r199"
    assert 20 < len(rows) < 120


@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_set_forward_for_a_while_makes_nothing_too_old(setting: Setting) -> None:
    """Only when the next look finds it there as well."""

    async def log(name: str, written: int) -> list[str]:
        setting.note(name, at=setting.wall)
        setting.clock.advance(requestlog.DELAY)
        await setting.written(written)
        setting.clock.advance(requestlog.PRUNE_EVERY)
        setting.wall += requestlog.PRUNE_EVERY + requestlog.DELAY
        return await setting.rows()

    year = 365 * 86_400.0
    assert await log("r1", 1) == ["r1"]
    setting.wall += year
    assert await log("r2", 2) == ["r2", "r1"]
    setting.wall -= year
    assert await log("r3", 3) == ["r3", "r2", "r1"]
    setting.wall += year
    assert await log("r4", 4) == ["r4", "r3", "r2", "r1"]
    assert await log("r5", 5) == ["r5", "r4", "r2"]


@pytest_twisted.ensureDeferred
async def test_the_file_is_asked_in_the_same_thread(setting: Setting) -> None:
    """Sums by every group since a time, for whoever shows them."""
    setting.note("r1", at=500.0)
    setting.note("r2", at=900.0, client_key=None)
    setting.clock.advance(requestlog.DELAY)
    found = await setting.log.since(600.0)
    assert list(found) == ["key", "team", "account", "model", "day", "hour"]
    assert [(it["key"], it["total_tokens"]) for it in found["key"]] == [(None, 35)]
    assert len(await setting.log.totals("key")) == 2
    assert [it["request"] for it in await setting.log.latest(5, Filter(until=600.0))] == ["r1"]


# -- In the gateway ----------------------------------------------------------------------------------


@attrs.define
class Logged:
    """A gateway with a request log."""

    running: RunningGateway
    log: RequestLog

    async def rows(self, count: int) -> list[dict[str, Any]]:
        """The rows, oldest first, once there are this many."""
        await eventually(lambda: self.log.written >= count, f"{count} rows")
        return (await self.log.latest(100))[::-1]

    async def bodies(self, request: str) -> dict[str, Any] | None:
        await eventually(lambda: self.log.waiting == 0 and self.log._writing is None, "written requests")
        reader = logfile.open_to_read(self.log.path)
        try:
            return logfile.bodies_of(reader, request)
        finally:
            reader.close()

    async def keep(self, body: object, **more: Any) -> tuple[int, Any]:
        answer = await self.running.fetch("POST", "/_agm/log/bodies", body=json.dumps(body).encode(), **more)
        return answer.status, answer.json


@pytest.fixture
def logged(gateway: GatewayFactory, tmp_path: Path) -> Callable[..., Any]:
    async def start(config: str, **options: Any) -> Logged:
        running = await gateway(config, request_log_path=tmp_path / "requests.sqlite3", **options)
        assert running.gateway.request_log is not None
        return Logged(running, running.gateway.request_log)

    return start


@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
@pytest_twisted.ensureDeferred
async def test_every_framing_of_every_kind_is_logged_with_its_tokens(
    logged: Any, emulator: RunningEmulator, kind: str
) -> None:
    found: Logged = await logged(emulator.account("work", kind))
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "tell me"}]}]}).encode()
    for target in ("generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent?alt=json"):
        path = f"/v1beta/models/gemini-2.5-flash:{target}"
        assert (await found.running.fetch("POST", path, body=body, headers={"User-Agent": "me/1"})).status == 200
    rows = await found.rows(3)
    assert [row["framing"] for row in rows] == ["unary", "sse", "array"]
    for row in rows:
        assert (row["account"], row["client"], row["status"], row["outcome"]) == ("work", "me/1", 200, "ok")
        assert row["total_tokens"] == row["prompt_tokens"] + row["output_tokens"] + row["thought_tokens"] > 0
        assert row["finish_reason"] == "STOP"
        assert row["bytes_in"] == len(body)
        assert row["bytes_out"] > 0
        assert 0 <= row["first_byte"] <= row["duration"]
        assert [it["account"] for it in row["timeline"]] == ["work"]


@pytest_twisted.ensureDeferred
async def test_failures_are_logged_with_what_was_tried(logged: Any) -> None:
    upstream = AnsweringUpstream(lambda asked: (503, google_error(503, "UNAVAILABLE")))
    tables = "".join(
        f'[[accounts]]\nname = "a{n}"\nkind = "api-key"\napi_key = "k{n}"\nendpoints = ["{upstream.url}"]\n'
        for n in range(2)
    )
    found: Logged = await logged(f'[pool]\nmax_attempts = 2\nstrategy = "priority"\nmax_wait = 0\n{tables}')
    assert (await found.running.ask("m")).status == 503
    (row,) = await found.rows(1)
    assert (row["outcome"], row["status"], row["attempts"], row["account"]) == ("error", 503, 2, "a1")
    assert [(it["account"], it["status"]) for it in row["timeline"]] == [("a0", 503), ("a1", 503)]
    assert row["stopped"] == "[pool] max_attempts was reached, 2."
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_bodies_are_kept_only_while_a_person_wants_them(logged: Any, emulator: RunningEmulator) -> None:
    """In part, of requests and answers, of errors too; and nobody has to remember to end it."""
    found: Logged = await logged("[request_log]\nmax_body = 60\n" + emulator.account("work"))
    body = b'{"contents":[{"role":"user","parts":[{"text":"' + b"x" * 100 + b'"}]}]}'

    async def ask(model: str = "gemini-2.5-flash", method: str = "generateContent") -> Any:
        answer = await found.running.ask(model, body=body, method=method)
        return answer, await found.bodies(answer.headers["x-agm-request-id"])

    assert (await ask())[1] is None
    assert found.running.gateway.calls.context.kept_answers == 0
    status, told = await found.keep({"seconds": 600})
    assert status == 200
    assert 590 < told["bodies_seconds_left"] <= 600
    for method in ("generateContent", "streamGenerateContent", "countTokens"):
        answer, kept = await ask(method=method)
        assert kept["request_body"] == body[:60]
        assert (kept["request_size"], kept["answer_size"]) == (len(body), len(answer.body))
        assert kept["answer_body"] == answer.body[:60]
    answer, kept = await ask("emu-400")
    assert answer.status == 400
    assert kept["answer_body"] == answer.body[:60]
    assert (await found.keep({"seconds": 0}))[1]["bodies_seconds_left"] == 0
    assert (await ask())[1] is None
    await found.keep({"seconds": 0.05})
    await eventually(lambda: found.running.gateway.calls.context.kept_answers == 0, "the end of it")
    assert (await ask())[1] is None


@pytest.mark.parametrize(
    "wish", [{}, {"seconds": -1}, {"seconds": 86_401}, {"seconds": "10m"}, {"second": 1}, []], ids=str
)
@pytest_twisted.ensureDeferred
async def test_a_wish_that_is_none_is_refused(logged: Any, wish: object) -> None:
    found: Logged = await logged("")
    status, told = await found.keep(wish)
    assert status == 400, told
    assert found.log.bodies_left == 0


@pytest_twisted.ensureDeferred
async def test_bodies_that_nobody_could_write_have_a_bound(
    logged: Any, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is logged, and what it said is not."""
    monkeypatch.setattr(requestlog, "QUEUED_BODIES", 10)
    found: Logged = await logged(emulator.account("work"))
    await found.keep({"seconds": 60})
    answer = await found.running.ask()
    assert len(await found.rows(1)) == 1
    assert await found.bodies(answer.headers["x-agm-request-id"]) is None


@pytest_twisted.ensureDeferred
async def test_no_key_gets_into_the_log(logged: Any, emulator: RunningEmulator) -> None:
    """Not the account's, not the client's: from no header, query, path or body."""
    client, account = "client-key-0123456789abcdef", "account-key-0123456789abcdef"
    emulator_account = emulator.account(account).replace(f'name = "{account}"', 'name = "work"')
    found: Logged = await logged(
        f'[[auth.keys]]\nname = "laptop"\nkey = "{client}"\nadmin = true\n{emulator_account}', auth_mode="strict"
    )
    assert (await found.keep({"seconds": 60}, key=client))[0] == 200
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": f"{client} {account}"}]}]}).encode()
    for path in (
        f"/v1beta/models/gemini-2.5-flash:generateContent?key={client}",
        f"/v1beta/models/{client}:generateContent",
    ):
        await found.running.fetch("POST", path, key=client, body=body, headers={"User-Agent": f"x {account}"})
    rows = await found.rows(2)
    assert [row["client_key"] for row in rows] == ["laptop"] * 2
    await found.bodies("")
    await found.log.stop()
    held = found.log.path.read_bytes()
    assert b"contents" in held
    assert client.encode() not in held
    assert account.encode() not in held


@pytest_twisted.ensureDeferred
async def test_the_gateway_tells_how_the_log_stands(
    logged: Any, gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    found: Logged = await logged(emulator.account("work"))
    await found.running.ask()
    await found.rows(1)
    told = (await found.running.fetch("GET", "/_agm/log")).json
    assert told == {
        "enabled": True,
        "config": None,
        "path": str(found.log.path),
        "written": 1,
        "waiting": 0,
        "dropped": 0,
        "failing": None,
        "bodies_seconds_left": 0.0,
    }
    assert (await found.running.fetch("GET", "/_agm/log/other")).status == 404
    without = await gateway("")
    assert (await without.fetch("GET", "/_agm/log")).json == {"enabled": False, "config": None}
    refused = await without.fetch("POST", "/_agm/log/bodies", body=b'{"seconds": 1}')
    assert refused.status == 404
    assert b"request log is off" in refused.body
