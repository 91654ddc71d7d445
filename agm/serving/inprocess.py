"""
Serve a call from within the process: the whole way of a request but for its authentication, and its stream.

It is what a dialect, a hedge or a shadow is made of: the answer's bytes come as they would go to a client, and no
faster than they are taken.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred

from agm.core.errors import BadUpstreamAnswer, GatewayError
from agm.core.wire.answer_filters import StreamFailure
from agm.plugins.hooks import HookFailed
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.calls import Call, Calls, Outcome
from agm.serving.prepare import InboundCall

#: The status in the record of a call that nobody waits for any more.
CANCELLED = 499


class Answer(Protocol):
    """
    An answer to a call from within the process; ``async for`` gives its bytes as they come.

    Whoever got one calls :meth:`close` when done with it, read to its end or not.
    """

    @property
    def status(self) -> int:
        """The HTTP status; an error's body is google.rpc.Status JSON."""

    def __aiter__(self) -> Answer:
        """Give itself: it can be read once."""

    async def __anext__(self) -> bytes:
        """
        Wait for the next bytes.

        :raises BadUpstreamAnswer: if the upstream breaks the answer off; what came is not whole.
        """

    def close(self) -> None:
        """End the call; what has not come is not wanted."""


async def serve(calls: Calls, inbound: InboundCall) -> Answer:
    """
    Serve a call: prepare it, make its attempts, and hand over its answer.

    It counts as every call does: for its client key, the request log and the observers.  Its time is the caller's to
    bound: cancelling ends it.

    :raises GatewayError: if no account can serve it, or it may not be made.
    :raises HookFailed: if a plugin failed.
    """
    held = ExitStack()
    if inbound.key is not None and calls.clients.limits_streams:
        held.enter_context(calls.clients.stream_of(inbound.key))
    call = calls.begin(calls.prepare(inbound))
    outcome: Outcome = "cancelled"
    status = CANCELLED
    handed_over = False
    try:
        opened = await call.open()
        if isinstance(opened, FinalAnswer):
            outcome, status = "error" if opened.status >= 400 else "ok", opened.status
            return _Complete(opened)
        answer = _Streamed(call, opened, held)
        handed_over = True
        return answer
    except (GatewayError, HookFailed) as e:
        outcome, status = "error", e.status if isinstance(e, GatewayError) else 500
        call.failed(e)
        raise
    except CancelledError:
        raise
    except Exception:
        outcome, status = "error", 500
        raise
    finally:
        if not handed_over:
            held.close()
            call.end(outcome, status, 0 if not isinstance(call.opened, FinalAnswer) else len(call.opened.body))


class _Complete:
    """An answer that is in memory."""

    def __init__(self, answer: FinalAnswer) -> None:
        self.status = answer.status
        self._body: bytes | None = answer.body

    def __aiter__(self) -> _Complete:
        return self

    async def __anext__(self) -> bytes:
        body, self._body = self._body, None
        if body is None:
            raise StopAsyncIteration
        return body

    def close(self) -> None:
        """It has ended."""


class _Streamed:
    """An answer that flows: the upstream is read again once what came is taken."""

    def __init__(self, call: Call, opened: OpenAnswer, held: ExitStack) -> None:
        self.status = opened.answer.status
        #: Bytes that were taken.
        self.sent = 0
        self._call: Call | None = call
        self._opened = opened
        self._held = held
        self._chunks: deque[bytes] = deque()
        self._waiting: Deferred[None] | None = None
        self._ended = False
        call.relaying(self)
        opened.body.flow_to(self._take, self._end)

    @property
    def paused(self) -> bool:
        """Whether something waits to be taken before more is read."""
        return bool(self._chunks)

    @property
    def failure(self) -> StreamFailure | None:
        """The error that the upstream reported in the middle of it, if it did."""
        return self._opened.body.filter.failure

    def __aiter__(self) -> _Streamed:
        return self

    async def __anext__(self) -> bytes:
        if not self._chunks and not self._ended:
            self._opened.body.resume()
            if not self._chunks and not self._ended:
                self._waiting = Deferred()
                try:
                    await self._waiting
                finally:
                    self._waiting = None
        if self._chunks:
            chunk = self._chunks.popleft()
            self.sent += len(chunk)
            return chunk
        body = self._opened.body
        if body.failed:
            self._finish("aborted")
            raise BadUpstreamAnswer(f"The upstream's answer is not complete: {body.broken or 'it ends in an error'}.")
        self._finish("ok")
        raise StopAsyncIteration

    def close(self) -> None:
        """End the call; an answer that was not read to its end counts as cancelled."""
        self._finish("cancelled")

    def _finish(self, outcome: Outcome) -> None:
        self._opened.close()
        self._held.close()
        call, self._call = self._call, None
        if call is not None:
            call.end(outcome, self.status, self.sent)

    def _take(self, data: bytes) -> None:
        self._chunks.append(data)
        self._opened.body.pause()
        self._wake()

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)
