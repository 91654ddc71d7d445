"""
How google-auth reaches token endpoints: a blocking face for its worker threads, treq on the reactor behind it.

google-auth is written for blocking HTTP libraries.  :class:`TreqRequest` is such a library to it: called in a worker
thread, it has the reactor send the request, and waits.  It follows no redirect, sends no cookie, decodes nothing, and
bounds both the answer and the time.  It never waits for a reactor that has stopped, and no message of its own holds a
URL, a header or a part of a body, because each of them may hold a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any

import attrs
from google.auth.exceptions import TransportError
from google.auth.transport import Request
from OpenSSL.SSL import Error as SSLError
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.protocol import Protocol as BodyProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.python.threadable import isInIOThread
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from agm import __version__
from agm.core.network import Network
from agm.net.trust import tls_reason
from agm.upstream.errors import EncodedAnswer, NoAnswer, NoHandshake, TruncatedAnswer
from agm.upstream.tunnel import ProxyFailed

#: Bytes of an answer that are read at most; tokens are some kilobytes.
MAX_ANSWER = 256 * 1024
#: Seconds for a request and its whole answer, where google-auth names no limit.
TIMEOUT = 20.0
#: Seconds that a worker waits beyond a request's time limit; only a reactor that has stopped takes longer.
GRACE = 5.0


#: Gives the treq client for a network; None is the way of the gateway.
TreqFor = Callable[[Network | None], HTTPClient]


class HeaderValues(Mapping[str, str]):
    """The headers of an answer, by name in any case; of a repeated one the first."""

    def __init__(self, headers: Headers) -> None:
        self._values = {
            name.decode("ascii", "replace").lower(): values[0].decode("latin-1")
            for name, values in headers.getAllRawHeaders()
            if values
        }

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@attrs.frozen
class TokenAnswer:
    """An answer as google-auth reads it.  Only the status is in the repr: the rest may hold a token."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    data: bytes = attrs.field(repr=False)


class TreqRequest(Request):
    """
    Sends google-auth's requests with treq.

    :param reactor: for threads and time.
    :param http: used in the reactor's thread only.  Its agents' policy is what verifies TLS servers.
    :param grace: seconds beyond its time limit after which a call takes the reactor for dead.
    """

    def __init__(self, reactor: Any, http: TreqFor, *, grace: float = GRACE) -> None:
        self._reactor = reactor
        self._http = http
        self._grace = grace
        self._closed = False
        self._exchanges: set[_Exchange] = set()

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> TokenAnswer:
        """
        Send a request and wait for its answer.  To be called in any thread but the reactor's.

        :param timeout: seconds for all of it.
        :raises TransportError: if no whole answer came, whatever the reason; a status is never one.
        """
        network: Network | None = kwargs.pop("network", None)
        if kwargs:
            # the one that google-auth knows is a client certificate: without it the request would mean something else
            raise TransportError(f"this transport cannot send a request with {', '.join(sorted(kwargs))}")
        if isInIOThread():
            raise RuntimeError("google-auth was called in the reactor's thread, which must not wait")
        limit = TIMEOUT if timeout is None else timeout
        data = body.encode("utf-8") if isinstance(body, str) else body
        outcome: SimpleQueue[TokenAnswer | str] = SimpleQueue()
        # not blockingCallFromThread: that waits for ever when the reactor stops before it gets to the call
        self._reactor.callFromThread(self._begin, outcome, method, url, dict(headers or {}), data, limit, network)
        try:
            answer = outcome.get(timeout=limit + self._grace)
        except Empty:
            answer = "the reactor does not run any more"
        if isinstance(answer, str):
            raise TransportError(answer)
        return answer

    def over(self, network: Network | None) -> Request:
        """Return the same, for token endpoints that are reached over another network."""
        return self if network is None else _Over(self, network)

    def close(self) -> None:
        """End every exchange that is under way, and refuse new ones.  To be called in the reactor's thread."""
        self._closed = True
        for exchange in list(self._exchanges):
            exchange.end(_STOPPING)

    def _begin(
        self,
        outcome: SimpleQueue[TokenAnswer | str],
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        limit: float,
        network: Network | None,
    ) -> None:
        if self._closed:
            outcome.put(_STOPPING)
            return
        exchange = _Exchange(self._reactor, self._http, limit, network)
        self._exchanges.add(exchange)

        def ended(result: TokenAnswer | Failure) -> None:
            self._exchanges.discard(exchange)
            outcome.put(exchange.explain(result.value) if isinstance(result, Failure) else result)

        exchange.start(method, url, headers, body).addBoth(ended)


_STOPPING = "the gateway is stopping"


class _Over(Request):
    """A :class:`TreqRequest` over a network."""

    def __init__(self, request: TreqRequest, network: Network) -> None:
        self._request = request
        self._network = network

    def __call__(self, *args: Any, **kwargs: Any) -> TokenAnswer:
        return self._request(*args, **kwargs, network=self._network)


class _Exchange:
    """A request and its answer, ended by whoever comes first: the answer, the time limit, or the gateway's stop."""

    def __init__(self, reactor: Any, http: TreqFor, limit: float, network: Network | None) -> None:
        self._reactor = reactor
        self._http = http
        self._limit = limit
        self._network = network
        self._ended_for: str | None = None
        self._running: Deferred[TokenAnswer]

    def start(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Deferred[TokenAnswer]:
        self._running = Deferred.fromCoroutine(self._run(method, url, headers, body))
        timer = self._reactor.callLater(
            self._limit, self.end, f"the token endpoint did not answer within {self._limit:g} seconds"
        )

        def done(result: TokenAnswer | Failure) -> TokenAnswer | Failure:
            if timer.active():
                timer.cancel()
            return result

        return self._running.addBoth(done)

    def end(self, why: str) -> None:
        self._ended_for = why
        self._running.cancel()

    async def _run(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> TokenAnswer:
        try:
            return await self._send(method, url, headers, body)
        except NoAnswer:
            # Asking again is safe: whoever did see the first request has not told anybody its answer.
            if self._ended_for is not None:
                raise
        return await self._send(method, url, headers, body)

    async def _send(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> TokenAnswer:
        head = Headers({"User-Agent": [f"agm/{__version__}"]})
        for name, value in headers.items():
            head.setRawHeaders(name, [value])
        head.setRawHeaders("Accept-Encoding", ["identity"])
        response = await self._http(self._network).request(
            method, url, headers=head, data=body, allow_redirects=False, unbuffered=True, reactor=self._reactor
        )
        collected: Deferred[bytes] = Deferred(lambda _: collector.stop())
        collector = _Collector(collected)
        response.deliverBody(collector)
        return TokenAnswer(response.code, HeaderValues(response.headers), await collected)

    def explain(self, error: BaseException | None) -> str:
        """A sentence about why there is no answer."""
        if self._ended_for is not None:
            return self._ended_for
        if isinstance(error, TransportError):
            return str(error)
        if isinstance(error, DNSLookupError):
            return "the name of the token endpoint cannot be resolved"
        if isinstance(error, ConnectError):
            return "the token endpoint cannot be reached"
        if isinstance(error, ProxyFailed):
            return f"the token endpoint cannot be reached: {error}"
        if isinstance(error, SSLError | VerificationError):
            return f"the certificate of the token endpoint cannot be verified: {tls_reason(error)}"
        if isinstance(error, NoHandshake):
            return "the token endpoint closed the connection before TLS was agreed on"
        if isinstance(error, NoAnswer | TruncatedAnswer | ConnectionClosed):
            return "the token endpoint closed the connection before its answer was whole"
        if isinstance(error, EncodedAnswer):
            return "the token endpoint sent a compressed answer that was not asked for"
        return f"the token endpoint cannot be asked, or its answer not be read ({type(error).__name__})"


class _Collector(BodyProtocol):
    """Reads a body whole, or fails `done` with :class:`TransportError` if it is too long, or broken off."""

    transport: Any

    def __init__(self, done: Deferred[bytes]) -> None:
        self._done = done
        self._chunks: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_ANSWER:
            self.refuse(f"the answer of the token endpoint is longer than {MAX_ANSWER} bytes")
        else:
            self._chunks.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._done.called:
            return
        # an answer that ends with its connection may be truncated; then it is no JSON either
        if reason.check(ResponseDone, PotentialDataLoss):
            self._done.callback(b"".join(self._chunks))
        else:
            self._done.errback(reason)

    def refuse(self, why: str) -> None:
        """Read no further."""
        if not self._done.called:
            self._done.errback(TransportError(why))
        self.stop()

    def stop(self) -> None:
        """Close the connection."""
        self._chunks.clear()
        self.transport.stopProducing()
