"""A real gateway whose wall clock is set, by Debian's libfaketime: what takes its time takes as long as before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from testbed.processes import Twistd, connection, environment, get, post, until

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed: apt-get install faketime")

ASK = b'{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}'
#: A part of a request's way each, short enough to be waited for.
TIMEOUTS = "[timeouts]\nfirst_byte = 2\nidle = 2\n"
LATE = "The upstream did not answer within 2 seconds."


@attrs.define
class Machine:
    """A machine with a gateway, and a clock that a test sets."""

    folder: Path
    gateway: Twistd = attrs.field(init=False)
    url: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.set("+0")
        self.configure("")
        self.gateway = Twistd.start(
            self.folder / "run",
            *("agm", "--demo", "--port", "0", "--config", str(self.folder / "agm.toml")),
            env=environment(
                self.folder,
                LD_PRELOAD=str(LIBRARY),
                FAKETIME_TIMESTAMP_FILE=str(self.folder / "clock"),
                FAKETIME_NO_CACHE="1",
                FAKETIME_DONT_FAKE_MONOTONIC="1",
            ),
        )
        self.url = self.gateway.url()

    def set(self, offset: str) -> None:
        """Set the wall clock, by so much from the right time."""
        file = self.folder / "clock.new"
        file.write_text(f"{offset}\n")
        file.rename(self.folder / "clock")

    def configure(self, more: str) -> None:
        """Write the configuration."""
        file = self.folder / "agm.toml.new"
        file.write_text(f"{TIMEOUTS}[request_log]\nenabled = false\n[pool]\nmax_wait = 0\n{more}")
        file.rename(self.folder / "agm.toml")

    def asked(self, model: str) -> tuple[int, Any]:
        """The status and the document of an answer."""
        client, answer = post(self.url, f"/v1beta/models/{model}:generateContent", ASK)
        try:
            return answer.status, json.loads(answer.read())
        finally:
            client.close()


@pytest.fixture
def start(tmp_path: Path) -> Any:
    machines: list[Machine] = []

    def start() -> Machine:
        machines.append(Machine(tmp_path))
        return machines[-1]

    yield start
    for machine in machines:
        machine.gateway.end()


Start = Callable[[], Machine]


@pytest.mark.parametrize(("offset", "says"), [("-1h", "back"), ("+1h", "forward")])
@pytest.mark.process
def test_a_clock_that_is_set_changes_no_timer(start: Start, offset: str, says: str) -> None:
    """Neither of those that run, which begin before it is set, nor of those that begin after."""
    machine = start()
    client, stream = post(machine.url, "/v1beta/models/emu-slow:streamGenerateContent?alt=sse", ASK)
    assert stream.readline().startswith(b"data: ")
    waiting = connection(machine.url)
    waiting.request("POST", "/v1beta/models/emu-hang:generateContent", ASK, {"Content-Type": "application/json"})
    machine.set(offset)
    assert stream.read().count(b"data: ") == 3  # IncompleteRead, if it was cut
    client.close()
    answer = waiting.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]["message"]) == (504, LATE)
    waiting.close()
    status, document = machine.asked("emu-hang")
    assert (status, document["error"]["message"]) == (504, LATE)
    (told,) = re.findall("the clock of this machine was set .*", machine.gateway.log)
    assert re.fullmatch(f".* was set {says} by (3599|3600)\\.[0-9] seconds; timers go on as before", told)
    assert machine.gateway.stop() == 0
    assert "Traceback" not in machine.gateway.log


@pytest.mark.slow
@pytest.mark.process
def test_with_a_clock_that_was_set_back_rests_end_and_a_new_configuration_is_seen(start: Start) -> None:
    machine = start()
    assert machine.asked("emu-quota-3")[0] == 429
    machine.set("-1h")
    machine.configure("strategy = 'round-robin'\n")
    machine.gateway.until_logged("is loaded")

    def rests() -> list[float]:
        found = json.loads(get(machine.url, "/_agm/accounts")[1])["accounts"]
        return [model["seconds_left"] for account in found for model in account["models"]]

    assert max(rests(), default=0) <= 3
    until(lambda: not any(rests()), "the end of the rests")
    status = json.loads(get(machine.url, "/_agm/status")[1])
    assert 0 < status["uptime"] < 600
