"""
How the gateway stands, for ``agm status``, ``agm top`` and the dashboard: ``/_agm/status`` and ``/_agm/events``.

The first is one JSON document.  The second is the same as a stream of server-sent events: all of it at once, then what
has changed, about once a second.  A second's change is made once for all who watch; one who does not keep up is left
out until it does, and then gets everything anew.  docs/admin.md describes both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from zope.interface import implementer

from agm import __version__
from agm.core.client_keys import ClientKey
from agm.core.errors import Unavailable
from agm.core.pool.breaker import origin
from agm.net.stalls import Stall
from agm.serving.gateway import Gateway
from agm.web.access import Access
from agm.web.admin.base import AdminResource, describe_accounts, describe_key, describe_plugins
from agm.web.browsers import NOSNIFF
from agm.web.resources import Visit
from agm.web.site import GatewayRequestOnWire

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


def describe_status(gateway: Gateway) -> dict[str, Any]:
    """All of it, as a JSON document."""
    return {**_moment(gateway), **_traffic(gateway), "requests": gateway.live.latest(), **_standing(gateway)}


def _moment(gateway: Gateway) -> dict[str, Any]:
    live = gateway.live
    return {"at": round(gateway.wall(), 3), "uptime": round(live.uptime, 3), "totals": live.totals()}


def _traffic(gateway: Gateway, seconds: int | None = None) -> dict[str, Any]:
    live = gateway.live
    return {"traffic": live.traffic() if seconds is None else live.traffic(seconds), "open": live.open_requests()}


def _standing(gateway: Gateway) -> dict[str, Any]:
    """What changes seldom, in parts."""
    return {part: describe(gateway) for part, describe in _PARTS.items()}


def _describe_gateway(gateway: Gateway) -> dict[str, Any]:
    path = gateway.config.path
    return {
        "version": __version__,
        "pid": os.getpid(),
        "started": round(gateway.live.started, 3),
        "config": None if path is None else str(path),
        "listeners": list(gateway.live.listening),
        "auth_mode": gateway.auth_mode,
        "auth_forwarded": gateway.mode_for(local=False),
        "strategy": gateway.config.pool.strategy,
        "max_attempts": gateway.config.pool.max_attempts,
    }


def _describe_accounts(gateway: Gateway) -> list[dict[str, Any]]:
    return [
        {
            **described,
            "priority": account.priority,
            "endpoints": [origin(url) for url in account.endpoints],
            **gateway.live.tries(account.name),
        }
        for account, described in zip(gateway.pool.accounts, describe_accounts(gateway), strict=True)
    ]


def _describe_endpoints(gateway: Gateway) -> list[dict[str, Any]]:
    users: dict[str, int] = {}
    for account in gateway.pool.accounts:
        for url in dict.fromkeys(origin(url) for url in account.endpoints):
            users[url] = users.get(url, 0) + 1
    described = []
    for url, accounts in users.items():
        state, left = gateway.pool.endpoint_standing(url)
        described.append(
            {
                "endpoint": url,
                "accounts": accounts,
                "breaker": state,
                "seconds_left": None if left is None else round(left, 1),
            }
        )
    return described


def _describe_models(gateway: Gateway) -> list[dict[str, Any]]:
    aliases = gateway.config.models.aliases
    described = []
    for resource in gateway.catalog.page("1000", None)["models"]:
        name = str(resource["name"]).removeprefix("models/")
        described.append(
            {
                "name": name,
                "display_name": resource.get("displayName"),
                "alias_of": aliases.get(name),
                "input_limit": resource.get("inputTokenLimit"),
                "output_limit": resource.get("outputTokenLimit"),
                "methods": list(resource.get("supportedGenerationMethods") or ()),
            }
        )
    return described


def _describe_aliases(gateway: Gateway) -> list[dict[str, str]]:
    return [{"pattern": pattern, "model": model} for pattern, model in gateway.config.models.aliases.items()]


def _describe_keys(gateway: Gateway) -> list[dict[str, Any]]:
    """Client keys by their names: those that are known, then those that were used without being in a list."""
    use = dict(gateway.live.key_use())
    unused = {"requests": 0, "errors": 0, "prompt_tokens": 0, "output_tokens": 0, "last_used": None}
    described = [{**describe_key(gateway, key), **use.pop(key.name, unused)} for key in gateway.client_keys]
    others = [
        {**describe_key(gateway, ClientKey(name or "", "")), "name": name, **counts} for name, counts in use.items()
    ]
    return [*described, *others]


def _describe_plugins(gateway: Gateway) -> dict[str, Any]:
    hooks = gateway.hooks
    failures = [
        {"plugin": plugin, "hook": hook, "count": count} for (plugin, hook), count in sorted(hooks.failures.items())
    ]
    return {**describe_plugins(hooks.manager, hooks.failures), "failures": failures}


#: The parts of the document that change seldom, each with what describes it.
_PARTS: Mapping[str, Callable[[Gateway], Any]] = {
    "gateway": _describe_gateway,
    "accounts": _describe_accounts,
    "endpoints": _describe_endpoints,
    "models": _describe_models,
    "aliases": _describe_aliases,
    "keys": _describe_keys,
    "plugins": _describe_plugins,
}


class Status(AdminResource):
    """``GET /_agm/status``: how the gateway stands."""

    async def respond_to_admin(self, visit: Visit) -> None:
        self.tell(visit, describe_status(self.gateway))


class Events(AdminResource):
    """``GET /_agm/events``: how it stands, and every change of that."""

    methods = ("GET",)

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__(gateway, access)
        self._feed = Feed(gateway)

    async def respond_to_admin(self, visit: Visit) -> None:
        await self._feed.watch(visit.wire)


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
        watcher = _Watcher(wire, self.gateway, done)
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
        if self._timer is None:
            self._begin()
        self._watchers[watcher] = None
        try:
            watcher.tell_all()
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

    def _begin(self) -> None:
        """Somebody watches again: what is told from now on is what changes from now on."""
        reactor = self.gateway.reactor
        self._told = {part: _settled(value, reactor.seconds()) for part, value in _standing(self.gateway).items()}
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
                watcher.tell_all()
            else:
                watcher.tell(change)
        self._timer = reactor.callLater(max(PACE, SHARE * (time.perf_counter() - began)), self._tell)

    def _change(self, now: float) -> dict[str, Any]:
        gateway, live = self.gateway, self.gateway.live
        new = live.ended - self._ended
        self._ended = live.ended
        changed = {}
        for part, value in _standing(gateway).items():
            settled = _settled(value, now)
            if settled != self._told[part]:
                self._told[part] = settled
                changed[part] = value
        return {
            **_moment(gateway),
            **_traffic(gateway, REPEATED),
            "requests": live.latest(min(new, MAX_TOLD)),
            "untold": max(new - MAX_TOLD, 0),
            **changed,
        }


def _settled(value: Any, now: float) -> Any:
    """A document in which times that run are replaced by when they end, so that only news make a difference."""
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

    def __init__(self, wire: GatewayRequestOnWire, gateway: Gateway, done: Deferred[None]) -> None:
        self._wire = wire
        self._gateway = gateway
        self._done = done
        self._paused = self._missed = False
        self._behind: Stall | None = None

    def tell(self, change: bytes) -> None:
        """Tell what has changed."""
        if self._paused:
            self._missed = True
        else:
            self._wire.write(change)

    def tell_all(self) -> None:
        """Tell everything."""
        self.tell(_event(b"status", describe_status(self._gateway), self._gateway))

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
            self.tell_all()

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
