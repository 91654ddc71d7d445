"""The authorization-code flow without its input and output: what is asked, and what the answers mean."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.oauth import (
    CLOUD_PLATFORM,
    GOOGLE_AUTH_URI,
    GOOGLE_TOKEN_URI,
    Authorization,
    ForeignState,
    Grant,
    OAuthClient,
    SignInFailed,
    is_confidential,
    read_client,
    read_grant,
)

CLIENT = OAuthClient("id.apps", "canary-secret")
# The verifier and the challenge of RFC 7636, appendix B.
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
QUESTION = Authorization(CLIENT, "the-state", VERIFIER, "http://127.0.0.1:5000/")


def installed(**client: Any) -> bytes:
    return json.dumps({"installed": client}).encode()


def test_a_desktop_client_is_read() -> None:
    """With its addresses, or with Google's where it names none."""
    found = read_client(installed(client_id="i", client_secret="s", redirect_uris=["http://localhost"]))
    assert found == OAuthClient("i", "s", GOOGLE_AUTH_URI, GOOGLE_TOKEN_URI)
    found = read_client(installed(client_id="i", client_secret="s", auth_uri="https://a", token_uri="https://t"))
    assert (found.auth_uri, found.token_uri) == ("https://a", "https://t")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{}", 'no "installed" client'),
        (b'{"web": {"client_id": "i"}}', "type Web application"),
        (b'{"type": "authorized_user"}', 'no "installed" client'),
        (installed(client_id="i"), "without client_secret"),
        (installed(client_id=5, client_secret=""), "without client_id and client_secret"),
    ],
)
def test_a_file_that_is_no_desktop_client_is_refused_with_the_cure(content: bytes, words: str) -> None:
    """People have several JSON files of Google's."""
    with pytest.raises(SignInFailed, match=words):
        read_client(content)


def test_the_question_has_all_that_an_installed_app_asks() -> None:
    """PKCE's hash and not the verifier, the state, and that the access is to last."""
    split = urlsplit(QUESTION.url)
    assert f"{split.scheme}://{split.netloc}{split.path}" == GOOGLE_AUTH_URI
    asked = {name: value for name, (value,) in parse_qs(split.query).items()}
    scopes = asked.pop("scope").split()
    assert scopes[0] == CLOUD_PLATFORM
    assert asked == {
        "client_id": "id.apps",
        "redirect_uri": "http://127.0.0.1:5000/",
        "response_type": "code",
        "state": "the-state",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "access_type": "offline",
        "prompt": "consent",
    }
    assert VERIFIER not in QUESTION.url
    assert "canary" not in QUESTION.url + repr(QUESTION)


def test_the_code_is_turned_in_with_the_verifier() -> None:
    """And with the redirect that it was given for."""
    form = {name: value for name, (value,) in parse_qs(QUESTION.token_request("4/code").decode()).items()}
    assert form == {
        "grant_type": "authorization_code",
        "code": "4/code",
        "redirect_uri": "http://127.0.0.1:5000/",
        "client_id": "id.apps",
        "client_secret": "canary-secret",
        "code_verifier": VERIFIER,
    }


@pytest.mark.parametrize(
    "pasted",
    [
        "http://127.0.0.1:5000/?state=the-state&code=4%2F0Ab-c&scope=x",
        "  http://127.0.0.1:5000/?code=4/0Ab-c&state=the-state#\n",
        "?code=4%2F0Ab-c&state=the-state",
        "4%2F0Ab-c\n",
        "4/0Ab-c",
    ],
)
def test_a_pasted_address_or_code_is_understood(pasted: str) -> None:
    """However much of it a person copied."""
    assert QUESTION.code_in(pasted) == "4/0Ab-c"


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        ("code=c", ForeignState, "belongs to another sign-in"),
        ("code=c&state=", ForeignState, "belongs to another sign-in"),
        ("code=c&state=the-stat%C3%A9", ForeignState, "belongs to another sign-in"),
        ("error=access_denied&state=other", ForeignState, "belongs to another sign-in"),
        ("code=a&code=b&state=the-state", ForeignState, "twice"),
        ("error=access_denied&state=the-state", SignInFailed, "access was denied in the browser"),
        ("error=admin_policy_enforced&state=the-state", SignInFailed, "administrator"),
        ("error=odd_one&state=the-state", SignInFailed, r"refused \(odd_one\): start again"),
        ("error=%3Cscript%3E&state=the-state", SignInFailed, "an error that it does not name"),
        ("state=the-state", SignInFailed, "holds no authorization code"),
        ("state=the-state&code=", SignInFailed, "holds no authorization code"),
    ],
)
def test_an_answer_that_is_none_says_why(query: str, error: type[SignInFailed], words: str) -> None:
    """A foreign one is told apart from a no: only the latter ends a sign-in."""
    with pytest.raises(SignInFailed, match=words) as raised:
        QUESTION.code_of(query)
    assert type(raised.value) is error
    with pytest.raises(error):
        QUESTION.code_in(f"http://127.0.0.1:5000/?{query}")


@pytest.mark.parametrize("pasted", ["", "\n", "abc", "a code", "<html>", "4/x" * 1000])
def test_a_paste_that_is_neither_is_refused(pasted: str) -> None:
    """Before anything is sent."""
    with pytest.raises(SignInFailed):
        QUESTION.code_in(pasted)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_other_state_is_ever_taken(state: str, code: str) -> None:
    """Whatever comes to the port."""
    query = urlencode({"state": state, "code": code}, errors="surrogatepass")
    if state != QUESTION.state:
        with pytest.raises(ForeignState):
            QUESTION.code_of(query)


def answer(**fields: Any) -> bytes:
    return json.dumps(
        {"access_token": "a", "refresh_token": "1//r", "scope": f"openid {CLOUD_PLATFORM}", **fields}
    ).encode()


def id_token(claims: object) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"head.{part}.signature"


def test_a_grant_names_whose_it_is() -> None:
    """If the token endpoint says it in a form that can be read."""
    assert read_grant(200, answer()) == Grant("1//r", None)
    assert read_grant(200, answer(id_token=id_token({"email": "me@x.example"}))).email == "me@x.example"
    for odd in ("a.b", "a.%.c", id_token([]), id_token({"email": 5}), id_token({"email": "a b@c"}), 7):
        assert read_grant(200, answer(id_token=odd)).email is None


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, answer(refresh_token=None), "gave no refresh token"),
        (200, answer(refresh_token="with space"), "gave no refresh token"),
        (200, b"<html>", "gave no refresh token"),
        (200, answer(scope="openid"), "access to Google Cloud was not given"),
        (400, b'{"error": "invalid_grant", "error_description": "canary"}', "has expired or belongs to another"),
        (401, b'{"error": "invalid_client"}', "check the client's id and secret"),
        (400, b'{"error": "redirect_uri_mismatch"}', "Desktop app"),
        (400, b'{"error": {"status": "X"}}', "status 400"),
        (503, b"", "status 503; try again later"),
    ],
)
def test_a_token_endpoint_that_gives_nothing_is_explained(status: int, body: bytes, words: str) -> None:
    """With the cure, and without what the endpoint repeats of what it was sent."""
    with pytest.raises(SignInFailed, match=words) as raised:
        read_grant(status, body)
    assert "canary" not in raised.value.reason


def test_the_file_is_what_google_auth_reads() -> None:
    """An address that is not Google's is in it, one that is is not."""
    content = Grant("1//r", "me@x.example").authorized_user(CLIENT, "billing")
    assert json.loads(content) == {
        "type": "authorized_user",
        "client_id": "id.apps",
        "client_secret": "canary-secret",
        "refresh_token": "1//r",
        "account": "me@x.example",
        "quota_project_id": "billing",
    }
    other = OAuthClient("i", "s", token_uri="http://127.0.0.1:1/token")
    assert json.loads(Grant("1//r", None).authorized_user(other))["token_uri"] == "http://127.0.0.1:1/token"
    assert "1//r" not in repr(Grant("1//r", None))


@pytest.mark.parametrize(
    ("uri", "good"),
    [
        ("https://x.example/token", True),
        ("http://127.0.0.1:5/token", True),
        ("http://localhost/token", True),
        ("http://x.example/token", False),
        ("http://127.0.0.1.x.example/", False),
        ("ftp://127.0.0.1/", False),
        ("https://", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_secrets_go_over_https_or_to_this_machine(uri: str, good: bool) -> None:
    """Nowhere else."""
    assert is_confidential(uri) is good
