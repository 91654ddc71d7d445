"""The example that takes accounts out of a vault, with a vault on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
import secret_manager
from twisted.internet.defer import Deferred

from agm.testing import GatewayFactory, RunningEmulator, parse_config
from tests.helpers.support import AnsweringUpstream


class Vault:
    """Answers for one secret to who has the token."""

    def __init__(self) -> None:
        self.keys = {"work": "key-of-work", "home": "key-of-home"}
        self.server = AnsweringUpstream(self._answer)

    def _answer(self, asked: Any) -> tuple[int, Any]:
        if asked.headers.get("x-vault-token") != "canary-token":
            return 403, {"errors": ["permission denied"]}
        return 200, {"data": {"data": self.keys, "metadata": {"version": 1}}}


@pytest_twisted.async_yield_fixture
async def vault() -> AsyncIterator[Vault]:
    running = Vault()
    yield running
    await running.server.stop()


def settings(vault: Vault, emulator: RunningEmulator) -> str:
    return f'[plugins.secret_manager]\nurl = "{vault.server.url}"\nendpoint = "{emulator.url}"\n'


@pytest_twisted.ensureDeferred
async def test_each_entry_of_the_secret_is_an_account(
    gateway: GatewayFactory, emulator: RunningEmulator, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "canary-token")
    text = settings(vault, emulator)
    running = await gateway(text, plugins=[secret_manager])
    assert [(await running.ask(text=str(number))).status for number in range(4)] == [200] * 4
    assert set(emulator.accounts) == {"key-of-work", "key-of-home"}
    assert vault.server.asked[0].path == "/v1/secret/data/gemini"
    work = running.gateway.credentials["work"]
    vault.keys = {"work": "key-of-work", "third": "key-of-third"}
    await running.gateway.reload(parse_config(text))
    assert [account.name for account in running.gateway.pool.accounts] == ["work", "third"]
    assert running.gateway.credentials["work"] is work


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_the_accounts_serve_through_a_reload_and_stay_where_the_vault_fails(
    gateway: GatewayFactory, emulator: RunningEmulator, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no moment without them, and those that a later answer lacks are gone."""
    monkeypatch.setenv("VAULT_TOKEN", "canary-token")
    text = settings(vault, emulator)
    running = await gateway(text, plugins=[secret_manager])
    pool = running.gateway.pool
    reloading = Deferred.fromCoroutine(running.gateway.reload(parse_config(text)))
    assert not reloading.called
    assert [account.name for account in pool.accounts] == ["work", "home"]
    await reloading
    monkeypatch.setenv("VAULT_TOKEN", "another")
    await running.gateway.reload(parse_config(text))
    assert [account.name for account in pool.accounts] == ["work", "home"]
    assert (await running.ask()).status == 200
    monkeypatch.setenv("VAULT_TOKEN", "canary-token")
    vault.keys = {}
    await running.gateway.reload(parse_config(text))
    assert not pool.accounts


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_vault_that_refuses_is_told_and_the_others_serve(
    gateway: GatewayFactory, emulator: RunningEmulator, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "another")
    running = await gateway(settings(vault, emulator) + emulator.account("own"), plugins=[secret_manager])
    assert (await running.ask()).status == 200
    assert emulator.accounts == ["own"]
    assert running.gateway.hooks.failures["secret_manager", "agm_accounts"] == 1
