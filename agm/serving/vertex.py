"""
Calls in the shape of Vertex AI: wrapped as any others, and answered in the form that they have there.

Which accounts serve them is :class:`agm.serving.routing.VertexRouting`'s to say.
"""

from __future__ import annotations

import attrs

from agm.core.ownership import Maker
from agm.core.pool.lease import Lease
from agm.core.request import Account, GatewayRequest, UpstreamRequest
from agm.core.wire import vertex
from agm.core.wire.answer_filters import AnswerFilter, CollectedBody, Transform, plain_event
from agm.core.wire.usage import UsageWatch
from agm.serving.answers import Failed, OpenAnswer
from agm.serving.chains import edited
from agm.serving.context import ServingContext
from agm.serving.resources import opened
from agm.serving.wrapping import MAX_COLLECTED, CallWrapping
from agm.upstream.client import UpstreamAnswer, UpstreamBody


@attrs.define(eq=False)
class VertexWrapping:
    """
    Wraps a call in Vertex AI's shape as any other, and gives the answer the form that it has there.

    :param body: the client's after all plugins' edits.
    """

    _context: ServingContext
    _request: GatewayRequest
    _body: bytes
    #: Whose request it is, for the operation that it makes.
    _maker: Maker | None = attrs.field(kw_only=True, default=None)
    _call: CallWrapping = attrs.field(init=False)
    _account: Account | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._call = CallWrapping(self._context, self._request, self._body)

    def wrap(self, account: Account) -> UpstreamRequest:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        self._account = account
        return self._call.wrap(account)

    def is_good(self, status: int) -> bool:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return self._call.is_good(status)

    def at_head(self, answer: UpstreamAnswer, lease: Lease) -> OpenAnswer | None:
        """Open at its head what names an operation, so that its owner is remembered."""
        if self._request.method == "vertex.predictLongRunning":
            return opened(self._context, answer, lease, self._request, made=True, maker=self._maker)
        return None

    def filter(self, wrapped: UpstreamRequest) -> AnswerFilter:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        assert self._account is not None, "it has been wrapped for an account"
        change = self._change(self._account) if self._account.kind == "api-key" else None
        if change is not None:
            return CollectedBody(change, limit=MAX_COLLECTED)
        return self._call.filter(wrapped)

    def _change(self, account: Account) -> Transform | None:
        """Give what makes an answer of the Developer API one of Vertex AI's, after what plugins make of it."""
        request, hooks = self._request, self._context.hooks
        plain = edited(hooks, request, account, plain_event, alone=True) if hooks.edits_events else plain_event
        if request.method == "countTokens":
            characters = vertex.billable_characters(self._body)
            return lambda answer: vertex.vertex_count(plain(answer), characters)
        if request.method == "predict" and vertex.embeds(request.model):
            return lambda answer: vertex.vertex_predictions(plain(answer))
        return None

    def watch(self) -> UsageWatch | None:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return None if self._request.method.startswith("vertex.") else self._call.watch()

    def open(self, answer: UpstreamAnswer, flow: UpstreamBody, account: Account, lease: Lease) -> OpenAnswer:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return self._call.open(answer, flow, account, lease)

    def judge(self, failure: Failed) -> Failed:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return self._call.judge(failure)
