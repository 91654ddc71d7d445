"""Values that satisfy the schema they were made for."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agm.emulator.values import SchemaError, example


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "STRING"}, "example city"),
        ({"type": "string"}, "example city"),
        ({}, "example city"),
        (True, "example city"),
        ({"type": "BOOLEAN"}, True),
        ({"type": "NULL"}, None),
        ({"type": ["null", "string"]}, "example city"),
        ({"type": ["null"]}, None),
        ({"const": 7}, 7),
        ({"enum": ["red", "green"]}, "red"),
        ({"type": "STRING", "format": "enum", "enum": ["a"]}, "a"),
        ({"type": "string", "format": "date"}, "2026-01-15"),
        ({"type": "string", "format": "unheard-of"}, "example city"),
        ({"type": "string", "maxLength": 4}, "exam"),
        ({"type": "string", "minLength": 15}, "example city..."),
        ({"type": "string", "pattern": "^[0-9]{5}$"}, "12345"),
        ({"type": "string", "pattern": "^[0-9]+$", "minLength": 3, "maxLength": 3}, "123"),
        ({"type": "string", "pattern": "("}, "example city"),
        ({"type": "string", "pattern": "^zzz$"}, "example city"),
        ({"type": "integer", "minimum": 5, "maximum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 7}, 6),
        ({"type": "integer", "minimum": 50, "multipleOf": 7}, 56),
        ({"type": "integer", "minimum": 8, "maximum": 15, "multipleOf": 7}, 14),
        ({"type": "integer", "minimum": 50, "maximum": 57, "multipleOf": 10}, 50),
        ({"type": "number", "minimum": 0, "maximum": 0.25}, 0.25),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.25, "minimum": 0}, 0.125),
        ({"type": "number", "exclusiveMaximum": 1, "maximum": 3}, 0.5),
        ({"type": "array", "items": {"type": "string"}}, ["example city 1", "example city 2"]),
        ({"items": {"type": "null"}, "minItems": 3}, [None, None, None]),
        ({"type": "array", "items": {"type": "boolean"}, "maxItems": 1}, [True]),
        ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True}, [True]),
        ({"type": "array", "items": {"const": "a"}, "uniqueItems": True, "minItems": 2}, ["a", "a 2"]),
        ({"type": "array", "items": {"const": 1}, "uniqueItems": True, "minItems": 2}, [1, 2]),
        ({"type": "array", "items": {"const": None}, "uniqueItems": True, "minItems": 2}, [None, None]),
        ({"prefixItems": [{"const": 1}, {"const": "x"}]}, [1, "x"]),
        ({"type": "object"}, {}),
        ({"type": "object", "additionalProperties": {"const": 1}}, {"key1": 1}),
        ({"additionalProperties": False}, {}),
        ({"type": "object", "minProperties": 2}, {"key1": "example key1", "key2": "example key2"}),
        ({"type": "object", "required": ["a"]}, {"a": "example a"}),
        ({"anyOf": [{"const": 1}, {"const": 2}]}, 1),
        ({"oneOf": [{"type": "boolean"}]}, True),
        ({"anyOf": [True]}, "example city"),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"a": 1, "b": 2}),
        ({"allOf": [{"required": ["a"]}, {"required": ["a", "b"]}, True], "type": "object"},
         {"a": "example a", "b": "example b"}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"const": 3}}}, 3),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 4}}}, 4),
        ({"ref": "x", "defs": {"x": {"const": 5}}}, 5),
        ({"$ref": "#/nowhere/at/all"}, "example city"),
        ({"$ref": 5, "type": "boolean"}, True),
        ({"minItems": "2", "type": "array", "items": {"type": "boolean"}}, [True, True]),
    ],
)  # fmt: skip
def test_a_value_satisfies_its_schema(schema: Any, value: Any) -> None:
    """Both dialects, every keyword that is read."""
    assert example(schema, name="city") == value


def test_properties_come_in_their_order() -> None:
    """``propertyOrdering`` first, the rest as declared."""
    schema = {"properties": {"a": {}, "b": {}, "c": {}}, "propertyOrdering": ["c", "nonsense"]}
    assert list(example(schema)) == ["c", "a", "b"]


def test_recursive_schemas_end() -> None:
    """Optional recursion stops, required recursion gives up at a depth, alternatives take the simple way out."""
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "n": {"type": "integer"}}, "required": ["n"]}
    assert example(tree)["left"]["left"]["n"] == 1
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert str(example(endless)).count("next") < 50
    either = {"anyOf": [{"type": "array", "items": {"$ref": "#"}, "maxItems": 1}, {"type": "integer"}]}
    assert example(either)
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    assert example(loop) == "example value"


def test_nothing_satisfies_false() -> None:
    """So null has to do."""
    assert example(False) is None


def test_the_seed_chooses() -> None:
    """Other seeds, other values; the same seed, the same value."""
    schema = {"properties": {"e": {"enum": ["a", "b", "c"]}, "n": {"type": "number"}}}
    assert example(schema, seed=4) == example(schema, seed=4) == {"e": "b", "n": 5.5}


@pytest.mark.parametrize("schema", [{"enum": 5}, {"minItems": "x", "type": "array"}, {"properties": 5}, {"anyOf": 5},
                                    {"type": "number", "minimum": "a"}])  # fmt: skip
def test_a_schema_that_makes_no_sense_is_an_error(schema: Any) -> None:
    """Not a traceback in the log."""
    with pytest.raises(SchemaError):
        example(schema)


def test_demands_are_bounded() -> None:
    """A schema cannot make the emulator fill the memory."""
    assert len(example({"type": "array", "minItems": 10**9, "items": {"type": "null"}})) == 1_000
    assert len(example({"type": "string", "minLength": 10**9})) == 100_000
    assert len(example({"type": "object", "minProperties": 10**9})) == 1_000


def test_formats_look_like_what_they_name() -> None:
    """A reader that checks formats is content."""
    assert re.fullmatch(r"[^@]+@[^@]+", example({"type": "string", "format": "email"}))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+Z", example({"type": "string", "format": "date-time"}))
