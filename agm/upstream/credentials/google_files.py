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

from agm.core.logins import MAX_FILE, login_in, why_unusable
from agm.upstream.credentials.credential import CredentialError


def from_file(path: Path, scopes: Sequence[str], override: Mapping[str, str]) -> GoogleCredentials:
    """
    Return the credentials that a file holds.

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
    info = login_in(content)
    if info is None:
        raise CredentialError(f"{what} is not a JSON object", permanent=True)
    return _from_info({**info, **override}, what, scopes)


def _from_info(info: Mapping[str, Any], what: str, scopes: Sequence[str]) -> GoogleCredentials:
    if why := why_unusable(info):
        raise CredentialError(f"{what} {why}", permanent=True)
    kind = info["type"]
    build = _TYPES[kind]
    try:
        return build(info, scopes)
    except CredentialError as e:
        raise CredentialError(f"{what} {e.reason}", permanent=e.permanent) from None
    except Exception as e:
        # the parsers' own messages may quote what they could not parse
        failure = type(e).__name__
    raise CredentialError(f"{what} is not a valid file of type {kind} ({failure})", permanent=True)


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


#: By type: what makes the credentials.
_TYPES: Mapping[str, Callable[[Mapping[str, Any], Sequence[str]], GoogleCredentials]] = {
    "authorized_user": _authorized_user,
    "service_account": _service_account,
    "external_account": _external_account,
    "external_account_authorized_user": _external_account_authorized_user,
    "impersonated_service_account": _impersonated,
}
