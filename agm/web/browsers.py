"""
What a browser may make of what is relayed: a file stays a file, and never becomes a page of the gateway's own origin.

A web page that somebody has uploaded could otherwise read all that the dashboard can, as soon as a person opens its
download.  Types are never guessed; what could be a page, or is of a type that nobody expects, is saved and not shown,
and runs nothing where a browser shows it all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

NOSNIFF = (b"X-Content-Type-Options", b"nosniff")
_NOTHING_RUNS = (b"Content-Security-Policy", b"sandbox; default-src 'none'")

#: One media type with its parameters.  Of several in a row, browsers take the last.
_MEDIA_TYPE = re.compile(rb"[\t ]*([A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+)[\t ]*(?:;[^,]*)?")
#: Types that no browser runs anything of.
_HARMLESS = re.compile(
    rb"application/(?:json|[a-z0-9.-]+\+json|jsonl|x-ndjson|octet-stream|pdf|zip|gzip|x-gzip)"
    rb"|text/(?:event-stream|plain|csv|markdown)"
    rb"|audio/[a-z0-9.-]+|video/[a-z0-9.-]+|image/[a-z0-9.-]+"
)
_DISPOSITION = re.compile(rb"[\t ]*[A-Za-z0-9!#$&^_.+-]+[\t ]*(;.*)?")


@lru_cache(maxsize=128)
def apart(content_type: bytes, disposition: bytes | None) -> Sequence[tuple[bytes, bytes]]:
    """
    Return the headers that keep an answer's content apart from the gateway's own pages.

    :param content_type: as the upstream names it.
    :param disposition: the upstream's ``Content-Disposition``; None for none.
    """
    media_type = _MEDIA_TYPE.fullmatch(content_type)
    if media_type is not None and _HARMLESS.fullmatch(media_type[1].lower()):
        return (NOSNIFF,) if disposition is None else (NOSNIFF, (b"Content-Disposition", disposition))
    named = None if disposition is None else _DISPOSITION.fullmatch(disposition)
    saved = b"attachment" + (b"" if named is None else named[1] or b"")
    return (NOSNIFF, _NOTHING_RUNS, (b"Content-Disposition", saved))
