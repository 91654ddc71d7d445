"""The OAuth endpoints."""

from __future__ import annotations

import base64
import json
import urllib.parse
from typing import Any

import pytest

from agm.emulator.oauth import challenge_of
from tests.emulator.dialogue import Answered, Dialogue

REDIRECT = "http://127.0.0.1:5000/callback?x=1"
REFRESH = {"grant_type": "refresh_token", "client_id": "c", "client_secret": "s", "refresh_token": "alice"}


def form(emu: Dialogue, path: str = "/token", /, **fields: str) -> Answered:
    return emu.ask("POST", path, urllib.parse.urlencode(fields).encode(), {})


def refusal(answered: Answered) -> tuple[int, str, str]:
    return answered.status, answered.json["error"], answered.json["error_description"]


def whose(emu: Dialogue, token: str) -> tuple[int, str | None]:
    answered = emu.model("vertex", "m", headers={"authorization": f"Bearer {token}"})
    return answered.status, answered.entry.account


# -- refresh tokens


@pytest.mark.parametrize("path", ["/token", "/oauth2/v4/token", "/o/oauth2/token"])
def test_a_refresh_token_gets_an_access_token(emu: Dialogue, path: str) -> None:
    """Of the account that it names, for an hour."""
    answered = form(emu, path, **REFRESH)
    assert answered.status == 200
    assert answered.json["access_token"] == "ya29.emu-alice-1"
    assert (answered.json["expires_in"], answered.json["token_type"]) == (3600, "Bearer")
    assert "https://www.googleapis.com/auth/cloud-platform" in answered.json["scope"]
    assert "no-store" in (answered.header("cache-control") or "")
    assert (answered.entry.rpc, answered.entry.account) == ("token", "alice")
    assert whose(emu, answered.json["access_token"]) == (200, "alice")


def test_a_declared_refresh_token_is_its_accounts(emu: Dialogue) -> None:
    """With the life that was declared."""
    emu.control("accounts", {"name": "work", "credentials": ["alice"], "expires_in": 5})
    answered = form(emu, **REFRESH).json
    assert (answered["access_token"], answered["expires_in"]) == ("ya29.emu-work-1", 5)
    emu.control("clock", {"advance": 6})
    assert whose(emu, answered["access_token"])[0] == 401


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"refresh_token": "revoked-1"}, (400, "invalid_grant", "Token has been expired or revoked.")),
        ({"client_id": "revoked"}, (400, "invalid_grant", "Token has been expired or revoked.")),
        ({"refresh_token": ""}, (400, "invalid_request", "Missing required parameter: refresh_token")),
        ({"client_id": ""}, (400, "invalid_request", "Could not determine client ID from request.")),
        ({"client_id": "invalid-c"}, (401, "invalid_client", "The OAuth client was not found.")),
        ({"grant_type": "magic"}, (400, "unsupported_grant_type", "Invalid grant_type: magic")),
        ({"grant_type": ""}, (400, "unsupported_grant_type", "Invalid grant_type: ")),
    ],
)
def test_bad_refreshes_are_refused(emu: Dialogue, changes: dict[str, str], refused: Any) -> None:
    """In OAuth's form."""
    assert refusal(form(emu, **{**REFRESH, **changes})) == refused


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503, 504])
def test_a_token_endpoint_that_fails(emu: Dialogue, status: int) -> None:
    """As control says."""
    emu.control("accounts", {"name": "alice", "credentials": ["alice"], "token_status": status})
    answered = form(emu, **REFRESH)
    assert answered.status == status
    assert set(answered.json) == {"error", "error_description"}


def test_a_token_endpoint_that_is_slow(emu: Dialogue) -> None:
    """As control says."""
    emu.control("accounts", {"name": "alice", "credentials": ["alice"], "token_latency_ms": 1500})
    answered = form(emu, **REFRESH)
    assert answered.waits == [1.5]
    assert answered.json["access_token"]


# -- authorization codes


def authorize(emu: Dialogue, **changes: str | None) -> Answered:
    query = {
        "client_id": "c",
        "redirect_uri": REDIRECT,
        "response_type": "code",
        "state": "st/ate",
        "login_hint": "ada@example.com",
        "code_challenge": challenge_of("verifier", "S256"),
        "code_challenge_method": "S256",
        **changes,
    }
    # Dialogue does not decode queries, and needs no encoding.
    return emu.ask(
        "GET", "/o/oauth2/v2/auth?" + "&".join(f"{k}={v}" for k, v in query.items() if v is not None), b"", {}
    )


def sent_back(answered: Answered) -> dict[str, str]:
    assert answered.status == 302
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(answered.header("location") or "").query))


def exchange(emu: Dialogue, code: str, **changes: str) -> Answered:
    redirect = changes.pop("redirect_uri", REDIRECT)
    fields = {"grant_type": "authorization_code", "code": code, "client_id": "c", "code_verifier": "verifier"}
    return form(emu, **{**fields, "redirect_uri": redirect, **changes})


def test_a_person_agrees_at_once_and_the_code_becomes_tokens(emu: Dialogue) -> None:
    """PKCE is checked; the refresh token works."""
    back = sent_back(authorize(emu))
    assert (back["state"], back["x"]) == ("st/ate", "1")
    granted = exchange(emu, back["code"])
    assert granted.json["access_token"] == "ya29.emu-ada-1"
    again = form(emu, **{**REFRESH, "refresh_token": granted.json["refresh_token"]})
    assert whose(emu, again.json["access_token"]) == (200, "ada")


def test_a_code_works_once_and_not_for_long(emu: Dialogue) -> None:
    """Ten minutes."""
    code = sent_back(authorize(emu))["code"]
    assert exchange(emu, code).status == 200
    assert refusal(exchange(emu, code)) == (400, "invalid_grant", "Malformed auth code.")
    code = sent_back(authorize(emu))["code"]
    emu.control("clock", {"advance": 601})
    assert refusal(exchange(emu, code)) == (400, "invalid_grant", "Malformed auth code.")


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"code_verifier": "other"}, (400, "invalid_grant", "Invalid code verifier.")),
        ({"code_verifier": ""}, (400, "invalid_grant", "Missing code verifier.")),
        ({"client_id": "d"}, (401, "invalid_client", "The OAuth client was not found.")),
        ({"redirect_uri": "http://127.0.0.1/"}, (400, "redirect_uri_mismatch", "Bad Request")),
    ],
)
def test_a_code_belongs_to_its_client_redirect_and_verifier(emu: Dialogue, changes: Any, refused: Any) -> None:
    """Each is checked."""
    assert refusal(exchange(emu, sent_back(authorize(emu))["code"], **changes)) == refused


def test_without_a_challenge_there_is_nothing_to_verify(emu: Dialogue) -> None:
    """And without a hint the account is ``person``, without a state none comes back."""
    back = sent_back(authorize(emu, code_challenge=None, code_challenge_method=None, login_hint=None, state=None))
    assert "state" not in back
    assert exchange(emu, back["code"], code_verifier="").json["access_token"] == "ya29.emu-person-1"


def test_a_plain_challenge_is_its_verifier() -> None:
    """RFC 7636 has both."""
    assert challenge_of("v", "plain") == "v"
    assert challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "S256") == (
        "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": "http://evil.example/"},
        {"redirect_uri": None},
        {"client_id": None},
        {"response_type": "token"},
        {"code_challenge_method": "S512"},
    ],
)
def test_bad_authorizations_are_refused(emu: Dialogue, changes: Any) -> None:
    """Nobody is redirected off the machine."""
    assert authorize(emu, **changes).status == 400


# -- service accounts


def jwt(**claims: Any) -> str:
    def part(document: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    now = 1_000_000
    usual = {"iss": "robot@p.iam", "iat": now, "exp": now + 3600, "scope": "x"}
    used = {key: value for key, value in {**usual, **claims}.items() if value is not None}
    return f"{part({'alg': 'RS256'})}.{part(used)}.c2ln"


def assert_jwt(emu: Dialogue, assertion: str) -> Answered:
    return form(emu, grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer", assertion=assertion)


def test_a_service_account_gets_a_token(emu: Dialogue) -> None:
    """The issuer names the account."""
    granted = assert_jwt(emu, jwt())
    assert granted.json["access_token"] == "ya29.emu-robot@p.iam-1"
    assert whose(emu, granted.json["access_token"]) == (200, "robot@p.iam")


def test_an_audience_gets_an_id_token(emu: Dialogue) -> None:
    """And nothing else."""
    granted = assert_jwt(emu, jwt(target_audience="https://a", scope=None)).json
    assert list(granted) == ["id_token"]
    payload = granted["id_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (claims["aud"], claims["email"]) == ("https://a", "robot@p.iam")


@pytest.mark.parametrize(
    ("assertion", "said"),
    [
        ("", "Invalid JWT Signature."),
        ("a.b.c", "Invalid JWT Signature."),
        ("a.WzFd.c", "Invalid JWT Signature."),
        (jwt(iss=None), "Invalid JWT: iss field missing."),
        (jwt(iss="revoked@p"), "Invalid grant: account not found"),
        (jwt(exp=999_999), "Invalid JWT: Token must be a short-lived token"),
        (jwt(iat=1_000_400), "Invalid JWT: Token must be a short-lived token"),
        (jwt(exp=1_009_999), "Invalid JWT: Token must be a short-lived token"),
        (jwt(iat="now"), "Invalid JWT: Token must be a short-lived token"),
        (jwt(exp=None), "Invalid JWT: Token must be a short-lived token"),
        (jwt(scope=""), "Empty or missing scope not allowed."),
    ],
)
def test_bad_assertions_are_refused(emu: Dialogue, assertion: str, said: str) -> None:
    """In Google's words."""
    status, _, description = refusal(assert_jwt(emu, assertion))
    assert status == 400
    assert description.startswith(said)


# -- the rest


def test_a_token_knows_its_person(emu: Dialogue) -> None:
    """An address that is one stays; others get a domain."""

    def info(token: str | None) -> Answered:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return emu.ask("GET", "/oauth2/v3/userinfo", b"", headers)

    assert info("ya29.emu-ada-1").json["email"] == "ada@example.com"
    assert info("ada@example.org").json["email"] == "ada@example.org"
    for bad in (None, "expired", "invalid"):
        assert info(bad).status == 401


def test_revocation(emu: Dialogue) -> None:
    """Of an access token, or of a refresh token with everything that came of it."""
    refresh = exchange(emu, sent_back(authorize(emu))["code"]).json["refresh_token"]
    token = form(emu, **{**REFRESH, "refresh_token": refresh}).json["access_token"]
    assert form(emu, "/revoke", token=refresh).status == 200
    assert whose(emu, token)[0] == 401
    assert refusal(form(emu, **{**REFRESH, "refresh_token": refresh}))[1] == "invalid_grant"
    assert emu.ask("POST", "/revoke?token=alice", b"", {}).status == 200
    assert whose(emu, "alice")[0] == 401
    assert form(emu, "/revoke").status == 400


@pytest.mark.parametrize(("method", "path"), [("GET", "/token"), ("POST", "/o/oauth2/auth"), ("DELETE", "/revoke")])
def test_what_does_not_exist_is_googles_page(emu: Dialogue, method: str, path: str) -> None:
    """HTML."""
    assert emu.ask(method, path).status == 404
