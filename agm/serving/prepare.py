"""
A call on its way to its first attempt: map the model, hold the client key to its limits, let plugins edit the body.

What follows is :mod:`agm.serving.attempts`'s.  The same steps are taken for a request and for an explanation of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import msgspec

from agm.core.client_keys import ClientKey
from agm.core.request import Body, GatewayRequest
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import ModelCall
from agm.serving.affinity import make_attempts
from agm.serving.attempts import Attempts

if TYPE_CHECKING:
    from agm.serving.gateway import Gateway


@attrs.frozen(eq=False, slots=False)
class Incoming:
    """A call as it came in: its parsed target, and the rest of it without credentials.  See :class:`GatewayRequest`."""

    id: str
    path: str
    call: ModelCall
    framing: Framing
    query: Mapping[str, str]
    headers: Mapping[str, str]
    key: ClientKey | None
    body: bytes
    received_at: float


class Preparation:
    """
    The steps before the first attempt.

    :param explaining: nothing will be sent; count nothing and remember nothing.
    :ivar request: the request as far as it is known; its model is mapped once :meth:`run` has got that far.
    """

    def __init__(self, gateway: Gateway, incoming: Incoming, *, explaining: bool = False) -> None:
        call, framing = incoming.call, incoming.framing
        self._gateway = gateway
        self._key = incoming.key
        self.request = GatewayRequest(
            id=incoming.id,
            path=incoming.path,
            version=call.version,
            method=call.method,
            asked_model=call.model,
            model=call.model,
            framing=framing,
            query=incoming.query,
            headers=incoming.headers,
            client_key=None if incoming.key is None else incoming.key.name,
            received_at=incoming.received_at,
            body=Body(incoming.body),
            upstream_framing=Framing.SSE if framing is Framing.ARRAY and gateway.hooks.edits_events else framing,
            explaining=explaining,
        )

    async def run(self) -> Attempts:
        """
        Take the steps.

        :raises GatewayError: if the request may not be made.
        :raises HookFailed: if a plugin that edits bodies failed.
        """
        gateway, request = self._gateway, self.request
        choice = gateway.hooks.map_model(gateway.catalog.id_of(request.asked_model), request)
        if choice.model != request.model:
            request = self.request = attrs.evolve(request, model=choice.model)
        if self._key is not None:
            gateway.admit(self._key, request.asked_model, request.method, counting=not request.explaining)
        body = request.body.raw
        if gateway.hooks.edits_requests:
            edited = await gateway.hooks.transform_request(Body(body).json(), request)  # a document of their own
            body = msgspec.json.encode(edited)
        return await make_attempts(gateway, request, body, choice)
