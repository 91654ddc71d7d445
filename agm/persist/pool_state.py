"""
What must not be forgotten over a restart, in a small file: who cools down until when, who is disabled and why, quotas,
and which account has which file, cached content or the like.

Times in it are seconds since the epoch.  No key, token or text of a request is ever in it: an account is known by its
name and by a digest of what it was configured from.  How it is written and read is :mod:`agm.persist.json_file`'s.
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

from agm.config import Config, Secret, default_path
from agm.core.ownership import KnownOwners
from agm.core.pool.cooldown import ALL_MODELS, KnownCooldown, Remembered
from agm.core.pool.exclusions import Cause
from agm.core.pool.pool import Pool
from agm.persist.atomic_write import Replace, atomic_write
from agm.persist.json_file import FORMAT, JsonFile

# Fields that a later release adds are passed over, and what has its default is not written: releases read each other's.


class _Cooldown(msgspec.Struct, omit_defaults=True):
    model: str
    cause: str
    reason: str
    until: float | None
    strikes: int = 0
    message: str = ""
    link: str | None = None

    @classmethod
    def of(cls, known: KnownCooldown, now: float) -> _Cooldown:
        """Write down a cooldown."""
        until = None if known.left is None else now + known.left
        return cls(known.model, known.cause, known.reason, until, known.strikes, known.message, known.link)

    def known(self, now: float) -> KnownCooldown:
        """Read it again; a cause of a later release's is one that passes."""
        cause = self.cause if self.cause in Cause.__members__ else Cause.RESTING.name
        left = None if self.until is None else self.until - now
        return KnownCooldown(self.model, cause, self.reason, left, self.strikes, self.message, self.link)


class _Quota(msgspec.Struct):
    model: str
    left: float
    until: float


class _Account(msgspec.Struct, omit_defaults=True):
    origin: str
    #: Why the account is disabled, as the first release wrote it.
    disabled: str | None = None
    held: _Cooldown | None = None
    rests: list[_Cooldown] = []
    quotas: list[_Quota] = []


class _File(msgspec.Struct):
    agm: int
    accounts: dict[str, _Account]
    #: Names of resources and their accounts; the one that was asked for last is the last.
    owners: list[tuple[str, str]] = []
    #: Whose requests have made them, as far as that is known: the client key's name and its team.
    makers: dict[str, tuple[str, str]] = {}


def path_of(config: Config) -> Path | None:
    """Return where the state of a gateway with this configuration is kept; None for nowhere."""
    if config.pool.state == "none" or (config.pool.state is None and config.path is None):
        return None
    if config.pool.state is not None:
        return Path(config.pool.state)
    assert config.path is not None, "the lines above"
    # another configuration has other accounts
    mark = "" if config.path == default_path() else f"-{hashlib.sha256(os.fsencode(config.path)).hexdigest()[:8]}"
    return user_state_path("agm", appauthor=False) / f"state{mark}.json"


def reset(path: Path | None, name: str, model: str | None) -> bool:
    """
    Take back what a state file holds against an account, for a gateway that does not run.

    :param model: only what is held for this model.
    :returns: whether there was anything.
    :raises OSError: if the file cannot be read or written.
    :raises ValueError: if it is none.
    """
    if path is None or not path.exists():
        return False
    found = msgspec.json.decode(path.read_bytes(), type=_File)
    account = found.accounts.get(name)
    if account is None:
        return False
    if model is None:
        del found.accounts[name]
        changed = True
    else:
        rests, quotas = len(account.rests), len(account.quotas)
        account.rests = [cooldown for cooldown in account.rests if cooldown.model != model]
        account.quotas = [quota for quota in account.quotas if quota.model != model]
        changed = (rests, quotas) != (len(account.rests), len(account.quotas))
    if changed:
        atomic_write(path, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return changed


def written_at(path: Path) -> float:
    """Return when a file was written, in seconds since the epoch; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def digest_of(origin: object) -> str | None:
    """Return what tells whether an account is still made from the same; None where that cannot be told."""
    if origin is None:
        return None

    def plain(value: object) -> object:
        if isinstance(value, Secret):
            return value.reveal()
        kind: Any = type(value)
        if attrs.has(kind):
            # what is as it is by default is left out, so that a setting that a later agm adds changes nothing
            fields = [(field, getattr(value, field.name)) for field in attrs.fields(kind)]
            return {field.name: plain(it) for field, it in fields if it != field.default}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return value

    return hashlib.blake2b(repr(plain(origin)).encode(), digest_size=12, person=b"agm state").hexdigest()


class PoolState:
    """
    Keeps what a pool knows in a file.

    :param wall: seconds since the epoch.
    :param not_before: the same, of a moment that has passed for certain, whatever the clock says.
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
        not_before: float = 0.0,
        replace: Replace = os.replace,
    ) -> None:
        self._not_before = not_before
        self._owners = KnownOwners() if owners is None else owners
        self._pool = pool
        self._wall = wall
        self._file = JsonFile(
            reactor,
            path,
            _File,
            what="the state",
            lost="all accounts start anew",
            dump=self._document,
            replace=replace,
        )
        self._origins: Mapping[str, str] = {}
        self._left: dict[str, _Account] = {}

    def start(self, origins: Mapping[str, object]) -> None:
        """
        Read the file, restore what it tells of the accounts that are the same as then, and write from now on.

        :param origins: what each account was made from, by name.
        """
        found = self._file.start()
        if found is not None:
            self._left = found.accounts
            self._owners.load(found.owners, found.makers)
        self.accounts_are(origins)
        self._pool.changed = self._owners.changed = self._file.changed

    def accounts_are(self, origins: Mapping[str, object]) -> None:
        """Take note of the accounts in force, and restore those that were not there before."""
        self._origins = {name: digest for name, it in origins.items() if (digest := digest_of(it)) is not None}
        for name in [name for name in self._left if name in self._origins]:
            known = self._left.pop(name)
            if known.origin == self._origins[name]:
                self._pool.restore(name, self._remembered(known))

    def changed(self) -> None:
        """Write the file again soon."""
        self._file.changed()

    def settled(self) -> None:
        """All accounts are there: forget those that are not."""
        self._left.clear()

    async def stop(self) -> None:
        """Write what has not been written, and end the thread."""
        self._pool.changed = self._owners.changed = lambda: None
        await self._file.stop()

    def _remembered(self, known: _Account) -> Remembered:
        # a machine without a battery for its clock begins in 1970: no cooldown may last until today for that
        now = max(self._wall(), self._not_before)
        held = None if known.held is None else known.held.known(now)
        if held is None and known.disabled is not None:  # an earlier release's
            held = KnownCooldown(ALL_MODELS, Cause.DISABLED.name, known.disabled, None)
        return Remembered(
            held,
            tuple(it.known(now) for it in known.rests),
            tuple((it.model, it.left, it.until - now) for it in known.quotas),
        )

    def _document(self) -> _File:
        now = self._wall()
        accounts = dict(self._left)
        for name, known in self._pool.remember().items():
            if name in self._origins:
                accounts[name] = _Account(
                    self._origins[name],
                    None,
                    None if known.held is None else _Cooldown.of(known.held, now),
                    [_Cooldown.of(cooldown, now) for cooldown in known.cooldowns],
                    [_Quota(model, fraction, now + left) for model, fraction, left in known.quotas],
                )
        return _File(FORMAT, accounts, self._owners.dump(), self._owners.dump_makers())
