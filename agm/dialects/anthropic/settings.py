"""How an answer is to be made: Anthropic's parameters as Gemini's, and what of them depends on the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from agm.dialects.base import BadParameter
from agm.dialects.reading import Fields, object_, text
from agm.dialects.schema import translate_encoded

__all__ = ["MOST_OUTPUT", "Thinking", "configuration", "read_thinking"]

#: Tokens that Gemini models say at most; Anthropic's say more, and "may stop before reaching this maximum".
MOST_OUTPUT = 65_536
MOST_STOPS = 5
#: Models whose thinking has levels; the aliases are of the newest ones.
_LEVELS = re.compile(r"(?:.*/)?gemini-(?:[3-9]|\d\d|(?:pro|flash|flash-lite)-latest)")
_TWO_LEVELS = re.compile(r"(?:.*/)?gemini-3-pro")
_BUDGETS = re.compile(r"(?:.*/)?gemini-2\.5-(?P<size>pro|flash-lite|flash)")
_NO_THINKING = re.compile(r"-(?:image|tts|live|native-audio)")
#: The least and the most tokens that may be thought.
_RANGES: Mapping[str, tuple[int, int]] = {"pro": (128, 32768), "flash": (1, 24576), "flash-lite": (512, 24576)}
#: Efforts, as tokens and as a level; as Google does it on its own OpenAI surface.  -1 leaves it to the model.
_EFFORTS: Mapping[str, tuple[int, str]] = {
    "low": (1024, "low"),
    "medium": (8192, "medium"),
    "high": (24576, "high"),
    "xhigh": (32768, "high"),
    "max": (32768, "high"),
}


@attrs.frozen
class Thinking:
    """
    How much is to be thought: `budget` in tokens, -1 for as the model likes, 0 for as little as it can.

    `effort` is Anthropic's word for it; `asked` says whether the client asked for thinking, `shown` whether to see it.
    """

    budget: int = 0
    effort: str | None = None
    asked: bool = False
    shown: bool = False

    def for_model(self, model: str) -> dict[str, Any] | None:
        """Return Gemini's ``thinkingConfig`` for a model; None for one that does not think."""
        if _NO_THINKING.search(model):
            return None
        shown = {"includeThoughts": True} if self.shown else {}
        if _LEVELS.match(model):
            level = self._level(model)
            return {**shown, **({"thinkingLevel": level} if level else {})} or None
        budget = self._tokens()
        if (known := _BUDGETS.match(model)) is None:
            return {**shown, "thinkingBudget": budget} if budget else None
        least, most = _RANGES[known["size"]]
        if budget > 0:
            budget = min(max(budget, least), most)
        elif budget == 0 and known["size"] == "pro":
            budget = least  # it cannot be turned off
        return {**shown, "thinkingBudget": budget}

    def _tokens(self) -> int:
        if self.budget > 0 or self.effort is None:
            return self.budget
        return -1 if self.effort == "high" and self.budget < 0 else _EFFORTS[self.effort][0]

    def _level(self, model: str) -> str:
        if self.budget > 0:
            level = "low" if self.budget <= 2048 else "medium" if self.budget <= 8192 else "high"
        elif self.effort is not None:
            level = _EFFORTS[self.effort][1]
        elif self.budget < 0:
            return ""
        else:
            level = "minimal" if "flash" in model else "low"
        return "high" if level == "medium" and _TWO_LEVELS.match(model) else level


#: For a request that does not ask for any.
NO_THINKING = Thinking()
_MORE = frozenset({"stop_sequences", "output_config", "output_format", "thinking"})


def read_thinking(fields: Fields, effort: str | None) -> Thinking:
    """
    Read ``thinking``; without it, Anthropic's models do not think.

    :raises BadParameter: for a kind that Gemini does not have.
    """
    given = fields.object_("thinking")
    if given is None:
        return Thinking(effort=effort)
    own = Fields(given, "thinking.")
    kind = own.needed("type")
    display = own.one_of("display", "summarized", "omitted")
    if kind == "enabled":
        budget = own.whole("budget_tokens", 1)
        if budget is None:
            raise BadParameter("thinking.budget_tokens", "is missing.")
        found = Thinking(budget, effort, asked=True, shown=display != "omitted")
    elif kind == "adaptive":
        found = Thinking(-1, effort, asked=True, shown=display != "omitted")
    elif kind == "disabled":
        found = Thinking(0, None)
    else:
        raise BadParameter("thinking.type", f"{kind[:40]!r} is not possible for Gemini: adaptive, enabled or disabled.")
    own.end()
    return found


def read_output(fields: Fields, config: dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Read ``output_config``: the effort, and into `config` the format; returns also what of a schema is left out."""
    left_out: tuple[str, ...] = ()
    effort = None
    formats = [(fields.take("output_format"), "output_format")]  # as it was called first
    if (given := fields.object_("output_config")) is not None:
        own = Fields(given, "output_config.")
        effort = own.one_of("effort", *_EFFORTS)
        formats.append((own.take("format"), "output_config.format"))
        own.end()
    for value, place in formats:
        if value is None:
            continue
        wanted = Fields(object_(value, place), f"{place}.")
        wanted.one_of("type", "json_schema")
        schema, not_said = translate_encoded(object_(wanted.take("schema"), f"{place}.schema"))
        wanted.end()
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = schema
        left_out = tuple(f"{place}.schema{one}" for one in not_said)
    return effort, left_out


def configuration(fields: Fields, *, answers: bool = True) -> tuple[dict[str, Any], Thinking, tuple[str, ...]]:
    """
    Read all of it.

    :param answers: whether there is to be an answer, whose length has to be bounded.
    :returns: ``generationConfig`` without what depends on the model, how much to think, and what is left out.
    :raises BadParameter: for what Gemini does not have.
    """
    config: dict[str, Any] = {}
    most = fields.whole("max_tokens", 0)
    if most == 0:
        raise BadParameter("max_tokens", "0 fills Anthropic's prompt cache, and Gemini's cannot be filled so.")
    if most is not None:
        config["maxOutputTokens"] = min(most, MOST_OUTPUT)
    elif answers:
        raise BadParameter("max_tokens", "is missing.")
    for name, own in (("temperature", "temperature"), ("top_p", "topP"), ("top_k", "topK")):
        if (value := fields.number(name)) is not None:
            config[own] = value
    if not fields.any(_MORE):
        return config, NO_THINKING, ()
    stops = [text(one, f"stop_sequences[{n}]") for n, one in enumerate(fields.array("stop_sequences") or [])]
    if len(stops) > MOST_STOPS:
        raise BadParameter("stop_sequences", f"Gemini takes {MOST_STOPS} at most, and these are {len(stops)}.")
    if stops:
        config["stopSequences"] = stops
    effort, left_out = read_output(fields, config)
    return config, read_thinking(fields, effort), left_out
