"""Stores: the same of the one in memory and of the one in a real Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from agm.cluster.events import Event
from agm.cluster.memory import MemoryStore, Shared
from agm.cluster.redis import RedisStore
from agm.cluster.store import Store, StoreAway
from tests.helpers.redis_server import RedisServer
from tests.helpers.support import eventually, reactor

#: The fixtures of all of them may start the Redis.
pytestmark = pytest.mark.process

Make = Callable[[str], Any]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    running = RedisServer()
    yield running
    running.end()


@asynccontextmanager
async def stores_in(server: RedisServer) -> Any:
    """Make stores in an empty Redis."""
    server.ask("FLUSHALL")
    made: list[RedisStore] = []

    async def make(worker: str) -> Store:
        store = RedisStore(reactor, server.address, "test", time.time, worker=worker)
        made.append(store)
        store.start()
        await eventually(lambda: store.there, "the store is there")
        return store

    yield make
    for store in made:
        await store.stop()


@pytest_twisted.async_yield_fixture
async def redis(server: RedisServer) -> Any:
    async with stores_in(server) as make:
        yield make


@pytest_twisted.async_yield_fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest, server: RedisServer) -> Any:
    if request.param == "redis":
        async with stores_in(server) as make:
            yield make
        return
    shared = Shared(time.time)

    async def memory(worker: str) -> Store:
        store = MemoryStore(worker, shared)
        store.start()
        return store

    yield memory


def cooldown(value: object, at: float, key: str = "a\0m", by: str = "w1") -> Event:
    return Event(topic="cooldown", key=key, value=value, at=at, by=by, expires=time.time() + 600)


@pytest_twisted.ensureDeferred
async def test_a_limit_is_bought_by_all_and_never_exceeded(make: Make) -> None:
    one, two = await make("w1"), await make("w2")
    began = time.time()
    bought = await gatherResults([store.buy("k", 20, 1) for _ in range(20) for store in (one, two)])
    most = 20 + int((time.time() - began) * 20 / 60)
    assert 20 <= sum(it.granted for it in bought) <= most
    refused = [it for it in bought if not it.granted]  # two connections: the last one asked need not be among them
    assert refused
    assert all(it.left == 0 and 0 < it.wait <= 3 for it in refused)
    assert (await one.buy("other", 20, 50)).granted == 20


@pytest_twisted.ensureDeferred
async def test_a_claim_is_one_process_s_until_it_is_over_or_given_back(make: Make) -> None:
    one, two = await make("w1"), await make("w2")
    assert await one.claim("probe", 60)
    assert await one.claim("probe", 60)
    assert not await two.claim("probe", 60)
    await two.unclaim("probe")
    assert not await two.claim("probe", 60)
    await one.unclaim("probe")
    assert await two.claim("probe", 60)


@pytest_twisted.ensureDeferred
async def test_counts_add_up_and_a_repeat_counts_nothing_twice(make: Make) -> None:
    one, two = await make("w1"), await make("w2")
    assert await one.count("c", 3, 60) == 3
    assert await two.count("c", 4, 60) == 7
    assert await one.count("c", 3, 60) == 7
    assert await one.count("c", 1, 60) == 7
    assert await one.count("c", 5, 60) == 9


@pytest_twisted.ensureDeferred
async def test_values_are_there_for_all(make: Make) -> None:
    one, two = await make("w1"), await make("w2")
    await one.put("v", "text", 60)
    assert await two.get("v") == "text"
    assert await two.get("none") is None


@pytest_twisted.ensureDeferred
async def test_an_event_comes_to_all_and_to_who_comes_later(make: Make) -> None:
    one, two = await make("w1"), await make("w2")
    heard: list[Event] = []
    two.told = heard.append
    event = cooldown({"left": 1}, time.time())
    one.tell(event)
    one.tell(event)
    await eventually(lambda: heard == [event])
    three = await make("w3")
    late: list[Event] = []
    three.told = late.append
    one.tell(cooldown(None, time.time(), "a"))
    await eventually(lambda: late and late[-1].value is None)
    four = await make("w4")
    four.tell(event)  # what was taken back does not come again
    assert sorted(four.workers) == ["w1", "w2", "w3", "w4"]
    assert event not in late


@pytest_twisted.ensureDeferred
async def test_a_stalled_redis_fails_calls_at_once_and_comes_back(redis: Make, server: RedisServer) -> None:
    one, two = await redis("w1"), await redis("w2")
    heard: list[Event] = []
    two.told = heard.append
    seen: list[bool] = []
    one.changed = seen.append
    server.stall()
    try:
        for _ in range(2):
            with pytest.raises(StoreAway):
                await one.buy("k", 20, 1)
        event = cooldown({"left": 2}, time.time())
        one.tell(event)
        assert seen == [False]
    finally:
        server.go_on()
    await eventually(lambda: seen == [False, True])
    await eventually(lambda: heard == [event])
    assert (await one.buy("k", 20, 20)).granted >= 19 - 1


@pytest_twisted.ensureDeferred
async def test_an_emptied_redis_is_told_again_what_was_known(redis: Make, server: RedisServer) -> None:
    one, two = await redis("w1"), await redis("w2")
    event = cooldown({"left": 3}, time.time())
    heard: list[Event] = []
    two.told = heard.append
    one.tell(event)
    await eventually(lambda: heard)
    await one.count("c", 3, 60)
    assert await two.count("c", 4, 60) == 7
    assert (await one.buy("k", 20, 20)).granted == 20
    server.ask("FLUSHALL")
    assert (await one.buy("k", 20, 1)).granted == 0  # nothing is given away twice
    await eventually(lambda: b"cooldown" in server.ask("HVALS", "agm:test:events"))
    three = await redis("w3")
    known: list[Event] = []
    three.told = known.append
    await eventually(lambda: b"4" in server.ask("HVALS", "agm:test:count:c"))
    assert await three.count("c", 1, 60) == 8
    later = cooldown({"left": 4}, time.time())
    one.tell(later)
    await eventually(lambda: heard[-1] == later and known[-1] == later)


@pytest_twisted.ensureDeferred
async def test_a_restarted_redis_is_found_again(redis: Make, server: RedisServer) -> None:
    one, two = await redis("w1"), await redis("w2")
    event = cooldown({"left": 5}, time.time())
    one.tell(event)
    server.kill()
    await eventually(lambda: not one.there and not two.there)
    server.begin()
    await eventually(lambda: one.there and two.there)
    await eventually(lambda: b"cooldown" in server.ask("HVALS", "agm:test:events"))
    heard: list[Event] = []
    two.told = heard.append
    later = cooldown(None, time.time(), "a")
    one.tell(later)
    await eventually(lambda: heard[-1:] == [later])
