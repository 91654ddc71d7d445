"""A restart of the real gateway in the middle of things: what it knew of its accounts, it knows afterwards."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from testbed import storms
from testbed.processes import Twistd, environment, get, post

MODEL, OTHER = "gemini-2.5-flash", "gemini-2.5-pro"
ASK = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}).encode()
#: The accounts, in the order in which they are asked, and what happens to their first calls.
SCRIPTS = {
    "limited": ["429rpm-600"],
    "daily": ["429day"],
    "locked": ["403validation"],
    "refused": ["401"] * 4,  # twice for each of two models
    "good": [],
}


@attrs.define(eq=False)
class Setting:
    """An emulator, and gateways one after the other with the same configuration."""

    emulator: str
    folder: Path
    keys: dict[str, str]
    gateways: list[Twistd] = attrs.Factory(list)

    def start(self) -> str:
        """Start a gateway; its address."""
        path = self.folder / "agm.toml"
        tables = [
            f'[[accounts]]\nname = "{name}"\nkind = "api-key"\napi_key = "{self.keys[name]}"\n'
            f'endpoints = ["{self.emulator}"]\npriority = {place}\n'
            for place, name in enumerate(SCRIPTS)
        ]
        pool = (
            f'[pool]\nstrategy = "priority"\nmax_attempts = 10\nmax_wait = 0\nstate = {json.dumps(str(self.state))}\n'
        )
        path.write_text(pool + "\n".join(tables), encoding="utf-8")
        path.chmod(0o600)
        folder = self.folder / f"gateway{len(self.gateways)}"
        gateway = Twistd.start(folder, "agm", "--port", "0", "--config", str(path), env=environment(folder))
        self.gateways.append(gateway)
        return gateway.url()

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    def asked(self) -> list[str]:
        """Whose calls have reached the upstream since this was last looked at."""
        calls = [str(call.account) for call in storms.log(self.emulator) if call.rpc == "generateContent"]
        new = calls[self._seen :]
        self._seen = len(calls)
        return new

    _seen: int = 0


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with storms.emulating(tmp_path / "emulator") as emulator:
        storms.tell(emulator, "/_emu/accounts", {"accounts": [{"name": n, "credentials": [n]} for n in SCRIPTS]})
        for name, steps in SCRIPTS.items():
            storms.tell(emulator, "/_emu/script", {"account": name, "steps": steps})
        it = Setting(emulator, tmp_path, {name: name for name in SCRIPTS})
        yield it
        for gateway in it.gateways:
            gateway.kill()


def ask(url: str, model: str = MODEL) -> int:
    client, answer = post(url, f"/v1beta/models/{model}:generateContent", ASK)
    answer.read()
    client.close()
    return answer.status


def standing(url: str) -> dict[str, Any]:
    """How the accounts stand, by name: what disables them and what they rest for, without the seconds left."""
    status, body = get(url, "/_agm/accounts")
    assert status == 200
    return {
        account["name"]: (account["disabled"], [(it["model"], it["state"], it["reason"]) for it in account["models"]])
        for account in json.loads(body)["accounts"]
    }


def left(url: str) -> float:
    """Seconds that the limited account has left to rest."""
    accounts = json.loads(get(url, "/_agm/accounts")[1])["accounts"]
    return next(float(it["models"][0]["seconds_left"]) for it in accounts if it["name"] == "limited")


@pytest.mark.process
def test_a_restart_keeps_who_rests_and_who_is_disabled(setting: Setting) -> None:
    """A stream under way is served to its end by the old process, and the new one asks only who may be asked."""
    url = setting.start()
    assert ask(url) == 200
    assert setting.asked() == ["limited", "daily", "locked", "refused", "refused", "good"]
    assert ask(url, OTHER) == 200  # of the first account: what it rests for is the other model
    storms.tell(setting.emulator, "/_emu/script", {"account": "limited", "steps": ["503"] * 3})
    storms.tell(setting.emulator, "/_emu/script", {"account": "daily", "steps": ["503"] * 3})
    assert ask(url, OTHER) == 200
    assert setting.asked() == ["limited", "limited", "daily", "good"]
    before, seconds = standing(url), left(url)
    assert [why is not None for why, _ in before.values()] == [False, False, True, True, False]
    assert [bool(rests) for _, rests in before.values()] == [True, True, False, False, False]

    storms.tell(setting.emulator, "/_emu/script", {"account": "good", "steps": ["slow"]})
    client, answer = post(url, f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse", ASK)
    assert answer.readline().startswith(b"data: ")
    setting.gateways[0].signal()
    assert b'"finishReason": "STOP"' in answer.read()
    client.close()
    assert setting.gateways[0].wait() == 0

    url = setting.start()
    assert standing(url) == before
    assert 0 < left(url) <= seconds
    setting.asked()
    assert [ask(url) for _ in range(3)] == [200] * 3
    assert setting.asked() == ["good"] * 3
    assert setting.gateways[1].stop() == 0


@pytest.mark.slow
@pytest.mark.process
def test_a_process_that_is_killed_has_written_what_it_knew(setting: Setting) -> None:
    """Within a second of the change, not only at its end."""
    url = setting.start()
    assert ask(url) == 200
    before = standing(url)
    names = {name for name, (off, rests) in before.items() if off or rests}
    setting.gateways[0].until(
        lambda: setting.state.exists() and json.loads(setting.state.read_bytes())["accounts"].keys() == names,
        "the state",
    )
    setting.gateways[0].signal(signal.SIGKILL)
    assert setting.gateways[0].wait() == -signal.SIGKILL
    url = setting.start()
    assert standing(url) == before
    setting.asked()
    assert ask(url) == 200
    assert setting.asked() == ["good"]


@pytest.mark.slow
@pytest.mark.process
def test_an_account_with_a_new_key_starts_anew(setting: Setting) -> None:
    """A person has acted: what was held against the old key says nothing about the new one."""
    url = setting.start()
    assert ask(url) == 200
    assert setting.gateways[0].stop() == 0
    setting.keys["locked"] = "locked-anew"
    storms.tell(setting.emulator, "/_emu/accounts", {"name": "locked", "credentials": ["locked", "locked-anew"]})
    url = setting.start()
    setting.asked()
    assert ask(url) == 200
    assert setting.asked() == ["locked"]
