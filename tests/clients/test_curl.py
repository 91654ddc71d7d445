"""curl, as in Google's own quickstarts: what a person types, and what they read."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, Emulator, Target, misbehaving

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

KEY = f"x-goog-api-key: {CLIENT_KEY}"
JSON = "Content-Type: application/json"
#: The quickstart's own body: a turn without a role.
HELLO = '{"contents": [{"parts": [{"text": "Explain how AI works"}]}]}'


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run curl; ``-sS`` shows errors and nothing else."""
    return subprocess.run(
        ["curl", "-sS", "--max-time", str(PATIENCE_MS // 1000), *arguments], capture_output=True, check=False
    )


def test_the_quickstart_answers(target: Target) -> None:
    url = f"{target.url}/v1beta/models/gemini-2.5-flash:generateContent"
    done = curl(url, "-H", KEY, "-H", JSON, "-X", "POST", "-d", HELLO)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "Explain how AI works" in answer["candidates"][0]["content"]["parts"][0]["text"]


def test_the_key_may_stand_in_the_query(through: Target) -> None:
    url = f"{through.url}/v1beta/models/gemini-2.5-flash:generateContent?key={CLIENT_KEY}"
    assert "candidates" in json.loads(curl(url, "-H", JSON, "-d", HELLO).stdout)


def test_events_are_read_with_no_buffer(target: Target) -> None:
    url = f"{target.url}/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    done = curl(url, "--no-buffer", "-H", KEY, "-H", JSON, "-d", HELLO)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line.removeprefix(b"data: ")) for line in done.stdout.splitlines() if line]
    text = "".join(event["candidates"][0]["content"]["parts"][0]["text"] for event in events)
    assert "Explain how AI works" in text


def test_a_large_body_is_not_held_up_by_expect(through: Target, tmp_path: Path) -> None:
    """Above 1 MB curl asks first whether it may send (``Expect: 100-continue``)."""
    parts: list[Any] = [
        {"inline_data": {"mime_type": "image/jpeg", "data": base64.b64encode(bytes(9_000_000)).decode()}},
        {"text": "Caption this image."},
    ]
    body = tmp_path / "request.json"
    body.write_text(json.dumps({"contents": [{"parts": parts}]}))
    url = f"{through.url}/v1beta/models/gemini-2.5-flash:generateContent"
    done = curl(url, "-v", "-H", KEY, "-H", JSON, "-d", f"@{body}")
    assert b"image/jpeg of 9000000 bytes" in done.stdout
    assert b"100 Continue" in done.stderr


@pytest.mark.parametrize("code", [400, 401, 403, 404, 429, 500, 503])
def test_an_error_fails_with_its_status(code: int, through: Target) -> None:
    url = f"{through.url}/v1beta/{misbehaving(f'{code}-30')}:generateContent"
    done = curl(url, "--fail-with-body", "-w", "%{stderr}%{http_code}", "-H", KEY, "-H", JSON, "-d", HELLO)
    assert done.returncode == 22
    assert done.stderr.endswith(str(code).encode())
    assert json.loads(done.stdout)["error"]["code"] == code


@pytest.mark.parametrize("fault", ["midstream", "errdata-2", "errtail-2", "cut", "drop-2", "rst-2"])
@pytest.mark.parametrize("alt", ["sse", "json"])
def test_a_stream_that_fails_makes_curl_fail(fault: str, alt: str, through: Target) -> None:
    url = f"{through.url}/v1beta/{misbehaving(fault)}:streamGenerateContent?alt={alt}"
    done = curl(url, "-H", KEY, "-H", JSON, "-d", HELLO)
    assert done.returncode in (18, 56), done.stderr  # a partial file, a failure to receive
    assert b"candidates" in done.stdout


def test_imagen_is_called_where_the_kind_has_it_and_is_501_elsewhere(through: Target, direct: Target) -> None:
    body = '{"instances": [{"prompt": "A gradient"}], "parameters": {"sampleCount": 2, "aspectRatio": "16:9"}}'
    path = "/v1beta/models/imagen-4.0-generate-001:predict"
    answer = json.loads(curl(through.url + path, "-H", KEY, "-H", JSON, "-d", body).stdout)
    if through.kind == "code-assist":
        assert (answer["error"]["code"], answer["error"]["status"]) == (501, "UNIMPLEMENTED")
    else:
        assert answer == json.loads(curl(direct.url + path, "-H", KEY, "-H", JSON, "-d", body).stdout)
        assert len(answer["predictions"]) == 2


def test_models_are_listed_page_by_page(through: Target) -> None:
    names: list[str] = []
    token = ""
    while True:
        page = json.loads(curl(f"{through.url}/v1beta/models?pageSize=3&pageToken={token}", "-H", KEY).stdout)
        assert 1 <= len(page["models"]) <= 3
        names += [model["name"] for model in page["models"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    whole = json.loads(curl(f"{through.url}/v1beta/models?pageSize=1000", "-H", KEY).stdout)
    assert names == [model["name"] for model in whole["models"]]


@pytest.mark.parametrize(
    ("fault", "method"),
    [
        ("latency-20000", "generateContent"),
        ("hang-2", "streamGenerateContent?alt=sse"),
        ("hang-2", "streamGenerateContent?alt=json"),
        ("giant-64", "streamGenerateContent?alt=sse"),
    ],
)
def test_a_curl_that_is_killed_ends_the_call_at_the_upstream(
    fault: str, method: str, through: Target, emulator: Emulator
) -> None:
    model = misbehaving(fault)
    running = subprocess.Popen(
        ["curl", "-sS", "--no-buffer", f"{through.url}/v1beta/{model}:{method}", "-H", KEY, "-H", JSON, "-d", HELLO],
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    if fault.startswith("latency"):
        emulator.log_when(model, "seq")
    else:
        assert running.stdout.read(20)
    running.kill()
    running.wait()
    running.stdout.close()
    assert emulator.log_when(model, "client_gone")["finished"] is False
