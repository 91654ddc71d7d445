"""
Where a client of Anthropic's keeps what Gemini has to get back in the next turn: signatures of thoughts, ids of calls.

Gemini puts a signature on any part of an answer, and the newest models refuse a conversation whose calls come back
without theirs.  Anthropic has a signature on thinking alone.  What every client sends back unchanged are the ids of
tool uses, so a call's signature is in its id; other parts' are in the signature of the thinking before them, or in a
``redacted_thinking`` block behind them, which clients that asked for thinking keep unread.  Nothing is remembered here,
so a conversation goes on after a restart and on another machine.
"""

from __future__ import annotations

import re
import secrets
from typing import Literal, NamedTuple

__all__ = ["CallId", "Seal", "read_call_id", "read_seal"]

_TO_URL = str.maketrans("+/", "-_", "=")
_FROM_URL = str.maketrans("-_", "+/")
#: An id: 24 characters of its own; then, where there is more, the length of Gemini's id, that id, and the signature.
_CALL_ID = re.compile(r"(?:srv)?toolu_(?P<own>[0-9a-f]{24})(?:_(?P<size>[0-9a-f]{2})(?P<rest>[A-Za-z0-9_-]+))?")
_CARRIED = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SEAL = re.compile(r"agm1\.(?P<of>[a-z]+)(?:\.(?P<signature>[A-Za-z0-9_-]+))?")


class CallId(NamedTuple):
    """What the id of a tool use holds: Gemini's own id of the call, and the signature in base64."""

    call: str | None = None
    signature: str | None = None

    def written(self, prefix: str = "toolu_") -> str:
        """Write an id that no other has."""
        own = prefix + secrets.token_hex(12)
        call = self.call if self.call is not None and _CARRIED.fullmatch(self.call) else ""
        if not call and not self.signature:
            return own
        return f"{own}_{len(call):02x}{call}{_to_url(self.signature)}"


def read_call_id(written: str) -> CallId | None:
    """Read the id of a tool use; None for one that was not made here."""
    match = _CALL_ID.fullmatch(written)
    if match is None:
        return None
    if match["size"] is None:
        return CallId()
    size, rest = int(match["size"], 16), match["rest"]
    if size > len(rest):
        return None
    return CallId(rest[:size] or None, _from_url(rest[size:]))


class Seal(NamedTuple):
    """
    What the signature of a thinking block, or the data of a redacted one, holds.

    `of` says which part the signature is of: the ``thought`` itself, the ``next`` one, the ``last`` one, or one without
    text (``empty``); ``none`` has none.
    """

    of: Literal["thought", "next", "last", "empty", "none"]
    signature: str | None = None

    def written(self) -> str:
        """Write it."""
        return f"agm1.{self.of}" + (f".{_to_url(self.signature)}" if self.signature else "")


def read_seal(written: str) -> Seal | None:
    """Read one; None for one of another's making, which says nothing to Gemini."""
    match = _SEAL.fullmatch(written)
    if match is None or match["of"] not in ("thought", "next", "last", "empty", "none"):
        return None
    return Seal(match["of"], _from_url(match["signature"]))  # type: ignore[arg-type]


def _to_url(signature: str | None) -> str:
    return (signature or "").translate(_TO_URL)


def _from_url(written: str | None) -> str | None:
    if not written:
        return None
    signature = written.translate(_FROM_URL)
    return signature + "=" * (-len(signature) % 4)
