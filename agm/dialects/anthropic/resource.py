"""The resource of Anthropic's API: which endpoint has a path, whose request it is, and the form of its errors."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from agm.api import GatewayError, NotFound, TranslatedCall, Visit
from agm.dialects.anthropic.errors import NoThreads, error_document
from agm.dialects.base import Dialect

#: The endpoints; ``models`` has what is below it, too.
ENDPOINTS = ("messages", "messages/count_tokens", "models")


class Anthropic(Dialect):
    """Every path of Anthropic's API."""

    name = "anthropic"
    base = re.compile(rb"/+(?:anthropic(?:/+v1)?|v1)/+")
    endpoints = ENDPOINTS

    def claims(self, wire: Any) -> bool:
        if not super().claims(wire):
            return False
        endpoint = self.endpoint_of(wire.path)
        assert endpoint is not None, "it has methods"
        if endpoint.startswith("messages") or wire.path.lstrip(b"/").startswith(b"anthropic"):
            return True
        return b"anthropic-version" in wire.head.first  # a list of models is for whoever asks

    def render(self, request: Any) -> int:
        request.responseHeaders.setRawHeaders(b"request-id", [request.id.encode("ascii")])
        return super().render(request)

    async def answer(self, visit: Visit, endpoint: str) -> None:
        # what answers is imported with the first request, so that a gateway that nobody asks so starts without it
        if endpoint.startswith("messages"):
            from agm.dialects.anthropic import messages

            await (messages.answer if endpoint == "messages" else messages.count)(self, visit)
        else:
            from agm.dialects.anthropic import models

            await models.answer(self, visit, unquote(endpoint.partition("/")[2]))

    def translate(self, path: str, body: bytes) -> TranslatedCall:
        from agm.dialects.anthropic.request import read_count, read_request

        endpoint = self.endpoint_of(path.encode("ascii", "replace")) if path else "messages"
        if endpoint == "messages":
            return read_request(body).call
        if endpoint == "messages/count_tokens":
            return read_count(body)
        raise NotFound(f"There is nothing to explain of a request to {path!r} of Anthropic's API.")

    def error_body(self, error: GatewayError) -> bytes:
        details = error.refusal if isinstance(error, NoThreads) else None
        return error_document(error.status, error.message, details=details)
