"""
Requests of Google's own OpenAI surface: relayed to accounts with an API key, which goes along as a bearer token.

Bodies and answers pass as they are; models are mapped, held to limits and routed as for any call, and files, batches
and videos are asked for at their owner.
"""

from __future__ import annotations

import attrs

from agm.core.answer import KeepAnswer
from agm.core.pool.lease import Lease
from agm.core.request import Account, Body, GatewayRequest, ModelChoice, UpstreamRequest
from agm.core.wire import openai
from agm.core.wire.answer_filters import (
    AnswerFilter,
    CollectedBody,
    EventPipe,
    Framing,
    PlainBody,
    PlainDocument,
    PlainEvents,
    plain_event,
)
from agm.core.wire.openai import Asked, OpenAICall
from agm.core.wire.target import bare_model
from agm.core.wire.usage import OPENAI, KeepingWatch, UsageWatch
from agm.serving.affinity import names_in, route_names
from agm.serving.answers import Failed, OpenAnswer
from agm.serving.attempts import Attempts
from agm.serving.calls import Calls
from agm.serving.chains import check_bytes_out, edited
from agm.serving.context import ServingContext
from agm.serving.fallbacks import FallingBack
from agm.serving.inbound import Inbound
from agm.serving.prepare import Answered, answer_of, falling_back
from agm.serving.resources import opened
from agm.serving.sharing import check_sees, maker_of
from agm.serving.wrapping import MAX_COLLECTED
from agm.upstream.client import UpstreamAnswer, UpstreamBody


@attrs.frozen(eq=False, kw_only=True)
class OpenAIInbound(Inbound):
    """A call of this surface as it came in."""

    call: OpenAICall
    asked: Asked


class PrepareOpenAICall:
    """
    The steps before a call of this surface is sent.

    :ivar request: the request as plugins see it; of a form they see no body.
    """

    def __init__(self, calls: Calls, inbound: OpenAIInbound) -> None:
        self._calls = calls
        self._inbound = inbound
        call, asked = inbound.call, inbound.asked
        framing = Framing.SSE if asked.streams else Framing.UNARY
        shown = b"" if asked.form else inbound.body
        self.request = inbound.describe(call.version, call.method, bare_model(asked.model or ""), framing, shown=shown)

    async def run(self) -> Attempts | Answered | FallingBack:
        """
        Take the steps.

        :raises GatewayError: if the request may not be made.
        :raises HookFailed: if a plugin that edits bodies failed.
        """
        calls, hooks, inbound = self._calls, self._calls.context.hooks, self._inbound
        request = self.request = await hooks.look_up(self.request)
        choice = hooks.map_model(calls.models.catalog.id_of(request.asked_model), request)
        request = self._for_model(choice.model)
        if inbound.key is not None:
            if calls.clients.shared is not None:
                await calls.clients.pay(inbound.key)
            calls.clients.admit(inbound.key, request.asked_model, request.method)
        answered, keep = await answer_of(hooks, request, choice)
        if answered is not None:
            return answered
        attempts = await self._attempts(choice, keep)
        return falling_back(calls.models, choice, attempts, lambda other: self._attempts(other, keep))

    def _for_model(self, model: str) -> GatewayRequest:
        if model != self.request.model:
            self.request = attrs.evolve(self.request, model=model)
        return self.request

    async def _attempts(self, choice: ModelChoice, keep: KeepAnswer | None) -> Attempts:
        """Make the attempts with a model."""
        context, inbound, asked = self._calls.context, self._inbound, self._inbound.asked
        hooks, request, body = context.hooks, self._for_model(choice.model), inbound.body
        if asked.model is not None and bare_model(asked.model) != choice.model:
            body = openai.with_model(body, asked, choice.model)
        if hooks.edits_requests:
            if asked.form:
                check_bytes_out(hooks, "The fields of a form")
            else:
                body = await hooks.edit_body(Body(body).json(), request)
        names = [] if asked.form else await names_in(context, Body(body))
        maker = maker_of(inbound.key)
        check_sees(context, maker, names)
        wrapping = OpenAIWrapping(context, inbound, request, body)
        return Attempts(context, request, route_names(context, request, names), wrapping, choice, keep)


class OpenAIWrapping:
    """Sends a call of this surface as the client wrote it, but for the model's name."""

    def __init__(self, context: ServingContext, inbound: OpenAIInbound, request: GatewayRequest, body: bytes) -> None:
        self._context = context
        self._inbound = inbound
        self._request = request
        self._body = body
        self._account: Account | None = None

    def wrap(self, account: Account) -> UpstreamRequest:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        inbound, self._account = self._inbound, account
        path = inbound.call.path + inbound.query
        return UpstreamRequest(path, inbound.forwarded, self._body, self._request.framing, bearer=True)

    def is_good(self, status: int) -> bool:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return 200 <= status < 300

    def at_head(self, answer: UpstreamAnswer, lease: Lease) -> OpenAnswer | None:
        """Open at its head what makes a resource, whose id is remembered; wait for what a model says."""
        if self._inbound.call.rest != "videos":
            return None
        maker = maker_of(self._inbound.key)
        return opened(self._context, answer, lease, self._request, made=True, maker=maker, told=openai.names_told)

    def filter(self, wrapped: UpstreamRequest) -> AnswerFilter:
        """See :class:`agm.serving.wrapping.Wrapping`; ``[DONE]`` ends a stream here, so it passes whatever is set."""
        streams = self._request.framing is Framing.SSE
        if self._context.hooks.edits_events:
            assert self._account is not None, "it has been wrapped for an account"
            change = edited(self._context.hooks, self._request, self._account, plain_event, alone=not streams)
            if streams:
                return EventPipe(change, Framing.SSE, forward_done=True)
            return CollectedBody(change, limit=MAX_COLLECTED)
        return PlainEvents() if streams else PlainDocument()

    def watch(self) -> UsageWatch | None:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        kept = self._context.kept_answers
        return KeepingWatch(kept, names=OPENAI) if kept else UsageWatch(names=OPENAI)

    def open(self, answer: UpstreamAnswer, flow: UpstreamBody, account: Account, lease: Lease) -> OpenAnswer:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return OpenAnswer(answer, flow, account, self._request.framing, isinstance(flow.filter, PlainBody), lease)

    def judge(self, failure: Failed) -> Failed:
        """Nothing to correct: errors are Google's, in an array."""
        return failure
