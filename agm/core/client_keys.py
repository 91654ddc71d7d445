"""
Client keys: where a request may carry one, and whether it is known.

A key is compared by its SHA-256 digest, keyed with a secret of the process, and then in constant time, so that the
time of an answer tells nothing about any key and 10,000 keys cost no more than one.  Keys themselves are not kept.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping, Sequence

import attrs

from agm.core.limits import Limits
from agm.core.models import Patterns


def digest(key: str) -> str:
    """Return a key's SHA-256 in hexadecimal, as ``key_sha256`` in the configuration."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


@attrs.frozen
class ClientKey:
    """
    A client key that the gateway accepts.

    `name` is how it is called in logs, `digest` is :func:`digest` of it, `models` the patterns of models it may ask for
    (empty: all), `requests_per_minute` and the like its limits (None: no limit).
    """

    name: str
    digest: str = attrs.field(repr=False)
    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    #: Whether its bearer may ask the gateway about itself, from anywhere.
    admin: bool = False
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    #: How many Live sessions it may have open.
    max_sessions: int | None = None
    #: From when on it is refused, in seconds since the epoch; None for never.
    expires: float | None = None
    #: The team that its bearer belongs to; keys of one team share what they make.
    team: str | None = None
    #: Its share while accounts are short: a key of weight 2 is served twice as often as one of weight 1.
    weight: int = 1
    #: What is known of whoever has it, for plugins: a team, a user.
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    patterns: Patterns = attrs.field(init=False, repr=False, eq=False)
    limits: Limits = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "patterns", Patterns(self.models or ("*",)))
        limits = Limits(self.requests_per_minute, self.requests_per_day, self.tokens_per_minute, self.tokens_per_day)
        object.__setattr__(self, "limits", limits)


class KeyRing:
    """A fixed set of client keys, looked up without a difference in time."""

    def __init__(self, keys: Iterable[ClientKey]) -> None:
        self._pepper = os.urandom(16)
        self._keys = {self._index(key.digest): key for key in keys}

    @classmethod
    def of(cls, keys: Mapping[str, str]) -> KeyRing:
        """Return a ring of keys, by their names."""
        return cls(ClientKey(name, digest(key)) for name, key in keys.items())

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def members(self) -> Sequence[ClientKey]:
        """The keys."""
        return tuple(self._keys.values())

    def named(self, name: str) -> ClientKey | None:
        """Return the key of this name, or None."""
        return next((key for key in self._keys.values() if key.name == name), None)

    def lookup(self, presented: str) -> ClientKey | None:
        """Return the key that was presented, or None if it is not in the ring."""
        wanted = digest(presented)
        key = self._keys.get(self._index(wanted))
        if key is not None and hmac.compare_digest(key.digest, wanted):
            return key
        return None

    def _index(self, digest_: str) -> bytes:
        return hashlib.blake2b(digest_.encode("ascii"), key=self._pepper, digest_size=16).digest()


def presented_keys(headers: Mapping[bytes, bytes], query_key: str | None = None) -> Sequence[str]:
    """
    Return the keys that a request carries, without repeats, in the order in which the places are tried:
    ``Authorization: Bearer``, ``x-api-key``, ``x-goog-api-key``, ``?key=``.

    :param headers: the first value of each header, by its name in lower case.
    """
    found: list[str] = []
    if b"authorization" in headers:
        scheme, _, token = headers[b"authorization"].decode("latin-1").strip().partition(" ")
        if scheme.lower() == "bearer":
            found.append(token.strip())
    for name in (b"x-api-key", b"x-goog-api-key"):
        if name in headers:
            found.append(headers[name].decode("latin-1").strip())
    if query_key is not None:
        found.append(query_key.strip())
    if len(found) == 1 and found[0]:
        return found
    return list(dict.fromkeys(filter(None, found)))
