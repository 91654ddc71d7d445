"""
Names of requests: nothing that has to be kept from anybody, or that anybody gains by guessing.

What is random in them comes from a generator of this process's own, which is seeded by the system once: asking the
system each time costs more than the rest of what a small request's head takes.
"""

from __future__ import annotations

from itertools import count
from random import Random
from time import time

_bits = Random().getrandbits  # noqa: S311  # nobody gains anything by guessing one
#: Where the number in a request's name begins, and what tells this process's names from those of every other.
_next = count(_bits(20)).__next__
_PROCESS = f"{_bits(32):08x}"


def new_request_id() -> str:
    """
    24 hexadecimal digits, greater than those of all requests before: the milliseconds since the epoch, a number, and
    eight digits of the process, which no other has that serves or logs beside it.

    What comes later has its place behind all others in an index, where there is room: the request log writes a tenth of
    what it would with names of any order.
    """
    return f"{int(time() * 1000) << 20 | _next() & 0xFFFFF:016x}{_PROCESS}"


def new_uuid() -> str:
    """Return a UUID, as RFC 9562 lays out version 4: random for this process, and a number that begins anywhere."""
    return f"{_prefix}{_number() & 0xFFFFFFFFFFFF:012x}"


_prefix = f"{_bits(32):08x}-{_bits(16):04x}-4{_bits(12):03x}-{0x8000 | _bits(14):04x}-"
_number = count(_bits(48)).__next__
