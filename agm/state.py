"""
What must not be forgotten over a restart, in a small file: who rests until when, who is disabled and why, quotas, and
which account has which file, cached content or the like.

It is JSON, because it is small, is written whole, and can be read by a person; a database would bring nothing but a
second way to fail.  It is replaced whole (a new file, fsync, rename), for its owner alone, at most once a second and in
a thread of its own.  Times in it are seconds since the epoch.  No key, token or text of a request is ever in it: an
account is known by its name and by a digest of what it was configured from.

A file that cannot be used is set aside under another name, and never ends a start.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import msgspec
from platformdirs import user_state_path
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from agm.config import Config, Secret, default_path
from agm.core.errors import NOT_JSON
from agm.core.ownership import KnownOwners
from agm.core.pool import Cause, Pool, Remembered
from agm.wholefile import Replace, write_whole

FORMAT = 1
#: Seconds from a change to the file that holds it.
DELAY = 1.0
#: A file larger than this is not ours.
MAX_SIZE = 256 * 1024 * 1024

log = Logger()


class _Rest(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    cause: str
    reason: str
    until: float | None
    strikes: int = 0


class _Quota(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    left: float
    until: float


class _Account(msgspec.Struct, forbid_unknown_fields=True):
    origin: str
    disabled: str | None = None
    rests: list[_Rest] = []
    quotas: list[_Quota] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    agm: int
    accounts: dict[str, _Account]
    #: Names of resources and their accounts; the one that was asked for last is the last.
    owners: list[tuple[str, str]] = []


def path_of(config: Config) -> Path | None:
    """Where the state of a gateway with this configuration is kept; None for nowhere."""
    if config.pool.state == "none" or (config.pool.state is None and config.path is None):
        return None
    if config.pool.state is not None:
        return Path(config.pool.state)
    assert config.path is not None, "the lines above"
    # another configuration has other accounts
    mark = "" if config.path == default_path() else f"-{hashlib.sha256(os.fsencode(config.path)).hexdigest()[:8]}"
    return user_state_path("agm", appauthor=False) / f"state{mark}.json"


def digest_of(origin: object) -> str | None:
    """What tells whether an account is still made from the same; None where that cannot be told."""
    if origin is None:
        return None

    def plain(value: object) -> object:
        if isinstance(value, Secret):
            return value.reveal()
        kind: Any = type(value)
        if attrs.has(kind):
            return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(kind)}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return value

    return hashlib.blake2b(repr(plain(origin)).encode(), digest_size=12, person=b"agm state").hexdigest()


class PoolState:
    """
    Keeps what a pool knows in a file.

    :param wall: seconds since the epoch.
    :param replace: :func:`os.replace`, but for tests.
    """

    def __init__(
        self,
        reactor: Any,
        pool: Pool,
        path: Path,
        wall: Callable[[], float],
        *,
        owners: KnownOwners | None = None,
        replace: Replace = os.replace,
    ) -> None:
        self._owners = KnownOwners() if owners is None else owners
        self._reactor = reactor
        self._pool = pool
        self._path = path
        self._wall = wall
        self._replace = replace
        self._origins: Mapping[str, str] = {}
        self._left: dict[str, _Account] = {}
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self._threads: ThreadPool | None = None
        self._dirty = False

    def start(self, origins: Mapping[str, object]) -> None:
        """
        Read the file, restore what it tells of the accounts that are the same as then, and write from now on.

        :param origins: what each account was made from, by name.
        """
        found = self._read()
        self._left = found.accounts
        self._owners.load(found.owners)
        self._threads = ThreadPool(0, 1, "state")
        self._threads.start()
        self.accounts_are(origins)
        self._pool.changed = self._owners.changed = self._changed

    def accounts_are(self, origins: Mapping[str, object]) -> None:
        """Take note of the accounts in force, and restore those that were not there before."""
        self._origins = {name: digest for name, it in origins.items() if (digest := digest_of(it)) is not None}
        for name in [name for name in self._left if name in self._origins]:
            known = self._left.pop(name)
            if known.origin == self._origins[name]:
                self._pool.restore(name, self._remembered(known))

    def settled(self) -> None:
        """All accounts are there: forget those that are not."""
        self._left.clear()

    async def stop(self) -> None:
        """Write what has not been written, and end the thread."""
        self._pool.changed = self._owners.changed = lambda: None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        if self._dirty:
            await self._write()
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.stop()

    def _remembered(self, known: _Account) -> Remembered:
        now = self._wall()
        return Remembered(
            known.disabled,
            tuple(
                (it.model, it.cause, it.reason, None if it.until is None else it.until - now, it.strikes)
                for it in known.rests
            ),
            tuple((it.model, it.left, it.until - now) for it in known.quotas),
        )

    def _read(self) -> _File:
        nothing = _File(FORMAT, {})
        try:
            if self._path.stat().st_size > MAX_SIZE:
                raise ValueError("it is too large")
            found = msgspec.json.decode(self._path.read_bytes(), type=_File)
            if found.agm != FORMAT:
                raise ValueError(f"its format is {found.agm}, and this agm reads {FORMAT}")
            strange = {it.cause for known in found.accounts.values() for it in known.rests} - Cause.__members__.keys()
            if strange:
                raise ValueError("it names a cause that this agm does not know")
        except FileNotFoundError:
            return nothing
        except OSError as e:
            log.warn("the state in {path} cannot be read: {why}", path=str(self._path), why=e.strerror or "")
            return nothing
        except (*NOT_JSON, msgspec.ValidationError, ValueError) as e:
            aside = self._path.with_name(f"{self._path.name}.unusable")
            try:
                os.replace(self._path, aside)
            except OSError:
                aside = self._path
            log.warn(
                "the state in {path} cannot be used ({why}); it is now {aside}, and all accounts start anew",
                path=str(self._path),
                why=str(e),
                aside=str(aside),
            )
            return nothing
        return found

    def _changed(self) -> None:
        self._dirty = True
        if self._timer is None and self._writing is None:
            self._timer = self._reactor.callLater(DELAY, self._due)

    def _due(self) -> None:
        self._timer = None
        self._write()

    def _write(self) -> Deferred[None]:
        self._dirty = False
        text = self._text()
        assert self._threads is not None, "nothing is written before the start"
        writing = deferToThreadPool(self._reactor, self._threads, write_whole, self._path, text, replace=self._replace)
        writing.addErrback(
            lambda failure: log.warn(
                "the state cannot be written to {path}: {why}", path=str(self._path), why=failure.getErrorMessage()
            )
        )
        self._writing = writing
        return writing.addBoth(self._written)

    def _written(self, _: object) -> None:
        self._writing = None
        if self._dirty and self._pool.changed == self._changed:
            self._changed()

    def _text(self) -> bytes:
        now = self._wall()
        accounts = dict(self._left)
        for name, known in self._pool.remember().items():
            if name in self._origins:
                accounts[name] = _Account(
                    self._origins[name],
                    known.disabled,
                    [_Rest(m, c, why, None if left is None else now + left, n) for m, c, why, left, n in known.rests],
                    [_Quota(model, fraction, now + left) for model, fraction, left in known.quotas],
                )
        return msgspec.json.format(msgspec.json.encode(_File(FORMAT, accounts, self._owners.dump())), indent=1) + b"\n"
