"""
``[auth]`` and ``[[auth.keys]]``: who may use the gateway, and how much of it.

A key is kept as its digest only.
"""

# ruff: noqa: RUF009 - `setting` makes an attrs field, which ruff cannot know; it is no shared default

import datetime
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from agm.config.reading import Place, RefusedError, array_of, array_of_tables, setting, values_of
from agm.config.secret import NO_DIGEST, Secret, one_digest, read_digest, read_secret, read_variable
from agm.config.values import one_of, read_boolean, read_text, whole_number
from agm.config.words import show, sort_of

AuthMode = Literal["off", "strict", "all_except_health", "auto"]
#: Who sees a file, store, cache or batch: every client, those of its maker's team, or its maker alone.
Sharing = Literal["shared", "team", "key"]


@attrs.frozen(kw_only=True)
class ClientKeyConfig:
    """
    A key that clients show to the gateway, known by its digest only.

    ``digest`` is the SHA-256 of the key in lower-case hexadecimal; ``models`` are patterns, none meaning
    every model; ``requests_per_minute`` and the like are ``None`` for no limit; ``expires`` is in seconds
    since the epoch; ``admin`` may ask the gateway about itself from anywhere; keys of one ``team`` share what they
    make; while accounts are short, one of a larger ``weight`` is served more often; ``metadata`` are for plugins.
    """

    name: str
    digest: str = attrs.field(repr=False)
    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    admin: bool = False
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    max_sessions: int | None = None
    expires: float | None = None
    team: str | None = None
    weight: int = 1
    metadata: Mapping[str, str] = attrs.field(factory=dict)


def read_metadata(value: object, place: Place) -> Mapping[str, str]:
    """Return a table of any names, each with a text."""
    if not isinstance(value, dict):
        raise RefusedError(f'expected a table, not {sort_of(value)}; write {{ team = "…", user = "…" }}')
    found = {}
    for name, text in value.items():
        for taken in (place / name).take(read_text, text):
            found[name] = taken
    return MappingProxyType(found)


def read_moment(value: object, place: Place) -> float:
    """
    Return a TOML date or date and time, as seconds since the epoch.

    A date is its end, so that the day itself still counts; what names no offset is UTC.
    """
    if not isinstance(value, datetime.date):
        cure = "; write it without quotes" if isinstance(value, str) else ""
        raise RefusedError(
            f"expected a date like 2027-01-31 or a time like 2027-01-31T18:00:00Z, not {show(value)}{cure}"
        )
    try:
        if not isinstance(value, datetime.datetime):
            value = datetime.datetime.combine(value + datetime.timedelta(days=1), datetime.time())
        return (value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)).timestamp()
    except OverflowError:
        raise RefusedError(
            f"{show(value)} is beyond the calendar; leave it out for a key that does not expire"
        ) from None


@attrs.frozen(kw_only=True)
class _ClientKeyTable:
    """``[[auth.keys]]`` as written."""

    name: str = setting(read_text, "", required="each client key needs a name of its own")
    key: Secret | None = setting(read_secret)
    key_env: str | None = setting(read_variable)
    key_sha256: str | None = setting(read_digest)
    models: tuple[str, ...] = setting(array_of(read_text), ())
    requests_per_minute: int | None = setting(whole_number(1, 10**9, "; leave it out for no limit"))
    requests_per_day: int | None = setting(whole_number(1, 10**12, "; leave it out for no limit"))
    tokens_per_minute: int | None = setting(whole_number(1, 10**12, "; leave it out for no limit"))
    tokens_per_day: int | None = setting(whole_number(1, 10**15, "; leave it out for no limit"))
    max_sessions: int | None = setting(whole_number(1, 1_000_000, "; leave it out for no limit"))
    expires: float | None = setting(read_moment)
    admin: bool = setting(read_boolean, False)
    team: str | None = setting(read_text)
    weight: int = setting(whole_number(1, 1000), 1)
    metadata: Mapping[str, str] = setting(read_metadata, MappingProxyType({}))


def read_client_key(value: object, place: Place) -> ClientKeyConfig:
    """Return a table of ``[[auth.keys]]``."""
    written = _ClientKeyTable(**values_of(_ClientKeyTable, value, place))
    assert isinstance(value, dict), "no other value gets beyond the line above"
    digest = one_digest(place, value, "a client key", "key", written) or NO_DIGEST
    if written.name and (holder := (place / "name").claim("client key", written.name)):
        (place / "name").problem(f"{show(written.name)} is {holder} already; give each key its own name")
    if digest and (holder := place.claim("digest", digest)):
        place.problem(f"is the same key as {holder}, which leaves open whose limits hold")
    return ClientKeyConfig(
        name=written.name,
        digest=digest,
        models=written.models,
        requests_per_minute=written.requests_per_minute,
        admin=written.admin,
        requests_per_day=written.requests_per_day,
        tokens_per_minute=written.tokens_per_minute,
        tokens_per_day=written.tokens_per_day,
        max_sessions=written.max_sessions,
        expires=written.expires,
        team=written.team,
        weight=written.weight,
        metadata=written.metadata,
    )


@attrs.frozen(kw_only=True)
class AuthConfig:
    """Who may use the gateway.  ``mode_written`` says whether the file chose the mode itself."""

    mode: AuthMode = setting(one_of("off", "strict", "all_except_health", "auto"), "auto")
    resources: Sharing = setting(one_of("shared", "team", "key"), "shared")
    keys: tuple[ClientKeyConfig, ...] = setting(
        array_of_tables(read_client_key), (), inside=_ClientKeyTable, several=True
    )
    mode_written: bool = False


def read_auth(value: object, place: Place) -> AuthConfig:
    """Return the table ``[auth]``.  A key whose variable is missing or unusable is left out: it lets nobody in."""
    values = values_of(AuthConfig, value, place)
    if "keys" in values:
        values["keys"] = tuple(key for key in values["keys"] if key.digest != NO_DIGEST)
    return AuthConfig(**values, mode_written="mode" in values)
