"""
A watch over all that the started processes write: no secret, no traceback, no error that nobody looked at.

Secrets of the tests hold ``canary-``, or look as Google's do.  ``tests/helpers/canary.py`` tells it which test runs,
and fails the run for what it has found; a benchmark asks it for nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

import attrs

#: What no output may hold.  The numbers of characters are those of real ones: tests of the parsers have shorter ones.
LEAK = re.compile(
    r"canary-|AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{12,}|(?<![0-9A-Za-z])1//[0-9A-Za-z_-]{12,}"
    r"|GOCSPX-[0-9A-Za-z_-]{12,}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
#: What none may hold that is not announced.
TROUBLE = re.compile(
    r"Traceback \(most recent call last\)|Unhandled error in Deferred|MESSAGE LOST|Unable to format event"
)


@attrs.define(eq=False)
class Watch:
    """
    What has been found in a process, and what has still to be looked at.

    :ivar test: the name of the test that runs; None between tests and in a benchmark.
    :ivar expects_failures: whether that test has said that a traceback will be written.
    """

    findings: list[str] = attrs.Factory(list)
    looked: int = 0
    test: str | None = None
    expects_failures: bool = False
    _followed: dict[Path, tuple[str, bool]] = attrs.Factory(dict)

    def look(self, source: str, text: str) -> None:
        """Search a text that was written by `source` in the test that runs."""
        self._search(f"{self._name()}: {source}", text, self.expects_failures)

    def follow(self, folder: Path) -> None:
        """Search the files of a process in a folder when the run ends; what it is said to expect is said now."""
        self._followed[folder] = (self._name(), self.expects_failures)

    def settle(self) -> list[str]:
        """Search what is left; everything that was found."""
        for folder, (test, expected) in self._followed.items():
            for file in [folder / "stdout", folder / "stderr", *sorted(folder.glob("*.log*"))]:
                if file.is_file():
                    self._search(f"{test}: {file}", file.read_text("utf-8", "replace"), expected)
        self._followed.clear()
        return self.findings

    def _search(self, where: str, text: str, expected: bool) -> None:
        self.looked += 1
        for pattern in [LEAK] if expected else [LEAK, TROUBLE]:
            found = pattern.search(text)
            if found is not None:
                self.findings.append(
                    f"{where}: {found[0]!r} in …{text[max(found.start() - 300, 0) : found.end() + 300]}…"
                )

    def _name(self) -> str:
        return "outside of any test" if self.test is None else self.test


#: Of this process.
watch = Watch()
