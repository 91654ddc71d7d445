"""
The body of a client's request on its way to an upstream while it still comes: held back, never held whole.

The upstream's connection pauses and resumes the body, and the body the client's.  What comes before anybody takes it is
kept, and the client paused: no more than one read of the socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer


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
        """The whole body; None as soon as it is larger than `limit` bytes, and then no more is taken."""
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
