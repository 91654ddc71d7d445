"""
Live sessions whose upstream misbehaves in every way that the emulator knows, with one account and with another.

Before the setup is complete a fault costs an attempt; after that it is the client's to see, and nobody is asked twice.
"""

from __future__ import annotations

import json

import attrs
import pytest
import pytest_twisted

from agm.testing import GatewayFactory, RunningEmulator
from tests.helpers.support import eventually
from tests.helpers.websockets import open_socket

HELLO = {"clientContent": {"turns": [{"role": "user", "parts": [{"text": "Hello"}]}], "turnComplete": True}}


@attrs.frozen
class Case:
    """A fault: how the client's session is closed (None: dropped), how that is recorded, and messages before."""

    fault: str
    closed: tuple[int, str] | None
    outcome: str
    messages: int = 0


#: After the setup: the client gets what has come, and how it ended.
AFTER = [
    Case("cut", (1011, "The upstream closed the connection"), "aborted", 1),
    Case("drop-2", (1011, "The upstream closed the connection"), "aborted", 2),
    Case("rst-1", (1011, "The upstream closed the connection"), "aborted", 1),
    Case("halfframe", None, "aborted", 1),
    Case("midstream", (1011, "Internal error encountered."), "aborted", 1),
    Case("wsclose-1008", (1008, "The emulator was asked to close with 1008."), "aborted", 1),
    Case("wsclose-1000", (1000, "The emulator was asked to close with 1000."), "ok", 1),
    Case("wsclose-4000", (4000, "The emulator was asked to close with 4000."), "ok", 1),
    Case("goaway-0", (1000, "The session has ended."), "ok", 6),
    Case("wsclose-1005", (1011, "The upstream broke the protocol"), "aborted", 1),
]
#: Before it: with one account, the last refusal.
BEFORE = [
    Case("400", (1007, "Request contains an invalid argument."), "error"),
    Case("401", (1008, "Request had invalid authentication credentials"), "error"),
    Case("404", (1008, "models/emu-404 is not found"), "error"),
    Case("429-5", (1011, "You exceeded your current quota"), "error"),
    Case("429day", (1011, "You exceeded your current quota"), "error"),
    Case("quota-5", (1011, ""), "error"),
    Case("500", (1011, "An internal error has occurred"), "error"),
    Case("503", (1011, "This model is currently experiencing"), "error"),
    Case("capacity503", (1011, "No capacity available"), "error"),
    Case("close", (1011, "The upstream closed the connection before the setup was complete"), "error"),
    Case("hang", (1011, "The upstream did not set up the session"), "error"),
]


def names(cases: list[Case]) -> list[str]:
    return [case.fault for case in cases]


@pytest.mark.parametrize("case", AFTER, ids=names(AFTER))
@pytest_twisted.ensureDeferred
async def test_after_the_setup_a_fault_is_the_clients_to_see(
    gateway: GatewayFactory, emulator: RunningEmulator, case: Case
) -> None:
    running = await gateway(emulator.account("one") + emulator.account("two"))
    client = await open_socket(running.port, setup={"setup": {"model": f"models/emu-{case.fault}"}})
    await client.message()
    client.say(HELLO)
    if case.closed is None:
        await client.wire.closed()
        assert client.look().closed is None
    else:
        code, reason = await client.close_frame()
        assert (code, reason[: len(case.closed[1])]) == case.closed
    assert len(client.messages) - 1 == case.messages
    await eventually(lambda: running.gateway.live.ended == 1, "the record")
    (record,) = running.gateway.live.latest()
    assert (record["outcome"], record["status"], len(record["attempts"])) == (case.outcome, 101, 1)
    assert len(emulator.log) == 1
    assert running.gateway.sessions.count == 0


@pytest.mark.parametrize("case", BEFORE, ids=names(BEFORE))
@pytest_twisted.ensureDeferred
async def test_before_the_setup_the_last_refusal_is_told(
    gateway: GatewayFactory, emulator: RunningEmulator, case: Case
) -> None:
    running = await gateway("[timeouts]\nfirst_byte = 1\n" + emulator.account("one"))
    client = await open_socket(running.port, setup={"setup": {"model": f"models/emu-{case.fault}"}})
    code, reason = await client.close_frame()
    assert case.closed is not None
    assert (code, reason[: len(case.closed[1])]) == case.closed
    await eventually(lambda: running.gateway.live.ended == 1, "the record")
    assert running.gateway.live.latest()[0]["outcome"] == case.outcome
    assert running.gateway.sessions.count == 0


@pytest.mark.parametrize("fault", ["401", "403validation", "429-30", "500", "503", "capacity503", "close"])
@pytest_twisted.ensureDeferred
async def test_a_single_failure_before_the_setup_is_not_seen(
    gateway: GatewayFactory, emulator: RunningEmulator, fault: str
) -> None:
    """Another account serves, or the same once more; nothing of the first is told."""
    running = await gateway(emulator.account("one") + emulator.account("two"))
    client = await open_socket(running.port, setup={"setup": {"model": f"models/emu-{fault}-once-x"}})
    assert json.loads(await client.message()) == {"setupComplete": {}}
    client.say(HELLO)
    await eventually(lambda: b"turnComplete" in client.look().messages[-1][1], "an answer")
    client.close()
    await eventually(lambda: running.gateway.live.ended == 1, "the record")
    (record,) = running.gateway.live.latest()
    assert (record["outcome"], len(record["attempts"])) == ("ok", 2)
