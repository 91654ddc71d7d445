"""
Routing: which accounts may serve a request, which of them does, and when one may if none can now.

:class:`PoolRouting` takes any account of the pool; :class:`agm.serving.affinity.AffinityRouting` the one that has what
a request names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from agm.core.classify import Verdict
from agm.core.pool.candidates import Candidates
from agm.core.pool.exclusions import Cause, Exclusion, earliest
from agm.core.request import Account, AccountChoice, GatewayRequest
from agm.serving.context import ServingContext


class Routing(Protocol):
    """
    Where the attempts of one request may go.

    `given_up` holds the names of accounts that this request does not ask again, though others may.
    """

    def eligible(self, given_up: frozenset[str]) -> tuple[Candidates, Mapping[str, str]]:
        """
        Find the accounts that may serve, and those that plugins have taken away, with their reasons.

        :raises HookFailed: if a plugin's filter fails.
        """

    def exclusions(self, refused: Mapping[str, str], given_up: frozenset[str]) -> list[Exclusion]:
        """Say why each of the other accounts may not; `refused` is of :meth:`eligible`."""

    def select(self, accounts: Sequence[Account]) -> AccountChoice:
        """Choose one of `accounts`, which are not empty."""

    def soonest(self, given_up: frozenset[str]) -> float | None:
        """Seconds until an account may be free, 0 for at any moment; None if that takes a person."""

    def recovery(self, verdict: Verdict, given_up: frozenset[str]) -> float:
        """Seconds until some account may serve this again, after its last attempt came to `verdict`."""

    def missing(self, account: Account, body: bytes) -> None:
        """Note that an account says that it does not have what the request names; `body` is the error's."""


@attrs.define(eq=False)
class PoolRouting:
    """Routes to any account of the pool that serves the request's model and method."""

    _context: ServingContext
    _request: GatewayRequest

    def eligible(self, given_up: frozenset[str]) -> tuple[Candidates, Mapping[str, str]]:
        """See :class:`Routing`."""
        request, pool = self._request, self._context.pool
        accounts = pool.candidates(request.model, request.method, given_up, request.version)
        refused: Mapping[str, str] = {}
        if accounts:
            refused = self._context.hooks.filter_accounts(accounts, request)
            if refused:
                without = {*given_up, *refused}
                accounts = pool.candidates(request.model, request.method, without, request.version)
        return accounts, refused

    def exclusions(self, refused: Mapping[str, str], given_up: frozenset[str]) -> list[Exclusion]:
        """See :class:`Routing`."""
        request, pool = self._request, self._context.pool
        exclusions = pool.excluded(request.model, request.method, request.version)
        if refused:
            ready = pool.candidates(request.model, request.method, given_up, request.version)
            exclusions += [Exclusion(a, Cause.PLUGIN, refused[a.name]) for a in ready if a.name in refused]
        return exclusions

    def select(self, accounts: Sequence[Account]) -> AccountChoice:
        """See :class:`Routing`."""
        return self._context.hooks.select_account(accounts, self._request, self._context.pool.loads())

    def soonest(self, given_up: frozenset[str]) -> float | None:
        """See :class:`Routing`."""
        request = self._request
        return self._context.pool.soonest(request.model, request.method, given_up, request.version)

    def recovery(self, verdict: Verdict, given_up: frozenset[str]) -> float:
        """See :class:`Routing`."""
        pool, request = self._context.pool, self._request
        if pool.candidates(request.model, request.method, given_up, request.version):
            return 1.0
        soonest = earliest(pool.excluded(request.model, request.method, request.version))
        if soonest is not None:  # the pool may let an account cool down for longer than its upstream said
            return soonest
        return 1.0 if verdict.delay is None else verdict.delay

    def missing(self, account: Account, body: bytes) -> None:
        """Nothing to note: what the request names is nobody's, as far as is known."""
