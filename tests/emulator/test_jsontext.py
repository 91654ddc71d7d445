"""Bodies that are not JSON are refused in Google's words, with the place shown."""

from __future__ import annotations

import json

import pytest

from agm.emulator import jsontext
from agm.emulator.errors import GoogleError


def refused(body: bytes) -> str:
    """What is said of a body, without the words that always come first."""
    with pytest.raises(GoogleError) as caught:
        jsontext.read(body)
    error = caught.value.document()["error"]
    assert error["code"] == 400
    assert error["status"] == "INVALID_ARGUMENT"
    assert error["details"] == [
        {
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"description": error["message"]}],
        }
    ]
    said = error["message"].removeprefix("Invalid JSON payload received. ")
    assert said != error["message"]
    return said


def test_json_is_read() -> None:
    """A good document never meets the scanner."""
    assert jsontext.read(b' {"a": [1, null, "x"]} ') == {"a": [1, None, "x"]}


@pytest.mark.parametrize("body", [b"", b" \r\n"])
def test_an_empty_body_is_an_empty_message(body: bytes) -> None:
    """As Google's front end has it."""
    assert jsontext.read(body) == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"hello", "Unexpected token.\nhello\n^"),
        (b"{", "Unexpected end of string. Expected an object key or }.\n{\n ^"),
        (b"{a: 1}", "Expected an object key or }.\n{a: 1}\n ^"),
        (b'{"a" 1}', 'Expected : between key:value pair.\n{"a" 1}\n     ^'),
        (b'{"a"', 'Unexpected end of string. Expected : between key:value pair.\n{"a"\n    ^'),
        (b'{"a": }', 'Expected a value.\n{"a": }\n      ^'),
        (b'{"a":', 'Unexpected end of string. Expected a value.\n{"a":\n     ^'),
        (b'{"a": 1 "b": 2}', 'Expected , or } after key:value pair.\n{"a": 1 "b": 2}\n        ^'),
        (b'{"a": {}', 'Unexpected end of string. Expected , or } after key:value pair.\n{"a": {}\n        ^'),
        (b"[1 2]", "Expected , or ] after array value.\n[1 2]\n   ^"),
        (b"[[], 1", "Unexpected end of string. Expected , or ] after array value.\n[[], 1\n      ^"),
        (b'["a', 'Closing quote expected in string.\n["a\n   ^'),
        (b'["\\q"]', 'Invalid escape sequence.\n["\\q"]\n  ^'),
        (b'["a\nb"]', 'Invalid control character in string.\n["a\nb"]\n   ^'),
        (b"{} {}", "Parsing terminated before end of input.\n{} {}\n   ^"),
        (b"[true, false, null, -1.5e3, x]", "Unexpected token.\nalse, null, -1.5e3, x]\n                    ^"),
        (b'{"a": "b\\n\\u00e9", "c": [1,', 'Unexpected end of string. Expected a value.\nb\\n\\u00e9", "c": [1,\n'),
        (b'{"a": 1, }', 'Expected an object key or }.\n{"a": 1, }\n         ^'),
        (b'["\\ud800"]', "Invalid unicode code point."),
        (b"[1e999]", "Number exceeds the range of double."),
        (b"{}]", "Parsing terminated before end of input."),
        (b'{"a":' + b"[" * 200, "Message too deep."),
        (b"\xff\xfe", "Encountered non UTF-8 code points."),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(body: bytes, said: str) -> None:
    """The message, twenty characters on either side, and a caret."""
    assert refused(body).startswith(said)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 101 + b"]" * 101,
        b'{"a":' * 101 + b"1" + b"}" * 101,
        b"[" * 5_000,
        b"[" * 5_000 + b"]" * 5_000,
    ],
)
def test_deep_nesting_is_refused(body: bytes) -> None:
    """A hundred levels are enough for any request."""
    assert refused(body).startswith("Message too deep.")


def test_a_wide_document_is_not_a_deep_one() -> None:
    """Many brackets side by side are fine."""
    document = {"a": [{"b": []} for _ in range(300)]}
    assert jsontext.read(json.dumps(document).encode()) == document
