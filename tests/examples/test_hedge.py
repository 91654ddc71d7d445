"""The example that asks twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import hedge
import pytest_twisted
from twisted.internet.defer import Deferred

from agm.testing import GatewayFactory
from tests.helpers.support import ScriptedUpstream, account, eventually

SETTINGS = '[pool]\nstrategy = "priority"\n[plugins.hedge]\nmodels = ["m*"]\nafter = {after}\n'


def said(text: str) -> bytes:
    body = json.dumps({"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest_twisted.async_yield_fixture
async def upstreams() -> AsyncIterator[list[ScriptedUpstream]]:
    """Two upstreams that answer when the test says so."""
    both = [ScriptedUpstream(), ScriptedUpstream()]
    yield both
    for one in both:
        await one.stop()


@pytest_twisted.ensureDeferred
async def test_the_second_answer_serves_where_the_first_is_slow(
    gateway: GatewayFactory, upstreams: list[ScriptedUpstream]
) -> None:
    """And the first call is ended: its connection is closed."""
    slow, quick = upstreams
    tables = account(slow, name="a") + "max_concurrency = 1\n" + account(quick, name="b")
    running = await gateway(SETTINGS.format(after=0.01) + tables, plugins=[hedge])
    asking = Deferred.fromCoroutine(running.ask("m"))
    wire = await quick.connection()
    wire.send(said("from the second"))
    answer = await asking
    assert answer.text == "from the second"
    await eventually(lambda: slow.connections[0].lost is not None, "the end of the first call")


@pytest_twisted.ensureDeferred
async def test_a_quick_answer_is_asked_for_once(gateway: GatewayFactory, upstreams: list[ScriptedUpstream]) -> None:
    first, second = upstreams
    tables = account(first, name="a") + account(second, name="b")
    running = await gateway(SETTINGS.format(after=60) + tables, plugins=[hedge])
    asking = Deferred.fromCoroutine(running.ask("m"))
    wire = await first.connection()
    wire.send(said("from the first"))
    assert (await asking).text == "from the first"
    assert not second.connections


@pytest_twisted.ensureDeferred
async def test_what_both_are_refused_is_what_the_client_gets(gateway: GatewayFactory) -> None:
    running = await gateway(SETTINGS.format(after=0), plugins=[hedge])
    answer = await running.ask("m")
    assert (answer.status, answer.json["error"]["details"][0]["reason"]) == (503, "NO_ACCOUNTS")
