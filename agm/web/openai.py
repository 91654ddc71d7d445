"""Google's own OpenAI surface, ``/v1beta/openai/…``, relayed to accounts of the Developer API."""

from __future__ import annotations

from collections.abc import Sequence

from agm.core.errors import GatewayError, InvalidRequest, NotFound
from agm.core.wire import openai
from agm.core.wire.openai import OpenAICall, OpenAIResource
from agm.plugins.builtin.wrapping import USER_AGENT
from agm.serving.openai import OpenAIInbound, PrepareOpenAICall
from agm.web.answering import AnsweringResource
from agm.web.base import Visit
from agm.web.files import PrepareResourceCall, parameters, query_of
from agm.web.inbound import decoded_body, plain_headers
from agm.web.request import GatewayRequestOnWire


class OpenAI(AnsweringResource):
    """Chat, embeddings, images and videos by the model that the body names; and files, batches, videos and models."""

    def claims(self, wire: GatewayRequestOnWire) -> bool:
        return openai.claims(wire.path)

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        try:
            asked = openai.parse(wire.path, wire.method.decode("ascii", "replace"))
        except NotFound:
            return ()
        except InvalidRequest:  # it is told what of its name is wrong
            return ("GET", "POST", "DELETE")
        if isinstance(asked, OpenAICall):
            return ("POST", "GET") if asked.rest == "videos" else ("POST",)
        if asked.collection == "models":
            return ("GET", "HEAD")
        if asked.verb:
            return ("POST",) if asked.verb == "cancel" else ("GET",)
        return ("GET", "POST") if asked.name is None else ("GET", "DELETE")

    def unknown(self, wire: GatewayRequestOnWire) -> NotFound:
        try:
            openai.parse(wire.path, wire.method.decode("ascii", "replace"))
        except NotFound as e:
            return e
        except GatewayError:
            pass
        return super().unknown(wire)

    async def respond(self, visit: Visit) -> None:
        asked = openai.parse(visit.wire.path, visit.wire.method.decode("ascii"))
        if isinstance(asked, OpenAICall):
            await self._call(visit, asked)
        else:
            await self._resource(visit, asked)

    async def _call(self, visit: Visit, call: OpenAICall) -> None:
        wire, body = visit.wire, decoded_body(visit.wire)
        headers, found = plain_headers(wire), parameters(visit)
        asked = openai.read(body, headers.get("content-type", ""))
        content_type = headers.get("content-type", "") if asked.form else "application/json"
        forwarded_headers = [(b"Content-Type", content_type.encode("latin-1"))]
        if "x-server-timeout" in headers:
            forwarded_headers.append((b"X-Server-Timeout", headers["x-server-timeout"].encode("latin-1")))
        inbound = OpenAIInbound(
            id=wire.id,
            path=wire.path.decode("ascii", "backslashreplace"),
            call=call,
            asked=asked,
            query=query_of(found),
            parameters=dict(reversed(found)),
            headers=headers,
            forwarded=(*forwarded_headers, (b"User-Agent", USER_AGENT.encode("ascii"))),
            key=visit.key,
            body=body,
            received_at=self.gateway.wall(),
        )
        await self.answer_model_call(visit, PrepareOpenAICall(self.gateway.calls, inbound))

    async def _resource(self, visit: Visit, asked: OpenAIResource) -> None:
        body = decoded_body(visit.wire)
        form = (visit.header("content-type") or "").lower().startswith("multipart/")
        calls = self.gateway.calls
        if form:  # a file, which is not looked into
            prepared = PrepareResourceCall(calls, visit, asked, b"", content=body)
        else:
            prepared = PrepareResourceCall(calls, visit, asked, body)
        await self.answer(visit.wire, prepared)
