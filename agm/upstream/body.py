"""
The body of an upstream's answer on its way to somebody: through a filter and a relay, or into memory where it is small.

Neither protocol here ever takes a body that broke off for a complete one: only an end that the upstream marked counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from agm.core.wire.answer_filters import AnswerFilter, KeptAnswer, StreamFailure
from agm.core.wire.usage import UsageWatch
from agm.net.timers import Deadline, Deadlines


def _nothing() -> None:
    """There is no connection to abort."""


class UpstreamBody(Protocol):
    """
    The body of an answer on its way through an :class:`AnswerFilter`.

    It starts without a sink: what comes first is held and the connection paused, until :meth:`flow_to` names one.
    Only a body whose end the upstream marked is complete; every other end is a failure.

    :param deadlines: for the idle timer, which runs while the body is not paused.
    :param watch: is shown what the upstream sends, as it comes.
    :param first: seconds until its first bytes, if not `idle`.
    """

    transport: Any

    def __init__(
        self,
        filter_: AnswerFilter,
        deadlines: Deadlines,
        idle: float,
        watch: UsageWatch | None = None,
        *,
        first: float | None = None,
    ) -> None:
        self._filter = filter_
        self._keeping = filter_ if isinstance(filter_, KeptAnswer) else None
        #: What the body goes through, beside being kept; its `failure` is an error that the upstream reported.
        self.filter = filter_ if self._keeping is None else self._keeping.inner
        self.watch = watch
        self._deadlines = deadlines
        self._idle = idle
        self._first_within = idle if first is None else first
        self._timer: Deadline | None = None
        self._held: list[bytes] = []
        self._sink: Callable[[bytes], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self._first: Deferred[None] | None = None
        self._paused = False
        self._abort: Callable[[], None] = _nothing
        self.ended = False
        #: Why the body is not complete; None while it flows and after a complete end.
        self.broken: str | None = None
        self.received = 0

    @property
    def failure(self) -> StreamFailure | None:
        """The error that the upstream reported in the middle of it."""
        return self._filter.failure

    @property
    def kept(self) -> bytes | None:
        """The whole of what went out, where that was to be kept."""
        return None if self._keeping is None else self._keeping.whole

    @property
    def has_bytes(self) -> bool:
        """Whether something for the client is held."""
        return bool(self._held)

    @property
    def held(self) -> int:
        """How many bytes for the client are held."""
        return sum(map(len, self._held))

    @property
    def failed(self) -> bool:
        """Whether the answer cannot be completed."""
        return self.broken is not None or self._filter.failure is not None

    def abort_with(self, abort: Callable[[], None]) -> None:
        """Say how the connection is aborted."""
        self._abort = abort

    def connectionMade(self) -> None:
        if not self.transport.complete:
            self._start_timer(self._first_within)

    def take_in(self, data: bytes) -> None:
        """The body is all here, and is complete."""
        self.received = len(data)
        if self.watch is not None:
            self.watch.feed(data)
        out = self._filter.feed(data) if data else b""
        if out:
            self._held.append(out)
        if self._filter.failure is None:
            out = self._filter.close()
            if out:
                self._held.append(out)
        self.ended = True

    def dataReceived(self, data: bytes) -> None:
        if self.ended:
            return
        self.received += len(data)
        if self.watch is not None:
            self.watch.feed(data)
        if self._timer is not None:
            self._timer.reset(self._idle)
        out = self._filter.feed(data)
        complete = self._filter.complete
        if complete:
            out += self._filter.close()
        if self._sink is not None:
            if out:
                self._sink(out)
        elif out:
            self._held.append(out)
        if complete or self._filter.failure is not None:
            abort = self._abort
            self._end()
            abort()
        elif self._held and self._sink is None:
            self._wake()
            if self._sink is None and not self.ended:
                self.pause()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.ended:
            return
        if type(reason.value) is ResponseDone:
            out = self._filter.close()
            if out:
                if self._sink is not None:
                    self._sink(out)
                else:
                    self._held.append(out)
        else:
            self.broken = "the upstream aborted the answer"
        self._end()

    def first(self) -> Deferred[None]:
        """Fires when there is something for the client, or the body has ended without."""
        first: Deferred[None] = Deferred()
        self._first = first
        if self._held or self.ended:
            self._wake()
        return first

    def take(self) -> bytes:
        """Return what came before there was a sink."""
        held, self._held = self._held, []
        return held[0] if len(held) == 1 else b"".join(held)

    def flow_to(self, sink: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """From now on hand everything to `sink`, and call `on_end` once at the end, complete or not."""
        self._sink, self._on_end = sink, on_end
        self.resume()  # before the sink gets anything: it may pause again
        held = self.take()
        if held:
            sink(held)
        if self.ended:
            self._finish()

    def pause(self) -> None:
        """Stop reading from the upstream."""
        if not self._paused and not self.ended:
            self._paused = True
            self._stop_timer()
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Read from the upstream again."""
        if self._paused and not self.ended:
            self._paused = False
            self._start_timer(self._idle)
            self.transport.resumeProducing()

    def abort(self, why: str) -> None:
        """Close the upstream's connection now; the body ends as broken."""
        if not self.ended:
            self.broken = why
            abort = self._abort
            self._end()
            abort()

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._deadlines.after(seconds, self._idled)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _idled(self) -> None:
        self._timer = None
        self.abort(f"the upstream sent nothing for {self._idle:g} seconds")

    def _end(self) -> None:
        self.ended = True
        if self.broken is not None and self._sink is None:
            self._held.clear()
        self._abort = _nothing
        self._stop_timer()
        self._wake()
        self._finish()

    def _wake(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            first.callback(None)

    def _finish(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            self._sink = None  # a circle of references would stay until the next full collection, with its bytes
            on_end()


class Collector(Protocol):
    """Reads a small body whole, up to a limit."""

    transport: Any

    def __init__(self, limit: int, done: Deferred[bytes]) -> None:
        self._limit = limit
        self._done = done
        self._chunks: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self.transport.stopProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._done.called:
            self._done.callback(b"".join(self._chunks)[: self._limit])
