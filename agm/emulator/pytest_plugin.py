"""
The emulator for the tests of others: ``pytest --gemini-emulator``, and a fixture :func:`gemini_emulator`.

It runs as a process of its own, one for the whole session (and for each worker of pytest-xdist), and ends with it.
With ``--gemini-emulator`` the variables by which Google's SDKs find their server lead to it for the whole session, so
that tests need not change; without, only a test that asks for the fixture has one.  Before each test that uses it, it
forgets what the one before has done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import pytest

__all__ = ["GeminiEmulator", "gemini_emulator"]

#: Where Google's SDKs look for their server and their key; any key is good.
_VARIABLES = ("GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL")
_KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
_SECONDS = 30.0


@attrs.frozen
class GeminiEmulator:
    """A running emulator; `url` is the base URL for clients."""

    url: str

    def reset(self) -> None:
        """Forget accounts, scripts, the scenario, files, the log and the clock's offset."""
        self._post("reset", {})

    def scenario(self, name: str | None) -> None:
        """Have every account follow a scenario, from its beginning; None ends it."""
        self._post("scenario", {"scenario": name})

    def script(self, steps: Sequence[str], *, account: str = "emulator", repeat: bool = False) -> None:
        """
        Say what the next calls of an account meet, one step a call.

        :param steps: ``ok``, or a fault of docs/emulator.md without ``emu-``: ``429-2``, ``cut``.
        :param account: the API key or token that the client uses.
        """
        self._post("script", {"account": account, "steps": list(steps), "repeat": repeat})

    def advance(self, seconds: float) -> None:
        """Let the emulator's clock go forward: for tokens, quotas and files that end."""
        self._post("clock", {"advance": seconds})

    @property
    def log(self) -> list[dict[str, Any]]:
        """What reached it, the oldest first, with bodies; docs/emulator.md says what an entry has."""
        return list(self._ask("log?body=1")["entries"])

    def _post(self, what: str, document: Mapping[str, Any]) -> None:
        self._ask(what, json.dumps(document).encode())

    def _ask(self, what: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}/_emu/{what}", body)  # noqa: S310  # it is http
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_SECONDS) as answer:
            return json.load(answer)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("gemini-emulator", "an emulator of the Gemini API (agm)")
    group.addoption(
        "--gemini-emulator",
        action="store_true",
        help="have Google's SDKs talk to an emulator of the Gemini API for the whole session: no key, no network",
    )
    group.addoption(
        "--gemini-scenario", metavar="NAME", help="with --gemini-emulator: the scenario that tests begin with"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker means, and have every test use the emulator if that is wished."""
    if config.getoption("--gemini-emulator"):
        config.pluginmanager.register(_ForAll(), "gemini-emulator-for-all")
    config.addinivalue_line(
        "markers", "gemini_scenario(name): the emulator of the Gemini API follows this scenario in this test"
    )


class _Process:
    """The emulator of the session, which is started when the first test needs it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._emulator: GeminiEmulator | None = None

    def emulator(self) -> GeminiEmulator:
        """Return the emulator, and start it if it does not run."""
        if self._emulator is None:
            self._process = subprocess.Popen(  # ourselves
                [sys.executable, "-P", "-m", "agm.emulator", "--port", "0"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            assert self._process.stdout is not None
            line = self._process.stdout.readline().decode()
            if not line.startswith("listening on "):
                raise pytest.UsageError("the emulator of the Gemini API does not start; run agm-emulator to see why")
            self._emulator = GeminiEmulator(line.removeprefix("listening on ").strip())
        return self._emulator

    def end(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_SECONDS)
            assert self._process.stdout is not None
            self._process.stdout.close()


@pytest.fixture(scope="session")
def _gemini_process() -> Iterator[_Process]:
    process = _Process()
    yield process
    process.end()


@pytest.fixture
def gemini_emulator(_gemini_process: _Process, request: pytest.FixtureRequest) -> GeminiEmulator:
    """Return an emulator of the Gemini API that remembers nothing of other tests."""
    emulator = _gemini_process.emulator()
    emulator.reset()
    mark = request.node.get_closest_marker("gemini_scenario")
    scenario = mark.args[0] if mark is not None else request.config.getoption("--gemini-scenario")
    if scenario is not None:
        emulator.scenario(scenario)
    return emulator


class _ForAll:
    """Of ``--gemini-emulator``: what holds for every test, whether it asks for the emulator or not."""

    @pytest.fixture(scope="session", autouse=True)
    def _gemini_environment(self, _gemini_process: _Process) -> Iterator[None]:
        """Lead Google's SDKs there."""
        url = _gemini_process.emulator().url
        before = {name: os.environ.get(name) for name in (*_VARIABLES, *_KEYS)}
        os.environ.update(dict.fromkeys(_VARIABLES, url))
        os.environ["GEMINI_API_KEY"] = "emulator"
        os.environ.pop("GOOGLE_API_KEY", None)  # which SDKs would prefer
        yield
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    @pytest.fixture(autouse=True)
    def _gemini_anew(self, gemini_emulator: GeminiEmulator) -> None:
        """Have each test begin with an emulator that remembers nothing."""
