"""What tests of Google's credentials share: files as Google's tools write them, and what is asked of a credential."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from agm.upstream.credentials.credential import Credential, CredentialError, Headers
from agm.upstream.credentials.google import GoogleCredential
from agm.upstream.credentials.google_default import load_google
from tests.upstream.token_server import CANARY

HOUR = 3600.0

#: Writes the keys of a credentials file, and gives its path.
Write = Callable[..., str]
#: Makes the credential of a file that holds the given keys.
Make = Callable[..., GoogleCredential]


class Time:
    """A clock that stands still until a test sets it; its zero is its own."""

    def __init__(self) -> None:
        self.seconds = 5_000.0

    def __call__(self) -> float:
        return self.seconds


def a_user(url: str, **more: object) -> dict[str, object]:
    """An ``authorized_user``; the canary is in its secrets."""
    return {
        "type": "authorized_user",
        "client_id": "client",
        "client_secret": f"client-{CANARY}",
        "refresh_token": f"refresh-{CANARY}",
        "token_uri": url + "/token",
        **more,
    }


def a_service_account(url: str, private_key: str, **more: object) -> dict[str, object]:
    """A ``service_account``."""
    return {
        "type": "service_account",
        "project_id": "a-project",
        "client_email": "robot@a-project.iam.gserviceaccount.com",
        "private_key": private_key,
        "token_uri": url + "/token",
        **more,
    }


def an_external_account(url: str, subject_token: Path, **more: object) -> dict[str, object]:
    """An ``external_account`` whose subject token is in a file."""
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": url + "/sts",
        "credential_source": {"file": str(subject_token)},
        **more,
    }


def an_impersonation(url: str, source: object, **more: object) -> dict[str, object]:
    """An ``impersonated_service_account``."""
    return {
        "type": "impersonated_service_account",
        "source_credentials": source,
        "service_account_impersonation_url": url + "/v1/projects/-/serviceAccounts/robot@b.c:generateAccessToken",
        **more,
    }


def asking(credential: Credential) -> Deferred[Headers]:
    """A request's way to the headers, under way."""
    return Deferred.fromCoroutine(credential.headers())


def token(headers: Headers) -> str:
    """The token in headers that hold nothing else, without what is the same in all of them."""
    ((name, value),) = headers
    assert name == b"authorization"
    return value.decode("ascii").removeprefix(f"Bearer ya29.{CANARY}-")


async def refusal(credential: Credential) -> CredentialError:
    """The error in place of headers."""
    with pytest.raises(CredentialError) as caught:
        await credential.headers()
    return caught.value


def loaded(credentials: str = "adc", **options: Any) -> Any:
    """The credentials, of whatever class."""
    return load_google(credentials, **options)


def load_refusal(path: str) -> CredentialError:
    """The error in place of credentials."""
    with pytest.raises(CredentialError) as caught:
        load_google(path)
    return caught.value
