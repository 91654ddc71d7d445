"""Where a URL leads: the origin that connections are kept for, and what is asked of it."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

#: Scheme, host and port.
Origin = tuple[bytes, bytes, int]


@lru_cache(maxsize=256)
def origin_of(netloc: bytes, scheme: bytes) -> Origin:
    """Scheme, host and port of a URL's network location."""
    parts = urlsplit(scheme + b"://" + netloc)
    if scheme not in (b"http", b"https") or not parts.hostname:
        raise ValueError("an upstream's URL must be absolute, and http or https")
    return scheme, parts.hostname, parts.port or (443 if scheme == b"https" else 80)


def split_url(url: bytes) -> tuple[Origin, bytes, bytes]:
    """Return an absolute URL's origin, its ``Host`` and its request target."""
    scheme, _, rest = url.partition(b"://")
    netloc, slash, path = rest.partition(b"/")
    return origin_of(netloc, scheme), netloc, slash + path or b"/"
