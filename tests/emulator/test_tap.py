"""The command line, in the process and as ``twistd agm-emulator``."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application import service
from twisted.internet import reactor as _reactor
from twisted.plugin import getPlugins
from twisted.python import usage

from agm.emulator import tap

reactor: Any = _reactor
TWISTD = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "agm-emulator"]


def options(*words: str) -> tap.Options:
    read = tap.Options()
    read.parseOptions(list(words))
    return read


def test_the_default_is_loopback() -> None:
    """Port 8046, as documented."""
    assert options()["listen"] == ["tcp:8046:interface=127.0.0.1"]
    assert options("--port", "9000")["listen"] == ["tcp:9000:interface=127.0.0.1"]


def test_endpoints_replace_the_port() -> None:
    """As many as are given."""
    assert options("--listen", "tcp:1", "-l", "unix:/x")["listen"] == ["tcp:1", "unix:/x"]


@pytest.mark.parametrize("words", [("--listen", "nonsense:1"), ("--listen", "tcp:x"), ("--port", "x"), ("--colour",)])
def test_mistakes_are_usage_errors(words: tuple[str, ...]) -> None:
    """As a parent command expects them."""
    with pytest.raises(usage.UsageError):
        options(*words)


def test_a_service_listens_and_stops() -> None:
    """On each endpoint, with the seed that was given."""
    made = tap.makeService(options("--listen", "tcp:0:interface=127.0.0.1", "--seed", "7"))
    made.privilegedStartService()
    made.startService()
    try:
        [listening] = made.services
        port = listening._waitingForPort.result  # type: ignore[attr-defined]
        assert port.getHost().host == "127.0.0.1"
        assert port.factory.state.seed == 7
    finally:
        made.stopService()


def test_a_port_in_use_is_one_line() -> None:
    """And the end of the process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        made = tap.makeService(options("--port", str(taken.getsockname()[1])))
        with pytest.raises(SystemExit, match=r"^twistd agm-emulator: Couldn't listen on 127\.0\.0\.1:"):
            made.privilegedStartService()


def test_the_plugin_names_this_module() -> None:
    """So twistd finds it."""
    [plugin] = [one for one in getPlugins(service.IServiceMaker) if one.tapname == "agm-emulator"]
    assert plugin.options is tap.Options
    assert plugin.makeService is tap.makeService


@pytest.mark.process
def test_twistd_says_what_is_wrong_in_one_line() -> None:
    """On the standard error, with status 1 and without all of twistd's help."""
    ended = subprocess.run([*TWISTD, "--listen", "nonsense:1"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "twistd agm-emulator: bad endpoint 'nonsense:1': Unknown endpoint type: 'nonsense'"
    ]


@pytest.mark.process
def test_twistd_ends_when_its_port_is_taken() -> None:
    """With status 1; the reason is in the log."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([*TWISTD, "--port", port], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Address already in use" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A running twistd on a unix socket."""
    path = tmp_path / "emu"
    with subprocess.Popen([*TWISTD, "--listen", f"unix:{path}"], stdout=subprocess.DEVNULL) as process:
        for _ in range(600):
            if path.exists():
                break
            time.sleep(0.05)
        yield process, path
        process.kill()


class OverUnix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


@pytest.mark.process
def test_twistd_serves_and_ends_on_sigterm(started: tuple[subprocess.Popen[bytes], Path]) -> None:
    """As a service does."""
    process, path = started
    connection = OverUnix(str(path))
    connection.request("GET", "/_emu/health", headers={"Host": "emulator"})
    assert json.load(connection.getresponse())["status"] == "ok"
    connection.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, -signal.SIGTERM)
