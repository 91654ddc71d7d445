"""What is wrong with a configuration, for a person to read."""

from collections.abc import Iterable
from pathlib import Path

import attrs


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

    ``files`` are the files beside it whose content counts: a change of one may be the cure.
    """

    def __init__(self, problems: Iterable[Problem], files: Iterable[Path] = ()) -> None:
        self.problems = tuple(problems)
        self.files = tuple(files)
        super().__init__("\n".join(map(str, self.problems)))
