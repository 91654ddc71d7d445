"""
The OAuth endpoints: authorization, token, revocation, and who a token belongs to.

``POST /token`` answers three grants: ``refresh_token``, ``authorization_code`` (with PKCE) and the JWT of a service
account.  Tokens are ``ya29.emu-<account>-<n>``, end on the emulator's clock, and are as good as their account.

Errors have OAuth's form, ``{"error", "error_description"}``, not google.rpc.Status.  JWTs are read and dated, not
verified: any key may sign.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from agm.emulator import credentials, framing, pages
from agm.emulator.calls import Call
from agm.emulator.errors import TOKEN_STATUSES
from agm.emulator.replies import Reply, Wait, body_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import Account, AuthorizationCode, State

_SCOPE = (
    "openid https://www.googleapis.com/auth/cloud-platform https://www.googleapis.com/auth/userinfo.email "
    "https://www.googleapis.com/auth/userinfo.profile"
)
_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
#: How long an authorization code is good, in seconds.
_CODE_LIFETIME = 600
#: The longest life of a service account's JWT, with some slack for clocks, in seconds.
_JWT_LIFETIME = 3600 + 300

_HEADERS = (
    ("Cache-Control", "no-cache, no-store, max-age=0, must-revalidate"),
    ("Pragma", "no-cache"),
    ("Vary", "Origin"),
    ("Server", "scaffolding on HTTPServer2"),
    ("X-Content-Type-Options", "nosniff"),
)

_TOKEN_PATHS = ("/token", "/oauth2/v4/token", "/o/oauth2/token")
_AUTHORIZE_PATHS = ("/o/oauth2/v2/auth", "/o/oauth2/auth")
_USERINFO_PATHS = ("/oauth2/v1/userinfo", "/oauth2/v2/userinfo", "/oauth2/v3/userinfo", "/v1/userinfo")
_REVOKE_PATHS = ("/revoke", "/o/oauth2/revoke")


@attrs.frozen
class _Refusal(Exception):
    """An OAuth error: its HTTP status, its code and its description."""

    status: int
    error: str
    description: str


def handles(call: Call) -> bool:
    """Return whether a path belongs to this surface."""
    return call.path in (*_TOKEN_PATHS, *_AUTHORIZE_PATHS, *_USERINFO_PATHS, *_REVOKE_PATHS)


def reply(call: Call, state: State, entry: Entry) -> Reply:
    """Answer a call of this surface."""
    if call.method == "POST" and call.path in _TOKEN_PATHS:
        entry.rpc = "token"
        return _token(call, state, entry)
    if call.method == "POST" and call.path in _REVOKE_PATHS:
        entry.rpc = "revoke"
        return _revoke(call, state)
    if call.method == "GET" and call.path in _AUTHORIZE_PATHS:
        entry.rpc = "authorize"
        return _authorize(call, state, entry)
    if call.method == "GET" and call.path in _USERINFO_PATHS:
        entry.rpc = "userinfo"
        return _userinfo(call, state, entry)
    return pages.not_found(call.path)


def _document(document: Mapping[str, Any], status: int = 200) -> Reply:
    return body_reply(status, framing.pretty(document), "application/json; charset=utf-8", _HEADERS)


def _refused(refusal: _Refusal) -> Reply:
    return _document({"error": refusal.error, "error_description": refusal.description}, refusal.status)


def _fields(text: str) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(text, keep_blank_values=True))


# -- token -------------------------------------------------------------------------------------------------------


def _token(call: Call, state: State, entry: Entry) -> Reply:
    form = _fields(call.body.decode("utf-8", "replace"))
    grants = {"refresh_token": _refresh, "authorization_code": _exchange, _JWT_GRANT: _jwt}
    grant = grants.get(form.get("grant_type", ""))
    try:
        if grant is None:
            raise _Refusal(400, "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
        account, extra = grant(form, state)
        entry.account = account.name
    except _Refusal as refusal:
        return _refused(refusal)
    if account.token_status is not None:
        answered = _refused(_Refusal(account.token_status, *TOKEN_STATUSES[account.token_status]))
    else:
        answered = _document(_granted(account, extra, state))
    if account.token_latency_ms:
        return attrs.evolve(answered, steps=(Wait(account.token_latency_ms / 1000), *answered.steps))
    return answered


def _granted(account: Account, extra: Mapping[str, Any], state: State) -> dict[str, Any]:
    if "id_token" in extra:  # a JWT grant for an audience: an id token is all it gets
        return dict(extra)
    return {
        "access_token": state.issue(account),
        "expires_in": account.expires_in,
        "scope": _SCOPE,
        "token_type": "Bearer",
        **extra,
    }


_Granted = tuple[Account, Mapping[str, Any]]


def _refresh(form: Mapping[str, str], state: State) -> _Granted:
    token = form.get("refresh_token", "")
    if not token:
        raise _Refusal(400, "invalid_request", "Missing required parameter: refresh_token")
    if not form.get("client_id"):
        raise _Refusal(400, "invalid_request", "Could not determine client ID from request.")
    if token.startswith("revoked") or form["client_id"].startswith("revoked") or token in state.revoked:
        raise _Refusal(400, "invalid_grant", "Token has been expired or revoked.")
    if form["client_id"].startswith("invalid"):
        raise _Refusal(401, "invalid_client", "The OAuth client was not found.")
    issued_to = state.refresh_tokens.get(token)
    return state.account_named(issued_to) if issued_to else state.account_of(token), {}


def _exchange(form: Mapping[str, str], state: State) -> _Granted:
    code = state.codes.pop(form.get("code", ""), None)
    if code is None or state.clock.now() > code.expires:
        raise _Refusal(400, "invalid_grant", "Malformed auth code.")
    if form.get("client_id") != code.client_id:
        raise _Refusal(401, "invalid_client", "The OAuth client was not found.")
    if form.get("redirect_uri", "") != code.redirect_uri:
        raise _Refusal(400, "redirect_uri_mismatch", "Bad Request")
    if code.challenge is not None:
        verifier = form.get("code_verifier", "")
        if not verifier:
            raise _Refusal(400, "invalid_grant", "Missing code verifier.")
        if challenge_of(verifier, code.method) != code.challenge:
            raise _Refusal(400, "invalid_grant", "Invalid code verifier.")
    account = state.account_named(code.account)
    return account, {"refresh_token": state.issue_refresh_token(account)}


def challenge_of(verifier: str, method: str) -> str:
    """Return the PKCE challenge of a verifier (RFC 7636, section 4.2)."""
    if method == "plain":
        return verifier
    digest = hashlib.sha256(verifier.encode("ascii", "replace")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _jwt(form: Mapping[str, str], state: State) -> _Granted:
    claims = _claims(form.get("assertion", ""))
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or not issuer:
        raise _Refusal(400, "invalid_grant", "Invalid JWT: iss field missing.")
    if issuer.startswith("revoked"):
        raise _Refusal(400, "invalid_grant", "Invalid grant: account not found")
    issued, expires = claims.get("iat"), claims.get("exp")
    now = state.clock.now()
    if (
        not isinstance(issued, (int, float))
        or not isinstance(expires, (int, float))
        or not issued - 300 <= now < expires
        or expires - issued > _JWT_LIFETIME
    ):
        raise _Refusal(
            400,
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your "
            "iat and exp values in the JWT claim.",
        )
    account = state.account_of(issuer)
    audience = claims.get("target_audience")
    if audience is not None:
        return account, {"id_token": _id_token(account, str(audience), now)}
    if not claims.get("scope"):
        raise _Refusal(400, "invalid_scope", "Empty or missing scope not allowed.")
    return account, {}


def _claims(assertion: str) -> Mapping[str, Any]:
    parts = assertion.split(".")
    try:
        if len(parts) != 3:
            raise ValueError("not three parts")
        payload = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload))
    except (ValueError, binascii.Error, msgspec.DecodeError):
        claims = None
    if not isinstance(claims, dict):
        raise _Refusal(400, "invalid_grant", "Invalid JWT Signature.")
    return claims


def _id_token(account: Account, audience: str, now: float) -> str:
    """Return an id token with an empty signature: nobody is meant to trust it."""

    def part(document: Mapping[str, Any]) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(document)).rstrip(b"=").decode()

    claims = {
        "iss": "https://accounts.google.com",
        "aud": audience,
        "sub": account.name,
        "email": _email(account),
        "email_verified": True,
        "iat": int(now),
        "exp": int(now) + account.expires_in,
    }
    return f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}."


# -- the rest ----------------------------------------------------------------------------------------------------


def _email(account: Account) -> str:
    return account.name if "@" in account.name else f"{account.name}@example.com"


def _authorize(call: Call, state: State, entry: Entry) -> Reply:
    """Serve the sign-in page: the person agrees at once, and is redirected with a code."""
    redirect = call.query.get("redirect_uri", "")
    address = urllib.parse.urlsplit(redirect)
    # A code is only ever sent to the same machine: this is not a place to redirect the world from.
    if address.scheme != "http" or address.hostname not in ("127.0.0.1", "localhost", "::1"):
        return _refused(_Refusal(400, "redirect_uri_mismatch", "Bad Request"))
    if not call.query.get("client_id") or call.query.get("response_type") != "code":
        return _refused(_Refusal(400, "invalid_request", "Required parameter is missing: client_id, response_type"))
    method = call.query.get("code_challenge_method", "plain")
    if method not in ("plain", "S256"):
        return _refused(_Refusal(400, "invalid_request", f"Invalid code_challenge_method: {method}"))
    name = re.sub(r"@example\.com$", "", call.query.get("login_hint", "")) or "person"
    account = state.account_of(name)
    entry.account = account.name
    code = state.issue_code(
        AuthorizationCode(
            account=account.name,
            client_id=call.query["client_id"],
            redirect_uri=redirect,
            challenge=call.query.get("code_challenge"),
            method=method,
            expires=state.clock.now() + _CODE_LIFETIME,
        )
    )
    answer = {"state": call.query["state"]} if "state" in call.query else {}
    query = urllib.parse.urlencode({**_fields(address.query), **answer, "code": code, "scope": _SCOPE})
    location = urllib.parse.urlunsplit(address._replace(query=query))
    return Reply(302, (("Location", location), *_HEADERS), (), 0)


def _userinfo(call: Call, state: State, entry: Entry) -> Reply:
    token = credentials.bearer_token(call)
    if token is None or state.expired(token) or token.startswith(("expired", "invalid")):
        return _refused(_Refusal(401, "invalid_request", "Invalid Credentials"))
    account = state.account_of(token)
    entry.account = account.name
    email = _email(account)
    return _document({"id": account.name, "sub": account.name, "email": email, "verified_email": True})


def _revoke(call: Call, state: State) -> Reply:
    token = _fields(call.body.decode("utf-8", "replace")).get("token") or call.query.get("token", "")
    if not token:
        return _refused(_Refusal(400, "invalid_request", "Missing required parameter: token"))
    state.revoke(token)
    return _document({})
