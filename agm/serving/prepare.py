"""
Prepare a call for its first attempt: map the model, hold the client key to its limits, let plugins edit the body.

What follows is :mod:`agm.serving.attempts`'s.  The same steps are taken for a request and for an explanation of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from agm.core.answer import NOTHING, Answer, KeepAnswer, LocalAnswer
from agm.core.client_keys import ClientKey
from agm.core.dialect import ForModel
from agm.core.models import unknown_model
from agm.core.request import AttemptRecord, Body, GatewayRequest, ModelChoice
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import ModelCall
from agm.core.wire.vertex import Place
from agm.plugins.hooks import Hooks
from agm.serving.affinity import route_call, to_any
from agm.serving.answers import FinalAnswer
from agm.serving.attempts import Attempts
from agm.serving.client_auth import ClientAuthenticator
from agm.serving.context import ServingContext
from agm.serving.fallbacks import Again, FallingBack
from agm.serving.model_directory import ModelDirectory
from agm.serving.routing import PoolRouting
from agm.serving.sharing import maker_of
from agm.serving.wrapping import CallWrapping, Wrapping

MakeWrapping = Callable[[ServingContext, GatewayRequest, bytes], Wrapping]


@attrs.frozen
class Translated:
    """A request's body before its dialect translated it, and what the translation has left out."""

    body: bytes
    left_out: tuple[str, ...] = ()


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
    #: The dialect that it was translated from; its client may ask for models that Google does not have.
    dialect: str | None = None
    #: What it was translated from, where that is to be explained.
    translated: Translated | None = None
    #: Settles what of the body depends on the model that serves it.
    for_model: ForModel | None = None

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

    @property
    def team(self) -> str | None:
        """The team of that key."""
        if self.parent is not None:
            return self.parent.team
        return None if self.key is None else self.key.team

    @property
    def weight(self) -> int:
        """The weight of that key while accounts are short."""
        if self.parent is not None:
            return self.parent.weight
        return 1 if self.key is None else self.key.weight


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
        return FinalAnswer(answer.status, tuple(headers), answer.body(framing, self.request.method), framing)


async def answer_of(
    hooks: Hooks, request: GatewayRequest, choice: ModelChoice
) -> tuple[Answered | None, KeepAnswer | None]:
    """
    Ask the plugins for an answer without an upstream; returns it, and what is to be kept of an upstream's.

    :raises HookFailed: if one of them fails.
    """
    if not hooks.answers:
        return None, None
    answer = await hooks.answer_request(request)
    if answer is None or isinstance(answer, KeepAnswer):
        return None, answer
    return Answered(request, choice, answer), None


def falling_back(
    models: ModelDirectory, choice: ModelChoice, attempts: Attempts, again: Again
) -> Attempts | FallingBack:
    """Give attempts that go on with other models where `choice`, or the configuration, names any."""
    named = choice.fallbacks or models.fallbacks(choice.model)
    fallbacks = [model for model in named if model != choice.model]
    # what belongs to one account may belong to one model as well, as cached contents do
    if not fallbacks or not isinstance(attempts.routing, PoolRouting):
        return attempts
    return FallingBack(attempts, fallbacks, again)


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
        self._for_model = inbound.for_model
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
            team=inbound.team,
            weight=inbound.weight,
            parent=None if inbound.parent is None else inbound.parent.id,
            dialect=inbound.dialect,
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
        keep: KeepAnswer | None = None
        if hooks.answers and request.parent is None:
            answered, keep = await answer_of(hooks, request, choice)
            if answered is not None:
                return answered
        attempts = await self._attempts(choice, keep)
        return falling_back(self._models, choice, attempts, lambda other: self._attempts(other, keep))

    async def model(self) -> ModelChoice:
        """
        Say which model serves, and take no further step.

        :raises GatewayError: if none does.
        :raises HookFailed: if a plugin failed.
        """
        if self._context.hooks.looks_up:
            self.request = await self._context.hooks.look_up(self.request)
        return self._map()

    async def attempts(self) -> Attempts:
        """
        Take the steps for what no plugin answers and no other model stands in for: a session, a token.

        :raises GatewayError: if the request may not be made.
        :raises HookFailed: if a plugin failed.
        """
        self.request = await self._context.hooks.look_up(self.request)
        if self._key is not None and self._clients.shared is not None and not self.request.explaining:
            await self._clients.pay(self._key)
        return await self._attempts(self._admit(), None)

    def _admit(self) -> ModelChoice:
        """Map the model, and hold the client key to its limits."""
        choice, request = self._map(), self.request
        if choice.model != request.model:
            request = attrs.evolve(request, model=choice.model)
        self.request = request
        if self._key is not None:
            self._clients.admit(self._key, request.asked_model, request.method, counting=not request.explaining)
        return choice

    def _map(self) -> ModelChoice:
        request = self.request
        choice = self._context.hooks.map_model(self._models.catalog.id_of(request.asked_model), request)
        if request.dialect is not None and choice.model == request.asked_model:
            choice = self._known(choice)
        return choice

    def _known(self, choice: ModelChoice) -> ModelChoice:
        """
        Return the choice for a dialect's client, if the model is known, or ``[dialects] default_model``'s.

        :raises NotFound: if there is no such default.
        """
        if self._models.serves(choice.model, self._context.pool.accounts):
            return choice
        default = self._context.config.dialects.default_model
        if default is None:
            raise unknown_model(choice.model)
        chosen = self._context.hooks.map_model(self._models.catalog.id_of(default), self.request)
        return attrs.evolve(chosen, reason=f"[dialects] default_model, {default}: no alias is called {choice.model}")

    async def _attempts(self, choice: ModelChoice, keep: KeepAnswer | None) -> Attempts:
        """Make the attempts with a model."""
        context, request = self._context, self.request
        if choice.model != request.model:
            request = self.request = attrs.evolve(request, model=choice.model)
        body = request.body.raw
        if self._for_model is not None:
            body = self._for_model(body, choice.model)
        if context.hooks.edits_requests:
            body = await context.hooks.edit_body(Body(body).json(), request)  # a document of their own
        routing = (
            await route_call(context, request, body, maker_of(self._key))
            if context.ownership
            else to_any(context, request)
        )
        return Attempts(context, request, routing, self._wrapping(context, request, body), choice, keep)
