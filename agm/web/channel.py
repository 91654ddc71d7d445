"""
A client's connection: HTTP/1.1, one request at a time, bounded in bytes and in time.

In place of twisted.web's: what is refused is answered in Google's form, and the client gets to see it (the refusal is
written, the sending side closed, and what still comes is thrown away for a while); a request has a deadline that bytes
do not push away; a client that leaves is noticed, whatever it has sent ahead; and the transport pauses and resumes the
answer's producer directly.
"""

from __future__ import annotations

import typing
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IDelayedCall, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from agm.config import LimitsConfig
from agm.core.errors import GatewayError, InvalidRequest, RequestTooSlow, Unimplemented
from agm.core.sender import UNIX
from agm.core.wire.request_parser import Head, Malformed, RequestReader
from agm.net.epollset import watch
from agm.net.interfaces import GatewayTransport
from agm.net.stalls import LOOK_EVERY, Reading
from agm.net.writes import (
    buffered,
    close_both_ways,
    flush,
    keep_alive,
    lowest,
    named_by_proxy,
    send,
    send_soon,
    unacked,
)
from agm.observe.request_ids import new_request_id
from agm.upstream.upload import StreamedBody
from agm.web.access import Peer
from agm.web.browsers import NOSNIFF
from agm.web.request import JSON_TYPE, SERVER, GatewayRequestOnWire, phrase

#: Seconds and bytes that are thrown away after a refusal, so that the client reads it before it meets a closed door.
LINGER_SECONDS = 5.0
LINGER_BYTES = 64 * 1024 * 1024
#: Bytes of later requests that are kept while one is answered.
MAX_AHEAD = 8 * 1024
#: With more bytes of its answers waiting than this, a client gets no further one before it has read.
MAX_BUFFERED = 64 * 1024
#: A body that comes faster than this, in bytes a second, has more time than ``[timeouts] request_read``.
SLOWEST_BODY = 16 * 1024
#: How often it is looked whether an answer has gone out, where something has to wait for that.
FLUSH_SECONDS = 0.1

log = Logger()


class HeadTooLarge(GatewayError):
    """431: too many bytes or lines before the body."""

    status, reason = 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"


class ExpectationFailed(GatewayError):
    """417: an ``Expect`` that is not 100-continue."""

    status, reason = 417, "EXPECTATION_FAILED"


class VersionNotSupported(GatewayError):
    """505: not HTTP/1."""

    status, reason = 505, "HTTP_VERSION_NOT_SUPPORTED"


class Upgraded(typing.Protocol):
    """What a connection belongs to that speaks no HTTP any more."""

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""

    def connection_lost(self) -> None:
        """The connection is closed, by either side."""

    def going_away(self) -> None:
        """The gateway is about to stop."""

    def cut(self) -> None:
        """The gateway stops now."""


class SharedLimits(typing.Protocol):
    """What a connection asks of all connections' site: :class:`agm.web.site.GatewaySite`."""

    reactor: Any
    #: The gateway, which counts refused requests.
    gateway: Any
    channels: set[GatewayChannel]
    #: Those on which nothing is in flight, each with since when.
    silent: dict[GatewayChannel, float]
    limits: LimitsConfig
    max_body: int
    #: Seconds for a request to come, and for which a client may take nothing of its answer.
    read_timeout: float
    stall_timeout: float

    def check_open(self, channel: GatewayChannel, request: GatewayRequestOnWire) -> None:
        """:raises GatewayError: if a request cannot begin now."""

    def is_streamed(self, request: GatewayRequestOnWire) -> bool:
        """Return whether the resource of a request takes the body as it comes."""

    def reserve(self, length: int) -> None:
        """Hold so many more bytes of a body.  :raises GatewayError: if that is more than is held at once."""

    def release(self, length: int) -> None:
        """Hold so many bytes of a body no longer."""

    def error_body(self, request: GatewayRequestOnWire, error: GatewayError) -> bytes:
        """Lay out an error that comes before a resource is asked, in the form of the API that the request is for."""

    def falls_silent(self, channel: GatewayChannel) -> None:
        """Note that nothing is in flight on a connection."""

    def forget(self, channel: GatewayChannel) -> None:
        """Note that a connection has ended."""


class GatewayChannel(Protocol):
    """
    A client's connection.

    :param crowded: there are too many: only health is told.
    :ivar request: the request that comes in or is answered; None between two.
    :ivar upgraded: what it belongs to since its last request, which lasts as long as the connection.
    :ivar refused: nothing more is read; what still comes is thrown away, so that the client gets to read its answer.
    """

    transport: GatewayTransport  # type: ignore[assignment]  # ITransport is less than every stream transport has

    def __init__(self, site: SharedLimits, *, crowded: bool = False) -> None:
        self.site = site
        self.crowded = crowded
        self.request: GatewayRequestOnWire | None = None
        self.upgraded: Upgraded | None = None
        self.refused = False
        self.secure = False
        self._first = True
        self._reader = RequestReader(site.limits.header_bytes, site.limits.header_lines)
        #: The request has been handed to its resource, and has come in whole.  While both hold no other is begun.
        self._answering = False
        self._complete = False
        #: No byte of the next request has come since the deadline was set.
        self._resting = True
        self._keep_alive = True
        self._reading = False
        self._closing = False
        self._lost = False
        self._thrown_away = 0
        #: While what was written waits: whether it is taken, and for how many seconds that may not be so.
        self._taking: Reading | None = None
        self._patience = 0.0
        #: Bytes of the body that are reserved, and those that have come since the deadline was set.
        self._body_bytes = 0
        self._body_bytes_seen = 0
        self._deadline: float | None = None
        #: Looks whether the client has read so much that its next request can begin.
        self._held: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None

    # The connection's life

    def connectionMade(self) -> None:
        """A client has connected."""
        transport = self.transport
        self.client, self.host = transport.getPeer(), transport.getHost()
        self.peer = Peer(_address(self.client))
        self.secure = ISSLTransport(transport, None) is not None
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        keep_alive(transport)
        watch(transport)
        self.site.channels.add(self)
        self.site.falls_silent(self)
        self._expect_within(self.site.read_timeout)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is closed, by either side."""
        self._lost = True
        self._deadline = None
        for timer in (self._timer, self._held):
            if timer is not None:
                timer.cancel()
        self._timer = self._held = None
        request, self.request = self.request, None
        upgraded, self.upgraded = self.upgraded, None
        try:
            if upgraded is not None:
                upgraded.connection_lost()
            if request is not None:
                self.site.release(self._take_body_bytes())
                request.connectionLost(reason)
        finally:
            self.site.forget(self)  # last: with the last connection the gateway stops, and this request has ended

    def close(self) -> None:
        """Close, after what was written has gone out; a client that takes nothing of it for too long is cut."""
        if not self._closing and not self._lost:
            self._closing = True
            close_both_ways(self.transport)
            self._expect_taken(self.site.stall_timeout)

    loseConnection = close

    def abort(self) -> None:
        """Close now; what was written may be lost."""
        if not self._lost:
            self.transport.abortConnection()

    abortConnection = abort

    def give_way(self) -> None:
        """Close now: nothing is under way, and others need the place."""
        if self._closing:
            self.abort()
        else:
            self.close()

    def close_when_idle(self) -> None:
        """Close now if no request is under way, else after its answer."""
        if self.upgraded is not None:
            self.upgraded.going_away()
        elif self.request is None:
            self.close()
        else:
            self.close_after()

    def close_after(self) -> None:
        """Let no other request follow the one under way."""
        self._keep_alive = False

    @property
    def stays_open(self) -> bool:
        """Whether another request may follow; not if this is answered before its body has come."""
        return self._keep_alive and self._complete

    # Time

    def _expect_within(self, seconds: float) -> None:
        """Something must have happened by then."""
        self._taking = None
        self._wait(seconds)

    def _expect_taken(self, seconds: float) -> None:
        """Disconnect a client that reads nothing of the waiting bytes for so many seconds."""
        if buffered(self.transport):
            self._taking, self._patience = Reading(self.transport, self.site.reactor.seconds()), seconds
            self._wait(min(seconds, LOOK_EVERY))
        else:
            self._expect_within(seconds)

    def _wait(self, seconds: float) -> None:
        """One timer serves all deadlines of a connection: most are met."""
        reactor = self.site.reactor
        self._deadline = reactor.seconds() + seconds
        if self._timer is None:
            self._timer = reactor.callLater(seconds, self._look)
        elif self._timer.getTime() > self._deadline:
            self._timer.reset(seconds)

    def _look(self) -> None:
        """The timer has fired: wait on if the deadline was met or moved."""
        self._timer = None
        if self._deadline is None:
            return
        left = self._allowance() - self.site.reactor.seconds()
        if left > 0.001:
            self._timer = self.site.reactor.callLater(left, self._look)
        else:
            self._deadline = None
            self._late()

    def _allowance(self) -> float:
        """Return the deadline, with what bytes have earned since it was set."""
        assert self._deadline is not None
        if self.request is not None and not self._complete and not self.refused:
            return self._deadline + self._body_bytes_seen / SLOWEST_BODY
        return self._deadline

    def _late(self) -> None:
        waiting = (self._closing or self.request is None) and buffered(self.transport) > 0
        if self._taking is not None and waiting:
            left = self._patience - self._taking.idle(self.site.reactor.seconds())
            if left > 0.001:
                self._wait(min(left, LOOK_EVERY))
            else:
                self.abort()
        elif self._taking is not None:  # what waited has gone out
            self._expect_within(self._patience if self._closing or self.refused else self.site.read_timeout)
        elif waiting and not self.refused and self._reader.between:  # what the end of a turn has left
            self._expect_taken(self.site.stall_timeout)
        elif self._closing or self.refused or waiting:
            self.abort()
        elif self.request is None and self._reader.between:
            self.close()
        else:
            limit = f"[timeouts] request_read, {self.site.read_timeout:g} seconds"
            self.refuse(RequestTooSlow(f"The request did not come within {limit}."))

    # Reading

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.upgraded is not None:
            self.upgraded.data_received(data)
            return
        if self.refused:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self.abort()
            return
        if not self._complete or not self._answering:
            self._reader.feed(data)
            self._advance()
        elif self._keep_alive and self._reader.buffered + len(data) <= MAX_AHEAD:
            self._reader.feed(data)
            if self._held is not None:
                self._held.reset(0)
        else:  # read on, or nobody would notice that the client leaves; what is lost was never begun
            self._keep_alive = False
            self._thrown_away += len(data)

    def _advance(self) -> None:
        """Read as far as the bytes go, but not beyond a request that is not answered yet."""
        if self._reading:
            return
        self._reading = True
        try:
            while not self.refused and not self._closing and not (self._answering and self._complete):
                event = self._reader.next()
                if event is None:
                    if self._resting and not (self.request is None and self._reader.between):
                        self._resting = False
                        self._expect_within(self.site.read_timeout)
                    return
                if isinstance(event, Head):
                    self._begin(event)
                elif isinstance(event, bytes):
                    self._piece(event)
                else:
                    self._whole()
        except Malformed as e:
            self.refuse(_refusal(e))
        except GatewayError as e:
            self.refuse(e)
        finally:
            self._reading = False

    def _begin(self, head: Head) -> None:
        """A head has come."""
        if self._first and lowest(self.transport) is not self.transport:
            self._learn_peer()
        self._first = False
        request = self.request = GatewayRequestOnWire(self, head)
        self._complete, self._answering = False, False
        self._keep_alive = self._keep_alive and head.keep_alive
        self._body_bytes_seen = 0
        self.site.check_open(self, request)
        if not self.crowded:  # one of those that are let in for health alone may well fall silent in the middle of one
            self.site.silent.pop(self, None)
        if head.length == 0:
            return
        if self.site.is_streamed(request):
            request.streamed = StreamedBody(head.length, self._pause_reading, self._resume_reading)
        elif head.length is not None:
            request.check_length(head.length)
            self._lend(head.length)
            body = self._reader.rest()
            if body is not None:  # as a rule it comes with its head
                self._body_bytes_seen = len(body)
                request.take_body(body)
                self._whole()
                return
        if head.expects and not self._reader.buffered:
            send(self.transport, b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.streamed is not None:
            self._answering = True
            request.process()

    def _learn_peer(self) -> None:
        """Take up what the PROXY protocol says, which is known once it has brought the first request."""
        told = named_by_proxy(self.transport)
        if told is not None:
            self.client = self.transport.getPeer()
            self.peer = Peer(self.peer.address, "" if told[0] is None else _address(told[0]))

    def _piece(self, data: bytes) -> None:
        """A piece of a body has come."""
        request = self.request
        self._body_bytes_seen += len(data)
        if request is None:
            return
        if request.streamed is None and request.head.length is None:
            self._lend(len(data))
        request.body_received(data)

    def _whole(self) -> None:
        """A request has come in whole."""
        request = self.request
        self._complete = True
        self._deadline = None
        if request is None:  # it was answered before
            return
        if request.streamed is not None:
            request.streamed.finished()
        else:
            self._answering = True
            request.process()

    def _lend(self, length: int) -> None:
        self.site.reserve(length)
        self._body_bytes += length

    def _take_body_bytes(self) -> int:
        length, self._body_bytes = self._body_bytes, 0
        return length

    def _pause_reading(self) -> None:
        self.transport.pauseProducing()
        self._deadline = None  # the client is not to blame for what it cannot send

    def _resume_reading(self) -> None:
        if not self._lost:
            if not self._complete and not self.refused:
                self._body_bytes_seen = 0
                self._expect_within(self.site.read_timeout)
            self.transport.resumeProducing()

    # What twisted.web's own requests ask of their channel

    def getPeer(self) -> Any:
        """Return the address of the client, or of the nearest proxy."""
        return self.client

    def getHost(self) -> Any:
        """Return the address that the client has connected to."""
        return self.host

    # Answering

    def write(self, data: bytes) -> None:
        """Bytes of the answer."""
        send_soon(self.transport, data)

    def writeSequence(self, pieces: list[bytes]) -> None:
        """Bytes of the answer."""
        send_soon(self.transport, b"".join(pieces))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """The transport pauses and resumes it."""
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """There is nothing to pause."""
        self.transport.unregisterProducer()

    def answered(self, request: GatewayRequestOnWire) -> None:
        """The answer is complete."""
        self.request = None
        self.site.falls_silent(self)
        self.site.release(self._take_body_bytes())
        if not self._complete:  # what has not come of its body is not waited for, and so nothing can follow it
            if request.streamed is not None:
                request.streamed.stopProducing()
            self._linger()
        elif not self._keep_alive:
            self._end()
        else:
            self._resting = True
            waiting = buffered(self.transport)
            if waiting:
                self._expect_taken(self.site.stall_timeout)
            else:
                self._expect_within(self.site.read_timeout)
            if waiting > MAX_BUFFERED:
                self._held = self.site.reactor.callLater(FLUSH_SECONDS, self._go_on)
            else:
                self._answering = self._complete = False
                if self._reader.buffered:
                    self._advance()

    def _go_on(self) -> None:
        """Begin the next request if the client has read what was answered before."""
        self._held = None
        if self._closing:
            return
        if buffered(self.transport) > MAX_BUFFERED:
            self._held = self.site.reactor.callLater(FLUSH_SECONDS, self._go_on)
        elif not self._keep_alive:
            self._end()
        else:
            self._answering = self._complete = False
            self._advance()

    def _end(self) -> None:
        """Close after an answer; a client that has sent more than was taken would lose its end if that were at once."""
        if self._reader.buffered or self._thrown_away:
            self._linger()
        else:
            self.close()

    def refuse(self, error: GatewayError) -> None:
        """Answer before the request is complete, read nothing more of it, and close so that the answer is seen."""
        if self.refused or self._lost:
            return
        request, self.request = self.request, None
        request_id = new_request_id() if request is None else request.id
        if request is None or not request.startedWriting:
            body = error.body() if request is None else self.site.error_body(request, error)
            lines = [
                b"HTTP/1.1 %d %s" % (error.status, phrase(error.status)),
                b"Server: " + SERVER,
                b"X-Agm-Request-Id: " + request_id.encode("ascii"),
                b"%b: %b" % JSON_TYPE,
                b"%b: %b" % NOSNIFF,
                b"Content-Length: %d" % len(body),
                b"Connection: close",
                *(name + b": " + value for name, value in error.headers()),
                b"\r\n" if request is not None and request.method == b"HEAD" else b"\r\n" + body,
            ]
            send(self.transport, b"\r\n".join(lines))
        log.info("{request_id}: refused with {status}", request_id=request_id, status=error.status)
        self.site.gateway.counters.refused(error.error_reason)
        self._linger()
        if request is not None:
            self.site.release(self._take_body_bytes())
            request.connectionLost(Failure(error))

    def upgrade(self, upgraded: Upgraded) -> bytes:
        """
        Have the connection belong to `upgraded` from now on, for as long as it is open.

        :returns: what the client has sent behind the request.
        """
        self.upgraded = upgraded
        self._deadline = None
        return self._reader.take_rest()

    def _linger(self) -> None:
        """Throw away what still comes, for a while, so that the client gets to read its answer."""
        self.refused = True
        self.site.falls_silent(self)
        flush(self.transport)
        if self.secure:  # it says that nothing follows, and reads on until the client says so, too
            self.transport.loseConnection()
        elif hasattr(self.transport, "loseWriteConnection"):
            self.transport.loseWriteConnection()
        self._expect_taken(LINGER_SECONDS)

    def break_off(self, request: GatewayRequestOnWire) -> None:
        """
        End an answer so that no client can take it for complete.

        What was written still arrives; then the connection closes without the last chunk, or is reset where the answer
        has no framing that would tell.  A client that does not take what was written is cut after
        ``[timeouts] client_stall``.
        """
        if request.framed:
            self.close()
            return
        reactor = self.site.reactor
        reading = Reading(self.transport, reactor.seconds())

        def look() -> None:
            if self._lost:
                return
            if unacked(self.transport) and reading.idle(reactor.seconds()) < self.site.stall_timeout:
                reactor.callLater(FLUSH_SECONDS, look)
            else:
                self.abort()

        reactor.callLater(FLUSH_SECONDS, look)


def _address(peer: Any) -> str:
    """The address of the other end of a connection, as :class:`agm.web.access.Peer` has it."""
    return UNIX if isinstance(peer, UNIXAddress) else str(getattr(peer, "host", ""))


def _refusal(error: Malformed) -> GatewayError:
    """Return the error of a request that is not taken."""
    message = str(error)
    match error.status:
        case 431:
            return HeadTooLarge(f"{message[:-1]}: [limits] header_bytes and header_lines say how much is taken.")
        case 417:
            return ExpectationFailed(message)
        case 501:
            return Unimplemented(message, reason="TRANSFER_ENCODING_NOT_SUPPORTED")
        case 505:
            return VersionNotSupported(message)
        case _:
            return InvalidRequest(f"The request is not well-formed HTTP. {message}", reason="MALFORMED_HTTP")
