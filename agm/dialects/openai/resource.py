"""The resource of OpenAI's API: which endpoint has a path, whose request it is, and the form of its errors."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from agm.api import GatewayError, NotFound, TranslatedCall, Visit
from agm.dialects.base import BadParameter, Dialect, StreamBroken, UpstreamRefused

#: The endpoints, each with the module that answers it; ``models`` has what is below it, too.
ENDPOINTS: Mapping[str, str] = {
    "audio/speech": "speech",
    "audio/transcriptions": "transcriptions",
    "chat/completions": "chat",
    "embeddings": "embeddings",
    "images/edits": "images",
    "images/generations": "images",
    "models": "models",
    "responses": "responses",
}
_PREFIX = "agm.dialects.openai."
#: What ``type`` says of an error, by its status.
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_TOO_LONG = re.compile(r"token count.{0,80}exceeds the maximum|exceeds the maximum number of tokens", re.IGNORECASE)


class OpenAI(Dialect):
    """Every path of OpenAI's API."""

    name = "openai"
    base = re.compile(rb"/+(?:openai(?:/+v1)?|v1)/+")
    endpoints = ENDPOINTS

    def claims(self, wire: Any) -> bool:
        if not super().claims(wire):
            return False
        endpoint = self.endpoint_of(wire.path)
        assert endpoint is not None, "it has methods"
        return (endpoint in ENDPOINTS and endpoint != "models") or _lists_models(wire)

    async def answer(self, visit: Visit, endpoint: str) -> None:
        name = endpoint.partition("/")[0] if endpoint.startswith("models/") else endpoint
        module = importlib.import_module(_PREFIX + ENDPOINTS[name])
        await module.answer(self, visit, unquote(endpoint.partition("/")[2]))

    def translate(self, path: str, body: bytes) -> TranslatedCall:
        endpoint = self.endpoint_of(path.encode("ascii", "replace")) if path else "chat/completions"
        name = ENDPOINTS.get(endpoint or "")
        module = None if name is None else importlib.import_module(_PREFIX + name)
        if module is None or not hasattr(module, "translate"):
            raise NotFound(f"There is nothing to explain of a request to {path!r} of the OpenAI API.")
        translated: TranslatedCall = module.translate(body)
        return translated

    def error_body(self, error: GatewayError) -> bytes:
        return error_document(error)


def _lists_models(wire: Any) -> bool:
    """
    Return whether a client that asks for models speaks OpenAI's API.

    Below ``/openai`` every one does.  At ``/v1`` Google's clients send their key, or who they are, in ``x-goog-…``, or
    have a ``key=``; Anthropic's say which version they speak; OpenAI's have a bearer token and none of these.
    """
    if wire.method not in (b"GET", b"HEAD"):
        return False
    if wire.path.lstrip(b"/").startswith(b"openai"):
        return True
    given = wire.head.first
    if b"anthropic-version" in given or any(name.startswith(b"x-goog-") for name in given):
        return False
    query = wire.uri.partition(b"?")[2]
    if any(part.startswith(b"key=") for part in query.split(b"&")):
        return False
    return given.get(b"authorization", b"").strip()[:7].lower() == b"bearer "


def error_document(error: GatewayError) -> bytes:
    """Return an error in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``."""
    status = error.status
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    code: str | None = error.error_reason.lower()
    if isinstance(error, UpstreamRefused | StreamBroken):
        google = error.google
        code = (google.status.lower() or None) if google is not None else None
        if status == 400 and _TOO_LONG.search(error.message):
            code = "context_length_exceeded"
    if status == 401:
        code = "invalid_api_key"
    elif status == 404 and kind == "invalid_request_error":
        code = "model_not_found" if "model" in error.message.lower() else "not_found"
    elif status == 429:
        code = "rate_limit_exceeded"
    param = error.param if isinstance(error, BadParameter) else "model" if code == "model_not_found" else None
    return msgspec.json.encode({"error": {"message": error.message, "type": kind, "param": param, "code": code}})
