"""
WebSockets to upstreams: the handshake with a credential, and then frames, in and out.

:func:`open_socket` makes a connection of its own, over the same endpoints, TLS and proxies as every other request, and
asks for the upgrade; what an upstream says instead of 101 is an answer like any other.  A :class:`UpstreamSocket` takes
frames that are ready to be sent, so that a client's pass with the client's own mask, and hands over what comes to its
`receiver`.  Nothing is put together here but the first message.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from typing import Protocol as Interface

import httptools
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from agm.core.wire.websocket import Control, Event, FrameReader, PieceObserver, Violation, accept_of, frame
from agm.net.writes import send, send_soon
from agm.upstream.errors import BrokenAnswer, NoAnswer, NotHttp, TruncatedAnswer
from agm.upstream.opening import OpeningConnection

#: Bytes of the head of the answer to a handshake.
MAX_HEAD = 64 * 1024
#: Bytes of what an upstream says instead of 101.
MAX_REFUSAL = 64 * 1024
#: Frames that come before anybody takes them, in bytes.
MAX_EARLY = 1024 * 1024


class Refused(Exception):
    """The upstream has answered something else than 101."""

    def __init__(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(f"the upstream answered {status}")
        self.status = status
        self.headers = {name.lower(): value for name, value in reversed(headers)}
        self.body = body


class SocketReceiver(Interface):
    """Who is told what comes from an upstream."""

    def upstream_events(self, events: Sequence[Event]) -> None:
        """Frames and control frames have come, in their order."""

    def upstream_broke(self, violation: Violation) -> None:
        """Note that what has come breaks the protocol: the socket reads nothing more."""

    def upstream_lost(self) -> None:
        """The connection is closed, by either side."""


class UpstreamSocket(OpeningConnection):
    """
    One WebSocket to an upstream; :meth:`handshake` opens it.

    :param max_message: bytes of a message of the upstream.
    :ivar ready: fires when TLS is agreed on; None after that.
    :ivar receiver: is told what comes; until there is one it is kept.
    :ivar lost: the connection is closed.
    """

    transport: Any

    def __init__(self, max_message: int) -> None:
        super().__init__()
        self.receiver: SocketReceiver | None = None
        self.reader = FrameReader(masked=False, max_message=max_message)
        self._early: list[Event] = []
        self._early_size = 0
        self._violation: Violation | None = None
        self._paused = self._failed = False
        # of the handshake
        self._asked: Deferred[UpstreamSocket] | None = None
        self._parser: Any = None
        self._accept = b""
        self._head_bytes = 0
        self._raw: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = 0
        self._head_done = self._body_done = False

    # The connection's life

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Closed, by either side."""
        opening = self.ended(reason)
        if self._asked is not None:
            self._end_handshake(self._truncated())
        elif self.receiver is not None and not opening:
            receiver, self.receiver = self.receiver, None
            receiver.upstream_lost()
        self._parser = None

    def _truncated(self) -> Exception:
        if self._head_done:
            return self._refusal()  # its status is enough
        return TruncatedAnswer("the connection closed") if self._head_bytes else NoAnswer()

    def abort(self) -> None:
        """Close at once."""
        if not self.lost and self.transport is not None:
            self.transport.abortConnection()

    # The handshake

    def handshake(self, target: bytes, host: bytes, lines: bytes) -> Deferred[UpstreamSocket]:
        """
        Ask for the upgrade; fires when it is granted.  Cancelling closes the connection.

        Fails with :class:`Refused` if the upstream answers something else, and else with what the HTTP client fails
        with.

        :param lines: the headers, a line each, as they are written.
        """
        key = b64encode(os.urandom(16))
        self._accept = accept_of(key)
        self._parser = httptools.HttpResponseParser(self)
        asked: Deferred[UpstreamSocket] = Deferred(self._cancelled)
        self._asked = asked
        send(
            self.transport,
            b"GET %b HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n%b\r\n" % (target, host, key, lines),
        )
        return asked

    def _cancelled(self, _: object) -> None:
        self._asked = None
        self.abort()

    def _end_handshake(self, error: Exception) -> None:
        """It has failed."""
        asked, self._asked = self._asked, None
        self._parser = None
        self.abort()
        if asked is not None:
            asked.errback(Failure(error))

    def _handshake_received(self, data: bytes) -> None:
        if not self._head_done:
            self._head_bytes += len(data)
        rest = b""
        upgraded = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as e:
            rest, upgraded = data[e.args[0] :], True
        except (httptools.HttpParserError, ValueError) as e:
            begun = self._parser.get_status_code() >= 100
            self._end_handshake((BrokenAnswer if begun else NotHttp)(f"the answer is not HTTP: {e}"))
            return
        if not self._head_done:
            if self._head_bytes > MAX_HEAD:
                self._end_handshake(BrokenAnswer(f"the answer's head is larger than {MAX_HEAD} bytes"))
            return
        if upgraded or self._parser.get_status_code() == 101:
            self._granted(rest)
        elif self._body_done or self._size > MAX_REFUSAL:
            self._end_handshake(self._refusal())

    def _refusal(self) -> Refused:
        return Refused(self._status, self._raw, b"".join(self._body)[:MAX_REFUSAL])

    def _granted(self, rest: bytes) -> None:
        told = {name.lower(): value for name, value in self._raw}
        if (
            told.get(b"sec-websocket-accept") != self._accept
            or told.get(b"upgrade", b"").lower() != b"websocket"
            or b"sec-websocket-extensions" in told
        ):
            self._end_handshake(BrokenAnswer("the upstream's handshake is none of WebSocket's"))
            return
        self._raw, self._body = [], []
        asked, self._asked, self._parser = self._asked, None, None
        if rest:
            self.dataReceived(rest)  # what has come with the answer is there before anybody hears of it
        if asked is not None:
            asked.callback(self)

    # What the parser calls

    _status = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:
            self._raw.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status >= 200 or self._status == 101:
            self._head_done = True
        else:
            self._raw = []

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._body_done = True

    # Frames

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the upstream."""
        if self._asked is not None:
            self._handshake_received(data)
            return
        if self._failed:
            return
        try:
            events = self.reader.feed(data)
        except Violation as e:
            self._failed = True
            if self.receiver is None:
                self._violation = e
            else:
                self.receiver.upstream_broke(e)
            return
        if self.receiver is not None:
            self.receiver.upstream_events(events)
            return
        self._early += events
        self._early_size += len(data)
        if self._early_size > MAX_EARLY:
            self.pause()

    def deliver(self, receiver: SocketReceiver) -> None:
        """Tell `receiver` what has come, and what comes from now on."""
        self.receiver = receiver
        early, self._early, self._early_size = self._early, [], 0
        if early:
            receiver.upstream_events(early)
        if self._violation is not None:
            receiver.upstream_broke(self._violation)
        elif self.lost:
            receiver.upstream_lost()
        elif self._paused:
            self.resume()

    def write(self, data: bytes) -> None:
        """Write frames, masked as a client's have to be."""
        if not self.lost:
            send_soon(self.transport, data)

    def write_frame(self, opcode: int, payload: bytes) -> None:
        """Write one frame, with a mask of its own."""
        self.write(frame(opcode, payload, os.urandom(4)))

    def pause(self) -> None:
        """Read nothing more for now."""
        self._paused = True
        if not self.lost:
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        if not self.lost:
            self.transport.resumeProducing()


class FirstMessage:
    """
    Waits for the first message of an upstream, and keeps what has come until somebody takes it.

    :ivar done: fires with None when the message is here, or with why there will be none: a :class:`Violation`, the
        payload of a close frame, or None in a :class:`ConnectionError` for a connection that is gone.
    """

    def __init__(self, socket: UpstreamSocket) -> None:
        self._socket = socket
        self.events: list[Event] = []
        self.done: Deferred[None] = Deferred(lambda _: socket.abort())
        self._size = 0
        self.closing: bytes | None = None
        self.violation: Violation | None = None

    def _end(self) -> None:
        if not self.done.called:
            self.done.callback(None)

    @property
    def has_come(self) -> bool:
        """Whether the message is here."""
        return self._socket.reader.messages > 0

    def upstream_events(self, events: Sequence[Event]) -> None:
        """See :class:`SocketReceiver`."""
        for event in events:
            if isinstance(event, Control) and event.opcode == 0x9:
                self._socket.write_frame(0xA, event.payload)
            elif isinstance(event, Control) and event.opcode == 0x8 and not self.has_come:
                self.closing = event.payload
            else:
                self.events.append(event)
                self._size += len(event) if isinstance(event, bytes) else 0
        if self.has_come or self.closing is not None:
            self._end()
        if self._size > MAX_EARLY:
            self._socket.pause()

    def upstream_broke(self, violation: Violation) -> None:
        """See :class:`SocketReceiver`."""
        self.violation = violation
        self._end()

    def upstream_lost(self) -> None:
        """See :class:`SocketReceiver`."""
        self._end()

    def hand_over(self, receiver: SocketReceiver, observer: PieceObserver) -> None:
        """Tell `receiver` what has come, and have it told what comes from now on; `observer` is shown all of it."""
        events, self.events = self.events, []
        looking = FrameReader(masked=False, observer=observer)
        for event in events:
            if isinstance(event, bytes):
                looking.feed(event)
        self._socket.reader.observer = observer
        self._socket.receiver = receiver
        if events:
            receiver.upstream_events(events)
        if self.violation is not None:
            receiver.upstream_broke(self.violation)
        elif self._socket.lost:
            self._socket.receiver = None
            receiver.upstream_lost()
        else:
            self._socket.resume()
