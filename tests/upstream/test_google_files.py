"""Credentials files: what each type gives, and what is said about one that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.auth import aws, pluggable

from agm.upstream.credentials.google_default import CLOUD_PLATFORM, load_google
from tests.upstream.google_credentials import (
    Write,
    a_service_account,
    a_user,
    an_external_account,
    an_impersonation,
    load_refusal,
    loaded,
)
from tests.upstream.token_server import CANARY


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (
            {"access_token": CANARY, "refresh_token": CANARY, "scope": "a", "token_type": "Bearer", "expiry_date": 1},
            "lacks type, client_id and client_secret: it looks like the token store of a command line tool"
            ' (oauth_creds.json). Add "type": "authorized_user" and the client_id and client_secret of the OAuth client'
            " that the tool signed in with, or sign in anew with: gcloud auth application-default login",
        ),
        (
            {"installed": {"client_id": "a", "client_secret": CANARY}},
            "describes an OAuth client, not somebody's credential; sign in with it:"
            " gcloud auth application-default login --client-id-file=FILE",
        ),
        ({}, 'lacks "type"; make one with: gcloud auth application-default login'),
        (
            {"type": "gdch_service_account"},
            "is of a type that is not supported; supported are authorized_user, external_account,"
            " external_account_authorized_user, impersonated_service_account and service_account",
        ),
        ({"type": [CANARY]}, "is of a type that is not supported; supported are"),
        (
            {"type": "authorized_user", "client_id": "a"},
            "is of type authorized_user, but lacks refresh_token and client_secret",
        ),
        ({"type": "external_account"}, "is of type external_account, but lacks audience, subject_token_type,"),
        (a_user("http://a.example"), "has a token_uri that would send secrets in the clear; it must be an https URL"),
        (a_user("ftp://127.0.0.1"), "has a token_uri that would send secrets in the clear"),
        (a_user("http://["), "has a token_uri that would send secrets in the clear"),
        (a_user("http://127.0.0.1.a.example"), "has a token_uri that would send secrets in the clear"),
        (a_user("", token_uri=[1]), "has a token_uri that would send secrets in the clear"),
        (a_user("", token_uri="token"), "has a token_uri that would send secrets in the clear"),
        (a_user("https://a", expiry=CANARY), "is not a valid file of type authorized_user (ValueError)"),
        (
            {"type": "external_account_authorized_user", "client_id": CANARY},
            "is not a valid file of type external_account_authorized_user (InvalidOperation)",
        ),
        (
            an_external_account("https://a", Path("b"), credential_source={"certificate": {}}),
            "is bound to a client certificate, which is not supported",
        ),
        (an_impersonation("https://a", CANARY), "is not a valid file of type impersonated_service_account ("),
        (
            an_impersonation("https://a", a_user("http://b.example")),
            "has a source that has a token_uri that would send secrets in the clear",
        ),
        (
            an_impersonation("https://a", {"type": "impersonated_service_account"}),
            "has a source of its own type; name the service accounts between as delegates",
        ),
        (
            an_impersonation("https://a", a_user("https://b"), service_account_impersonation_url="https://c/d"),
            "names no service account in its service_account_impersonation_url",
        ),
    ],
)
def test_a_file_that_is_no_credential(write: Write, info: dict[str, object], reason: str) -> None:
    """The reason names the file, what is wrong with it, and the cure; never what is in it."""
    error = load_refusal(write("team.json", **info))
    assert error.permanent
    assert error.reason.startswith("the credentials file 'team.json' " + reason)
    assert CANARY not in error.reason


@pytest.mark.parametrize("content", [b"", b"[]", b'"a"', b"{", b"\xff", b"[" * 10_000, b" " * (1024 * 1024 + 1)])
def test_a_file_that_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    """Nor is one that is too long."""
    (tmp_path / "a.json").write_bytes(content)
    error = load_refusal(str(tmp_path / "a.json"))
    assert (error.reason, error.permanent) == ("the credentials file 'a.json' is not a JSON object", True)


def test_a_file_from_another_editor(tmp_path: Path) -> None:
    """A byte order mark is no reason to refuse it."""
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(a_user("https://a")).encode())
    assert load_google(str(tmp_path / "a.json")).token is None


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    """Each is for a person to look at."""
    (tmp_path / "file").touch()
    assert load_refusal(str(tmp_path / "none")).reason == "the credentials file 'none' does not exist"
    assert load_refusal(str(tmp_path / "file" / "a")).reason == "the credentials file 'a' does not exist"
    assert load_refusal(str(tmp_path)).reason.endswith("cannot be read (IsADirectoryError)")
    assert load_refusal("a\0b").reason.endswith("cannot be read (ValueError)")


def test_a_disk_that_fails_may_recover(tmp_path: Path) -> None:
    """A name that is too long stands for whatever else the system says."""
    error = load_refusal(str(tmp_path / ("a" * 300)))
    assert error.reason.endswith("cannot be read: File name too long")
    assert not error.permanent


def test_external_accounts_come_in_three_kinds(write: Write) -> None:
    """A subject token from AWS and one from a program have classes of their own."""
    aws_source = {
        "environment_id": "aws1",
        "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity",
    }
    of_aws = an_external_account(
        "https://a",
        Path("b"),
        subject_token_type="urn:ietf:params:aws:token-type:aws4_request",
        credential_source=aws_source,
    )
    assert isinstance(load_google(write(**of_aws)), aws.Credentials)
    of_program = an_external_account("https://a", Path("b"), credential_source={"executable": {"command": "c"}})
    assert isinstance(load_google(write(**of_program)), pluggable.Credentials)


def test_scopes_are_what_is_asked_for(write: Write, private_key: str) -> None:
    """A service account takes them; a person's credential keeps its own."""
    path = write(**a_service_account("https://a", private_key))
    assert loaded(path, scopes=("s",)).scopes == ["s"]
    assert loaded(path).scopes == [CLOUD_PLATFORM]
    assert loaded(write(**a_user("https://a", scopes="p q")), scopes=("s",)).scopes == ["p", "q"]
