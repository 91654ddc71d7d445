"""
JSON from others, decoded and laid out within bounds.

A document of a few kilobytes that is nothing but brackets becomes many megabytes when it is indented, and one of some
megabytes holds the process for seconds while values are made of it.  What upstreams say of errors, lists and models is
decoded here, and what the gateway shows of a request.  Typed decoding that skips what nobody asked for needs no bounds:
it makes nothing of what it skips.  But what it makes one by one, fields or turns, must not be too many: see
:func:`is_crowded`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

#: A document is decoded if it is not larger than this, has no more values, as far as commas and brackets tell, and is
#: not nested deeper.  Google's own have some thousand values at most, and a depth of ten.
MOST_BYTES = 4 * 1024 * 1024
MOST_VALUES = 50_000
MOST_DEPTH = 32

#: A larger document is looked at before it is skipped through, or fields or turns are made of it.
LARGE = 1024 * 1024
#: It is busy if it has more brackets or commas, and crowded if it has more of what things are made of.
BUSY = 5_000
CROWD = 50_000
#: Even what makes nothing takes its time for so many brackets and commas: no request consists of as many.
DENSE = 1_000_000

_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|([\[{])|([\]}])', re.DOTALL)


def decode(document: bytes) -> Any:
    """
    Decode a document.

    :raises msgspec.DecodeError: if it is no JSON, or none that is within bounds.
    :raises UnicodeDecodeError: if it is not UTF-8.
    """
    if not is_bounded(document):
        raise msgspec.DecodeError(f"it is too large, has more than {MOST_VALUES} values, or is nested too deeply")
    return msgspec.json.decode(document)


def is_bounded(document: bytes) -> bool:
    """Return whether a document can be decoded, and laid out, without harm."""
    if len(document) > MOST_BYTES:
        return False
    opened = document.count(b"[") + document.count(b"{")
    if opened + document.count(b",") > MOST_VALUES:
        return False
    return opened <= MOST_DEPTH or not _deeper(document, MOST_DEPTH)


def is_busy(document: bytes) -> bool:
    """Return whether a document is large and no image with a few words: else it is neither crowded nor dense."""
    return len(document) > LARGE and any(_has_more(document, mark, BUSY) for mark in (b"{", b"[", b","))


def is_crowded(document: bytes, mark: bytes) -> bool:
    """Return whether a large document has more of a mark, a colon or a bracket, than things can be made at once."""
    return len(document) > LARGE and _has_more(document, mark, CROWD)


def is_dense(document: bytes) -> bool:
    """Return whether a large document is so full of brackets and commas that nobody looks through it at once."""
    return is_busy(document) and len(document) - len(document.translate(None, b"[{,")) > DENSE


def _has_more(document: bytes, mark: bytes, most: int) -> bool:
    at, find = -1, document.find
    for _ in range(most):
        at = find(mark, at + 1)
        if at < 0:
            return False
    return True


def undense(document: bytes) -> bytes:
    """
    Return the same document.

    :raises msgspec.DecodeError: if it is :func:`dense <is_dense>`.
    """
    if is_dense(document):
        raise msgspec.DecodeError(f"it has more than {DENSE} brackets and commas")
    return document


def _deeper(document: bytes, most: int) -> bool:
    depth = 0
    for found in _BRACKETS.finditer(document):
        if found[1]:
            depth += 1
            if depth > most:
                return True
        elif found[2]:
            depth -= 1
    return False
