"""``/_agm/usage``: what client keys, teams, accounts and models have used today and this month, and the budgets."""

from __future__ import annotations

from typing import Any

from agm.config.prices import dated
from agm.core.money import known
from agm.core.spending import PERS, Standing, Sums, period
from agm.serving.gateway import Gateway
from agm.web.admin.base import AdminResource
from agm.web.base import Visit

#: How the document calls what there is spending of.
_LISTS = {"keys": "key", "teams": "team", "accounts": "account", "models": "model"}
_LEVELS = ("ok", "warning", "spent")


def describe_usage(gateway: Gateway) -> dict[str, Any]:
    """Describe it as a JSON document; docs/money.md has its fields."""
    spending, now = gateway.money.spending, gateway.wall()
    return {
        "at": round(now, 3),
        **{per: period(per, now) for per in PERS},
        "prices_dated": dated().isoformat(),
        **{
            named: [
                {"name": name, **{per: _sums(spending.of(f"{what}:{name}", per)) for per in PERS}}
                for name in sorted(spending.names(what))
            ]
            for named, what in _LISTS.items()
        },
        "budgets": [describe_budget(it) for it in gateway.money.budgets.all()],
    }


def _sums(sums: Sums) -> dict[str, Any]:
    return {
        "requests": sums.requests,
        "tokens": sums.tokens,
        "cost": known(round(sums.cost, 9), sums.unpriced),
        "unpriced": sums.unpriced,
    }


def describe_budget(standing: Standing) -> dict[str, Any]:
    """How a budget stands, as a JSON document; amounts are in US dollars."""
    budget = standing.budget
    return {
        "of": budget.of,
        "per": budget.per,
        "limit": budget.limit,
        "spent": round(standing.spent, 9),
        "warn_at": budget.warn_at,
        "then": budget.then,
        "state": _LEVELS[standing.level],
        "seconds_left": round(standing.seconds_left, 1),
        "unpriced": standing.unpriced,
    }


class Usage(AdminResource):
    """``GET /_agm/usage``: what was used today and this month, and how the budgets stand."""

    async def respond_to_admin(self, visit: Visit) -> None:
        self.tell(visit, describe_usage(self.gateway))
