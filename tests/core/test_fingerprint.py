"""Fingerprints: the same for all requests of a conversation, another for another, and no text in them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.fingerprint import EDGE, WHOLE, fingerprint, look
from tests.core.cuts import unhurried

FIRST = '{"role":"user","parts":[{"text":"hello"}]}'
PLAIN = fingerprint(f'{{"contents":[{FIRST}]}}'.encode())


def test_a_fingerprint_is_32_hexadecimal_digits() -> None:
    """Fit for a field of an upstream, and as long as it is said to be."""
    assert PLAIN is not None
    assert len(PLAIN) == 32
    assert int(PLAIN, 16)


@pytest.mark.parametrize(
    "body",
    [
        f'{{"contents":[{FIRST},{{"role":"model","parts":[]}},{{"role":"user","parts":[{{"text":"more"}}]}}]}}',
        f'{{"systemInstruction":{{"parts":[]}},"tools":[1e999],"contents": [ {FIRST} ] }}',
        f'{{"contents":[{{"role":"model","parts":[1]}},{{"role":"function","parts":[2]}},{FIRST}]}}',
        f'{{"contents":[{{"role":"user"}},{FIRST}]}}',
        '{"contents":[{"parts":[{"text":"hello"}]}]}',
        '{"contents":[{"role":null,"parts":[{"text":"hello"}]}]}',
        '{"contents":[{"role":"","parts":[{"text":"hello"}],"role":""}]}',
        f'{{"contents":{FIRST}}}',
    ],
)
def test_what_does_not_change_the_first_user_turn_does_not_change_the_fingerprint(body: str) -> None:
    """Later turns, other fields, a role that is left out, contents that are one turn instead of a list."""
    assert fingerprint(body.encode()) == PLAIN


def test_another_first_user_turn_is_another_conversation() -> None:
    """Down to the byte."""
    assert fingerprint(b'{"contents":[{"parts":[{"text":"hello!"}]}]}') not in (PLAIN, None)
    assert fingerprint(b'{"contents":[{"parts":[{"text": "hello"}]}]}') not in (PLAIN, None)


@unhurried
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_every_request_of_a_conversation_has_its_fingerprint(texts: list[str]) -> None:
    """Each request repeats the turns before it."""
    turns = [{"role": ("user", "model")[n % 2], "parts": [{"text": text}]} for n, text in enumerate(texts)]
    found = {fingerprint(json.dumps({"contents": turns[: n + 1]}).encode()) for n in range(len(turns))}
    assert len(found) == 1
    assert None not in found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"{",
        b'{"contents":[]}',
        b'{"contents":null}',
        b'{"contents":"hello"}',
        b'{"contents":[5]}',
        b'{"contents":[{"role":"model","parts":[1]}]}',
        b'{"contents":[{"role":5,"parts":[1]}]}',
        b'{"contents":[{"role":"user"}]}',
        b'{"\xff":1}',
        b'{"contents":' + b"[" * 100_000,
    ],
)
def test_a_body_without_a_user_turn_has_no_fingerprint(body: bytes) -> None:
    """Nothing raises, whatever was sent."""
    assert fingerprint(body) is None


@pytest.mark.parametrize("at", [0, EDGE - 100, -EDGE // 2, -1])
def test_a_large_turn_is_told_from_another_by_its_edges_and_its_length(at: int) -> None:
    """Words stand before or after an image."""
    text = bytearray(b"x" * (3 * WHOLE))
    one = fingerprint(b'{"contents":[{"parts":[{"text":"%b"}]}]}' % text)
    longer = fingerprint(b'{"contents":[{"parts":[{"text":"%b"}]}]}' % (text + b"x"))
    text[at] = ord("y")
    other = fingerprint(b'{"contents":[{"parts":[{"text":"%b"}]}]}' % text)
    later = fingerprint(b'{"contents":[{"parts":[{"text":"%b"}]},{"role":"model","parts":[]}]}' % text)
    assert other == later
    assert len({one, longer, other}) == 3


@pytest.mark.parametrize(
    ("more", "plain"),
    [
        ("", True),
        (',"tools":[]', True),
        (',"model":null', False),
        (',"m\\u006fdel":"m"', False),
        (',"sessionId":"s"', False),
        (',"session_id":"s"', False),
    ],
)
def test_a_body_is_plain_if_the_envelope_has_nothing_to_see_to(more: str, plain: bool) -> None:
    """A model or a session of the client's own must be seen, however its name is written."""
    assert look(f'{{"contents":[{FIRST}]{more}}}'.encode())[:2] == (PLAIN, plain)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"contents":[]}', b'{"contents":[{"parts":[1]}]} x'])
def test_a_body_without_a_turn_or_that_is_not_json_is_not_plain(body: bytes) -> None:
    """It must be read again before it is put into an envelope."""
    assert look(body)[:2] == (None, False)


@pytest.mark.parametrize(
    ("body", "strict", "roles"),
    [
        (b'{"contents":[{"role":"user","parts":[]},{"role":"model","parts":[]}]}', True, True),
        (b'{"contents":[{"role":"user","parts":[]},{"parts":[]}]}', True, False),
        (b'{"contents":[{"role":null,"parts":[]}]}', True, False),
        (b"{}", True, False),
        (b'{"contents":[{"role":"user","parts":[]},]}', False, False),
        (b"[]", False, False),
        (b"", False, False),
    ],
)
def test_one_pass_tells_whether_a_body_is_strict_and_every_turn_has_a_role(
    body: bytes, strict: bool, roles: bool
) -> None:
    found = look(body)
    assert (found.strict, found.roles) == (strict, roles)


def test_turns_without_number_are_not_made_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning of them tells the conversation; a model of its own is seen all the same."""
    made: list[str] = []
    monkeypatch.setattr("agm.core.fingerprint._CONVERSATION", made)  # nobody may decode with it
    crowd = b'{"contents":[{"role":"user","parts":[1]},' + b"{}," * 400_000
    first, later = look(crowd + b'{}],"x":1}'), look(crowd + b'{},{"parts":["more"]}],"model":"m"}')
    assert first.fingerprint is not None
    assert first.fingerprint == later.fingerprint
    assert (first.plain, first.strict, later.plain, later.strict) == (True, True, False, True)
    assert look(crowd + b'{}],"x":1').fingerprint is None
    assert look(b"{" + b'"a":{},' * 200_000 + b'"b":{}}') == (None, False, True, False)
