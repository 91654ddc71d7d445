"""The snippets of the dashboard, taken from the page as a person takes them, and run against the gateway."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from testbed.processes import environment
from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, RunningGateway, SessionGateway
from tests.helpers import browser

#: What the emulator says to each of them.
ANSWER = "Say hello"


@pytest.fixture(scope="module")
def gateway(gateways: SessionGateway) -> RunningGateway:
    """A gateway that asks for a key."""
    return gateways("api-key")


@pytest.fixture(scope="module")
def snippets(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Each snippet by its name, with the key put where the page says that it belongs."""
    with browser.running(tmp_path_factory.mktemp("browser")) as chromium, chromium.page() as page:
        page.open(f"{gateway.url}/ui/#/connect")
        page.until("!document.getElementById('gate').hidden")
        page.type(CLIENT_KEY)
        page.press("Enter", 13, "\r")
        page.until("document.querySelectorAll('.snippet').length > 0")
        found = page.run(
            "Object.fromEntries([...document.querySelectorAll('.snippet')]"
            ".map((s) => [s.id.replace('snippet-', ''), s.querySelector('pre').textContent]))"
        )
        assert all("YOUR_KEY" in text and gateway.url in text for text in found.values())
        yield {name: text.replace("YOUR_KEY", CLIENT_KEY) for name, text in found.items()}


def run(folder: Path, *command: str) -> str:
    """What a command prints, in an environment that points nowhere."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_MS / 1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(snippets: Mapping[str, str], tmp_path: Path) -> None:
    answer = json.loads(run(tmp_path, "bash", "-c", snippets["curl"]))
    assert ANSWER in answer["candidates"][0]["content"]["parts"][0]["text"]
    events = run(tmp_path, "bash", "-c", snippets["curl-stream"]).split("\n\n")
    assert all(event.startswith("data: {") for event in events[:-1])
    assert len(events) > 2


@pytest.mark.parametrize("name", ["google-genai", "google-generativeai", "openai", "anthropic"])
def test_python(snippets: Mapping[str, str], tmp_path: Path, name: str) -> None:
    assert ANSWER in run(tmp_path, sys.executable, "-W", "ignore", "-c", snippets[name])


def test_the_environment(snippets: Mapping[str, str], tmp_path: Path) -> None:
    program = (
        "from google import genai; client = genai.Client(); "
        "print(client.models.generate_content(model='gemini-2.5-flash', contents='Say hello').text)"
    )
    script = f'{snippets["environment"]}exec {sys.executable} -W ignore -c "$0"'
    assert ANSWER in run(tmp_path, "bash", "-c", script, program)


def test_the_environment_of_openais_clients(snippets: Mapping[str, str], tmp_path: Path) -> None:
    program = (
        "import openai; client = openai.OpenAI(); "
        "print(client.responses.create(model='gemini-2.5-flash', input='Say hello').output_text)"
    )
    script = f'{snippets["openai-environment"]}exec {sys.executable} -W ignore -c "$0"'
    assert ANSWER in run(tmp_path, "bash", "-c", script, program)


def test_claude_code_gets_what_it_reads(snippets: Mapping[str, str], gateway: RunningGateway, tmp_path: Path) -> None:
    """A command in its place shows what it would have been given; what that does is tried with Claude Code itself."""
    stand_in = 'claude() { printf \'%s\\n\' "$ANTHROPIC_BASE_URL" "$ANTHROPIC_AUTH_TOKEN" "$ANTHROPIC_MODEL"; }\n'
    told = run(tmp_path, "bash", "-c", stand_in + snippets["claude-code"]).splitlines()
    assert told == [gateway.url, CLIENT_KEY, "gemini-2.5-flash"]


def test_codex_is_configured_as_the_page_of_clients_says(snippets: Mapping[str, str], gateway: RunningGateway) -> None:
    """What that does is tried with Codex itself."""
    found = tomllib.loads(snippets["codex"])
    page = (Path(__file__).parents[2] / "docs" / "clients.md").read_text("utf-8")
    shown = tomllib.loads(page.partition("### Codex")[2].partition("```toml\n")[2].partition("```")[0])
    shown["model"] = found["model"]
    shown["model_providers"]["agm"]["base_url"] = f"{gateway.url}/v1"
    assert found == shown


def test_javascript(snippets: Mapping[str, str], tmp_path: Path, node: Path) -> None:
    os.symlink(node / "node_modules", tmp_path / "node_modules")
    (tmp_path / "hello.mjs").write_text(snippets["javascript"])
    assert ANSWER in run(tmp_path, "node", "hello.mjs")


def test_gemini_cli_gets_what_it_reads(snippets: Mapping[str, str], gateway: RunningGateway, tmp_path: Path) -> None:
    """A command in its place shows what it would have been given."""
    stand_in = 'gemini() { printf \'%s\\n\' "$GOOGLE_GEMINI_BASE_URL" "$GEMINI_API_KEY" "$@"; }\n'
    told = run(tmp_path, "bash", "-c", stand_in + snippets["gemini-cli"]).splitlines()
    assert told == [gateway.url, CLIENT_KEY, "-m", "gemini-2.5-flash", "-p", "Say hello"]
