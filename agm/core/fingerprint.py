"""
A conversation's fingerprint: what stays the same from its first request to its last.

Every request of a conversation repeats the turns before it, so the first user turn identifies it, whatever follows.
Nothing of the text can be read back from a fingerprint.
"""

from __future__ import annotations

import hashlib

import msgspec

from agm.core.errors import NOT_JSON


class _Turn(msgspec.Struct):
    parts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    role: str | None = None


class _Conversation(msgspec.Struct):
    contents: list[_Turn] | _Turn = []


_CONVERSATION = msgspec.json.Decoder(_Conversation)


def fingerprint(body: bytes) -> str | None:
    """
    32 hexadecimal digits for the conversation in `body`, a Gemini request; None where it has no user turn.

    The parts of the first turn with role ``user``, or with no role, count as they were sent, byte for byte.
    """
    try:
        contents = _CONVERSATION.decode(body).contents
    except NOT_JSON:
        return None
    for turn in contents if isinstance(contents, list) else [contents]:
        if turn.role in (None, "", "user") and turn.parts is not msgspec.UNSET:
            return hashlib.blake2b(bytes(turn.parts), digest_size=16).hexdigest()
    return None
