"""
What client keys, teams, accounts and models have spent today and this month, and what accounts have served of their
daily quotas, kept over a restart in a small file.

No key is in it, only names.  It stands beside the state of the pool.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from agm.core.forecast import DayQuotas
from agm.core.spending import Spending, Sums
from agm.persist.atomic_write import Replace
from agm.persist.json_file import FORMAT, JsonFile

#: Seconds from a change to the file that holds it: sums change with every request.
DELAY = 5.0


class _Sums(msgspec.Struct):
    requests: int = 0
    tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    since: float = 0.0


class _Days(msgspec.Struct):
    """What accounts have served of models since Google's daily quotas began anew: account, model, requests."""

    ends: float = 0.0
    since: float = 0.0
    served: list[tuple[str, str, int]] = []
    #: What is known to be all of a day.
    limits: list[tuple[str, str, int]] = []


class _Spent(msgspec.Struct):
    agm: int
    #: By ``key:NAME`` and the like, and then by day or month of UTC.
    spent: dict[str, dict[str, _Sums]] = {}
    days: _Days = msgspec.field(default_factory=_Days)


def path_beside(state: Path) -> Path:
    """Return where it is kept, for a pool whose state is kept in the file `state`."""
    return state.with_name(f"{state.stem}-spending{state.suffix or '.json'}")


class SpendingFile:
    """
    Keeps in a file what was spent.

    :param replace: :func:`os.replace`, but for tests.
    """

    def __init__(
        self, reactor: Any, spending: Spending, quotas: DayQuotas, path: Path, *, replace: Replace = os.replace
    ) -> None:
        self._spending = spending
        self._quotas = quotas
        self._file = JsonFile(
            reactor,
            path,
            _Spent,
            what="what client keys, teams and accounts have spent",
            lost="budgets begin anew",
            dump=self._document,
            delay=DELAY,
            replace=replace,
        )

    def start(self) -> None:
        """Read the file, go on from there, and write from now on."""
        found = self._file.start(_check)
        if found is not None:
            self._spending.load(
                {
                    name: {
                        each: Sums(it.requests, it.tokens, it.cost, it.unpriced, it.since) for each, it in of.items()
                    }
                    for name, of in found.spent.items()
                }
            )
            self._quotas.load(found.days.ends, found.days.since, found.days.served, found.days.limits)
        self._spending.changed = self._file.changed

    async def stop(self) -> None:
        """Write what has not been written, and end the thread."""
        self._spending.changed = lambda: None
        await self._file.stop()

    def _document(self) -> _Spent:
        return _Spent(
            FORMAT,
            {
                name: {each: _Sums(it.requests, it.tokens, it.cost, it.unpriced, it.since) for each, it in of.items()}
                for name, of in self._spending.dump().items()
            },
            _Days(*self._quotas.dump()),
        )


def _check(found: _Spent) -> None:
    if any(count < 0 for *_, count in (*found.days.served, *found.days.limits)):
        raise ValueError("it counts backwards")
    every = [it for of in found.spent.values() for it in of.values()]
    if any(min(it.requests, it.tokens, it.unpriced) < 0 or not 0 <= it.cost < 1e15 for it in every):
        raise ValueError("it counts backwards")
