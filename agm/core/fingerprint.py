"""
A conversation's fingerprint: what stays the same from its first request to its last.

Every request of a conversation repeats the turns before it, so the first user turn identifies it, whatever follows.
Nothing of the text can be read back from a fingerprint.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from agm.core.documents import is_busy, is_crowded, undense
from agm.core.errors import NOT_JSON

#: Bytes of a turn that all count.  Of more than these count its length, its two edges, where people's words are, and so
#: many samples between: twenty megabytes would take as long to hash as to send.
WHOLE = 256 * 1024
EDGE = 64 * 1024
SAMPLES = 64
SAMPLE = 1024


class _Turn(msgspec.Struct, gc=False):
    parts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    role: str | None = None


class _Conversation(msgspec.Struct):
    contents: list[_Turn] | _Turn = []
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    sessionId: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    session_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Crowd(msgspec.Struct):
    """The same, of which the turns are too many to be made."""

    contents: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    sessionId: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    session_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_CONVERSATION = msgspec.json.Decoder(_Conversation)
_CROWD = msgspec.json.Decoder(_Crowd)


class Look(NamedTuple):
    """
    What one pass over a body tells: the conversation's fingerprint, and whether the body is `plain` and `strict`.

    A plain one is a JSON object with a user turn, and with nothing that the ``v1internal`` envelope has to do anything
    about: no ``model``, and no session of its own.  A strict one is a JSON object by the letter of the standard.
    `roles` says that every turn has one.
    """

    fingerprint: str | None
    plain: bool
    strict: bool = False
    roles: bool = False


def fingerprint(body: bytes) -> str | None:
    """As :func:`look`, the fingerprint alone."""
    return look(body).fingerprint


def look(body: bytes) -> Look:
    """
    32 hexadecimal digits for the conversation in `body`, a Gemini request; None where it has no user turn.

    The parts of the first turn with role ``user``, or with no role, count as they were sent, byte for byte; of those
    beyond :data:`WHOLE` bytes, which hold an image or the like, their length and samples.  Where there may be too many
    turns to be made one by one, the beginning of them all counts.
    """
    try:
        if is_busy(body) and is_crowded(undense(body), b"{"):
            return _look_at_crowd(body)
        read = _CONVERSATION.decode(body)
    except NOT_JSON:
        return Look(None, plain=False)
    turns = read.contents if isinstance(read.contents, list) else [read.contents]
    for turn in turns:
        if turn.role in (None, "", "user") and turn.parts is not msgspec.UNSET:
            return Look(
                _digest(memoryview(turn.parts)),
                plain=read.model is read.sessionId is read.session_id is msgspec.UNSET,
                strict=True,
                roles=all(turn.role is not None for turn in turns),
            )
    return Look(None, plain=False, strict=True)


def _look_at_crowd(body: bytes) -> Look:
    read = _CROWD.decode(body)
    if read.contents is msgspec.UNSET:
        return Look(None, plain=False, strict=True)
    alone = read.model is read.sessionId is read.session_id is msgspec.UNSET
    return Look(_digest(memoryview(read.contents)[:EDGE]), plain=alone, strict=True)


def _digest(parts: memoryview) -> str:
    size = parts.nbytes
    if size <= WHOLE:
        return hashlib.blake2b(parts, digest_size=16).hexdigest()
    found = hashlib.blake2b(b"%d:" % size, digest_size=16)
    found.update(parts[:EDGE])
    for at in range(EDGE, size - EDGE, (size - 2 * EDGE) // SAMPLES):
        found.update(parts[at : at + SAMPLE])
    found.update(parts[-EDGE:])
    return found.hexdigest()
