"""npm's openai, unmodified: ``node/openai.mjs`` drives it through a gateway."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from testbed.hermetic import outside
from tests.clients.conftest import NODE
from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, SessionGateway

pytestmark = [pytest.mark.process, pytest.mark.slow]

PACKAGE = "openai@6.49.0"


@pytest.mark.timeout(400)  # with the download
def test_every_feature(gateways: SessionGateway, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), PACKAGE]
    subprocess.run(install, cwd=tmp_path, env=outside(), check=True, capture_output=True, timeout=300)
    script = tmp_path / "openai.mjs"
    shutil.copy(NODE / "openai.mjs", script)
    done = subprocess.run(
        ["node", script, f"{gateways('api-key').url}/v1", CLIENT_KEY],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_MS / 1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["whole"] == found["streamed"]
    assert "get_weather returned" in found["tools"]
    assert found["events"][0] == "response.created"
    assert found["events"][-1] == "response.completed"
    assert found["vector"] == 8
    assert found["models"] > 2
    assert found["errors"] == {
        "400": "BadRequestError",
        "403": "PermissionDeniedError",
        "404": "NotFoundError",
        "500": "InternalServerError",
        "503": "InternalServerError",
        "cut": True,
    }
