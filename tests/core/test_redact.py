"""What is known and what looks like a secret is taken out; all else passes as it is."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.redact import MARK, MAX_TRANSIENT, Redactor, shapes_redacted

GOOGLE_KEY = "AIzaSyA-1234567890abcdefghijklmnopqrstu"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQ/abc+\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"bad key {GOOGLE_KEY}.", f"bad key {MARK}."),
        (f"nothing\\n{GOOGLE_KEY[:30]}…", f"nothing\\n{MARK}…"),
        ("token ya29.a0AfH6SMC-x_y.z, and", f"token {MARK}, and"),
        ("refresh 1//0gAbCdEfGhIjKlMnOp-_q", f"refresh {MARK}"),
        ("code=4/0AbCdEfGhIjKlMnOpQrStUv", f"code={MARK}"),
        ("GOCSPX-abcdefgh_123", MARK),
        ("key agm_abcdefghijklmnopqrstuvwxyz012345 ok", f"key {MARK} ok"),
        ("sk-proj-abcdefghij0123456789", MARK),
        ("a eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.c2ln b", f"a {MARK} b"),
        ("express AQ.Ab8RN6abcdefghijklmno end", f"express {MARK} end"),
        ("Authorization: Bearer abc123", f"Authorization: Bearer {MARK}"),
        ("authorization: abc123def", f"authorization: {MARK}"),
        ("bearer zyxwvutsrqponmlkjihgfedcba", f"bearer {MARK}"),
        ("Proxy-Authorization: Basic dXNlcjpwYXNzMQ==", f"Proxy-Authorization: Basic {MARK}"),
        ("GET /v1beta/models?key=abc&alt=sse", f"GET /v1beta/models?key={MARK}&alt=sse"),
        ("GET /v1beta/models?a=1&$key=abc HTTP/1.1", f"GET /v1beta/models?a=1&$key={MARK} HTTP/1.1"),
        ("/x%3Fkey=abc", f"/x%3Fkey={MARK}"),
        ("/x?access_token=a.b-c", f"/x?access_token={MARK}"),
        ("/x?oauth_token=abc#end", f"/x?oauth_token={MARK}#end"),
        ("https://me:pass@proxy.example:3128/", f"https://{MARK}@proxy.example:3128/"),
        (f"its {PEM}rest", f"its {MARK}\nrest"),
        ("cut -----BEGIN RSA PRIVATE KEY-----\nMII", f"cut {MARK}"),
        ('{"refresh_token": "abc-1", "n": 1}', f'{{"refresh_token": "{MARK}", "n": 1}}'),
        ('{\\"client_secret\\":\\"abc-1\\"}', f'{{\\"client_secret\\":\\"{MARK}\\"}}'),
        ("api_key = 'abc1'", f"api_key = '{MARK}'"),
        ("Headers({b'x-goog-api-key': [b'abc1']})", f"Headers({{b'x-goog-api-key': [b'{MARK}']}})"),
        ("[(b'authorization', b'Bearer abc1')]", f"[(b'authorization', b'Bearer {MARK}')]"),
        ("client_secret=abc1&grant_type=x", f"client_secret={MARK}&grant_type=x"),
        ("password: hunter22", f"password: {MARK}"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out_and_what_is_around_it_stays(text: str, shown: str) -> None:
    assert shapes_redacted(text) == shown
    assert shapes_redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "0123456789abcdef: POST /v1beta/models/gemini-2.5-flash:streamGenerateContent 200 1234",
        "This gateway asks for a client key. Send it as 'x-goog-api-key: KEY' or 'Authorization: Bearer KEY'.",
        "accounts[0].api_key: expected a string",
        "accounts[1].api_key_env: the environment variable GEMINI_API_KEY is not set; write export GEMINI_API_KEY=…",
        "auth.mode is strict, but no client key is configured",
        "listening on http://[::1]:8045 and http://127.0.0.1:8045",
        "API key not valid. Please pass a valid API key.",
        "maxOutputTokens: 123456, totalTokenCount: 12345678",
        "state-2f1a.json key: laptop token: none",
        "Basic knowledge of bearer bonds",
        "key_sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
    ],
)
def test_what_is_no_secret_passes(text: str) -> None:
    assert Redactor().text(text) == text


SECRETS = st.text(string.ascii_letters + string.digits + "-_./+=~!\"'\\&%", min_size=8, max_size=60)


@given(st.lists(SECRETS, min_size=1, max_size=8), st.text(max_size=30), st.text(max_size=30))
def test_a_known_secret_is_found_wherever_it_stands(secrets: list[str], before: str, after: str) -> None:
    """As it is, in JSON, and as Python prints it."""
    redactor = Redactor()
    for secret in secrets:
        redactor.add_permanent(secret)
    for secret in secrets:
        for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
            assert form not in redactor.text(f"{before}{form}{after}")


@given(st.lists(SECRETS, min_size=1, max_size=8), st.text(string.ascii_lowercase + " :/-", max_size=200))
def test_what_holds_none_passes_untouched(secrets: list[str], text: str) -> None:
    redactor = Redactor()
    for secret in secrets:
        redactor.add_permanent(secret)
    if not any(secret in text for secret in secrets):
        assert redactor.text(text) == text


def test_a_secret_is_found_in_a_url_and_so_is_the_password_of_a_proxy() -> None:
    redactor = Redactor()
    redactor.add_permanent("abc/def+ghi=")
    redactor.add_permanent("http://me:pass%2Fword-1@proxy.example:3128")
    assert redactor.text("GET /abc%2Fdef%2Bghi%3D/x") == f"GET /{MARK}/x"
    assert redactor.text("it was pass/word-1 or pass%2Fword-1") == f"it was {MARK} or {MARK}"


def test_secrets_next_to_and_within_each_other_leave_nothing() -> None:
    redactor = Redactor()
    for secret in ("secret-1", "secret-12", "secret-123456789"):
        redactor.add_permanent(secret)
    assert redactor.text("secret-123456789") == MARK
    assert redactor.text("secret-12secret-1") == MARK + MARK
    assert redactor.text("xsecret-1y") == f"x{MARK}y"


def test_ten_thousand_secrets_are_all_known() -> None:
    redactor = Redactor()
    names = [f"key-{number:05}" for number in range(5000)] + [f"canary-api-key-{number}" for number in range(5000)]
    for name in names:
        redactor.add_permanent(name)
    assert len(redactor) == 10_000
    assert all(redactor.text(f"a {name} b") == f"a {MARK} b" for name in names[::250])
    assert redactor.text("key-5000x") == "key-5000x"


def test_what_passes_is_forgotten_for_what_came_later_and_what_is_learned_stays() -> None:
    redactor = Redactor()
    redactor.add_permanent("kept-secret-1")
    redactor.add_transient("kept-secret-1")
    redactor.add_transient("first-token-1")
    redactor.add_transient("second-token-1")
    redactor.add_transient("second-token-1")
    for number in range(MAX_TRANSIENT - 1):
        redactor.add_transient(f"later-token-{number}")
    assert redactor.text("first-token-1 second-token-1") == f"first-token-1 {MARK}"
    assert redactor.text("kept-secret-1 later-token-7 ") == f"{MARK} {MARK} "
    assert len(redactor) == MAX_TRANSIENT + 1


def test_who_is_not_known_cannot_take_words_out_of_the_log() -> None:
    redactor = Redactor()
    for presented in ("gemini-2.5-flash-lite-preview", "explain", "0123456789abcdef"):
        redactor.add_unknown(presented)
    assert len(redactor) == 0
    redactor.add_unknown("aBcDeFgHiJkLmNoPqRsT0")
    assert redactor.text("/aBcDeFgHiJkLmNoPqRsT0/") == f"/{MARK}/"


def test_what_is_too_short_or_told_by_its_shape_is_not_remembered() -> None:
    redactor = Redactor()
    for secret in ("work", "", GOOGLE_KEY):
        redactor.add_permanent(secret)
        redactor.add_transient(secret)
    assert len(redactor) == 0
    assert redactor.text(f"work {GOOGLE_KEY}") == f"work {MARK}"


def test_no_secret_is_kept() -> None:
    """Hashes and digests only: what shows the redactor shows no secret."""
    redactor = Redactor()
    redactor.add_permanent("canary-secret-1")
    seen = [repr(vars(redactor))]
    seen += [repr(pieces._filed) for pieces in redactor._sizes]
    assert "canary" not in " ".join(seen)


BODY = {
    "error": {"code": 400, "message": "no canary-api-key=1", "details": [{"canary-api-key=1": ["canary-api-key=1", 5]}]}
}


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(BODY).encode(),
        json.dumps(BODY, indent=2).encode(),
        json.dumps(BODY).replace("canary-api-key=1", "c\\u0061nary-api-key\\u003d1").encode(),
    ],
)
def test_an_error_document_is_looked_through_as_what_it_means(body: bytes) -> None:
    redactor = Redactor()
    redactor.add_permanent("canary-api-key=1")
    found = redactor.body(body)
    assert json.loads(found) == {"error": {"code": 400, "message": f"no {MARK}", "details": [{MARK: [MARK, 5]}]}}
    assert (b"\n" in found) == (b"\n" in body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a": 1.0, "b":\t"x\\u0041"}', b"\xff\xfe", b"[1e400]", b"[" * 5000, b'["\xc3\xa9"]']
)
def test_a_body_without_a_secret_is_the_same_to_the_byte(body: bytes) -> None:
    redactor = Redactor()
    redactor.add_permanent("canary-api-key-1")
    assert redactor.body(body) == body


def test_escapes_hide_nothing_in_what_is_too_deep_to_be_read() -> None:
    """Then it is shown as what it means."""
    redactor = Redactor()
    redactor.add_permanent("canary-deep/secret")
    deep = b"[" * 99 + rb'"canary\u002ddeep\/secret", "\u00e9"' + b"]" * 99
    assert redactor.body(deep) == b"[" * 99 + rb'"[redacted]", "\u00e9"' + b"]" * 99
    plain = deep.replace(rb"canary\u002ddeep\/secret", rb"a \"word\" or two")
    assert redactor.body(plain) == plain


def test_a_body_that_is_no_json_is_read_as_text() -> None:
    redactor = Redactor()
    redactor.add_permanent("canary-api-key-1")
    assert redactor.body(b"<b>\xffcanary-api-key-1</b>") == b"<b>\xff" + MARK.encode() + b"</b>"
