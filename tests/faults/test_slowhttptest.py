"""slowhttptest, as Debian ships it, against a real gateway: slow heads, slow bodies, slow readers."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.processes import Twistd, environment, until
from testbed.sockets import Client

TOOL = shutil.which("slowhttptest")
CONNECTIONS = 200
#: Descriptors that stay: the demo keeps connections to its own upstream, of which it has both ends.
KEPT = 10

pytestmark = pytest.mark.skipif(TOOL is None, reason="slowhttptest is not installed: apt-get install slowhttptest")


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Twistd]:
    """A gateway with short timers."""
    config = tmp_path / "agm.toml"
    config.write_text("[timeouts]\nrequest_read = 1.5\nclient_stall = 1.5\n")
    twistd = Twistd.start(
        tmp_path / "run", "agm", "--demo", "--port", "0", "--config", str(config), env=environment(tmp_path)
    )
    try:
        yield twistd
    finally:
        twistd.end()


def attack(url: str, folder: Path, *arguments: str) -> tuple[str, list[dict[str, str]]]:
    """What the tool said at the end, and a row for each second."""
    assert TOOL is not None
    done = subprocess.run(
        [TOOL, *arguments, "-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-p", "1", "-u", url, "-g", "-o", "slow"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )
    with (folder / "slow.csv").open(encoding="ascii", newline="") as rows:
        seconds = list(csv.DictReader(rows))
    said = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", done.stdout.decode())  # it paints
    ended = re.search(r"Exit status: (.+)", said)
    assert ended is not None, said
    return ended[1].strip(), seconds


@pytest.mark.parametrize(
    "arguments",
    [
        ["-H", "-i", "1", "-l", "15"],
        ["-H", "-i", "1", "-l", "15", "-t", "POST", "-f", "application/json"],
        ["-B", "-i", "1", "-l", "15", "-t", "POST", "-f", "application/json"],
    ],
    ids=["slow heads", "slow heads of POST", "slow bodies"],
)
@pytest.mark.process
def test_slow_requests_are_ended_and_others_are_served_meanwhile(
    impatient: Twistd, tmp_path: Path, arguments: list[str]
) -> None:
    url = impatient.url()
    base = descriptors(impatient)
    ended, seconds = attack(url + "/v1beta/models/gemini-2.5-flash:generateContent", tmp_path, *arguments)
    assert ended == "No open connections left", "the gateway has closed them all before the tool gave up"
    assert_available(impatient, seconds, base)


@pytest.mark.slow
@pytest.mark.process
def test_slow_readers_keep_nobody_from_being_served(impatient: Twistd, tmp_path: Path) -> None:
    url = impatient.url()
    base = descriptors(impatient)
    slowly = ["-X", "-w", "1", "-y", "64", "-n", "1", "-z", "16", "-k", "3", "-l", "6"]
    _, seconds = attack(url + "/v1beta/models?pageSize=1000", tmp_path, *slowly)
    assert_available(impatient, seconds, base)


def served(url: str) -> None:
    """Ask, and get an answer."""
    client = Client(url)
    client.post("/v1beta/models/gemini-2.5-flash:generateContent")
    seen = client.finish()
    assert seen is not None
    assert seen.status == 200
    client.close()


def assert_available(twistd: Twistd, seconds: list[dict[str, str]], base: int) -> None:
    connected = max(int(row["Connected"]) for row in seconds)
    assert connected > CONNECTIONS / 2, "it was under attack"
    assert all(int(row["Service Available"]) > 0 for row in seconds), seconds
    until(lambda: descriptors(twistd) <= base + KEPT, f"{base} descriptors")
    served(twistd.url())
    assert "Traceback" not in twistd.log
    assert "Unhandled" not in twistd.log


def descriptors(twistd: Twistd) -> int:
    return len(os.listdir(f"/proc/{twistd.process.pid}/fd"))
