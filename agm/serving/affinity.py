"""
Affinity: a request that names a file, a cached content or the like can be served only by the account that has it.

Who has what is known to :mod:`agm.core.ownership`; here the names are found in a request, and :class:`AffinityRouting`
asks the owner and nobody else: while it cools down, the client is told for how long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from twisted.internet.task import deferLater

from agm.core import documents, ownership
from agm.core.bodies import MOST, Reading, Unreadable
from agm.core.classify import Verdict
from agm.core.errors import InvalidRequest
from agm.core.ownership import Maker
from agm.core.pool.candidates import Candidates
from agm.core.pool.exclusions import Cause, Exclusion
from agm.core.request import Account, AccountChoice, Body, GatewayRequest
from agm.serving.context import ServingContext
from agm.serving.routing import PoolRouting, Routing, VertexRouting
from agm.serving.sharing import check_sees

#: So much of a refusal is looked through for what it is about.
MAX_TOLD = 8 * 1024


def owner_of(context: ServingContext, names: Sequence[str]) -> tuple[str, str] | None:
    """
    Return the account that has what a request names, and one of its resources; None if no owner is known.

    :raises InvalidRequest: if the resources belong to several accounts: no account could serve the request.
    """
    found = _owners(context, names)
    if len(found) > 1:
        raise InvalidRequest(
            f"The request names resources of different accounts of this gateway, {' and '.join(found.values())}; no "
            "account can read them all. Create them anew, in one request after the other that names the first.",
            reason="RESOURCES_OF_DIFFERENT_ACCOUNTS",
        )
    return next(iter(found.items()), None)


def _owners(context: ServingContext, names: Sequence[str]) -> dict[str, str]:
    """Find the accounts that have what is named, and the first resource of each."""
    found: dict[str, str] = {}
    for name in names:
        account = context.ownership.owner(name)
        if account is not None and account in context.credentials:
            found.setdefault(account, name)
    return found


async def pause(context: ServingContext, body: bytes) -> None:
    """Let others be served before a large body is looked through once more."""
    if len(body) > documents.LARGE:
        await deferLater(context.reactor, 0)


async def read(context: ServingContext, body: bytes, *, most: int = MOST, ids: bool = False) -> Reading:
    """
    Read a body; other work of the reactor is done in between if that takes long.

    :param ids: as for :class:`Reading`.
    :raises Unreadable: if it cannot be read.
    """
    reading = Reading(body, most=most, ids=ids)
    while reading.go_on():
        await deferLater(context.reactor, 0)
    return reading


async def names_in(context: ServingContext, body: Body) -> list[str]:
    """
    Return the owned resources that a body names: as far as their owners are known, every one of them.

    Most bodies cost a search of their bytes.  In one that is strict JSON the names are found by what stands around
    them; that is enough where one of them is sure and all belong to one account.  Any other is read as Google reads it.

    :raises InvalidRequest: if it cannot be read.
    """
    raw, collections = body.raw, context.ownership.collections
    if not collections or not raw:
        return []
    if not ownership.may_name(raw, collections) and (b"\\" not in raw or body.strict):
        return []
    await pause(context, raw)
    if body.strict:
        await pause(context, raw)
        found = ownership.written_in(raw, collections)
        if found is not None:
            owners = _owners(context, list(found)).keys()
            if len(owners) < 2 and owners == _owners(context, [name for name, sure in found.items() if sure]).keys():
                return list(found)
    try:
        return list((await read(context, raw)).names)
    except Unreadable as e:
        raise InvalidRequest(
            f"Invalid JSON payload received: {e}. It may name a file or the like, which one account of this gateway "
            "has, so it is not sent to just any of them.",
            reason="BODY_UNREADABLE",
        ) from None


async def route_call(context: ServingContext, request: GatewayRequest, body: bytes, maker: Maker) -> Routing:
    """
    Route a call: to the owner of what it names, if it names something that has one; else to any account.

    :param body: the client's after all plugins' edits.
    :param maker: whose request it is.
    :raises InvalidRequest: if what it names belongs to several accounts, or cannot be read.
    :raises NotFound: if it names what does not answer to its client key.
    """
    tuned = ownership.root(request.model)
    names = [] if tuned is None else [tuned]
    names += await names_in(context, request.body if body is request.body.raw else Body(body))
    check_sees(context, maker, names)
    return route_names(context, request, names)


def to_any(context: ServingContext, request: GatewayRequest) -> Routing:
    """Route to any account that can serve a request of this shape."""
    return PoolRouting(context, request) if request.place is None else VertexRouting(context, request)


def route_names(context: ServingContext, request: GatewayRequest, names: Sequence[str]) -> Routing:
    """
    Route a request that names these resources: to their owner, or to any account if none is known.

    :raises InvalidRequest: if they belong to several accounts.
    """
    owned = owner_of(context, names)
    if owned is None:
        return to_any(context, request)
    owner, resource = owned
    return AffinityRouting(context, request, owner, resource, tuple(names))


@attrs.define(eq=False)
class AffinityRouting:
    """
    Routes to one account only: the `owner` of `resource`.

    :param named: everything that the request names, whoever has it.
    """

    _context: ServingContext
    _request: GatewayRequest
    owner: str
    resource: str
    named: tuple[str, ...]
    _any: PoolRouting = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._any = PoolRouting(self._context, self._request)

    def eligible(self, given_up: frozenset[str]) -> tuple[Candidates, Mapping[str, str]]:
        """See :class:`Routing`: the owner, or nobody."""
        accounts, refused = self._any.eligible(given_up)
        owner = accounts.named(self.owner)
        return Candidates.of(() if owner is None else (owner,)), refused

    def exclusions(self, refused: Mapping[str, str], given_up: frozenset[str]) -> list[Exclusion]:
        """See :class:`Routing`."""
        exclusions = self._any.exclusions(refused, given_up)
        why = f"{self.resource} is not its own"
        others = [a for a in self._context.pool.accounts if a.name != self.owner]
        mine = [e for e in exclusions if e.account.name == self.owner]
        return [*mine, *(Exclusion(account, Cause.OWNER, why) for account in others)]

    def select(self, accounts: Sequence[Account]) -> AccountChoice:
        """See :class:`Routing`."""
        return AccountChoice(accounts[0], f"{self.resource} is its own")

    def soonest(self, given_up: frozenset[str]) -> float | None:
        """See :class:`Routing`."""
        if self.owner in given_up:
            return None
        request = self._request
        for e in self._context.pool.excluded(request.model, request.method, request.version):
            if e.account.name == self.owner:
                return 0.0 if e.cause in (Cause.BUSY, Cause.PROBING) else e.wait
        return 0.0

    def recovery(self, verdict: Verdict, given_up: frozenset[str]) -> float:
        """See :class:`Routing`."""
        return max(verdict.delay or 0.0, self.soonest(given_up) or 0.0) or 1.0

    def missing(self, account: Account, body: bytes) -> None:
        """Forget that an account has what it says that it does not: deleted, expired, or never its own."""
        owners = self._context.ownership
        for name in ownership.refused(self.named, body[:MAX_TOLD].decode("utf-8", "replace")):
            if owners.owner(name) == account.name:
                owners.forget(name)
