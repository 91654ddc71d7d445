"""
Small media made from nothing: a PNG and a tone, the same for the same seed.

They are real files that decoders accept, and no more than that.
"""

from __future__ import annotations

import math
import struct
import zlib


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(seed: bytes, width: int = 16, height: int = 16) -> bytes:
    """An RGB picture of `width` × `height` pixels: a gradient whose colour the first three bytes of `seed` choose."""
    red, green, blue = seed[:3]
    rows = bytearray()
    for y in range(height):
        rows.append(0)  # filter type None
        for x in range(width):
            rows += bytes(((red + 4 * x) % 256, (green + 4 * y) % 256, blue))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(rows), 9))
        + _chunk(b"IEND", b"")
    )


def size_of(aspect_ratio: str | None) -> tuple[int, int]:
    """Width and height in pixels for an aspect ratio such as ``16:9``; a square for one that cannot be read."""
    wide, _, high = (aspect_ratio or "").partition(":")
    if wide.isdigit() and high.isdigit() and 0 < int(wide) <= 64 and 0 < int(high) <= 64:
        scale = max(1, 32 // max(int(wide), int(high)))
        return int(wide) * scale, int(high) * scale
    return 16, 16


def tone(seed: bytes, *, rate: int = 24_000, seconds: float = 0.1) -> bytes:
    """Return a sine of 16-bit little-endian mono PCM, its pitch chosen by the first byte of `seed`."""
    pitch = 220.0 + seed[0]
    samples = round(rate * seconds)
    return struct.pack(
        f"<{samples}h",
        *(round(8_000 * math.sin(2 * math.pi * pitch * index / rate)) for index in range(samples)),
    )
