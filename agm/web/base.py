"""
What every resource is made of: :class:`ApiResource` is the one entry of a request and the one exit of every error.

It checks who asks, keeps the request's Deferred so that a client that leaves cancels it, and turns whatever is raised
into google.rpc.Status JSON.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from agm.core.client_keys import ClientKey, presented_keys
from agm.core.errors import (
    GatewayError,
    MethodNotAllowed,
    NotFound,
    UpstreamTimeout,
)
from agm.core.wire import target
from agm.plugins.hooks import HookFailed
from agm.serving.chains import plugin_failed
from agm.serving.gateway import Gateway
from agm.web.access import Access
from agm.web.inbound import decoded_body, parse_query, plain_headers
from agm.web.request import GatewayRequestOnWire

log = Logger()

#: What a page may be told that it may ask with, where nothing is.
_ANY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@attrs.frozen(eq=False, slots=False)
class Visit:
    """A request to a resource: the wire's, its decoded query, and whose it is."""

    wire: GatewayRequestOnWire
    query: Mapping[str, str]
    key: ClientKey | None

    @property
    def id(self) -> str:
        """The request's id."""
        return self.wire.id

    @property
    def path(self) -> str:
        """The request's path, without its query."""
        return self.wire.path.decode("ascii", "backslashreplace")

    @property
    def headers(self) -> Mapping[str, str]:
        """The first value of each header, by its name in lower case; none that may carry a credential."""
        head = self.wire.head  # of another length it is the same one
        length = head.first.get(b"content-length")
        known: tuple[bytes | None, Mapping[str, str]] | None = head.found.get(Visit)
        if known is None or known[0] != length:
            known = head.found[Visit] = (length, MappingProxyType(plain_headers(self.wire)))
        return known[1]

    @property
    def body(self) -> bytes:
        """
        The request's body, whole and inflated if it was compressed; never more than ``[gateway] max_body``.

        :raises UnsupportedMedia: for an encoding other than gzip.
        :raises BodyTooLarge: if it inflates beyond the limit.
        """
        return decoded_body(self.wire)

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        return self.wire.header(name.lower().encode("ascii"))


@attrs.frozen(eq=False, slots=False)
class _Asked:
    """What a head tells a resource: nothing of it depends on the body, nor on what a reload may change."""

    method: str
    #: The methods of the path, and OPTIONS; none for a path that is not known.
    allowed: Sequence[str]
    #: A browser asks whether a page may ask.
    preflight: bool
    query: Mapping[str, str]
    #: Client keys, in the order in which they are tried.
    keys: Sequence[str]


class ApiResource(Resource):
    """A leaf of the tree.  Subclasses say which HTTP methods they have, and answer."""

    isLeaf = True
    #: The HTTP methods of this resource, beside OPTIONS.
    methods: Sequence[str] = ("GET", "HEAD")
    #: Whether it is open where ``auth.mode`` is ``all_except_health``.
    is_health = False
    #: Whether it is one path, and what is below that is not known.
    nothing_below = False

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__()
        self.gateway = gateway
        self.access = access

    def respond(self, visit: Visit) -> Awaitable[None]:
        """Answer a request, or raise a :class:`GatewayError`; as a rule an ``async def``."""
        raise NotImplementedError

    def claims(self, wire: GatewayRequestOnWire) -> bool:
        """
        Return whether a request is this resource's, where it has been given a path of several segments, or one below.

        What is not claimed goes on to the gateway's own surfaces.
        """
        return True

    def error_body(self, error: GatewayError) -> bytes:
        """Lay out the body of an error, of the gateway's or of this resource's own: JSON, in the form of its API."""
        return error.body()

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        """Return the HTTP methods that the path of this request has; none where there is nothing at that path."""
        return () if self.nothing_below and any(wire.postpath) else self.methods

    def unknown(self, wire: GatewayRequestOnWire) -> NotFound:
        """The error for a request whose path has no method."""
        access = self.access
        base = access.address(wire.peer, wire.head, secure=wire.isSecure())
        return target.unknown(wire.path, base, access.path_taken_away)

    def is_open(self, wire: GatewayRequestOnWire, query: Mapping[str, str]) -> bool:
        """Return whether a request needs no client key, whatever ``auth.mode`` says."""
        return self.is_health and self.gateway.clients.mode_for(local=wire.sender.local) == "all_except_health"

    def render(self, request: Any) -> int:
        """Twisted's entry."""
        wire: GatewayRequestOnWire = request
        d = Deferred.fromCoroutine(self._visit(wire))
        wire.interrupt = wire.on_gone = d.cancel
        if d.called:
            wire.interrupt = wire.on_gone = None
            d.addErrback(self._failed, wire)
            return NOT_DONE_YET
        deadline = self.gateway.deadlines.after(self.gateway.config.timeouts.total, d.cancel)

        def over(result: object) -> None:
            deadline.cancel()
            wire.interrupt = wire.on_gone = None  # or they would be freed by the next full collection only
            if isinstance(result, Failure):
                self._failed(result, wire)

        d.addBoth(over)
        return NOT_DONE_YET

    async def _visit(self, wire: GatewayRequestOnWire) -> None:
        asked: _Asked | None = wire.head.found.get(self)
        if asked is None:
            asked = self._look(wire)
        key: ClientKey | None = None
        if not asked.preflight and not self.is_open(wire, asked.query):
            key = await self.gateway.clients.authenticate(asked.keys, wire.id, local=wire.sender.local)
        if not asked.allowed and not asked.preflight:
            raise self.unknown(wire)
        if asked.method == "OPTIONS":  # a page gets to see an error only if it may ask
            self._options(wire, asked.allowed or _ANY_METHOD, preflight=asked.preflight)
        elif asked.method in asked.allowed:
            await self.respond(Visit(wire, asked.query, key))
        else:
            takes = ", ".join(asked.allowed)
            raise MethodNotAllowed(f"This path does not take {asked.method}; it takes {takes}.", allow=asked.allowed)

    def _look(self, wire: GatewayRequestOnWire) -> _Asked:
        """
        Read what a head says, and check who sends it.

        :raises GatewayError: if it may not be asked so.
        """
        self._check_host(wire)
        given = wire.head.first
        origin = None
        if b"origin" in given:
            origin = self.access.check_origin(wire.header(b"origin"), wire.header(b"host"))
        if origin is not None:
            wire.responseHeaders.setRawHeaders(b"Access-Control-Allow-Origin", [origin.encode("latin-1")])
            wire.responseHeaders.setRawHeaders(b"Access-Control-Expose-Headers", [b"x-agm-request-id, retry-after"])
            wire.responseHeaders.addRawHeader(b"Vary", b"Origin")
        method = wire.method.decode("ascii", "replace")
        self.access.check_page(method, given, let_in=origin is not None)
        query = parse_query(wire)
        asked = _Asked(
            method=method,
            allowed=[*methods, "OPTIONS"] if (methods := self.methods_of(wire)) else (),
            preflight=method == "OPTIONS" and b"access-control-request-method" in given,
            query=MappingProxyType(query),
            keys=presented_keys(given, query.get("key")),
        )
        if b"origin" not in given:  # the answers to pages have headers of their own
            wire.head.found[self] = asked
        return asked

    def _check_host(self, wire: GatewayRequestOnWire) -> None:
        """Check that the request is for this gateway."""
        values = [value.decode("latin-1") for value in wire.head.values(b"host")]
        self.access.check_host(values, required=wire.clientproto == b"HTTP/1.1")

    def _options(self, wire: GatewayRequestOnWire, allowed: Sequence[str], *, preflight: bool) -> None:
        names = ", ".join(allowed).encode("ascii")
        headers = [(b"Allow", names)]
        if preflight and wire.answers_with(b"access-control-allow-origin"):
            asked = wire.header(b"access-control-request-headers") or ""
            headers += [
                (b"Access-Control-Allow-Methods", names),
                (b"Access-Control-Allow-Headers", re.sub(r"[^A-Za-z0-9_, -]", "", asked).encode("ascii")),
                (b"Access-Control-Max-Age", b"600"),
            ]
        wire.send(204, headers, b"")

    def _failed(self, failure: Failure, wire: GatewayRequestOnWire) -> None:
        """The one exit of every error."""
        if wire.channel is None:  # the client has left: there is nobody to tell
            if not failure.check(CancelledError, GatewayError):
                log.failure("{request_id}: failed after the client left", failure=failure, request_id=wire.id)
            return
        error = failure.value
        if failure.check(CancelledError):
            error = wire.interrupted or UpstreamTimeout(
                f"The request took longer than [timeouts] total, {self.gateway.config.timeouts.total:g} seconds."
            )
        elif isinstance(error, HookFailed):
            error = plugin_failed(error)
        elif not isinstance(error, GatewayError):
            log.failure("{request_id}: the request failed", failure=failure, request_id=wire.id)
            error = GatewayError("The gateway failed to serve this request; its log says why.")
        assert isinstance(error, GatewayError)
        self.gateway.counters.refused(error.error_reason)
        if wire.startedWriting:
            wire.channel.break_off(wire)
        else:
            wire.send(error.status, error.headers(), self.gateway.redactor.body(self.error_body(error)))


def send_json(wire: GatewayRequestOnWire, document: object) -> None:
    """Answer 200 with a document, laid out as Google does."""
    wire.send(200, [], msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


class Unknown(ApiResource):
    """Every path that is not another's."""

    methods = ()
