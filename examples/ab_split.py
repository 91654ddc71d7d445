"""
Split the requests for one model between several, by weight; who has one stays with it, and answers tell which it was.

Copy this file into the folder of ``[plugins] path``::

    [plugins.ab_split]
    model = "chat"                    # what clients ask for; without it, the plugin does nothing
    variants = { "gemini-2.5-flash" = 90, "gemini-3-flash" = 10 }

A client key stays with its variant, and without keys a conversation.  How each does is in the request log.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import msgspec

from agm.api import Config, GatewayRequest, ModelChoice, hookimpl


class Settings(msgspec.Struct):
    model: str = ""
    variants: dict[str, int] = {}


class State:
    settings = Settings()


@hookimpl
def agm_settings() -> Mapping[str, type[msgspec.Struct]]:
    return {"ab_split": Settings}


@hookimpl
def agm_configure(config: Config) -> None:
    State.settings = config.plugins.read("ab_split", Settings)


@hookimpl
def agm_map_model(model: str, request: GatewayRequest) -> ModelChoice | None:
    variants = State.settings.variants
    if not variants or model != State.settings.model:
        return None
    whose = request.client_key or request.body.fingerprint or request.id
    at = int.from_bytes(sha256(whose.encode()).digest()[:8]) % sum(variants.values())
    for variant, weight in variants.items():
        if (at := at - weight) < 0:
            return ModelChoice(variant, f"{weight} of {sum(variants.values())} go there")
    return None


@hookimpl
def agm_answer_headers(request: GatewayRequest) -> Mapping[str, str] | None:
    return {"X-Variant": request.model} if request.asked_model == State.settings.model else None
