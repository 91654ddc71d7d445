"""Codex, unmodified and headless, with the gateway as its provider: it edits a file by a call of its own tool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from testbed.hermetic import outside
from testbed.processes import environment
from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, Emulator, SessionGateway

pytestmark = [pytest.mark.process, pytest.mark.slow]

PACKAGE = "@openai/codex@0.171.0"
#: As docs/clients.md has it, but for the address.
PROVIDER = """
model = "{model}"
model_provider = "agm"
web_search = "disabled"

[model_providers.agm]
name = "agm"
base_url = "{url}/v1"
env_key = "AGM_KEY"
wire_api = "responses"
"""


@pytest.fixture(scope="module")
def codex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its command, fresh from the registry."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("codex")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE]
    subprocess.run(install, cwd=folder, env=outside(), check=True, capture_output=True, timeout=300)
    return folder / "node_modules" / ".bin" / "codex"


@pytest.mark.timeout(400)  # with the download
@pytest.mark.parametrize("model", ["gemini-2.5-pro", "gemini-3-pro-preview"])
def test_it_edits_a_file(codex: Path, gateways: SessionGateway, emulator: Emulator, tmp_path: Path, model: str) -> None:
    """It runs the command, and tells what came of it; nothing that it sends is refused."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(PROVIDER.format(model=model, url=gateways("api-key").url))
    file = work / "settings.ini"
    file.write_text('color = "red"\n')
    command = json.dumps({"cmd": "sed -i s/red/blue/ settings.ini && cat settings.ini"})
    done = subprocess.run(
        [
            codex,
            "exec",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
            f"exec_command {command}",
        ],
        cwd=work,
        env={**environment(tmp_path), "CODEX_HOME": str(home), "AGM_KEY": CLIENT_KEY, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_MS / 1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert file.read_text() == 'color = "blue"\n'
    assert "The function exec_command returned" in done.stdout
    second = emulator.log(model, body=True)[-1]["body"]
    assert re.findall(r'"functionCall":\{"name":"(\w+)"', second) == ["exec_command"]
    assert re.findall(r'"functionResponse":\{"name":"(\w+)"', second) == ["exec_command"]
    assert second.count("thoughtSignature") == 1
