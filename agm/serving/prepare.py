"""
Prepare a call for its first attempt: map the model, hold the client key to its limits, let plugins edit the body.

What follows is :mod:`agm.serving.attempts`'s.  The same steps are taken for a request and for an explanation of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from agm.core.client_keys import ClientKey
from agm.core.request import Body, GatewayRequest
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import ModelCall
from agm.core.wire.vertex import Place
from agm.serving.affinity import route_call
from agm.serving.attempts import Attempts
from agm.serving.client_auth import ClientAuthenticator
from agm.serving.context import ServingContext
from agm.serving.model_directory import ModelDirectory
from agm.serving.sharing import maker_of
from agm.serving.wrapping import CallWrapping, Wrapping

MakeWrapping = Callable[[ServingContext, GatewayRequest, bytes], Wrapping]


@attrs.frozen(eq=False, slots=False)
class InboundCall:
    """
    A call as it came in: its parsed target, and the rest of it without credentials.  See :class:`GatewayRequest`.

    Whoever makes one says what is called, whether the path told it or the body; `path` is only shown.
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
    #: Where its path in Vertex AI's shape says that it is; None for any other path.
    place: Place | None = None


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
            client_key=None if inbound.key is None else inbound.key.name,
            received_at=inbound.received_at,
            body=Body(inbound.body),
            upstream_framing=Framing.SSE if framing is Framing.ARRAY and context.hooks.edits_events else framing,
            explaining=explaining,
            place=inbound.place,
        )

    async def run(self) -> Attempts:
        """
        Take the steps.

        :raises GatewayError: if the request may not be made.
        :raises HookFailed: if a plugin that edits bodies failed.
        """
        context, request = self._context, self.request
        hooks = context.hooks
        choice = hooks.map_model(self._models.catalog.id_of(request.asked_model), request)
        if choice.model != request.model:
            request = self.request = attrs.evolve(request, model=choice.model)
        if self._key is not None:
            self._clients.admit(self._key, request.asked_model, request.method, counting=not request.explaining)
        body = request.body.raw
        if hooks.edits_requests:
            body = await hooks.edit_body(Body(body).json(), request)  # a document of their own
        routing = await route_call(context, request, body, maker_of(self._key))
        return Attempts(context, request, routing, self._wrapping(context, request, body), choice)
