"""
A reply as a value: status, headers and the steps in which its body goes out.

Everything the emulator can do to a client, faults included, is written down as a :class:`Reply` before a byte is sent.
:mod:`agm.emulator.playback` carries it out.  Nothing here knows of a reactor or a socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from agm.emulator import framing


@attrs.frozen
class Send:
    """Write these bytes of the body.  An empty one sends the headers alone."""

    data: bytes


@attrs.frozen
class Wait:
    """Let `seconds` pass; 0 ends the reactor's turn, so that what was sent goes out in a packet of its own."""

    seconds: float


@attrs.frozen
class Fill:
    """Write `block` `count` times, at the pace of the client and without ever holding more than a few of them."""

    block: bytes
    count: int


@attrs.frozen
class Cut:
    """Close the connection here: no last chunk, and fewer bytes than a Content-Length promised."""


@attrs.frozen
class Reset:
    """Reset the connection here, with a real RST."""


@attrs.frozen
class Hang:
    """Say nothing more, and keep the connection for as long as the client does."""


Step = Send | Wait | Fill | Cut | Reset | Hang


@attrs.frozen
class Reply:
    """
    An answer in steps.

    `length` is the value of ``Content-Length`` in bytes; without one the body is chunked.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    steps: tuple[Step, ...] = ()
    length: int | None = None


_TRANSPORT_HEADERS = (
    ("Vary", "Origin"),
    ("Vary", "X-Origin"),
    ("Vary", "Referer"),
    ("X-XSS-Protection", "0"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-Content-Type-Options", "nosniff"),
)


def google_headers(server: str) -> tuple[tuple[str, str], ...]:
    """The headers that Google's front ends put on every answer of an API; `server` is the value of ``Server``."""
    return (*_TRANSPORT_HEADERS, ("Server", server))


SCAFFOLDING = google_headers("scaffolding on HTTPServer2")
ESF = google_headers("ESF")


def body_reply(status: int, body: bytes, content_type: str, headers: Sequence[tuple[str, str]] = SCAFFOLDING) -> Reply:
    """Return a whole body in one write, with its Content-Length."""
    return Reply(
        status=status,
        headers=(("Content-Type", content_type), *headers),
        steps=(Send(body),) if body else (),
        length=len(body),
    )


def json_reply(
    document: Any,
    *,
    status: int = 200,
    headers: Sequence[tuple[str, str]] = SCAFFOLDING,
    pretty_print: bool = True,
) -> Reply:
    """Return a unary JSON answer."""
    return body_reply(status, framing.unary(document, pretty_print=pretty_print), framing.JSON_TYPE, headers)
