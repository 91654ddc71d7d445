"""
The gateway's own errors, each with the HTTP status and the google.rpc code that a client sees.

Every answer that is not a success leaves the gateway as google.rpc.Status JSON, because that is the only form that
all Gemini SDKs parse.  This module builds those bodies; it never decides when to send one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from agm.core import documents

#: What msgspec raises for bytes that it cannot read: no JSON, no UTF-8, or brackets nested beyond all reason.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: google.rpc code names by HTTP status, for answers that name no code of their own.
RPC_BY_STATUS: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    411: "INVALID_ARGUMENT",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    421: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
    431: "INVALID_ARGUMENT",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def status_body(code: int, message: str, *, rpc: str | None = None, details: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """Return a google.rpc.Status document as Google prints it: two spaces of indent and a final newline."""
    error: dict[str, Any] = {
        "code": code,
        "message": message,
        "status": rpc or RPC_BY_STATUS.get(code, "UNKNOWN"),
    }
    if details:
        error["details"] = list(details)
    return msgspec.json.format(msgspec.json.encode({"error": error}), indent=2) + b"\n"


def retry_info(seconds: float) -> dict[str, str]:
    """``google.rpc.RetryInfo`` for a wait of `seconds`, rounded up to milliseconds."""
    milliseconds = math.ceil(round(seconds * 1000, 6))  # 56.18 s is 56180.00000000001 ms to a float
    text = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".")
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{text}s"}


def error_info(reason: str, **metadata: str) -> dict[str, Any]:
    """``google.rpc.ErrorInfo`` in the gateway's own domain, so that nobody takes it for Google's."""
    info: dict[str, Any] = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "agm",
    }
    if metadata:
        info["metadata"] = metadata
    return info


class GatewayError(Exception):
    """Something that ends a request with an answer of the gateway's own.  Subclasses fix the status."""

    status: int = 500
    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after: float | None = None,
        allow: Sequence[str] = (),
        details: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.allow = tuple(allow)
        self.details = tuple(details)
        self.error_reason = reason or type(self).reason

    def body(self) -> bytes:
        """Return the answer's body: google.rpc.Status with ErrorInfo, and RetryInfo where a wait is known."""
        details: list[Mapping[str, Any]] = [error_info(self.error_reason), *self.details]
        if self.retry_after is not None:
            details.append(retry_info(self.retry_after))
        return status_body(self.status, self.message, details=details)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers that belong to this error: ``Retry-After`` in whole seconds, ``Allow``."""
        found: list[tuple[bytes, bytes]] = []
        if self.retry_after is not None:
            found.append((b"Retry-After", b"%d" % max(1, math.ceil(self.retry_after))))
        if self.allow:
            found.append((b"Allow", ", ".join(self.allow).encode("ascii")))
        return found


class InvalidRequest(GatewayError):
    """400: the request cannot be understood."""

    status, reason = 400, "INVALID_REQUEST"


class Unauthenticated(GatewayError):
    """401: no client key, or one that is not known."""

    status, reason = 401, "CLIENT_KEY_INVALID"

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [*super().headers(), (b"WWW-Authenticate", b'Bearer realm="agm"')]


class Forbidden(GatewayError):
    """403: the client key, the Host or the Origin may not do this."""

    status, reason = 403, "FORBIDDEN"


class NotFound(GatewayError):
    """404: no such path, model or method."""

    status, reason = 404, "NOT_FOUND"


class MethodNotAllowed(GatewayError):
    """405: the path exists, but not for this HTTP method; `allow` names those it has."""

    status, reason = 405, "METHOD_NOT_ALLOWED"


class RequestTooSlow(GatewayError):
    """408: the request did not arrive within ``[timeouts] request_read``."""

    status, reason = 408, "REQUEST_TIMEOUT"


class BodyTooLarge(GatewayError):
    """413: the body is larger than ``[gateway] max_body``."""

    status, reason = 413, "BODY_TOO_LARGE"


class UnsupportedMedia(GatewayError):
    """415: a Content-Type or Content-Encoding that the gateway does not read."""

    status, reason = 415, "UNSUPPORTED_MEDIA_TYPE"


class TooManyRequests(GatewayError):
    """429: every account that could serve is out of quota, or the client key's own limit is reached."""

    status, reason = 429, "RATE_LIMIT_EXCEEDED"


class Unimplemented(GatewayError):
    """501: no account of a kind that has this method."""

    status, reason = 501, "METHOD_NOT_SUPPORTED_BY_ACCOUNTS"


class BadUpstreamAnswer(GatewayError):
    """502: the upstream answered with something that is not an answer, or could not be reached."""

    status, reason = 502, "UPSTREAM_FAILED"


class Unavailable(GatewayError):
    """503: no account can serve, or the gateway is stopping."""

    status, reason = 503, "UNAVAILABLE"


class UpstreamTimeout(GatewayError):
    """504: a timer of ``[timeouts]`` ran out before the first byte of the answer."""

    status, reason = 504, "UPSTREAM_TIMEOUT"


def with_retry_info(body: bytes, seconds: float, outlook: str = "") -> bytes:
    """
    Return an upstream's error body with RetryInfo set to `seconds`; as it was if it is not google.rpc.Status.

    :param outlook: a sentence for people, which is added as ``google.rpc.LocalizedMessage``.
    """
    try:
        document = documents.decode(body)
        error = document["error"]
        if isinstance(error.get("code"), str):  # an error of the Interactions API has no place for it
            return body
        details = [d for d in error.get("details") or [] if not str(d.get("@type")).endswith("google.rpc.RetryInfo")]
    except (*NOT_JSON, KeyError, TypeError, AttributeError):
        return body
    error["details"] = [*details, retry_info(seconds)]
    if outlook:
        kind = "type.googleapis.com/google.rpc.LocalizedMessage"
        error["details"].append({"@type": kind, "locale": "en", "message": outlook})
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
