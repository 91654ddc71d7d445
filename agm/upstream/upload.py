"""
Bodies of requests on their way to an upstream: in memory (:class:`WholeBody`, and :class:`LargeBody` in slices), made
by a producer (:class:`ProducedBody`), or still coming from a client (:class:`StreamedBody`): held back, never held
whole.

The upstream's connection pauses and resumes the body, and the body the client's.  What comes before anybody takes it is
kept, and the client paused: no more than one read of the socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from agm.core.wire.bytechain import ByteChain
from agm.net.writes import send

#: Bytes of a large body that a transport is given at once.
SLICE = 256 * 1024


@implementer(IBodyProducer, IPushProducer)
class StreamedBody:
    """
    A body that comes piece by piece.

    :param length: in bytes; None if it is not said before.
    :param pause: stops the client's connection from being read, and `resume` lets it be read again.
    :ivar on_change: called whenever it is paused (False), flows (True) or has ended (None); for timers.
    """

    def __init__(self, length: int | None, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self.length: Any = UNKNOWN_LENGTH if length is None else length
        self.complete = False
        self.size = 0
        self.on_change: Callable[[bool | None], None] = lambda flows: None
        self._pause = pause
        self._resume = resume
        self._paused = False
        self._waiting: list[bytes] = []
        self._consumer: Any = None
        self._done: Deferred[None] | None = None
        self._dropped = False

    # From the client's connection

    def received(self, data: bytes) -> None:
        """A piece has come."""
        self.size += len(data)
        if self._dropped:
            return
        if self._consumer is None:
            self._waiting.append(data)
            self.pauseProducing()
        else:
            self._consumer.write(data)

    def finished(self) -> None:
        """The last piece has come."""
        self.complete = True
        self.resumeProducing()
        self.on_change(None)
        self._end()

    # To whoever takes it

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Hand everything to `consumer`, from now on; fires when that was all.  See :class:`IBodyProducer`."""
        self._consumer = consumer
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._done = done
        if not self.complete:
            consumer.registerProducer(self, True)
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            consumer.write(data)
        if self.complete:
            self._end()
        else:
            self.resumeProducing()
        return done

    def _end(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            consumer, self._consumer = self._consumer, None
            consumer.unregisterProducer()
            done.callback(None)

    def pauseProducing(self) -> None:
        """Read nothing more from the client."""
        if not self._paused and not self.complete:
            self._paused = True
            self._pause()
            self.on_change(False)

    def resumeProducing(self) -> None:
        """Read from the client again."""
        if self._paused:
            self._paused = False
            self._resume()
            self.on_change(True)

    def stopProducing(self) -> None:
        """Want no more: what still comes is thrown away."""
        self._dropped = True
        consumer, self._consumer, self._done = self._consumer, None, None
        if consumer is not None:
            consumer.unregisterProducer()
        self._waiting.clear()
        self.resumeProducing()

    async def collect(self, limit: int) -> bytes | None:
        """Return the whole body; None as soon as it is larger than `limit` bytes, and then no more is taken."""
        done: Deferred[None] = Deferred()
        collected = _Collected(limit, done)
        self.startProducing(collected).addCallback(lambda _: collected.end())
        await done
        if collected.too_large:
            self.stopProducing()
            return None
        return b"".join(collected.chunks)


class _Collected:
    """A consumer that keeps what it gets, up to a limit."""

    def __init__(self, limit: int, done: Deferred[None]) -> None:
        self.chunks: list[bytes] = []
        self.too_large = False
        self._left = limit
        self._done = done

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Memory is never full before the limit."""

    def unregisterProducer(self) -> None:
        """That was all."""

    def write(self, data: bytes) -> None:
        """Keep a piece."""
        self._left -= len(data)
        if self._left < 0:
            self.too_large = True
            self.end()
        else:
            self.chunks.append(data)

    def end(self) -> None:
        """No more is waited for."""
        if not self._done.called:
            self._done.callback(None)


# -- To the upstream's connection ---------------------------------------------------------------------


@implementer(IBodyProducer)
class WholeBody:
    """A body that is in memory; an agent that knows it takes it as it is."""

    def __init__(self, body: bytes | ByteChain) -> None:
        self.whole = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """For agents that do not know it: written in one go, the transport's own buffer does the rest."""
        consumer.write(bytes(self.whole))
        return succeed(None)

    def stopProducing(self) -> None:
        """It is written already."""

    def pauseProducing(self) -> None:
        """It is written already."""

    def resumeProducing(self) -> None:
        """It is written already."""


class ProducedBody:
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
class LargeBody:
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
