"""
Which secrets a gateway holds, so that a :class:`agm.core.redact.Redactor` can be told them.

It reads values and hands strings on; it neither keeps nor shows any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from agm.config import Config, Secret
from agm.core.network import Proxy
from agm.upstream.credentials.credential import (
    ApiKey,
    Credential,
    Headers,
    KeyHeaders,
    NoCredential,
    Refreshed,
    StaticToken,
)

__all__ = ["reporting_secrets", "secrets_of"]

#: Names in a plugin's table whose values are secrets more likely than not.
_SECRET_NAME = re.compile("auth|credential|key|passw|secret|token", re.IGNORECASE)
#: A shorter value of a plugin's is a word or a number, such as ``key_column = "id"``.
_SHORTEST = 8

AddSecret = Callable[[str], None]


def secrets_of(config: Config) -> Iterator[str]:
    """
    Every secret of a configuration; and of what only plugins can read, what is named like one.

    Client keys are not among them: of those the configuration has digests.
    """
    for field in attrs.fields(Config):
        if field.name != "plugins":
            yield from _within(getattr(config, field.name))
    for table in config.plugins.tables.values():
        yield from _named(table)
    for account in config.accounts:
        yield from _named(account.settings)


def _within(value: object) -> Iterator[str]:
    kind: Any = type(value)
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Proxy):
        yield from value.secrets
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _within(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _within(item)
    elif attrs.has(kind):
        for field in attrs.fields(kind):
            yield from _within(getattr(value, field.name))


def _named(value: object, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _named(item, str(inner))
    elif isinstance(value, list):
        for item in value:
            yield from _named(item, name)
    elif isinstance(value, str) and len(value) >= _SHORTEST and _SECRET_NAME.search(name):
        yield value


def reporting_secrets(credential: Credential, add: AddSecret) -> Credential:
    """
    Make a credential report its secrets to `add`, before anything is sent with them.

    The built-in kinds cost nothing for it: a key is told now, and a token by the
    :class:`~agm.upstream.credentials.refresher.Refresher` when it is new.
    """
    if isinstance(credential, Refreshed | NoCredential):
        return credential
    if isinstance(credential, ApiKey | KeyHeaders | StaticToken):
        Deferred.fromCoroutine(credential.headers()).addCallbacks(lambda found: _tell(found, add), lambda _: None)
        return credential
    return _SecretReporting(credential, add)


def _tell(headers: Headers, add: AddSecret) -> None:
    for _, value in headers:
        add(value.decode("latin-1").rpartition(" ")[2])


class _SecretReporting:
    """A plugin's own credential: whatever it gives is reported each time."""

    def __init__(self, credential: Credential, add: AddSecret) -> None:
        self._credential = credential
        self._add = add

    def __getattr__(self, name: str) -> Any:
        return getattr(self._credential, name)

    @property
    def kind(self) -> str:
        return self._credential.kind

    @property
    def refreshable(self) -> bool:
        return self._credential.refreshable

    @property
    def project(self) -> str | None:
        return self._credential.project

    async def headers(self) -> Headers:
        headers = await self._credential.headers()
        _tell(headers, self._add)
        return headers

    def mark_rejected(self, headers: Headers | None = None) -> None:
        self._credential.mark_rejected(headers)
