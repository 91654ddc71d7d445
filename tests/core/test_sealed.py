"""Sealed values: opened by whoever has the key, and by nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.sealed import Seal

KEY, NONCE = b"k" * 32, b"n" * 12


@given(st.binary(max_size=200))
def test_what_is_sealed_is_opened_by_the_same_key(value: bytes) -> None:
    """In another process, too; the letters may stand in a URL."""
    sealed = Seal(KEY, b"test").seal(value, NONCE)
    assert Seal(KEY, b"test").open(sealed) == value
    assert sealed.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(("key", "purpose"), [(b"x" * 32, b"test"), (KEY, b"other")])
def test_another_key_or_purpose_does_not_open_it(key: bytes, purpose: bytes) -> None:
    assert Seal(key, purpose).open(Seal(KEY, b"test").seal(b"value", NONCE)) is None


@given(st.integers(min_value=0, max_value=43), st.sampled_from("AZaz09-_"))
def test_a_changed_letter_closes_it(at: int, letter: str) -> None:
    sealed = Seal(KEY, b"test").seal(b"value", NONCE)
    changed = sealed[:at] + letter + sealed[at + 1 :]
    assert Seal(KEY, b"test").open(changed) in ((b"value",) if changed == sealed else (None, b"value"))
    assert changed == sealed or at == len(sealed) - 1 or Seal(KEY, b"test").open(changed) is None


@given(st.text(max_size=80))
def test_what_was_never_sealed_is_not_opened(text: str) -> None:
    assert Seal(KEY, b"test").open(text) is None
