"""
What requests cost, in US dollars: prices of models, and the cost of a request from its usage.

A price that is not known makes a cost that is not known, which is None and never 0.  Prices are Google's list prices of
the paid tier: what a free tier, a licence or a contract really costs is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import attrs

from agm.core.models import Aliases
from agm.core.wire.usage import Usage

#: Tokens that prices are for.
MILLION = 1_000_000
#: What Google takes of a price for a batch, and for requests that may wait (Flex).
HALF = 0.5
#: Modalities that have a price of their own; tokens of all others, and those that nobody told of, are text's.
_AUDIO, _IMAGE = "AUDIO", "IMAGE"
#: What Google asks nothing for, by the last part of a call's name, and whole calls.
_FREE = frozenset({"countTokens", "computeTokens", "get", "list", "delete", "update", "cancel", "download"})
_FREE_CALLS = frozenset({"auth_tokens.create", "vertex.fetchPredictOperation"})
#: Ways to be served that cost half, and those whose price is another, which is not known.
_HALF = frozenset({"flex", "on_demand_flex", "service_tier_flex", "batch"})
_OTHER = frozenset({"priority", "on_demand_priority", "service_tier_priority", "provisioned_throughput"})
_TIER = re.compile(rb'"service_?[tT]ier"\s*:\s*"([A-Za-z_]{1,40})"')
#: Bytes at either end of a large body in which a tier is looked for.
_EDGE = 16 * 1024


@attrs.frozen(kw_only=True)
class Price:
    """
    The prices of a model, in US dollars per million tokens; None is not known.

    `long_input` and the like are those of requests whose prompt is longer than `long_above` tokens; None there: the
    same.  `image` is per image, for models that count no tokens.
    """

    input: float | None = None
    output: float | None = None
    cached: float | None = None
    audio_input: float | None = None
    audio_cached: float | None = None
    audio_output: float | None = None
    image_output: float | None = None
    image: float | None = None
    long_above: int | None = None
    long_input: float | None = None
    long_output: float | None = None
    long_cached: float | None = None

    @classmethod
    def plain(cls, **written: float | int | None) -> Price:
        """Make a price of what a person has written: what is left out costs the same as text does."""
        input_, output = written.get("input"), written.get("output")
        for name, same in (("cached", input_), ("audio_input", input_), ("audio_output", output)):
            written.setdefault(name, same)
        written.setdefault("audio_cached", written["cached"])
        written.setdefault("image_output", output)
        return cls(**written)  # type: ignore[arg-type]

    def of(self, usage: Usage) -> float | None:
        """
        Return the cost of a request, before any discount.

        :returns: None if a price that it takes is not known.
        """
        long = self.long_above is not None and usage.prompt > self.long_above
        input_ = self.long_input if long and self.long_input is not None else self.input
        output = self.long_output if long and self.long_output is not None else self.output
        cached = self.long_cached if long and self.long_cached is not None else self.cached
        if not usage.modalities and input_ is not None and output is not None and not usage.cached + usage.images:
            return ((usage.prompt + usage.tool) * input_ + (usage.output + usage.thoughts) * output) / MILLION
        told = dict.fromkeys((("prompt", _AUDIO), ("cached", _AUDIO), ("output", _AUDIO), ("output", _IMAGE)), 0)
        for of, modality, count in usage.modalities:
            if (of, modality) in told:
                told[of, modality] += count
        heard = min(told["prompt", _AUDIO], usage.prompt)
        heard_cached = min(told["cached", _AUDIO], usage.cached)
        spoken, drawn = told["output", _AUDIO], told["output", _IMAGE]
        written = max(usage.output - spoken - drawn, 0) + usage.thoughts
        read = max(usage.prompt - usage.cached - max(heard - heard_cached, 0), 0) + usage.tool
        parts = (
            (read, input_),
            (usage.cached - heard_cached, cached),
            (max(heard - heard_cached, 0), self.audio_input),
            (heard_cached, self.audio_cached),
            (written, output),
            (spoken, self.audio_output),
            (drawn, self.image_output),
        )
        cost = 0.0
        for count, price in parts:
            if count > 0:
                if price is None:
                    return None
                cost += count * price
        if usage.images:
            if self.image is None:
                return None
            cost += usage.images * self.image * MILLION
        return cost / MILLION


class Prices:
    """
    The prices of all models: those that ship, each from a date on, and before them a person's own.

    :param shipped: by model, each with the time in seconds since the epoch from which it holds, ascending.
    :param own: by model, or by a pattern with ``*``.
    """

    def __init__(
        self, shipped: Mapping[str, Sequence[tuple[float, Price]]], own: Mapping[str, Price] | None = None
    ) -> None:
        self._shipped = shipped
        self._own = dict(own or {})
        self._patterns = Aliases({pattern: pattern for pattern in self._own})

    def of(self, model: str, at: float) -> Price | None:
        """Return the price of a model at a time, in seconds since the epoch; None if it is not known."""
        if self._own:
            rule = self._patterns.match(model)
            if rule is not None:
                return self._own[rule.pattern]
        found = None
        for since, price in self._shipped.get(model, ()):
            if since <= at:
                found = price
        return found

    def cost(self, method: str, model: str, usage: Usage | None, at: float, tier: str = "") -> float | None:
        """
        Return the cost of a request in US dollars; None if it is not known.

        :param method: Google's name for the call.
        :param model: that served it.
        :param usage: None if the upstream has told of none.
        :param at: when it came, in seconds since the epoch.
        :param tier: as :func:`tier_of` gives it; what the upstream has told counts before that.
        """
        if usage is None:
            return 0.0 if is_free(method) else None
        tier = (usage.tier or tier).lower()
        price = None if tier in _OTHER else self.of(model, at)
        cost = None if price is None else price.of(usage)
        return cost * HALF if cost is not None and tier in _HALF else cost


def tier_of(body: bytes) -> str:
    """Tell which service tier a request's body asks for; empty where it names none."""
    if len(body) > 4 * _EDGE:
        body = body[:_EDGE] + body[-_EDGE:]
    if b'"service' not in body:
        return ""
    found = _TIER.search(body)
    return "" if found is None else found[1].decode("ascii")


def is_free(method: str) -> bool:
    """Tell whether Google asks nothing for a call, whatever it does."""
    if method.rpartition(".")[2] in _FREE or method in _FREE_CALLS:
        return True
    return method.startswith(("files.", "openai.files."))


def known(cost: float, unpriced: int) -> float | None:
    """Return a sum of costs; None where nothing of it is known, so that nobody takes that for 0."""
    return None if unpriced and not cost else cost


def dollars(amount: float | None) -> str:
    """Return an amount as people read it: in cents, or as fine as a small one needs."""
    if amount is None:
        return "unknown"
    if amount and abs(amount) < 0.1:
        return f"${amount:.6f}".rstrip("0")
    return f"${amount:,.2f}"
