"""
A client's request as the resources see it: a twisted.web request that makes only what somebody asks for.

Everything of :class:`twisted.web.server.Request` that a resource may use is there, and is made when it is first looked
at; a request that is relayed looks at next to nothing of it.  The answer's head goes out with its first bytes, in one
write.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterable
from functools import cached_property
from http import HTTPStatus
from io import BytesIO
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES, datetimeToString, parse_qs
from twisted.web.http_headers import Headers
from twisted.web.server import Request

from agm import __version__
from agm.core.errors import BodyTooLarge, GatewayError, InvalidRequest, MethodNotAllowed
from agm.core.sender import Sender
from agm.core.wire.request_parser import Head
from agm.net.features import enabled, sets_only, warn_of
from agm.net.interfaces import GatewayTransport
from agm.net.sharedkeys import lay_out
from agm.observe.request_ids import new_request_id
from agm.upstream.upload import StreamedBody
from agm.web.browsers import NOSNIFF

SERVER = f"agm/{__version__}".encode("ascii")
JSON_TYPE = (b"Content-Type", b"application/json; charset=UTF-8")
#: The authority of a target in absolute form.
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
#: What must not be in a header that goes out.
_CONTROL = re.compile(rb"[\r\n\x00]+")

log = Logger()


def phrase(status: int) -> bytes:
    """Return the reason phrase of a status; twisted.web's own are old, and lack 429."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b"Unknown"


_LAST_CHUNK = b"0\r\n\r\n"
_STATUS_LINES = {int(s): b"HTTP/1.1 %d %b\r\n" % (s, s.phrase.encode("ascii")) for s in HTTPStatus}


class _Date:
    """The ``Date`` of answers, made once a second."""

    second = 0
    line = b""

    @classmethod
    def now(cls) -> bytes:
        second = int(time.time())
        if second != cls.second:
            cls.second = second
            cls.line = b"\r\nDate: " + datetimeToString(second) + b"\r\n"
        return cls.line


class Connection(Protocol):
    """What a request asks of the connection that it came by: :class:`agm.web.channel.GatewayChannel`."""

    transport: GatewayTransport
    site: Any
    secure: bool

    @property
    def client(self) -> Any:
        """The client's address, as twisted.web calls it."""

    @property
    def host(self) -> Any:
        """The address that the client reached."""

    @property
    def peer(self) -> Any:
        """Where the connection comes from, for who may talk to the gateway."""

    @property
    def stays_open(self) -> bool:
        """Whether another request may follow."""

    def write(self, data: bytes) -> None:
        """Send bytes of the answer."""

    def answered(self, request: GatewayRequestOnWire) -> None:
        """Say that the answer is complete."""

    def close_after(self) -> None:
        """Let no request follow."""

    def abort(self) -> None:
        """End it at once, so that what came looks cut."""


class GatewayRequestOnWire(Request):
    """
    A request as twisted.web sees it.

    Its body stays in memory, and never grows beyond ``[gateway] max_body``; but an upload's is `streamed` where it has
    one, while it comes and as large as it is.

    :ivar id: 24 hexadecimal digits, in every log line and in the answer.
    :ivar head: what the client sent.
    """

    channel: Any  # a GatewayChannel; None once there is nobody to answer
    transport: GatewayTransport  # type: ignore[assignment]  # ITransport is less than every stream transport has
    site: Any
    streamed: StreamedBody | None = None
    #: What ends the answer that is being made, whatever it waits for; set by the resource.
    interrupt: Callable[[], object] | None = None
    #: Called when the client leaves before the answer is complete.
    on_gone: Callable[[], object] | None = None
    #: Why it was ended so, for the client.
    interrupted: GatewayError | None = None
    queued = False
    #: Whether the end of the answer can be told from the end of the connection; from the first write on.
    framed = False
    _bodiless = False
    _ended = False
    #: The client has left.
    _gone = False
    #: What compresses the answer of a plugin's page.
    _encoding: Any = None
    _prepared: list[tuple[bytes, bytes]] | None = None
    _received = 0

    def __init__(self, channel: Connection, head: Head) -> None:
        if not enabled.lean_requests:
            super().__init__(channel)
            for name in _MADE_LATER:
                self.__dict__.pop(name, None)
        self.channel = channel
        self.transport = channel.transport
        self.client = channel.client
        self.host = channel.host
        self.peer = channel.peer
        self.head = head
        self.id = new_request_id()
        self.method = head.method
        self.uri = head.target
        self.path = head.target.partition(b"?")[0]
        self.clientproto = head.version
        self.notifications = []
        self._body = b""
        self._growing: BytesIO | None = None
        if not self.uri.startswith(b"/"):
            absolute = _ABSOLUTE.match(self.uri)
            if absolute is not None:
                self._take_absolute(absolute[1], self.uri[absolute.end() :])

    # What the client sent

    @cached_property
    def requestHeaders(self) -> Headers:  # type: ignore[override]  # an attribute there
        """All headers."""
        headers = Headers()
        for name, value in self.head.fields:
            headers.addRawHeader(name, value)
        return headers

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header; `name` in lower case."""
        value = self.head.first.get(name)
        return None if value is None else value.decode("latin-1")

    @cached_property
    def args(self) -> dict[bytes, list[bytes]]:  # type: ignore[override]  # an attribute there
        """The query's parameters."""
        return parse_qs(self.uri.partition(b"?")[2], True)

    @cached_property
    def prepath(self) -> list[bytes]:  # type: ignore[override]  # an attribute there
        """The segments of the path that have led to the resource."""
        return []

    @cached_property
    def postpath(self) -> list[bytes]:  # type: ignore[override]  # an attribute there
        """The segments of the path that have not been walked."""
        return [unquote_to_bytes(part) if b"%" in part else part for part in self.path[1:].split(b"/")]

    @cached_property
    def received_cookies(self) -> dict[bytes, bytes]:  # type: ignore[override]  # an attribute there
        """The client's cookies, for pages that plugins add."""
        pairs = [pair.split(b"=", 1) for line in self.head.values(b"cookie") for pair in line.split(b";")]
        return {pair[0].lstrip(): pair[1] for pair in pairs if len(pair) == 2}

    @cached_property
    def _adapterCache(self) -> dict[str, Any]:  # type: ignore[override]  # an attribute there
        return {}

    @property
    def sender(self) -> Sender:
        """Who sends it: ``request.sender.local`` says whether it comes from this machine, and through no proxy."""
        found: Sender | None = self.head.found.get(Sender)  # a connection has one sender as long as it has one head
        if found is None:
            found = self.head.found[Sender] = self.site.access.sender(self.peer, self.head)
        return found

    def check_there(self) -> None:
        """
        Go on only if there is a client.  Who left was told to whoever was waited for, who may have kept it: a plugin,
        for example.

        :raises CancelledError: if there is none.
        """
        if self.channel is None:
            raise CancelledError

    @property
    def limit(self) -> int:
        """The largest body that is taken, in bytes."""
        return self.channel.site.max_body

    @property
    def body(self) -> bytes:
        """The body, whole."""
        return self._body if self._growing is None else self._growing.getvalue()

    @cached_property
    def content(self) -> Any:  # type: ignore[override]  # an attribute there
        """The body, as a file."""
        return BytesIO(self.body)

    def isSecure(self) -> bool:
        """Return whether the connection is TLS."""
        return self.channel is not None and self.channel.secure

    # The channel's side

    def body_received(self, data: bytes) -> None:
        """A piece of the body.  :raises BodyTooLarge: if it is one too many."""
        if self.streamed is not None:
            self.streamed.received(data)
            return
        self._received += len(data)
        self.check_length(self._received)
        if self._growing is not None:
            self._growing.write(data)
        elif not self._body:
            self._body = data
        else:
            # not a list of pieces: to join them takes the room of a second body, and this gives its own away
            self._growing = BytesIO()
            self._growing.write(self._body)
            self._growing.write(data)

    def take_body(self, data: bytes) -> None:
        """The body has come, all at once, and is none too large."""
        self._body = data

    def check_length(self, length: int) -> None:
        """:raises BodyTooLarge: if a body of this many bytes is not taken."""
        if self.streamed is None and length > self.limit:
            raise BodyTooLarge(
                f"The request's body is larger than max_body, {self.limit} bytes. Raise [gateway] max_body to allow it."
            )

    def process(self) -> None:
        """Find the resource, and let that answer."""
        self.site = self.channel.site
        if self.uri == b"*":
            self._handleStar()
            return
        if not self.uri.startswith(b"/"):  # not RFC 9112's authority-form either: nothing is tunnelled here
            self.send_error(
                InvalidRequest("The request's target is neither a path nor a URL.", reason="TARGET_INVALID")
            )
            return
        try:
            resource = self.site.getResourceFor(self)
            if resource is self.site.calls:
                resource.render(self)
                return
            if hasattr(resource, "getEncoder"):  # twisted.web's EncodingResourceWrapper, around a plugin's page
                self._encoding = resource.getEncoder(self)
            self.render(resource)
        except Exception:
            self.processingFailed(Failure())

    def _take_absolute(self, authority: bytes, rest: bytes) -> None:
        """RFC 9112, 3.2.2: a server must take the absolute form, and its authority before a Host that there must be."""
        hosts = self.head.values(b"host")
        if len(hosts) == 1 or (not hosts and self.clientproto == b"HTTP/1.0"):
            self.head.first[b"host"] = authority
            self.head.fields = [(n, v) for n, v in self.head.fields if n != b"host"] + [(b"host", authority)]
        self.uri = rest if rest.startswith(b"/") else b"/" + rest
        self.path = self.uri.partition(b"?")[0]

    def _handleStar(self) -> None:
        """``OPTIONS *`` asks for the server as a whole; no other method goes with ``*``."""
        if len(self.head.values(b"host")) != 1 and self.clientproto == b"HTTP/1.1":
            self.send_error(InvalidRequest("A request must have exactly one Host header.", reason="HOST_INVALID"))
        elif self.method == b"OPTIONS":
            self.send(204, [(b"Allow", b"GET, HEAD, POST, OPTIONS")], b"")
        else:
            self.send_error(MethodNotAllowed("The target * takes OPTIONS.", allow=["OPTIONS"]))

    def processingFailed(self, reason: Failure) -> None:
        """A resource raised: log it, and tell the client no more than that."""
        log.failure("{request_id}: the request failed", failure=reason, request_id=self.id)
        if self.channel is None:  # it has answered, or the client has left
            return
        if self.startedWriting:
            self.channel.abort()
        else:
            self._encoding = None  # it and the headers were meant for another answer
            self.__dict__.pop("responseHeaders", None)
            self.send_error(GatewayError("The gateway failed to serve this request; its log says why."))

    def connectionLost(self, reason: Failure) -> None:
        """The client has left."""
        self._gone = True
        self.channel = None
        self.producer = None  # it holds this request: what both hold would stay until the next full collection
        self._body, self._growing = b"", None
        waiting, self.notifications = self.notifications, []
        if self.on_gone is not None:
            self.on_gone()
        for d in waiting:
            d.errback(reason)

    # The answer

    @cached_property
    def responseHeaders(self) -> Headers:  # type: ignore[override]  # an attribute there
        """Headers of the answer, beside those that are given to :meth:`start`."""
        return Headers()

    @cached_property
    def cookies(self) -> list[bytes]:  # type: ignore[override]  # an attribute there
        """Cookies of the answer."""
        return []

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the status, with today's reason phrase."""
        self.code = code
        self.code_message = message or phrase(code)

    def send_error(self, error: GatewayError) -> None:
        """Answer with an error of the gateway's own."""
        self.send(error.status, error.headers(), error.body())

    def send(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer with a complete document; JSON, unless the headers say otherwise.  Nothing if the client has left."""
        if self._gone:
            return
        own = list(headers)
        if not any(name == b"Content-Type" for name, _ in own) and not self.answers_with(b"content-type"):
            own.append(JSON_TYPE)
        own.append(NOSNIFF)
        if status != 204:
            own.append((b"Content-Length", b"%d" % len(body)))
        self.start(status, own, body)
        self.finish()

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], data: bytes = b"") -> None:
        """
        Begin an answer: its head, and its first bytes with it.

        :param headers: names in their usual case, and values that are fit to be sent.
        """
        self.code = status
        self._start(headers, data)

    def prepare(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """As :meth:`start`, but the head waits for the first :meth:`write`."""
        self.code = status
        self._prepared = headers

    def send_prepared(self, body: bytes) -> None:
        """The whole answer that :meth:`prepare` has begun, in one write."""
        self._start(self._prepared or (), body, last=True)
        self.finish()

    def answers_with(self, name: bytes) -> bool:
        """Return whether a header has been put into `responseHeaders`."""
        own = self.__dict__.get("responseHeaders")
        return own is not None and own.hasHeader(name)

    def _start(self, headers: Iterable[tuple[bytes, bytes]], data: bytes, *, last: bool = False) -> None:
        self.startedWriting = 1
        lines = [_STATUS_LINES.get(self.code) or b"HTTP/1.1 %d %b\r\n" % (self.code, self.code_message)]
        lines += (b"Server: ", SERVER, b"\r\nX-Agm-Request-Id: ", self.id.encode("ascii"), _Date.now())
        framed = bodiless = self.method == b"HEAD" or self.code in NO_BODY_CODES
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
            framed = framed or name == b"Content-Length"
        if "responseHeaders" in self.__dict__:
            for name, values in self.responseHeaders.getAllRawHeaders():
                if name in (b"Server", b"Date", b"Connection", b"Transfer-Encoding"):
                    continue
                framed = framed or name == b"Content-Length"
                lines += [b"%b: %b\r\n" % (name, _CONTROL.sub(b" ", value)) for value in values]
        if not framed:
            if self.clientproto == b"HTTP/1.1":
                self.chunked = 1
                lines.append(b"Transfer-Encoding: chunked\r\n")
            else:
                self.channel.close_after()
        if not self.channel.stays_open:
            self.channel.close_after()  # also if the rest of the request's body comes in the meantime
            lines.append(b"Connection: close\r\n")
        lines.append(b"\r\n")
        if data and not bodiless:
            self.sentLength += len(data)
            lines += (b"%x\r\n" % len(data), data, b"\r\n") if self.chunked else (data,)
        if last and self.chunked:
            lines.append(_LAST_CHUNK)
            self._ended = True
        self._prepared = None
        self._bodiless = bodiless
        self.framed = bool(framed or self.chunked)
        self.channel.write(b"".join(lines))

    def write(self, data: bytes) -> None:
        """A piece of the answer's body, after the head if it is the first."""
        if self.finished:
            raise RuntimeError("write was called on a request after finish")
        if self._gone:
            return
        if not self.startedWriting and self.method != self.head.method:  # GET in place of HEAD: Request.render tries
            return
        if self._encoding is not None:
            data = self._encoding.encode(data)
        if not self.startedWriting:
            if self._prepared is None:
                self._set_defaults()
            self._start(self._prepared or (), data)
        elif data and not self._bodiless:
            self.sentLength += len(data)
            self.channel.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def _set_defaults(self) -> None:
        """Add the headers that twisted.web adds to its resources' answers."""
        headers = self.responseHeaders
        if self.lastModified is not None:
            headers.setRawHeaders(b"Last-Modified", [datetimeToString(self.lastModified)])
        if self.etag is not None:
            headers.setRawHeaders(b"ETag", [self.etag])
        if "cookies" in self.__dict__:
            headers.setRawHeaders(b"Set-Cookie", self.cookies)
        empty = headers.getRawHeaders(b"Content-Length") == [b"0"] or self.code in NO_BODY_CODES
        if not empty and not headers.hasHeader(b"Content-Type") and self.defaultContentType is not None:
            headers.setRawHeaders(b"Content-Type", [self.defaultContentType])

    def finish(self) -> None:
        """The answer is complete."""
        if self._gone:
            raise RuntimeError("finish was called on a request after its connection was lost; see notifyFinish")
        if self.finished:
            warnings.warn("finish was called twice on a request", stacklevel=2)
            return
        if self._encoding is not None:
            encoder, self._encoding = self._encoding, None
            self.write(encoder.finish())
        if not self.startedWriting:
            self.write(b"")
        if self.chunked and not self._ended:
            self.channel.write(_LAST_CHUNK)
        self.finished = 1
        if self.producer:
            log.error("{request_id}: a producer was not unregistered", request_id=self.id)
            self.unregisterProducer()
        channel, self.channel = self.channel, None
        channel.site.log(self)
        self._body, self._growing = b"", None
        waiting, self.notifications = self.notifications, []
        channel.answered(self)
        for d in waiting:
            d.callback(None)


#: What a request makes when it is first asked for.
_MADE_LATER = [name for name, value in vars(GatewayRequestOnWire).items() if isinstance(value, cached_property)]
#: What :meth:`GatewayRequestOnWire.__init__` sets itself, beside what the class has.
_SET = frozenset({"notifications", "channel", "client", "host", "transport"})
if enabled.lean_requests and not sets_only(
    Request, lambda name: name in _SET or name == "_parsePOSTFormSubmission" or hasattr(GatewayRequestOnWire, name)
):
    enabled.lean_requests = False
    warn_of(["lean requests"])

lay_out(
    GatewayRequestOnWire,
    *(
        "channel",
        "transport",
        "client",
        "host",
        "peer",
        "head",
        "id",
        "method",
        "uri",
        "path",
        "clientproto",
        "notifications",
    ),
    *("_body", "_growing", "site", "interrupt", "on_gone", "code", "_prepared", "startedWriting", "chunked"),
    *("sentLength", "_bodiless", "framed", "streamingProducer", "producer", "_ended", "finished", "_gone"),
)
