"""
What ``agm doctor`` looks at: a check a function, which gives findings and changes nothing.

:mod:`agm.diagnose.doctor.here` looks at this machine, :mod:`agm.diagnose.doctor.upstreams` at the way to Google and at
the accounts,
:mod:`agm.diagnose.doctor.sdks` at the SDKs that are installed, before a gateway and an emulator of its own on
loopback.  A check has a time limit, and none repeats a secret, whatever it finds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import attrs

__all__ = ["Finding", "Level", "limited"]

Level = Literal["ok", "warning", "error"]


@attrs.frozen
class Finding:
    """
    What a check has found.

    `check` says in a word what was looked at, `found` in a sentence what was seen, `cure` what a person can do; an
    ``error`` keeps something from working, a ``warning`` may.
    """

    check: str
    level: Level
    found: str
    cure: str | None = None


def limited(check: str, look: Callable[[], Iterable[Finding]], seconds: float) -> Sequence[Finding]:
    """
    Run `look` in its own thread, abandon it after so many seconds, and return its findings.

    Whatever it raises is a finding, too: the other checks go on.
    """
    found: list[Finding] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            found.extend(look())
        except Exception as failure:
            failed.append(failure)

    thread = threading.Thread(target=work, name=f"agm doctor: {check}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return [too_long(check, seconds)]
    return [*found, *(unexpected(check, failure) for failure in failed)]


def too_long(check: str, seconds: float) -> Finding:
    """Return a check that did not end in time."""
    return Finding(check, "error", f"not done within {seconds:g} seconds", "look into what it waits for, and try again")


def unexpected(check: str, failure: Exception) -> Finding:
    """A check that failed in a way that nobody thought of; its message is not repeated, as it may hold anything."""
    return Finding(check, "error", f"the check itself failed with {type(failure).__name__}", "report this as a bug")
