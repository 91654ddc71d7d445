"""
Reading a request's JSON, and refusing what is not JSON in Google's words.

Google's parser reports what it expected and shows the text around the place, with a caret below.  A good document never
comes near that: the slow scanner here only runs on a document that the fast parser has refused.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from agm.emulator.errors import GoogleError, Violation, bad_request

#: How much text is shown on either side of the place of an error, as protobuf's JsonStreamParser has it.
_CONTEXT = 20

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
#: Nesting beyond this is refused, as protobuf's parser does.
_MAX_DEPTH = 100
_TOO_DEEP = "Message too deep. Max recursion depth reached."


class _Refused(Exception):
    """What was expected, and where."""

    def __init__(self, expected: str, at: int) -> None:
        super().__init__(expected, at)
        self.expected = expected
        self.at = at


def read(body: bytes) -> Any:
    """
    Return the value that a body holds; an empty body is an empty message.

    :raises GoogleError: 400, for what is not JSON.
    """
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise refusal(body) from None
    # Only a document with many brackets can be a deep one.
    if body.count(b"[") + body.count(b"{") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
        raise _refuse(_TOO_DEEP)
    return value


def _depth(value: Any) -> int:
    """Measure the nesting depth of a value, without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        containers = [one for one in level if isinstance(one, (dict, list))]
        level = [inner for one in containers for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def refusal(body: bytes) -> GoogleError:
    """Return the error for a body that is not JSON."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return _refuse("Encountered non UTF-8 code points.")
    try:
        end = _value(text, _skip(text, 0), 0)
        end = _skip(text, end)
        if end == len(text):
            # The grammar is fine, so it is one of the two things that it does not say.
            surrogate = _SURROGATE.search(text) is not None
            return _refuse("Invalid unicode code point." if surrogate else "Number exceeds the range of double.")
        expected = "Parsing terminated before end of input."
    except _Refused as refused:
        expected, end = refused.expected, refused.at
    before = text[max(0, end - _CONTEXT) : end]
    return _refuse(f"{expected}\n{before}{text[end : end + _CONTEXT]}\n{' ' * len(before)}^")


def _refuse(what: str) -> GoogleError:
    return bad_request([Violation("", f"Invalid JSON payload received. {what}")])


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # the pattern matches nothing, too
    return match.end()


def _value(text: str, at: int, depth: int) -> int:
    """Return where the value that starts at `at` ends."""
    if at >= len(text):
        raise _Refused("Unexpected end of string. Expected a value.", at)
    if depth > _MAX_DEPTH:
        raise _Refused(_TOO_DEEP, at)
    start = text[at]
    if start == "{":
        return _object(text, at + 1, depth)
    if start == "[":
        return _array(text, at + 1, depth)
    if start == '"':
        return _string(text, at + 1)
    for word in ("true", "false", "null"):
        if text.startswith(word, at):
            return at + len(word)
    number = _NUMBER.match(text, at)
    if number is None:
        raise _Refused("Unexpected token." if start not in "}]:," else "Expected a value.", at)
    return number.end()


def _object(text: str, at: int, depth: int) -> int:
    at = _skip(text, at)
    if text[at : at + 1] == "}":
        return at + 1
    while True:
        if at >= len(text):
            raise _Refused("Unexpected end of string. Expected an object key or }.", at)
        if text[at] != '"':
            raise _Refused("Expected an object key or }.", at)
        at = _skip(text, _string(text, at + 1))
        if text[at : at + 1] != ":":
            end = "Unexpected end of string. " if at >= len(text) else ""
            raise _Refused(f"{end}Expected : between key:value pair.", at)
        at = _skip(text, _value(text, _skip(text, at + 1), depth + 1))
        match text[at : at + 1]:
            case "}":
                return at + 1
            case ",":
                at = _skip(text, at + 1)
            case other:
                end = "" if other else "Unexpected end of string. "
                raise _Refused(f"{end}Expected , or }} after key:value pair.", at)


def _array(text: str, at: int, depth: int) -> int:
    at = _skip(text, at)
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        at = _skip(text, _value(text, at, depth + 1))
        match text[at : at + 1]:
            case "]":
                return at + 1
            case ",":
                at = _skip(text, at + 1)
            case other:
                end = "" if other else "Unexpected end of string. "
                raise _Refused(f"{end}Expected , or ] after array value.", at)


def _string(text: str, at: int) -> int:
    while True:
        plain = _PLAIN.match(text, at)
        assert plain is not None  # the pattern matches nothing, too
        at = plain.end()
        match text[at : at + 1]:
            case '"':
                return at + 1
            case "\\":
                escape = _ESCAPE.match(text, at)
                if escape is None:
                    raise _Refused("Invalid escape sequence.", at)
                at = escape.end()
            case "":
                raise _Refused("Closing quote expected in string.", at)
            case _:
                raise _Refused("Invalid control character in string.", at)
