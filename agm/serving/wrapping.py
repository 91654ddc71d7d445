"""
Wrapping: what a request looks like to an account's upstream, and what its answer looks like to the client.

:class:`CallWrapping` is for the calls of a model, whose form a plugin of the account's kind makes.  A surface that is
relayed as the client wrote it has a wrapping of its own, as :class:`agm.serving.resources.ResourceWrapping`.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from agm.core.pool.lease import Lease
from agm.core.request import Account, GatewayRequest, UpstreamRequest
from agm.core.wire import envelope
from agm.core.wire.answer_filters import (
    AnswerFilter,
    CollectedBody,
    EventPipe,
    Framing,
    PlainArray,
    PlainBody,
    PlainDocument,
    PlainEvents,
    Transform,
    WatchedFilter,
    plain_event,
)
from agm.core.wire.usage import KeepingWatch, UsageWatch
from agm.serving.answers import Failed, OpenAnswer
from agm.serving.chains import edited
from agm.serving.context import ServingContext
from agm.serving.foreign import ForeignAnswer
from agm.upstream.client import UpstreamAnswer, UpstreamBody

#: A unary answer that has to be read whole is refused beyond this many bytes.
MAX_COLLECTED = 256 * 1024 * 1024


class Wrapping(Protocol):
    """How one request is sent, and how its answer is read."""

    def wrap(self, account: Account) -> UpstreamRequest:
        """
        Make the request for an account, but for its credential.

        :raises HookFailed: if a plugin that does so fails.
        """

    def is_good(self, status: int) -> bool:
        """Return whether a status says that the request was served; any other is classified."""

    def at_head(self, answer: UpstreamAnswer, lease: Lease) -> OpenAnswer | None:
        """Open a good answer of which only the head has come; None to wait for its first bytes."""

    def filter(self, wrapped: UpstreamRequest) -> AnswerFilter:
        """Make what the answer's body goes through, where its first bytes are waited for."""

    def watch(self) -> UsageWatch | None:
        """Make what reads the usage out of that body; None for nothing."""

    def judge(self, failure: Failed) -> Failed:
        """Correct what an upstream's error means, where it means something else for this kind of request."""

    def open(self, answer: UpstreamAnswer, flow: UpstreamBody, account: Account, lease: Lease) -> OpenAnswer:
        """Open a good answer whose first bytes have come."""


@attrs.define(eq=False)
class CallWrapping:
    """
    Wraps a call of a model by the hook ``agm_wrap_request``.

    :param body: the client's after all plugins' edits.
    """

    _context: ServingContext
    _request: GatewayRequest
    _body: bytes
    #: For whom it was wrapped last.
    _account: Account | None = attrs.field(init=False, default=None)

    @property
    def body(self) -> bytes:
        """The client's after all plugins' edits."""
        return self._body

    def wrap(self, account: Account) -> UpstreamRequest:
        """See :class:`Wrapping`."""
        self._account = account
        return self._context.hooks.wrap_request(self._request, account, self._body)

    def is_good(self, status: int) -> bool:
        """See :class:`Wrapping`."""
        return 200 <= status < 300

    def at_head(self, answer: UpstreamAnswer, lease: Lease) -> OpenAnswer | None:
        """Wait: only its first bytes tell an answer from an error."""
        return None

    def judge(self, failure: Failed) -> Failed:
        """Nothing to correct: errors are classified for calls."""
        return failure

    def watch(self) -> UsageWatch | None:
        """See :class:`Wrapping`."""
        method = self._request.method
        kept = self._context.kept_answers
        if kept:
            return KeepingWatch(kept, embeds=method == "predict")
        return UsageWatch(embeds=method == "predict") if method != "countTokens" else None  # which uses none

    def filter(self, wrapped: UpstreamRequest) -> AnswerFilter:
        """See :class:`Wrapping`."""
        context, framing = self._context, self._request.framing
        forward_done = context.config.gateway.sse_done == "forward"
        account = self._account
        assert account is not None, "it has been wrapped for an account"
        if account.upstream.read_answer is not None:
            return self._foreign(account, wrapped)
        change: Transform = envelope.unwrap if wrapped.wrapped else plain_event
        if context.hooks.edits_events:
            alone = framing is Framing.UNARY
            change = edited(context.hooks, self._request, account, change, alone=alone)
            reading: AnswerFilter = (
                CollectedBody(change, limit=MAX_COLLECTED)
                if alone
                else EventPipe(change, framing, forward_done=forward_done)
            )
            watch = self.watch()
            return reading if watch is None else WatchedFilter(reading, watch)
        if not wrapped.wrapped and wrapped.framing is framing:
            match framing:
                case Framing.UNARY:
                    return PlainDocument()
                case Framing.ARRAY:
                    return PlainArray(context.redactor.body)
                case Framing.SSE if forward_done:
                    return PlainEvents()
        if framing is Framing.UNARY:
            return CollectedBody(change, limit=MAX_COLLECTED)
        return EventPipe(change, framing, forward_done=forward_done)

    def _foreign(self, account: Account, wrapped: UpstreamRequest) -> AnswerFilter:
        """Make what the answer of an upstream goes through that does not answer as Gemini does."""
        framing = self._request.framing
        alone = wrapped.framing is Framing.UNARY
        foreign = ForeignAnswer(self._context, self._request, account, alone)
        reading: AnswerFilter = (
            CollectedBody(foreign.change, limit=MAX_COLLECTED)
            if alone
            else EventPipe(foreign.change, framing, forward_done=False, end=foreign.end)
        )
        watch = self.watch()
        return reading if watch is None else WatchedFilter(reading, watch)

    def open(self, answer: UpstreamAnswer, flow: UpstreamBody, account: Account, lease: Lease) -> OpenAnswer:
        """See :class:`Wrapping`."""
        return OpenAnswer(answer, flow, account, self._request.framing, isinstance(flow.filter, PlainBody), lease)
