"""
The request log: what reached the emulator, so that a test can assert it.

An entry holds no credential, only the hash of one.  The log is bounded, in entries and in the bytes of bodies kept; it
forgets the oldest first.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

MOST_ENTRIES = 10_000
#: How much of a body is kept, in bytes.
MOST_BODY = 64 * 1024

_SECRET_HEADERS = frozenset(
    {
        "x-goog-api-key",
        "x-api-key",
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-goog-iam-authorization-token",
    }
)
_SECRET_PARAMETERS = frozenset(
    {
        "key",
        "$key",
        "api_key",
        "access_token",
        "oauth_token",
        "upload_id",
        "code",
        "refresh_token",
        "client_secret",
        "assertion",
        "subject_token",
        "token",
    }
)
#: The same in a form, and in an address that a header names.
_PARAMETER = re.compile(
    rf"(?P<before>^|[?&])(?P<name>{'|'.join(map(re.escape, sorted(_SECRET_PARAMETERS)))})=(?P<value>[^&#\s]*)"
)


def fingerprint(credential: str) -> str:
    """Return a credential as the log shows it: ``sha256:`` and the first 12 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(credential.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def shown_header(name: str, value: str) -> str:
    """Return the value of a header without its secret; the scheme of ``Authorization`` stays."""
    if name not in _SECRET_HEADERS:
        return _shown_form(value)
    scheme, space, credential = value.partition(" ")
    return f"{scheme} {fingerprint(credential)}" if space and name.endswith("authorization") else fingerprint(value)


def shown_parameter(name: str, value: str) -> str:
    """Return the value of a query parameter without its secret."""
    return fingerprint(value) if name in _SECRET_PARAMETERS else value


def _shown_form(text: str) -> str:
    """Return a form, or an address with a query, without the secrets of its parameters."""
    return _PARAMETER.sub(lambda found: f"{found['before']}{found['name']}={fingerprint(found['value'])}", text)


@attrs.define
class Entry:
    """A request and what became of it.  Times are the emulator's clock, in seconds since the epoch."""

    seq: int
    time: float
    connection: int
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body_sha256: str
    body_length: int
    body: bytes
    account: str | None = None
    model: str | None = None
    rpc: str | None = None
    status: int | None = None
    response_bytes: int = 0
    finished: bool = False
    client_gone: float | None = None

    def document(self, *, with_body: bool = False) -> dict[str, Any]:
        """
        Return the entry as JSON; `with_body` adds the request's body as text, up to :data:`MOST_BODY` bytes of it.

        Of a form, such as a question for a token is, the secrets are hashed.
        """
        document = attrs.asdict(self, filter=lambda field, _: field.name != "body")
        document["query"] = dict(self.query)
        document["headers"] = dict(self.headers)
        if with_body:
            body = self.body.decode("utf-8", "replace")
            form = self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
            document["body"] = _shown_form(body) if form else body
        return document


class RequestLog:
    """The last :data:`MOST_ENTRIES` requests."""

    def __init__(self, limit: int = MOST_ENTRIES) -> None:
        self._entries: deque[Entry] = deque(maxlen=limit)
        self._next = 1

    def open(
        self,
        *,
        time: float,
        connection: int,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Entry:
        """Note a request; what becomes of it is written into the entry that is returned."""
        entry = Entry(
            seq=self._next,
            time=time,
            connection=connection,
            method=method,
            path=path,
            query={name: shown_parameter(name, value) for name, value in query.items()},
            headers={name: shown_header(name, value) for name, value in headers.items()},
            body_sha256=hashlib.sha256(body).hexdigest(),
            body_length=len(body),
            body=body[:MOST_BODY],
        )
        self._next += 1
        self._entries.append(entry)
        return entry

    def entries(self, *, since: int = 0, account: str | None = None) -> Iterable[Entry]:
        """Entries with a higher number than `since`, oldest first, of one account if it is named."""
        return [entry for entry in self._entries if entry.seq > since and (account is None or entry.account == account)]

    def clear(self) -> None:
        """Forget every entry; numbers go on."""
        self._entries.clear()
