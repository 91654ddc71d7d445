"""What a body names: every resource and every model that Google may see in it, whatever its form, at bounded cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core import bodies
from agm.core.bodies import Reading, Unreadable
from tests.core.cuts import unhurried

FILE = "https://generativelanguage.googleapis.com/v1beta/files/a"


def read(body: bytes | dict[str, Any], **most: int) -> Reading:
    """A body, read to its end."""
    reading = Reading(body if isinstance(body, bytes) else json.dumps(body).encode(), **most)
    while reading.go_on():
        pass
    return reading


def names(body: bytes | dict[str, Any]) -> list[str]:
    return list(read(body).names)


def models(body: bytes | dict[str, Any]) -> list[str]:
    return read(body).models


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"contents": [{"parts": [{"fileData": {"fileUri": FILE}}]}]}, ["files/a"]),
        ({"contents": {"parts": {"file_data": {"file_uri": "files/a"}}}}, ["files/a"]),
        ({"cachedContent": "cachedContents/c"}, ["cachedContents/c"]),
        ({"generateContentRequest": {"cached_content": "cachedContents/c"}}, ["cachedContents/c"]),
        (
            {"tools": [{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/s", "fileSearchStores/t"]}}]},
            ["fileSearchStores/s", "fileSearchStores/t"],
        ),
        (
            {"tools": [{"file_search": {"file_search_store_names": ["fileSearchStores/s/documents/d"]}}]},
            ["fileSearchStores/s"],
        ),
        ({"instances": [{"prompt": "on", "video": {"uri": f"{FILE}:download?alt=media"}}]}, ["files/a"]),
        ({"instances": [{"image": {"fileUri": "files/a"}, "lastFrame": {"uri": "files/b"}}]}, ["files/a", "files/b"]),
        ({"fileName": "files/a"}, ["files/a"]),
        ({"batch": {"inputConfig": {"fileName": "files/a"}}}, ["files/a"]),
        ({"batch": {"input_config": {"file_name": "files/a"}}}, ["files/a"]),
        (
            {
                "batch": {
                    "inputConfig": {"requests": {"requests": [{"request": {"cachedContent": "cachedContents/c"}}]}}
                }
            },
            ["cachedContents/c"],
        ),
        ({"operationName": "models/veo/operations/o"}, ["models/veo/operations/o"]),
        ({"name": "fileSearchStores/s/upload/operations/o"}, ["fileSearchStores/s"]),
        ({"tunedModelSource": {"tunedModel": "tunedModels/t"}}, ["tunedModels/t"]),
        ({"contents": [{"parts": [{"functionResponse": {"parts": [{"fileData": {"fileUri": FILE}}]}}]}]}, ["files/a"]),
        ({"a field that is not known yet": [[{"x": "batches/b"}]]}, ["batches/b"]),
        ({"model": "models/m", "uri": "gs://bucket/files/a", "x": "src/files/a"}, []),
    ],
)
def test_a_name_is_found_wherever_it_stands(body: dict[str, Any], found: list[str]) -> None:
    """In any field, in either spelling, at any depth, in lists, by name or by address."""
    assert names(body) == found


@pytest.mark.parametrize(
    "body",
    [
        {"contents": [{"parts": [{"text": "files/a"}]}]},
        {"contents": [{"parts": [{"inlineData": {"data": "files/a"}}]}]},
        {"displayName": "files/a"},
        {"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"uri": "files/a", "of": [["files/b"]]}}}]}]},
        {"contents": [{"parts": [{"function_response": {"response": {"output": ["files/a"]}}}]}]},
        {"tools": [{"functionDeclarations": [{"parameters": {"properties": {"f": {"enum": ["files/a"]}}}}]}]},
        {"generationConfig": {"responseSchema": {"enum": ["files/a"]}}},
    ],
)
def test_what_people_and_tools_say_names_nothing(body: dict[str, Any]) -> None:
    """An agent that lists files must not be held to their owners by what it has read."""
    assert names(body) == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"contents": [{"parts": [{"text": "x"}]},], "cachedContent": "cachedContents/c", "model": "models/m",}',
        b"{'contents': [], 'cachedContent': 'cachedContents/c', 'model': 'models/m'}",
        b'{contents: [], cachedContent: "cachedContents/c", model: "models/m"}',
        b'{ contents :1.5e3,cachedContent\n:\t"cachedContents/c" , x:true,model : "models/m" }',
        b'{"cachedContent": "x", "model": "a", "cachedContent": "cachedContents/c", "model": "models/m"}',
        b'{"cachedContent": "cachedContents/c", "model": "models/m", "cachedContent": "x", "model": ""}',
        rb'{"c\achedContent": "cachedContents\/c", "m\u006fdel": "m\odels\u002Fm"}',
        rb"{'it\'s': 'a\'', cachedContent: 'cachedContent\s/c', 'model': 'models/m'}",
        b'\xef\xbb\xbf/* a "comment" */ {"cachedContent": // "}\n "cachedContents/c", "model" : "models/m" } // end',
        b'{"a": , "b": [,1,], "cachedContent": "cachedContents/c", "model": "models/m"}',
        b'{"t": "%b\\"", "cachedContent": "cachedContents/c", "model": "models/m"}' % (b"x" * 300_000),
        b'{"t": [%b1], "cachedContent": "cachedContents/c", "model": "models/m"}' % (b"1, " * 50_000),
        b"{%bcachedContent: 'cachedContents/c', model%b: 'models/m'}" % (b" " * 200_000, b" " * 200_000),
        b'{"t": "\n\t\x01", "cachedContent": "cachedContents/c", "model": "models/m"}',
    ],
)
def test_what_only_google_takes_for_json_hides_nothing(body: bytes) -> None:
    """Trailing commas, single quotes, names without quotes or twice, escapes of any kind, and any amount of nothing."""
    reading = read(body)
    assert "cachedContents/c" in reading.names
    assert "models/m" in reading.models


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"model": "models/a", "contents": []}, ["models/a"]),
        ({"baseModel": "models/a", "tuningTask": {}}, ["models/a"]),
        ({"base_model": "models/a"}, ["models/a"]),
        (
            {"tuned_model_source": {"tuned_model": "tunedModels/t", "base_model": "models/a"}},
            ["tunedModels/t", "models/a"],
        ),
        ({"batch": {"inputConfig": {"requests": {"requests": [{"request": {"model": "models/a"}}]}}}}, ["models/a"]),
        ({"contents": [{"role": "model", "parts": [{"text": '"model": "models/a"'}]}]}, []),
        ({"contents": [{"parts": [{"functionCall": {"args": {"model": "models/a"}}}]}]}, []),
    ],
)
def test_every_field_that_is_a_model_counts(body: dict[str, Any], found: list[str]) -> None:
    assert models(body) == found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]x",
        b'"model"',
        b"17",
        b'{"a": "b"',
        b'{"a": "b}',
        b'{"a": "b\\"}',
        b'{"a"}',
        b'{"a" "b": 1}',
        b'{"a": "b" : 1}',
        b'{"a": 1 "b": 2}',
        b'{"a": b: 1}',
        b'{"a": {"b": 1]}',
        b'["a": 1]',
        b"{: 1}",
        b'{"a": 1}}',
        b'{"a": 1} {}',
        b"{{}}",
        b"{a/b: 1}",
        b"{a/*: 1, b: */ 1}",
        b'{"a": 1/* */}',
        b"{/* }",
        b"m\0o\0d\0e\0l\0",
        b'{"a": ' + b"[" * 101 + b"]" * 101 + b"}",
        b"\x1f\x8b\x08",
    ],
)
def test_what_cannot_be_read_is_never_passed_over(body: bytes) -> None:
    with pytest.raises(Unreadable):
        read(body)


def test_depth_and_number_are_bounded_and_long_readings_pause() -> None:
    """A hundred levels, as with Google; so many values; and the work of a slice is the same whatever comes."""
    assert names(b'{"a": ' + b"[" * 99 + b'"files/a"' + b"]" * 99 + b"}") == ["files/a"]
    with pytest.raises(Unreadable, match="more than 1000"):
        read(b"[" + b"[]," * 20_000 + b"]", most=1000)
    for body in (
        b"[" + b"[]," * 50_000 + b"]",
        b'{"a": "' + b'\\"' * 100_000 + b'"}',
        b"[" + b'"",' * 100_000 + b"]",
        b"{" + b"a:1," * 100_000 + b"}",
        b"{" + b"/**/" * 100_000 + b"}",
        b"{" + b" " * 10_000_000 + b"}",
    ):
        reading, slices = Reading(body), 1
        while reading.go_on():
            slices += 1
        assert slices > 2, body[:10]


def test_an_image_costs_no_more_than_its_neighbours() -> None:
    """Of a long string the end is looked for; nothing is made of it."""
    body = b'{"contents": [{"parts": [{"inlineData": {"data": "%b"}}, {"fileData": {"fileUri": "files/a"}}]}]}'
    reading = Reading(body % (b"A" * 16_000_000))
    assert not reading.go_on()
    assert list(reading.names) == ["files/a"]


# However it is written, it says the same

_KEYS = st.sampled_from(["model", "baseModel", "fileUri", "uri", "text", "args", "a", "cachedContent", "functionCall"])
_VALUES = st.sampled_from(["files/a", FILE, "models/m", "x", 'it\'s "b"', "cachedContents/c\\", "é/ü", ""])
_DOCUMENTS = st.dictionaries(
    _KEYS,
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), _VALUES),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=3)),
        max_leaves=8,
    ),
    max_size=4,
)


def written(value: object, draw: Callable[[list[str]], str]) -> str:
    """A document in one of the ways in which Google takes it."""
    space = draw(["", " ", "\n", "\t \r\n", "\v\f"])
    if isinstance(value, dict):
        fields = [f"{space}{_name(key, draw)}{space}:{written(inner, draw)}" for key, inner in value.items()]
        return "{" + ",".join(fields) + draw(["", ","] if fields else [""]) + space + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(inner, draw) for inner in value) + draw(["", ","] if value else [""]) + "]"
    if isinstance(value, str):
        return space + _string(value, draw) + space
    return space + json.dumps(value)


def _name(key: str, draw: Callable[[list[str]], str]) -> str:
    return draw([key, _string(key, draw)])


def _string(text: str, draw: Callable[[list[str]], str]) -> str:
    quote = draw(['"', "'"])
    made = ""
    for character in text:
        plain = f"\\{character}" if character in f"{quote}\\" else character
        ways = [plain, plain, plain, f"\\u{ord(character):04x}"]
        made += draw(ways if character in "bfnrtvuU" else [*ways, f"\\{character}"])
    return f"{quote}{made}{quote}"


@unhurried
@given(_DOCUMENTS, st.data())
def test_a_document_says_the_same_in_every_form(document: dict[str, Any], data: st.DataObject) -> None:
    body = written(document, lambda ways: data.draw(st.sampled_from(ways))).encode()
    plain, free = read(document), read(body)
    assert list(free.names) == list(plain.names)
    assert free.models == plain.models


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_unreadable(body: bytes) -> None:
    with suppress(Unreadable):
        read(body)


def test_what_a_string_means_is_what_google_takes_it_for() -> None:
    assert bodies.unescaped(rb"\a\/\u0062\U0063\n\\\ud83d") == b"a/bc\n\\\xed\xa0\xbd"
