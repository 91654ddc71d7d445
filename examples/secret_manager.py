"""
Take accounts out of a secret manager, here HashiCorp Vault: each entry of one secret is an account and its API key.

Copy this file into the folder of ``[plugins] path``, and start the gateway with ``VAULT_TOKEN`` in its environment::

    [plugins.secret_manager]
    url = "https://vault.example.net"  # without one, the plugin does nothing
    secret = "secret/data/gemini"      # of a KV engine, version 2: {"work": "AIza…", "home": "AIza…"}

A reload (``systemctl reload agm``, or a change of the configuration) reads it anew; an account whose key is the same
keeps its state.
"""

from __future__ import annotations

import os

import msgspec

from agm.api import Account, AccountSource, ApiKey, Config, Gateway, hookimpl

GOOGLE = "https://generativelanguage.googleapis.com"


class Settings(msgspec.Struct):
    url: str = ""
    secret: str = "secret/data/gemini"
    endpoint: str = GOOGLE


class State:
    gateway: Gateway


@hookimpl
def agm_settings() -> dict[str, type[msgspec.Struct]]:
    return {"secret_manager": Settings}


@hookimpl
def agm_started(gateway: Gateway) -> None:
    State.gateway = gateway


@hookimpl
async def agm_accounts(config: Config) -> list[AccountSource]:
    settings = config.plugins.read("secret_manager", Settings)
    if not settings.url:
        return []
    token = {"X-Vault-Token": os.environ["VAULT_TOKEN"]}
    answer = await State.gateway.http.get(f"{settings.url}/v1/{settings.secret}", headers=token, timeout=10)
    if answer.code != 200:
        raise OSError(f"the vault answered {answer.code}")
    keys: dict[str, str] = (await answer.json())["data"]["data"]
    return [source(name, key, settings.endpoint) for name, key in keys.items()]


def source(name: str, key: str, endpoint: str) -> AccountSource:
    return AccountSource(Account(name, "api-key", (endpoint,)), lambda refresher: ApiKey(key), origin=key)
