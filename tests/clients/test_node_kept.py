"""@google/genai on Node: Vertex AI's mode, and what the Developer API keeps, at the emulator and through gateways."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, SessionGateway, Target


def run(node: Path, url: str, mode: str) -> dict[str, Any]:
    """What came of each scenario."""
    command = ["node", "kept.mjs", url, CLIENT_KEY, mode]
    done = subprocess.run(command, cwd=node, capture_output=True, timeout=2 * PATIENCE_MS / 1000, check=False)
    assert done.returncode == 0, done.stderr.decode()
    outcomes: dict[str, Any] = json.loads(done.stdout)
    return outcomes


@pytest.mark.parametrize("mode", ["developer", "express", "project"])
def test_a_gateway_changes_nothing_that_a_person_sees(
    node: Path, direct: Target, gateways: SessionGateway, mode: str
) -> None:
    """Of a kind that has it all; what straight came of it is looked at, too: two failures would be equal."""
    straight = run(node, direct.url, mode)
    assert all("value" in outcome for outcome in straight.values()), straight
    assert straight["embed"] == {"value": [5]}
    through = run(node, gateways("api-key" if mode == "developer" else "vertex").url, mode)
    assert through == straight


def test_an_account_with_a_key_serves_vertex_ais_clients(node: Path, direct: Target, gateways: SessionGateway) -> None:
    """Where the meaning is the same."""
    straight, through = run(node, direct.url, "express"), run(node, gateways("api-key").url, "express")
    assert through == straight
