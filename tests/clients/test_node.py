"""
@google/genai on Node: straight at the emulator and through a gateway of each kind, with the same outcome.

``node/scenarios.mjs`` drives the SDK; starting Node costs more than a call, so one process runs several scenarios.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.servers import CANARY, CLIENT_KEY, PATIENCE_MS, Emulator, Target, misbehaving, once

#: Scenarios with their argument, whose outcomes a gateway does not change.
SAME = [
    ["generate"],
    ["stream"],
    ["stream", "emu-chunks-40"],
    ["stream", "emu-splitutf8"],
    ["stream", "emu-drip-3"],
    ["stream", "emu-lf"],
    ["stream", "emu-nofinish"],
    ["generate", "emu-blockprompt"],
    ["chat"],
    ["functions_called_by_the_sdk"],
    ["functions_called_by_hand"],
    ["json"],
    ["image_in", 9_000_000],
    ["image_out"],
    ["thoughts"],
    ["count"],
]


def run(node: Path, url: str, *calls: list[Any], key: str = CLIENT_KEY) -> list[dict[str, Any]]:
    """The outcome of each call of a scenario."""
    done = subprocess.run(
        ["node", "scenarios.mjs", url, key],
        cwd=node,
        input=json.dumps(calls).encode(),
        capture_output=True,
        timeout=2 * PATIENCE_MS / 1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)
    return outcomes


@pytest.fixture(scope="session")
def expected(node: Path, emulator: Emulator) -> list[dict[str, Any]]:
    """What comes of every scenario straight at the emulator; a guard too: two empty outcomes would be equal."""
    outcomes = run(node, emulator.url, *SAME)
    seen = {"-".join(map(str, call)): outcome.get("value") for call, outcome in zip(SAME, outcomes, strict=True)}
    assert all(seen.values()), outcomes
    assert "Why is the sky blue?" in json.dumps(seen["generate"])
    assert len(seen["stream"]) > 1
    assert len(seen["stream-emu-chunks-40"]) == 40
    assert "My name is Ada." in json.dumps(seen["chat"][1:])
    assert seen["functions_called_by_the_sdk"][0]
    assert seen["functions_called_by_hand"][0]["name"] == "weather_in"
    assert seen["json"][0]["size"] in ("small", "large")
    assert "image/png of 9000000 bytes" in json.dumps(seen["image_in-9000000"])
    assert '"mimeType": "image/png"' in json.dumps(seen["image_out"])
    assert '"thought": true' in json.dumps(seen["thoughts"])
    return outcomes


def test_the_gateway_changes_nothing_that_a_person_sees(
    node: Path, through: Target, expected: list[dict[str, Any]]
) -> None:
    met = run(node, through.url, *SAME)
    assert dict(zip(map(str, SAME), met, strict=True)) == dict(zip(map(str, SAME), expected, strict=True))


def test_embeddings_work_where_the_kind_has_them_and_are_501_elsewhere(
    node: Path, through: Target, direct: Target
) -> None:
    (met,) = run(node, through.url, ["embed"])
    if through.kind == "api-key":
        assert met == run(node, direct.url, ["embed"])[0]
        assert [len(embedding["values"]) for embedding in met["value"]] == [64, 64]
    else:
        assert met["error"][:2] == ["ApiError", 501]


def test_models_are_listed_page_by_page_and_looked_up(node: Path, through: Target) -> None:
    paged, whole, found, missing = run(
        node, through.url, ["list", 2], ["list", 1000], ["get", "gemini-2.5-flash"], ["get", "no-such-model"]
    )
    assert paged["value"] == whole["value"]
    assert "models/house-model" in paged["value"]
    assert found == {"value": "models/gemini-2.5-flash"}
    assert missing["error"][:2] == ["ApiError", 404]


def test_errors_are_the_same_exceptions_as_without_a_gateway(node: Path, through: Target, direct: Target) -> None:
    codes = [400, 401, 403, 404, 429, 500, 503, 504]
    calls = [[method, misbehaving(f"{code}-30")] for code in codes for method in ("generate", "stream")]
    expected = [outcome["error"][:2] for outcome in run(node, direct.url, *calls)]
    assert expected == [["ApiError", code] for code in codes for _ in range(2)]
    met = [outcome["error"] for outcome in run(node, through.url, *calls)]
    assert [error[:2] for error in met] == expected
    assert all('"status":' in message for *_, message in met)


def test_a_wrong_client_key_is_refused_with_401(node: Path, through: Target) -> None:
    (met,) = run(node, through.url, ["generate"], key=f"{CANARY}-wrong-key")
    assert met["error"][:2] == ["ApiError", 401]


def test_a_stream_that_fails_gives_its_good_chunks_and_then_raises(node: Path, through: Target) -> None:
    good = {"midstream": 1, "errdata-2": 2, "errtail-2": 2, "cut": 1, "drop-2": 2, "rst-2": 2}
    met = run(node, through.url, *(["stream_until_it_fails", misbehaving(fault)] for fault in good))
    for (fault, count), outcome in zip(good.items(), met, strict=True):
        chunks, name, message = outcome["value"]
        assert (chunks, name) == (count, "ApiError"), f"{fault}: {outcome}"
        assert '"UNAVAILABLE"' in message, f"{fault}: {outcome}"


def test_a_single_failure_of_the_upstream_is_not_seen(node: Path, through: Target, emulator: Emulator) -> None:
    models = {once(fault): int(fault) for fault in ("401", "429", "500", "503")}
    met = run(node, through.url, *(["stream", model] for model in models))
    assert all("value" in outcome for outcome in met), met
    for model, status in models.items():
        assert [entry["status"] for entry in emulator.log(model)] == [status, 200]


def test_a_person_who_stops_reading_a_stream_ends_it_at_the_upstream(
    node: Path, through: Target, emulator: Emulator
) -> None:
    model = misbehaving("hang-2")
    (met,) = run(node, through.url, ["leave", model])
    assert met["value"]["candidates"]
    assert emulator.log_when(model, "client_gone")["finished"] is False
