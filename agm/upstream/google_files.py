"""
Credentials files as Google's tools write them, and what is wrong with one that cannot be used.

A file is read and judged; nothing is asked of Google.  What is in it appears in no error.  Reading blocks, and belongs
into a thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from google.auth import (
    aws,
    external_account,
    external_account_authorized_user,
    identity_pool,
    impersonated_credentials,
    pluggable,
)
from google.auth.credentials import Credentials as GoogleCredentials
from google.oauth2 import credentials as authorized_user
from google.oauth2 import service_account

from agm.upstream.credentials import CredentialError

#: Bytes of a credentials file that are read at most.
MAX_FILE = 1024 * 1024


def from_file(path: Path, scopes: Sequence[str], override: Mapping[str, str]) -> GoogleCredentials:
    """
    The credentials that a file holds.

    :param scopes: what a service account asks for.
    :param override: keys that are to have other values than in the file.
    :raises CredentialError: if it holds none; the reason names the file, without its folder, and the cure.
    """
    what = f"the credentials file {path.name!r}"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise CredentialError(f"{what} does not exist", permanent=True) from None
    except (PermissionError, IsADirectoryError, ValueError) as e:
        raise CredentialError(f"{what} cannot be read ({type(e).__name__})", permanent=True) from None
    except OSError as e:
        raise CredentialError(f"{what} cannot be read: {e.strerror}") from None
    try:
        info = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        info = None
    if info is None:
        raise CredentialError(f"{what} is not a JSON object", permanent=True)
    return _from_info({**info, **override}, what, scopes)


def _from_info(info: Mapping[str, Any], what: str, scopes: Sequence[str]) -> GoogleCredentials:
    kind = info.get("type")
    known = _TYPES.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise CredentialError(f"{what} {_not_a_credential(info)}", permanent=True)
    build, needed = known
    missing = [name for name in needed if not info.get(name)]
    if missing:
        raise CredentialError(f"{what} is of type {kind}, but lacks {_listed(missing)}", permanent=True)
    for name in _URLS:
        if info.get(name) and not _is_confidential(info[name]):
            raise CredentialError(
                f"{what} has a {name} that would send secrets in the clear; it must be an https URL"
                " (plain http is for loopback hosts only)",
                permanent=True,
            )
    try:
        return build(info, scopes)
    except CredentialError as e:
        raise CredentialError(f"{what} {e.reason}", permanent=e.permanent) from None
    except Exception as e:
        # the parsers' own messages may quote what they could not parse
        failure = type(e).__name__
    raise CredentialError(f"{what} is not a valid file of type {kind} ({failure})", permanent=True)


def _not_a_credential(info: Mapping[str, Any]) -> str:
    if "type" in info:
        return f"is of a type that is not supported; supported are {_listed(sorted(_TYPES))}"
    if "refresh_token" in info or "access_token" in info:
        missing = [name for name in ("type", "client_id", "client_secret", "refresh_token") if name not in info]
        return (
            f"lacks {_listed(missing)}: it looks like the token store of a command line tool (oauth_creds.json)."
            ' Add "type": "authorized_user" and the client_id and client_secret of the OAuth client that the tool'
            " signed in with, or sign in anew with: gcloud auth application-default login"
        )
    if "installed" in info or "web" in info:
        return (
            "describes an OAuth client, not somebody's credential; sign in with it:"
            " gcloud auth application-default login --client-id-file=FILE"
        )
    return 'lacks "type"; make one with: gcloud auth application-default login'


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


#: Where secrets are sent to.
_URLS = ("token_uri", "token_url", "service_account_impersonation_url")


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


def _authorized_user(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    # google-auth's own constructor from a file overrides the token_uri, and its copies forget the expiry
    parsed = authorized_user.Credentials.from_authorized_user_info(info)
    return authorized_user.Credentials(
        token=parsed.token,
        expiry=parsed.expiry,
        refresh_token=parsed.refresh_token,
        token_uri=info.get("token_uri") or parsed.token_uri,
        client_id=parsed.client_id,
        client_secret=parsed.client_secret,
        scopes=parsed.scopes,
        quota_project_id=parsed.quota_project_id,
        rapt_token=parsed.rapt_token,
        universe_domain=parsed.universe_domain,
        account=parsed.account,
    )


def _service_account(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    return service_account.Credentials.from_service_account_info(
        info, scopes=list(scopes), quota_project_id=info.get("quota_project_id")
    )


def _external_account(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    source = info["credential_source"]
    if "certificate" in source:
        raise CredentialError("is bound to a client certificate, which is not supported", permanent=True)
    build: type[external_account.Credentials] = identity_pool.Credentials
    if info["subject_token_type"] == "urn:ietf:params:aws:token-type:aws4_request":  # noqa: S105  # a type, no token
        build = aws.Credentials
    elif "executable" in source:
        build = pluggable.Credentials
    return build.from_info(info, scopes=list(scopes))


def _external_account_authorized_user(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    return external_account_authorized_user.Credentials.from_info(info)


def _impersonated(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    source = info["source_credentials"]
    if source.get("type") == "impersonated_service_account":
        raise CredentialError(
            "has a source of its own type; name the service accounts between as delegates", permanent=True
        )
    url = info["service_account_impersonation_url"]
    principal = re.search(r"/([^/:]+):generateAccessToken$", url)
    if principal is None:
        raise CredentialError("names no service account in its service_account_impersonation_url", permanent=True)
    return impersonated_credentials.Credentials(
        source_credentials=_from_info(source, "has a source that", scopes),
        target_principal=principal[1],
        target_scopes=list(scopes),
        delegates=info.get("delegates"),
        quota_project_id=info.get("quota_project_id"),
        # the URL as it stands: it may be a regional one
        iam_endpoint_override=url,
    )


#: By type: what makes the credentials, and the keys that it cannot do without.
_TYPES: Mapping[str, tuple[Callable[[Mapping[str, Any], Sequence[str]], GoogleCredentials], Sequence[str]]] = {
    "authorized_user": (_authorized_user, ("refresh_token", "client_id", "client_secret")),
    "service_account": (_service_account, ("client_email", "private_key", "token_uri")),
    "external_account": (
        _external_account,
        ("audience", "subject_token_type", "token_url", "credential_source"),
    ),
    "external_account_authorized_user": (_external_account_authorized_user, ()),
    "impersonated_service_account": (
        _impersonated,
        ("source_credentials", "service_account_impersonation_url"),
    ),
}
