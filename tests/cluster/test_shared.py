"""Two gateways on one Redis: limits, cooldowns and owners as one, and each by itself while it is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from agm.cluster.state import SharedState
from agm.core.classify import Fault, Verdict
from agm.core.limits import Allowances
from agm.core.ownership import KnownOwners
from agm.core.pool.pool import Pool
from agm.core.request import Account
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.redis import Redis
from tests.helpers.support import eventually

Two = Callable[..., Awaitable[tuple[RunningGateway, RunningGateway]]]


def key(*lines: str) -> str:
    """An ``[[auth.keys]]`` table."""
    return "\n".join(["[[auth.keys]]", 'name = "a"', 'key = "right"', *lines, ""])


@pytest.fixture
def two(gateway: GatewayFactory, emulator: RunningEmulator, redis: Redis) -> Two:
    """A function that starts two gateways on one store, which know of each other."""

    async def start(configuration: str = "", more: str = "") -> tuple[RunningGateway, RunningGateway]:
        cluster = f'[cluster]\nredis = "{redis.address}"\n{more}\n'
        both = [await gateway(emulator.account() + configuration + cluster) for _ in range(2)]
        await agree(*both)
        return both[0], both[1]

    return start


async def agree(*running: RunningGateway) -> None:
    """Wait until the gateways have the store, and know of each other."""

    def agreed() -> bool:
        found = [it.gateway.cluster for it in running]
        return all(it is not None and it.there and it.members.count == len(running) for it in found)

    await eventually(agreed, "both are in the cluster")


def held(running: RunningGateway) -> Any:
    """What is held against the one account, by model."""
    known = running.gateway.pool.remember()
    return {cooldown.model for it in known.values() for cooldown in it.cooldowns}


async def statuses(running: list[RunningGateway], count: int) -> list[int]:
    """Ask in turn, all at once; the statuses of the answers."""
    asked = [Deferred.fromCoroutine(running[n % len(running)].ask(key="right")) for n in range(count)]
    return [answer.status for answer in await gatherResults(asked)]


@pytest_twisted.ensureDeferred
async def test_a_minutes_limit_holds_over_both(two: Two) -> None:
    both = await two(key("requests_per_minute = 20"))
    found = await statuses(list(both), 60)
    assert (found.count(200), found.count(429)) == (20, 40)


@pytest_twisted.ensureDeferred
async def test_a_days_limit_is_exact_over_both(two: Two) -> None:
    both = await two(key("requests_per_day = 50"))
    found = await statuses(list(both), 40)
    found += await statuses(list(both), 40)
    assert (found.count(200), found.count(429)) == (50, 30)
    used = [it.gateway.clients.allowances for it in both]
    await eventually(lambda: all(it.today("a")[0] == 50 for it in used), "both know the sum")


def refuse(running: RunningGateway, seconds: float = 60.0) -> None:
    """Let an account's cooldown begin, as a 429 does."""
    pool = running.gateway.pool
    pool.failed(pool.accounts[0], "m", Verdict(Fault.QUOTA, reason="used up", delay=seconds))


@pytest_twisted.ensureDeferred
async def test_a_cooldown_and_its_end_are_known_to_both(two: Two) -> None:
    one, other = await two()
    refuse(one)
    await eventually(lambda: held(other) == {"m"}, "the other knows")
    other.gateway.pool.reset(other.gateway.pool.accounts[0].name)
    await eventually(lambda: held(one) == set(), "the end is known")
    assert held(other) == set()


@pytest_twisted.ensureDeferred
async def test_an_owner_is_known_to_both(two: Two) -> None:
    one, other = await two()
    name = one.gateway.pool.accounts[0].name
    one.gateway.ownership.remember("files/x", name)
    await eventually(lambda: other.gateway.ownership.owner("files/x") == name, "the other knows")
    other.gateway.ownership.forget("files/x")
    await eventually(lambda: one.gateway.ownership.owner("files/x") is None, "it is gone")


@pytest.mark.parametrize(("on_loss", "most"), [("share", (10, 10)), ("refuse", (0, 0)), ("allow", (20, 20))])
@pytest_twisted.ensureDeferred
async def test_without_the_store_each_goes_on_and_they_agree_afterwards(
    two: Two, redis: Redis, lines: list[str], on_loss: str, most: tuple[int, int]
) -> None:
    one, other = both = await two(key("requests_per_minute = 20"), f'on_loss = "{on_loss}"')
    redis.pause()
    for running, let_in in zip(both, most, strict=True):
        found = await statuses([running], 30)
        assert found.count(200) == let_in
        assert set(found) <= {200, 429}
    refuse(one)
    redis.go_on()
    await agree(one, other)
    await eventually(lambda: held(other) == {"m"}, "what one has learnt meanwhile")
    assert sum("is away" in line for line in lines) == 2
    assert sum("is back" in line for line in lines) == 2
    if on_loss != "refuse":
        other.gateway.pool.reset(other.gateway.pool.accounts[0].name)
        assert 200 not in await statuses(list(both), 4)  # what was let in meanwhile counts


@pytest_twisted.ensureDeferred
async def test_an_emptied_store_is_filled_again(two: Two, redis: Redis, gateway: GatewayFactory) -> None:
    one, other = await two(key("requests_per_day = 50"))
    refuse(one)
    one.gateway.ownership.remember("files/x", one.gateway.pool.accounts[0].name)
    await eventually(lambda: held(other) == {"m"}, "the other knows")
    redis.ask("FLUSHALL")
    await eventually(lambda: redis.ask("HLEN", "agm:agm:state") == b":1\r\n", "it is written again")
    await eventually(lambda: redis.ask("HLEN", "agm:agm:owners") == b":1\r\n", "it is written again")
    other.gateway.pool.reset(other.gateway.pool.accounts[0].name)
    await eventually(lambda: held(one) == set(), "the end is known")


class _NoLink:
    connected = False


_ENTRIES = st.lists(
    st.tuples(st.sampled_from("mn"), st.integers(1, 50), st.booleans()), max_size=12, unique_by=lambda e: e[:2]
)


@given(entries=_ENTRIES, data=st.data())
def test_entries_in_any_order_come_to_the_same(entries: list[tuple[str, int, bool]], data: st.DataObject) -> None:
    def after(order: list[tuple[str, int, bool]]) -> object:
        clock = Clock()
        clock.advance(1000)
        account = Account(name="a", kind="api-key", endpoints=("http://127.0.0.1:1",), models=("*",))
        pool = Pool([account], clock.seconds)
        state: Any = SharedState(clock, _NoLink(), _NoLink(), "", pool, KnownOwners(), clock.seconds, print)  # type: ignore[arg-type]
        state.start()
        for model, at, holds in order:
            it = f'{{"cause":"RESTING","reason":"{at}","until":{2000 + at * 10}}}' if holds else "null"
            state.apply(f"a a {model}", at, f'{{"v":1,"is":{it}}}')
        return pool.remember()

    assert after(data.draw(st.permutations(entries))) == after(sorted(entries, key=lambda entry: entry[1]))


def test_what_others_have_used_counts_of_a_day() -> None:
    allowances = Allowances(lambda: 0.0, lambda: 0.0)
    allowances.others("a", 0, 3, 7)
    allowances.charge("a", 5)
    assert allowances.today("a") == (3, 12)
    assert allowances.own_today("a") == (0, 5)
