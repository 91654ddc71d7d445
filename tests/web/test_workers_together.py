"""What ``/_agm`` and ``/metrics`` tell of several workers: the sum, whoever is asked, and one alone."""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred

from agm.observe.machine_metrics import Family, add_up, keep, read_ended, take_down
from agm.observe.peers import Peers
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from agm.web.admin.whole import answering
from tests.helpers.support import connect, eventually, get
from tests.web.test_status import events

Workers = Callable[[], Awaitable[list[RunningGateway]]]

CALL = "/v1beta/models/gemini-2.5-flash:generateContent"


@pytest_twisted.async_yield_fixture
async def workers(gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path) -> Any:
    """A function that starts two workers of one gateway."""
    started: list[Peers] = []

    async def start() -> list[RunningGateway]:
        found = []
        for number in (1, 2):
            peers = Peers(reactor, tmp_path, number, f"{number}-{number}", 2)
            running = await gateway(emulator.account(), peers=peers)
            peers.start(answering(running.gateway), running.gateway.redactor.body)
            started.append(peers)
            found.append(running)
        return found

    yield start
    for peers in started:
        await maybeDeferred(peers.stop)


async def call(running: RunningGateway, times: int) -> None:
    for _ in range(times):
        body = b'{"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}'
        assert (await running.fetch("POST", CALL, body=body)).status == 200


async def ask(running: RunningGateway, path: str) -> Any:
    answer = await running.fetch("GET", path)
    assert answer.status == 200, answer.body
    return answer.json


async def counted(running: RunningGateway) -> float:
    """The requests that the metrics count."""
    answer = await running.fetch("GET", "/metrics")
    return sum(float(value) for value in re.findall(rb"^agm_requests_total{.*} (\S+)$", answer.body, re.MULTILINE))


@pytest_twisted.ensureDeferred
async def test_whoever_is_asked_tells_of_all(workers: Workers) -> None:
    one, two = await workers()
    await call(one, 2)
    await call(two, 3)
    for running in (one, two):
        document = await ask(running, "/_agm/status")
        assert document["totals"]["requests"] == 5
        assert sum(document["traffic"]["requests"]) == 5
        assert len({it["id"] for it in document["requests"]}) == 5
        assert document["accounts"][0]["attempts"] == 5
        assert document["keys"][0]["requests"] == 5
        assert (document["workers"]["heard"], document["workers"]["running"]) == (2, 2)
        assert [(it["worker"], it["requests"]) for it in document["workers"]["told"]] == [(1, 2), (2, 3)]
        assert await counted(running) == 5


@pytest_twisted.ensureDeferred
async def test_one_worker_can_be_shown_alone_by_any(workers: Workers) -> None:
    one, two = await workers()
    await call(two, 3)
    for running in (one, two):
        assert (await ask(running, "/_agm/status?worker=2"))["totals"]["requests"] == 3
        assert (await ask(running, "/_agm/status?worker=1"))["totals"]["requests"] == 0
    assert (await one.fetch("GET", "/_agm/status?worker=3")).status == 404
    assert (await one.fetch("GET", "/_agm/events?worker=3")).status == 404
    assert (await one.fetch("GET", "/_agm/status?worker=x")).status == 400


@pytest_twisted.ensureDeferred
async def test_events_are_of_all(workers: Workers) -> None:
    one, two = await workers()
    await call(two, 1)
    client = await connect(one.port)
    client.send(get("/_agm/events"))
    await client.until(b"event: status")
    await eventually(lambda: b"event: change" in client.received, "a change")
    await call(two, 2)
    await eventually(
        lambda: (
            events(client.received)[0][1]["totals"]["requests"] == 1
            and events(client.received)[-1][1]["totals"]["requests"] == 3
        ),
        "the sum",
    )
    told = [it for name, change in events(client.received) if name == "change" for it in change["requests"]]
    assert len({it["id"] for it in told}) == 2
    client.transport.loseConnection()
    await client.closed()


@pytest_twisted.ensureDeferred
async def test_one_that_hangs_is_not_waited_for_and_one_that_has_ended_not_missed(
    workers: Workers, tmp_path: Path
) -> None:
    one, _ = await workers()
    ended = socket.socket(socket.AF_UNIX)
    ended.bind(str(tmp_path / "3-3.sock"))
    ended.close()
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "4-4.sock"))
        hanging.listen(5)
        found = (await ask(one, "/_agm/status"))["workers"]
        assert (found["heard"], found["running"], found["configured"]) == (2, 3, 2)
        cluster = await ask(one, "/_agm/cluster")
    assert cluster["agree"] is False
    assert cluster["differences"] == ["1 of 3 workers did not answer"]


@pytest_twisted.ensureDeferred
async def test_what_is_held_against_an_account_is_taken_back_everywhere(workers: Workers) -> None:
    one, two = await workers()
    two.gateway.pool.disable(two.gateway.pool.accounts[0], "a reason")
    name = two.gateway.pool.accounts[0].name
    answer = await one.fetch("POST", f"/_agm/accounts/{name}/reset")
    assert answer.json["reset"] is True
    assert two.gateway.pool.remember() == {}


@pytest_twisted.ensureDeferred
async def test_no_counter_falls_when_a_worker_ends(workers: Workers, tmp_path: Path) -> None:
    """Neither before the supervisor has noticed, nor after."""
    one, two = await workers()
    await call(one, 1)
    await call(two, 3)
    assert await counted(one) == 4
    assert two.gateway.peers is not None
    await two.gateway.peers.stop()
    assert await counted(one) == 4
    keep(tmp_path, "2-2")
    assert await counted(one) == 4
    await call(one, 1)
    assert await counted(one) == 5


@pytest_twisted.ensureDeferred
async def test_the_cluster_is_its_workers_and_says_when_they_differ(workers: Workers) -> None:
    one, two = await workers()
    found = await ask(one, "/_agm/cluster")
    assert found["agree"] is True
    assert [it["worker"] for it in found["machines"][0]["workers"]] == [1, 2]
    await two.gateway.reload(one.gateway.config.__class__(accounts=()))
    found = await ask(one, "/_agm/cluster")
    assert found["agree"] is False
    assert found["differences"][0].startswith("the workers differ in their configuration")


def counter(value: float, **labels: str) -> Family:
    return Family("c", "counter", "What.", [("c_total", labels, value)])


def gauge(name: str, value: float) -> Family:
    return Family(name, "gauge", "What.", [(name, {}, value)])


def test_counters_and_gauges_are_added_up_by_their_labels() -> None:
    found = add_up([[counter(1, a="x"), gauge("g", 2)], [counter(2, a="x"), counter(4, a="y"), gauge("g", 3)]])
    assert [it.samples for it in found] == [[("c_total", {"a": "x"}, 3), ("c_total", {"a": "y"}, 4)], [("g", {}, 5)]]


@pytest.mark.parametrize(("name", "expected"), [("agm_accounts", 3), ("process_start_time_seconds", 2)])
def test_what_all_have_alike_is_not(name: str, expected: float) -> None:
    assert add_up([[gauge(name, 2)], [gauge(name, 3)]])[0].samples == [(name, {}, expected)]


def test_of_those_that_ended_only_counters_count_and_each_once(tmp_path: Path) -> None:
    take_down(tmp_path, "1-1", [counter(5), gauge("g", 7)])
    take_down(tmp_path, "2-2", [counter(1)])
    for _ in range(2):
        total = add_up([[counter(10)]], read_ended(tmp_path, ["2-2"]))
        assert [it.samples for it in total] == [[("c_total", {}, 15)]]
        keep(tmp_path, "1-1")
        keep(tmp_path, "no-such")
    assert not (tmp_path / "1-1.metrics").exists()
    assert oct((tmp_path / "base.json").stat().st_mode & 0o777) == "0o600"
