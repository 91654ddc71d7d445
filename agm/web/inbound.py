"""
What a client has sent, as the rest of the gateway sees it: its query, headers and body, and how it wants the answer.

No credential gets past this module: what plugins and upstreams see of headers and parameters has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from agm.core.errors import InvalidRequest, UnsupportedMedia
from agm.core.wire.answer_filters import Framing
from agm.core.wire.gzip import inflate
from agm.web.request import GatewayRequestOnWire

#: Headers and parameters that may carry a credential: no plugin sees them, and no upstream gets them.
CREDENTIAL_HEADERS = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"x-goog-api-key",
        b"proxy-authorization",
        b"cookie",
        b"x-goog-iam-authorization-token",
    }
)
CREDENTIAL_PARAMETERS = frozenset(
    {
        *("key", "api_key", "access_token", "oauth_token", "userProject"),
        *("$key", "$apiKey", "$access_token", "$oauth_token", "$userProject"),
    }
)
_ALT = re.compile(r"(sse|json)(?:;.*)?")


def parse_query(wire: GatewayRequestOnWire) -> dict[str, str]:
    """Return the query's parameters; of several with one name the first counts."""
    _, _, raw = wire.uri.partition(b"?")
    found: dict[str, str] = {}
    if not raw:
        return found
    for name, value in parse_qsl(raw.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=None):
        found.setdefault(name, value)
    return found


def plain_headers(wire: GatewayRequestOnWire) -> dict[str, str]:
    """Return the first value of each header, by its name in lower case; none that may carry a credential."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in wire.head.first.items()
        if name not in CREDENTIAL_HEADERS
    }


def framing_of(method: str, query: Mapping[str, str], default: str) -> Framing:
    """
    Return the framing that the client wants.

    :raises InvalidRequest: for a form that the gateway does not speak.
    """
    asked = [query[name] for name in ("alt", "$alt") if query.get(name)]
    forms = []
    for value in asked:
        match = _ALT.fullmatch(value)
        if match is None:
            raise InvalidRequest(f"Invalid value for alt: {value[:40]!r}. Use alt=sse or alt=json.")
        forms.append(match[1])
    if method != "streamGenerateContent":
        return Framing.UNARY
    if "sse" in forms:
        return Framing.SSE
    if forms:
        return Framing.ARRAY
    return Framing.SSE if default == "sse" else Framing.ARRAY


def decoded_body(wire: GatewayRequestOnWire) -> bytes:
    """
    Return the request's body, inflated if it was compressed.

    :raises UnsupportedMedia: for an encoding other than gzip.
    :raises BodyTooLarge: if it inflates beyond the limit.
    """
    return wire.body if b"content-encoding" not in wire.head.first else decoded(wire, wire.body, wire.limit)


def decoded(wire: GatewayRequestOnWire, body: bytes, limit: int) -> bytes:
    """
    Return the body of a request, inflated if it was compressed.

    :param limit: for its size then.
    :raises UnsupportedMedia: for an encoding other than gzip.
    :raises BodyTooLarge: if it inflates beyond the limit.
    """
    encoding = b",".join(wire.head.values(b"content-encoding")).strip().lower().decode("latin-1")
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise UnsupportedMedia(f"Content-Encoding {encoding[:40]!r} is not read here. Send the body plain or gzip'd.")
    return inflate(body, limit)
