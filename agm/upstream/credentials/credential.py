"""
Credentials of accounts: what goes into the authentication headers of an upstream request, always fresh.

An API key and a fixed access token are what they are.  Everything else is google-auth's
(:mod:`agm.upstream.credentials.google`), which is not imported before there is an account that needs it.  Nothing here
blocks the reactor, and no secret gets into an error, a log or a repr.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol, TypeGuard

import attrs

Headers = Sequence[tuple[bytes, bytes]]


class CredentialError(Exception):
    """
    There is no credential for a request.

    `reason` is a sentence for people, without a secret in it; `permanent` says that a person must act before it can be
    any better.  The status that a client gets is the caller's.
    """

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


class Credential(Protocol):
    """What authenticates an account's requests.  All of it is for the reactor's thread."""

    @property
    def kind(self) -> str:
        """``api-key``, ``access-token``, ``google`` or ``headers``; ``none`` where there is none."""

    async def headers(self) -> Headers:
        """
        Return the authentication headers of one upstream request, in lower case, fresh.

        :raises CredentialError: if there are none.
        """

    def mark_rejected(self, headers: Headers | None = None) -> None:
        """
        Say that the upstream answered 401: the next call of :meth:`headers` must refresh first.

        :param headers: what it was answered to; what :meth:`headers` gave last if not told.
        """

    @property
    def refreshable(self) -> bool:
        """Whether a refresh could help after a 401."""

    @property
    def project(self) -> str | None:
        """The project that the credential itself names, if any is known."""


@attrs.frozen(eq=False, slots=False)
class ApiKey:
    """An API key of the Gemini Developer API, or of Vertex AI in express mode."""

    _key: str = attrs.field(repr=False)
    kind: str = attrs.field(default="api-key", init=False)
    refreshable: bool = attrs.field(default=False, init=False, repr=False)
    project: str | None = attrs.field(default=None, init=False, repr=False)

    async def headers(self) -> Headers:
        """``x-goog-api-key``."""
        return self._headers

    @cached_property
    def _headers(self) -> Headers:
        return ((b"x-goog-api-key", header_value(self._key, "the API key")),)

    def mark_rejected(self, headers: Headers | None = None) -> None:
        """Nothing can be refreshed."""


@attrs.frozen(eq=False, slots=False)
class StaticToken:
    """An access token from elsewhere: it is used as it is, for as long as the upstream takes it."""

    _token: str = attrs.field(repr=False)
    kind: str = attrs.field(default="access-token", init=False)
    refreshable: bool = attrs.field(default=False, init=False, repr=False)
    project: str | None = attrs.field(default=None, init=False, repr=False)

    async def headers(self) -> Headers:
        """``authorization``."""
        return self._headers

    @cached_property
    def _headers(self) -> Headers:
        return ((b"authorization", b"Bearer " + header_value(self._token, "the access token")),)

    def mark_rejected(self, headers: Headers | None = None) -> None:
        """Nothing can be refreshed."""


@attrs.frozen(eq=False)
class KeyHeaders:
    """A key of an upstream that is not Google's, in the headers in which that takes it; none where it asks for none."""

    _given: Mapping[str, str] = attrs.field(repr=False)
    kind: str = attrs.field(default="headers", init=False)
    refreshable: bool = attrs.field(default=False, init=False, repr=False)
    project: str | None = attrs.field(default=None, init=False, repr=False)

    @property
    def names(self) -> Sequence[str]:
        """The names of the headers."""
        return tuple(self._given)

    async def headers(self) -> Headers:
        """
        Return what the kind of the account has made of its key.

        :raises CredentialError: if a header cannot hold it.
        """
        return tuple((name.lower().encode("ascii"), _words(value)) for name, value in self._given.items())

    def mark_rejected(self, headers: Headers | None = None) -> None:
        """Nothing can be refreshed."""


def _words(value: str) -> bytes:
    return b" ".join(header_value(word, "the key") for word in value.split(" "))


@attrs.frozen(eq=False)
class NoCredential:
    """What stands in the place of a credential whose secret is missing or unusable; `reason` says why."""

    reason: str
    kind: str = attrs.field(default="none", init=False)
    refreshable: bool = attrs.field(default=False, init=False, repr=False)
    project: str | None = attrs.field(default=None, init=False, repr=False)

    async def headers(self) -> Headers:
        """:raises CredentialError: always."""
        raise CredentialError(self.reason, permanent=True)

    def mark_rejected(self, headers: Headers | None = None) -> None:
        """Nothing can be refreshed."""


def header_value(text: str, what: str) -> bytes:
    """
    A secret as it goes into a header.

    :raises CredentialError: if it cannot; `what` says to people what it is.
    """
    if not is_header_value(text):
        raise CredentialError(f"{what} is empty or holds a character that cannot be in a header", permanent=True)
    return text.encode("ascii")


def is_header_value(text: object) -> TypeGuard[str]:
    """Return whether a value can go into a header."""
    # RFC 9110's field content without white space: nothing in it can end a header.
    return isinstance(text, str) and re.fullmatch(r"[!-~]+", text) is not None


class Refreshed:
    """
    The base of credentials that tell their :class:`~agm.upstream.credentials.refresher.Refresher` each of their
    secrets, as soon as it is known.
    """
