"""
Reloading the configuration while the gateway runs: on SIGHUP, and when the file changes.

A configuration that cannot be used is refused with its problems in the log, and the old one stays in force.  Requests
under way are never touched.  What only a start can change (listeners, ``max_body``, plugins, the client-key mode's
reach) is named in the log when it has changed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from agm import config as configuration
from agm.config import Config, ConfigError
from agm.gateway import Gateway
from agm.notify import ServiceManager
from agm.plugins import HookFailed

#: Seconds between looks at the file.
LOOK_EVERY = 1.0

log = Logger()


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class ConfigWatch(Service):
    """
    Watches the file that a gateway was configured from.

    :param adapt: what the composition root changes about a configuration that was read; the identity by default.
    :param manager: is told when a reload begins and ends.
    """

    def __init__(
        self,
        reactor: Any,
        gateway: Gateway,
        path: Path,
        adapt: Callable[[Config], Config] = lambda c: c,
        manager: ServiceManager = ServiceManager(),  # noqa: B008  # a frozen value
    ) -> None:
        self._manager = manager
        self._reactor = reactor
        self._gateway = gateway
        self._path = path
        self._adapt = adapt
        self._seen = _identity(path)
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._before: Any = None
        self._reloading = False
        self._again = False

    def startService(self) -> None:
        """Start watching."""
        super().startService()
        self._looking.start(LOOK_EVERY, now=False)
        if threading.current_thread() is threading.main_thread():  # Python takes signals in the main thread only
            self._before = signal.signal(signal.SIGHUP, self._hung_up)

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        if self._looking.running:
            self._looking.stop()
        if self._before is not None:
            signal.signal(signal.SIGHUP, self._before)
            self._before = None

    def _hung_up(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self.reload)

    def _look(self) -> None:
        now = _identity(self._path)
        if now is None and self._seen is not None:
            log.warn("{path} is gone; what it said stays in force", path=str(self._path))
            self._seen = None
        elif now is not None and now != self._seen:
            self.reload()

    def reload(self) -> Deferred[None]:
        """Read the file now and put it in force; fires when that is done, whether it could be or not."""
        return Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> None:
        if self._reloading:
            self._again = True
            return
        self._reloading = True
        self._manager.reloading()
        try:
            while True:
                self._again = False
                await self._read()
                if not self._again:
                    return
        finally:
            self._reloading = False
            self._manager.ready(f"serving from {len(self._gateway.pool)} accounts")

    async def _read(self) -> None:
        self._seen = _identity(self._path)
        before = self._gateway.config
        try:
            config = self._adapt(configuration.load(self._path, environ=os.environ))
            await self._gateway.reload(config)
        except ConfigError as e:
            for problem in e.problems:
                log.error("{problem}", problem=str(problem))
            log.error("the new configuration is refused; the old one stays in force")
            return
        except (HookFailed, ValueError) as e:
            log.error("the new configuration is refused: {why}; the old one stays in force", why=str(e))
            return
        for warning in config.warnings:
            log.warn("{warning}", warning=warning)
        log.info("{path} is in force: {accounts} accounts", path=str(self._path), accounts=len(self._gateway.pool))
        for key in needs_restart(before, config):
            log.warn("{key} has changed; that takes a restart", key=key)


def needs_restart(before: Config, after: Config) -> list[str]:
    """The settings that differ and are read at the start only."""
    found = [
        f"gateway.{name}"
        for name in ("listen", "max_body", "allowed_hosts", "cors_origins", "public_url", "trusted_proxies")
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
    """An `adapt` that sets fields of every configuration that is read, as ``--demo`` does with the accounts."""
    return lambda config: attrs.evolve(config, **fixed)
