"""
The answer of an upstream: its head, and its body, which waits for whoever takes it.

It is a treq and Twisted response, and can be paused, and aborted at once.  A body is complete only if the upstream
marked its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import implementer

#: The end of a body that the upstream marked.
DONE: Final = Failure(ResponseDone())
#: The codings of an answer that can be read as they are.
_PLAIN_CODINGS = ((b"content-encoding", b"identity"), (b"transfer-encoding", b"chunked"))


class Source(Protocol):
    """The connection that a body comes on."""

    def pause(self) -> None:
        """Read nothing more for now."""

    def resume(self) -> None:
        """Read again."""

    def abort(self) -> None:
        """Close at once."""


@implementer(IResponse)
class Answer:
    """The head of an answer; the body waits, with the connection paused, until :meth:`deliverBody`."""

    version = (b"HTTP", 1, 1)
    request = None
    previousResponse = None

    def __init__(self, connection: Source, code: int, phrase: bytes, raw: list[tuple[bytes, bytes]]) -> None:
        self.code = code
        self.phrase = phrase
        self._raw = raw
        self._first: dict[bytes, bytes] = {name.lower(): value for name, value in reversed(raw)}
        self._headers: Headers | None = None
        self._connection: Source | None = connection
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
        """Return the body, if all of it is here and it is complete: it is then delivered to nobody else."""
        if self._ended is not DONE:
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
        """Return a piece of the body; False if nobody takes it yet."""
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
