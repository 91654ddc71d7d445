"""
The HTTP server under the resources: a twisted.web site whose every word to a client is google.rpc.Status JSON.

The site makes the connections (:mod:`agm.web.channel`), holds what they share to its limits, logs each request without
its query, because clients put keys there, and drains when the gateway stops.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol
from twisted.logger import Logger, LogLevel
from twisted.web.resource import IResource
from twisted.web.server import Site

from agm.config import LimitsConfig, TimeoutsConfig
from agm.core.dialect import TranslatedCall
from agm.core.errors import GatewayError, Unavailable
from agm.core.wire.target import plain_call
from agm.net.interfaces import GatewayReactor, GatewayTransport
from agm.net.writes import buffered, close_both_ways
from agm.observe.logging import LATER
from agm.web.channel import GatewayChannel
from agm.web.request import GatewayRequestOnWire

__all__ = ["GatewayChannel", "GatewayRequestOnWire", "GatewaySite"]

if TYPE_CHECKING:
    from agm.serving.gateway import Gateway
    from agm.web.access import Access

#: Requests whose resource is asked before their body has come, and takes it as it comes.
_STREAMED = re.compile(rb"/+upload/")
#: Paths that are answered whatever the load, and while the gateway stops.
HEALTH = frozenset({b"/healthz", b"/readyz"})
#: Connections beyond ``[limits] connections`` that are let in for the sake of health; further ones are closed.
SPARE_CONNECTIONS = 16
#: Seconds after which a connection on which nothing is under way gives way to another where there are too many.
SILENT_SECONDS = 1.0
#: Seconds after which a client that was refused for want of room may come again.
RETRY_SECONDS = 1.0
#: What an answer that is cut short gets to reach its client.
CUT_SECONDS = 0.5
#: While answers are under way, new connections are still told for this long that the gateway stops.
NOTICE_SECONDS = 1.0

log = Logger()
#: What of an answer's line clients have written.
_LOG_FOREIGN = ("method", "path")
#: Such a line; of what has not come from this machine itself it says where it came from.
_LOG_LINE = "{request_id}: {method} {path} {status} {sent}"
_LOG_LINE_FROM = _LOG_LINE + " from {sender}"
#: Where that line is from: what it would be made of for each.
_LOG_SYSTEM = f"{log.namespace}#info"


class _TurnedAway(Protocol):
    """Closes a connection for which there is no room: where a factory wraps the site, None would leave it open."""

    transport: GatewayTransport  # type: ignore[assignment]  # ITransport is less than every stream transport has

    def connectionMade(self) -> None:
        """Close it."""
        close_both_ways(self.transport)


class GatewaySite(Site):
    """
    The site: a tree of resources, and the bounds of a request.

    :param resource: the root.
    :param calls: answers the calls of models; it is asked without a walk down the tree.
    :param max_body: of one request, in bytes.
    :param connections: how many are served at once; ``[limits] connections``, or what the process has descriptors for.
    :ivar leaving: the gateway is about to stop: readiness says so, requests are served, and each connection ends with
        its answer.
    :ivar draining: the gateway stops; health says so, and no other request begins.
    :ivar wrapped: whether a listener's factory wraps this one, as for TLS.
    """

    displayTracebacks = False
    noisy = False
    #: For plugins that add resources.
    gateway: Gateway
    access: Access
    dialects: dict[str, Callable[[str, bytes], TranslatedCall]]

    def __init__(
        self,
        resource: IResource,
        *,
        calls: IResource,
        reactor: GatewayReactor,
        max_body: int,
        limits: LimitsConfig,
        timeouts: TimeoutsConfig,
        connections: int,
    ) -> None:
        super().__init__(resource, reactor=reactor)
        self.calls = calls
        #: What plugins have added at whole paths.
        self.added: dict[bytes, list[Any]] = {}
        self.dialects = {}
        self.max_body = max_body
        self.limits = limits
        self.connections = connections
        self.read_timeout = timeouts.request_read
        self.stall_timeout = timeouts.client_stall
        #: The open connections of clients.
        self.channels: set[GatewayChannel] = set()
        #: Those on which nothing is under way, each with since when; the one of which that holds the longest is first.
        self.silent: dict[GatewayChannel, float] = {}
        self.leaving = False
        self.draining = False
        self.wrapped = False
        #: Bytes of requests' bodies that are held.
        self.reserved = 0
        self._noticing: Deferred[None] | None = None
        self._until_alone = False
        self._drained: Deferred[None] | None = None
        self._abort: IDelayedCall | None = None
        self._crowded_until = 0.0

    @property
    def busy(self) -> int:
        """How many connections have a request under way."""
        return sum(1 for channel in self.channels if channel.request is not None)

    # What connections share

    def check_open(self, channel: GatewayChannel, request: GatewayRequestOnWire) -> None:
        """:raises Unavailable: if a request cannot begin now."""
        if self.leaving:
            channel.close_after()
        if self.draining and request.path not in HEALTH:
            raise Unavailable("The gateway is stopping.", reason="STOPPING", retry_after=RETRY_SECONDS)
        if channel.crowded and request.path not in HEALTH:
            raise Unavailable(
                f"More than [limits] connections, {self.connections}, are open.",
                reason="TOO_MANY_CONNECTIONS",
                retry_after=RETRY_SECONDS,
            )

    def is_streamed(self, request: GatewayRequestOnWire) -> bool:
        """Return whether the resource of a request takes the body as it comes."""
        return _STREAMED.match(request.path) is not None

    def reserve(self, length: int) -> None:
        """
        Hold so many more bytes of a body; :meth:`release` must follow.

        :raises Unavailable: if that is more than is held at once.
        """
        if self.reserved + length > self.limits.bodies:
            raise Unavailable(
                f"The bodies of all requests in flight would together exceed [limits] bodies, {self.limits.bodies} "
                "bytes.",
                reason="TOO_MANY_BODIES",
                retry_after=RETRY_SECONDS,
            )
        self.reserved += length

    def release(self, length: int) -> None:
        """Bytes of a body are not held any more."""
        self.reserved -= length

    def error_body(self, request: GatewayRequestOnWire, error: GatewayError) -> bytes:
        """Lay out an error that comes before a resource is asked, in the form of the API that the request is for."""
        lay_out = getattr(self.resource, "error_body", None)
        body: bytes = error.body() if lay_out is None else lay_out(request, error)
        return body

    def getResourceFor(self, request: Any) -> IResource:
        """The resource of a request; that of a plain call, or of a path as it was added, is known without a walk."""
        if request.method == b"POST":
            if plain_call(request.path) is not None:
                return self.calls
            for resource in self.added.get(request.path, ()):
                if resource.claims(request):
                    claimed: IResource = resource
                    return claimed
        found: IResource = super().getResourceFor(request)
        return found

    # The end

    async def leave(self, patience: float, *, until_alone: bool = False) -> None:
        """
        Serve on for `patience` seconds, but let no connection outlast its next answer; :meth:`hurry` ends the wait.

        A balancer hears of it from readiness, and takes its requests elsewhere; a client on a connection that was kept
        hears of it from an answer, and none meets a closed door.

        :param until_alone: wait no longer than until the last connection is closed.
        """
        self.leaving = True
        for channel in list(self.channels):
            if channel.request is not None and channel.upgraded is None:
                channel.close_after()
        if until_alone and not self.channels:
            return
        self._until_alone = until_alone
        await self._wait_noticed(patience)
        self._until_alone = False

    def hurry(self) -> bool:
        """Serve no longer than what is under way; tell whether the gateway was still taking requests."""
        taking = self.leaving and not self.draining
        self.draining = self.draining or taking
        if taking:
            self._noticed()
        return taking

    async def _wait_noticed(self, seconds: float) -> None:
        noticing: Deferred[None] = Deferred()
        self._noticing = noticing
        over = self.reactor.callLater(seconds, self._noticed)
        await noticing
        if over.active():
            over.cancel()

    async def notice(self, patience: float) -> None:
        """
        Begin no more requests; while others are under way, say so to new connections, too, for a moment.

        :param patience: the seconds that they have in all.
        """
        self.draining = True
        for channel in list(self.channels):
            channel.close_when_idle()
        if self.busy:
            await self._wait_noticed(min(NOTICE_SECONDS, patience))

    def _noticed(self) -> None:
        noticing, self._noticing = self._noticing, None
        if noticing is not None:
            noticing.callback(None)

    async def drain(self, patience: float) -> None:
        """Close idle connections, and the others as their answers end; cut what is left after `patience` seconds."""
        self.draining = True
        for channel in list(self.channels):
            channel.close_when_idle()
        if self.channels:
            self._drained = Deferred()
            cut = self.reactor.callLater(patience, self.cut)
            await self._drained
            if cut.active():
                cut.cancel()

    def falls_silent(self, channel: GatewayChannel) -> None:
        """From now on nothing is under way on a connection."""
        self.silent.pop(channel, None)
        self.silent[channel] = self.reactor.seconds()

    def _make_room(self) -> None:
        """
        Have silent connections give way until another is one of ``[limits] connections``.

        Who connects and says nothing would else hold all places, health's too.  Each has a moment first: of many that
        come at once, all that say something are served as far as there is room.
        """
        now = self.reactor.seconds()
        for _ in range(len(self.silent)):
            channel, since = next(iter(self.silent.items()))
            if len(self.channels) < self.connections or now - since < SILENT_SECONDS:
                return
            if buffered(channel.transport):
                self.falls_silent(channel)  # not yet: it takes the end of its answer, slowly
                continue
            del self.silent[channel]
            self.channels.discard(channel)
            channel.give_way()

    def forget(self, channel: GatewayChannel) -> None:
        """A connection is closed."""
        self.channels.discard(channel)
        self.silent.pop(channel, None)
        if not self.channels and (self.draining or self._until_alone):
            self._noticed()
        if not self.channels and self._drained is not None:
            drained, self._drained = self._drained, None
            if self._abort is not None:
                self._abort.cancel()
                self._abort = None
            drained.callback(None)

    def cut(self) -> None:
        """End every answer now, in its own form, and a moment later every connection that is left."""
        self._noticed()
        for channel in list(self.channels):
            request = channel.request
            if channel.upgraded is not None:
                channel.upgraded.cut()
            elif request is not None and request.interrupt is not None:
                request.interrupted = Unavailable("The gateway is stopping.", reason="STOPPING", retry_after=1.0)
                request.interrupt()
        if self._abort is None:
            self._abort = self.reactor.callLater(CUT_SECONDS, self._abort_all)

    def _abort_all(self) -> None:
        self._abort = None
        for channel in list(self.channels):
            channel.abort()

    # What Twisted asks of a factory

    def buildProtocol(self, addr: Any) -> Any:
        """Return a protocol for a new connection; None, and it is closed, if there are far too many."""
        if len(self.channels) >= self.connections:
            self._warn_of_a_crowd()
            self._make_room()
        beyond = len(self.channels) - self.connections
        if beyond >= SPARE_CONNECTIONS:
            return _TurnedAway() if self.wrapped else None
        return GatewayChannel(self, crowded=beyond >= 0)

    def _warn_of_a_crowd(self) -> None:
        if self.reactor.seconds() >= self._crowded_until:
            self._crowded_until = self.reactor.seconds() + 60.0
            log.warn(
                "more than [limits] connections, {most}, are open: idle connections are closed to make room, and "
                "without any, new connections are refused",
                most=self.connections,
            )

    def acceptableProtocols(self) -> list[bytes]:
        """Return the protocols that a TLS listener negotiates."""
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """Nothing: twisted.web would start its own access log here, which holds queries."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def log(self, request: Any) -> None:
        """One line for each answer: no query, since clients put keys there."""
        sender = request.sender
        log.observer(  # what Logger.info would do, but for its check of the level's name
            {
                "log_logger": log,
                "log_namespace": log.namespace,
                "log_source": None,
                "log_level": LogLevel.info,
                "log_time": time.time(),
                "log_system": _LOG_SYSTEM,
                "log_format": _LOG_LINE if sender.local else _LOG_LINE_FROM,
                LATER: _LOG_FOREIGN,
                "request_id": request.id,
                "method": request.method.decode("ascii", "backslashreplace"),
                "path": request.path.decode("ascii", "backslashreplace")[:200],
                "status": request.code,
                "sent": request.sentLength,
                **({} if sender.local else {"sender": sender.address}),
            }
        )
