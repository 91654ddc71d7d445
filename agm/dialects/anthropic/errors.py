"""Errors in Anthropic's form: ``{"type": "error", "error": {"type", "message"}, "request_id"}``."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["error_document"]

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


def error_document(status: int, message: str, request_id: str | None = None) -> bytes:
    """Return an error as JSON on one line."""
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    error = {"type": kind, "message": message}
    document = {"type": "error", "error": error}
    return msgspec.json.encode(document if request_id is None else {**document, "request_id": request_id})
