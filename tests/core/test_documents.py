"""JSON of others is decoded within bounds: not too large, not too many values, not too deep."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core import documents
from agm.core.documents import CROWD, LARGE, MOST_BYTES, MOST_DEPTH, MOST_VALUES


@pytest.mark.parametrize(
    ("document", "bounded"),
    [
        (b'{"error": {"code": 429, "details": [{"@type": "x"}]}}', True),
        (b"", True),
        (b"[" * MOST_DEPTH + b"]" * MOST_DEPTH, True),
        (b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1), False),
        (b'{"a":' * (MOST_DEPTH + 1) + b"1" + b"}" * (MOST_DEPTH + 1), False),
        (b"[" + b"[[]]," * 1000 + b"[]]", True),
        (b'["' + b"[" * 1000 + b'", "\\"[[[", ' + b"[]," * 100 + b"1]", True),
        (b"[" + b'"[", ' * 1000 + b"1]", True),
        (b"[" + b"1," * MOST_VALUES + b"1]", False),
        (b"[" + b"{}" * MOST_VALUES + b"]", False),
        (b'"' + b"x" * MOST_BYTES + b'"', False),
        (b'["' * 1000, False),
        (b"[" * 33 + b'"' + b'\\"' * 100_000, False),
        (b"[]" * 33 + b'"' + b'\\"' * 100_000, True),
    ],
)
def test_what_is_too_much_is_told_before_anything_is_made_of_it(document: bytes, bounded: bool) -> None:
    """Brackets in strings are none, and of those that are side by side each is as deep as one."""
    assert documents.is_bounded(document) is bounded
    if not bounded:
        with pytest.raises(msgspec.DecodeError, match="too"):
            documents.decode(document)


_JSON = st.recursive(
    st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
)


@given(_JSON)
def test_what_is_within_bounds_is_decoded_as_ever(document: object) -> None:
    assert documents.decode(json.dumps(document).encode()) == document


def test_a_dense_document_is_none_that_anybody_looks_through() -> None:
    """A large one of nothing but brackets or values; text has commas, too, but not as many."""
    half = documents.DENSE // 2
    for document in (b"[]" * documents.DENSE + b"[", b"{" * half + b"[" * half + b",", b"1," * documents.DENSE + b"["):
        document += b" " * LARGE
        assert documents.is_dense(document)
        with pytest.raises(msgspec.DecodeError, match="brackets"):
            documents.undense(document)
    for document in (b"[]" * (LARGE // 2), b"x" * 30_000_000, b"some, text" * 900_000, b'{"a":[],' * 300_000, b""):
        assert documents.undense(document) is document


def test_a_small_document_is_never_crowded() -> None:
    """A large one is if it has very many of the mark; where they stand is all the same."""
    assert not documents.is_crowded(b"{" * LARGE, b"{")
    assert not documents.is_crowded(b" " * LARGE + b"{" * (CROWD - 1), b"{")
    assert documents.is_crowded(b"{" * CROWD + b" " * LARGE, b"{")
    assert documents.is_crowded(b" " * LARGE + b"{" * CROWD, b"{")
