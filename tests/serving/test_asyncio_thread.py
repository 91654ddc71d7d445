"""Functions that are made for asyncio, called from hooks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError

from agm.api import GatewayRequest, ModelChoice
from agm.serving.asyncio_thread import AsyncioThread
from agm.testing import GatewayFactory, RunningEmulator
from tests.helpers.support import eventually
from tests.plugins.test_answering import named


@pytest.fixture
def beside() -> Iterator[AsyncioThread]:
    thread = AsyncioThread(reactor)
    yield thread
    thread.stop()
    assert not any(one.name == "agm-asyncio" for one in threading.enumerate())


@pytest_twisted.ensureDeferred
async def test_a_result_and_an_exception_come_back_into_the_reactors_thread(beside: AsyncioThread) -> None:
    async def double(number: int, *, fail: bool = False) -> tuple[int, str]:
        await asyncio.sleep(0)
        if fail:
            raise KeyError("no")
        return 2 * number, threading.current_thread().name

    here = threading.current_thread()
    assert await beside.call(double, 21) == (42, "agm-asyncio")
    assert threading.current_thread() is here
    with pytest.raises(KeyError, match="no"):
        await beside.call(double, 1, fail=True)


@pytest_twisted.ensureDeferred
async def test_cancelling_cancels_what_is_awaited(beside: AsyncioThread) -> None:
    told: list[str] = []

    async def hang() -> None:
        told.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    waiting = beside.call(hang)
    await eventually(lambda: told, "its beginning")
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    await eventually(lambda: told == ["began", "cancelled"], "its end")


@pytest_twisted.ensureDeferred
async def test_a_look_up_by_such_a_client_steers_a_decision(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    held = {}

    async def team() -> str:
        await asyncio.sleep(0.001)
        return "gemini-2.5-pro"

    async def look_up(request: GatewayRequest) -> dict[str, str]:
        return {"model": await held["gateway"].in_asyncio(team)}

    plugin = named(
        "directory",
        agm_started=lambda gateway: held.update(gateway=gateway),
        agm_look_up=look_up,
        agm_map_model=lambda model, request: ModelChoice(request.found["model"], "found"),
    )
    running = await gateway(emulator.account("a"), plugins=[plugin])
    assert (await running.ask("m")).status == 200
    assert emulator.log[0].model == "gemini-2.5-pro"
