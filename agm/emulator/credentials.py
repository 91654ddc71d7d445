"""
Who calls: reading the credential of a request, and refusing bad ones as Google does.

Any API key and any bearer token is good unless it is clearly bad (``invalid…``, ``bad-key…``, ``expired…``), was issued
here and has ended, or belongs to an account that was declared disabled.
"""

from __future__ import annotations

from agm.emulator import errors
from agm.emulator.calls import Call
from agm.emulator.errors import Circumstances, Kind
from agm.emulator.holdings import project_number
from agm.emulator.state import Account, State


def api_key(call: Call) -> str | None:
    """Return the API key of a request, from its header or the query."""
    return call.headers.get("x-goog-api-key") or call.query.get("key") or None


def bearer_token(call: Call) -> str | None:
    """Return the access token of a request, from its header or the query."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return call.query.get("access_token") or None


def authenticate(call: Call, state: State, about: Circumstances, *, keys: bool = True) -> Account:
    """
    Return the account that a request comes from; `keys` says whether an API key will do.

    :raises GoogleError: 400, 401 or 403, as Google refuses such a credential.
    """
    token, key = bearer_token(call), api_key(call)
    if token is not None:
        return _by_token(token, state, about)
    if key is not None:
        if not keys:
            raise errors.keys_unsupported(about)
        return _by_key(key, state, about)
    if about.kind is Kind.API_KEY:
        raise errors.unregistered_caller()
    raise errors.unauthenticated(about, "CREDENTIALS_MISSING")


def _by_token(token: str, state: State, about: Circumstances) -> Account:
    if not state.is_declared(token):
        if token.startswith("expired"):
            raise errors.unauthenticated(about, "ACCESS_TOKEN_EXPIRED")
        if token.startswith("invalid"):
            raise errors.unauthenticated(about, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
    if state.expired(token):
        raise errors.unauthenticated(about, "ACCESS_TOKEN_EXPIRED")
    return state.account_of(token)


def _by_key(key: str, state: State, about: Circumstances) -> Account:
    if not state.is_declared(key) and (key == "invalid" or key.startswith("bad-key")):
        raise errors.api_key_invalid(about.kind)
    return state.account_of(key)


def check_standing(call: Call, account: Account, about: Circumstances) -> None:
    """
    Refuse what the account was declared not to be allowed.

    :raises GoogleError: for a disabled account, a foreign project, or a project that it may not bill.
    """
    if account.disabled is not None:
        raise errors.disabled(about, account.disabled)
    billed = call.headers.get("x-goog-user-project")
    if account.project is None:
        return
    if billed is not None and billed != account.project:
        raise errors.user_project_denied(about, billed)
    if about.kind is Kind.VERTEX and about.project not in (account.project, project_number(account.project)):
        raise errors.iam_denied(about)
