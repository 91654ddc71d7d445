"""
The metrics of all workers of a machine, added up: counters that never fall, whoever is asked and whoever has ended.

Families of metrics are taken as they are, by their names and labels.  What a worker has told last is in a file beside
its socket; when it has ended, the supervisor puts its counters into another one, the base.  So a worker that was killed
between two scrapes takes nothing away that somebody has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from os import O_CREAT, O_TRUNC, O_WRONLY
from os import open as open_file
from pathlib import Path
from typing import Any, Final

import msgspec

__all__ = ["Family", "add_up", "families_of", "keep", "read_ended", "take_down"]

#: Kinds of families whose samples only ever grow.
GROWING: Final = frozenset({"counter", "histogram", "summary"})
#: Gauges that every worker has alike, and of which the largest counts; all others are added up.
_ALIKE: Final = frozenset(
    {
        "agm_account_state",
        "agm_accounts",
        "agm_build_info",
        "agm_client_key_requests_today",
        "agm_client_key_tokens_today",
        "process_max_fds",
        "python_info",
    }
)
#: When the first of them began.
_EARLIEST: Final = "process_start_time_seconds"
#: How many workers that have ended are known by name; the oldest are long gone.
_KNOWN: Final = 10_000


class Family(msgspec.Struct, frozen=True):
    """A family of metrics: its name, kind and description, and its samples, each a name, labels and a value."""

    name: str
    kind: str
    what: str
    samples: list[tuple[str, dict[str, str], float]]


class _Base(msgspec.Struct):
    """What workers that have ended had counted, and who they were."""

    ended: list[str] = []
    families: list[Family] = []


def add_up(told: Iterable[Sequence[Family]], ended: Iterable[Sequence[Family]] = ()) -> list[Family]:
    """
    Add up what workers have told.

    :param ended: what those had told that are not there any more: of it only counters count.
    """
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    known: dict[str, Family] = {}
    gone = ([family for family in each if family.kind in GROWING] for each in ended)
    for families in (*told, *gone):
        for family in families:
            known.setdefault(family.name, family)
            samples = values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                key = (name, tuple(sorted(labels.items())))
                before = samples.get(key)
                if before is None:
                    samples[key] = value
                elif name in _ALIKE:
                    samples[key] = max(before, value)
                elif name == _EARLIEST:
                    samples[key] = min(before, value)
                else:
                    samples[key] = before + value
    return [
        Family(it.name, it.kind, it.what, [(name, dict(labels), v) for (name, labels), v in values[it.name].items()])
        for it in known.values()
    ]


def take_down(folder: Path, worker: str, families: Sequence[Family]) -> None:
    """Write what a worker tells."""
    with suppress(OSError):  # the folder is gone, or full: the next scrape has less of it, once it has ended
        _put(folder / f"{worker}.metrics", msgspec.json.encode(families))


def read_ended(folder: Path, told: Iterable[str]) -> list[list[Family]]:
    """
    Read what those had told last who have not told anything now.

    :param told: the names of the workers that have.
    """
    base = _read_base(folder)
    known = {*told, *base.ended}
    found = [base.families]
    for path in sorted(folder.glob("*.metrics")):
        if path.stem not in known:
            with suppress(OSError, msgspec.MsgspecError):
                found.append(msgspec.json.decode(path.read_bytes(), type=list[Family]))
    return found


def keep(folder: Path, worker: str) -> None:
    """Put the counters of a worker that has ended into the base."""
    path = folder / f"{worker}.metrics"
    try:
        told = msgspec.json.decode(path.read_bytes(), type=list[Family])
    except (OSError, msgspec.MsgspecError):
        return
    base = _read_base(folder)
    base = _Base([*base.ended, worker][-_KNOWN:], add_up((), [base.families, told]))
    with suppress(OSError):
        _put(folder / "base.json", msgspec.json.encode(base))  # first: whoever is in it is not read again
        path.unlink()


def _put(path: Path, data: bytes) -> None:
    """Replace a file whole; not to the disk, since nobody reads it after the machine has started anew."""
    new = path.with_suffix(".new")
    with open(open_file(new, O_WRONLY | O_CREAT | O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    new.replace(path)


def _read_base(folder: Path) -> _Base:
    try:
        return msgspec.json.decode((folder / "base.json").read_bytes(), type=_Base)
    except (OSError, msgspec.MsgspecError):
        return _Base()


def families_of(metrics: Iterable[Any]) -> list[Family]:
    """Take down metrics of prometheus_client's."""
    return [
        Family(it.name, it.type, it.documentation, [(s.name, dict(s.labels), float(s.value)) for s in it.samples])
        for it in metrics
    ]
