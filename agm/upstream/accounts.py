"""Accounts with their credentials: what the pool is made of, whether from the configuration or from a plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import attrs
import msgspec

from agm.config import AccountConfig
from agm.config.addresses import is_loopback_host
from agm.core.models import Patterns
from agm.core.request import BUILT_IN_KINDS, Account, UpstreamKind
from agm.upstream.credentials.credential import ApiKey, Credential, KeyHeaders, NoCredential, StaticToken
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


def why_refused(source: AccountSource, kinds: Mapping[str, UpstreamKind]) -> tuple[str, str] | None:
    """
    Say what is wrong with an account that a plugin gives, and what to give instead; None for one that can serve.

    :param kinds: all that there are, by name.
    """
    account = source.account
    if not isinstance(account, Account):
        return f"an account that is a {type(account).__name__}", "give AccountSource(Account(…), credential)"
    if account.kind not in kinds:
        return f"an account of kind {account.kind!r}", f"the kinds are {', '.join(kinds)}"
    if not account.endpoints or isinstance(account.endpoints, str):
        return "an account without endpoints", "give a tuple of base URLs"
    for url in account.endpoints:
        try:
            split = urlsplit(url)
            host = split.hostname
        except (ValueError, AttributeError):
            split, host = urlsplit(""), None
        if split.scheme not in ("http", "https") or not host or url.endswith("/"):
            return f"the endpoint {url!r}", "give https://HOST with no slash at the end"
        if split.scheme == "http" and not is_loopback_host(host):
            return f"the endpoint {url!r}", "give https: over plain http, credentials would go in the clear"
    if not callable(source.credential):
        return "a credential that is no function", "write lambda refresher: ApiKey(key) or the like"
    return None


def of_kind(source: AccountSource, kinds: Mapping[str, UpstreamKind]) -> AccountSource:
    """
    Return the same account with what its kind is like, which a plugin need not tell.

    :param kinds: all that there are, by name; its own is among them.
    """
    account, kind = source.account, kinds[source.account.kind]
    if account.upstream is kind:
        return source
    settings = account.settings
    if settings is None and kind.settings is not None:
        settings = msgspec.convert({}, kind.settings)
    return attrs.evolve(source, account=attrs.evolve(account, upstream=kind, settings=settings))


def account_source(entry: AccountConfig, kinds: Mapping[str, UpstreamKind] = BUILT_IN_KINDS) -> AccountSource:
    """
    Return the account of an ``[[accounts]]`` table.

    :param kinds: all that there are, by name; its own is among them.
    """
    kind = kinds[entry.kind]
    account = Account(
        name=entry.name,
        kind=entry.kind,
        endpoints=entry.endpoints or kind.default_endpoints(),
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
        settings=None if kind.settings is None else msgspec.convert(dict(entry.settings), kind.settings),
        upstream=kind,
    )
    if entry.unusable is not None:
        why = entry.unusable
        return AccountSource(account, lambda refresher: NoCredential(why), entry)
    if entry.kind not in BUILT_IN_KINDS:
        headers = {} if entry.api_key is None else kind.authenticate(entry.api_key.reveal())
        return AccountSource(account, lambda refresher: KeyHeaders(headers), entry)
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
