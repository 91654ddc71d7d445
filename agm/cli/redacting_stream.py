"""
Standard error without secrets: what a command complains about may repeat what was typed, and keys get pasted anywhere.
It may repeat what an upstream has said, too, and does nothing to the terminal.

What a command prints on its standard output, the new key of ``agm key create`` for one, is left alone.
"""

from typing import Any, TextIO

from agm.cli.running import printable
from agm.core.redact import shapes_redacted

__all__ = ["RedactingStream"]


class RedactingStream:
    """A text stream that takes out of what is written to it whatever looks like a secret, or would move a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, which holds each secret in one piece."""
        lines = shapes_redacted(text).split("\n")
        self._stream.write("\n".join("\t".join(map(printable, line.split("\t"))) for line in lines))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
