"""
The HTTP client of the gateway: treq over an agent that follows no redirect, keeps no cookie and decodes nothing.

Connections are kept alive in a pool of our own.  The connection of each request is remembered, because only that gives
a way to abort an answer at once; and a request that failed on a connection that had been idle, before a byte of its
answer came, is sent once more on a new one, because the upstream closed it without having seen the request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
    _HTTP11ClientFactory,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IAgentEndpointFactory, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from agm.core.answers import AnswerFilter

#: Idle connections that are kept to one endpoint.
IDLE_CONNECTIONS = 64
#: Seconds after which an idle connection is closed; shorter than Google's own, so that few close under a request.
IDLE_SECONDS = 50


class UpstreamFailed(Exception):
    """No answer came.  `reason` is a word for it, the message a sentence without addresses of the person's network."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@implementer(IBodyProducer)
class _Bytes:
    """A body that is in memory: written in one go, the transport's own buffer does the rest."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def stopProducing(self) -> None:
        pass

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass


@implementer(IAgentEndpointFactory)
class _Endpoints:
    def __init__(self, reactor: Any, policy: Any, connect_timeout: float) -> None:
        self._reactor = reactor
        self._policy = policy
        self._timeout = connect_timeout

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint = HostnameEndpoint(self._reactor, uri.host, uri.port, timeout=self._timeout)
        if uri.scheme == b"http":
            return endpoint
        creator = self._policy.creatorForNetloc(uri.host, uri.port)
        return wrapClientTLS(creator, endpoint)


@implementer(IAgent)
class _PlainAgent:
    """Asks for answers as they are, and takes no other: treq's client would inflate without a bound."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        headers = Headers() if headers is None else headers
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(self._check)

    def _check(self, response: IResponse) -> IResponse:
        encodings = response.headers.getRawHeaders(b"content-encoding", [])
        if any(encoding.strip().lower() not in (b"", b"identity") for encoding in encodings):
            response.deliverBody(_Discard())
            raise UpstreamFailed("ENCODED_ANSWER", "the upstream sent a compressed answer that was not asked for")
        return response


class _Discard(Protocol):
    """Closes the connection of an answer that nobody wants."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.stopProducing()


class _QuietFactory(_HTTP11ClientFactory):
    noisy = False


class _Connections(HTTPConnectionPool):
    """Twisted's pool, without a line in the log for each connection."""

    _factory = _QuietFactory


class _Lookout:
    """The shared pool as one request sees it: it remembers the connection that the request got."""

    def __init__(self, pool: HTTPConnectionPool, used: WeakSet[Any], *, fresh: bool) -> None:
        self._pool = pool
        self._used = used
        self._fresh = fresh
        self.persistent = pool.persistent
        self.connection: Any = None
        self.reused = False

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        get = self._pool._newConnection if self._fresh else self._pool.getConnection
        return get(key, endpoint).addCallback(self._remember)

    def _remember(self, connection: Any) -> Any:
        self.connection = connection
        self.reused = connection in self._used
        self._used.add(connection)
        return connection


class UpstreamBody(Protocol):
    """
    The body of an answer on its way through an :class:`AnswerFilter`.

    It starts without a sink: what comes first is held and the connection paused, until :meth:`flow_to` names one.
    Only a body whose end the upstream marked is complete; every other end is a failure.

    :param clock: for the idle timer, which runs while the body is not paused.
    """

    transport: Any

    def __init__(self, filter_: AnswerFilter, clock: IReactorTime, idle: float) -> None:
        self._filter = filter_
        self._clock = clock
        self._idle = idle
        self._timer: IDelayedCall | None = None
        self._held: list[bytes] = []
        self._sink: Callable[[bytes], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self._first: Deferred[None] | None = None
        self._paused = False
        self._abort: Callable[[], None] = lambda: None
        self.ended = False
        #: Why the body is not complete; None while it flows and after a complete end.
        self.broken: str | None = None
        self.received = 0

    @property
    def filter(self) -> AnswerFilter:
        """What the body goes through; its `failure` is an error that the upstream reported."""
        return self._filter

    @property
    def has_bytes(self) -> bool:
        """Whether something for the client is held."""
        return bool(self._held)

    @property
    def held(self) -> int:
        """How many bytes for the client are held."""
        return sum(map(len, self._held))

    @property
    def failed(self) -> bool:
        """Whether the answer cannot be completed."""
        return self.broken is not None or self._filter.failure is not None

    def abort_with(self, abort: Callable[[], None]) -> None:
        """Say how the connection is aborted."""
        self._abort = abort

    def connectionMade(self) -> None:
        self._start_timer()

    def dataReceived(self, data: bytes) -> None:
        if self.ended:
            return
        self.received += len(data)
        if self._timer is not None:
            self._timer.reset(self._idle)
        out = self._filter.feed(data)
        if self._sink is not None:
            if out:
                self._sink(out)
        elif out:
            self._held.append(out)
        if self._filter.failure is not None:
            self._end()
            self._abort()
        elif self._held and self._sink is None:
            self._wake()
            if self._sink is None and not self.ended:
                self.pause()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.ended:
            return
        if reason.check(ResponseDone):
            out = self._filter.close()
            if out:
                if self._sink is not None:
                    self._sink(out)
                else:
                    self._held.append(out)
        else:
            self.broken = "the upstream broke off the answer"
        self._end()

    def first(self) -> Deferred[None]:
        """Fires when there is something for the client, or the body has ended without."""
        self._first = Deferred()
        if self._held or self.ended:
            self._wake()
        return self._first

    def take(self) -> bytes:
        """What came before there was a sink."""
        held, self._held = b"".join(self._held), []
        return held

    def flow_to(self, sink: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """From now on hand everything to `sink`, and call `on_end` once at the end, complete or not."""
        self._sink, self._on_end = sink, on_end
        held = self.take()
        if held:
            sink(held)
        if self.ended:
            self._finish()

    def pause(self) -> None:
        """Stop reading from the upstream."""
        if not self._paused and not self.ended:
            self._paused = True
            self._stop_timer()
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Read from the upstream again."""
        if self._paused and not self.ended:
            self._paused = False
            self._start_timer()
            self.transport.resumeProducing()

    def abort(self, why: str) -> None:
        """Close the upstream's connection now; the body ends as broken."""
        if not self.ended:
            self.broken = why
            self._end()
            self._abort()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self._clock.callLater(self._idle, self._idled)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _idled(self) -> None:
        self._timer = None
        self.abort(f"the upstream sent nothing for {self._idle:g} seconds")

    def _end(self) -> None:
        self.ended = True
        self._stop_timer()
        self._wake()
        self._finish()

    def _wake(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            first.callback(None)

    def _finish(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()


class _Collector(Protocol):
    """Reads a small body whole, up to a limit."""

    transport: Any

    def __init__(self, limit: int, done: Deferred[bytes]) -> None:
        self._limit = limit
        self._done = done
        self._chunks: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self.transport.stopProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._done.called:
            self._done.callback(b"".join(self._chunks)[: self._limit])


@attrs.define(eq=False)
class UpstreamAnswer:
    """The head of an answer; its body waits until :meth:`deliver` or :meth:`read`."""

    status: int
    headers: Headers
    _response: IResponse
    _lookout: _Lookout

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None

    @property
    def length(self) -> int | None:
        """The length of the body, if the upstream said it before."""
        return None if self._response.length is UNKNOWN_LENGTH else self._response.length

    def deliver(self, body: UpstreamBody) -> None:
        """Let the body flow into `body`."""
        body.abort_with(self.abort)
        self._response.deliverBody(body)

    def read(self, limit: int) -> Deferred[bytes]:
        """The body, or its first `limit` bytes, or what came of it before the upstream broke off."""
        done: Deferred[bytes] = Deferred(lambda _: self.abort())
        self._response.deliverBody(_Collector(limit, done))
        return done

    def abort(self) -> None:
        """Close the connection at once."""
        _abort_connection(self._lookout)


def _abort_connection(lookout: _Lookout) -> None:
    connection = lookout.connection
    if connection is not None and connection.transport is not None and connection.state != "QUIESCENT":
        connection.transport.abortConnection()


class UpstreamClient:
    """
    Sends requests to upstreams.

    :param reactor: for connections and time.
    :param connect_timeout: seconds for a connection to be made.
    :param policy: how TLS servers are verified; the platform's trust roots and service-identity by default.
    """

    def __init__(self, reactor: Any, *, connect_timeout: float, policy: IPolicyForHTTPS | None = None) -> None:
        self._reactor = reactor
        self._pool = _Connections(reactor, persistent=True)
        self._pool.maxPersistentPerHost = IDLE_CONNECTIONS
        self._pool.cachedConnectionTimeout = IDLE_SECONDS
        self._pool.retryAutomatically = False
        self._used: WeakSet[Any] = WeakSet()  # connections that have served a request
        self._endpoints = _Endpoints(reactor, policy or BrowserLikePolicyForHTTPS(), connect_timeout)

    async def send(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | None,
        *,
        timeout: float,
    ) -> UpstreamAnswer:
        """
        Send a request and wait for the head of its answer.

        :param timeout: seconds until the head must have come.
        :raises UpstreamFailed: if none came.  Cancelling closes the connection.
        """
        lookout = _Lookout(self._pool, self._used, fresh=False)
        try:
            return await self._send(lookout, method, url, headers, body, timeout)
        except _NeverAnswered:
            pass
        lookout = _Lookout(self._pool, self._used, fresh=True)
        try:
            return await self._send(lookout, method, url, headers, body, timeout)
        except _NeverAnswered as e:  # cannot be: the connection is new
            raise UpstreamFailed("CONNECTION_LOST", "the upstream closed the connection") from e

    async def _send(
        self,
        lookout: _Lookout,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | None,
        timeout: float,
    ) -> UpstreamAnswer:
        client = self.treq(lookout)
        head = Headers()
        for name, value in headers:
            head.addRawHeader(name, value)
        d = client.request(
            method,
            url,
            headers=head,
            data=body,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        cancelled = timed_out = False

        def cancel(_: object) -> None:
            nonlocal cancelled
            cancelled = True
            d.cancel()  # which fails as if the upstream had closed the connection

        def expire() -> None:
            nonlocal timed_out
            timed_out = True
            d.cancel()

        waiting: Deferred[Any] = Deferred(cancel)
        d.addCallbacks(waiting.callback, waiting.errback)
        timer = self._reactor.callLater(timeout, expire)
        try:
            response = await waiting
        except UpstreamFailed:
            raise
        except Exception as e:
            _abort_connection(lookout)
            if cancelled:
                raise CancelledError from None
            if timed_out:
                raise UpstreamFailed(
                    "FIRST_BYTE_TIMEOUT", f"the upstream did not answer within {timeout:g} seconds"
                ) from None
            if lookout.reused and isinstance(e, _UNANSWERED):
                raise _NeverAnswered from e
            raise _failed(_causes(e)) from e
        finally:
            if timer.active():
                timer.cancel()
        return UpstreamAnswer(response.code, response.headers, response.original, lookout)

    def treq(self, pool: Any = None) -> HTTPClient:
        """A treq client of its own on the shared connections: nothing that one request brings home reaches another."""
        agent = Agent.usingEndpointFactory(self._reactor, self._endpoints, pool=pool or self._pool)
        return HTTPClient(_PlainAgent(agent), data_to_body_producer=_Bytes)

    def close(self) -> Deferred[None]:
        """Close idle connections."""
        return self._pool.closeCachedConnections()


#: How Twisted says that a connection ended before a byte of the answer.
_UNANSWERED = (ResponseNeverReceived, RequestTransmissionFailed)


class _NeverAnswered(Exception):
    """A kept-alive connection turned out to be closed."""


def _causes(error: BaseException) -> list[BaseException]:
    reasons = getattr(error, "reasons", None)
    return [failure.value for failure in reasons] if reasons else [error]


def _failed(causes: Sequence[BaseException]) -> UpstreamFailed:
    for cause in causes:
        if isinstance(cause, DNSLookupError):
            return UpstreamFailed("DNS_FAILED", "the upstream's name cannot be resolved")
        if isinstance(cause, ConnectError):
            return UpstreamFailed("CONNECT_FAILED", "the upstream cannot be reached")
        if isinstance(cause, ConnectionClosed):
            return UpstreamFailed("CONNECTION_LOST", "the upstream closed the connection without an answer")
    name = type(causes[0]).__name__
    if "SSL" in name or "Verification" in name:
        return UpstreamFailed("TLS_FAILED", "the upstream's certificate cannot be verified")
    return UpstreamFailed("PROTOCOL_ERROR", f"the upstream's answer is not HTTP ({name})")
