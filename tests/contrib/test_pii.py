"""What personal data looks like, and what is left as it is."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.contrib.pii import PIECE, Redaction, Settings, is_card, told


def redacted(text: str, **settings: Any) -> str:
    return Redaction(Settings(**settings)).text(text, Counter())


def document(value: Any, **settings: Any) -> tuple[Any, Counter[str]]:
    counts: Counter[str] = Counter()
    Redaction(Settings(**settings)).document(value, counts)
    return value, counts


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to ada@example.com, please", "write to [EMAIL], please"),
        ("ada.b+c_d'f-g@mail.example.co.uk.", "[EMAIL]."),
        ("<ada@example.com>;bob@example.org", "<[EMAIL]>;[EMAIL]"),
        ("mailto:ada%40example.com?x", "mailto:[EMAIL]?x"),
        ("https://x.example/?to=ada@example.com&b", "https://x.example/?to=[EMAIL]&b"),
        ("邮箱ada@example.com。", "邮箱[EMAIL]。"),
        ("post@bücher.example", "[EMAIL]"),
        ("-" * 100 + "ada@example.com", "-" * 100 + "[EMAIL]"),
        # JSON within a text, as the arguments of a function are
        ('{"to": "ada\\u0040example.com"}', '{"to": "[EMAIL]"}'),
        ('{"to": "ada\\u0040example\\u002ecom"}', '{"to": "[EMAIL]"}'),
        ('{"x": "one\\nada@example.com"}', '{"x": "one\\n[EMAIL]"}'),
        ('{"x": "\\u00e9ada@example.com"}', '{"x": "\\u00e9[EMAIL]"}'),
        ("an @ sign, @home, a@b, x@y.z", "an @ sign, @home, a@b, x@y.z"),
        ("@decorator\ndef f(a): return a @ b.T", "@decorator\ndef f(a): return a @ b.T"),
    ],
)
def test_addresses_of_e_mail(text: str, left: str) -> None:
    assert redacted(text) == left
    assert redacted(text, find=["phone", "card"]) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("call +49 30 901820-0 now", "call [PHONE] now"),
        ("+14155552671", "[PHONE]"),
        ("+1 (415) 555-2671, home", "[PHONE], home"),
        ("+44 (0)20 7946 0958", "[PHONE]"),
        ("0049 30 9018200", "[PHONE]"),
        ("(415) 555-2671 or 415.555.2671", "[PHONE] or [PHONE]"),
        ("tel:415-555-2671", "tel:[PHONE]"),
        ("+49 30 1234567 2026-12-01 is the day", "[PHONE]-12-01 is the day"),
        ("on 2026-12-01T06:30:00Z, 10.0.0.1, 3.14159265358979", "on 2026-12-01T06:30:00Z, 10.0.0.1, 3.14159265358979"),
        ("+1, 2 + 3 = 5, 1+1", "+1, 2 + 3 = 5, 1+1"),
        ("00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000000"),
        ("order 415-555-26712", "order 415-555-26712"),
    ],
)
def test_numbers_of_telephones(text: str, left: str) -> None:
    assert redacted(text) == left
    assert redacted(text, find=["email"]) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("card 4111 1111 1111 1111, 12/27", "card [CARD], 12/27"),
        ("4111-1111-1111-1111", "[CARD]"),
        ("4111111111111111", "[CARD]"),
        ("3782 822463 10005", "[CARD]"),
        ("4111 1111 1111 1111 123", "[CARD] 123"),
        ("555 4111 1111 1111 1111", "555 [CARD]"),
        ("5555555555554444 and 4111111111111111", "[CARD] and [CARD]"),
        ('{"card": "x\\n4111111111111111"}', '{"card": "x\\n[CARD]"}'),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("1111 1111 1111 1117", "1111 1111 1111 1117"),
        ("0.4111111111111111", "0.4111111111111111"),
        (
            "projects/p/locations/l/cachedContents/4111111111111111",
            "projects/p/locations/l/cachedContents/4111111111111111",
        ),
        ("41111111111111111111111111", "41111111111111111111111111"),
    ],
)
def test_numbers_of_cards(text: str, left: str) -> None:
    assert redacted(text) == left


def test_patterns_of_ones_own_come_first_and_are_called_as_their_names() -> None:
    patterns = {"STAFF": r"E-\d{6}", "HOST": r"\b\w+@example\.com"}
    assert redacted("E-123456 wrote to ada@example.com", patterns=patterns) == "[STAFF] wrote to [HOST]"
    assert redacted("E-123456 wrote to ada@example.com", patterns=patterns, find=[]) == "[STAFF] wrote to [HOST]"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [("(", "is no regular expression: "), ("x*", "finds nothing at all, everywhere; make it longer")],
)
def test_a_pattern_that_is_none_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"[plugins.pii_redactor.patterns] P {why}")):
        Redaction(Settings(patterns={"P": pattern}))


def test_a_document_is_looked_through_to_its_keys_and_numbers() -> None:
    found, counts = document(
        {
            "model": "models/gemini-2.5-flash",
            "contents": [
                {"role": "user", "parts": [{"text": "I am ada@example.com"}, {"inlineData": {"data": "QUJD"}}]},
                {"parts": [{"functionCall": {"name": "pay", "args": {"card": 4111111111111111, "n": 12}}}]},
                {"parts": [{"functionResponse": {"response": {"ada@example.com": 1, "bob@example.com": [2, None]}}}]},
            ],
        }
    )
    assert found["contents"][0]["parts"] == [{"text": "I am [EMAIL]"}, {"inlineData": {"data": "QUJD"}}]
    assert found["contents"][1]["parts"][0]["functionCall"]["args"] == {"card": 0, "n": 12}
    assert found["contents"][2]["parts"][0]["functionResponse"]["response"] == {"[EMAIL]": 1, "[EMAIL] 2": [2, None]}
    assert told(counts) == "1 CARD, 3 EMAIL"


def test_media_and_signatures_pass_and_long_texts_do_not() -> None:
    media = "QUJD+4915155512345678" * 100
    found, counts = document({"data": media, "text": "x" * 300 + " ada@example.com"})
    assert found == {"data": media, "text": "x" * 300 + " [EMAIL]"}
    assert counts == {"EMAIL": 1}


@pytest.mark.parametrize("find", ["ada@example.com", "+49 30 901820-0", "4111 1111 1111 1111", "E-123456"])
def test_a_long_text_is_looked_through_in_pieces_and_nothing_is_lost_between_them(find: str) -> None:
    redaction = Redaction(Settings(patterns={"STAFF": r"E-\d{6}"}))
    for at in range(PIECE - 25, PIECE + 5):
        counts: Counter[str] = Counter()
        text = f"{'x ' * PIECE}"[:at] + f" {find} " + "y " * PIECE
        left = redaction.text(text, counts)
        assert counts.total() == 1, at
        assert find not in left
        assert len(text) - len(find) + 7 == len(left) + 7 - len(re.findall(r"\[\w+\]", left)[0])


def test_a_large_document_is_looked_through_in_steps() -> None:
    counts: Counter[str] = Counter()
    document = {"text": "ada@example.com " * PIECE, "parts": [{"text": "bob@example.com"}] * 5000}
    steps = sum(1 for _ in Redaction(Settings()).steps(document, counts))
    assert steps > 20
    assert counts["EMAIL"] > PIECE
    assert "@" not in str(document)


def test_a_deep_document_is_no_trouble() -> None:
    deep: Any = {"text": "ada@example.com"}
    for _ in range(5000):
        deep = [deep]
    found, counts = document({"x": deep})
    assert counts == {"EMAIL": 1}
    while isinstance(found, list) or "x" in found:
        found = found[0] if isinstance(found, list) else found["x"]
    assert found == {"text": "[EMAIL]"}


@given(st.text(alphabet="0123456789 +-()./@abz\\u%n", max_size=300))
def test_what_is_left_has_nothing_that_would_be_found_again(text: str) -> None:
    redaction = Redaction(Settings(find=["email", "card"]))
    assert not redaction.spans(redaction.text(text, Counter()))


@pytest.mark.parametrize(
    "piece", ["1 2 3 4 ", "123 456 ", "+1 ", "00 1", "4", "a@", "a.", "@a", "%40a.", "\\u0040", "x"]
)
def test_texts_that_are_made_to_be_slow_are_not(piece: str) -> None:
    redacted(piece * 20_000)  # a search that is not linear would not come back within any test's time


def test_the_sum_of_a_card() -> None:
    assert [is_card(number) for number in ("378282246310005", "4111111111111111", "4111111111111112", "0", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]
