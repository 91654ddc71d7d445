"""``[[budgets]]``: how much a client key, a team or an account may spend in a day or a month."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from agm.config.prices import shipped
from agm.config.reading import Place, Reading, RefusedError, setting, values_of
from agm.config.tables import ModelsConfig
from agm.config.values import one_of, read_fraction, read_text
from agm.config.words import quote, show
from agm.core.money import Prices
from agm.core.spending import OF, Budget


def read_of(value: object, place: Place) -> str:
    """Return what a budget is for: ``key:NAME``, ``team:NAME`` or ``account:NAME``."""
    text = read_text(value, place)
    what, colon, name = text.partition(":")
    if what not in OF or not colon or not name.strip():
        raise RefusedError(f'{show(text)} is not what a budget is for: write "key:NAME", "team:NAME" or "account:NAME"')
    return text


def read_limit(value: object, place: Place) -> float:
    """US dollars, more than 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e12:
        raise RefusedError(f"expected a number of US dollars, more than 0, not {show(value)}")
    return float(value)


@attrs.frozen(kw_only=True)
class BudgetTable:
    """``[[budgets]]`` as written."""

    of: str = setting(read_of, "", required='say whose it is: of = "key:NAME", "team:NAME" or "account:NAME"')
    per: Literal["day", "month"] = setting(one_of("day", "month"), "month")
    limit: float | None = setting(read_limit, required="write how many US dollars: limit = 200.0")
    warn_at: float = setting(read_fraction, 0.8)
    then: Literal["refuse", "warn"] = setting(one_of("refuse", "warn"), "refuse")


def read_budget(value: object, place: Place) -> Budget:
    """Return a table of ``[[budgets]]``."""
    written = BudgetTable(**values_of(BudgetTable, value, place))
    if written.of and (holder := place.claim("budget", f"{written.of} {written.per}")):
        place.problem(f"is for the same as {holder}, per {written.per}; write one of them")
    return Budget(written.of, written.per, written.limit or 0.0, written.warn_at, written.then)


def check_budgets(of: Mapping[str, Any], reading: Reading) -> None:
    """
    Warn of budgets for what is not in the file, which is a slip of the pen unless a plugin adds it, and of models that
    no budget counts.
    """
    if not of.get("budgets"):
        return
    models = of.get("models") or ModelsConfig()
    prices = Prices(shipped(), of.get("prices"))
    named = dict.fromkeys(
        (*models.list, *models.aliases.values(), *(it for them in models.fallbacks.values() for it in them))
    )
    unpriced = [model for model in named if "*" not in model and prices.of(model, math.inf) is None]
    if unpriced:
        shown = ", ".join(map(show, unpriced[:3])) + (f" and {len(unpriced) - 3} more" if len(unpriced) > 3 else "")
        (Place(reading) / "budgets").warn(
            f"the price of {shown} is not known, so requests for it are in no budget; "
            f"write [prices.{quote(unpriced[0])}], or leave it out of the keys' models"
        )
    auth = of.get("auth")
    keys = () if auth is None else auth.keys
    known = {
        "key": {key.name for key in keys},
        "team": {key.team for key in keys if key.team is not None},
        "account": {account.name for account in of.get("accounts", ())},
    }
    for number, budget in enumerate(of.get("budgets", ())):
        if budget.name not in known[budget.what]:
            place = (Place(reading) / "budgets")[number] / "of"
            what = {"key": "client key", "team": "client key with this team"}.get(budget.what, "account")
            place.warn(
                f"{show(budget.of)}: there is no {what} {budget.name!r} in this file; it holds if a plugin adds one"
            )
