"""Ways to cut a stream into chunks, and the patience that property tests are given."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: Property tests never depend on the speed of the machine.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def every_cut(stream: bytes) -> Iterator[list[bytes]]:
    """The stream whole, cut in two at each boundary, byte by byte, and with empty chunks in between."""
    yield [stream]
    for at in range(len(stream) + 1):
        yield [stream[:at], stream[at:]]
    yield [stream[i : i + 1] for i in range(len(stream))]
    yield [piece for i in range(len(stream)) for piece in (b"", stream[i : i + 1])]


def cut_at(stream: bytes, places: set[int]) -> list[bytes]:
    """The stream cut at `places`."""
    edges = [0, *sorted(p for p in places if p < len(stream)), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


@st.composite
def cut_streams(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """A stream, and the same in chunks cut at random places."""
    stream = draw(streams)
    return stream, cut_at(stream, draw(st.sets(st.integers(0, max(0, len(stream))), max_size=12)))
