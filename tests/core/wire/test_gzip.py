"""Gzip'd bodies: read whole, whatever the number of their members, at no more cost in memory or time than allowed."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.errors import BodyTooLarge, InvalidRequest
from agm.core.wire import gzip as module
from agm.core.wire.gzip import MAX_MEMBERS, inflate
from tests.core.cuts import unhurried

EMPTY = gzip.compress(b"", mtime=0)


@unhurried
@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=6))
def test_every_member_is_read_in_order(parts: list[bytes]) -> None:
    body = b"".join(gzip.compress(part, mtime=0) for part in parts)
    assert inflate(body, 20_000) == b"".join(parts)


def test_a_body_larger_than_what_zlib_gets_at_once_is_read_whole() -> None:
    text = random.Random(1).randbytes(3_000_000)  # it does not compress
    assert inflate(gzip.compress(text, 1, mtime=0) * 2, len(text) * 2) == text * 2


@pytest.mark.parametrize("limit", [0, 1, 999])
def test_no_more_comes_out_than_is_allowed(limit: int) -> None:
    with pytest.raises(BodyTooLarge, match=f"{limit} bytes"):
        inflate(gzip.compress(b"x" * 1000), limit)
    with pytest.raises(BodyTooLarge):
        inflate(gzip.compress(b"x" * 500) + gzip.compress(b"x" * 500), limit)
    assert inflate(gzip.compress(b"x" * 1000), 1000) == b"x" * 1000


def test_the_number_of_members_is_bounded() -> None:
    assert inflate(EMPTY * MAX_MEMBERS, 0) == b""
    with pytest.raises(InvalidRequest, match="members"):
        inflate(EMPTY * (MAX_MEMBERS + 1), 0)


def test_a_member_costs_no_copy_of_all_that_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """zlib copies what stands behind a member's end, so it is given little at a time."""
    given_bytes = 0
    make = module.zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self._real = make(wbits=wbits)

        def decompress(self, data: memoryview, limit: int) -> bytes:
            nonlocal given_bytes
            given_bytes += len(data)
            return self._real.decompress(data, limit)

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    monkeypatch.setattr(module.zlib, "decompressobj", Counting)
    inflate(EMPTY * 1000, 0)
    assert given_bytes <= 1000 * 1024


@pytest.mark.parametrize("cut", range(1, len(gzip.compress(b"hello", mtime=0))))
def test_a_body_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(InvalidRequest, match="cut short"):
        inflate(gzip.compress(b"hello", mtime=0)[:cut], 100)


@pytest.mark.parametrize("body", [b"{}", b"\x1f\x8b\x08", EMPTY + b"rubbish", EMPTY + b"\x00" * 20, EMPTY[:-1] + b"!"])
def test_what_is_no_gzip_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        inflate(body, 100)


def test_nothing_inflates_to_nothing() -> None:
    assert inflate(b"", 0) == b""
