"""What is said of a credentials file, and what tells one credential from another."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agm.core.logins import MAX_FILE, digest_of, login_in, why_unusable

USER: dict[str, Any] = {
    "type": "authorized_user",
    "client_id": "canary-id",
    "client_secret": "canary-secret",
    "refresh_token": "canary-token",
}


def written(**keys: Any) -> bytes:
    return json.dumps({**USER, **keys}).encode()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 9999, b" " * MAX_FILE + b"{}"])
def test_what_is_no_object_is_none(content: bytes) -> None:
    assert login_in(content) is None


def test_a_mark_at_the_beginning_does_no_harm() -> None:
    content = b"\xef\xbb\xbf" + written()
    assert login_in(content) == USER
    assert digest_of(content) == digest_of(written())


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({}, None),
        ({"token_uri": "https://oauth2.googleapis.com/token"}, None),
        ({"token_uri": "http://127.0.0.1:1/token"}, None),
        ({"token_uri": "http://example.net/token"}, "has a token_uri that would send secrets in the clear"),
        ({"type": "canary"}, "is of a type that is not supported; supported are authorized_user, external_account"),
        ({"type": None}, "is of a type that is not supported"),
        ({"refresh_token": ""}, "is of type authorized_user, but lacks refresh_token"),
        (
            {"type": "service_account", "refresh_token": None},
            "is of type service_account, but lacks client_email, private_key and token_uri",
        ),
    ],
)
def test_what_is_wrong_is_said_without_what_is_in_it(keys: dict[str, Any], why: str | None) -> None:
    found = why_unusable({**USER, **keys})
    assert (found is None) is (why is None)
    assert found is None or (found.startswith(str(why)) and "canary" not in found)


@pytest.mark.parametrize(
    ("login", "why"),
    [
        (
            {"access_token": "canary", "expiry_date": 1},
            "lacks type, client_id, client_secret and refresh_token: it looks",
        ),
        ({"installed": {"client_id": "canary"}}, "describes an OAuth client, not somebody's credential"),
        ({"web": {}}, "describes an OAuth client"),
        ({}, 'lacks "type"; make one with'),
    ],
)
def test_what_it_is_instead_is_said(login: dict[str, Any], why: str) -> None:
    assert str(why_unusable(login)).startswith(why)


def test_a_token_that_was_renewed_is_the_same_credential_and_a_login_is_another() -> None:
    """Some programs write each of their tokens back into the file, in any order."""
    one = digest_of(written())
    renewed = {
        "token": "canary-2",
        "expiry": "2030-01-01T00:00:00Z",
        "access_token": "x",
        "expiry_date": 1,
        "id_token": "",
    }
    assert digest_of(written(**renewed)) == one
    assert digest_of(json.dumps(dict(reversed(USER.items()))).encode()) == one
    for keys in ({"refresh_token": "canary-3"}, {"client_id": "other"}, {"quota_project_id": "p"}, {"more": [1]}):
        assert digest_of(written(**keys)) != one
    assert "canary" not in one
    assert digest_of(b'{"a":"bc"}') != digest_of(b'{"ab":"c"}')
    assert digest_of(b'{"number":' + b"9" * 400 + b"}") != one
