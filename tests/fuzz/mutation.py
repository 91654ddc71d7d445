"""
Mutations of bytes and text: what makes worse inputs of good ones, the same ones for the same seed.

Everything comes from the :class:`random.Random` that is passed in.  Nothing is judged here.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

#: Bytes at which parsers of text protocols part ways.
TOKENS: Sequence[bytes] = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\n\n",
        b"\x00",
        b"\t",
        b" ",
        b"\x0b",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc3\xa9",
    ),
    *(
        b":",
        b";",
        b",",
        b"=",
        b"/",
        b"//",
        b"..",
        b"%",
        b"%2e",
        b"%2f",
        b"%0d%0a",
        b"%00",
        b"?",
        b"#",
        b"@",
        b"*",
        b'"',
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"\\",
        b"\\u0065",
        b"0",
        b"1",
        b"-1",
        b"+1",
        b"0x1",
        b"1e999",
        b"9" * 25,
        b"null",
        b"true",
    ),
)


def mutated(
    data: bytes, rng: random.Random, *, others: Sequence[bytes] = (), tokens: Sequence[bytes] = TOKENS
) -> bytes:
    """
    `data` with one to four changes.

    :param others: inputs of the same kind, to take pieces from.
    :param tokens: pieces that mean something to what reads it.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = _change(data, rng, others, tokens)
    return data


def _change(data: bytes, rng: random.Random, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    end = min(len(data), at + rng.choice((1, 1, 2, 3, 8, 40)))
    match rng.randrange(11):
        case 0:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at] + data[end:]
        case 2 | 3:
            return data[:at] + rng.choice(tokens) + data[at:]
        case 4:
            return data[:at] + rng.choice(tokens) + data[end:]
        case 5:
            return data[:end] + data[at:end] * rng.choice((1, 1, 2, 50)) + data[end:]
        case 6:  # a byte, a bit
            return data if at == len(data) else data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 7:  # a line goes, comes twice, or elsewhere
            lines = data.splitlines(keepends=True)
            if not lines:
                return data
            line = lines[rng.randrange(len(lines))]
            if rng.random() < 0.4:
                lines.remove(line)
            else:
                lines.insert(rng.randint(0, len(lines)), line)
            return b"".join(lines)
        case 8:  # a line's case
            return data[:at] + data[at:end].swapcase() + data[end:]
        case 9 if others:
            other = rng.choice(others)
            return data[:at] + other[rng.randint(0, len(other)) :]
        case _:
            return data[:at] if rng.random() < 0.3 else data[:at] + rng.choice(tokens) + data[at:]


def pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """`data` cut into pieces: whole, byte by byte, or anyhow."""
    way = rng.randrange(4)
    if way == 0 or not data:
        return [data]
    if way == 1 and len(data) <= 2000:
        return [data[i : i + 1] for i in range(len(data))]
    edges = [0, *sorted(rng.sample(range(len(data) + 1), min(len(data), rng.randint(1, 12)))), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def inputs(seeds: Sequence[bytes], rng: random.Random, runs: int, tokens: Sequence[bytes] = TOKENS) -> Iterator[bytes]:
    """`runs` inputs: the seeds themselves, and then what becomes of them."""
    for number in range(runs):
        yield seeds[number] if number < len(seeds) else mutated(rng.choice(seeds), rng, others=seeds, tokens=tokens)
