"""
The HTTP server under the resources: a twisted.web site whose every word to a client is google.rpc.Status JSON.

twisted.web parses; this module bounds what it holds, refuses what is malformed or too large in a form that the client
gets to see (the refusal is written, the sending side closed, and what still comes is thrown away for a while), and logs
each request without its query, because clients put keys there.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from agm import __version__
from agm.core.errors import BodyTooLarge, GatewayError, InvalidRequest, MethodNotAllowed, RequestTooSlow, Unavailable
from agm.upstream.upload import StreamedBody

#: Bytes of a request's line and headers, and how many lines.
MAX_HEADER_BYTES = 32 * 1024
MAX_HEADER_LINES = 100
#: Seconds and bytes that are thrown away after a refusal, so that the client reads it before it meets a closed door.
LINGER_SECONDS = 5.0
LINGER_BYTES = 64 * 1024 * 1024
#: Requests whose resource is asked before their body has come, and takes it as it comes.
_STREAMED = re.compile(rb"/+upload/")

if TYPE_CHECKING:
    from agm.gateway import Gateway
    from agm.web.access import Access

#: What an answer that is cut short gets to reach its client.
CUT_SECONDS = 0.5
#: The authority of a target in absolute form.
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)

SERVER = f"agm/{__version__}".encode("ascii")

log = Logger()


def phrase(status: int) -> bytes:
    """The reason phrase of a status; twisted.web's own are old, and lack 429."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b"Unknown"


def new_request_id() -> str:
    """16 hexadecimal digits."""
    return os.urandom(8).hex()


class GatewayRequestOnWire(Request):
    """
    A request as twisted.web sees it.

    Its body stays in memory, and never grows beyond ``[gateway] max_body``; but an upload's is `streamed` where it has
    one, while it comes and as large as it is.
    """

    streamed: StreamedBody | None = None
    channel: Any
    content: Any
    transport: Any
    site: GatewaySite

    def __init__(self, *args: Any, **kw: Any) -> None:
        kw["parsePOSTFormSubmission"] = False
        super().__init__(*args, **kw)
        self.id = new_request_id()
        self._received = 0
        #: What ends the answer that is being made, whatever it waits for; set by the resource.
        self.interrupt: Callable[[], object] | None = None
        #: Why it was ended so, for the client.
        self.interrupted: GatewayError | None = None

    @property
    def limit(self) -> int:
        """The largest body that is taken, in bytes."""
        return self.channel.site.max_body

    def gotLength(self, length: int | None) -> None:
        """The headers are complete; `length` is None for a chunked body."""
        self.content = io.BytesIO()
        if self.streamed is None and length is not None and length > self.limit:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body."""
        if self.streamed is not None:
            self.streamed.received(data)
            return
        self._received += len(data)
        if self._received > self.limit:
            self._refuse_body()
        elif not self.channel.refused:
            self.content.write(data)

    def _refuse_body(self) -> None:
        error = BodyTooLarge(
            f"The request's body is larger than max_body, {self.limit} bytes. Raise [gateway] max_body to allow it."
        )
        self.channel.refuse(error, self.id)

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the status, with today's reason phrase."""
        super().setResponseCode(code, message or phrase(code))

    def begin(self, command: bytes, path: bytes, version: bytes) -> None:
        """The head is complete, and its resource takes the body as it comes."""
        super().requestReceived(command, path, version)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is complete."""
        if self.streamed is None:
            super().requestReceived(command, path, version)
        else:
            self.streamed.finished()

    def process(self) -> None:
        """The request is complete: find its resource and let that answer."""
        if self.channel.refused:
            return
        absolute = _ABSOLUTE.match(self.uri)
        if absolute is not None:  # RFC 9112, section 3.2.2: a server must take it, and its authority before the Host
            self.requestHeaders.setRawHeaders(b"Host", [absolute[1]])
            self.uri = self.uri[absolute.end() :] or b"/"
            self.uri = self.uri if self.uri.startswith(b"/") else b"/" + self.uri
            self.path = self.uri.partition(b"?")[0]
        super().process()

    def _handleStar(self) -> None:
        """``OPTIONS *`` asks for the server as a whole; no other method goes with ``*``."""
        self._set_headers()
        if self.method == b"OPTIONS":
            self.send(204, [(b"Allow", b"GET, HEAD, POST, OPTIONS")], b"")
        else:
            self.send_error(MethodNotAllowed("The target * takes OPTIONS.", allow=["OPTIONS"]))

    def render(self, resrc: Any) -> None:
        """Let a resource answer; the headers of every answer are set before."""
        self._set_headers()
        super().render(resrc)

    def _set_headers(self) -> None:
        self.responseHeaders.setRawHeaders(b"Server", [SERVER])
        self.responseHeaders.setRawHeaders(b"X-Agm-Request-Id", [self.id.encode("ascii")])

    def processingFailed(self, reason: Failure) -> None:
        """A resource raised: log it, and tell the client no more than that."""
        log.failure("{request_id}: the request failed", failure=reason, request_id=self.id)
        self.send_error(GatewayError("The gateway failed to serve this request; its log says why."))

    def send_error(self, error: GatewayError) -> None:
        """Answer with an error of the gateway's own."""
        self.send(error.status, error.headers(), error.body())

    def send(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer with a complete JSON document."""
        self.setResponseCode(status)
        self.announce_close()
        for name, value in headers:
            self.responseHeaders.addRawHeader(name, value)
        if not self.responseHeaders.hasHeader(b"Content-Type"):
            self.responseHeaders.setRawHeaders(b"Content-Type", [b"application/json; charset=UTF-8"])
        if status != 204:
            self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        self.write(b"" if self.method == b"HEAD" else body)
        self.finish()

    def announce_close(self) -> None:
        """Say that the connection closes, if it does because this is answered before its body has come."""
        if self.streamed is not None and not self.streamed.complete:
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])


class GatewayChannel(HTTPChannel):
    """A client's connection."""

    totalHeadersSize = MAX_HEADER_BYTES
    maxHeaders = MAX_HEADER_LINES
    MAX_LENGTH = MAX_HEADER_BYTES
    refused = False
    _lost = False
    _thrown_away = 0
    _linger: IDelayedCall | None = None
    transport: Any
    site: GatewaySite

    def connectionMade(self) -> None:
        """A client has connected."""
        super().connectionMade()
        self.site.channels.add(self)

    def close_when_idle(self) -> None:
        """Close now if no request is under way, else after its answer."""
        if self.requests:
            self.persistent = 0
        else:
            self.loseConnection()

    def timeoutConnection(self) -> None:
        """Nothing came for too long: a request that has begun is refused, an idle connection closed."""
        begun = self.requests[-1].id if self.requests else new_request_id() if self._buffer else None
        if begun is None or self.refused:
            super().timeoutConnection()
        else:
            self.refuse(
                RequestTooSlow(
                    f"Nothing more of the request came for [timeouts] request_read, {self.site.timeOut:g} seconds."
                ),
                begun,
            )

    def refuse(self, error: GatewayError, request_id: str) -> None:
        """Answer before the request is complete, read nothing more of it, and close so that the answer is seen."""
        if self.refused:
            return
        self.refused = True
        body = error.body()
        head = [
            b"HTTP/1.1 %d %s" % (error.status, phrase(error.status)),
            b"Server: " + SERVER,
            b"X-Agm-Request-Id: " + request_id.encode("ascii"),
            b"Content-Type: application/json; charset=UTF-8",
            b"Content-Length: %d" % len(body),
            b"Connection: close",
            *(name + b": " + value for name, value in error.headers()),
        ]
        self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        log.info("{request_id}: refused with {status}", request_id=request_id, status=error.status)
        self._read_no_more()

    def _read_no_more(self) -> None:
        """Throw away what still comes, for a while, so that the client gets to read its answer."""
        self.refused = True
        self.setTimeout(None)
        self._linger = self.callLater(LINGER_SECONDS, self.transport.abortConnection)
        if hasattr(self.transport, "loseWriteConnection"):
            self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the client; after a refusal they are thrown away."""
        if not self.refused:
            super().dataReceived(data)
            return
        self._thrown_away += len(data)
        if self._thrown_away > LINGER_BYTES:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # twisted's has no annotation
        """The connection is closed."""
        self._lost = True
        self.site.forget(self)
        linger, self._linger = self._linger, None
        if linger is not None and linger.active():
            linger.cancel()
        super().connectionLost(reason)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A header line is too long."""
        self.refuse(
            _HeadersTooLarge(f"A line of the request's head is longer than {MAX_HEADER_BYTES} bytes."),
            new_request_id(),
        )

    def allHeadersReceived(self) -> None:
        """The head of a request is complete."""
        if self.refused:
            return
        request: GatewayRequestOnWire = self.requests[-1]
        streamed = self.length != 0 and _STREAMED.match(self._path) is not None
        if streamed:
            request.streamed = StreamedBody(self.length, self._pause_reading, self._resume_reading)
        super().allHeadersReceived()
        if streamed:
            request.begin(self._command, self._path, self._version)

    def _pause_reading(self) -> None:
        self._networkProducer.pauseProducing()
        self.setTimeout(None)  # the client is not to blame for what it cannot send

    def _resume_reading(self) -> None:
        if not self._lost:
            self._networkProducer.resumeProducing()
            self.setTimeout(self.timeOut)

    def allContentReceived(self) -> None:
        """A request is complete."""
        if self.refused:
            return
        streamed = self.requests[-1].streamed
        if streamed is not None:
            streamed.resumeProducing()
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """A request is answered; what has not come of its body is not waited for, and so nothing can follow it."""
        if request.streamed is None or request.streamed.complete:
            super().requestDone(request)
            return
        request.streamed.stopProducing()
        self.requests.remove(request)
        self._read_no_more()

    def _send100Continue(self) -> None:
        if not self.refused:
            super()._send100Continue()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self.refuse(
                _HeadersTooLarge(
                    f"The request's head is larger than {MAX_HEADER_BYTES} bytes or {MAX_HEADER_LINES} lines."
                ),
                new_request_id(),
            )
        else:
            self.refuse(
                InvalidRequest("The request is not well-formed HTTP.", reason="MALFORMED_HTTP"),
                new_request_id(),
            )


class _HeadersTooLarge(GatewayError):
    status, reason = 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"


class GatewaySite(Site):
    """The site: a tree of resources, and the bounds of a request."""

    displayTracebacks = False
    noisy = False
    #: For plugins that add resources.
    gateway: Gateway
    access: Access
    #: The open connections of clients, for the drain.
    channels: set[GatewayChannel]

    def __init__(self, resource: IResource, *, reactor: Any, max_body: int, read_timeout: float) -> None:
        super().__init__(resource, requestFactory=GatewayRequestOnWire, timeout=read_timeout, reactor=reactor)
        self.max_body = max_body
        self.channels = set()
        self._drained: Deferred[None] | None = None
        self._abort: IDelayedCall | None = None

    @property
    def busy(self) -> int:
        """How many connections have a request under way."""
        return sum(1 for channel in self.channels if channel.requests)

    async def drain(self, patience: float) -> None:
        """Close idle connections, and the others as their answers end; cut what is left after `patience` seconds."""
        for channel in list(self.channels):
            channel.close_when_idle()
        if self.channels:
            self._drained = Deferred()
            cut = self.reactor.callLater(patience, self.cut)
            await self._drained
            if cut.active():
                cut.cancel()

    def forget(self, channel: GatewayChannel) -> None:
        """A connection is closed."""
        self.channels.discard(channel)
        if not self.channels and self._drained is not None:
            drained, self._drained = self._drained, None
            if self._abort is not None:
                self._abort.cancel()
                self._abort = None
            drained.callback(None)

    def cut(self) -> None:
        """End every answer now, in its own form, and a moment later every connection that is left."""
        for channel in list(self.channels):
            for request in list(channel.requests):
                if request.interrupt is not None:
                    request.interrupted = Unavailable("The gateway is stopping.", reason="STOPPING", retry_after=1.0)
                    request.interrupt()
        self._abort = self.reactor.callLater(CUT_SECONDS, self._abort_all)

    def _abort_all(self) -> None:
        self._abort = None
        for channel in list(self.channels):
            channel.transport.abortConnection()

    def buildProtocol(self, addr: Any) -> Any:
        """A protocol for a new connection: HTTP/1.1, without twisted.web's switch to other versions around it."""
        channel = GatewayChannel()
        channel.site = self
        channel.factory = self
        channel.callLater = self.reactor.callLater  # type: ignore[assignment]  # TimeoutMixin asks for less
        channel.timeOut = self.timeOut  # type: ignore[assignment]  # a float will do
        channel.requestFactory = self.requestFactory
        return channel

    def acceptableProtocols(self) -> list[bytes]:
        """What a TLS listener negotiates."""
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """Nothing: twisted.web would start its own access log here, which holds queries."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def log(self, request: Any) -> None:
        """One line for each answer: no query, since clients put keys there."""
        log.info(
            "{request_id}: {method} {path} {status} {sent}",
            request_id=request.id,
            method=request.method.decode("ascii", "backslashreplace"),
            path=request.path.decode("ascii", "backslashreplace")[:200],
            status=request.code,
            sent=request.sentLength,
        )
