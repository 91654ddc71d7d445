"""JSON Schema for Gemini: what it comes to, that it allows what was allowed, and that it ends."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agm.api import InvalidRequest
from agm.dialects.schema import MAX_DEPTH, MAX_NODES, translate
from tests.core.cuts import unhurried

OBJECT = {"type": "object", "properties": {}}
STRING = {"type": "string"}
NODE = {
    "type": "object",
    "properties": {"name": STRING, "next": {"$ref": "#/$defs/Node"}},
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("given_one", "written"),
    [
        (None, {}),
        (True, {}),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", **STRING}, STRING),
        ({"type": "STRING"}, STRING),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"const": 1}, {"type": "integer", "enum": [1]}),
        ({"const": None}, {"type": "null"}),
        ({"type": "string", "const": "a", "description": "d"}, {"type": "string", "enum": ["a"], "description": "d"}),
        ({"enum": [1, 2.5]}, {"type": "number", "enum": [1, 2.5]}),
        ({"enum": [True, False]}, {"type": "boolean"}),
        ({"enum": ["a", None]}, {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}),
        (
            {"type": ["string", "null"], "enum": ["a", None]},
            {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
        ),
        ({"enum": ["a", 1]}, {"enum": ["a", 1]}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        (
            {"type": "string", "enum": ["a"], "nullable": True, "description": "d"},
            {"description": "d", "anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
        ),
        ({"nullable": True}, {}),
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"anyOf": [STRING, {"type": "null"}]}, {"anyOf": [STRING, {"type": "null"}]}),
        ({"oneOf": [STRING, {"type": "integer"}]}, {"anyOf": [STRING, {"type": "integer"}]}),
        ({"anyOf": [STRING, False]}, STRING),
        ({"allOf": [STRING]}, STRING),
        (
            {"allOf": [{"type": "object", "properties": {"a": STRING}}, {"properties": {"b": STRING}}]},
            {"type": "object", "properties": {"a": STRING, "b": STRING}},
        ),
        ({"minimum": 1, "allOf": [{"minimum": 3, "maximum": 9}]}, {"minimum": 3, "maximum": 9}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 1}),
        ({"type": "integer", "exclusiveMaximum": 2.5}, {"type": "integer", "maximum": 2}),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, {"type": "integer", "minimum": 1}),
        ({"items": [STRING], "additionalItems": False}, {"prefixItems": [STRING], "maxItems": 1}),
        ({"prefixItems": [STRING], "items": False}, {"prefixItems": [STRING], "maxItems": 1}),
        ({"items": False, "maxItems": 3}, {"maxItems": 0}),
        ({"prefixItems": [False]}, {"maxItems": 0}),
        ({"patternProperties": {"^(.*)$": STRING}}, {"additionalProperties": STRING}),
        ({"propertyNames": {"type": "string"}, "additionalProperties": {}}, {"additionalProperties": {}}),
        ({"type": "array", "items": True}, {"type": "array", "items": {}}),
        ({"type": "string", "enum": None, "default": None}, {"type": "string", "default": None}),
        (
            {"type": "object", "required": ["a"], "additionalProperties": False, "properties": {"a": STRING}},
            {"type": "object", "required": ["a"], "additionalProperties": False, "properties": {"a": STRING}},
        ),
        ({"type": "object", "required": ["a"]}, {"type": "object", "required": ["a"], "properties": {"a": {}}}),
        (
            {"additionalProperties": False, "properties": {"a": False}},
            {"additionalProperties": False, "properties": {}},
        ),
        (
            {"properties": {"a": {"$ref": "#/definitions/A", "description": "mine"}}, "definitions": {"A": STRING}},
            {"properties": {"a": {"type": "string", "description": "mine"}}},
        ),
        ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": STRING}}, STRING),
        ({"$ref": "#here", "$defs": {"x": {"$anchor": "here", **STRING}}}, {"type": "string"}),
        ({"$id": "https://x/y", "$ref": "https://x/y#/$defs/A", "$defs": {"A": STRING}}, STRING),
        ({"format": "uri", "pattern": "^a", "minLength": 1}, {"format": "uri", "pattern": "^a", "minLength": 1}),
    ],
)
def test_what_can_be_said_is_said(given_one: Any, written: Any) -> None:
    """Keywords that Gemini lists, with nothing told."""
    assert translate(given_one) == (written, ())


@pytest.mark.parametrize(
    ("given_one", "written", "told"),
    [
        ({"not": STRING}, {}, ["/: not: Gemini has nothing for it"]),
        ({"patternProperties": {"^a": STRING}}, {}, ["/: patternProperties: Gemini has nothing for it"]),
        ({"propertyNames": {"maxLength": 3}}, {}, ["/: propertyNames: Gemini has nothing for it"]),
        ({"type": "array", "uniqueItems": True}, {"type": "array"}, ["/: uniqueItems: Gemini has nothing for it"]),
        (
            {"const": True},
            {"type": "boolean"},
            ["/: enum: Gemini lists strings and numbers, so both true and false are allowed"],
        ),
        (
            {"const": {"a": 1}},
            {"type": "object"},
            ["/: enum: Gemini lists strings and numbers, so every object is allowed"],
        ),
        (
            {"properties": {"a/b": {"type": "number", "exclusiveMinimum": 0}}},
            {"properties": {"a/b": {"type": "number", "minimum": 0}}},
            ["/properties/a~1b: exclusiveMinimum: the bound itself is allowed: Gemini has minimum alone"],
        ),
        (
            {"$ref": "https://elsewhere/x", "description": "d"},
            {"description": "d"},
            ["/: $ref: 'https://elsewhere/x' is not in this schema"],
        ),
        (
            {"allOf": [{"pattern": "a"}, {"pattern": "b"}]},
            {"pattern": "a"},
            ["/: allOf: of two different pattern the first is taken"],
        ),
        (False, {}, ["/: false: nothing is allowed by it, and Gemini cannot be told so"]),
        (
            {"oneOf": [STRING, {"maxLength": 3}]},
            {"anyOf": [STRING, {"maxLength": 3}]},
            ["/: oneOf: Gemini reads it as anyOf, and more than one of these may hold"],
        ),
        ({"type": "file"}, {}, ["/: type: 'file' has a type that JSON Schema does not know"]),
        ({"minimum": "1"}, {}, ["/: minimum: it is no number"]),
    ],
)
def test_what_cannot_be_said_is_told_with_its_path(given_one: Any, written: Any, told: list[str]) -> None:
    """Left out, and listed."""
    found = translate(given_one)
    assert found.schema == written
    assert [str(one) for one in found.left_out] == told


def test_alternatives_with_a_tag_are_told_apart() -> None:
    """So oneOf is anyOf, and nothing is told."""
    one = {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]}
    other = {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]}
    assert translate({"oneOf": [one, other]}).left_out == ()


# -- The parameters of a function --------------------------------------------------------------------


@pytest.mark.parametrize("given_one", [None, {}, True, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_function_without_parameters_is_an_object(given_one: Any) -> None:
    """Each way that clients write it."""
    assert translate(given_one, root="object") == (OBJECT, ())


def test_alternatives_of_parameters_become_one_list() -> None:
    """With what all of them require, and told."""
    a = {"type": "object", "properties": {"a": STRING, "x": STRING}, "required": ["a", "x"]}
    b = {"type": "object", "properties": {"b": STRING, "x": {"type": "integer"}}, "required": ["b", "x"]}
    found = translate({"anyOf": [a, b], "description": "d"}, root="object")
    both = {"anyOf": [STRING, {"type": "integer"}]}
    assert found.schema == {
        "type": "object",
        "description": "d",
        "properties": {"a": STRING, "x": both, "b": STRING},
        "required": ["x"],
    }
    assert [one.keyword for one in found.left_out] == ["anyOf"]


def test_parameters_that_are_no_object_are_told() -> None:
    """A function takes none then."""
    found = translate({"type": "string", "description": "d"}, root="object")
    assert found.schema == {"description": "d", **OBJECT}
    assert [one.keyword for one in found.left_out] == ["type"]


# -- Recursion ---------------------------------------------------------------------------------------


def test_a_definition_within_itself_stays_a_reference() -> None:
    """Where the property may be missing, as Google asks."""
    found = translate({"$ref": "#/$defs/Node", "$defs": {"Node": NODE}})
    assert found == ({**NODE, "$defs": {"Node": NODE}}, ())


def test_a_document_within_itself_is_a_definition() -> None:
    """The reference to the root."""
    root = {"type": "object", "properties": {"more": {"type": "array", "items": {"$ref": "#"}}}}
    inner = {"type": "object", "properties": {"more": {"type": "array", "items": {"$ref": "#/$defs/root"}}}}
    assert translate(root) == ({**inner, "$defs": {"root": inner}}, ())


def test_two_definitions_of_one_name_are_kept_apart() -> None:
    """Each in its own right."""
    first = {"properties": {"x": {"$ref": "#/$defs/N"}}, "title": "1"}
    second = {"properties": {"x": {"$ref": "#/definitions/N"}}, "title": "2"}
    found = translate(
        {
            "properties": {"a": {"$ref": "#/$defs/N"}, "b": {"$ref": "#/definitions/N"}},
            "$defs": {"N": first},
            "definitions": {"N": second},
        }
    )
    assert {one["title"] for one in found.schema["$defs"].values()} == {"1", "2"}
    assert found.schema["properties"]["b"]["properties"]["x"] == {"$ref": "#/$defs/N_2"}


def test_a_definition_that_must_contain_itself_is_written_out_and_told() -> None:
    """Google takes no reference there."""
    tree = {
        "type": "object",
        "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/T"}}},
        "required": ["kids"],
    }
    found = translate({"$ref": "#/$defs/T", "$defs": {"T": tree}})
    assert "$ref" not in str(found.schema)
    assert [one.keyword for one in found.left_out] == ["$ref"]
    Draft202012Validator(found.schema).validate({"kids": [{"kids": [{"kids": [{"kids": []}]}]}]})


def test_definitions_that_would_grow_without_bound_stay_references() -> None:
    """Thirty that each use the next twice: a billion, written out."""
    definitions: dict[str, Any] = {
        f"D{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/D{n + 1}"}] * 2} for n in range(30)
    }
    definitions["D30"] = STRING
    found = translate({"$ref": "#/$defs/D0", "$defs": definitions})
    assert found.left_out == ()
    assert _size(found.schema) < 4 * MAX_NODES
    Draft202012Validator(found.schema).validate([[], [[[]]]])
    assert not Draft202012Validator(found.schema).is_valid([[], 5])


def test_what_lies_too_deep_is_cut_and_told() -> None:
    """And never an error of Python's."""
    schema: Any = STRING
    for _ in range(900):
        schema = {"type": "array", "items": schema}
    found = translate(schema)
    assert [one.keyword for one in found.left_out] == ["depth"]
    assert str(found.schema).count("items") == MAX_DEPTH + 1


@pytest.mark.parametrize("keyword", ["anyOf", "allOf", "enum", "prefixItems"])
def test_a_keyword_of_another_shape_is_an_error_with_its_path(keyword: str) -> None:
    """Which the client can mend."""
    with pytest.raises(InvalidRequest, match=f"/properties/a/{keyword}: an array is expected"):
        translate({"properties": {"a": {keyword: {}}}})
    with pytest.raises(InvalidRequest, match="/items: an object, true or false is expected"):
        translate({"items": "string"})


# -- Anything ----------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "ab", 0.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["string", "number", "integer", "boolean", "object", "array", "null"])


def _keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": inner,
            "patternProperties": st.dictionaries(st.sampled_from(["^.*$", "^a"]), inner, max_size=2),
            "propertyNames": st.just({"type": "string"}) | inner,
            "items": inner,
            "prefixItems": some,
            "anyOf": some,
            "oneOf": some,
            "allOf": some,
            "minimum": st.integers(-2, 2),
            "exclusiveMinimum": st.integers(-2, 2),
            "exclusiveMaximum": st.integers(-2, 2) | st.just(0.5),
            "maxItems": st.integers(0, 2),
            "minLength": st.integers(0, 2),
            "not": inner,
            "$ref": st.sampled_from(["#/$defs/a", "#/$defs/b", "#/$defs/c"]),
        },
    )


SCHEMAS = st.recursive(st.booleans() | st.just({}), _keywords, max_leaves=8)
DOCUMENTS = st.builds(
    lambda schema, definitions: {**schema, "$defs": definitions},
    SCHEMAS.filter(lambda schema: isinstance(schema, dict)),
    st.fixed_dictionaries({"a": SCHEMAS, "b": SCHEMAS, "c": SCHEMAS}),
)


@unhurried
@given(document=DOCUMENTS, values=st.lists(VALUES, min_size=1, max_size=6))
def test_what_was_allowed_is_allowed_and_what_is_told_is_all_that_differs(document: Any, values: list[Any]) -> None:
    """Against a validator: wider only, and the same where nothing is told."""
    before = copy.deepcopy(document)
    found = translate(document)
    assert document == before
    Draft202012Validator.check_schema(found.schema)
    for value in values:
        try:
            allowed = Draft202012Validator(document).is_valid(value)
        except RecursionError:  # a definition that is nothing but itself
            continue
        allowed_now = Draft202012Validator(found.schema).is_valid(value)
        assert allowed_now or not allowed, value
        if not found.left_out:
            assert allowed == allowed_now, value


@unhurried
@given(VALUES | DOCUMENTS)
def test_anything_is_translated_or_refused(document: Any) -> None:
    """And the parameters of a function are an object."""
    try:
        found = translate(document, root="object")
    except InvalidRequest:
        return
    assert found.schema["type"] == "object"
    assert isinstance(found.schema["properties"], dict)


def _size(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(_size(one) for one in inner)
