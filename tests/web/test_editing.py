"""Keys, accounts and aliases by the admin API: what it writes, what it puts in force, who may, and what is told."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from agm import config as configuration
from agm.app.reload import ConfigWatch
from agm.core.client_keys import digest
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway

ADMIN = "canary-admin-key"
KEYS = f"""
# who may
[[auth.keys]]
name = "operator"   # me
key_sha256 = "{digest(ADMIN)}"
admin = true

[[auth.keys]]
name = "laptop"
key = "canary-laptop-key"
requests_per_minute = 60  # enough
"""
JSON = {"Content-Type": "application/json"}


@attrs.frozen(eq=False)
class Edited:
    """A gateway whose file can be changed by its API."""

    running: RunningGateway
    path: Path
    lines: list[str]

    async def ask(self, method: str, target: str, wish: object = None, key: str | None = ADMIN, **headers: str) -> Any:
        sent = {**JSON, **({} if key is None else {"x-goog-api-key": key})}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        body = None if wish is None else json.dumps(wish).encode()
        return await self.running.fetch(method, f"/_agm/{target}", headers=sent, body=body)

    async def done(self, method: str, target: str, wish: object = None, key: str | None = ADMIN) -> Any:
        """Ask for what has to succeed, and return its document."""
        answer = await self.ask(method, target, wish, key)
        assert answer.status == 200, answer.body
        assert answer.json["loaded"] is True
        return answer.json

    async def why(self, method: str, target: str, wish: object = None, **headers: str) -> tuple[int, str]:
        """Ask for what is refused, and nothing written; the status, and the message."""
        before = self.path.read_bytes()
        answer = await self.ask(method, target, wish, **headers)
        assert self.path.read_bytes() == before
        return answer.status, answer.json["error"]["message"]

    @property
    def tables(self) -> Any:
        return tomllib.loads(self.path.read_text())


Edit = Callable[..., Awaitable[Edited]]


@pytest_twisted.async_yield_fixture
async def edit(gateway: GatewayFactory, tmp_path: Path) -> AsyncIterator[Edit]:
    """A function that starts a gateway with a configuration file, as a person's."""
    watches: list[ConfigWatch] = []
    lines: list[str] = []

    def keep(event: Any) -> None:
        if event.get("log_namespace", "").startswith("agm.web.admin") and event.get("log_format"):
            lines.append(event["log_format"].format(**event))

    async def start(text: str, **options: Any) -> Edited:
        path = tmp_path / "agm.toml"
        path.write_text(text)
        path.chmod(0o600)
        running = await gateway(configuration.load(path, environ=os.environ), **options)
        watch = ConfigWatch(Clock(), running.gateway, path)
        watch.startService()
        watches.append(watch)
        return Edited(running, path, lines)

    globalLogPublisher.addObserver(keep)
    yield start
    globalLogPublisher.removeObserver(keep)
    for watch in watches:
        watch.stopService()


# Keys


@pytest_twisted.ensureDeferred
async def test_a_key_is_created_told_once_and_let_in(edit: Edit) -> None:
    it = await edit(KEYS, auth_mode="strict")
    made = await it.done("POST", "keys", {"name": "ci", "models": ["gemini-*"], "tokens_per_day": 9, "expires": 4e9})
    key = made["key"]
    assert made["client_key"]["name"] == "ci"
    assert (made["client_key"]["models"], made["client_key"]["expires"]) == (["gemini-*"], 4e9)
    assert (await it.running.fetch("GET", "/v1beta/models", headers={"x-goog-api-key": key})).status == 200
    written = it.path.read_text()
    assert written.startswith(KEYS)
    assert key not in written
    assert it.tables["auth"]["keys"][2]["key_sha256"] == digest(key)
    again = (await it.ask("GET", "keys")).json
    assert key not in json.dumps(again)
    (line,) = [line for line in it.lines if "created" in line]
    assert "client key operator created client key ci (models: gemini-*, tokens_per_day: 9, expires: 2096-" in line
    assert key not in "\n".join(it.lines)


@pytest_twisted.ensureDeferred
async def test_a_key_is_changed_rotated_and_revoked(edit: Edit) -> None:
    it = await edit(KEYS, auth_mode="strict")
    changed = await it.done("PATCH", "keys/laptop", {"requests_per_minute": None, "requests_per_day": 5})
    assert (changed["client_key"]["requests_per_minute"], changed["client_key"]["requests_per_day"]) == (None, 5)
    rotated = await it.done("POST", "keys/laptop/rotate")
    laptop = it.tables["auth"]["keys"][1]
    assert laptop == {"name": "laptop", "requests_per_day": 5, "key_sha256": digest(rotated["key"])}
    for key, status in (("canary-laptop-key", 401), (rotated["key"], 200)):
        assert (await it.running.fetch("GET", "/v1beta/models", headers={"x-goog-api-key": key})).status == status
    assert (await it.done("DELETE", "keys/laptop"))["revoked"] == "laptop"
    answer = await it.running.fetch("GET", "/v1beta/models", headers={"x-goog-api-key": rotated["key"]})
    assert answer.status == 401
    assert '# who may\n[[auth.keys]]\nname = "operator"   # me\n' in it.path.read_text()
    assert [line.split(": ", 1)[1].split(" in /")[0] for line in it.lines] == [
        "client key operator changed client key laptop (requests_per_minute: none, requests_per_day: 5)",
        "client key operator rotated client key laptop",
        "client key operator revoked client key laptop",
    ]


@pytest.mark.parametrize(
    ("method", "target", "wish", "status", "why"),
    [
        ("POST", "keys", {"name": "laptop"}, 409, "already"),
        ("POST", "keys", {}, 400, "name"),
        ("POST", "keys", {"name": "x", "key": "canary-mine"}, 400, "unknown field `key`"),
        ("POST", "keys", {"name": "x", "requests_per_day": 0}, 400, "auth.keys[2].requests_per_day: 0 is not"),
        ("POST", "keys", {"name": "x", "expires": 1e30}, 400, "calendar"),
        ("PATCH", "keys/laptop", {}, 400, "changes nothing"),
        ("PATCH", "keys/nobody", {"admin": True}, 404, "no client key of this name"),
        ("DELETE", "keys/nobody", None, 404, "no client key of this name"),
        ("PUT", "aliases/x", {"model": ""}, 400, "models.aliases"),
        ("DELETE", "aliases/x", None, 404, "no alias"),
        ("POST", "accounts", {"name": "a"}, 400, "Give one of api_key and login"),
        ("POST", "accounts", {"name": "a", "api_key": "canary a"}, 400, "api_key: holds a space"),
        ("POST", "accounts", {"name": "../a", "api_key": "canary-k"}, 400, "is not a name"),
        ("POST", "accounts", {"name": "AIzaSyCanary-of-an-account-0123456789ab", "api_key": "k"}, 400, "an API key"),
        ("POST", "accounts", {"name": "a", "api_key_file": "/etc/passwd"}, 400, "unknown field"),
        ("POST", "accounts", {"name": "a", "api_key_env": "HOME"}, 400, "unknown field"),
        ("POST", "accounts", {"name": "a", "kind": "vertex", "project": "p", "credentials": "adc",
                              "endpoints": ["https://e.example"]}, 400, "in the file alone"),
        ("POST", "accounts", {"name": "a", "kind": "vertex", "login": {"type": "external_account"}}, 400, "its type"),
        ("POST", "accounts", {"name": "a", "kind": "code-assist", "api_key": "k"}, 400, "i_have_a_licence"),
        ("PATCH", "accounts/work", {"endpoints": ["https://e.example"]}, 400, "unknown field"),
        ("PATCH", "accounts/nobody", {"enabled": False}, 404, "no account of this name"),
        ("POST", "accounts/work/rotate", {}, 400, "Give one of"),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_done_is_refused_with_its_reason_and_nothing_is_written(
    edit: Edit, method: str, target: str, wish: object, status: int, why: str
) -> None:
    account = '[[accounts]]\nname = "work"\nkind = "api-key"\napi_key = "canary-k"\n'
    it = await edit(account + KEYS, auth_mode="strict")
    found, message = await it.why(method, target, wish)
    assert (found, why in message) == (status, True), message
    assert "canary" not in message.lower()
    assert not (it.path.parent / "keys").exists()
    assert it.lines == []


# Who may


@pytest_twisted.ensureDeferred
async def test_only_an_operator_changes_anything(edit: Edit) -> None:
    """Not another client, nor, once there is an operator, a program on this machine without a key."""
    it = await edit(KEYS)
    assert await it.why("POST", "keys", {"name": "x"}, key="canary-laptop-key") == (
        403, "This needs a client key with admin = true."
    )  # fmt: skip
    status, message = await it.why("POST", "keys", {"name": "x"}, key=None)
    assert (status, "on this machine, too" in message) == (403, True)
    status, _ = await it.why("DELETE", "keys/laptop", key=None)
    assert status == 403


@pytest_twisted.ensureDeferred
async def test_without_an_operator_and_where_no_key_is_asked_for_this_machine_may(edit: Edit) -> None:
    it = await edit("# mine\n")
    await it.done("POST", "keys", {"name": "first"}, key=None)
    assert it.path.read_text().startswith("# mine\n")
    assert any("this machine created client key first" in line for line in it.lines)


@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_changes_nothing_not_even_one_that_may_call_models(edit: Edit) -> None:
    it = await edit('[gateway]\ncors_origins = ["http://friend.example"]\n')
    wish = {"name": "x"}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://friend.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"},
        {"Host": "evil.example"},
    ):
        status, _ = await it.why("POST", "keys", wish, key=None, **headers)
        assert status in (403, 421), headers
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, _ = await it.why("POST", "keys", wish, key=None, Content_Type=kind)
        assert status == 415
    own = it.running.url
    assert (await it.ask("POST", "keys", wish, key=None, Origin=own)).status == 200


@pytest_twisted.ensureDeferred
async def test_without_a_file_that_serves_nothing_can_be_changed(gateway: GatewayFactory) -> None:
    running = await gateway("")
    answer = await running.fetch("POST", "/_agm/keys", headers=JSON, body=b'{"name": "x"}')
    assert (answer.status, "--config FILE" in answer.json["error"]["message"]) == (409, True)


# Accounts


@pytest_twisted.ensureDeferred
async def test_an_account_is_added_serves_and_keeps_its_secret(edit: Edit, emulator: RunningEmulator) -> None:
    it = await edit(KEYS)
    added = await it.done(
        "POST", "accounts", {"name": "work", "api_key": " canary-work\n", "endpoints": [emulator.url], "priority": 2}
    )
    assert (added["account"]["name"], added["account"]["kind"]) == ("work", "api-key")
    assert (await it.running.ask()).status == 200
    file = it.path.parent / "keys" / "work.key"
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("canary-work\n", 0o600)
    assert 'api_key_file = "keys/work.key" # kept by agm, removed with the account' in it.path.read_text()
    told = json.dumps([added, (await it.ask("GET", "accounts")).json, (await it.ask("GET", "status")).json])
    assert "canary-work" not in told + "\n".join(it.lines)


@pytest_twisted.ensureDeferred
async def test_an_account_is_disabled_changed_enabled_given_another_secret_and_removed(
    edit: Edit, emulator: RunningEmulator
) -> None:
    it = await edit(KEYS + emulator.account("work") + emulator.account("spare"))
    off = await it.done("PATCH", "accounts/work", {"enabled": False, "priority": 3})
    assert off["account"] is None or off["account"]["disabled"] is not None
    assert [account.name for account in it.running.gateway.pool.candidates("m", "generateContent")] == ["spare"]
    await it.done("PATCH", "accounts/work", {"enabled": True})
    assert "enabled" not in it.tables["accounts"][0]
    for key in ("canary-second", "canary-third"):
        await it.done("POST", "accounts/work/rotate", {"api_key": key})
        found = dict(await it.running.gateway.credentials["work"].headers())
        assert key.encode() in found.values()
    assert it.tables["accounts"][0]["api_key_file"] == "keys/work.key"
    assert "api_key" not in it.tables["accounts"][0]
    login = {"type": "authorized_user", "client_id": "c", "client_secret": "canary-s", "refresh_token": "canary-r"}
    assert (await it.why("POST", "accounts/work/rotate", {"login": login}))[0] == 400
    assert [file.name for file in (it.path.parent / "keys").iterdir()] == ["work.key"]
    assert (await it.done("DELETE", "accounts/work"))["removed"] == "work"
    assert [table["name"] for table in it.tables["accounts"]] == ["spare"]
    assert [*(it.path.parent / "keys").iterdir()] == []
    assert [account.name for account in it.running.gateway.pool.accounts] == ["spare"]


@pytest_twisted.ensureDeferred
async def test_an_account_of_vertex_comes_with_its_login(edit: Edit, emulator: RunningEmulator) -> None:
    it = await edit(KEYS)
    login = {"type": "authorized_user", "client_id": "c", "client_secret": "canary-s", "refresh_token": "canary-r"}
    wish = {"name": "cloud", "kind": "vertex", "login": login, "project": "p", "endpoints": [emulator.url]}
    assert (await it.done("POST", "accounts", wish))["account"]["kind"] == "vertex"
    assert json.loads((it.path.parent / "keys" / "cloud.json").read_text()) == login
    assert it.tables["accounts"][0]["credentials"] == "keys/cloud.json"


# Aliases


@pytest_twisted.ensureDeferred
async def test_aliases_are_set_changed_and_removed(edit: Edit, emulator: RunningEmulator) -> None:
    it = await edit(KEYS + emulator.account("work"))
    await it.done("PUT", "aliases/gpt-4o%2A", {"model": "gemini-2.5-flash"})
    assert (await it.running.ask("gpt-4o-mini")).status == 200
    changed = await it.done("PUT", "aliases/gpt-4o%2A", {"model": "gemini-2.5-pro"})
    assert changed["aliases"] == [{"pattern": "gpt-4o*", "model": "gemini-2.5-pro"}]
    await it.done("PUT", "aliases/a%2Fb", {"model": "gemini-2.5-pro"})
    assert (await it.done("DELETE", "aliases/gpt-4o%2A"))["aliases"] == [{"pattern": "a/b", "model": "gemini-2.5-pro"}]
    assert (await it.ask("GET", "aliases")).json == {"aliases": [{"pattern": "a/b", "model": "gemini-2.5-pro"}]}
    assert "# me" in it.path.read_text()
    assert [line.split(": ", 1)[1].split(" in /")[0] for line in it.lines][:2] == [
        "client key operator set alias gpt-4o* to gemini-2.5-flash",
        "client key operator set alias gpt-4o* to gemini-2.5-pro",
    ]
