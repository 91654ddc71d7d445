"""Vertex AI's own paths, for clients with ``vertexai=True``: calls of models, their list, and what a project keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from agm.core.errors import GatewayError, InvalidRequest, NotFound
from agm.core.wire import vertex
from agm.core.wire.target import unknown
from agm.serving.prepare import InboundCall
from agm.serving.sharing import maker_of
from agm.serving.vertex import VertexWrapping
from agm.web.answering import AnsweringResource
from agm.web.base import Visit, send_json
from agm.web.files import PrepareResourceCall
from agm.web.inbound import CREDENTIAL_PARAMETERS, decoded_body, framing_of, plain_headers
from agm.web.request import GatewayRequestOnWire


class Vertex(AnsweringResource):
    """The paths of Vertex AI, served by whichever accounts can."""

    def claims(self, wire: GatewayRequestOnWire) -> bool:
        return vertex.claims(wire.path)

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        try:
            asked = vertex.parse(wire.path)
        except NotFound:
            return ()
        except InvalidRequest:  # it is told what of its name is wrong
            return ("GET", "POST", "PATCH", "DELETE")
        match asked:
            case vertex.VertexCall():
                return ("POST",)
            case vertex.PublisherModels():
                return ("GET", "HEAD")
        if asked.verb:
            return ("POST",)
        return ("GET", "POST") if asked.name is None else ("GET", "PATCH", "DELETE")

    def unknown(self, wire: GatewayRequestOnWire) -> NotFound:
        try:
            vertex.parse(wire.path)
        except NotFound as e:
            return e
        except GatewayError:
            pass
        return unknown(wire.path, self.access.address(wire.peer, wire.head, secure=wire.isSecure()))

    async def respond(self, visit: Visit) -> None:
        match vertex.parse(visit.wire.path):
            case vertex.VertexCall() as asked:
                await self._call(visit, asked)
            case vertex.PublisherModels(model):
                await self._models(visit, model)
            case asked:
                await self._resource(visit, asked)

    async def _call(self, visit: Visit, asked: vertex.VertexCall) -> None:
        """One call, as any other of a model but for its form."""
        gateway, wire = self.gateway, visit.wire
        inbound = InboundCall(
            id=wire.id,
            path=wire.path.decode("ascii", "backslashreplace"),
            call=asked.call,
            framing=framing_of(asked.call.method, visit.query, gateway.config.gateway.stream_default),
            query={k: v for k, v in visit.query.items() if k not in CREDENTIAL_PARAMETERS},
            headers=plain_headers(wire),
            key=visit.key,
            body=decoded_body(wire),
            received_at=gateway.wall(),
            place=asked.place,
        )
        wrapping = partial(VertexWrapping, maker=maker_of(visit.key))
        await self.answer_model_call(visit, gateway.calls.prepare(inbound, wrapping=wrapping))

    async def _models(self, visit: Visit, model: str | None) -> None:
        """The gateway's list of models in the form of publisher models, or one of them."""
        catalog = await self.gateway.models.fresh_catalog()
        if model is not None:
            found = catalog.get(model)
            if found is None:
                raise NotFound(f"Publisher Model `publishers/google/models/{model}` is not found.")
            send_json(visit.wire, publisher_model(found))
            return
        page = catalog.page(visit.query.get("pageSize"), visit.query.get("pageToken"))
        listed = {"publisherModels": [publisher_model(one) for one in page.pop("models", ())]}
        send_json(visit.wire, {**listed, **page})

    async def _resource(self, visit: Visit, asked: vertex.VertexResource) -> None:
        prepared = PrepareResourceCall(self.gateway.calls, visit, asked, decoded_body(visit.wire))
        await self.answer(visit.wire, prepared)


def publisher_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """``PublisherModel`` of Vertex AI, from ``Model`` of the Developer API."""
    name = str(model["name"]).removeprefix("models/")
    place = "projects/{user-project}/locations/{location}"
    return {
        "name": f"publishers/google/models/{name}",
        "versionId": str(model.get("version") or "default"),
        "publisherModelTemplate": f"{place}/publishers/google/models/{name}",
    }
