"""
Values that satisfy a schema: JSON output and the arguments of function calls.

Both dialects are read: Gemini's ``Schema`` (types in capitals, ``nullable``, ``format``) and JSON Schema (``$ref``,
``$defs``, ``const``, ``anyOf``/``oneOf``/``allOf``, lists of types).  The same schema and seed give the same value.
A ``pattern`` is tried against a list of likely texts, no more; what cannot be satisfied gets the nearest thing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: Below this depth only what is required is filled in, so that recursive schemas end.
_DEEP = 6
#: A recursion through required fields alone has no finite value.
_TOO_DEEP = 24

_FORMATS = {
    "date-time": "2026-01-15T09:30:00Z",
    "date": "2026-01-15",
    "time": "09:30:00Z",
    "duration": "PT1H30M",
    "email": "ada@example.com",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}

_PATTERN_CANDIDATES = (
    *_FORMATS.values(), "a", "A", "1", "0", "ab", "AB", "abc", "ABC", "Abc", "12", "123", "1234", "12345", "123456",
    "A1", "AB1", "AB12", "ABC123", "ABC-123", "abc-123", "abc_123", "1.0", "1.2.3", "v1.2.3", "+15550100",
    "+12025550100", "555-0100", "#a1b2c3", "en", "en-US", "09:30", "12:34:56", "2026", "EUR", "12.50", "$12.50",
    "Hello", "hello world", "ada", "ada_lovelace", "/a/b", "x" * 8, "x" * 16, "0" * 8, "a1b2c3d4", "0123456789abcdef",
)  # fmt: skip

#: More than this is never made, whatever a schema demands.
_MOST_ITEMS = 1_000
_MOST_CHARACTERS = 100_000

_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


class SchemaError(ValueError):
    """A schema that is none: an ``enum`` that is not a list, a bound that is not a number."""


def example(schema: Any, *, name: str = "value", seed: int = 0) -> Any:
    """
    Return a value that satisfies `schema`; `name` colours the texts in it, `seed` chooses among alternatives.

    :raises SchemaError: for a schema that makes no sense.
    """
    try:
        return _Maker(schema if isinstance(schema, Mapping) else {}, seed).value(schema, name, 0)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as problem:
        raise SchemaError("the schema cannot be read") from problem


class _Maker:
    def __init__(self, root: Mapping[str, Any], seed: int) -> None:
        self._root = root
        self._seed = seed

    def value(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _TOO_DEEP:
            return None if schema is False or depth > _TOO_DEEP else f"example {name}"
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._chosen(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self._alternative(schema, schema[key], name, depth)
        match self._type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return self._string(schema, name)

    def _chosen(self, options: Sequence[Any]) -> Any:
        return options[self._seed % len(options)]

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the schema with its reference followed and its ``allOf`` folded in."""
        for _ in range(_DEEP):
            reference = schema.get("$ref") or schema.get("ref")
            if not isinstance(reference, str):
                break
            target = self._target(reference)
            rest = {key: value for key, value in schema.items() if key not in ("$ref", "ref")}
            schema = {**target, **rest}
        if isinstance(schema.get("allOf"), list):
            merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
            for part in schema["allOf"]:
                if isinstance(part, Mapping):
                    merged = _merged(merged, self._resolved(part))
            return merged
        return schema

    def _target(self, reference: str) -> Mapping[str, Any]:
        place: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/") if reference.strip("#/") else ():
            step = step.replace("~1", "/").replace("~0", "~")
            place = place.get(step) if isinstance(place, Mapping) else None
        if isinstance(place, Mapping):
            return place
        # Gemini's own dialect names a definition without a pointer.
        named = self._root.get("defs", {}).get(reference.rpartition("/")[2])
        return named if isinstance(named, Mapping) else {}

    def _alternative(self, schema: Mapping[str, Any], options: Sequence[Any], name: str, depth: int) -> Any:
        """Return the first alternative; below the depth limit the simplest, so that a recursive one ends."""
        known = [self._resolved(option) for option in options if isinstance(option, Mapping)]
        if depth >= _DEEP:
            known.sort(key=lambda option: self._type(option) in ("object", "array"))
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
        return self.value(_merged(rest, known[0]) if known else rest, name, depth + 1)

    def _type(self, schema: Mapping[str, Any]) -> str:
        given = schema.get("type")
        if isinstance(given, list):
            given = next((one for one in given if str(one).lower() != "null"), "null")
        if isinstance(given, str) and given.lower() in _TYPES:
            return given.lower()
        if "properties" in schema or "additionalProperties" in schema:
            return "object"
        return "array" if "items" in schema or "prefixItems" in schema else "string"

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or ()
        order = [key for key in schema.get("propertyOrdering") or () if key in properties]
        order += [key for key in properties if key not in order]
        made = {key: self.value(properties[key], key, depth + 1) for key in order if depth < _DEEP or key in required}
        made |= {key: f"example {key}" for key in required if key not in properties}
        extra = schema.get("additionalProperties")
        wanted = max(
            min(int(schema.get("minProperties") or 0), _MOST_ITEMS), 1 if isinstance(extra, Mapping) and not made else 0
        )
        for index in range(wanted - len(made)):
            key = f"key{index + 1}"
            made[key] = self.value(extra if isinstance(extra, Mapping) else {}, key, depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems") or []
        least = int(schema.get("minItems") or 0)
        most = int(schema["maxItems"]) if schema.get("maxItems") is not None else None
        length = max(least, len(prefix), 2 if depth < _DEEP and not prefix else 0)
        length = min(length, _MOST_ITEMS if most is None else min(most, _MOST_ITEMS))
        items = schema.get("items", {})
        made: list[Any] = []
        for index in range(length):
            of_item = prefix[index] if index < len(prefix) else items
            maker = _Maker(self._root, self._seed + index)
            item = maker.value(of_item, f"{name} {index + 1}", depth + 1)
            if schema.get("uniqueItems") and item in made:
                if len(made) >= least:
                    break
                item = _varied(item, index)
            made.append(item)
        return made

    def _integer(self, schema: Mapping[str, Any]) -> int:
        return int(self._between(schema, 1.0))

    def _number(self, schema: Mapping[str, Any]) -> float:
        return self._between(schema, 0.5)

    def _between(self, schema: Mapping[str, Any], smallest: float) -> float:
        """Return a number within the bounds; `smallest` is the step off an exclusive bound, 1 for whole numbers."""
        whole = smallest == 1.0
        low, high = schema.get("minimum"), schema.get("maximum")
        if (bound := schema.get("exclusiveMinimum")) is not None:
            bound = math.floor(bound) + 1 if whole else bound + smallest
            low = bound if low is None else max(low, bound)
        if (bound := schema.get("exclusiveMaximum")) is not None:
            bound = math.ceil(bound) - 1 if whole else bound - smallest
            high = bound if high is None else min(high, bound)
        preferred = float(1 + self._seed % 40) + (0.0 if whole else 0.5)
        if low is not None:
            preferred = max(preferred, math.ceil(low) if whole else float(low))
        if high is not None:
            preferred = min(preferred, math.floor(high) if whole else float(high))
        if low is not None and preferred < low:
            preferred = (low + float(high if high is not None else low)) / 2  # the bounds are closer than the step
        step = schema.get("multipleOf")
        if step:
            up = math.ceil(preferred / step) * step
            preferred = up if high is None or up <= high else math.floor(preferred / step) * step
        return preferred

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        text = _FORMATS.get(str(schema.get("format", "")), f"example {name}")
        pattern = schema.get("pattern")
        least = min(int(schema.get("minLength") or 0), _MOST_CHARACTERS)
        most = int(schema["maxLength"]) if schema.get("maxLength") is not None else None
        if isinstance(pattern, str):
            found = _matching(pattern, text, least, most)
            if found is not None:
                return found
        if len(text) < least:
            text = text.ljust(least, ".")
        return text if most is None else text[:most]


def _matching(pattern: str, first: str, least: int, most: int | None) -> str | None:
    try:
        expression = re.compile(pattern)
    except re.error:
        return None
    return next(
        (
            text
            for text in (first, *_PATTERN_CANDIDATES)
            if expression.search(text) and len(text) >= least and (most is None or len(text) <= most)
        ),
        None,
    )


def _varied(item: Any, index: int) -> Any:
    """Another value of the same type, for a list that wants no two alike."""
    if isinstance(item, str):
        return f"{item} {index + 1}"
    if isinstance(item, (int, float)) and not isinstance(item, bool):
        return item + index
    return item


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both schemas at once: properties and requirements together, the rest as the later one has it."""
    merged = {**one, **other}
    if one.get("properties") and other.get("properties"):
        merged["properties"] = {**one["properties"], **other["properties"]}
    if one.get("required") and other.get("required"):
        merged["required"] = [*one["required"], *(name for name in other["required"] if name not in one["required"])]
    return merged
