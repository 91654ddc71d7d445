"""Claude Code, unmodified and headless: it edits a file by calls of tools that came through the gateway."""

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

PACKAGE = "@anthropic-ai/claude-code@2.1.197"


@pytest.fixture(scope="module")
def claude(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its command, fresh from the registry: 240 MB that no other test needs."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("claude-code")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE]
    subprocess.run(install, cwd=folder, env=outside(), check=True, capture_output=True, timeout=300)
    return folder / "node_modules" / ".bin" / "claude"


@pytest.mark.timeout(400)  # with the download
@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3-pro-preview"])
def test_it_edits_a_file(
    claude: Path, gateways: SessionGateway, emulator: Emulator, tmp_path: Path, model: str
) -> None:
    """It reads the file, edits it, and tells what came of it; nothing that it sends is refused."""
    file = tmp_path / "settings.ini"
    file.write_text('color = "red"\n')
    read = {"file_path": str(file)}
    edit = {**read, "old_string": "red", "new_string": "blue"}
    settings = {
        "ANTHROPIC_BASE_URL": gateways("api-key").url,
        "ANTHROPIC_AUTH_TOKEN": CLIENT_KEY,
        "ANTHROPIC_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "HOME": str(tmp_path),
    }
    prompt = f"Read {json.dumps(read)}, and then Edit {json.dumps(edit)}"
    done = subprocess.run(
        [claude, "-p", prompt, "--permission-mode", "acceptEdits", "--output-format", "json"],
        cwd=tmp_path,
        env={**environment(tmp_path), **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_MS / 1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert file.read_text() == 'color = "blue"\n'
    found = json.loads(done.stdout)
    assert found["is_error"] is False
    assert "has been updated successfully" in found["result"]
    second = emulator.log(model, body=True)[-1]["body"]  # its beginning: it ends with the tools
    assert re.findall(r'"functionCall":\{"name":"(\w+)"', second) == ["Read", "Edit"]
    assert re.findall(r'"functionResponse":\{"name":"(\w+)"', second) == ["Read", "Edit"]
    assert second.count("thoughtSignature") == 1
