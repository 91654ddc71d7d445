"""
Reloading the configuration while the gateway runs: on SIGHUP, and when a file changes that it is made from.

These are the file itself, the key files, logins and authorities that it names, and the certificates of listeners.  What
is being written is left alone until its writer is done.  A configuration that cannot be used is refused with its
problems in the log, and the old one stays in force; likewise a certificate.  Requests under way are never touched.
What only a start can change (listeners, ``max_body``, plugins, the client-key mode's reach) is named in the log when it
has changed.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from agm import config as configuration
from agm.app.systemd import Manager, ServiceManager
from agm.config import Config, ConfigError
from agm.config.identity import Identity
from agm.core.listening import ListenerRefused
from agm.core.words import counted
from agm.plugins.hooks import HookFailed
from agm.serving.gateway import Gateway

if TYPE_CHECKING:
    from agm.web.certificates import ServerCertificate

#: Seconds between looks at the files.
LOOK_EVERY = 0.5
#: Seconds for which a file must not have changed before it is read, which two looks tell: somebody may be writing it.
SETTLED = 0.4
#: The same for what would take something away, which half of a file does.
QUIET = 3.0
#: How many files are looked at each time, beside those that have just changed; the others come next.
PER_LOOK = 500

log = Logger()


class Changes:
    """
    Which files are not as they were when they were read, and since when they are as they are.

    :param seconds: of a clock that never goes back.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._since: dict[Path, tuple[Identity | None, float]] = {}
        self._next = 0

    def look(self, read: Mapping[Path, Identity | None]) -> float | None:
        """
        Return for how long every file that has changed has stayed as it is now; None if none has changed.

        :param read: how they were when they were read.  Of many, each look takes the next few.
        """
        now = self._seconds()
        few = dict.fromkeys(path for path in self._since if path in read)
        few.update(dict.fromkeys(islice(read, 1)))  # the configuration itself
        few.update(dict.fromkeys(islice(read, self._next, self._next + PER_LOOK)))
        self._next = self._next + PER_LOOK if self._next + PER_LOOK < len(read) else 0
        since: dict[Path, tuple[Identity | None, float]] = {}
        for path in few:
            found = Identity.of(path)
            if found != read[path]:
                seen, at = self._since.get(path, (None, math.inf))
                since[path] = found, at if seen == found and at <= now else now
        self._since = since
        return now - max(at for _, at in since.values()) if since else None


class ConfigWatch(Service):
    """
    Watches the files that a gateway is made from.

    :param path: the configuration; None where there is none.
    :param adapt: what the composition root changes about a configuration that was read; the identity by default.
    :param manager: is told when a reload begins and ends.
    :param certificates: those of the listeners.
    :param editable: whether what is written into the file is what serves, and so may be written by the admin API.
    """

    def __init__(
        self,
        reactor: Any,
        gateway: Gateway,
        path: Path | None,
        adapt: Callable[[Config], Config] = lambda c: c,
        manager: Manager = ServiceManager(),  # noqa: B008  # a frozen value
        certificates: Sequence[ServerCertificate] = (),
        *,
        editable: bool = True,
    ) -> None:
        self._manager = manager
        self._editable = editable
        self._reactor = reactor
        self._gateway = gateway
        self._path = path
        self._adapt = adapt
        #: The files as they were when they were last read.
        self._read: Mapping[Path, Identity | None] = gateway.config.files
        self._changes = Changes(reactor.seconds)
        self._certificates = [(certificate, Changes(reactor.seconds)) for certificate in certificates]
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._before: Any = None
        self._reloading = False
        self._again = False
        self._waiting = False

    def startService(self) -> None:
        """Start watching."""
        super().startService()
        if self._editable and self._path is not None:
            self._gateway.reload_file = self.reload
        self._looking.start(LOOK_EVERY, now=False)
        if threading.current_thread() is threading.main_thread():  # Python takes signals in the main thread only
            self._before = signal.signal(signal.SIGHUP, self._hung_up)

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        self._gateway.reload_file = None
        if self._looking.running:
            self._looking.stop()
        if self._before is not None:
            signal.signal(signal.SIGHUP, self._before)
            self._before = None

    def _hung_up(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self.reload)

    def reload(self) -> Deferred[None]:
        """Read everything now and put it in force; fires when that is done, whether it could be or not."""
        for certificate, _ in self._certificates:
            _renew(certificate)
        if self._path is None:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        return Deferred.fromCoroutine(self._reload(self._path))

    def _look(self) -> None:
        try:
            self._look_once()
        except Exception:  # which would be the last look
            log.failure("the configuration and the files that it names could not be checked for changes")

    def _look_once(self) -> None:
        for certificate, changes in self._certificates:
            quiet = changes.look(certificate.read)
            if quiet is not None and quiet >= SETTLED:
                _renew(certificate, quiet)
        quiet = None if self._path is None or self._reloading else self._changes.look(self._read)
        if quiet is None:
            self._waiting = False
        elif quiet >= SETTLED and self._path is not None:
            self._consider(self._path, quiet)

    def _consider(self, path: Path, quiet: float) -> None:
        """Put what the files hold in force, unless their writer may not be done."""
        if Identity.of(path) is None:
            if self._read.get(path) is not None:
                log.warn("{path} is gone; the configuration that was read from it stays loaded", path=str(path))
            self._read = self._as_they_are({})
            return
        before, found = self._gateway.config, self._load(path)
        if quiet < QUIET and (isinstance(found, ConfigError) or _takes_away(path, before, found)):
            if not self._waiting:
                self._waiting = True
                log.info(
                    "{path}, or a file that it names, holds less than before: it is read again when it has not "
                    "changed for {quiet:g} seconds",
                    path=str(path),
                    quiet=QUIET,
                )
        elif found == before and self._read.get(path) == Identity.of(path):
            self._read = before.files if isinstance(found, ConfigError) else found.files
        else:
            Deferred.fromCoroutine(self._reload(path, found))

    def _load(self, path: Path) -> Config | ConfigError:
        try:
            return self._adapt(configuration.load(path, environ=os.environ))
        except ConfigError as e:
            return e

    async def _reload(self, path: Path, found: Config | ConfigError | None = None) -> None:
        """Put in force what the files hold, or what was `found` there just now."""
        if self._reloading:
            self._again = True
            return
        self._reloading = True
        self._manager.reloading()
        try:
            while True:
                self._again = self._waiting = False
                await self._put_in_force(path, self._load(path) if found is None else found)
                found = None
                if not self._again:
                    return
        finally:
            self._reloading = False
            self._manager.ready(f"serving from {counted(len(self._gateway.pool), 'account')}")

    async def _put_in_force(self, path: Path, config: Config | ConfigError) -> None:
        before = self._gateway.config
        self._read = self._as_they_are(config.files)
        if isinstance(config, ConfigError):
            for problem in config.problems:
                log.error("{problem}", problem=str(problem))
            log.error("the new configuration is refused; the old one stays loaded")
            return
        try:
            await self._gateway.reload(config)
        except (HookFailed, ValueError) as e:
            log.error("the new configuration is refused: {why}; the old one stays loaded", why=str(e))
            return
        self._read = config.files
        for warning in config.warnings:
            log.warn("{warning}", warning=warning)
        for name in sorted(_serving(config) & _off(before)):
            log.info("{account}: its secret is available again", account=name)
        count = len(self._gateway.pool)
        log.info("{path} is loaded: {pool}", path=str(path), pool=counted(count, "account"), accounts=count)
        for key in needs_restart(before, config):
            log.warn("{key} has changed; the change takes effect after a restart", key=key)

    def _as_they_are(self, read: Mapping[Path, Identity | None]) -> Mapping[Path, Identity | None]:
        """Return the files that were `read` just now, and those of the configuration in force as they are."""
        return {**read, **{path: Identity.of(path) for path in self._gateway.config.files if path not in read}}


def _serving(config: Config) -> set[str]:
    return {account.name for account in config.accounts if account.enabled and account.unusable is None}


def _off(config: Config) -> set[str]:
    return {account.name for account in config.accounts if account.unusable is not None}


def _takes_away(path: Path, before: Config, after: Config) -> bool:
    """
    Say whether what comes may be half of what is meant: no account is left, one has lost its secret, or a file that was
    written in its place rather than replaced is shorter, or lacks something, or holds a shorter key.
    """
    gone = _serving(before) - _serving(after)
    if gone and (not _serving(after) or gone & _off(after)):
        return True
    if _in_place(was := before.files.get(path), found := after.files.get(path)):
        keys = {key.digest for key in before.auth.keys} - {key.digest for key in after.auth.keys}
        if gone or keys or (was is not None and found is not None and found.size < was.size):
            return True
    # half of a login or of a certificate is none, but half of a key looks like one
    written = any(_in_place(before.files.get(each), found) for each, found in after.files.items() if each != path)
    lengths = {account.name: len(account.api_key.reveal()) for account in before.accounts if account.api_key}
    return written and any(
        len(account.api_key.reveal()) < lengths.get(account.name, 0) for account in after.accounts if account.api_key
    )


def _in_place(was: Identity | None, found: Identity | None) -> bool:
    """Return whether a file was written where it was; what is put in its place is whole, as a rule."""
    if was is None or found is None or was == found:
        return False
    return (was.device, was.inode) == (found.device, found.inode)


def _renew(certificate: ServerCertificate, quiet: float = QUIET) -> None:
    """Show what the files of a certificate hold now; what cannot be used is told once nobody writes there any more."""
    try:
        another = certificate.renew()
    except ListenerRefused as e:
        if quiet >= QUIET:
            certificate.pass_over()
            log.warn("{why}; the previous certificate stays in use", why=str(e))
        return
    if another:
        log.info(
            "the certificate in {path} is in use from now on; it expires on {day}",
            path=str(certificate.files.certificate),
            day=f"{certificate.ends:%Y-%m-%d}",
        )
    if doubt := certificate.doubt():
        log.warn("{doubt}", doubt=doubt)


def needs_restart(before: Config, after: Config) -> list[str]:
    """Return the settings that differ and are read at the start only."""
    found = [
        f"gateway.{name}"
        for name in (
            "listen",
            "max_body",
            "allowed_hosts",
            "cors_origins",
            "public_url",
            "trusted_proxies",
            "fast_sockets",
            "workers",
        )
        if getattr(before.gateway, name) != getattr(after.gateway, name)
    ]
    found += [
        f"plugins.{name}" for name in ("load", "path") if getattr(before.plugins, name) != getattr(after.plugins, name)
    ]
    found += [f"log.{name}" for name in ("format", "level") if getattr(before.log, name) != getattr(after.log, name)]
    found += [
        f"request_log.{name}"
        for name in ("enabled", "path")
        if getattr(before.request_log, name) != getattr(after.request_log, name)
    ]
    if before.otel != after.otel:
        found.append("otel")
    if before.pool.state != after.pool.state:
        found.append("pool.state")
    if before.auth.mode != after.auth.mode:
        found.append("auth.mode")
    found += [
        f"timeouts.{name}"
        for name in ("connect", "request_read", "client_stall")
        if getattr(before.timeouts, name) != getattr(after.timeouts, name)
    ]
    found += [
        f"limits.{name}"
        for name in ("header_bytes", "header_lines", "bodies", "connections")
        if getattr(before.limits, name) != getattr(after.limits, name)
    ]
    return found


def keeping(**fixed: Any) -> Callable[[Config], Config]:
    """Return an `adapt` that sets fields of every configuration that is read, as ``--demo`` does with the accounts."""
    return lambda config: attrs.evolve(config, **fixed)
