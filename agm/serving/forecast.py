"""The forecast of a gateway: what comes next for each model, budget and daily limit, as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agm.core.forecast import MAX_MODELS, Outlook, model_document, out_in, times
from agm.core.models import supported_methods
from agm.core.pool.exclusions import Cause
from agm.core.spending import Standing, ends

if TYPE_CHECKING:
    from agm.serving.gateway import Gateway

#: Causes for which an account is none that could serve the model.
_NEVER = frozenset({Cause.METHOD, Cause.MODEL})


def forecast(gateway: Gateway) -> dict[str, Any]:
    """Make the forecast, as a JSON document; docs/money.md has its fields."""
    now = gateway.wall()
    budgets = list(_budgets(gateway, now))
    return {
        "at": round(now, 3),
        "models": [model_document(model, _outlooks(gateway, model, now), now) for model in _models(gateway)],
        "budgets": budgets,
        "client_keys": list(_limits(gateway, now)),
    }


def _models(gateway: Gateway) -> list[str]:
    """Return the models that matter: those that were served today, and those for which an account cools down."""
    known = gateway.pool.remember().values()
    found = [model for model, _ in gateway.money.quotas.models()]
    found += sorted({it.model for of in known for it in of.cooldowns} | {it[0] for of in known for it in of.quotas})
    return list(dict.fromkeys(found or gateway.config.models.list[:1]))[:MAX_MODELS]


def _outlooks(gateway: Gateway, model: str, now: float) -> list[Outlook]:
    """Return what comes next for each account that could serve a model."""
    pool = gateway.pool
    excluded = {it.account.name: it for it in pool.excluded(model, supported_methods(model)[0])}
    found = []
    for account in pool.accounts:
        exclusion = excluded.get(account.name)
        if exclusion is None:
            ends_by = [
                (gateway.money.quotas.out_in(account.name, model), "daily quota"),
                (pool.quota_out_in(account.name, model), "quota"),
                *(
                    (_budget_out(gateway, it, now), f"budget a {it.budget.per}")
                    for it in gateway.money.budgets.of(f"account:{account.name}")
                    if it.budget.then == "refuse"
                ),
            ]
            out, by = min(((seconds, what) for seconds, what in ends_by if seconds is not None), default=(None, ""))
            found.append(Outlook(account.name, out=out, by=by))
        elif exclusion.cause not in _NEVER:
            found.append(Outlook(account.name, exclusion.cause.value, exclusion.reason, exclusion.wait))
    return found


def _budget_out(gateway: Gateway, it: Standing, now: float) -> float | None:
    """Seconds until a budget is spent at the pace that it is being spent; None if it lasts."""
    if it.used_up:
        return 0.0
    seconds = out_in(it.spent, it.budget.limit, now - it.since) if it.since else None
    return seconds if seconds is not None and seconds < it.seconds_left else None


def _budgets(gateway: Gateway, now: float) -> Iterator[dict[str, Any]]:
    for it in gateway.money.budgets.all():
        yield {
            "of": it.budget.of,
            "per": it.budget.per,
            "spent": round(it.spent, 9),
            "limit": it.budget.limit,
            **times("out", _budget_out(gateway, it, now), now),
            **times("begins", it.seconds_left, now),
        }


def _limits(gateway: Gateway, now: float) -> Iterator[dict[str, Any]]:
    """Each daily limit of a client key that is, or at this pace will be, used up today."""
    left = ends("day", now) - now
    for key in gateway.clients.client_keys:
        since = gateway.money.spending.of(f"key:{key.name}", "day").since
        used = gateway.clients.allowances.today(key.name)
        for name, count in zip(("requests_per_day", "tokens_per_day"), used, strict=True):
            limit = getattr(key, name)
            if limit is None:
                continue
            seconds = 0.0 if count >= limit else out_in(count, limit, now - since) if since else None
            if seconds is not None and seconds < left:
                yield {
                    "name": key.name,
                    "limit": name,
                    "value": limit,
                    "used": count,
                    **times("out", seconds, now),
                    **times("begins", left, now),
                }
