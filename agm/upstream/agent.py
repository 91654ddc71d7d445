"""
An HTTP/1.1 client for upstreams: an ``IAgent`` for treq and for the relay.

It does what a relay needs and no more: it follows no redirect, keeps no cookie and decodes nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from agm.core.wire.bytechain import ByteChain
from agm.upstream.errors import StaleConnection
from agm.upstream.origin import Origin, split_url
from agm.upstream.pool import ConnectionPool
from agm.upstream.websocket import UpstreamSocket

#: Headers that the agent writes itself, in lower case: two of one could leave open where a request ends.
_OURS = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"accept-encoding"})
_TARGET = re.compile(rb"/[\x21-\x7e]*")


@lru_cache(maxsize=256)
def _opening(method: bytes, uri: bytes) -> tuple[Origin, bytes]:
    """Where a request goes, and how it begins: the same for all that are made of a model with an account."""
    origin, host, target = split_url(uri)
    if not _TARGET.fullmatch(target):
        raise ValueError("an upstream's URL holds a character that must be encoded")
    return origin, b"%b %b HTTP/1.1\r\nHost: %b\r\nAccept-Encoding: identity\r\n" % (method, target, host)


@lru_cache(maxsize=64)
def _header_lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """
    Headers as they are written: the same for all requests with an account, until its credential is another one.

    :raises ValueError: if one of them would be more than a line.
    """
    lines = [b"%b: %b\r\n" % pair for pair in headers if pair[0].lower() not in _OURS]
    written = b"".join(lines)
    if not written.count(b"\n") == written.count(b"\r") == len(lines):
        raise ValueError("a header of a request to an upstream holds a line break")
    return written


class HeaderLines:
    """Headers that are written as they are given: for the relay, whose own are made once and looked up by nobody."""

    __slots__ = ("lines",)

    def __init__(self, lines: tuple[tuple[bytes, bytes], ...]) -> None:
        self.lines = lines


@implementer(IAgent)
class Http1Agent:
    """
    Requests over :class:`ConnectionPool`.

    What fails before an answer is one of Twisted's connection errors, :class:`NoAnswer` or :class:`BrokenAnswer`; a
    body that is not completed ends with :class:`BrokenAnswer`.
    """

    def __init__(self, connections: ConnectionPool) -> None:
        self._connections = connections

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | HeaderLines | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """As :class:`twisted.web.iweb.IAgent` says; `uri` must be absolute."""
        origin, opening = _opening(method, uri)
        body = getattr(bodyProducer, "whole", None)
        if isinstance(headers, HeaderLines):
            lines = _header_lines(headers.lines)
        elif headers is not None:
            lines = _header_lines(tuple((name, v) for name, values in headers.getAllRawHeaders() for v in values))
        else:
            lines = b""
        length = b""
        if bodyProducer is not None:
            if bodyProducer.length is UNKNOWN_LENGTH:
                length = b"Transfer-Encoding: chunked\r\n"
            else:
                length = b"Content-Length: %d\r\n" % bodyProducer.length
        elif method in (b"POST", b"PUT", b"PATCH"):
            length = b"Content-Length: 0\r\n"
        head = b"%b%b%b\r\n" % (opening, lines, length)
        kept = self._connections.take(origin)
        if kept is None:
            return self._on_a_new_one(origin, head, body, bodyProducer)
        d: Deferred[Any] = kept.request(head, body, bodyProducer)
        if body is not None or bodyProducer is None:  # what was produced once cannot be sent again
            d.addErrback(self._stale, origin, head, body, bodyProducer)
        return d

    def _stale(
        self,
        failure: Failure,
        origin: Origin,
        head: bytes,
        body: bytes | ByteChain | None,
        producer: IBodyProducer | None,
    ) -> Any:
        failure.trap(StaleConnection)
        return self._on_a_new_one(origin, head, body, producer)

    def _on_a_new_one(
        self, origin: Origin, head: bytes, body: bytes | ByteChain | None, producer: IBodyProducer | None
    ) -> Deferred[Any]:
        d: Deferred[Any] = self._connections.connect(origin)
        return d.addCallback(lambda connection: connection.request(head, body, producer))

    def open_socket(
        self, uri: bytes, headers: tuple[tuple[bytes, bytes], ...], socket: UpstreamSocket
    ) -> Deferred[Any]:
        """
        Connect a WebSocket, on a connection of its own, and ask for the upgrade; fires when it is granted.

        :param uri: absolute, with the scheme ``http`` or ``https``.
        :raises ValueError: if the URL or a header cannot be written.
        """
        origin, host, target = split_url(uri)
        if not _TARGET.fullmatch(target):
            raise ValueError("an upstream's URL holds a character that must be encoded")
        lines = _header_lines(headers)
        d = self._connections.connect_to(origin, socket)
        return d.addCallback(lambda _: socket.handshake(target, host, lines))
