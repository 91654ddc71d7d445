"""
A large body that is made of pieces: what is put around it does not make a second one of it.
"""

from __future__ import annotations


class ByteChain:
    """Pieces that follow each other; they are not joined unless somebody asks for ``bytes`` of it."""

    __slots__ = ("_length", "pieces")

    def __init__(self, *pieces: bytes | memoryview) -> None:
        self.pieces = pieces
        self._length = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)

    def __repr__(self) -> str:
        return f"<ByteChain of {self._length} bytes>"  # never its text
