"""The example that records for ``agm replay``."""

from __future__ import annotations

import json
import stat
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import pytest
import pytest_twisted
import recorder
from twisted.web.client import ResponseFailed

from agm.core.fingerprint import fingerprint
from agm.diagnose.recording import config_for, read
from agm.diagnose.replay import Replay
from agm.testing import GatewayFactory, RunningEmulator

MODEL = "gemini-2.5-flash"


def table(folder: Path, extra: str = "") -> str:
    return f"[plugins.recorder]\nfolder = {json.dumps(str(folder))}\n{extra}\n"


def recorded(folder: Path) -> str:
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text(encoding="utf-8")


@pytest_twisted.ensureDeferred
async def test_what_is_recorded_is_replayed_with_the_same_decisions(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    """Accounts, statuses and reasons of all attempts, in their order."""
    policy = '[pool]\nstrategy = "round-robin"\nmax_wait = 0\n'
    accounts = "".join(emulator.account(name) for name in ("one", "two", "three"))
    running = await gateway(policy + table(tmp_path / "made") + accounts, plugins=[recorder])
    emulator.state.script("one", ["429rpm-30", "ok"])
    emulator.state.script("two", ["ok", "503", "emptystream", "401"])
    emulator.state.script("three", ["ok", "ok", "400"])
    statuses = [(await running.ask(MODEL, text=f"secret {number % 3}")).status for number in range(8)]
    text = recorded(tmp_path / "made")
    assert "secret" not in text
    assert len([line for line in text.splitlines() if '"request"' in line]) == 8

    path = tmp_path / "agm.toml"
    path.write_text(policy + accounts, encoding="utf-8")
    recording = read(text)
    events = Replay(recording, config_for(recording, path), entry_points=False).run().events
    assert [event.fields["status"] for event in events if event.what in ("served", "failed")] == statuses
    replayed = [event.fields["account"] for event in events if event.what == "attempt"]
    assert replayed == list(emulator.accounts)
    reasons = {event.fields["reason"] for event in events if event.what == "attempt"}
    assert {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "EMPTY_ANSWER", "INVALID_ARGUMENT"} <= reasons


@pytest_twisted.ensureDeferred
async def test_a_conversation_is_known_by_a_digest_that_tells_nothing(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    """Not even to who guesses its first turn."""
    running = await gateway(table(tmp_path / "made") + emulator.account(), plugins=[recorder])
    for text in ("hi", "hi", "ho"):
        await running.ask(MODEL, text=text)
    first, second, third = (request.conversation for request in read(recorded(tmp_path / "made")).requests)
    assert first == second != third
    guess = fingerprint(emulator.log[0].body)
    assert guess is not None
    digests = {guess, blake2b(guess.encode(), digest_size=8).hexdigest()}
    assert digests.isdisjoint({first, third})


@pytest.mark.parametrize(
    ("model", "fault"),
    [("emu-close", "close"), ("emu-cut", "cut"), ("emu-emptystream", "empty"), ("emu-429-1.2", None)],
)
@pytest_twisted.ensureDeferred
async def test_faults_are_recorded_by_name(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path, model: str, fault: str | None
) -> None:
    running = await gateway(
        "[pool]\nmax_attempts = 1\n" + table(tmp_path / "made") + emulator.account(), plugins=[recorder]
    )
    with suppress(ResponseFailed):  # what the client sees of an answer that broke off
        await running.ask(model, method="streamGenerateContent")
    (answer,) = read(recorded(tmp_path / "made")).answers
    assert (answer.fault, answer.delay) == (fault, None if fault else 1.2)


@pytest_twisted.ensureDeferred
async def test_no_more_is_written_than_was_allowed(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    running = await gateway(table(tmp_path / "made", "requests = 2") + emulator.account(), plugins=[recorder])
    for _ in range(4):
        await running.ask(MODEL)
    assert len(read(recorded(tmp_path / "made")).requests) == 2


@pytest_twisted.ensureDeferred
async def test_without_a_folder_nothing_is_written(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(emulator.account(), plugins=[recorder])
    before = dict(recorder.written)
    assert (await running.ask(MODEL)).status == 200
    assert recorder.written == before
