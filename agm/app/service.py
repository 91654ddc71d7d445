"""The service that twistd runs: it starts the gateway, stops it on signals, and drains it meanwhile."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from agm.app.listeners import ListenerService
from agm.app.systemd import ServiceManager
from agm.config.problems import fail
from agm.core.listening import is_loopback
from agm.core.words import counted
from agm.serving.gateway import Gateway
from agm.web.site import GatewaySite

log = Logger()


class GatewayService(MultiService):
    """The gateway with its listeners: it starts the credential threads, and drains when it stops."""

    def __init__(self, gateway: Gateway, site: GatewaySite, manager: ServiceManager) -> None:
        super().__init__()
        self.gateway = gateway
        self.site = site
        self._manager = manager
        self._watchdog = LoopingCall(manager.alive)
        self._watchdog.clock = gateway.reactor
        #: Makes what twistd is to log with.
        self.observer: Callable[[], ILogObserver] | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Become a part; twistd's application, of which this is one, logs as the configuration says."""
        if self.observer is not None and isinstance(parent, Componentized):
            try:
                parent.setComponent(ILogObserver, self.observer())
            except OSError as e:
                fail(f"cannot log to {e.filename}: {e.strerror}")
        super().setServiceParent(parent)

    def startService(self) -> None:
        """The reactor runs."""
        Deferred.fromCoroutine(self.gateway.start())
        super().startService()
        count, models = len(self.gateway.pool), len(self.gateway.config.models.list)
        log.info(
            "agm serves {what} from {pool}; client keys: {mode}",
            what=counted(models, "model"),
            pool=counted(count, "account"),
            models=models,
            accounts=count,
            mode=self.gateway.clients.mode,
        )
        if not count:
            log.warn("no account is configured: add one with the command: agm account add NAME")
        self.gateway.reactor.callWhenRunning(self._announce)

    def _announce(self) -> None:
        """Tell the service manager as soon as everything listens, and then again and again if it wants to hear it."""
        all_bound = DeferredList([listener.bound for listener in self._listeners()])
        all_bound.addCallback(lambda _: self._all_bound())
        if self._manager.watchdog is not None:
            self._watchdog.start(self._manager.watchdog / 2)

    def _all_bound(self) -> None:
        """Say that it serves, last of all where a browser finds it."""
        self._manager.ready(f"serving from {counted(len(self.gateway.pool), 'account')}")
        if (address := for_browsers(self.gateway.live.listening)) is not None:
            log.info("dashboard: {address}/ui/", address=address)

    def _listeners(self) -> list[ListenerService]:
        return [service for service in self if isinstance(service, ListenerService)]

    def stopService(self) -> Deferred[Any]:
        """Take no further request, let those under way finish for ``[timeouts] drain`` seconds, then stop."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        patience = self.gateway.config.timeouts.drain
        # beyond the drain a moment for the last writes
        self._manager.stopping(f"stopping after {counted(self.site.busy, 'request')}", patience + 10)
        self.gateway.live.close()
        until = self.gateway.reactor.seconds() + patience
        await self.site.notice(patience)
        await DeferredList([maybeDeferred(listener.disownServiceParent) for listener in self._listeners()])
        if self.site.busy:
            log.info(
                "waiting up to {patience:g} seconds for {requests}; a second signal aborts what is in flight",
                patience=patience,
                requests=counted(self.site.busy, "request"),
                count=self.site.busy,
            )
        await self.site.drain(max(until - self.gateway.reactor.seconds(), 0.0))
        stopping = super().stopService()  # a demo's upstream has served until here
        if isinstance(stopping, Deferred):
            await stopping
        await self.gateway.stop()
        if self._watchdog.running:
            self._watchdog.stop()


def for_browsers(listening: Sequence[str]) -> str | None:
    """
    Return the address at which a browser on this machine reaches one of the listeners, or None.

    :param listening: addresses as they are logged, ``http://0.0.0.0:8045`` or ``unix:/run/agm.sock``; a listener of all
        interfaces is named by its loopback, and loopback goes first.
    """
    found = [each for each in listening if not each.startswith("unix:")]
    found.sort(key=lambda each: not is_loopback((urlsplit(each).hostname or "").removesuffix(".")))
    if not found:
        return None
    return re.sub(r"//(0\.0\.0\.0|\[::\])(?=:)", lambda at: "//[::1]" if "[" in at[0] else "//127.0.0.1", found[0])


def stop_on_signals(reactor: Any, site: GatewaySite) -> None:
    """
    Stop at the first SIGTERM or SIGINT, and cut what is still under way at the second.  SIGHUP ends nothing.

    To be called once the reactor runs, in place of Twisted's own reactions: those end the process by the signal rather
    than with status 0, and take a second signal for an error.
    """
    stopping = False

    def stop(name: str) -> None:
        nonlocal stopping
        if stopping:
            log.info(
                "{name} again: aborting {requests}", name=name, requests=counted(site.busy, "request"), count=site.busy
            )
            site.cut()
        else:
            log.info("{name}: stopping", name=name)
            stopping = True
            reactor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: reactor.callFromThread(stop, signal.Signals(number).name))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nobody watches a configuration
        signal.signal(signal.SIGHUP, lambda number, frame: reactor.callFromThread(_nothing_to_reload))


def _nothing_to_reload() -> None:
    log.info("SIGHUP: there is no configuration file to reload")
