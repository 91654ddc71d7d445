"""The Gemini API of ``/v1beta``, ``/v1alpha`` and ``/v1``: models, and the calls of models."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType

import attrs

from agm.config import Config
from agm.core import ownership
from agm.core.errors import GatewayError, NotFound
from agm.core.wire import target
from agm.core.wire.answer_filters import Framing
from agm.serving.prepare import InboundCall
from agm.web.answering import AnsweringResource
from agm.web.base import Visit, send_json
from agm.web.inbound import CREDENTIAL_PARAMETERS, decoded_body, framing_of, plain_headers
from agm.web.request import GatewayRequestOnWire


@attrs.frozen(eq=False, slots=False)
class _Call:
    """What a head tells of a call, under a configuration."""

    config: Config
    #: The Content-Length, which `headers` hold.
    length: bytes | None
    path: str
    call: target.ModelCall
    framing: Framing
    query: Mapping[str, str]
    headers: Mapping[str, str]


class Gemini(AnsweringResource):
    """The Gemini API of one version: lists models, describes one, and relays calls."""

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        try:
            methods = target.methods_of(wire.path)
        except NotFound:
            pass
        else:
            return () if _changes_a_model(wire) and "GET" in methods else methods
        try:  # some calls make what is owned: they come here only where another method is asked for
            return () if ownership.parse(wire.path, "POST") is None else ("POST",)
        except GatewayError:
            return ("POST",)

    def unknown(self, wire: GatewayRequestOnWire) -> NotFound:
        if _changes_a_model(wire):
            return NotFound(f"{target.shown(wire.path)} cannot be changed: that is for tuned models, tunedModels/ID.")
        return super().unknown(wire)

    def respond(self, visit: Visit) -> Awaitable[None]:
        return self._call(visit) if visit.wire.method == b"POST" else self._list(visit)

    async def _list(self, visit: Visit) -> None:
        """The list of models, or one of them."""
        asked = target.parse_collection(visit.wire.path)
        catalog = await self.gateway.models.fresh_catalog()
        if isinstance(asked, target.ModelList):
            send_json(visit.wire, catalog.page(visit.query.get("pageSize"), visit.query.get("pageToken")))
            return
        found = catalog.get(asked.model)
        if found is None:
            raise NotFound(f"models/{asked.model} is not found for API version {asked.version}.")
        send_json(visit.wire, found)

    def _call(self, visit: Visit) -> Awaitable[None]:
        """One call, from the parsed target to the end of its answer."""
        gateway, wire = self.gateway, visit.wire
        asked: _Call | None = wire.head.found.get(_Call)
        length = wire.head.first.get(b"content-length")
        if asked is None or asked.config is not gateway.config or asked.length != length:
            call = target.parse_call(wire.path)
            asked = wire.head.found[_Call] = _Call(
                config=gateway.config,
                length=length,
                path=wire.path.decode("ascii", "backslashreplace"),
                call=call,
                framing=framing_of(call.method, visit.query, gateway.config.gateway.stream_default),
                query=MappingProxyType({k: v for k, v in visit.query.items() if k not in CREDENTIAL_PARAMETERS}),
                headers=MappingProxyType(plain_headers(wire)),
            )
        inbound = InboundCall(
            wire.id,
            asked.path,
            asked.call,
            asked.framing,
            asked.query,
            asked.headers,
            visit.key,
            decoded_body(wire),
            gateway.wall(),
        )
        return self.answer_model_call(visit, gateway.calls.prepare(inbound))


def _changes_a_model(wire: GatewayRequestOnWire) -> bool:
    """Return whether a request would update or delete what its path names, as both SDKs do with tuned models."""
    return wire.method in (b"PATCH", b"DELETE")
