"""
Every hook of agm, in the order in which a request meets them.

A plugin is a module (or an object) with functions of these names, each marked with ``@agm.hookimpl``.  It names only
the arguments it wants.  The values that hooks receive are described in :mod:`agm.core.request`: they are frozen, hold
no Twisted object and no credential.  The built-in behaviour is made of plugins behind the same hooks
(``agm.defaults``); theirs run last, so that yours are asked first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from agm.core.classify import Verdict
from agm.core.clientkeys import ClientKey
from agm.core.request import (
    Account,
    AccountChoice,
    AttemptRecord,
    GatewayRequest,
    ModelChoice,
    RequestRecord,
    UpstreamRequest,
)

if TYPE_CHECKING:
    from twisted.web.resource import IResource

    from agm.config import Config
    from agm.upstream.accounts import AccountSource
    from agm.web.site import GatewaySite

hookspec = pluggy.HookspecMarker("agm")


class ClientKeySource(Protocol):
    """Somewhere that client keys can be looked up."""

    def lookup(self, presented: str) -> ClientKey | Awaitable[ClientKey | None] | None:
        """
        The key that a client presented, or None if it is not known here.

        :param presented: the key as it was sent; it must not be logged or kept.
        """

    def __len__(self) -> int:
        """How many keys there are; 0 if there is certainly none.  A source that cannot tell returns 1."""


@hookspec
def agm_configure(config: Config) -> None:
    """
    Called once at the start and after each reload, before every other hook.

    A plugin NAME finds its own table in ``config.plugins.tables.get("NAME", {})``.
    """


@hookspec
def agm_client_keys(config: Config) -> Iterable[ClientKeySource]:  # type: ignore[empty-body]
    """Sources of client keys, asked in order until one knows the key.  A source's lookup may be asynchronous."""


@hookspec
def agm_accounts(config: Config) -> Iterable[AccountSource]:  # type: ignore[empty-body]
    """Accounts for the pool, beside those of the configuration: from a vault, a database."""


@hookspec(firstresult=True)
def agm_map_model(model: str, request: GatewayRequest) -> ModelChoice | str | None:
    """The upstream model that serves a request for `model`; None leaves it to the next plugin."""


@hookspec
def agm_filter_accounts(accounts: Sequence[Account], request: GatewayRequest) -> Mapping[str, str] | None:
    """Accounts that must not serve this request: their names, each with the reason.  All plugins' answers count."""


@hookspec(firstresult=True)
def agm_select_account(
    accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]
) -> AccountChoice | Account | None:
    """
    The account that serves the next attempt, one of `accounts`; None leaves it to the next plugin.

    `loads` says by account name how many requests it is serving.
    """


@hookspec(firstresult=True)
def agm_wrap_request(request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest | None:
    """
    The request as it goes to `account`'s endpoint, without the credential; None leaves it to the next plugin.

    `body` is the client's, or what ``agm_transform_request`` made of it.
    """


@hookspec
def agm_transform_request(body: dict[str, Any], request: GatewayRequest) -> dict[str, Any] | None:
    """Edit the body: return it changed, or None for no change.  Each plugin gets what the one before it returned."""


@hookspec
def agm_transform_event(event: dict[str, Any], request: GatewayRequest) -> dict[str, Any] | None:
    """
    Edit a piece of the answer: an event of a stream, or a unary answer as a whole.

    Return it changed, or None for no change.  Each plugin gets what the one before it returned.
    """


@hookspec(firstresult=True)
def agm_classify_error(status: int, body: bytes, headers: Mapping[str, str], account: Account) -> Verdict | None:
    """What a failed answer means for `account`; None leaves it to the next plugin."""


@hookspec
def agm_attempt_finished(attempt: AttemptRecord) -> None:
    """An attempt at an upstream has ended."""


@hookspec
def agm_request_finished(record: RequestRecord) -> None:
    """A request has ended, whichever way."""


@hookspec
def agm_resources(site: GatewaySite) -> Mapping[str, IResource]:  # type: ignore[empty-body]
    """HTTP resources to serve beside the API, by the first segment of their path."""
