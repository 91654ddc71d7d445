"""Errors in Anthropic's form: ``{"type": "error", "error": {"type", "message"}, "request_id"}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from agm.dialects.base import BadParameter

__all__ = ["NoThreads", "error_document"]

#: What ``type`` says of an error, by its status.
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class NoThreads(BadParameter):
    """400: the conversation is to be kept in a thread at Anthropic's; SDKs go on without one where they are told so."""

    #: What Anthropic says where it cannot keep one.
    refusal: ClassVar[Mapping[str, Any]] = {"error_code": "thread_unsupported_request", "unsupported": ["gateway"]}

    def __init__(self) -> None:
        super().__init__("thread", "conversations are not kept here; send the whole of it without a thread.")


def error_document(
    status: int, message: str, request_id: str | None = None, details: Mapping[str, Any] | None = None
) -> bytes:
    """Return an error as JSON on one line."""
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    error: dict[str, Any] = {"type": kind, "message": message}
    if details is not None:
        error["details"] = details
    document = {"type": "error", "error": error}
    return msgspec.json.encode(document if request_id is None else {**document, "request_id": request_id})
