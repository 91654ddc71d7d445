"""
``[prices."MODEL"]``: what requests cost, before the dated table that ships as ``prices.toml`` beside this module.
"""

import datetime
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import attrs

from agm.config.reading import Place, RefusedError, setting, values_of
from agm.config.values import read_text, whole_number
from agm.config.words import quote, shorten, show, sort_of
from agm.core.money import Price


def read_price(value: object, place: Place) -> float:
    """US dollars per million tokens, or per image; 0 for what costs nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(f"expected a number of US dollars, not {show(value)}")
    if not 0 <= value <= 1_000_000:
        raise RefusedError(f"{show(value)} is not a price: US dollars, 0 or more")
    return float(value)


@attrs.frozen(kw_only=True)
class PriceTable:
    """``[prices."MODEL"]`` as written."""

    input: float | None = setting(read_price)
    output: float | None = setting(read_price)
    cached: float | None = setting(read_price)
    audio_input: float | None = setting(read_price)
    audio_cached: float | None = setting(read_price)
    audio_output: float | None = setting(read_price)
    image_output: float | None = setting(read_price)
    image: float | None = setting(read_price)
    long_above: int | None = setting(whole_number(1, 10**9))
    long_input: float | None = setting(read_price)
    long_output: float | None = setting(read_price)
    long_cached: float | None = setting(read_price)


def read_prices(value: object, place: Place) -> Mapping[str, Price]:
    """Return the table ``[prices]``: any names of models, each with a table of its prices."""
    if not isinstance(value, dict):
        raise RefusedError(f"expected a table, not {sort_of(value)}")
    found = {}
    for name, prices in value.items():
        at = place / name
        if isinstance(prices, dict) and any(isinstance(inner, dict) for inner in prices.values()):
            # `[prices.gemini-2.5-flash]` without quotes is a table `gemini-2` with a key `5-flash`
            inner = shorten(next(key for key, it in prices.items() if isinstance(it, dict)))
            at.problem(f"is no model; quote a name with a dot: [prices.{quote(f'{name}.{inner}')}]")
            continue
        for model in at.take(read_text, name):
            for written in at.take(lambda it, here: values_of(PriceTable, it, here), prices):
                if not written and isinstance(prices, dict) and not prices:
                    at.problem("has no price; write input and output, in US dollars per million tokens")
                found[model] = Price.plain(**written)
    return MappingProxyType(found)


@cache
def shipped() -> Mapping[str, tuple[tuple[float, Price], ...]]:
    """Google's list prices as they ship, by model: each with the time from which it holds, ascending."""
    document = _document()
    found: dict[str, list[tuple[float, Price]]] = {}
    for row in document["models"]:
        prices = {name: value for name, value in row.items() if name not in ("names", "since")}
        since = 0.0
        if "since" in row:
            since = datetime.datetime.combine(row["since"], datetime.time(), datetime.UTC).timestamp()
        for model in row["names"]:
            found.setdefault(model, []).append((since, Price(**prices)))
    return MappingProxyType({model: tuple(sorted(of, key=lambda it: it[0])) for model, of in found.items()})


def dated() -> datetime.date:
    """Return when the prices that ship were looked up."""
    day: datetime.date = _document()["dated"]
    return day


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("prices.toml").read_text(encoding="utf-8"))
