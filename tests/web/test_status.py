"""``/_agm/status`` and ``/_agm/events``: how the gateway stands, and every change of that."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from agm.core.client_keys import digest
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from agm.web.admin.events import MAX_TOLD, MAX_WATCHERS, REPEATED, _settled
from tests.helpers.support import AnsweringUpstream, Asked, Wire, account, connect, eventually, get, google_error, post

NO_WAIT = "[pool]\nmax_wait = 0\n"


async def told(running: RunningGateway) -> Any:
    answer = await running.fetch("GET", "/_agm/status")
    assert answer.status == 200
    return answer.json


def events(raw: bytes) -> list[tuple[str, Any]]:
    """The names and documents of the events that came in chunks."""
    found = []
    for block in b"".join(_chunks(raw.partition(b"\r\n\r\n")[2])).split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        found.append((name.removeprefix(b"event: ").decode(), json.loads(data.removeprefix(b"data: "))))
    return found


def _chunks(rest: bytes) -> Any:
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0 or len(rest) < length + 2:
            return
        yield rest[:length]
        rest = rest[length + 2 :]


async def watching(running: RunningGateway, *headers: str) -> Wire:
    """A connection that watches, and has been told everything."""
    wire = await connect(running.port)
    wire.send(get("/_agm/events", *headers))
    await eventually(lambda: events(wire.received), "the first event")
    return wire


async def change(wire: Wire, condition: Any) -> Any:
    """The first change that a condition holds for."""
    await eventually(lambda: [d for n, d in events(wire.received) if n == "change" and condition(d)], "the change")
    return next(d for n, d in events(wire.received) if n == "change" and condition(d))


@pytest_twisted.ensureDeferred
async def test_the_status_tells_everything_in_one_document(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    keys = f'[[auth.keys]]\nname = "laptop"\nkey_sha256 = "{digest("k")}"\nmodels = ["gemini-*"]\n'
    keys += "tokens_per_day = 9000\n"
    running = await gateway(
        NO_WAIT + '[models]\nlist = ["gemini-2.5-flash"]\n[models.aliases]\nfast = "gemini-2.5-flash"\n"x*" = "y"\n'
        "" + keys + emulator.account("work") + emulator.account("spare")
    )
    assert (await running.ask(key="k")).status == 200
    assert (await running.ask("emu-429rpm-30")).status == 429
    found = await told(running)
    assert found["gateway"]["auth_mode"] == "off"
    assert found["gateway"]["max_attempts"] == 3
    assert found["at"] >= found["gateway"]["started"]
    assert (found["totals"]["requests"], found["totals"]["errors"], found["totals"]["open"]) == (2, 1, 0)
    assert sum(found["traffic"]["requests"]) == 2
    assert sum(found["traffic"]["sent"]) == found["totals"]["sent"] > 100
    failed, good = found["requests"]
    assert (good["client_key"], good["asked"], good["status"], good["outcome"]) == (
        "laptop",
        "gemini-2.5-flash",
        200,
        "ok",
    )
    assert good["account"] in ("work", "spare")
    assert good["first_byte"] <= good["seconds"]
    assert (failed["status"], failed["account"], failed["accounts_left"]) == (429, None, 0)
    assert {a["account"] for a in failed["attempts"]} == {"work", "spare"}
    assert failed["stopped"].startswith("No other account")
    assert {a["name"]: a["failed"] for a in found["accounts"]} == {"work": 1, "spare": 1}
    assert [(e["endpoint"], e["accounts"], e["breaker"]) for e in found["endpoints"]] == [(emulator.url, 2, "closed")]
    models = {m["name"]: m["alias_of"] for m in found["models"]}
    assert (models["gemini-2.5-flash"], models["fast"]) == (None, "gemini-2.5-flash")
    assert found["aliases"] == [{"pattern": "fast", "model": "gemini-2.5-flash"}, {"pattern": "x*", "model": "y"}]
    laptop, nobody = found["keys"]
    assert (laptop["name"], laptop["models"], laptop["requests"], laptop["errors"]) == ("laptop", ["gemini-*"], 1, 0)
    assert laptop["prompt_tokens"] > 0 < laptop["output_tokens"]
    assert sum(found["traffic"]["output_tokens"]) == found["totals"]["output_tokens"] == laptop["output_tokens"]
    assert (good["prompt_tokens"], good["finish_reason"]) == (laptop["prompt_tokens"], "STOP")
    assert (laptop["tokens_per_day"], laptop["requests_per_minute"], laptop["expires"]) == (9000, None, None)
    assert (nobody["name"], nobody["requests"], nobody["errors"]) == (None, 1, 1)
    assert {p["name"] for p in found["plugins"]["plugins"]} >= {"agm.defaults.accounts"}
    assert found["plugins"]["failures"] == []


@pytest.mark.parametrize("step", [-3600.0, 3600.0], ids=["back", "forward"])
@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_set_in_the_middle_of_a_request_makes_no_time_longer(
    gateway: GatewayFactory, step: float
) -> None:
    """Between its two attempts; how long each took, and how long ago it was, is told as it was."""

    def answer(asked: Asked) -> tuple[Any, ...]:
        if len(upstream.asked) > 1:
            return 200, {"candidates": []}
        running.gateway.wall = lambda: time.time() + step
        return 500, google_error(500, "INTERNAL")

    upstream = AnsweringUpstream(answer)
    running = await gateway(NO_WAIT + account(upstream, name="a") + account(upstream, name="b"))
    assert (await running.ask()).status == 200
    found = await told(running)
    (request,) = found["requests"]
    assert 0 <= request["attempts"][0]["after"] <= request["attempts"][1]["after"] < 60
    assert abs(found["at"] - time.time() - step) < 60
    assert 0 < found["uptime"] < 60
    (failed,) = [one["last_failure"] for one in found["accounts"] if one["last_failure"] is not None]
    assert 0 <= failed["seconds_ago"] < 60
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_cannot_be_reached_is_told_with_its_time(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(emulator.account("work"))
    pool = running.gateway.pool
    from agm.core.pool.breaker import Trouble

    for _ in range(6):
        pool.endpoint_failed(emulator.url, "m", Trouble.UNREACHED)
    (endpoint,) = (await told(running))["endpoints"]
    assert endpoint["breaker"] == "open"
    assert 0 < endpoint["seconds_left"] <= 60


@pytest_twisted.ensureDeferred
async def test_who_watches_is_told_everything_at_once_and_then_what_changes(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(NO_WAIT + emulator.account("work"))
    wire = await watching(running)
    head = wire.received.partition(b"\r\n\r\n")[0].lower()
    assert b"content-type: text/event-stream" in head
    assert b"cache-control: no-store" in head
    (name, first) = events(wire.received)[0]
    assert (name, set(first)) == ("status", set(await told(running)))
    assert (await running.ask()).status == 200
    found = await change(wire, lambda d: d["requests"])
    assert [r["asked"] for r in found["requests"]] == ["gemini-2.5-flash"]
    assert (found["untold"], found["totals"]["requests"]) == (0, 1)
    assert len(found["traffic"]["requests"]) == REPEATED
    assert "keys" in found
    assert "models" not in found
    assert "gateway" not in found
    wire.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_time_that_runs_is_no_news(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """A rest that lasts is told once: whoever watches can count down by themselves."""
    running = await gateway(NO_WAIT + emulator.account("work"))
    now = Clock().seconds()
    cooldowns = [{"models": [{"seconds_left": 30.0}], "last_failure": {"seconds_ago": 1.0}}]
    later = [{"models": [{"seconds_left": 20.0}], "last_failure": {"seconds_ago": 11.0}}]
    assert _settled(cooldowns, now) == _settled(later, now + 10)
    assert _settled(cooldowns, now) != _settled(cooldowns, now + 10)
    wire = await watching(running)
    await running.ask("emu-429rpm-30")
    found = await change(wire, lambda d: "accounts" in d)
    assert found["accounts"][0]["models"][0]["state"] == "resting"
    wire.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_what_is_under_way_is_told_while_it_is(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(emulator.account("work"))
    client = await connect(running.port)
    client.send(post("/v1beta/models/emu-hang:streamGenerateContent?alt=sse"))
    await eventually(lambda: running.gateway.live.open_requests(), "a request under way")
    wire = await watching(running)
    ((_, first), *_) = events(wire.received)
    assert [(r["asked"], r["state"]) for r in first["open"]] == [("emu-hang", "waiting")]
    client.transport.abortConnection()
    gone = await change(wire, lambda d: d["requests"])
    assert (gone["open"], gone["requests"][0]["outcome"]) == ([], "cancelled")
    wire.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_who_takes_nothing_is_told_nothing_and_then_everything_anew(gateway: GatewayFactory) -> None:
    """What waits for such a one is bounded: it is one document."""
    running = await gateway()
    wire = await watching(running)
    feed = _feed(running)
    (watcher,) = feed._watchers
    watcher.pauseProducing()
    for _ in range(100):
        watcher.tell(b"event: change\ndata: {}\n\n")
    assert len(events(wire.received)) == 1
    watcher.resumeProducing()
    await eventually(lambda: [n for n, _ in events(wire.received)][:2] == ["status", "status"], "everything anew")
    wire.transport.abortConnection()
    await eventually(lambda: not feed._watchers, "nobody who watches")


@pytest_twisted.ensureDeferred
async def test_who_takes_nothing_for_too_long_is_cut(gateway: GatewayFactory) -> None:
    running = await gateway("[timeouts]\nclient_stall = 0.05\n")
    wire = await watching(running)
    (watcher,) = _feed(running)._watchers
    watcher.pauseProducing()
    watcher.pauseProducing()
    await wire.closed()


@pytest_twisted.ensureDeferred
async def test_nothing_is_worked_out_while_nobody_watches(gateway: GatewayFactory) -> None:
    running = await gateway()
    feed = _feed(running)
    assert feed._timer is None
    first, second = await watching(running), await watching(running)
    timer = feed._timer
    assert timer is not None
    first.transport.abortConnection()
    await eventually(lambda: len(feed._watchers) == 1, "one who watches")
    assert feed._timer is not None
    second.transport.abortConnection()
    await eventually(lambda: feed._timer is None, "a timer that is gone")


@pytest_twisted.ensureDeferred
async def test_a_few_may_watch_and_one_more_is_told_to_come_back(gateway: GatewayFactory) -> None:
    running = await gateway()
    wires = [await watching(running) for _ in range(MAX_WATCHERS)]
    answer = await running.fetch("GET", "/_agm/events")
    assert (answer.status, answer.headers["retry-after"]) == (503, "10")
    for wire in wires:
        wire.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_watching_ends_in_order_when_the_gateway_stops(gateway: GatewayFactory) -> None:
    """Nobody waits for those who watch; none comes after."""
    running = await gateway()
    wire = await watching(running)
    running.gateway.live.close()
    await wire.until(b"\r\n0\r\n\r\n")
    answer = await running.fetch("GET", "/_agm/events")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


@pytest_twisted.ensureDeferred
async def test_watching_ends_in_order_when_its_time_is_over(gateway: GatewayFactory) -> None:
    running = await gateway("[timeouts]\ntotal = 0.05\n")
    wire = await watching(running)
    await wire.until(b"\r\n0\r\n\r\n")


@pytest_twisted.ensureDeferred
async def test_counts_that_were_never_told_are_told_anew(gateway: GatewayFactory) -> None:
    """The machine slept, say: a change repeats a few seconds only."""
    running = await gateway()
    wire = await watching(running)
    feed = _feed(running)
    feed._last -= 60
    await eventually(lambda: [n for n, _ in events(wire.received)][1:2] == ["status"], "everything anew")
    wire.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_both_are_the_persons_only(gateway: GatewayFactory) -> None:
    keys = "".join(
        f'[[auth.keys]]\nname = "{name}"\nkey_sha256 = "{digest(name)}"\nadmin = {admin}\n'
        for name, admin in (("boss", "true"), ("guest", "false"))
    )
    running = await gateway('[auth]\nmode = "strict"\n' + keys)
    for path in ("/_agm/status", "/_agm/events"):
        assert (await running.fetch("GET", path)).status == 401
        assert (await running.fetch("GET", path, key="boss", headers={"Origin": "https://example.com"})).status == 403
        assert (await running.fetch("GET", path, key="boss", headers={"Host": "example.com"})).status == 421
        assert (await running.fetch("POST", path, key="boss", body=b"{}")).status == 405
    assert (await running.fetch("GET", "/_agm/status", key="boss")).status == 200
    assert (await running.fetch("HEAD", "/_agm/events", key="boss")).status == 405


@pytest_twisted.ensureDeferred
async def test_a_storm_is_told_by_its_latest_requests_and_a_number(gateway: GatewayFactory) -> None:
    running = await gateway()
    wire = await watching(running)
    live = running.gateway.live
    await running.ask()  # there is no account: 503
    one = live.finished[0]
    live.finished.extend([one] * MAX_TOLD)
    live.ended += MAX_TOLD + 6
    found = await change(wire, lambda d: d["untold"])
    assert len(found["requests"]) == MAX_TOLD
    assert found["untold"] in (6, 7)  # the first one may have been told before
    wire.transport.abortConnection()


def _feed(running: RunningGateway) -> Any:
    root: Any = running.site.resource
    return root.children[b"_agm"].children[b"events"]._feed
