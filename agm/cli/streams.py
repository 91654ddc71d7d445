"""
The streams of a command: what it prints arrives whatever the terminal's encoding, and its end is no fault of its.

A character that the encoding lacks is written in another way, and JSON stays JSON.  A reader who has seen enough, as
``head`` has, ends a command quietly; a disk that is full ends it with a line.  A stream that was closed takes what is
written, and gives nothing.
"""

import codecs
import contextlib
import os
import sys
from typing import Any, Final, TextIO

__all__ = ["Output", "OutputLost", "escape", "prepare", "spell"]

#: Signs that commands print, and what they are where the encoding lacks them.
_SIGNS: Final = {
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{REPLACEMENT CHARACTER}": "?",
    **{chr(ord("\N{LOWER ONE EIGHTH BLOCK}") + eighth): str(eighth + 1) for eighth in range(8)},
}
_ESCAPED, _SPELLED = "agm-escaped", "agm-spelled"


def _escaped(text: str) -> str:
    """Characters as JSON escapes them: those beyond 16 bits are two."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return _escaped(error.object[error.start : error.end]), error.end


def _spell(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    return "".join(_SIGNS.get(char) or _escaped(char) for char in found), error.end


codecs.register_error(_ESCAPED, _escape)
codecs.register_error(_SPELLED, _spell)


def prepare() -> None:
    """Have the three streams there, and none of them fail for a character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for as long as the process is
    escape()
    _replace(sys.stderr, _SPELLED)


def escape() -> None:
    """From now on write what the output's encoding lacks as JSON has it, for programs."""
    _replace(sys.stdout, _ESCAPED)


def spell() -> None:
    """From now on write what it lacks as people do."""
    _replace(sys.stdout, _SPELLED)


def _replace(stream: Any, errors: str) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:  # a test may have put another kind of stream in its place
        reconfigure(errors=errors)


class OutputLost(OSError):
    """What a command prints cannot be written any more: nobody reads it, or there is no room."""


class Output:
    """
    A text stream that tells its own failures from all others.

    After the first one the rest goes nowhere: the interpreter writes out once more at its end, and would complain.

    :ivar lost: why what was written has not all got out; None while it has.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write.  :raises OutputLost: if that cannot be."""
        try:
            return self._stream.write(text)
        except OSError as failure:
            raise self._given_up(failure) from None

    def flush(self) -> None:
        """Write out.  :raises OutputLost: if that cannot be."""
        try:
            self._stream.flush()
        except OSError as failure:
            raise self._given_up(failure) from None

    def settle(self) -> None:
        """Write out what can be."""
        with contextlib.suppress(OutputLost):
            self.flush()

    def _given_up(self, failure: OSError) -> OutputLost:
        self.lost = self.lost or failure
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return OutputLost()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
