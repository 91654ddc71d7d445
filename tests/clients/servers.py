"""
The processes that these tests talk to: the emulator and gateways in front of it, each a real ``twistd``.

A gateway is strict about its client key, and has many accounts of one kind, because faults take accounts out.  Every
secret in its configuration holds :data:`CANARY`, so that one look at its log tells whether any of them got out.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from testbed.processes import PATIENCE, Twistd

KINDS = ("api-key", "vertex", "code-assist")
#: Part of every secret, and of nothing else.
CANARY = "canary"
CLIENT_KEY = f"{CANARY}-client-key-7f31"
#: Faults take accounts out, for one model or altogether (two models refused with 401): so many outlive all the tests.
ACCOUNTS = 48

#: The same patience for SDKs, in milliseconds: longer than any answer takes, shorter than a hang.
PATIENCE_MS = int(PATIENCE * 1000)

_EMULATOR_PORT = re.compile(r"EmulatorSite starting on (\d+)")
_CREDENTIALS = {
    "api-key": 'api_key = "{canary}-api-key-{number}"',
    "vertex": 'access_token = "{canary}-token-{number}"\nproject = "project-{number}"\nlocation = "us-central1"',
    "code-assist": 'access_token = "{canary}-token-{number}"\nproject = "project-{number}"',
}
_numbers = itertools.count(1)


def misbehaving(fault: str) -> str:
    """
    A model with a fault of the emulator's, e.g. ``403-30`` or ``drop-2``.

    Where the fault takes a number the name is no other test's, so that the pool holds nothing against it: the emulator
    reads ``drop-2.17`` as ``drop-2``, and ``403-30.17`` has a RetryInfo of 30.17 seconds.
    """
    return f"models/emu-{fault}.{next(_numbers):04}" if re.search(r"-\d+$", fault) else f"models/emu-{fault}"


def once(fault: str) -> str:
    """A model whose first call alone fails."""
    return f"emu-{fault}-once-t{next(_numbers)}"


def config(upstream: str, kind: str, *, accounts: int = ACCOUNTS, gateway: str = "") -> str:
    """The configuration of a gateway whose accounts are all of one kind, at the emulator."""
    tables = [
        f'[[accounts]]\nname = "account-{number}"\nkind = "{kind}"\n'
        + _CREDENTIALS[kind].format(canary=CANARY, number=number)
        + f'\nendpoints = ["{upstream}"]'
        for number in range(accounts)
    ]
    return "\n\n".join(
        [
            f'[gateway]\nlisten = ["tcp:0:interface=127.0.0.1"]\n{gateway}',
            f'[auth]\nmode = "strict"\n[[auth.keys]]\nname = "tests"\nkey = "{CLIENT_KEY}"',
            '[models]\nlist = ["gemini-2.5-flash", "gemini-2.5-pro"]',
            '[models.aliases]\n"house-model" = "gemini-2.5-pro"',
            *tables,
        ]
    )


@attrs.frozen(eq=False)
class Emulator:
    """A running ``twistd agm-emulator``; :meth:`log` tells what reached it."""

    twistd: Twistd
    url: str

    @classmethod
    def start(cls, folder: Path) -> Emulator:
        """Start one on a free port, and wait until it answers."""
        twistd = Twistd.start(folder, "agm-emulator", "--port", "0")
        twistd.until(lambda: _EMULATOR_PORT.search(twistd.log), "the emulator's port")
        found = _EMULATOR_PORT.search(twistd.log)
        assert found is not None
        emulator = cls(twistd, f"http://127.0.0.1:{found[1]}")
        twistd.until(lambda: emulator.control("GET", "health"), "the emulator's health")
        return emulator

    def control(self, method: str, name: str, body: object = None) -> Any:
        """A call below ``/_emu/``: its answer, None as long as there is nobody to answer."""
        client = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=PATIENCE)
        try:
            client.request(method, f"/_emu/{name}", None if body is None else json.dumps(body))
            return json.load(client.getresponse())
        except ConnectionRefusedError:
            return None
        finally:
            client.close()

    def log(self, model: str, *, body: bool = False) -> list[dict[str, Any]]:
        """The calls of a model that reached it, oldest first."""
        entries = self.control("GET", "log?body=1" if body else "log")["entries"]
        bare = model.removeprefix("models/")
        return [entry for entry in entries if entry["model"] == bare]

    def log_when(self, model: str, field: str) -> dict[str, Any]:
        """The last call of a model, once a field of its log entry is set."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            entries = self.log(model)
            if entries and entries[-1][field]:
                return entries[-1]
            time.sleep(0.05)
        raise AssertionError(f"{model}: {field} was not seen in {self.log(model)}")

    def stop(self) -> None:
        """End it; it must have met nothing unexpected."""
        status = self.twistd.stop()
        assert status in (0, -signal.SIGTERM), f"the emulator ended with status {status}"
        check_log(self.twistd)


@attrs.frozen(eq=False)
class RunningGateway:
    """A running ``twistd agm`` in front of the emulator, with accounts of one kind."""

    twistd: Twistd
    url: str
    kind: str

    @classmethod
    def start(
        cls, folder: Path, upstream: str, kind: str, *, accounts: int = ACCOUNTS, gateway: str = ""
    ) -> RunningGateway:
        """Start one on a free port, and wait until it listens."""
        folder.mkdir(parents=True)
        file = folder / "agm.toml"
        file.touch(mode=0o600)
        file.write_text(config(upstream, kind, accounts=accounts, gateway=gateway))
        twistd = Twistd.start(folder, "agm", "--config", str(file))
        return cls(twistd, twistd.url(), kind)

    def reset(self) -> None:
        """Take back what earlier requests have left held against the accounts."""
        place = urlsplit(self.url)
        client = http.client.HTTPConnection(str(place.hostname), place.port, timeout=10)
        headers = {"x-goog-api-key": CLIENT_KEY}
        try:
            client.request("GET", "/_agm/accounts", headers=headers)
            for account in json.loads(client.getresponse().read())["accounts"]:
                client.request("POST", f"/_agm/accounts/{account['name']}/reset", b"{}", headers)
                client.getresponse().read()
        finally:
            client.close()

    def stop(self) -> None:
        """SIGTERM; it must end in order, have met nothing unexpected, and have told no secret."""
        status = self.twistd.stop()
        assert status == 0, f"the gateway ended with status {status}\n{self.twistd.log[-4000:]}"
        check_log(self.twistd)


#: From a kind to the session's gateway of that kind.
SessionGateway = Callable[[str], RunningGateway]
#: A gateway for one test: ``new_gateway(kind, accounts=2, gateway="…")``.
GatewayFactory = Callable[..., RunningGateway]


def check_log(twistd: Twistd) -> None:
    """What a process wrote holds no traceback, no error that nobody looked at, and no secret."""
    written = twistd.log + "\n".join(twistd.errors)
    for bad in ("Traceback", "Unhandled", CANARY):
        at = written.find(bad)
        assert at < 0, f"{bad!r} is in the log:\n{written[max(0, at - 2000) : at + 4000]}"


@attrs.frozen
class Target:
    """Where a client is pointed: straight at the emulator, or at a gateway whose accounts are of `kind`."""

    name: str
    url: str

    @property
    def direct(self) -> bool:
        """Whether no gateway is between."""
        return self.name == "direct"

    @property
    def kind(self) -> str:
        """The kind of upstream that answers in the end."""
        return "api-key" if self.direct else self.name
