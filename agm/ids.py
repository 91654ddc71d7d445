"""
Names of requests: random, and nothing that anybody could learn something from or that has to be kept from anybody.

They come from a generator of this process's own, which is seeded by the system once: asking the system each time costs
more than the rest of what a small request's head takes.
"""

from __future__ import annotations

from random import Random

_bits = Random().getrandbits  # noqa: S311  # nobody gains anything by guessing one


def new_request_id() -> str:
    """16 hexadecimal digits."""
    return f"{_bits(64):016x}"


def new_uuid() -> str:
    """A random UUID: RFC 9562, version 4."""
    digits = f"{_bits(128) & _FREE | _FIXED:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


#: The bits that say which version a UUID is of, and all others.
_FIXED = 4 << 76 | 2 << 62
_FREE = (1 << 128) - 1 - (15 << 76 | 3 << 62)
