"""The service that twistd runs: it starts the gateway, stops it on signals, and drains it meanwhile."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from agm.app.listeners import ListenerService
from agm.app.systemd import Manager
from agm.config.problems import fail
from agm.core.listening import is_loopback
from agm.core.words import counted
from agm.net.sharing import AcceptGate
from agm.serving.gateway import Gateway
from agm.web.site import GatewaySite

#: Seconds for which connections are served that clients have kept, after no further ones are taken.
KEPT_SECONDS = 1.5

log = Logger()


class LoggedService(MultiService):
    """
    What twistd runs.

    :ivar observer: makes what twistd is to log with.
    """

    observer: Callable[[], ILogObserver] | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Become a part; twistd's application, of which this is one, logs as the configuration says."""
        if self.observer is not None and isinstance(parent, Componentized):
            try:
                parent.setComponent(ILogObserver, self.observer())
            except OSError as e:
                fail(f"cannot log to {e.filename}: {e.strerror}")
        super().setServiceParent(parent)


class GatewayService(LoggedService):
    """
    The gateway with its listeners: it starts the credential threads, and drains when it stops.

    :param shared: others listen on the same sockets.
    """

    def __init__(
        self, gateway: Gateway, site: GatewaySite, manager: Manager, *, shared: AcceptGate | None = None
    ) -> None:
        super().__init__()
        self._gate = shared
        self.gateway = gateway
        self.site = site
        self._manager = manager
        self._watchdog = LoopingCall(manager.alive)
        self._watchdog.clock = gateway.reactor
        #: Seconds for which requests are served after the stop has begun, before the drain; None for none at all.
        self.lame_duck: float | None = None
        #: Whether others go on taking connections from the same sockets.
        self.replaced = False
        #: Whether whoever started this process is gone.
        self.orphaned = False
        #: Whether the stop has begun.
        self.stopping = False

    def privilegedStartService(self) -> None:
        """Listen; from before anybody can know of that, SIGHUP ends nothing."""
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # whoever watches a configuration has it later
            reactor = self.gateway.reactor
            signal.signal(signal.SIGHUP, lambda number, frame: reactor.callFromThread(_nothing_to_reload))
        super().privilegedStartService()

    def startService(self) -> None:
        """The reactor runs."""
        Deferred.fromCoroutine(self.gateway.start())
        super().startService()
        if self._gate is not None:
            self._gate.start()
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
        """Serve on for as long as :attr:`lame_duck` says, let what is in flight finish within the drain, then stop."""
        return Deferred.fromCoroutine(self._stop())

    async def _leave(self, seconds: float) -> None:
        """Have clients go elsewhere before any of them is refused."""
        if seconds > 0:
            log.info("requests are served for {seconds:g} more seconds; a second signal ends that", seconds=seconds)
            await self.site.leave(seconds)
        listeners = self._listeners()
        if self._gate is not None and self.replaced:
            self._gate.shut()
        elif not self.site.draining:
            for listener in listeners:
                listener.last = True
                listener.accept_waiting()
        await DeferredList([maybeDeferred(listener.disownServiceParent) for listener in listeners])
        if not self.site.draining:
            await self.site.leave(KEPT_SECONDS, until_alone=True)

    async def _stop(self) -> None:
        patience = self.gateway.config.timeouts.drain
        # beyond the drain a moment for the last writes
        serving_on = 0.0 if self.lame_duck is None else self.lame_duck + KEPT_SECONDS
        self._manager.stopping(f"stopping after {counted(self.site.busy, 'request')}", serving_on + patience + 10)
        if self.lame_duck is not None:
            await self._leave(self.lame_duck)
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
        if self._gate is not None:
            self._gate.stop()

    def stop(self, name: str) -> None:
        """
        Stop the process, because of a signal: the first ends it, another one what the stop waits for.

        SIGTERM has requests served on for ``[timeouts] lame_duck``.
        """
        if self.stopping and self.site.hurry():
            log.info("{name} again: no further request is served", name=name)
        elif self.stopping:
            requests = counted(self.site.busy, "request")
            log.info("{name} again: aborting {requests}", name=name, requests=requests, count=self.site.busy)
            self.site.cut()
        else:
            log.info("{name}: stopping", name=name)
            lame_duck = self.gateway.config.timeouts.lame_duck
            self.leave(lame_duck if name == "SIGTERM" and lame_duck > 0 else None)

    def leave(self, lame_duck: float | None, *, replaced: bool = False) -> None:
        """
        Stop the process, once.

        :param lame_duck: seconds for which requests are served before the drain; None to refuse them at once.
        :param replaced: others go on taking connections from the same sockets.
        """
        if not self.stopping:
            self.stopping, self.lame_duck, self.replaced = True, lame_duck, replaced
            self.gateway.reactor.stop()


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


class Stoppable(Protocol):
    """What a signal stops."""

    def stop(self, name: str) -> None:
        """Stop because of the signal of this name."""


def stop_on_signals(reactor: Any, service: Stoppable) -> None:
    """
    Stop at the first SIGTERM or SIGINT, and cut what is still under way at the second.

    With ``[timeouts] lame_duck`` requests are served on after a SIGTERM; a second signal ends that, and a third cuts.
    To be called once the reactor runs, in place of Twisted's own reactions: those end the process by the signal rather
    than with status 0, and take a second signal for an error.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: reactor.callFromThread(service.stop, signal.Signals(number).name))


def _nothing_to_reload() -> None:
    log.info("SIGHUP: there is no configuration file to reload")
