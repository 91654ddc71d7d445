"""
Account selection by ``[pool] strategy``.

``sticky`` keeps a conversation on the account that served it before, so that prompt caches stay warm, and yields when
that account is not a candidate; a new conversation goes to the account with the fewest requests, in turn among equals.
``round-robin`` takes turns, ``least-loaded`` the fewest requests, ``priority`` the lowest number, in turn among equals.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from agm import hookimpl
from agm.config import Config
from agm.core.request import Account, AccountChoice, GatewayRequest

#: Conversations that are remembered; the longest unused is forgotten first.
REMEMBERED = 10_000


class Strategies:
    """The plugin that picks accounts by the configured strategy."""

    def __init__(self) -> None:
        self._strategy = "sticky"
        self._turn = 0
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
            return AccountChoice(accounts[0], "the only candidate")
        match self._strategy:
            case "round-robin":
                return AccountChoice(self._in_turn(accounts, request), "round-robin: its turn")
            case "priority":
                first = min(account.priority for account in accounts)
                best = [account for account in accounts if account.priority == first]
                return AccountChoice(self._in_turn(best, request), f"priority {first}")
            case "least-loaded":
                return AccountChoice(self._least_loaded(accounts, request, loads), "least-loaded: the fewest requests")
        return self._sticky(accounts, request, loads)

    def _sticky(self, accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]) -> AccountChoice:
        conversation = request.body.fingerprint
        if conversation is None:
            chosen = self._least_loaded(accounts, request, loads)
            return AccountChoice(chosen, "sticky: no conversation, the fewest requests")
        home = self._homes.get(conversation)
        for account in accounts:
            if account.name == home:
                if not request.explaining:
                    self._homes.move_to_end(conversation)
                return AccountChoice(account, "sticky: it served this conversation before")
        chosen = self._least_loaded(accounts, request, loads)
        if not request.explaining:
            self._homes[conversation] = chosen.name
            self._homes.move_to_end(conversation)
            if len(self._homes) > REMEMBERED:
                self._homes.popitem(last=False)
        if home is None:
            return AccountChoice(chosen, "sticky: a new conversation, the fewest requests")
        return AccountChoice(chosen, "sticky: the account of this conversation is not a candidate")

    def _least_loaded(self, accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]) -> Account:
        fewest = min(loads.get(account.name, 0) for account in accounts)
        return self._in_turn([a for a in accounts if loads.get(a.name, 0) == fewest], request)

    def _in_turn(self, accounts: Sequence[Account], request: GatewayRequest) -> Account:
        turn = self._turn
        if not request.explaining:
            self._turn += 1
        return accounts[turn % len(accounts)]
