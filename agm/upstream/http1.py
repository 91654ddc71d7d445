"""
An HTTP/1.1 client for upstreams: an ``IAgent`` for treq, over a C parser and connections of our own.

It does what a relay needs and no more: it follows no redirect, keeps no cookie and decodes nothing; it hands a body
over as it comes, once for each read of the socket; its answers can be paused, and aborted at once; and a body is
complete only if the upstream marked its end.  A connection is made, TLS included, within one time limit.  An idle
connection that the upstream closes just as a request goes out is told apart (:class:`StaleConnection`), because then
nothing was lost.

llhttp, behind httptools, parses strictly: two lengths, a length beside chunks, a bad chunk or a bare LF end the
connection.  The bytes of a head are bounded here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any
from typing import Protocol as Interface
from urllib.parse import urlsplit

import httptools
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionClosed, ConnectionDone, TimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from agm.core.network import Proxy
from agm.core.wire.bytechain import Spliced
from agm.net.clocks import STEP, slept
from agm.net.epollset import adopt
from agm.net.sharedkeys import lay_out
from agm.net.writes import belongs_to, hang_up, keep_alive, send, send_soon
from agm.upstream.tunnel import ProxyFailed, TunnelEndpoint, connect_request

#: Bytes of an answer's status line and headers, those of interim answers included; and of its trailers.
MAX_HEAD = 256 * 1024
#: Lines of an answer's headers.
MAX_HEADERS = 1000
#: Idle connections that are kept to one origin, and for how many seconds: shorter than Google's own, so that few close
#: under a request.
MAX_IDLE = 256
IDLE_SECONDS = 50.0
#: A body of up to this many bytes is written together with its head.
ONE_WRITE = 64 * 1024
#: Bytes of a larger one that a transport is given at once.
SLICE = 256 * 1024

#: The codings of an answer that can be read as they are.
_PLAIN_CODINGS = ((b"content-encoding", b"identity"), (b"transfer-encoding", b"chunked"))

Origin = tuple[bytes, bytes, int]


class StaleConnection(Exception):
    """A kept-alive connection closed before a byte of the answer came: the request was not served."""


class BrokenAnswer(Exception):
    """The upstream closed the connection, or broke the protocol, before it marked the end of its answer."""


class NotHttp(BrokenAnswer):
    """What came does not begin as an answer does: whatever listens there has not served the request."""


class TruncatedAnswer(BrokenAnswer):
    """The connection closed in the middle of the answer."""


class EncodedAnswer(BrokenAnswer):
    """The answer is compressed, or has a transfer coding other than ``chunked``, which was not asked for."""


class NoAnswer(Exception):
    """The upstream closed a new connection before a byte of the answer came."""


class NoHandshake(Exception):
    """The connection closed before TLS was agreed on: nothing was sent."""


@lru_cache(maxsize=256)
def origin_of(netloc: bytes, scheme: bytes) -> Origin:
    """Scheme, host and port of a URL's network location."""
    parts = urlsplit(scheme + b"://" + netloc)
    if scheme not in (b"http", b"https") or not parts.hostname:
        raise ValueError("an upstream's URL must be absolute, and http or https")
    return scheme, parts.hostname, parts.port or (443 if scheme == b"https" else 80)


def split_url(url: bytes) -> tuple[Origin, bytes, bytes]:
    """An absolute URL's origin, its ``Host`` and its request target."""
    scheme, _, rest = url.partition(b"://")
    netloc, slash, path = rest.partition(b"/")
    return origin_of(netloc, scheme), netloc, slash + path or b"/"


@implementer(IResponse)
class Answer:
    """The head of an answer; the body waits, with the connection paused, until :meth:`deliverBody`."""

    version = (b"HTTP", 1, 1)
    request = None
    previousResponse = None

    def __init__(self, connection: Connection, code: int, phrase: bytes, raw: list[tuple[bytes, bytes]]) -> None:
        self.code = code
        self.phrase = phrase
        self._raw = raw
        self._first: dict[bytes, bytes] = {name.lower(): value for name, value in reversed(raw)}
        self._headers: Headers | None = None
        self._connection: Connection | None = connection
        self._protocol: Any = None
        self._waiting: list[bytes] = []
        self._paused = False
        self._ended: Failure | None = None
        self.length: Any = UNKNOWN_LENGTH
        #: Whether only the connection's end tells where the body ends.
        self.unframed = True
        if b"content-length" in self._first:
            self.length, self.unframed = int(self._first[b"content-length"].lstrip(b"0") or b"0"), False
        elif b"transfer-encoding" in self._first:
            self.unframed = False

    @property
    def headers(self) -> Headers:
        """All headers, canonicalised."""
        if self._headers is None:
            self._headers = Headers()
            for name, value in self._raw:
                self._headers.addRawHeader(name, value)
        return self._headers

    @property
    def first(self) -> Mapping[bytes, bytes]:
        """The first value of each header, by its name in lower case."""
        return self._first

    @property
    def complete(self) -> bool:
        """Whether nothing more comes."""
        return self._ended is not None

    @property
    def encoded(self) -> bool:
        """Whether the body is not as it was meant to be read: it is compressed, or coded for the way but for chunks."""
        if b"content-encoding" not in self._first and b"transfer-encoding" not in self._first:
            return False
        return any(
            name in self._first and [value.lower() for key, value in self._raw if key.lower() == name] != [plain]
            for name, plain in _PLAIN_CODINGS
        )

    @property
    def framed_plainly(self) -> bool:
        """Whether its transfer coding is chunks or none, so that where it ends is known."""
        codings = [value.lower() for key, value in self._raw if key.lower() == b"transfer-encoding"]
        return codings in ([], [b"chunked"])

    def setPreviousResponse(self, response: Any) -> None:
        """Nothing comes before an answer here: no redirect is followed."""

    def take(self) -> bytes | None:
        """The body, if all of it is here and it is complete: it is then delivered to nobody else."""
        if self._ended is not _DONE:
            return None
        waiting, self._waiting = self._waiting, []
        return waiting[0] if len(waiting) == 1 else b"".join(waiting)

    def deliverBody(self, protocol: Any) -> None:
        """Hand the body to `protocol`, whose transport is this answer: it can be paused, resumed and aborted."""
        self._protocol = protocol
        protocol.makeConnection(self)
        waiting, self._waiting = b"".join(self._waiting), []
        if waiting:
            protocol.dataReceived(waiting)
        if self._ended is not None:
            self._protocol = None
            protocol.connectionLost(self._ended)
        elif not self._paused:
            self.resumeProducing()

    # What the connection tells

    def received(self, data: bytes) -> bool:
        """A piece of the body; False if nobody takes it yet."""
        if self._protocol is None:
            self._waiting.append(data)
            return False
        self._protocol.dataReceived(data)
        return True

    def ended(self, why: Failure) -> None:
        """The body is over."""
        self._connection = None
        self._ended = why
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connectionLost(why)

    # What the body's protocol may ask of its transport

    disconnecting = False

    def pauseProducing(self) -> None:
        """Read nothing more from the upstream."""
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resumeProducing(self) -> None:
        """Read from the upstream again."""
        self._paused = False
        if self._connection is not None:
            self._connection.resume()

    def stopProducing(self) -> None:
        """Want nothing more."""
        self.abortConnection()

    def loseConnection(self) -> None:
        """Want nothing more."""
        self.abortConnection()

    def abortConnection(self) -> None:
        """Close the connection at once; the body ends as not complete."""
        if self._connection is not None:
            self._connection.abort()


class _Upload:
    """The consumer of a body that is produced piece by piece."""

    def __init__(self, transport: Any, length: Any) -> None:
        self._transport = transport
        self._chunked = length is UNKNOWN_LENGTH
        self._left = 0 if self._chunked else length

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._transport.unregisterProducer()

    def write(self, data: bytes) -> None:
        if not data:
            return
        if self._chunked:
            self._transport.writeSequence([b"%x\r\n" % len(data), data, b"\r\n"])
            return
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("a request's body is longer than it said")
        self._transport.write(data)

    def finish(self) -> bool:
        """The body is over; False if it is shorter than it said."""
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        return self._left == 0


@implementer(IPushProducer)
class _Sending:
    """A large body on its way: a slice at a time, as the transport takes them, so that none is copied as a whole."""

    #: Whether some of it is still here, or in the transport's own buffer.
    waiting = True

    def __init__(self, transport: Any, pieces: Iterable[bytes | memoryview]) -> None:
        self._transport = transport
        self._slices = (memoryview(it)[at : at + SLICE] for it in pieces for at in range(0, len(it), SLICE))
        self._paused = False

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while self.waiting and not self._paused:
            piece = next(self._slices, None)
            if piece is None:
                self.waiting = False
                self._transport.unregisterProducer()
            else:
                send(self._transport, piece)

    def stopProducing(self) -> None:
        self.waiting = False


@implementer(IHandshakeListener)
class Connection(Protocol):
    """
    One connection to an origin, for one request at a time.

    :param release: called when it may take another request.
    :param origin: where it goes.
    :param open_: holds it while it is open.
    :ivar ready: fires when it can take a request; None after that.
    """

    transport: Any

    def __init__(
        self,
        release: Callable[[Connection], None],
        origin: Origin = (b"", b"", 0),
        open_: set[Connection] | None = None,
    ) -> None:
        self._release = release
        self.origin = origin
        self._open = open_
        self._parser: Any = None
        self.ready: Deferred[Connection] | None = Deferred()
        self.served = 0
        self.idle_since = 0.0
        self.lost = False
        self._asked: Deferred[Answer] | None = None
        self._answer: Answer | None = None
        self._upload: Deferred[Any] | None = None
        self._producer: Any = None
        self._sending: _Sending | None = None
        self._head_bytes = 0
        self._trailer_bytes = 0
        self._raw: list[tuple[bytes, bytes]] = []
        self._phrase = b""
        self._body: list[bytes] = []
        self._head_done = self._done = False
        self._keep_alive = False
        #: Whether nothing more is to be read, and whether what has been read is being looked at.
        self._paused = self._reading = False

    # The connection's life

    def connectionMade(self) -> None:
        """Connected; ready unless TLS is still to be agreed on."""
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        keep_alive(self.transport)
        adopt(self.transport)
        if self._open is not None:
            self._open.add(self)
        if ISSLTransport(self.transport, None) is None:
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        """TLS is agreed on, and the certificate verified; or there is none."""
        ready = self.ready
        if ready is not None and not ready.called:
            self.ready = None
            ready.callback(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Closed, by either side."""
        self.lost = True
        if self._open is not None:
            self._open.discard(self)
        if self.ready is None:
            self._fail(reason)
            if not self._reading:
                self._parser = None  # it holds this, with what both have read, until the next full collection
        elif not self.ready.called:
            self.ready.errback(Failure(NoHandshake()) if reason.check(ConnectionClosed) else reason)

    def abort(self) -> None:
        """Close at once."""
        if not self.lost:
            self.transport.abortConnection()

    def pause(self) -> None:
        """Read nothing more for now."""
        self._paused = True
        if not self._reading:
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        if not self._reading:
            self.transport.resumeProducing()

    # A request

    def request(self, head: bytes, body: bytes | Spliced | None, producer: IBodyProducer | None) -> Deferred[Answer]:
        """
        Send a request; fires with the head of the answer.  Cancelling closes the connection.

        :param head: everything up to the empty line.
        :param body: the whole body, or None if `producer` makes it.
        """
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = self._trailer_bytes = 0
        self._head_done = self._done = self._keep_alive = False
        self._raw, self._phrase, self._body = [], b"", []
        asked: Deferred[Answer] = Deferred(self._cancelled)
        self._asked = asked
        if body is not None:
            if len(body) <= ONE_WRITE:
                send_soon(self.transport, head + bytes(body))
            else:
                pieces = body.pieces if isinstance(body, Spliced) else (body,)
                self._sending = _Sending(self.transport, (head, *pieces))
                self.transport.registerProducer(self._sending, True)
                self._sending.resumeProducing()
        else:
            send(self.transport, head)
            if producer is not None:
                self._start_upload(producer)
        return asked

    def _cancelled(self, _: object) -> None:
        self._asked = None  # the Deferred itself says that it was cancelled
        self.abort()

    def _start_upload(self, producer: IBodyProducer) -> None:
        upload = _Upload(self.transport, producer.length)
        self._producer = producer
        self._upload = producer.startProducing(upload)

        def produced(result: object) -> None:
            self._upload = self._producer = None
            if isinstance(result, Failure) or not upload.finish():
                self.abort()

        self._upload.addBoth(produced)

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the answer.  Whether to go on reading is clear when all that they bring about is done."""
        self._reading = True
        try:
            self._received(data)
        finally:
            self._reading = False
            if self._paused and not self.lost:
                self.transport.pauseProducing()

    def _received(self, data: bytes) -> None:
        if self._asked is None and self._answer is None:  # nobody asked
            self.abort()
            return
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as e:
            self._keep_alive = False  # if the answer is complete, what follows it belongs to nobody
            self._deliver()
            if not self._done:
                begun = self._parser.get_status_code() >= 100
                self._fail(Failure((BrokenAnswer if begun else NotHttp)(f"the answer is not HTTP: {e}")))
            self.abort()
            return
        if not self._head_done:
            if self._head_bytes > MAX_HEAD or len(self._raw) > MAX_HEADERS:
                self._refuse_head()
            return
        if self._asked is not None and len(self._raw) > MAX_HEADERS:
            self._refuse_head()
            return
        if not self._body:  # chunk sizes or trailers, which nobody sees and the parser keeps
            self._trailer_bytes += len(data)
            if self._trailer_bytes > MAX_HEAD and not self._done:
                self._fail(
                    Failure(BrokenAnswer(f"what is between or behind its chunks is larger than {MAX_HEAD} bytes"))
                )
                self.abort()
                return
        else:
            self._trailer_bytes = 0
        self._deliver()

    def _refuse_head(self) -> None:
        self._fail(
            Failure(BrokenAnswer(f"the answer's head is larger than {MAX_HEAD} bytes or {MAX_HEADERS} header lines"))
        )
        self.abort()

    def _deliver(self) -> None:
        """Hand over what one read has brought."""
        asked = self._asked
        if asked is not None and self._head_done:
            answer = Answer(self, self._parser.get_status_code(), self._phrase, self._raw)
            if answer.encoded and not (answer.code >= 400 and answer.framed_plainly):  # of an error, the status counts
                self._fail(Failure(EncodedAnswer("it is compressed, which was not asked for")))
                self.abort()
                return
            self._asked, self._answer = None, answer
            self._hand_over()  # what has come with the head is there before anybody hears of it
            asked.callback(answer)
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the answer what has come of its body, and its end."""
        if self._body and self._answer is not None:
            data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body = []
            if not self._answer.received(data) and not self._done and not self.lost:
                self.pause()
        if self._done:
            self._finish()

    def _finish(self) -> None:
        """The answer is complete: free the connection, then say so."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        self.served += 1
        if self._upload is not None:  # it was answered before all of it was sent, and nobody wants the rest
            self._upload = None
            self._producer.stopProducing()
            self.abort()
        elif self._sending is not None and self._sending.waiting:  # the same: nothing can follow what is not read
            self.abort()
        elif self._keep_alive and not self.lost:
            self.resume()  # its reader may have paused it
            self._release(self)
        else:
            hang_up(self.transport)
        answer.ended(_DONE)

    def _fail(self, reason: Failure) -> None:
        """The answer will not be completed."""
        asked, self._asked = self._asked, None
        answer, self._answer = self._answer, None
        if self._upload is not None:
            self._producer.stopProducing()
        if asked is not None:
            if isinstance(reason.value, BrokenAnswer):
                asked.errback(reason)
            elif self._head_bytes:
                asked.errback(Failure(TruncatedAnswer("the connection closed")))
            else:
                asked.errback(Failure(StaleConnection() if self.served else NoAnswer()))
        if answer is not None:
            if answer.unframed and reason.check(ConnectionDone):
                answer.ended(Failure(PotentialDataLoss()))
            else:
                answer.ended(
                    reason if reason.check(BrokenAnswer) else Failure(TruncatedAnswer("the connection closed"))
                )

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._done:  # a second answer, which nobody asked for, must not become a part of the first
            raise ValueError("more follows the answer")

    def on_status(self, phrase: bytes) -> None:
        self._phrase += phrase

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # else it is a trailer, which is not passed on
            self._raw.append((name, value.rstrip(b" \t")))  # RFC 9110, section 5.5: it is no part of the value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._head_done = True
        elif status < 100:  # it may have a body, which would become a part of the next answer's
            raise ValueError("there is no such status")
        else:  # 100 Continue and the like: the answer proper follows
            self._raw, self._phrase = [], b""

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._done = True
            self._keep_alive = self._parser.should_keep_alive()  # it forgets when this returns


lay_out(
    Connection,
    *("transport", "connected", "_release", "_parser", "ready", "served", "idle_since", "lost", "_asked"),
    *("origin", "_open"),
    *("_answer", "_upload", "_producer", "_sending", "_head_bytes", "_trailer_bytes", "_raw", "_phrase", "_body"),
    *("_head_done", "_done", "_keep_alive", "_paused", "_reading"),
)

_DONE: Failure = Failure(ResponseDone())


class Connecting(Interface):
    """
    A protocol that can be connected to an origin.

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


class Connections:
    """
    Connections by origin: the idle ones, and how new ones are made.

    All of them follow one TLS policy, and the way to an origin is always the same; whoever needs another policy or
    another proxy needs other :class:`Connections`.

    :param timeout: seconds for a connection to be made, the proxy's part and TLS included.
    :param proxy_of: the proxy on the way to an origin, None for the direct way; may raise :class:`ValueError`.
    :param asleep: for how many seconds the machine has slept, from some moment on.
    """

    def __init__(
        self,
        reactor: Any,
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
        """How many connections there are to each host and port: in use, and idle.  This looks at all of them."""
        idle = {id(connection) for kept in self._idle.values() for connection in kept}
        found: dict[str, tuple[int, int]] = {}
        for connection in self._open:
            _, host, port = connection.origin
            name = f"[{host.decode('ascii')}]:{port}" if b":" in host else f"{host.decode('ascii')}:{port}"
            used, waiting = found.get(name, (0, 0))
            found[name] = (used, waiting + 1) if id(connection) in idle else (used + 1, waiting)
        return found

    def take(self, origin: Origin) -> Connection | None:
        """The idle connection that was used last, or None."""
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
        """A new connection; cancelling gives it up."""
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
                belongs_to(connection.transport, connection)
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
            hang_up(connection.transport)
            return
        idle = self._idle.setdefault(connection.origin, deque())
        connection.idle_since = self._reactor.seconds()
        idle.append(connection)
        if len(idle) > MAX_IDLE:
            hang_up(idle.popleft().transport)
        if self._sweep is None:
            self._sweep = self._reactor.callLater(IDLE_SECONDS / 2, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        oldest = self._reactor.seconds() - IDLE_SECONDS
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0].lost or idle[0].idle_since <= oldest):
                connection = idle.popleft()
                if not connection.lost:
                    hang_up(connection.transport)
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


@lru_cache(maxsize=256)
def _opening(method: bytes, uri: bytes) -> tuple[Origin, bytes]:
    """Where a request goes, and how it begins: the same for all that are made of a model with an account."""
    origin, host, target = split_url(uri)
    if not _TARGET.fullmatch(target):
        raise ValueError("an upstream's URL holds a character that must be encoded")
    return origin, b"%b %b HTTP/1.1\r\nHost: %b\r\nAccept-Encoding: identity\r\n" % (method, target, host)


@lru_cache(maxsize=64)
def _header_lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """
    Headers as they are written: the same for all requests with an account, until its credential is another one.

    :raises ValueError: if one of them would be more than a line.
    """
    lines = [b"%b: %b\r\n" % pair for pair in headers if pair[0].lower() not in _OURS]
    written = b"".join(lines)
    if not written.count(b"\n") == written.count(b"\r") == len(lines):
        raise ValueError("a header of a request to an upstream holds a line break")
    return written


class GivenHeaders(Headers):
    """Headers that are written as they are given; by their names they are filed when somebody looks one up."""

    def __init__(self, lines: tuple[tuple[bytes, bytes], ...]) -> None:
        self.lines = lines

    def __getattr__(self, name: str) -> Any:
        """What twisted.web's own keep from the start."""
        if name != "_rawHeaders":
            raise AttributeError(name)
        super().__init__()
        for header in self.lines:
            self.addRawHeader(*header)
        return self._rawHeaders


@implementer(IAgent)
class Http1Agent:
    """
    Requests over :class:`Connections`.

    What fails before an answer is one of Twisted's connection errors, :class:`NoAnswer` or :class:`BrokenAnswer`; a
    body that is not completed ends with :class:`BrokenAnswer`.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """As :class:`twisted.web.iweb.IAgent` says; `uri` must be absolute."""
        origin, opening = _opening(method, uri)
        body = getattr(bodyProducer, "whole", None)
        if isinstance(headers, GivenHeaders):
            lines = _header_lines(headers.lines)
        elif headers is not None:
            lines = _header_lines(tuple((name, v) for name, values in headers.getAllRawHeaders() for v in values))
        else:
            lines = b""
        length = b""
        if bodyProducer is not None:
            if bodyProducer.length is UNKNOWN_LENGTH:
                length = b"Transfer-Encoding: chunked\r\n"
            else:
                length = b"Content-Length: %d\r\n" % bodyProducer.length
        elif method in (b"POST", b"PUT", b"PATCH"):
            length = b"Content-Length: 0\r\n"
        head = b"%b%b%b\r\n" % (opening, lines, length)
        kept = self._connections.take(origin)
        if kept is None:
            return self._on_a_new_one(origin, head, body, bodyProducer)
        d: Deferred[Any] = kept.request(head, body, bodyProducer)
        if body is not None or bodyProducer is None:  # what was produced once cannot be sent again
            d.addErrback(self._stale, origin, head, body, bodyProducer)
        return d

    def _stale(
        self,
        failure: Failure,
        origin: Origin,
        head: bytes,
        body: bytes | Spliced | None,
        producer: IBodyProducer | None,
    ) -> Any:
        failure.trap(StaleConnection)
        return self._on_a_new_one(origin, head, body, producer)

    def _on_a_new_one(
        self, origin: Origin, head: bytes, body: bytes | Spliced | None, producer: IBodyProducer | None
    ) -> Deferred[Any]:
        d: Deferred[Any] = self._connections.connect(origin)
        return d.addCallback(lambda connection: connection.request(head, body, producer))

    def open_socket(self, uri: bytes, headers: tuple[tuple[bytes, bytes], ...], socket: Any) -> Deferred[Any]:
        """
        Connect an :class:`agm.upstream.websocket.UpstreamSocket`, and ask for the upgrade; fires when it is granted.

        :param uri: absolute, with the scheme ``http`` or ``https``.
        :raises ValueError: if the URL or a header cannot be written.
        """
        origin, host, target = split_url(uri)
        if not _TARGET.fullmatch(target):
            raise ValueError("an upstream's URL holds a character that must be encoded")
        lines = _header_lines(headers)
        d = self._connections.connect_to(origin, socket)
        return d.addCallback(lambda connected: connected.handshake(target, host, lines))


#: Headers that the agent writes itself, in lower case: two of one could leave open where a request ends.
_OURS = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"accept-encoding"})
_TARGET = re.compile(rb"/[\x21-\x7e]*")
