"""The two forms of a request that Vertex AI refuses and the Developer API takes."""

from __future__ import annotations

import json

import pytest

from agm.core.wire.envelope import plain_count, with_roles


def test_a_wrapped_count_is_opened_and_loses_what_vertex_does_not_count() -> None:
    body = (
        b'{"generateContentRequest": {"model": "models/m", "contents": [ {"parts": []} ], "safetySettings": [],'
        b' "system_instruction": {"parts": []}, "tools": null}}'
    )
    assert plain_count(body) == b'{"contents":[ {"parts": []} ],"system_instruction":{"parts": []}}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"contents": [{"parts": []}]}',
        b'{ "contents" : [] , "generateContentRequest" : null }',
        b'{"generateContentRequest": 7}',
        b"not JSON",
        b"[]",
        b"",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_any_other_count_stays_as_it_is(body: bytes) -> None:
    assert plain_count(body) == body


def test_a_turn_without_a_role_is_the_user_s_and_all_else_stays() -> None:
    body = b'{"tools": [ 1.0 ], "contents": [{"parts": [ {"text": "\\u00e4"} ]}, {"role": "model", "parts": []}]}'
    fixed = with_roles(body)
    assert fixed == (
        b'{"tools":[ 1.0 ],"contents":[{"role":"user","parts":[ {"text": "\\u00e4"} ]},{"role":"model","parts":[]}]}'
    )
    assert json.loads(fixed)["contents"][0]["role"] == "user"


@pytest.mark.parametrize(
    "body",
    [
        b'{ "contents" : [ { "role" : "user", "parts": [] } ] }',
        b'{"contents": [{"role": "function"}, {"role": ""}]}',
        b'{"contents": []}',
        b'{"contents": {"parts": []}}',
        b'{"contents": ["text"]}',
        b"{}",
        b"not JSON",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_body_that_lacks_no_role_or_cannot_be_read_stays_as_it_is(body: bytes) -> None:
    assert with_roles(body) == body
