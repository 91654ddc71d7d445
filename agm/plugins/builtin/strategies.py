"""
Account selection by ``[pool] strategy``.

``round-robin`` takes turns.  ``least-loaded`` looks at two accounts, the next in turn and another one, and takes the
one with fewer requests under way: with many accounts that spreads them nearly as well as looking at all.  ``priority``
takes turns among the accounts with the lowest number.

``sticky`` keeps a conversation on the account that served it before, its home, so that prompt caches stay warm.  Where
a new conversation goes is a hash of it and the names of those that are ready: every worker, every machine, and the same
one after a restart, sends it to the same account.  It leaves its home when that is no candidate, or when it is clearly
busier than the one that the hash puts next: when it has at least :data:`CROWDED` requests more under way than that one,
and at least twice as many; where that one is as busy, ``least-loaded`` names a third.  Where it has gone to is its home
from then on.

Each strategy costs about the same, however many accounts there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from agm import hookimpl
from agm.config import Config
from agm.core.pool.candidates import Candidates
from agm.core.request import Account, AccountChoice, GatewayRequest

#: Conversations, and models whose turn it is, that are remembered; the longest unused is forgotten first.
REMEMBERED = 10_000
#: A conversation leaves an account that has so many more requests under way than another.
CROWDED = 4


class Strategies:
    """The plugin that picks accounts by the configured strategy."""

    def __init__(self) -> None:
        self._strategy = "sticky"
        self._picks = 0
        #: Who had the last turn, by model.
        self._last: OrderedDict[str, str] = OrderedDict()
        self._homes: OrderedDict[str, str] = OrderedDict()

    @hookimpl(trylast=True)
    def agm_configure(self, config: Config) -> None:
        """Read the strategy."""
        self._strategy = config.pool.strategy

    @hookimpl(trylast=True)
    def agm_select_account(
        self, accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]
    ) -> AccountChoice:
        """One of `accounts`, by the strategy."""
        if len(accounts) == 1:
            conversation = request.body.fingerprint if self._strategy == "sticky" and len(loads) > 1 else None
            if conversation is not None:  # the others rest: a conversation that moves here stays
                return self._settled(conversation, accounts[0], request, "the only candidate")
            return AccountChoice(accounts[0], "the only candidate")
        candidates = accounts if isinstance(accounts, Candidates) else Candidates.of(accounts)
        match self._strategy:
            case "round-robin":
                return AccountChoice(self._in_turn(candidates, request), "round-robin: its turn")
            case "priority":
                best = candidates.first_tier()
                chosen = best[0] if len(best) == 1 else self._in_turn(best, request)
                return AccountChoice(chosen, f"priority {chosen.priority}")
            case "least-loaded":
                chosen = self._of_two(candidates, request, loads)
                return AccountChoice(chosen, "least-loaded: the fewest requests")
        return self._sticky(candidates, request, loads)

    def _sticky(self, candidates: Candidates, request: GatewayRequest, loads: Mapping[str, int]) -> AccountChoice:
        conversation = request.body.fingerprint
        if conversation is None:
            chosen = self._of_two(candidates, request, loads)
            return AccountChoice(chosen, "sticky: no conversation, the fewest requests")
        known = self._homes.get(conversation)
        home = candidates.named(known)
        reason = "sticky: it served this conversation before"
        preferred = candidates.preferred(int(conversation[:16], 16))
        if home is None:
            home = next(preferred)
            reason = "sticky: a new conversation, by its hash"
            if known is not None:
                reason = "sticky: the account of this conversation is not a candidate"
        crowd = loads.get(home.name, 0)
        if crowd < CROWDED:  # as it nearly always is: nobody can be so much less busy
            return self._settled(conversation, home, request, reason)
        other = next(account for account in preferred if account is not home)
        if loads.get(other.name, 0) >= CROWDED:
            third = self._of_two(candidates, request, loads)
            other = third if loads.get(third.name, 0) < loads.get(other.name, 0) else other
        load = loads.get(other.name, 0)
        if crowd - load < CROWDED or crowd < 2 * load:
            return self._settled(conversation, home, request, reason)
        return self._settled(
            conversation, other, request, f"sticky: {home.name} serves {crowd} requests, and this one {load}"
        )

    def _settled(self, conversation: str, home: Account, request: GatewayRequest, reason: str) -> AccountChoice:
        if not request.explaining:
            _remember(self._homes, conversation, home.name)
        return AccountChoice(home, reason)

    def _of_two(self, candidates: Candidates, request: GatewayRequest, loads: Mapping[str, int]) -> Account:
        """Return the less loaded of two: the next in turn, which also wins a tie, and one that is as good as random."""
        count = len(candidates)
        first = self._in_turn(candidates, request)
        if count == 1:
            return first
        # not random: what is explained is what is done next
        step = 1 + (self._picks * 0x9E3779B1 >> 7) % (count - 1)
        second = candidates[(candidates.index(first) + step) % count]
        if not request.explaining:
            self._picks += 1
        return second if loads.get(second.name, 0) < loads.get(first.name, 0) else first

    def _in_turn(self, candidates: Candidates, request: GatewayRequest) -> Account:
        chosen = candidates.in_turn(self._last.get(request.model))
        if not request.explaining:
            _remember(self._last, request.model, chosen.name)
        return chosen


def _remember(known: OrderedDict[str, str], key: str, value: str) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > REMEMBERED:
        known.popitem(last=False)
