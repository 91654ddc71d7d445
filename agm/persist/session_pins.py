"""
Which account Live sessions' handles and ephemeral tokens are of, kept over a restart in a small file beside the state
of the pool.

Only digests are in it, and names of accounts and client keys: nobody gets a session by reading it.  A client that was
told to go on elsewhere, because the gateway stops, finds its account again through what comes after.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from agm.core.live import Pin, Pins
from agm.persist.atomic_write import Replace
from agm.persist.json_file import FORMAT, JsonFile

__all__ = ["SessionPins", "path_beside"]


class _Pin(msgspec.Struct, forbid_unknown_fields=True):
    digest: str
    account: str
    expires: float
    client_key: str | None = None
    model: str = ""
    team: str = ""


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    agm: int
    pins: list[_Pin] = []


def path_beside(state: Path) -> Path:
    """Return where the pins are kept, for a pool whose state is kept in the file `state`."""
    return state.with_name(f"{state.stem}-sessions{state.suffix or '.json'}")


class SessionPins:
    """
    Keeps in a file whose handles and tokens are.

    :param wall: seconds since the epoch: what is over is not kept.
    :param replace: :func:`os.replace`, but for tests.
    """

    def __init__(
        self, reactor: Any, pins: Pins, path: Path, wall: Callable[[], float], *, replace: Replace = os.replace
    ) -> None:
        self._pins = pins
        self._wall = wall
        self._file = JsonFile(
            reactor,
            path,
            _Kept,
            what="what leads Live sessions back to their accounts",
            lost="sessions cannot be resumed",
            dump=self._document,
            replace=replace,
        )

    def start(self) -> None:
        """Read the file, and write from now on."""
        found = self._file.start(_check)
        now = self._wall()
        for kept in [] if found is None else found.pins:
            if kept.expires > now:
                pin = Pin(kept.account, kept.client_key, kept.expires, kept.model, team=kept.team)
                self._pins.put(bytes.fromhex(kept.digest), pin)
        self._pins.changed = self._file.changed

    def changed(self) -> None:
        """Write the file again soon."""
        self._file.changed()

    async def stop(self) -> None:
        """Write what has not been written, and end the thread."""
        self._pins.changed = lambda: None
        await self._file.stop()

    def _document(self) -> _Kept:
        now = self._wall()
        return _Kept(
            FORMAT,
            [
                _Pin(mark.hex(), pin.account, round(pin.expires, 3), pin.client_key, pin.model, pin.team)
                for mark, pin in self._pins.items()
                if pin.expires > now and pin.key is None
            ],
        )


def _check(found: _Kept) -> None:
    for kept in found.pins:
        if len(bytes.fromhex(kept.digest)) != 32:
            raise ValueError("it holds something that is no digest")
