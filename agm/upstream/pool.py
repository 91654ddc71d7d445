"""
Connections to upstreams by origin: the idle ones, and how new ones are made.

A connection is made, TLS and a proxy included, within one time limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IAddress, IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.iweb import IPolicyForHTTPS

from agm.core.network import Proxy
from agm.net.clocks import STEP, slept
from agm.net.interfaces import GatewayReactor
from agm.net.writes import close_both_ways, unwrap_endpoint_protocol
from agm.upstream.connection import Connection
from agm.upstream.origin import Origin
from agm.upstream.tunnel import ProxyFailed, TunnelEndpoint, connect_request

#: Idle connections that are kept to one origin, and for how many seconds: shorter than Google's own, so that few close
#: under a request.
MAX_IDLE = 256
IDLE_SECONDS = 50.0


class Connecting(Protocol):
    """
    What can be connected to an origin: a Twisted protocol.

    :ivar ready: fires when it can be used; None after that.
    """

    transport: Any
    ready: Deferred[Any] | None

    def abort(self) -> None:
        """Close at once."""


class _FactoryOf(Factory):
    """Gives a connection that is there already; which does not hold this in turn, as Twisted's own do."""

    noisy = False

    def __init__(self, connection: Connecting) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self._connection


class ConnectionPool:
    """
    Connections by origin: the idle ones, and how new ones are made.

    All of them follow one TLS policy, and the way to an origin is always the same; whoever needs another policy or
    another proxy needs other :class:`ConnectionPool`.

    :param timeout: seconds for a connection to be made, the proxy's part and TLS included.
    :param proxy_of: the proxy on the way to an origin, None for the direct way; may raise :class:`ValueError`.
    :param asleep: for how many seconds the machine has slept, from some moment on.
    """

    def __init__(
        self,
        reactor: GatewayReactor,
        policy: IPolicyForHTTPS,
        timeout: float,
        proxy_of: Callable[[Origin], Proxy | None] = lambda origin: None,
        asleep: Callable[[], float] = slept,
    ) -> None:
        self._reactor = reactor
        self._asleep = asleep
        self._slept = asleep()
        self._policy = policy
        self.timeout = timeout
        self._proxy_of = proxy_of
        self._closed = False
        self._idle: dict[Origin, deque[Connection]] = {}
        self._sweep: IDelayedCall | None = None
        self._open: set[Connection] = set()

    def count(self) -> dict[str, tuple[int, int]]:
        """Return how many connections there are to each host and port: in use, and idle.  This looks at all of them."""
        idle = {id(connection) for kept in self._idle.values() for connection in kept}
        found: dict[str, tuple[int, int]] = {}
        for connection in self._open:
            _, host, port = connection.origin
            name = f"[{host.decode('ascii')}]:{port}" if b":" in host else f"{host.decode('ascii')}:{port}"
            used, waiting = found.get(name, (0, 0))
            found[name] = (used, waiting + 1) if id(connection) in idle else (used + 1, waiting)
        return found

    def take(self, origin: Origin) -> Connection | None:
        """Return the idle connection that was used last, or None."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        # looked at here: the first thing after a sleep may be a request; one that was just used has not slept
        if self._reactor.seconds() - idle[-1].idle_since >= STEP and self._asleep() - self._slept >= STEP:
            self.distrust()
            return None
        while idle:
            connection = idle.pop()
            if not connection.lost:
                return connection
        return None

    def distrust(self) -> None:
        """Close the idle connections: the machine has slept, and what they lead through may have forgotten them."""
        self._slept = self._asleep()
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()

    def connect(self, origin: Origin) -> Deferred[Connection]:
        """Return a new connection; cancelling gives it up."""
        return self.connect_to(origin, Connection(self._put, origin, self._open))

    def connect_to(self, origin: Origin, connection: Connecting) -> Deferred[Any]:
        """Connect a protocol to an origin; fires with it when it is ready, TLS included.  Cancelling gives it up."""
        try:
            proxy = self._proxy_of(origin)
        except ValueError as e:
            return fail(ProxyFailed(str(e)))
        cancelled = timed_out = False

        def give_up() -> None:
            attempt.cancel()
            if connection.transport is not None:
                connection.abort()

        def cancel(_: object) -> None:
            nonlocal cancelled
            cancelled = True  # the Deferred itself says so; what giving up looks like is nobody's business
            give_up()

        def expire() -> None:
            nonlocal timed_out
            timed_out = True
            give_up()

        def done(outcome: Any) -> None:
            if timer.active():
                timer.cancel()
            if cancelled:
                return
            if isinstance(outcome, Failure):
                if timed_out and proxy is not None and connection.transport is None:
                    outcome = Failure(ProxyFailed(f"the proxy did not connect within {self.timeout:g} seconds"))
                elif timed_out:
                    outcome = Failure(TimeoutError())
                result.errback(outcome)
            else:
                unwrap_endpoint_protocol(connection.transport, connection)
                result.callback(connection)

        result: Deferred[Any] = Deferred(cancel)
        factory = _FactoryOf(connection)
        timer = self._reactor.callLater(self.timeout, expire)
        attempt: Deferred[Any] = self._endpoint(origin, proxy).connect(factory)
        attempt.addCallback(lambda _: connection.ready or connection)
        attempt.addBoth(done)
        return result

    def _endpoint(self, origin: Origin, proxy: Proxy | None) -> IStreamClientEndpoint:
        scheme, host, port = origin
        endpoint: IStreamClientEndpoint
        if proxy is None:
            endpoint = self._direct_endpoint(host, port)
        else:
            to_proxy = (proxy.scheme.encode("ascii"), proxy.host.encode("ascii"), proxy.port)
            ask = connect_request(host.decode("ascii"), port, proxy)
            endpoint = TunnelEndpoint(self._endpoint(to_proxy, None), ask)
        if scheme == b"http":
            return endpoint
        return wrapClientTLS(self._policy.creatorForNetloc(host, port), endpoint)

    def _direct_endpoint(self, host: bytes, port: int) -> IStreamClientEndpoint:
        literal = host.decode("latin-1")
        if isIPAddress(literal):  # to resolve names makes a class for each, which stays until it is collected
            return TCP4ClientEndpoint(self._reactor, literal, port, self.timeout)
        if isIPv6Address(literal):
            return TCP6ClientEndpoint(self._reactor, literal, port, self.timeout)
        return HostnameEndpoint(self._reactor, host, port, timeout=self.timeout)

    def _put(self, connection: Connection) -> None:
        if self._closed:
            close_both_ways(connection.transport)
            return
        idle = self._idle.setdefault(connection.origin, deque())
        connection.idle_since = self._reactor.seconds()
        idle.append(connection)
        if len(idle) > MAX_IDLE:
            close_both_ways(idle.popleft().transport)
        if self._sweep is None:
            self._sweep = self._reactor.callLater(IDLE_SECONDS / 2, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        oldest = self._reactor.seconds() - IDLE_SECONDS
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0].lost or idle[0].idle_since <= oldest):
                connection = idle.popleft()
                if not connection.lost:
                    close_both_ways(connection.transport)
            if not idle:
                del self._idle[origin]
        if self._idle:
            self._sweep = self._reactor.callLater(IDLE_SECONDS / 2, self._swept)

    def close(self) -> None:
        """Close the idle connections, and each of the others after its answer."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self.distrust()
