"""Accounts with their credentials: what the pool is made of, whether from the configuration or from a plugin."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from agm.config import AccountConfig
from agm.core.models import Patterns
from agm.core.request import Account
from agm.upstream.credentials.credential import ApiKey, Credential, NoCredential, StaticToken
from agm.upstream.credentials.refresher import Refresher


@attrs.frozen(eq=False)
class AccountSource:
    """
    An account and how to get its credential.

    `credential` is called once, when the account joins the pool, with the :class:`Refresher` that credentials with a
    lifetime share.  A plugin with a key in hand writes ``AccountSource(account, lambda refresher: ApiKey(key))``.
    """

    account: Account
    credential: Callable[[Refresher], Credential]
    #: What the account was made from.  After a reload an account with an equal one keeps its state and its token;
    #: one with None starts anew.
    origin: object = None


def account_source(entry: AccountConfig) -> AccountSource:
    """The account of an ``[[accounts]]`` table."""
    account = Account(
        name=entry.name,
        kind=entry.kind,
        endpoints=entry.endpoints,
        project=entry.project,
        location=entry.location,
        models=Patterns(entry.models),
        priority=entry.priority,
        max_concurrency=entry.max_concurrency,
        max_sessions=entry.max_sessions,
        reserve=entry.reserve,
        express=entry.kind == "vertex" and entry.api_key is not None,
        network=entry.network,
        unusable=entry.unusable,
    )
    if entry.unusable is not None:
        why = entry.unusable
        return AccountSource(account, lambda refresher: NoCredential(why), entry)
    if entry.api_key is not None:
        key = entry.api_key
        return AccountSource(account, lambda refresher: ApiKey(key.reveal()), entry)
    if entry.access_token is not None:
        token = entry.access_token
        return AccountSource(account, lambda refresher: StaticToken(token.reveal()), entry)
    credentials = entry.credentials
    assert credentials is not None, "the configuration has checked that each account has a credential"
    # google-auth takes time and memory, which only gateways with such an account are to spend
    from agm.upstream.credentials.google import GoogleCredential
    from agm.upstream.credentials.google_default import load_google

    return AccountSource(
        account,
        lambda refresher: GoogleCredential(
            lambda: load_google(credentials), refresher=refresher, network=account.network
        ),
        entry,
    )
