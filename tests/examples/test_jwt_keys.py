"""The example that lets in by JSON Web Tokens, with a provider on loopback."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import attrs
import jwt
import jwt_keys
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import AnsweringUpstream

ISSUER = "https://login.example.net/"


@attrs.define
class Provider:
    """An identity provider: its keys by their ids, and who has asked for them."""

    keys: dict[str, Any]
    server: Any = None

    @classmethod
    def with_keys(cls, *names: str) -> Provider:
        provider = cls({name: ec.generate_private_key(ec.SECP256R1()) for name in names})
        provider.server = AnsweringUpstream(lambda asked: (200, {"keys": list(map(provider._public, provider.keys))}))
        return provider

    def _public(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = ECAlgorithm.to_jwk(self.keys[name].public_key(), as_dict=True)
        return {**found, "kid": name, "use": "sig", "alg": "ES256"}

    def token(self, kid: str = "k1", **claims: Any) -> str:
        given = {"sub": "ada", "iss": ISSUER, "aud": "gemini", "exp": int(time.time()) + 60, **claims}
        return jwt.encode(
            {name: value for name, value in given.items() if value is not None},
            self.keys[kid],
            algorithm="ES256",
            headers={"kid": kid},
        )


@pytest_twisted.async_yield_fixture
async def provider() -> AsyncIterator[Provider]:
    running = Provider.with_keys("k1")
    yield running
    await running.server.stop()


async def start(gateway: GatewayFactory, emulator: RunningEmulator, provider: Provider) -> RunningGateway:
    table = f'[plugins.jwt_keys]\njwks = "{provider.server.url}"\nissuer = "{ISSUER}"\naudience = "gemini"\n'
    return await gateway(emulator.account() + table, plugins=[jwt_keys], auth_mode="strict")


@pytest_twisted.ensureDeferred
async def test_a_token_lets_in_and_the_keys_are_fetched_once(
    gateway: GatewayFactory, emulator: RunningEmulator, provider: Provider
) -> None:
    running = await start(gateway, emulator, provider)
    assert [(await running.ask(key=provider.token())).status for _ in range(3)] == [200, 200, 200]
    assert len(provider.server.asked) == 1


@pytest_twisted.ensureDeferred
async def test_what_is_no_good_token_is_401(
    gateway: GatewayFactory, emulator: RunningEmulator, provider: Provider
) -> None:
    """Expired, for others, of others, without what has to be in it, signed by another's key; none at all."""
    stranger = Provider({"k1": ec.generate_private_key(ec.SECP256R1())})
    running = await start(gateway, emulator, provider)
    for token in (
        provider.token(exp=int(time.time()) - 60),
        provider.token(aud="other"),
        provider.token(iss="https://other.example"),
        provider.token(sub=None),
        provider.token(exp=None),
        stranger.token(),
        jwt.encode({"sub": "ada", "exp": 9e9}, None, algorithm="none", headers={"kid": "k1"}),
        "no-token",
    ):
        assert (await running.ask(key=token)).status == 401
    assert not emulator.log


@pytest_twisted.ensureDeferred
async def test_a_new_key_of_the_provider_is_fetched_when_a_token_names_it(
    gateway: GatewayFactory, emulator: RunningEmulator, provider: Provider
) -> None:
    """But a token that names none that there is does not make it ask again and again."""
    settings = jwt_keys.Settings(provider.server.url, ISSUER, "gemini")
    source = jwt_keys.Tokens(settings)
    assert (await source.lookup(provider.token())) is not None
    provider.keys["k2"] = ec.generate_private_key(ec.SECP256R1())
    assert await source.lookup(provider.token("k2")) is None
    assert len(provider.server.asked) == 1
    source.asked -= 31  # half a minute later
    found = await source.lookup(provider.token("k2", team="research"))
    assert found is not None
    assert (found.name, found.team) == ("ada", "research")
    assert len(provider.server.asked) == 2


@pytest_twisted.ensureDeferred
async def test_a_provider_that_is_down_is_503(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """The token may be good."""
    provider = Provider.with_keys("k1")
    running = await start(gateway, emulator, provider)
    await provider.server.stop()
    assert (await running.ask(key=provider.token())).status == 503
