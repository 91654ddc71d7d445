"""
``/_agm/events``: how the gateway stands, and every change of that, for ``agm top`` and the dashboard.

A stream of server-sent events: all of it at once, then what has changed, about once a second.  A second's change is
made once for all who watch; one who does not keep up is left out until it does, and then gets everything anew.
docs/admin.md describes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from agm.core.errors import NotFound, Unavailable
from agm.net.stalls import Stall
from agm.serving.gateway import Gateway
from agm.web.access import Access
from agm.web.admin.base import AdminResource
from agm.web.admin.describe import describe_moment, describe_parts, describe_status, describe_traffic
from agm.web.admin.whole import status_of_all
from agm.web.base import Visit
from agm.web.browsers import NOSNIFF
from agm.web.request import GatewayRequestOnWire

log = Logger()

#: Seconds between two changes, at least.
PACE = 1.0
#: Making changes may take one part in so many of the reactor's time.
SHARE = 50
#: How many may watch at once.
MAX_WATCHERS = 32
#: How many requests that ended are told with one change; with more than that, the latest.
MAX_TOLD = 50
#: A change repeats the counts of so many seconds, because the last ones were not over when they were told.
REPEATED = 5


class Events(AdminResource):
    """``GET /_agm/events``: how it stands, and every change of that."""

    methods = ("GET",)

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__(gateway, access)
        self._feed = Feed(gateway) if gateway.peers is None else FeedOfAll(gateway)
        self._own = Feed(gateway)

    async def respond_to_admin(self, visit: Visit) -> None:
        worker, peers = visit.query.get("worker"), self.gateway.peers
        if worker is not None:
            await status_of_all(self.gateway, worker)  # while it can still be refused
        if worker is None or peers is None:
            await self._feed.watch(visit.wire)
        elif worker == str(peers.number):
            await self._own.watch(visit.wire)
        else:
            await FeedOfAll(self.gateway, worker=worker).watch(visit.wire)


@attrs.define(eq=False)
class Feed:
    """What those who watch are told; it works while anybody does."""

    gateway: Gateway
    _watchers: dict[_Watcher, None] = attrs.Factory(dict)
    _timer: IDelayedCall | None = None
    _told: dict[str, object] = attrs.Factory(dict)
    _ended: int = 0
    _last: float = 0.0

    async def watch(self, wire: GatewayRequestOnWire) -> None:
        """
        Tell a client, until it leaves or the gateway stops.

        :raises Unavailable: if too many watch already, or the gateway is about to stop.
        """
        live = self.gateway.live
        if live.closed:
            raise Unavailable("The gateway is stopping.", reason="STOPPING", retry_after=1.0)
        if len(self._watchers) >= MAX_WATCHERS:
            raise Unavailable(
                f"{MAX_WATCHERS} clients are already watching.", reason="TOO_MANY_WATCHERS", retry_after=10.0
            )
        done: Deferred[None] = Deferred()
        watcher = _Watcher(wire, self.gateway, self._tell_all, done)
        wire.setResponseCode(200)
        for name, value in (
            (b"Content-Type", b"text/event-stream"),
            (b"Cache-Control", b"no-store"),
            (b"X-Accel-Buffering", b"no"),
            NOSNIFF,
        ):
            wire.responseHeaders.setRawHeaders(name, [value])
        wire.registerProducer(watcher, True)
        live.until_close(watcher, watcher.end)
        if not self._watchers:
            self._begin()
        self._watchers[watcher] = None
        try:
            watcher.tell(await self._everything())
            await done
        except CancelledError:  # it has left, or has watched for [timeouts] total
            pass
        finally:
            live.leave(watcher)
            del self._watchers[watcher]
            watcher.disarm()
            if not self._watchers and self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if wire.channel is not None:
            wire.unregisterProducer()
            wire.finish()

    async def _everything(self) -> bytes:
        """All of it, as an event."""
        return _event(b"status", describe_status(self.gateway), self.gateway)

    def _tell_all(self, watcher: _Watcher) -> None:
        """Tell one who has missed something everything anew."""
        watcher.tell(_event(b"status", describe_status(self.gateway), self.gateway))

    def _begin(self) -> None:
        """Somebody watches again: what is told from now on is what changes from now on."""
        reactor = self.gateway.reactor
        self._told = {part: _settled(value, reactor.seconds()) for part, value in describe_parts(self.gateway).items()}
        self._ended = self.gateway.live.ended
        self._last = reactor.seconds()
        self._timer = reactor.callLater(PACE, self._tell)

    def _tell(self) -> None:
        began, reactor = time.perf_counter(), self.gateway.reactor
        now = reactor.seconds()
        behind = now - self._last > REPEATED - 2  # the reactor was held up: the counts between were never told
        self._last = now
        change = _event(b"change", self._change(now), self.gateway)
        for watcher in list(self._watchers):
            if behind:
                self._tell_all(watcher)
            else:
                watcher.tell(change)
        self._timer = reactor.callLater(max(PACE, SHARE * (time.perf_counter() - began)), self._tell)

    def _change(self, now: float) -> dict[str, Any]:
        gateway, live = self.gateway, self.gateway.live
        new = live.ended - self._ended
        self._ended = live.ended
        changed = {}
        for part, value in describe_parts(gateway).items():
            settled = _settled(value, now)
            if settled != self._told[part]:
                self._told[part] = settled
                changed[part] = value
        return {
            **describe_moment(gateway),
            **describe_traffic(gateway, REPEATED),
            "requests": live.latest(min(new, MAX_TOLD)),
            "untold": max(new - MAX_TOLD, 0),
            **changed,
        }


@attrs.define(eq=False)
class FeedOfAll(Feed):
    """
    The same for several workers together, whose documents are asked for once for all who watch.

    `worker` is the number of one that is watched alone.
    """

    worker: str | None = attrs.field(default=None, kw_only=True)
    _document: dict[str, Any] = attrs.Factory(dict)
    _known: set[str] = attrs.Factory(set)
    #: Since when it works: what has been asked for before tells nobody any more.
    _since: object = None

    async def _everything(self) -> bytes:
        self._document = await status_of_all(self.gateway, self.worker)
        self._known = {it["id"] for it in self._document["requests"]} or {""}
        return _event(b"status", self._document, self.gateway)

    def _tell_all(self, watcher: _Watcher) -> None:
        watcher.tell(_event(b"status", self._document, self.gateway))

    def _begin(self) -> None:
        self._told, self._known, self._since = {}, set(), object()
        self._last = self.gateway.reactor.seconds()
        self._timer = self.gateway.reactor.callLater(PACE, self._tell)

    def _tell(self) -> None:
        reactor = self.gateway.reactor
        began, since = reactor.seconds(), self._since

        async def tell() -> None:
            try:
                document = await status_of_all(self.gateway, self.worker)
                change = _event(b"change", self._difference(document, reactor.seconds()), self.gateway)
                for watcher in list(self._watchers):
                    watcher.tell(change)
            except NotFound:  # the one that is watched has ended, or does not answer: the next second may have it
                pass
            except Exception:
                log.failure("what the workers do could not be told")
            if self._watchers and since is self._since:
                self._timer = reactor.callLater(max(PACE, 2 * (reactor.seconds() - began)), self._tell)

        self._timer = None
        Deferred.fromCoroutine(tell())

    def _difference(self, document: dict[str, Any], now: float) -> dict[str, Any]:
        """Return what of the whole has changed since it was told last."""
        self._document = document
        ids = {it["id"] for it in document["requests"]}
        new = [it for it in document["requests"] if it["id"] not in self._known] if self._known else []
        self._known = ids or {""}
        traffic = {
            name: value[-REPEATED:] if name != "second" else value for name, value in document["traffic"].items()
        }
        changed = {}
        for part, value in document.items():
            if part not in ("at", "uptime", "totals", "traffic", "open", "requests"):
                settled = _settled(value, now)
                if settled != self._told.get(part):
                    self._told[part] = settled
                    changed[part] = value
        return {
            **{name: document[name] for name in ("at", "uptime", "totals", "open")},
            "traffic": traffic,
            "requests": new[:MAX_TOLD],
            "untold": max(len(new) - MAX_TOLD, 0),
            **changed,
        }


def _settled(value: Any, now: float) -> Any:
    """Return a document in which times that run are replaced by when they end, so that only news make a difference."""
    if isinstance(value, dict):
        return {
            key: round(now + part)
            if key == "seconds_left" and part is not None
            else round(now - part)
            if key == "seconds_ago"
            else _settled(part, now)
            for key, part in value.items()
        }
    return [_settled(part, now) for part in value] if isinstance(value, list) else value


def _event(name: bytes, document: dict[str, Any], gateway: Gateway) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, gateway.redactor.body(msgspec.json.encode(document)))


@implementer(IPushProducer)
class _Watcher:
    """
    One who watches.

    What it has not taken yet is one document at most: while it takes nothing it is told nothing, and after that
    everything anew.  One that takes nothing for ``[timeouts] client_stall`` seconds is cut.
    """

    def __init__(
        self,
        wire: GatewayRequestOnWire,
        gateway: Gateway,
        tell_all: Callable[[_Watcher], object],
        done: Deferred[None],
    ) -> None:
        self._wire = wire
        self._gateway = gateway
        self._tell_all = tell_all
        self._done = done
        self._paused = self._missed = False
        self._behind: Stall | None = None

    def tell(self, change: bytes) -> None:
        """Tell what has changed."""
        if self._paused:
            self._missed = True
        else:
            self._wire.write(change)

    def end(self) -> None:
        """The gateway is about to stop."""
        if not self._done.called:
            self._done.callback(None)

    def pauseProducing(self) -> None:
        """It takes nothing for now."""
        self._paused = True
        if self._behind is None:
            stall = self._gateway.config.timeouts.client_stall
            self._behind = self._gateway.stalls.watch(self._wire.transport, stall, self._cut)

    def resumeProducing(self) -> None:
        """It takes more."""
        self._paused = False
        self.disarm()
        if self._missed:
            self._missed = False
            self._tell_all(self)

    def stopProducing(self) -> None:
        """Its connection is going away; the request hears of that by itself."""

    def disarm(self) -> None:
        """It need not hurry any more."""
        behind, self._behind = self._behind, None
        if behind is not None:
            behind.end()

    def _cut(self) -> None:
        self._behind = None
        self._wire.transport.abortConnection()
