"""
A gzip'd body, inflated: bounded in what comes out and in the work that it takes, whatever is in it.

A file may have several members, one behind the other (RFC 1952, section 2.2), as parallel compressors write it.  Each
of them costs a little even if it holds nothing, so their number is bounded, too.  Nothing is read or written here.
"""

from __future__ import annotations

import zlib

from agm.core.errors import BodyTooLarge, InvalidRequest

#: Members of a body; compressors put 64 KiB and more into each.
MAX_MEMBERS = 10_000
#: Bytes that are given to zlib at once: it copies what is behind the end of a member.
_FIRST, _MOST = 1024, 256 * 1024


def inflate(body: bytes, limit: int) -> bytes:
    """
    Inflate a gzip'd body.

    :param limit: bytes that come out at most.
    :raises InvalidRequest: if it is not gzip, is cut short, or has more than :data:`MAX_MEMBERS` members.
    :raises BodyTooLarge: if it inflates to more than `limit`.
    """
    pieces: list[bytes] = []
    view, at, members, left = memoryview(body), 0, 0, limit
    while at < len(body):
        members += 1
        if members > MAX_MEMBERS:
            raise InvalidRequest(f"The gzip'd body has more than {MAX_MEMBERS} members.")
        inflater = zlib.decompressobj(wbits=31)
        window = _FIRST
        while not inflater.eof and at < len(body):
            given = view[at : at + window]
            try:
                piece = inflater.decompress(given, left + 1)
            except zlib.error:
                raise InvalidRequest("The body is not gzip, as its Content-Encoding says.") from None
            left -= len(piece)
            if left < 0:
                raise BodyTooLarge(f"The request's body inflates to more than max_body, {limit} bytes.")
            pieces.append(piece)
            at += len(given) - len(inflater.unused_data)
            window = min(window * 4, _MOST)
        if not inflater.eof:
            raise InvalidRequest("The gzip'd body is cut short.")
    return b"".join(pieces)
