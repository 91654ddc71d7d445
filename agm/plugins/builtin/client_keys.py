"""The client keys of the configuration."""

from __future__ import annotations

from collections.abc import Iterable

from agm import hookimpl
from agm.config import Config
from agm.core.client_keys import ClientKey, KeyRing


@hookimpl(trylast=True)
def agm_client_keys(config: Config) -> Iterable[KeyRing]:
    """Every ``[[auth.keys]]`` table."""
    return [
        KeyRing(
            ClientKey(
                name=entry.name,
                digest=entry.digest,
                models=entry.models,
                requests_per_minute=entry.requests_per_minute,
                admin=entry.admin,
                requests_per_day=entry.requests_per_day,
                tokens_per_minute=entry.tokens_per_minute,
                tokens_per_day=entry.tokens_per_day,
                max_sessions=entry.max_sessions,
                expires=entry.expires,
                team=entry.team,
                weight=entry.weight,
                metadata=entry.metadata,
            )
            for entry in config.auth.keys
        )
    ]
