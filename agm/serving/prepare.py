"""
Prepare a call for its first attempt: map the model, hold the client key to its limits, let plugins edit the body.

What follows is :mod:`agm.serving.attempts`'s.  The same steps are taken for a request and for an explanation of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from agm.core.answer import NOTHING, Answer, KeepAnswer, LocalAnswer
from agm.core.client_keys import ClientKey
from agm.core.request import AttemptRecord, Body, GatewayRequest, ModelChoice
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import ModelCall
from agm.core.wire.vertex import Place
from agm.serving.affinity import route_call
from agm.serving.answers import FinalAnswer
from agm.serving.attempts import Attempts
from agm.serving.client_auth import ClientAuthenticator
from agm.serving.context import ServingContext
from agm.serving.fallbacks import FallingBack
from agm.serving.model_directory import ModelDirectory
from agm.serving.routing import PoolRouting
from agm.serving.sharing import maker_of
from agm.serving.wrapping import CallWrapping, Wrapping

MakeWrapping = Callable[[ServingContext, GatewayRequest, bytes], Wrapping]


@attrs.frozen(eq=False, slots=False)
class InboundCall:
    """
    A call as it came in: its parsed target, and the rest of it without credentials.  See :class:`GatewayRequest`.

    Whoever makes one says what is called, whether the path told it or the body; `path` is only shown.  One that a
    plugin makes for another request has that as its `parent`: it is told of as the same client's, whose limits that one
    has met already.
    """

    id: str
    path: str
    call: ModelCall
    framing: Framing
    query: Mapping[str, str]
    headers: Mapping[str, str]
    key: ClientKey | None
    body: bytes
    received_at: float
    parent: GatewayRequest | None = None
    #: Where its path in Vertex AI's shape says that it is; None for any other path.
    place: Place | None = None

    @property
    def client_key(self) -> str | None:
        """The name of the client key that it is told of under."""
        if self.parent is not None:
            return self.parent.client_key
        return None if self.key is None else self.key.name

    @property
    def key_metadata(self) -> Mapping[str, str]:
        """What that key says of whoever has it."""
        if self.parent is not None:
            return self.parent.key_metadata
        return NOTHING if self.key is None else self.key.metadata


@attrs.frozen(eq=False)
class Answered:
    """A call that a plugin answers: there is nothing to attempt."""

    request: GatewayRequest
    mapped: ModelChoice
    answer: LocalAnswer | Answer
    records: Sequence[AttemptRecord] = ()

    async def open(self) -> FinalAnswer | Answer:
        """Give the answer."""
        answer, framing = self.answer, self.request.framing
        if isinstance(answer, Answer):
            return answer
        given = answer.headers.items()
        headers = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in given]
        if answer.status >= 400:
            framing = Framing.UNARY
        return FinalAnswer(answer.status, tuple(headers), answer.body(framing), framing)


class PrepareCall:
    """
    The steps before the first attempt.

    :param wrapping: makes the form in which it is sent, of the request as mapped and the body after all edits.
    :param explaining: nothing will be sent; count nothing and remember nothing.
    :ivar request: the request as far as it is known; its model is mapped once :meth:`run` has got that far.
    """

    def __init__(
        self,
        context: ServingContext,
        models: ModelDirectory,
        clients: ClientAuthenticator,
        inbound: InboundCall,
        *,
        wrapping: MakeWrapping = CallWrapping,
        explaining: bool = False,
    ) -> None:
        call, framing = inbound.call, inbound.framing
        self._context = context
        self._models = models
        self._clients = clients
        self._key = inbound.key
        self._wrapping = wrapping
        self.request = GatewayRequest(
            id=inbound.id,
            path=inbound.path,
            version=call.version,
            method=call.method,
            asked_model=call.model,
            model=call.model,
            framing=framing,
            query=inbound.query,
            headers=inbound.headers,
            client_key=inbound.client_key,
            received_at=inbound.received_at,
            body=Body(inbound.body),
            upstream_framing=Framing.SSE if framing is Framing.ARRAY and context.hooks.edits_events else framing,
            explaining=explaining,
            place=inbound.place,
            key_metadata=inbound.key_metadata,
            parent=None if inbound.parent is None else inbound.parent.id,
        )

    async def run(self) -> Attempts | Answered | FallingBack:
        """
        Take the steps.

        :raises GatewayError: if the request may not be made.
        :raises HookFailed: if a plugin that edits bodies failed.
        """
        hooks = self._context.hooks
        if hooks.looks_up:
            self.request = await hooks.look_up(self.request)
        if self._key is not None and self._clients.shared is not None and not self.request.explaining:
            await self._clients.pay(self._key)
        choice = self._admit()
        request = self.request
        keep = 0
        if hooks.answers and request.parent is None:
            answer = await hooks.answer_request(request)
            if isinstance(answer, KeepAnswer):
                keep = answer.most
            elif answer is not None:
                return Answered(request, choice, answer)
        attempts = await self._attempts(choice, keep)
        named = choice.fallbacks or self._models.fallbacks(choice.model)
        fallbacks = [model for model in named if model != choice.model]
        # what belongs to one account may belong to one model as well, as cached contents do
        if not fallbacks or not isinstance(attempts.routing, PoolRouting):
            return attempts
        return FallingBack(attempts, fallbacks, lambda other: self._attempts(other, keep))

    async def attempts(self) -> Attempts:
        """
        Take the steps for what no plugin answers and no other model stands in for: a session, a token.

        :raises GatewayError: if the request may not be made.
        :raises HookFailed: if a plugin failed.
        """
        self.request = await self._context.hooks.look_up(self.request)
        if self._key is not None and self._clients.shared is not None and not self.request.explaining:
            await self._clients.pay(self._key)
        return await self._attempts(self._admit(), 0)

    def _admit(self) -> ModelChoice:
        """Map the model, and hold the client key to its limits."""
        request = self.request
        choice = self._context.hooks.map_model(self._models.catalog.id_of(request.asked_model), request)
        if choice.model != request.model:
            request = attrs.evolve(request, model=choice.model)
        self.request = request
        if self._key is not None:
            self._clients.admit(self._key, request.asked_model, request.method, counting=not request.explaining)
        return choice

    async def _attempts(self, choice: ModelChoice, keep: int) -> Attempts:
        """Make the attempts with a model."""
        context, request = self._context, self.request
        if choice.model != request.model:
            request = self.request = attrs.evolve(request, model=choice.model)
        body = request.body.raw
        if context.hooks.edits_requests:
            body = await context.hooks.edit_body(Body(body).json(), request)  # a document of their own
        routing = await route_call(context, request, body, maker_of(self._key))
        return Attempts(context, request, routing, self._wrapping(context, request, body), choice, keep)
