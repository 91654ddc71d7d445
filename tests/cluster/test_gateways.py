"""Two gateways of one cluster, in one process, on a real Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import Deferred, gatherResults

from agm.api import StoreAway
from agm.core.classify import Fault, Verdict
from agm.core.limits import Limits
from agm.core.ownership import Maker
from agm.serving.shared_limits import part_of
from agm.testing import parse_config, start_emulator, start_gateway
from tests.helpers.redis_server import RedisServer
from tests.helpers.support import eventually, reactor, settle

pytestmark = pytest.mark.process

BODY = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    running = RedisServer()
    yield running
    running.end()


def configuration(server: RedisServer, upstream: str, on_loss: str = "share", api_key: str = "k-1") -> Any:
    return parse_config(f"""
        [cluster]
        redis = "unix:{server.path}"
        secret = "0123456789abcdef"
        on_loss = "{on_loss}"
        [auth]
        mode = "strict"
        [[auth.keys]]
        name = "laptop"
        key = "client-key-1"
        requests_per_minute = 20
        [[accounts]]
        name = "one"
        kind = "api-key"
        api_key = "{api_key}"
        endpoints = ["{upstream}"]
    """)


def ready(pool: Any, model: str) -> bool:
    return bool(list(pool.candidates(model, "generateContent")))


class Cluster:
    """Two gateways and their upstream."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.gateways: list[Any] = []

    async def begin(self, on_loss: str = "share") -> None:
        self.server.ask("FLUSHALL")
        self.emulator = await start_emulator(reactor)
        for _ in range(2):
            await self.join(on_loss)
        await eventually(lambda: len(self.gateways[0].gateway.cluster.store.workers) == 2)

    async def join(self, on_loss: str = "share", api_key: str = "k-1") -> Any:
        config = configuration(self.server, self.emulator.url, on_loss, api_key)
        joined = await start_gateway(reactor, config)
        self.gateways.append(joined)
        await eventually(lambda: joined.gateway.cluster.store.there)
        return joined

    async def end(self) -> None:
        for it in self.gateways:
            await it.stop()
        await self.emulator.stop()

    async def ask(self, number: int) -> int:
        url = f"{self.gateways[number].url}/v1beta/models/gemini-2.5-flash:generateContent"
        answer = await treq.post(url, json=BODY, headers={"x-goog-api-key": "client-key-1"})
        await answer.content()
        return int(answer.code)

    def pool(self, number: int) -> Any:
        return self.gateways[number].gateway.pool


@pytest_twisted.async_yield_fixture
async def cluster(server: RedisServer) -> Any:
    made = Cluster(server)
    yield made
    await made.end()


@pytest_twisted.ensureDeferred
async def test_a_limit_holds_over_both_and_after_an_emptied_redis(cluster: Cluster, server: RedisServer) -> None:
    await cluster.begin()
    began = time.time()
    codes = await gatherResults([Deferred.fromCoroutine(cluster.ask(number % 2)) for number in range(40)])
    assert set(codes) == {200, 429}
    assert codes.count(200) <= 20 + (time.time() - began) / 3
    server.ask("FLUSHALL")
    more = await gatherResults([Deferred.fromCoroutine(cluster.ask(number % 2)) for number in range(20)])
    assert codes.count(200) + more.count(200) <= 20 + 1 + (time.time() - began) / 3


@pytest.mark.parametrize(("on_loss", "served"), [("share", 20), ("allow", 30), ("refuse", 0)])
@pytest_twisted.ensureDeferred
async def test_a_stalled_redis_costs_no_errors_and_the_limit_is_shared(
    cluster: Cluster, server: RedisServer, on_loss: str, served: int
) -> None:
    await cluster.begin(on_loss)
    server.stall()
    began = time.time()
    try:
        codes = [await cluster.ask(number % 2) for number in range(30)]
    finally:
        server.go_on()
    assert served <= codes.count(200) <= served + (time.time() - began) / 3 + 1
    assert set(codes) <= {200, 503 if on_loss == "refuse" else 429}
    await eventually(lambda: all(it.gateway.cluster.store.there for it in cluster.gateways))


@pytest_twisted.ensureDeferred
async def test_a_gateway_ends_while_redis_hangs(cluster: Cluster, server: RedisServer) -> None:
    await cluster.begin()
    server.stall()
    try:
        await cluster.gateways.pop().stop()
    finally:
        server.go_on()


@pytest_twisted.ensureDeferred
async def test_a_cooldown_is_known_to_the_other_and_to_who_comes_later_until_it_is_reset(cluster: Cluster) -> None:
    await cluster.begin()
    one, two = cluster.pool(0), cluster.pool(1)
    (account,) = one.accounts
    one.failed(account, "m", Verdict(Fault.QUOTA, "quota", 60.0))
    await eventually(lambda: not ready(two, "m"))
    assert ready(two, "other")
    three = (await cluster.join()).gateway.pool
    await eventually(lambda: not ready(three, "m"))
    other_key = (await cluster.join(api_key="k-2")).gateway.pool
    await settle()
    assert ready(other_key, "m")
    two.reset("one")
    await eventually(lambda: all(ready(it, "m") for it in (one, three)))
    two.disable(account, "its key is refused")
    await eventually(lambda: not ready(one, "m"))


@pytest_twisted.ensureDeferred
async def test_an_owner_is_known_to_the_other_and_to_who_comes_later(cluster: Cluster) -> None:
    await cluster.begin()
    one, two = (it.gateway.ownership for it in cluster.gateways)
    one.remember("files/abc", "one", Maker("laptop", "search"))
    await eventually(lambda: two.owner("files/abc") == "one" and two.maker("files/abc") == Maker("laptop", "search"))
    three = (await cluster.join()).gateway.ownership
    await eventually(lambda: three.owner("files/abc") == "one")
    two.forget("files/abc")
    await eventually(lambda: one.owner("files/abc") is None and three.owner("files/abc") is None)


@pytest_twisted.ensureDeferred
async def test_a_day_is_counted_over_both_and_by_who_comes_later(cluster: Cluster, server: RedisServer) -> None:
    await cluster.begin()
    one, two = (it.gateway.clients.allowances for it in cluster.gateways)
    limits = Limits(requests_per_day=4, tokens_per_day=100)
    assert one.admit("k", limits, spends=True) is None
    await settle(0.2)
    assert two.admit("k", limits, spends=True) is None
    two.charge("k", 60)
    await eventually(lambda: two.today("k") == (2, 60))
    assert one.admit("k", limits, spends=True) is None
    await eventually(lambda: one.today("k") == (3, 60))
    three = (await cluster.join()).gateway.clients.allowances
    assert three.admit("k", limits, spends=True) is None  # what others have counted is learnt with its own first count
    await eventually(lambda: three.today("k") == (4, 60))
    exceeded = three.admit("k", limits, spends=True)
    assert exceeded is not None
    assert exceeded.name == "requests_per_day"
    server.ask("FLUSHALL")
    two.charge("k", 40)
    await settle(0.2)
    assert two.today("k")[1] == 100
    assert three.today("k") == (4, 60)


@pytest_twisted.ensureDeferred
async def test_plugins_count_claim_and_tell_over_all_gateways(cluster: Cluster, server: RedisServer) -> None:
    await cluster.begin()
    one, two = (it.gateway.cluster for it in cluster.gateways)
    assert await one.counter("team").add(3) == 3
    assert await two.counter("team").add(4) == 7
    assert await one.counter("team").add(0) == 7
    assert await one.claim("report", 60)
    assert not await two.claim("report", 60)
    heard: list[object] = []
    two.on("price", heard.append)
    one.tell("price", {"x": 1})
    await eventually(lambda: heard == [{"x": 1}])
    server.stall()
    try:
        with pytest.raises(StoreAway):
            await one.counter("team").add(1)
    finally:
        server.go_on()
    await eventually(lambda: one.store.there and two.store.there)
    assert one.counter("team").total == 8
    assert await one.counter("team").add(0) == 8


@pytest_twisted.ensureDeferred
async def test_a_gateway_alone_has_the_same_for_plugins() -> None:
    alone = await start_gateway(reactor, parse_config(""))
    cluster = alone.gateway.cluster
    heard: list[object] = []
    cluster.on("t", heard.append)
    cluster.tell("t", 1)
    assert heard == [1]
    assert await cluster.counter("c").add(2) == 2
    assert await cluster.claim("w", 1)
    assert alone.gateway.clients.shared is None
    await alone.stop()


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 20])
def test_the_parts_of_a_limit_add_up_to_it(limit: int) -> None:
    workers = ["a", "b", "c"]
    assert sum(part_of(limit, "k", worker, workers) for worker in workers) == limit


@pytest_twisted.ensureDeferred
async def test_streams_of_a_key_are_split_among_the_processes(cluster: Cluster) -> None:
    await cluster.begin()
    await eventually(lambda: all(len(it.gateway.cluster.store.workers) == 2 for it in cluster.gateways))
    parts = [it.gateway.clients.shared.part(5, "streams laptop") for it in cluster.gateways]
    assert sorted(parts) == [2, 3]
