"""
The OAuth 2.0 authorization-code flow of an installed app, without its input and output.

What is asked of the authorization server, what its answers say, and what is wrong with them: RFC 6749, with PKCE
(RFC 7636) and a loopback redirect (RFC 8252).  Nothing here opens a browser or a port, and there is no client but the
one that a person brings.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import attrs
import msgspec

from agm.core.errors import NOT_JSON

GOOGLE_AUTH_URI = "https://accounts.google.com/o/oauth2/v2/auth"
GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105  # an address, no token
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
#: What an account has to be allowed, and who it is: its address names the account in files and lists.
SCOPES = (CLOUD_PLATFORM, "openid", "https://www.googleapis.com/auth/userinfo.email")


class SignInFailed(Exception):
    """A sign-in came to nothing; `reason` is a sentence with the cure, without a secret in it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ForeignState(SignInFailed):
    """A redirect that belongs to no question of ours: an old tab, or somebody else's doing."""


@attrs.frozen
class OAuthClient:
    """The OAuth client with which a person signs in: a "Desktop app" of a Google Cloud project of their own."""

    client_id: str
    client_secret: str = attrs.field(repr=False)
    auth_uri: str = GOOGLE_AUTH_URI
    token_uri: str = GOOGLE_TOKEN_URI


def read_client(content: bytes) -> OAuthClient:
    """
    Return the client in a ``client_secret.json`` as the Google Cloud console gives it.

    :raises SignInFailed: if it is none that an installed app can sign in with.
    """
    try:
        document = msgspec.json.decode(content)
    except NOT_JSON:
        document = None
    if not isinstance(document, dict):
        raise SignInFailed("the file is not a JSON object, as the Google Cloud console's client_secret.json is")
    if "web" in document:
        raise SignInFailed(
            "the file holds a client of type Web application, which takes no answer on a loopback port;"
            " create one of type Desktop app"
        )
    client = document.get("installed")
    if not isinstance(client, dict):
        raise SignInFailed(
            'the file holds no "installed" client; download the JSON of an OAuth client of type Desktop app'
        )
    missing = [name for name in ("client_id", "client_secret") if not _is_text(client.get(name))]
    if missing:
        raise SignInFailed(f"the file holds a client without {' and '.join(missing)}")
    uris = {name: client[name] for name in ("auth_uri", "token_uri") if _is_text(client.get(name))}
    return OAuthClient(client["client_id"], client["client_secret"], **uris)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def is_confidential(uri: str) -> bool:
    """Return whether secrets may be sent there: over https, or to this machine."""
    try:
        split = urlsplit(uri)
        host = split.hostname
    except ValueError:
        return False
    if not host or split.scheme not in ("http", "https"):
        return False
    return (
        split.scheme == "https" or host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None
    )


@attrs.frozen
class Authorization:
    """
    One question to the person behind a browser.

    :param state: what the redirect must bring back; unguessable.
    :param verifier: PKCE's secret, 43 to 128 characters; only its hash is in the question.
    :param redirect_uri: where the browser is sent with the answer.
    """

    client: OAuthClient
    state: str = attrs.field(repr=False)
    verifier: str = attrs.field(repr=False)
    redirect_uri: str
    scopes: Sequence[str] = SCOPES

    @property
    def url(self) -> str:
        """What the browser opens."""
        digest = hashlib.sha256(self.verifier.encode("ascii")).digest()
        question = {
            "client_id": self.client.client_id,
            "redirect_uri": self.redirect_uri,
            "response_type": "code",
            "scope": " ".join(self.scopes),
            "state": self.state,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii"),
            "code_challenge_method": "S256",
            # a refresh token is given for consent that is given anew, and only then
            "access_type": "offline",
            "prompt": "consent",
        }
        mark = "&" if urlsplit(self.client.auth_uri).query else "?"
        return self.client.auth_uri + mark + urlencode(question)

    def code_of(self, query: str) -> str:
        """
        Return the authorization code in the query of a redirect.

        :raises ForeignState: if the redirect does not belong to this question.
        :raises SignInFailed: if the person, or the server, said no.
        """
        pairs = parse_qsl(query, keep_blank_values=True)
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise ForeignState("the answer names something twice, which no authorization server does")
        if not hmac.compare_digest(fields.get("state", "").encode(), self.state.encode()):
            raise ForeignState(
                "the answer belongs to another sign-in (its state differs);"
                " go through the page that this command opened, and no older one"
            )
        if "error" in fields:
            raise SignInFailed(_denial(fields["error"]))
        if not fields.get("code"):
            raise SignInFailed("the answer holds no authorization code; start again")
        return fields["code"]

    def code_in(self, pasted: str) -> str:
        """
        Return the code in what a person pasted: the address that the browser was sent to, or the code alone.

        A code without its address has no state to compare; that it is of use with this verifier only is PKCE's doing.

        :raises SignInFailed: if it is neither, or says no.
        """
        text = pasted.strip()
        if not text:
            raise SignInFailed("nothing was pasted; start again")
        if "://" in text or text.startswith("?") or "state=" in text:
            return self.code_of(text.partition("?")[2].partition("#")[0])
        if not re.fullmatch(r"[A-Za-z0-9%/._~+=-]{4,1024}", text):
            raise SignInFailed("this is neither the address that the browser was sent to nor a code; start again")
        return unquote(text)

    def token_request(self, code: str) -> bytes:
        """Return the form that turns a code into tokens, for a POST to the client's ``token_uri``."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "client_id": self.client.client_id,
            "client_secret": self.client.client_secret,
            "code_verifier": self.verifier,
        }
        return urlencode(form).encode("ascii")


def _denial(error: str) -> str:
    if error == "access_denied":
        return "access was denied in the browser; nothing was changed"
    shown = error if re.fullmatch(r"[a-z_]{1,60}", error) else "an error that it does not name"
    cures = {
        "invalid_scope": "the client may not ask for Google Cloud; add the scope to its consent screen",
        "unauthorized_client": "the client may not be used like this; create one of type Desktop app",
        "admin_policy_enforced": "the administrator of the organisation must allow the client first",
    }
    return f"the authorization server refused ({shown}): {cures.get(error, 'start again')}"


@attrs.frozen
class Grant:
    """What a sign-in gave: a refresh token, and the address of whoever signed in, if it is known."""

    refresh_token: str = attrs.field(repr=False)
    email: str | None

    def authorized_user(self, client: OAuthClient, quota_project: str | None = None) -> bytes:
        """Return the file from which google-auth makes credentials."""
        document: dict[str, Any] = {
            "type": "authorized_user",
            "client_id": client.client_id,
            "client_secret": client.client_secret,
            "refresh_token": self.refresh_token,
        }
        if client.token_uri != GOOGLE_TOKEN_URI:
            document["token_uri"] = client.token_uri
        if self.email is not None:
            document["account"] = self.email
        if quota_project is not None:
            document["quota_project_id"] = quota_project
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def read_grant(status: int, body: bytes) -> Grant:
    """
    Read the token endpoint's answer to a code.

    :raises SignInFailed: if it gave nothing that lasts.
    """
    try:
        document = msgspec.json.decode(body)
    except NOT_JSON:
        document = None
    fields: Mapping[str, Any] = document if isinstance(document, dict) else {}
    if status != 200:
        error = fields.get("error")
        raise SignInFailed(_refusal(status, error if isinstance(error, str) else ""))
    scopes = fields.get("scope")
    if isinstance(scopes, str) and CLOUD_PLATFORM not in scopes.split():
        raise SignInFailed("access to Google Cloud was not given; sign in again and tick it on the page of consent")
    token = fields.get("refresh_token")
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise SignInFailed(
            "the token endpoint gave no refresh token, without which a sign-in does not last;"
            " remove the app's access at myaccount.google.com/permissions and sign in again"
        )
    return Grant(token, _email(fields.get("id_token")))


def _refusal(status: int, error: str) -> str:
    cures = {
        "invalid_grant": "the code was used, has expired or belongs to another sign-in; start again",
        "invalid_client": "check the client's id and secret, and that the client was not deleted",
        "unauthorized_client": "create an OAuth client of type Desktop app",
        "redirect_uri_mismatch": "create an OAuth client of type Desktop app",
    }
    if error in cures:
        return f"the token endpoint refused ({error}): {cures[error]}"
    return f"the token endpoint answered with status {status}; try again later"


def _email(id_token: object) -> str | None:
    """Read the email address in an ID token.  It came from the token endpoint itself, so its signature adds nothing."""
    parts = id_token.split(".") if isinstance(id_token, str) else []
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (*NOT_JSON, ValueError, IndexError):
        return None
    email = claims.get("email") if isinstance(claims, dict) else None
    return email if isinstance(email, str) and re.fullmatch(r"[^\s@]{1,100}@[^\s@]{1,200}", email) else None
