"""
Routing: which accounts may serve a request, which of them does, and when one may if none can now.

:class:`PoolRouting` takes any account of the pool; :class:`VertexRouting` those that fit a path of Vertex AI best;
:class:`agm.serving.affinity.AffinityRouting` the one that has what a request names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from agm.core.classify import Verdict
from agm.core.pool.candidates import Candidates
from agm.core.pool.exclusions import Cause, Exclusion, earliest
from agm.core.request import Account, AccountChoice, GatewayRequest
from agm.core.wire.vertex import Place
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


_NO_PROJECT = "it has no project: express mode keeps nothing"


def _fits(place: Place) -> Callable[[Account], int]:
    """Tell how well an account fits a place: the fewer, the better."""

    def distance(account: Account) -> int:
        if account.kind != "vertex":
            return 3
        if account.project is None or account.project != place.project:
            return 2
        return int(account.location != place.location)

    return distance


@attrs.define(eq=False)
class VertexRouting:
    """
    Routes a request in Vertex AI's shape: to the accounts that fit its place best, of those that are ready.

    Accounts of the project that the path names come first, then others of Vertex AI, then other kinds where the meaning
    is the same.  The client's own Google token is no part of any of this: it ends at the door.
    """

    _context: ServingContext
    _request: GatewayRequest
    _pool: PoolRouting = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pool = PoolRouting(self._context, self._request)

    def _unable(self, account: Account) -> str | None:
        """Why an account of the right kind cannot serve this."""
        request = self._request
        if account.project is None and request.method.startswith("vertex.") and request.method.count(".") > 1:
            return _NO_PROJECT
        return None

    def eligible(self, given_up: frozenset[str]) -> tuple[Candidates, Mapping[str, str]]:
        """See :class:`agm.serving.routing.Routing`."""
        accounts, refused = self._pool.eligible(given_up)
        able = [account for account in accounts if self._unable(account) is None]
        if not able:
            return Candidates.of(()), refused
        request = self._request
        assert request.place is not None  # that is what makes it one of these
        distance = _fits(request.place)
        least = min(map(distance, able))
        fitting = [account for account in able if distance(account) == least]
        if request.method.endswith(".list"):  # accounts of one project have the same
            fitting = list({(account.project, account.location): account for account in reversed(fitting)}.values())
        return Candidates.of(fitting), refused

    def exclusions(self, refused: Mapping[str, str], given_up: frozenset[str]) -> list[Exclusion]:
        """See :class:`agm.serving.routing.Routing`."""
        ready = self._pool.eligible(given_up)[0]
        unable = [(account, self._unable(account)) for account in ready if account.name not in refused]
        why = [Exclusion(account, Cause.METHOD, reason) for account, reason in unable if reason is not None]
        return [*self._pool.exclusions(refused, given_up), *why]

    def select(self, accounts: Sequence[Account]) -> AccountChoice:
        """See :class:`agm.serving.routing.Routing`."""
        return self._pool.select(accounts)

    def soonest(self, given_up: frozenset[str]) -> float | None:
        """See :class:`agm.serving.routing.Routing`."""
        accounts = self._context.pool.accounts
        unable = {account.name for account in accounts if self._unable(account) is not None}
        return self._pool.soonest(given_up | unable)

    def recovery(self, verdict: Verdict, given_up: frozenset[str]) -> float:
        """See :class:`agm.serving.routing.Routing`."""
        return self._pool.recovery(verdict, given_up)

    def missing(self, account: Account, body: bytes) -> None:
        """Nothing to note: what the request names is nobody's, as far as is known."""
