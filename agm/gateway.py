"""
The gateway as one object: the configuration in force, the plugins, the pool, the client and what is known of models.

It is made by the composition root (:mod:`agm.tap`) or by a test, and handed to whoever needs a part of it.  It serves
nothing itself: :mod:`agm.exchange` and :mod:`agm.web` do.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agm.config import Config
from agm.core.clientkeys import ClientKey
from agm.core.errors import Forbidden, TooManyRequests, Unauthenticated
from agm.core.limits import RequestsPerMinute
from agm.core.models import Aliases, Catalog
from agm.core.pool import Pool
from agm.core.request import Account
from agm.hookspecs import ClientKeySource
from agm.plugins import Hooks
from agm.upstream.client import UpstreamClient
from agm.upstream.credentials import Credential, Refresher
from agm.upstream.reports import ModelReports

log = Logger()


@attrs.define(eq=False)
class Gateway:
    """
    What every request needs.

    `reactor` gives time and connections; `wall` gives seconds since the epoch, for records.
    """

    reactor: Any
    config: Config
    hooks: Hooks
    client: UpstreamClient
    refresher: Refresher
    #: Whether a client key is asked for: ``off``, ``strict`` or ``all_except_health``.
    auth_mode: str
    wall: Callable[[], float] = time.time
    pool: Pool = attrs.field(init=False)
    credentials: dict[str, Credential] = attrs.field(init=False)
    reports: ModelReports = attrs.field(init=False)
    _keys: Sequence[ClientKeySource] = attrs.field(init=False)
    _catalog: tuple[object, Catalog] | None = attrs.field(init=False, default=None)
    _limits: dict[str, RequestsPerMinute] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.hooks.configure(self.config)
        accounts: list[Account] = []
        self.credentials = {}
        for source in self.hooks.account_sources(self.config):
            if source.account.name in self.credentials:
                raise ValueError(f"two accounts are called {source.account.name}")
            accounts.append(source.account)
            self.credentials[source.account.name] = source.credential(self.refresher)
        self.pool = Pool(accounts, self.reactor.seconds)
        self.reports = ModelReports(self.reactor, self.client, accounts, self.credentials)
        self._keys = self.hooks.client_key_sources(self.config)
        if self.auth_mode != "off" and not any(len(source) for source in self._keys):
            log.error(
                "auth.mode is {mode}, but no client key is configured: every request will be refused with 401. "
                "Add an [[auth.keys]] table to the configuration.",
                mode=self.auth_mode,
            )

    async def authenticate(self, presented: Sequence[str]) -> ClientKey | None:
        """
        The client key of a request; None where none is asked for and none is known.

        :param presented: the keys that the request carries, in the order in which they are tried.
        :raises Unauthenticated: if one is asked for, and none of them is known.
        """
        for key in presented:
            for source in self._keys:
                found = source.lookup(key)
                if inspect.isawaitable(found) or isinstance(found, Deferred):
                    found = await found
                if found is not None:
                    return found
        if self.auth_mode == "off":
            return None
        if not presented:
            raise Unauthenticated(
                "This gateway asks for a client key. Send it as 'x-goog-api-key: KEY' or 'Authorization: Bearer KEY'.",
                reason="CLIENT_KEY_MISSING",
            )
        raise Unauthenticated("The client key is not known to this gateway.")

    def admit(self, key: ClientKey | None, model: str) -> None:
        """
        Hold a request to the limits of its client key.

        :raises Forbidden: if the key may not ask for the model.
        :raises TooManyRequests: if its requests per minute are used up.
        """
        if key is None:
            return
        if model not in key.patterns:
            raise Forbidden(f"This client key may not use models/{model}.", reason="MODEL_NOT_ALLOWED")
        if key.requests_per_minute is not None:
            limit = self._limits.get(key.name)
            if limit is None:
                limit = self._limits[key.name] = RequestsPerMinute(key.requests_per_minute)
            wait = limit.take(self.reactor.seconds())
            if wait:
                raise TooManyRequests(
                    f"This client key may make {key.requests_per_minute} requests per minute. "
                    f"Please retry in {wait:.3f}s.",
                    reason="CLIENT_KEY_LIMIT",
                    retry_after=wait,
                )

    async def fresh_catalog(self) -> Catalog:
        """The models that can be asked for, after asking the accounts for theirs if it is time to."""
        await self.reports.fresh()
        return self.catalog

    @property
    def catalog(self) -> Catalog:
        """The models that can be asked for, as far as the accounts have reported theirs."""
        reported = self.reports.known
        if self._catalog is None or self._catalog[0] is not reported:
            models = self.config.models
            self._catalog = (reported, Catalog(models.list, Aliases(models.aliases), reported))
        return self._catalog[1]
