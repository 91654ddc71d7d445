"""
What client keys have used today, kept over a restart in a small file beside the state of the pool.

No key is in it, only names.  Counts of another day than today (of UTC) say nothing any more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from agm.core.limits import Allowances
from agm.persist.atomic_write import Replace
from agm.persist.json_file import FORMAT, JsonFile

#: Seconds from a change to the file that holds it: counts change with every request.
DELAY = 5.0


class _Count(msgspec.Struct, forbid_unknown_fields=True):
    requests: int = 0
    tokens: int = 0


class _Counts(msgspec.Struct, forbid_unknown_fields=True):
    agm: int
    #: Days since the epoch, in UTC.
    day: int = 0
    client_keys: dict[str, _Count] = {}


def path_beside(state: Path) -> Path:
    """Return where the counts are kept, for a pool whose state is kept in the file `state`."""
    return state.with_name(f"{state.stem}-limits{state.suffix or '.json'}")


class KeyCounts:
    """
    Keeps in a file what client keys have used today.

    :param replace: :func:`os.replace`, but for tests.
    """

    def __init__(self, reactor: Any, allowances: Allowances, path: Path, *, replace: Replace = os.replace) -> None:
        self._allowances = allowances
        self._file = JsonFile(
            reactor,
            path,
            _Counts,
            what="what client keys have used today",
            lost="their day starts anew",
            dump=self._document,
            delay=DELAY,
            replace=replace,
        )

    def start(self) -> None:
        """Read the file, go on counting from there if it is of today, and write from now on."""
        found = self._file.start(_check_counts)
        if found is not None:
            self._allowances.load(found.day, ((n, (it.requests, it.tokens)) for n, it in found.client_keys.items()))
        self._allowances.changed = self._file.changed

    def changed(self) -> None:
        """Write the file again soon."""
        self._file.changed()

    async def stop(self) -> None:
        """Write what has not been written, and end the thread."""
        self._allowances.changed = lambda: None
        await self._file.stop()

    def _document(self) -> _Counts:
        day, counts = self._allowances.dump()
        return _Counts(FORMAT, day, {name: _Count(*count) for name, count in counts.items()})


def _check_counts(found: _Counts) -> None:
    if any(it.requests < 0 or it.tokens < 0 for it in found.client_keys.values()):
        raise ValueError("it counts backwards")
