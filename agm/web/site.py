"""
The HTTP server under the resources: a twisted.web site whose every word to a client is google.rpc.Status JSON.

twisted.web parses; this module bounds what it holds, refuses what is malformed or too large in a form that the client
gets to see (the refusal is written, the sending side closed, and what still comes is thrown away for a while), and logs
each request without its query, because clients put keys there.
"""

from __future__ import annotations

import io
import os
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
from agm.core.errors import BodyTooLarge, GatewayError, InvalidRequest

#: Bytes of a request's line and headers, and how many lines.
MAX_HEADER_BYTES = 32 * 1024
MAX_HEADER_LINES = 100
#: Seconds and bytes that are thrown away after a refusal, so that the client reads it before it meets a closed door.
LINGER_SECONDS = 5.0
LINGER_BYTES = 64 * 1024 * 1024

if TYPE_CHECKING:
    from agm.gateway import Gateway
    from agm.web.access import Access

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
    """A request as twisted.web sees it; its body stays in memory, and never grows beyond ``[gateway] max_body``."""

    channel: Any
    content: Any
    transport: Any
    site: GatewaySite

    def __init__(self, *args: Any, **kw: Any) -> None:
        kw["parsePOSTFormSubmission"] = False
        super().__init__(*args, **kw)
        self.id = new_request_id()
        self._received = 0

    @property
    def limit(self) -> int:
        """The largest body that is taken, in bytes."""
        return self.channel.site.max_body

    def gotLength(self, length: int | None) -> None:
        """The headers are complete; `length` is None for a chunked body."""
        self.content = io.BytesIO()
        if length is not None and length > self.limit:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body."""
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

    def process(self) -> None:
        """The request is complete: find its resource and let that answer."""
        if self.channel.refused:
            return
        super().process()

    def render(self, resrc: Any) -> None:
        """Let a resource answer; the headers of every answer are set before."""
        self.responseHeaders.setRawHeaders(b"Server", [SERVER])
        self.responseHeaders.setRawHeaders(b"X-Agm-Request-Id", [self.id.encode("ascii")])
        super().render(resrc)

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
        for name, value in headers:
            self.responseHeaders.addRawHeader(name, value)
        if not self.responseHeaders.hasHeader(b"Content-Type"):
            self.responseHeaders.setRawHeaders(b"Content-Type", [b"application/json; charset=UTF-8"])
        if status != 204:
            self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        self.write(b"" if self.method == b"HEAD" else body)
        self.finish()


class GatewayChannel(HTTPChannel):
    """A client's connection."""

    totalHeadersSize = MAX_HEADER_BYTES
    maxHeaders = MAX_HEADER_LINES
    MAX_LENGTH = MAX_HEADER_BYTES
    refused = False
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
        if not self.refused:
            super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """A request is complete."""
        if not self.refused:
            super().allContentReceived()

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
            drained.callback(None)

    def cut(self) -> None:
        """Cut every connection."""
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
