"""
Credentials in use: requests through a gateway whose accounts get their tokens from the emulator's token endpoint.

What is counted is what reached the emulator: token requests and model calls, from its log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from agm.emulator.state import Account
from agm.testing import Answer, GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import eventually, settle

#: Requests at the same time.
MANY = 50
NO_WAIT = "[pool]\nmax_wait = 0\n"


@attrs.define(eq=False)
class Logins:
    """Accounts with a login each at the emulator's token endpoint."""

    folder: Path
    emulator: RunningEmulator

    def account(self, name: str, kind: str = "vertex", token: str | None = None, extra: str = "") -> str:
        """The table of an account whose file is written here; `token` is its refresh token."""
        file = self.folder / f"{name}.json"
        login = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": token or name}
        file.write_text(json.dumps({**login, "token_uri": f"{self.emulator.url}/token"}))
        return (
            f'[[accounts]]\nname = "{name}"\nkind = "{kind}"\nproject = "p"\ncredentials = "{file}"\n'
            f'endpoints = ["{self.emulator.url}"]\n{extra}'
        )

    def declare(self, name: str, **fields: Any) -> Account:
        """Say how the token endpoint treats an account."""
        account = Account(name=name, credentials=frozenset({name}), declared=True, **fields)
        self.emulator.state.declare(account)
        return account

    def count(self, rpc: str, account: str | None = None) -> int:
        """How many requests of a sort reached the emulator."""
        return sum(e.rpc == rpc and (account is None or e.account == account) for e in self.emulator.log)

    @property
    def tokens(self) -> Mapping[str, int]:
        """Token requests by account."""
        names = [entry.account for entry in self.emulator.log if entry.rpc == "token"]
        return {name: names.count(name) for name in names}


@pytest.fixture
def logins(tmp_path: Path, emulator: RunningEmulator) -> Logins:
    return Logins(tmp_path, emulator)


async def at_once(running: RunningGateway, count: int = MANY, **options: Any) -> list[Answer]:
    """The answers to many requests that are sent at the same time."""
    return await gatherResults(
        [Deferred.fromCoroutine(running.ask("gemini-2.5-flash", f"question {n}", **options)) for n in range(count)]
    )


def end_of(logins: Logins, *accounts: str) -> None:
    """Make the emulator refuse the tokens that it has issued for these accounts."""
    state = logins.emulator.state
    for token, grant in list(state.grants.items()):
        if grant.account in accounts:
            state.grants[token] = attrs.evolve(grant, expires=state.clock.now())


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("kind", ["vertex", "code-assist"])
async def test_the_first_requests_share_one_token(gateway: GatewayFactory, logins: Logins, kind: str) -> None:
    """However many come at once."""
    running = await gateway(logins.account("alice", kind))
    assert {answer.status for answer in await at_once(running)} == {200}
    assert logins.tokens == {"alice": 1}
    assert {answer.status for answer in await at_once(running)} == {200}
    assert logins.tokens == {"alice": 1}


@pytest_twisted.ensureDeferred
async def test_a_token_that_has_ended_is_refreshed_once_and_every_request_served(
    gateway: GatewayFactory, logins: Logins
) -> None:
    """The upstream says 401 to all that are under way; one refresh serves their second try."""
    running = await gateway(logins.account("alice"))
    assert (await running.ask()).status == 200
    for expiry in range(1, 4):
        end_of(logins, "alice")
        assert {answer.status for answer in await at_once(running)} == {200}
        assert logins.tokens == {"alice": 1 + expiry}
    refused = [entry for entry in logins.emulator.log if entry.status == 401]
    assert len(refused) <= 3 * MANY  # each request at most once an expiry


@pytest_twisted.ensureDeferred
async def test_streams_are_served_after_a_refresh_too(gateway: GatewayFactory, logins: Logins) -> None:
    """Nothing of the 401 is seen by a client, in either framing."""
    running = await gateway(logins.account("alice"))
    assert (await running.ask()).status == 200
    end_of(logins, "alice")
    answers = await at_once(running, 10, method="streamGenerateContent")
    assert all(answer.status == 200 and answer.text for answer in answers)
    assert logins.tokens == {"alice": 2}


@pytest_twisted.ensureDeferred
async def test_a_short_lived_token_is_renewed_ahead_of_its_end(gateway: GatewayFactory, logins: Logins) -> None:
    """In the background and at a steady pace: requests go on with the token that they have."""
    logins.declare("alice", expires_in=100)
    running = await gateway(logins.account("alice"))
    for _ in range(3):
        assert {answer.status for answer in await at_once(running, 20)} == {200}
    assert logins.tokens == {"alice": 1}  # what was just fetched is not renewed at once
    assert logins.count("generateContent") == 60
    assert not [entry for entry in logins.emulator.log if entry.status == 401]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_wrong_clock_changes_nothing(gateway: GatewayFactory, logins: Logins, hours: int) -> None:
    """The emulator lives in another time than this machine: a token's life is counted from its coming."""
    logins.emulator.state.clock.advance(hours * 3600)
    running = await gateway(logins.account("alice"))
    for _ in range(2):
        assert {answer.status for answer in await at_once(running, 20)} == {200}
    assert logins.tokens == {"alice": 1}


@pytest_twisted.ensureDeferred
async def test_a_revoked_login_disables_its_account_and_no_other(gateway: GatewayFactory, logins: Logins) -> None:
    """With a reason that a person can act on; its token endpoint is left alone from then on."""
    running = await gateway(NO_WAIT + logins.account("alice", token="revoked-1") + logins.account("bob"))
    assert {answer.status for answer in await at_once(running)} == {200}
    assert {answer.status for answer in await at_once(running)} == {200}
    assert {e.account for e in logins.emulator.log if e.rpc == "generateContent"} == {"bob"}
    assert logins.tokens == {None: 1, "bob": 1}  # the refused one belongs to nobody
    (alice, bob) = (await running.fetch("GET", "/_agm/accounts")).json["accounts"]
    assert "sign in again" in alice["disabled"]
    assert "revoked-1" not in json.dumps(alice)
    assert bob["disabled"] is None


@pytest_twisted.ensureDeferred
async def test_a_login_that_is_revoked_in_use_is_disabled_then(gateway: GatewayFactory, logins: Logins) -> None:
    """The tokens that it has given end with it; whoever was on it is served by another."""
    running = await gateway(NO_WAIT + logins.account("alice") + logins.account("bob"))
    assert {answer.status for answer in await at_once(running)} == {200}
    logins.emulator.state.revoke("alice")
    end_of(logins, "alice")
    assert {answer.status for answer in await at_once(running)} == {200}
    standing = {a["name"]: a["disabled"] for a in (await running.fetch("GET", "/_agm/accounts")).json["accounts"]}
    assert "sign in again" in standing["alice"]
    assert standing["bob"] is None


@pytest_twisted.ensureDeferred
async def test_an_account_that_is_refused_with_fresh_tokens_is_disabled(
    gateway: GatewayFactory, logins: Logins
) -> None:
    """One refresh and one more try, no loop; then it is off for every model."""
    running = await gateway(NO_WAIT + logins.account("alice"))
    logins.emulator.state.script("alice", ["401"], repeat=True)
    assert (await running.ask("one")).status == 401
    assert (logins.count("token"), logins.count("generateContent")) == (2, 2)
    assert (await running.ask("one")).status == 503
    assert (await running.ask("two")).status == 503
    assert (logins.count("token"), logins.count("generateContent")) == (2, 2)


@pytest_twisted.ensureDeferred
async def test_a_slow_token_endpoint_delays_only_those_who_need_it(gateway: GatewayFactory, logins: Logins) -> None:
    """Accounts with a token, and those with a key, go on at once."""
    slow = logins.declare("alice", token_latency_ms=1500)
    key = logins.emulator.account("work", extra='models = ["quick-*"]\n')
    running = await gateway(logins.account("alice", extra='models = ["slow-*"]\n') + key)
    waiting = Deferred.fromCoroutine(running.ask("slow-model"))
    await eventually(lambda: logins.count("token"), "the token request")
    for _ in range(5):
        assert (await running.ask("quick-model")).status == 200
    assert not waiting.called
    assert (await waiting).status == 200
    assert (slow.name, logins.tokens) == ("alice", {"alice": 1})


@pytest_twisted.ensureDeferred
async def test_many_slow_token_endpoints_do_not_hold_up_the_rest(gateway: GatewayFactory, logins: Logins) -> None:
    """More of them than there are threads: who has a token needs no thread."""
    names = [f"slow{n}" for n in range(8)]
    for name in names:
        logins.declare(name, token_latency_ms=1000)
    text = "".join(logins.account(name, extra=f'models = ["{name}-*"]\n') for name in names)
    running = await gateway(text + logins.account("quick", extra='models = ["quick-*"]\n'))
    assert (await running.ask("quick-model")).status == 200
    waiting = [Deferred.fromCoroutine(running.ask(f"{name}-model")) for name in names]
    await eventually(lambda: logins.count("token") > 2, "token requests")
    assert (await running.ask("quick-model")).status == 200
    assert not any(each.called for each in waiting)
    assert {answer.status for answer in await gatherResults(waiting)} == {200}
    assert set(logins.tokens.values()) == {1}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_failing_token_endpoint_costs_no_request_that_another_account_can_serve(
    gateway: GatewayFactory, logins: Logins, status: int
) -> None:
    """It is a hiccup: nobody is disabled, the endpoint is not hammered, and the account is back by itself."""
    alice = logins.declare("alice", token_status=status)
    running = await gateway(NO_WAIT + logins.account("alice") + logins.account("bob"))
    assert {answer.status for answer in await at_once(running)} == {200}
    assert {e.account for e in logins.emulator.log if e.rpc == "generateContent"} == {"bob"}
    assert logins.tokens["alice"] <= 4  # google-auth's own three tries, for all of the requests together
    standing = (await running.fetch("GET", "/_agm/accounts")).json["accounts"]
    assert [account["disabled"] for account in standing] == [None, None]
    alice.token_status = None
    credential: Any = running.gateway.credentials["alice"]
    credential._renewed_at = None  # the moment for which the failure is remembered is over
    for n in range(20):
        assert (await running.ask("gemini-2.5-flash", f"another question {n}")).status == 200
    assert logins.count("generateContent", "alice")


@pytest_twisted.ensureDeferred
async def test_a_failing_token_endpoint_does_not_touch_tokens_that_are_good(
    gateway: GatewayFactory, logins: Logins
) -> None:
    """It is down for an hour, and nobody notices."""
    alice = logins.declare("alice")
    running = await gateway(logins.account("alice"))
    assert (await running.ask()).status == 200
    alice.token_status = 503
    assert {answer.status for answer in await at_once(running)} == {200}
    assert logins.tokens == {"alice": 1}


@pytest_twisted.ensureDeferred
async def test_alone_with_a_failing_token_endpoint_the_client_is_told(gateway: GatewayFactory, logins: Logins) -> None:
    """503, when to come again, and why; nothing of the login."""
    logins.declare("alice", token_status=503)
    running = await gateway(NO_WAIT + logins.account("alice"))
    answer = await running.ask()
    assert answer.status == 503
    assert "token endpoint" in answer.json["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_a_token_is_fetched_costs_the_others_nothing(
    gateway: GatewayFactory, logins: Logins
) -> None:
    """The token comes all the same, and serves whoever is left."""
    logins.declare("alice", token_latency_ms=600)
    running = await gateway(logins.account("alice"))
    leaving = Deferred.fromCoroutine(running.ask("gemini-2.5-flash", "one"))
    staying = Deferred.fromCoroutine(running.ask("gemini-2.5-flash", "two"))
    await eventually(lambda: logins.count("token"), "the token request")
    leaving.addErrback(lambda _: None)
    leaving.cancel()
    assert (await staying).status == 200
    assert logins.tokens == {"alice": 1}
    await settle()
    assert logins.count("generateContent") == 1
