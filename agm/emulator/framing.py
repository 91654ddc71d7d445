"""
JSON as Google's servers print it, and the framings of a streamed answer.

Three ways to print a document were seen on the wire: pretty (unary answers, errors, elements of a streamed array), one
line with a space after each colon and none after commas (events of the Developer API and Vertex AI), and compact
(events of code-assist).  In all of them ``<``, ``>`` and a few separators are escaped, as protobuf's printer does.

Everything is a pure function of its arguments; nothing is sent from here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import msgspec

JSON_TYPE = "application/json; charset=UTF-8"
SSE_TYPE = "text/event-stream"

_ONE_LINE = json.JSONEncoder(ensure_ascii=False, separators=(",", ": "))

_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"\x7f", b"\\u007f"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def _escape(text: bytes) -> bytes:
    """Escape what protobuf's printer escapes; these bytes only ever occur inside of JSON strings."""
    for plain, escaped in _ESCAPES:
        if plain in text:
            text = text.replace(plain, escaped)
    return text


def compact(document: Any) -> bytes:
    """Return a document without any white space."""
    return _escape(msgspec.json.encode(document))


def one_line(document: Any) -> bytes:
    """Return a document on one line: a space after each colon, none after a comma."""
    return _escape(_ONE_LINE.encode(document).encode())


def pretty(document: Any) -> bytes:
    """Return a document with two spaces of indent and no newline at its end."""
    return _escape(msgspec.json.format(msgspec.json.encode(document), indent=2))


def unary(document: Any, *, pretty_print: bool = True) -> bytes:
    """The body of a unary answer: pretty with a final newline, unless the client asked for ``prettyPrint=false``."""
    return pretty(document) + b"\n" if pretty_print else compact(document)


class Framing(Protocol):
    """How the documents of a streamed answer follow each other."""

    @property
    def content_type(self) -> str:
        """The value of ``Content-Type``."""

    def event(self, index: int, document: Any) -> bytes:
        """Return the bytes of the document with this `index`, counted from 0."""

    def end(self, count: int) -> bytes:
        """Return the bytes after the last of `count` documents."""


@attrs.frozen
class EventStream:
    """Server-sent events, each one ``data:`` line and a blank line, CRLF throughout; the stream simply ends."""

    encode: Callable[[Any], bytes] = one_line
    content_type: str = SSE_TYPE

    def event(self, index: int, document: Any) -> bytes:
        """One event."""
        return b"data: " + self.encode(document) + b"\r\n\r\n"

    def end(self, count: int) -> bytes:
        """Nothing: no ``[DONE]`` was ever seen."""
        return b""


@attrs.frozen
class JsonArray:
    """One JSON array, ``[{…}\\n,\\r\\n{…}\\n]``, with nothing after the bracket."""

    content_type: str = JSON_TYPE

    def event(self, index: int, document: Any) -> bytes:
        """One element, with what separates it from the one before."""
        return (b",\r\n" if index else b"[") + pretty(document) + b"\n"

    def end(self, count: int) -> bytes:
        """Return the closing bracket."""
        return b"]" if count else b"[]"


def error_array(document: Any) -> bytes:
    """An error in place of a streamed answer, as the array framing has it: ``[{…}\\n]``."""
    framing = JsonArray()
    return framing.event(0, document) + framing.end(1)


# google.ai.generativelanguage and google.cloud.aiplatform agree on these numbers.
_ENUM_NUMBERS: dict[str, dict[str, int]] = {
    "finishReason": {
        "FINISH_REASON_UNSPECIFIED": 0,
        "STOP": 1,
        "MAX_TOKENS": 2,
        "SAFETY": 3,
        "RECITATION": 4,
        "OTHER": 5,
    },
    "blockReason": {"BLOCK_REASON_UNSPECIFIED": 0, "SAFETY": 1, "OTHER": 2},
    "category": {
        "HARM_CATEGORY_HARASSMENT": 7,
        "HARM_CATEGORY_HATE_SPEECH": 8,
        "HARM_CATEGORY_SEXUALLY_EXPLICIT": 9,
        "HARM_CATEGORY_DANGEROUS_CONTENT": 10,
    },
    "probability": {"NEGLIGIBLE": 1, "LOW": 2, "MEDIUM": 3, "HIGH": 4},
    "modality": {"TEXT": 1, "IMAGE": 2, "VIDEO": 3, "AUDIO": 4, "DOCUMENT": 5},
    "language": {"LANGUAGE_UNSPECIFIED": 0, "PYTHON": 1},
    "outcome": {"OUTCOME_OK": 1, "OUTCOME_FAILED": 2, "OUTCOME_DEADLINE_EXCEEDED": 3},
    "state": {"STATE_UNSPECIFIED": 0, "PROCESSING": 1, "ACTIVE": 2, "FAILED": 10},
    "source": {"SOURCE_UNSPECIFIED": 0, "UPLOADED": 1, "GENERATED": 2},
    "trafficType": {"TRAFFIC_TYPE_UNSPECIFIED": 0, "ON_DEMAND": 1, "PROVISIONED_THROUGHPUT": 2},
    "urlRetrievalStatus": {"URL_RETRIEVAL_STATUS_SUCCESS": 1},
}

# What the model or the caller wrote: a name in there that happens to be an enum's is data.
_OPAQUE = frozenset({"args", "response", "metadata"})


def enums_as_numbers(document: Any) -> Any:
    """Return the document with its enum values as numbers, for ``$alt=json;enum-encoding=int``."""
    if isinstance(document, dict):
        return {key: _enum_value(key, value) for key, value in document.items()}
    if isinstance(document, Sequence) and not isinstance(document, str):
        return [enums_as_numbers(item) for item in document]
    return document


def _enum_value(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return _ENUM_NUMBERS.get(key, {}).get(value, value)
    return value if key in _OPAQUE else enums_as_numbers(value)
