"""How an answer is to be made: OpenAI's parameters as Gemini's ``generationConfig``, and what depends on the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from agm.dialects.base import BadParameter
from agm.dialects.openai.tools import translated
from agm.dialects.reading import Fields, object_

__all__ = ["EFFORTS", "EXTRAS", "for_model", "google_extras", "response_format", "sampling", "thinking"]

#: How much is thought, by OpenAI's word: tokens of the models that count them, and the level of the others.  As Google
#: does it on its own OpenAI surface; what OpenAI has beyond ``high`` is Gemini's highest.
EFFORTS: Mapping[str, tuple[int, str]] = {
    "none": (0, ""),
    "minimal": (1024, "MINIMAL"),
    "low": (1024, "LOW"),
    "medium": (8192, "MEDIUM"),
    "high": (24576, "HIGH"),
    "xhigh": (24576, "HIGH"),
    "max": (24576, "HIGH"),
}
#: Models that have levels, and of these the ones that have no others than low and high.
_LEVELS = re.compile(r"(?:.*/)?gemini-(?:[3-9]|\d\d)")
_TWO_LEVELS = re.compile(r"(?:.*/)?gemini-3-pro")
#: What Google lets stand in the place of a signature for a call that none of its models has made.
NO_SIGNATURE = "skip_thought_signature_validator"
_MOST_SEED = 2**31 - 1
_SAMPLING = (("temperature", "temperature"), ("top_p", "topP"), ("top_k", "topK"))
_SAMPLED = frozenset(name for name, _ in _SAMPLING)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TURNS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def sampling(fields: Fields, config: dict[str, Any]) -> None:
    """Read what is the same in all of OpenAI's endpoints that generate text."""
    for name, own in _SAMPLING if fields.any(_SAMPLED) else ():
        if (value := fields.number(name)) is not None:
            config[own] = value


def seed_of(seed: int) -> int:
    """Return a seed in the range that Gemini has: another for another, as good as always."""
    return seed & _MOST_SEED


def response_format(given: Any, place: str, config: dict[str, Any], *, flat: bool = False) -> tuple[str, ...]:
    """
    Read what form the answer is to have; returns what of a schema is left out.

    :param flat: whether a schema's fields stand beside its type, as in the Responses API.
    :raises BadParameter: for a form that Gemini does not have.
    """
    given = object_(given, place)
    kind = given.get("type")
    if kind == "text":
        return ()
    if kind not in ("json_object", "json_schema"):
        raise BadParameter(f"{place}.type", "one of text, json_object, json_schema is expected.")
    config["responseMimeType"] = "application/json"
    if kind == "json_object":
        return ()
    holder = given if flat else object_(given.get("json_schema"), f"{place}.json_schema")
    at = place if flat else f"{place}.json_schema"
    if holder.get("schema") is None:
        raise BadParameter(f"{at}.schema", "is missing.")
    config["responseJsonSchema"], left_out = translated(holder["schema"], f"{at}.schema", "any")
    return left_out


def thinking(effort: str | None, place: str, config: dict[str, Any]) -> None:
    """Read how much is to be thought; in which of Gemini's two forms is settled when the model is known."""
    if effort is None:
        return
    if effort not in EFFORTS:
        raise BadParameter(place, f"one of {', '.join(EFFORTS)} is expected, not {effort[:40]!r}.")
    config.setdefault("thinkingConfig", {})


#: Where what is Google's own may stand.
EXTRAS = frozenset({"extra_body", "google"})


def google_extras(fields: Fields, body: dict[str, Any], config: dict[str, Any]) -> None:
    """
    Read what OpenAI's API has no place for, as Google's own surface takes it: ``extra_body.google``, or ``google``.

    :raises BadParameter: for a name that is not known there.
    """
    extra = fields.object_("extra_body") or {}
    for holder, place in ((extra.get("google"), "extra_body.google"), (fields.take("google"), "google")):
        if holder is None:
            continue
        given = Fields(object_(holder, place), f"{place}.")
        if (thought := given.object_("thinking_config")) is not None:
            own = Fields(thought, f"{place}.thinking_config.")
            found = config.setdefault("thinkingConfig", {})
            if (budget := own.whole("thinking_budget")) is not None:
                found["thinkingBudget"] = budget
            if (level := own.text("thinking_level")) is not None:
                found["thinkingLevel"] = level
            if (include := own.flag("include_thoughts")) is not None:
                found["includeThoughts"] = include
            own.end()
        if (cached := given.text("cached_content")) is not None:
            body["cachedContent"] = cached
        if (safety := given.array("safety_settings")) is not None:
            body["safetySettings"] = safety
        given.end()
    for name in extra:
        if name != "google":
            raise BadParameter(f"extra_body.{name[:80]}", "only google is known there.")


def for_model(effort: str | None, place: str, *, unsigned: bool) -> Callable[[bytes, str], bytes] | None:
    """
    Return what settles a body for the model that serves it; None where nothing depends on it.

    :param effort: how much is to be thought; None where the request says nothing, or says it in Gemini's words.
    :param place: where that stands.
    :param unsigned: whether a call of an earlier turn has no signature, as one that another model has made.
    """
    if effort is None and not unsigned:
        return None

    def settle(body: bytes, model: str) -> bytes:
        levels = _LEVELS.match(model) is not None
        if not levels and effort is None:
            return body
        document = _FIELDS.decode(body)
        if effort is not None:
            config = _FIELDS.decode(document["generationConfig"])
            thought = msgspec.json.decode(config["thinkingConfig"])
            budget, level = EFFORTS[effort]
            if not levels:
                thought["thinkingBudget"] = budget
            elif effort == "none":
                raise BadParameter(place, f"thinking cannot be turned off for {model}; minimal is the least.")
            else:
                thought["thinkingLevel"] = _level(model, level)
            config["thinkingConfig"] = _raw(thought)
            document["generationConfig"] = _raw(config)
        if unsigned and levels:
            document["contents"] = _raw([_signed(content) for content in _TURNS.decode(document["contents"])])
        return msgspec.json.encode(document)

    return settle


def _signed(content: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Return a turn whose first call has a signature, be it the one that says that there is none."""
    if b'"functionCall"' not in bytes(content["parts"]):
        return content
    parts = _TURNS.decode(content["parts"])
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None and "thoughtSignature" not in first:
        first["thoughtSignature"] = _raw(NO_SIGNATURE)
    return {**content, "parts": _raw(parts)}


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _level(model: str, level: str) -> str:
    """Return the level of a model; the first of them has two."""
    if _TWO_LEVELS.match(model):
        return {"MINIMAL": "LOW", "MEDIUM": "HIGH"}.get(level, level)
    return level
