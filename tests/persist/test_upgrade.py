"""The files of agm 0.1.0, as it wrote them, are read by today's agm: nothing has to be converted for an upgrade."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from testbed.processes import environment, get, run, running

#: Made by ``agm account add``, ``agm key create`` and a gateway of 0.1.0, with the emulator as the only upstream; the
#: client key, which agm keeps as a digest, was replaced by that of CLIENT_KEY.
RELEASE = Path(__file__).with_name("release-0.1.0")
CLIENT_KEY = "canary-laptop"
#: When the state was written, in seconds since the epoch.
WRITTEN = 1_796_076_797
DAY = 86_400


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with the files of 0.1.0, whose times are moved to today: what has passed is dropped."""
    config, state = tmp_path / ".config" / "agm", tmp_path / ".local" / "state" / "agm"
    shutil.copytree(RELEASE / "config", config)
    shutil.copytree(RELEASE / "state", state)
    for path in (*config.rglob("*"), *state.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    now = time.time()
    pool = json.loads((state / "state.json").read_text())
    for account in pool["accounts"].values():
        for cooldown in account["rests"]:
            cooldown["until"] += now - WRITTEN
    (state / "state.json").write_text(json.dumps(pool))
    limits = json.loads((state / "state-limits.json").read_text())
    limits["day"] = int(now // DAY)
    (state / "state-limits.json").write_text(json.dumps(limits))
    with closing(sqlite3.connect(state / "requests.sqlite3")) as requests, requests:
        requests.execute("UPDATE requests SET started = started + ?", (now - WRITTEN,))
    return tmp_path


def agm(home: Path, *arguments: str) -> str:
    """Return what a command prints, which has to succeed."""
    command = [sys.executable, "-m", "agm", *arguments]
    done = run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def ask(url: str, model: str, key: str) -> tuple[int, Any]:
    """Return the status and the document of an answer."""
    client = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        client.request("POST", f"/v1beta/models/{model}:generateContent", b"{}", {"x-goog-api-key": key})
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        client.close()


@pytest.mark.process
def test_the_configuration_is_taken_as_it_is(home: Path) -> None:
    checked = agm(home, "config", "check")
    assert "2 accounts" in checked
    assert checked.endswith("0 warnings\n")
    assert {entry["name"] for entry in json.loads(agm(home, "account", "list", "--json"))} == {"first", "second"}
    assert [entry["name"] for entry in json.loads(agm(home, "key", "list", "--json"))] == ["laptop"]


@pytest.mark.process
def test_the_request_log_is_read(home: Path) -> None:
    requests = json.loads(agm(home, "log", "--json"))
    assert sorted(request["status"] for request in requests) == [200, 200, 200, 200, 200, 404, 429]
    assert {request["client_key"] for request in requests} == {"laptop"}


@pytest.mark.process
def test_a_gateway_goes_on_where_the_old_one_stopped(home: Path) -> None:
    """With its cooldowns, what needs manual action, the day of a client key, who has which file, and the same log."""
    state = home / ".local" / "state" / "agm"
    with running(home, "agm", "--port", "0") as twistd:
        url = twistd.url()
        status, body = get(url, "/_agm/accounts", x_goog_api_key=CLIENT_KEY)
        assert status == 200
        first, second = json.loads(body)["accounts"]
        assert [(model["model"], model["reason"]) for model in first["models"]] == [
            ("emu-429rpm-3000", "RESOURCE_EXHAUSTED")
        ]
        assert 2000 < first["models"][0]["seconds_left"] < 3100
        assert second["held"]["reason"] == "VALIDATION_REQUIRED"
        _, body = get(url, "/_agm/keys", x_goog_api_key=CLIENT_KEY)
        assert json.loads(body)["client_keys"][0]["today"] == {"requests": 7, "tokens": 73}
        assert ask(url, "gemini-2.5-flash", "agm_another")[0] == 401
        status, refusal = ask(url, "emu-429rpm-3000", CLIENT_KEY)
        assert status in (429, 503)
        assert refusal["error"]["details"]
        assert twistd.stop() == 0
    kept = json.loads((state / "state.json").read_text())
    assert kept["owners"] == [["files/upwnwfqarpph", "first"]]
    assert kept["accounts"].keys() == {"first", "second"}
    assert len(json.loads(agm(home, "log", "--json"))) == 8  # the request that was let in is the eighth
    names = {name for name in os.listdir(state) if not name.startswith("requests.sqlite3-")}  # SQLite's own
    assert names == {"requests.sqlite3", "state-limits.json", "state.json", "state.key"}, "none was set aside"
