"""The client keys of the configuration."""

from __future__ import annotations

from collections.abc import Iterable

from agm import hookimpl
from agm.config import Config
from agm.core.clientkeys import ClientKey, KeyRing


@hookimpl(trylast=True)
def agm_client_keys(config: Config) -> Iterable[KeyRing]:
    """Every ``[[auth.keys]]`` table."""
    return [
        KeyRing(
            ClientKey(entry.name, entry.digest, entry.models, entry.requests_per_minute, entry.admin)
            for entry in config.auth.keys
        )
    ]
