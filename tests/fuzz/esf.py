"""
JSON as Google's front end takes it: a plain reader by the grammar of protobuf's ``JsonStreamParser``, slow and obvious.

Beside the standard it takes single quotes, names without quotes, trailing commas, nothing where a value should be, any
character behind a backslash, and a name twice.  What the gateway's own reader makes of a body is held against this.
"""

from __future__ import annotations

import re
from typing import Any

_SPACE = b" \t\n\v\f\r"
_NUMBER = re.compile(rb"[-0-9][0-9.eE+x-]*")
_BARE = re.compile(rb"[A-Za-z_$][^\s\"'{}\[\]:,]*")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Refused(Exception):
    """It is not taken."""


class Fields(list[tuple[str, Any]]):
    """An object: its names and values in their order, repeated ones as well."""


def read(body: bytes) -> Any:
    """
    What a body says; objects are :class:`Fields`.

    :raises Refused: if it is not taken.
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused from None
    reader = _Reader(body)
    value = reader.value(0)
    if reader.peek():
        raise Refused
    return value


class _Reader:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def peek(self) -> bytes:
        while self.at < len(self.body) and self.body[self.at] in _SPACE:
            self.at += 1
        return self.body[self.at : self.at + 1]

    def value(self, depth: int) -> Any:
        start = self.peek()
        if depth >= 100 and start in (b"{", b"["):
            raise Refused
        if start == b"{":
            return self.fields(depth)
        if start == b"[":
            return self.items(depth)
        if start in (b'"', b"'") and start:
            return self.string()
        for word in (b"true", b"false", b"null"):
            if self.body.startswith(word, self.at):
                self.at += len(word)
                return word
        number = _NUMBER.match(self.body, self.at)
        if number is None:
            raise Refused
        self.at = number.end()
        return 0

    def fields(self, depth: int) -> Fields:
        found = Fields()
        self.at += 1
        while self.peek() != b"}":
            if self.peek() in (b'"', b"'") and self.peek():
                name = self.string()
            else:
                bare = _BARE.match(self.body, self.at)
                if bare is None or bare[0] in (b"true", b"false", b"null"):
                    raise Refused
                name, self.at = bare[0].decode(), bare.end()
            if self.peek() != b":":
                raise Refused
            self.at += 1
            found.append((name, None if self.peek() in (b",", b"}") and self.peek() else self.value(depth + 1)))
            if self.peek() == b",":
                self.at += 1
            elif self.peek() != b"}":
                raise Refused
        self.at += 1
        return found

    def items(self, depth: int) -> list[Any]:
        found = []
        self.at += 1
        while self.peek() != b"]":
            found.append(None if self.peek() == b"," else self.value(depth + 1))
            if self.peek() == b",":
                self.at += 1
            elif self.peek() != b"]":
                raise Refused
        self.at += 1
        return found

    def string(self) -> str:
        quote, text = self.body[self.at], bytearray()
        self.at += 1
        while self.at < len(self.body):
            byte = self.body[self.at]
            if byte == quote:
                self.at += 1
                return text.decode("utf-8", "replace")
            if byte != 0x5C:
                text.append(byte)
                self.at += 1
                continue
            escaped = self.body[self.at + 1 : self.at + 2]
            if escaped == b"u":
                digits = self.body[self.at + 2 : self.at + 6]
                if not re.fullmatch(rb"[0-9a-fA-F]{4}", digits):
                    raise Refused
                text += chr(int(digits, 16)).encode("utf-8", "replace")
                self.at += 6
            else:
                text += _ESCAPES.get(escaped.decode("latin-1"), "").encode() or escaped
                self.at += 2
        raise Refused
