"""JSON and framings to the byte."""

from __future__ import annotations

import json

import pytest

from agm.emulator import framing

DOCUMENT = {"a": [1, {"b": "x"}], "c": {}, "d": []}


def test_an_event_is_one_line_with_spaces_after_colons_only() -> None:
    """The Developer API's and Vertex AI's events."""
    assert framing.EventStream().event(3, DOCUMENT) == b'data: {"a": [1,{"b": "x"}],"c": {},"d": []}\r\n\r\n'


def test_a_code_assist_event_is_compact() -> None:
    """Code-assist's events have no white space at all."""
    stream = framing.EventStream(framing.compact)
    assert stream.event(0, DOCUMENT) == b'data: {"a":[1,{"b":"x"}],"c":{},"d":[]}\r\n\r\n'


def test_an_event_stream_simply_ends() -> None:
    """No [DONE]."""
    assert framing.EventStream().end(2) == b""


def test_unary_json_is_pretty_and_ends_with_a_newline() -> None:
    """Two spaces of indent; empty containers stay on their line."""
    assert framing.unary(DOCUMENT) == (
        b'{\n  "a": [\n    1,\n    {\n      "b": "x"\n    }\n  ],\n  "c": {},\n  "d": []\n}\n'
    )


def test_pretty_printing_can_be_switched_off() -> None:
    """``prettyPrint=false`` gives compact JSON without a newline."""
    assert framing.unary({"a": 1}, pretty_print=False) == b'{"a":1}'


def test_an_array_separates_with_newline_comma_crlf_and_ends_with_its_bracket() -> None:
    """``[{…}\\n,\\r\\n{…}\\n]`` with nothing behind."""
    array = framing.JsonArray()
    body = array.event(0, {"a": 1}) + array.event(1, {"a": 2}) + array.end(2)
    assert body == b'[{\n  "a": 1\n}\n,\r\n{\n  "a": 2\n}\n]'


def test_an_empty_array_is_two_brackets() -> None:
    """A stream of nothing is still JSON."""
    assert framing.JsonArray().end(0) == b"[]"


def test_an_error_array_holds_one_error() -> None:
    """What a stream that never began looks like."""
    assert framing.error_array({"error": {}}) == b'[{\n  "error": {}\n}\n]'


@pytest.mark.parametrize("encode", [framing.compact, framing.one_line, framing.pretty])
def test_what_protobuf_escapes_is_escaped(encode: object) -> None:
    """Angle brackets, DEL and the two line separators; ampersands, quotes and other scripts stay."""
    text = "<b> & 'x' \x7f \u2028\u2029 é 世"
    printed = encode({"t": text})  # type: ignore[operator]
    assert b"\\u003cb\\u003e & 'x' \\u007f \\u2028\\u2029 " + "é 世".encode() in printed
    assert json.loads(printed) == {"t": text}


def test_enums_become_numbers_where_they_are_enums_only() -> None:
    """Function arguments that happen to look like enums are data."""
    document = {
        "candidates": [
            {"finishReason": "STOP", "content": {"parts": [{"functionCall": {"args": {"state": "ACTIVE"}}}]}}
        ],
        "promptFeedback": {"safetyRatings": [{"category": "HARM_CATEGORY_HATE_SPEECH", "probability": "HIGH"}]},
        "usageMetadata": {"promptTokensDetails": [{"modality": "TEXT", "tokenCount": 3}]},
        "modelVersion": "STOP",
    }
    assert framing.enums_as_numbers(document) == {
        "candidates": [{"finishReason": 1, "content": {"parts": [{"functionCall": {"args": {"state": "ACTIVE"}}}]}}],
        "promptFeedback": {"safetyRatings": [{"category": 8, "probability": 4}]},
        "usageMetadata": {"promptTokensDetails": [{"modality": 1, "tokenCount": 3}]},
        "modelVersion": "STOP",
    }
