"""What is wrong with a configuration, for a person to read."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import attrs

from agm.config.identity import Identity


@attrs.frozen
class Problem:
    """One thing wrong with a configuration: in which file (if any), at which dotted key, and what."""

    file: Path | None
    key: str
    message: str

    def __str__(self) -> str:
        file = "configuration" if self.file is None else str(self.file)
        return ": ".join(part for part in (file, self.key, self.message) if part)


class ConfigError(Exception):
    """
    A configuration cannot be used.  ``problems`` holds all that was found; ``str`` is a line for each.

    ``files`` are those that were read, as they were before: a change of one may be the cure.
    """

    def __init__(self, problems: Iterable[Problem], files: Mapping[Path, Identity | None] | None = None) -> None:
        self.problems = tuple(problems)
        self.files = dict(files or {})
        super().__init__("\n".join(map(str, self.problems)))


def fail(message: str) -> NoReturn:
    """
    End the start, before twistd has taken over, with one line on standard error and exit status 1.

    :raises SystemExit: always.
    """
    raise SystemExit(f"agm: {message}")
