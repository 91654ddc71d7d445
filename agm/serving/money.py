"""
Money: what each request costs, who has spent what, and the budgets that client keys, teams and accounts are held to.

A request is held to the budgets of its key and team before it is served, and is charged when its answer has ended.  An
account whose budget is spent is out of the selection until the budget is whole again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger

from agm.config import Config
from agm.config.prices import shipped
from agm.core.alerts import Alert
from agm.core.client_keys import ClientKey
from agm.core.forecast import DayQuotas
from agm.core.money import Prices, tier_of
from agm.core.pool.pool import Pool
from agm.core.request import GatewayRequest, RequestRecord
from agm.core.spending import Budget, Budgets, Spending, Standing
from agm.core.wire.usage import Usage

log = Logger()


class Money:
    """
    What is spent, and what may be.

    :param wall: seconds since the epoch.
    :param alert: takes the alert of each budget that has come to its ``warn_at`` or to its limit.
    """

    def __init__(self, config: Config, pool: Pool, wall: Callable[[], float], alert: Callable[[Alert], object]) -> None:
        self._pool = pool
        self._wall = wall
        self.spending = Spending(wall)
        self.budgets = Budgets(self.spending, wall)
        #: What accounts have served today, and what is known to be all.
        self.quotas = DayQuotas(wall)
        self._alert = alert
        self._accounts: list[Budget] = []
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Go on with other prices and budgets; what was spent stays."""
        self._prices = Prices(shipped(), config.prices)
        self.budgets.configure(config.budgets)
        self._held = bool(config.budgets)
        self._accounts = [it for it in config.budgets if it.what == "account" and it.then == "refuse"]
        self.hold_accounts()

    def hold_accounts(self) -> None:
        """Take accounts out whose budget is spent, and let in those whose budget is not."""
        for name in {budget.name for budget in self._accounts} | self._pool.over_budget:
            spent = self.budgets.spent(f"account:{name}")
            if spent is None:
                self._pool.within_budget(name)
            else:
                self._pool.exceeded_budget(name, f"{spent.amounts()} is spent", spent.seconds_left)

    def admit(self, key: ClientKey | None) -> None:
        """
        Hold a request to the budgets of its client key and that one's team.

        :raises TooManyRequests: if one is spent, with the time at which it begins anew.
        """
        if key is None or not self._held:
            return
        spent = self.budgets.spent(*names_of(key.name, key.team))
        if spent is not None:
            raise spent.error(self._wall())

    def cost(self, request: GatewayRequest, usage: Usage | None) -> float | None:
        """Return the cost of a request that an upstream has answered, in US dollars; None if it is not known."""
        tier = tier_of(request.body.raw) if usage is not None else ""
        return self._prices.cost(request.method, request.model, usage, request.received_at, tier)

    def charge(self, record: RequestRecord) -> None:
        """Charge whoever has made a request, and the account that has answered it; errors cost nothing."""
        now = self._wall()
        self.quotas.note(record.attempts, now)
        if record.account is None or record.outcome == "error":
            return
        request, tokens = record.request, 0 if record.usage is None else record.usage.total
        self.spending.add(now, request.client_key, request.team, record.account, request.model, tokens, record.cost)
        if self._held:
            self._tell([*names_of(request.client_key, request.team), f"account:{record.account}"])

    def _tell(self, names: Sequence[str]) -> None:
        """Tell of budgets that have come to a higher level, and take accounts out."""
        for standing in self.budgets.news(*names):
            budget = standing.budget
            text = describe(standing)
            log.warn("{text}", text=text)
            level = "spent" if standing.used_up else f"{budget.warn_at:.0%}"
            self._alert(
                Alert(
                    "budget",
                    f"{budget.of} per {budget.per}, {level}",
                    text,
                    {
                        "of": budget.of,
                        "per": budget.per,
                        "spent": round(standing.spent, 6),
                        "limit": budget.limit,
                        "seconds_left": round(standing.seconds_left),
                    },
                )
            )
            if budget.what == "account":
                self.hold_accounts()


def describe(standing: Standing) -> str:
    """Describe a budget that has come to its ``warn_at`` or to its limit, in a sentence or two."""
    budget = standing.budget
    what = "is spent" if standing.used_up else f"has reached {budget.warn_at:.0%}"
    then = ""
    if standing.used_up and budget.then == "refuse":
        out = "the account is not used" if budget.what == "account" else "requests are refused"
        then = f" Until it begins anew, {out}."
    return f"The budget of {budget.of} {what}: {standing.amounts()}.{then}"


def names_of(key: str | None, team: str | None) -> list[str]:
    """Return what a client's budgets are by: its key's name, and its team's."""
    return [f"{what}:{name}" for what, name in (("key", key), ("team", team)) if name is not None]
