"""Paths of files, and what is said about one that cannot be read or that others than its owner can."""

import shlex
from pathlib import Path

from agm.config.reading import Place, RefusedError
from agm.config.values import read_text
from agm.config.words import show


def read_path(value: object, place: Place) -> Path:
    """Return a path, absolute: relative ones start at the configuration's folder, ``~`` is ``$HOME``."""
    text = read_text(value, place)
    if text == "~" or text.startswith("~/"):
        home = place.reading.environ.get("HOME")
        if not home:
            raise RefusedError(f"{show(text)} needs HOME, which is not set; write the whole path")
        text = home + text[1:]
    folder = Path() if place.reading.file is None else place.reading.file.parent
    return (folder / text).absolute()


def why_unreadable(failure: OSError | ValueError) -> str:
    """Explain why a file cannot be read; the ``ValueError`` is Python's for a name that no file can have."""
    return failure.strerror or "unknown error" if isinstance(failure, OSError) else "no file can have this name"


def cure_unreadable(failure: OSError | ValueError, held: str) -> str:
    """Return the same with what helps; ``held`` is what the file is to hold."""
    if isinstance(failure, FileNotFoundError):
        cure = f"put {held} there"
    elif isinstance(failure, PermissionError):
        cure = "let the gateway's user read it"
    else:
        cure = f"name a file with {held} in it"
    return f"{why_unreadable(failure)}; {cure}"


def open_to_others(path: Path, mode: int) -> str | None:
    """Warn of a file with secrets that others than its owner can read or replace."""
    if not mode & 0o066:
        return None
    verb = "read" if mode & 0o044 else "change"
    return f"{str(path)!r} holds secrets, and others than its owner can {verb} it; chmod 600 {shlex.quote(str(path))}"
