"""
Let in whoever has a JSON Web Token of your identity provider, sent as a client key is: no list of keys to keep.

Copy this file into the folder of ``[plugins] path``, and install ``PyJWT[crypto]`` beside agm::

    [auth]
    mode = "strict"

    [plugins.jwt_keys]
    jwks = "https://login.example.net/.well-known/jwks.json"  # without one, the plugin does nothing
    issuer = "https://login.example.net/"
    audience = "gemini"

The provider's keys are cached for an hour, and asked for anew when a token names another, twice a minute at most.
"""

from __future__ import annotations

import time
from typing import Any

import jwt
import msgspec
import treq

from agm.api import ClientKey, Config, digest, hookimpl


class Settings(msgspec.Struct):
    jwks: str = ""
    issuer: str = ""
    audience: str = ""


class Tokens:
    """A source of client keys."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys: dict[str | None, Any] = {}
        self.asked = -3600.0

    async def lookup(self, presented: str) -> ClientKey | None:
        try:
            kid = jwt.get_unverified_header(presented).get("kid")
            if time.monotonic() - self.asked > (3600 if kid in self.keys else 30):
                self.asked = time.monotonic()
                answer = await treq.get(self.settings.jwks, persistent=False, timeout=5)
                self.keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(await answer.json()).keys}
            claims = jwt.decode(
                presented, self.keys[kid], algorithms=["RS256", "ES256", "EdDSA"], issuer=self.settings.issuer,
                audience=self.settings.audience, options={"require": ["exp", "sub"]},
            )  # fmt: skip
        except (jwt.InvalidTokenError, KeyError):
            return None
        return ClientKey(claims["sub"], digest(presented), expires=claims["exp"], team=claims.get("team"))

    def __len__(self) -> int:
        return 1


@hookimpl
def agm_settings() -> dict[str, type[msgspec.Struct]]:
    return {"jwt_keys": Settings}


@hookimpl
def agm_client_keys(config: Config) -> list[Tokens]:
    settings = config.plugins.read("jwt_keys", Settings)
    return [Tokens(settings)] if settings.jwks else []
