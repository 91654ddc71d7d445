"""
A connection to an upstream: HTTP/1.1, one request at a time, over a C parser.

It does what a relay needs and no more: it decodes nothing, and hands a body over as it comes, once for each read of the
socket.  An idle connection that the upstream closes just as a request goes out is told apart
(:class:`~agm.upstream.errors.StaleConnection`), because then nothing was lost.

llhttp, behind httptools, parses strictly: two lengths, a length beside chunks, a bad chunk or a bare LF end the
connection.  The bytes of a head are bounded here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httptools
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer

from agm.core.wire.bytechain import ByteChain
from agm.net.interfaces import GatewayTransport
from agm.net.sharedkeys import lay_out
from agm.net.writes import close_both_ways, send, send_soon
from agm.upstream.answer import DONE, Answer
from agm.upstream.errors import (
    BrokenAnswer,
    EncodedAnswer,
    NoAnswer,
    NotHttp,
    StaleConnection,
    TruncatedAnswer,
)
from agm.upstream.opening import OpeningConnection
from agm.upstream.origin import Origin
from agm.upstream.upload import LargeBody, ProducedBody

#: Bytes of an answer's status line and headers, those of interim answers included; and of its trailers.
MAX_HEAD = 256 * 1024
#: Lines of an answer's headers.
MAX_HEADERS = 1000
#: A body of up to this many bytes is written together with its head.
ONE_WRITE = 64 * 1024


class Connection(OpeningConnection):
    """
    One connection to an origin, for one request at a time.

    :param release: called when it may take another request.
    :param origin: where it goes.
    :param open_: holds it while it is open.
    :ivar ready: fires when it can take a request; None after that.
    """

    transport: GatewayTransport  # type: ignore[assignment]  # ITransport is less than every stream transport has

    def __init__(
        self,
        release: Callable[[Connection], None],
        origin: Origin = (b"", b"", 0),
        open_: set[Connection] | None = None,
    ) -> None:
        super().__init__()
        self._release = release
        self.origin = origin
        self._open = open_
        self._parser: Any = None
        self.served = 0
        self.idle_since = 0.0
        self._asked: Deferred[Answer] | None = None
        self._answer: Answer | None = None
        self._upload: Deferred[Any] | None = None
        self._producer: Any = None
        self._sending: LargeBody | None = None
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
        if self._open is not None:
            self._open.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Closed, by either side."""
        if self._open is not None:
            self._open.discard(self)
        if not self.ended(reason):
            self._fail(reason)
            if not self._reading:
                self._parser = None  # it holds this, with what both have read, until the next full collection

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

    def request(self, head: bytes, body: bytes | ByteChain | None, producer: IBodyProducer | None) -> Deferred[Answer]:
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
                pieces = body.pieces if isinstance(body, ByteChain) else (body,)
                self._sending = LargeBody(self.transport, (head, *pieces))
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
        upload = ProducedBody(self.transport, producer.length)
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
            close_both_ways(self.transport)
        answer.ended(DONE)

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
