"""
Credentials files as Google's tools write them: what can be said of one without asking anybody, and what helps.

Text in, a sentence out.  What is in a file appears in none; making credentials of it is
:mod:`agm.upstream.credentials.google_files`'s.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

__all__ = ["MAX_FILE", "digest_of", "login_in", "why_unusable"]

#: Bytes of a credentials file that are read at most.
MAX_FILE = 1024 * 1024

#: The keys that a file cannot do without, by its type.
_NEEDED: Mapping[str, Sequence[str]] = {
    "authorized_user": ("refresh_token", "client_id", "client_secret"),
    "service_account": ("client_email", "private_key", "token_uri"),
    "external_account": ("audience", "subject_token_type", "token_url", "credential_source"),
    "external_account_authorized_user": (),
    "impersonated_service_account": ("source_credentials", "service_account_impersonation_url"),
}
#: Where secrets are sent to.
_URLS = ("token_uri", "token_url", "service_account_impersonation_url")
#: What a program writes back into the file each time that it renews a token: the credential stays the same.
_PASSING = frozenset({"access_token", "expires_at", "expires_in", "expiry", "expiry_date", "id_token", "token"})


def login_in(content: bytes) -> dict[str, Any] | None:
    """Return the JSON object that a file holds; None if it holds something else."""
    if len(content) > MAX_FILE:
        return None
    try:
        return msgspec.json.decode(_plain(content), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _plain(content: bytes) -> bytes:
    return content.removeprefix(b"\xef\xbb\xbf")  # which Windows' editors write


def digest_of(content: bytes) -> str:
    """
    Return what tells the credential in a file from another, for one that holds a JSON object.

    A token that was only renewed changes nothing.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"agm login")
    for name, value in sorted(msgspec.json.decode(_plain(content), type=dict[str, msgspec.Raw]).items()):
        if name not in _PASSING:
            digest.update(msgspec.json.encode([name, value]))
    return digest.hexdigest()


def why_unusable(login: Mapping[str, Any]) -> str | None:
    """Say of a file why nothing can be made of what it holds; None if something may be."""
    kind = login.get("type")
    needed = _NEEDED.get(kind) if isinstance(kind, str) else None
    if needed is None:
        return _not_a_credential(login)
    missing = [name for name in needed if not login.get(name)]
    if missing:
        return f"is of type {kind}, but lacks {_listed(missing)}"
    for name in _URLS:
        if login.get(name) and not _is_confidential(login[name]):
            return (
                f"has a {name} that would send secrets in the clear; it must be an https URL"
                " (plain http is for loopback hosts only)"
            )
    return None


def _not_a_credential(login: Mapping[str, Any]) -> str:
    if "type" in login:
        return f"is of a type that is not supported; supported are {_listed(sorted(_NEEDED))}"
    if "refresh_token" in login or "access_token" in login:
        missing = [name for name in ("type", "client_id", "client_secret", "refresh_token") if name not in login]
        return (
            f"lacks {_listed(missing)}: it looks like the token store of a command line tool (oauth_creds.json)."
            ' Add "type": "authorized_user" and the client_id and client_secret of the OAuth client that the tool'
            " signed in with, or sign in anew with: gcloud auth application-default login"
        )
    if "installed" in login or "web" in login:
        return (
            "describes an OAuth client, not somebody's credential; sign in with it:"
            " gcloud auth application-default login --client-id-file=FILE"
        )
    return 'lacks "type"; make one with: gcloud auth application-default login'


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def _is_confidential(url: object) -> bool:
    try:
        split = urlsplit(url) if isinstance(url, str) else None
        host = split.hostname if split is not None else None
    except ValueError:
        return False
    if split is None or not host:
        return False
    loopback = host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None
    return split.scheme == "https" or (split.scheme == "http" and loopback)
