"""
The resource tree: health, models, and the calls of the Gemini API below ``/v1beta``, ``/v1alpha`` and ``/v1``.

:class:`ApiResource` is the one entry of every request and the one exit of every error: it checks who asks, keeps the
request's Deferred so that a client that leaves cancels it, and turns whatever is raised into google.rpc.Status JSON.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from agm.config import Config
from agm.core import ownership
from agm.core.client_keys import ClientKey, presented_keys
from agm.core.errors import (
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Unavailable,
    UnsupportedMedia,
    UpstreamTimeout,
)
from agm.core.wire import target
from agm.core.wire.answer_filters import Framing
from agm.core.wire.gzip import inflate
from agm.plugins.manager import HookFailed
from agm.serving.calls import Prepared
from agm.serving.gateway import Gateway
from agm.serving.prepare import InboundCall
from agm.web.access import Access
from agm.web.answers import Answers
from agm.web.request import GatewayRequestOnWire

log = Logger()

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
#: What a page may be told that it may ask with, where nothing is.
_ANY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ALT = re.compile(r"(sse|json)(?:;.*)?")


@attrs.frozen(eq=False, slots=False)
class Visit:
    """A request to a resource: the wire's, its decoded query, and whose it is."""

    wire: GatewayRequestOnWire
    query: Mapping[str, str]
    key: ClientKey | None

    def header(self, name: str) -> str | None:
        """The first value of a header."""
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


@attrs.frozen(eq=False, slots=False)
class _Call:
    """What a head tells of a call, under a configuration."""

    config: Config
    #: The Content-Length, which `headers` hold.
    length: bytes | None
    path: str
    call: target.ModelCall
    framing: Framing
    query: Mapping[str, str]
    headers: Mapping[str, str]


def plain_headers(wire: GatewayRequestOnWire) -> dict[str, str]:
    """The first value of each header, by its name in lower case; none that may carry a credential."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in wire.head.first.items()
        if name not in CREDENTIAL_HEADERS
    }


def _query(wire: GatewayRequestOnWire) -> dict[str, str]:
    """The query's parameters; of several with one name the first counts."""
    _, _, raw = wire.uri.partition(b"?")
    found: dict[str, str] = {}
    if not raw:
        return found
    for name, value in parse_qsl(raw.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=None):
        found.setdefault(name, value)
    return found


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

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        """The HTTP methods that the path of this request has; none where there is nothing at that path."""
        return () if self.nothing_below and any(wire.postpath) else self.methods

    def unknown(self, wire: GatewayRequestOnWire) -> NotFound:
        """The error for a request whose path has no method."""
        access = self.access
        base = access.address(wire.peer, wire.head, secure=wire.isSecure())
        return target.unknown(wire.path, base, access.path_taken_away)

    def is_open(self, wire: GatewayRequestOnWire, query: Mapping[str, str]) -> bool:
        """Whether a request needs no client key, whatever ``auth.mode`` says."""
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
        query = _query(wire)
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
        """Whether the request is for this gateway."""
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
        elif failure.check(HookFailed):
            error = GatewayError(f"{error}. The gateway's log says why.", reason="PLUGIN_FAILED")
        elif not isinstance(error, GatewayError):
            log.failure("{request_id}: the request failed", failure=failure, request_id=wire.id)
            error = GatewayError("The gateway failed to serve this request; its log says why.")
        assert isinstance(error, GatewayError)
        self.gateway.tally.refused(error.error_reason)
        if wire.startedWriting:
            wire.channel.break_off(wire)
        else:
            wire.send(error.status, error.headers(), self.gateway.redactor.body(error.body()))


def send_json(wire: GatewayRequestOnWire, document: object) -> None:
    """Answer 200 with a document, laid out as Google does."""
    wire.send(200, [], msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


class Health(ApiResource):
    """``GET /healthz``."""

    is_health = True
    nothing_below = True

    async def respond(self, visit: Visit) -> None:
        visit.wire.send(200, [], b'{"status":"ok"}')


class Ready(ApiResource):
    """``GET /readyz``: whether requests should come here; not while the gateway stops."""

    is_health = True
    nothing_below = True

    async def respond(self, visit: Visit) -> None:
        if visit.wire.site.draining:
            raise Unavailable("The gateway is stopping.", reason="STOPPING", retry_after=1.0)
        visit.wire.send(200, [], b'{"status":"ok"}')


class Unknown(ApiResource):
    """Every path that is not another's."""

    methods = ()


class Gemini(ApiResource):
    """The Gemini API of one version: lists models, describes one, and relays calls."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__(gateway, access)
        self._answers = Answers(gateway)

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        try:
            return target.methods_of(wire.path)
        except NotFound:
            pass
        try:  # some calls make what is owned: they come here only where another method is asked for
            return () if ownership.parse(wire.path, "POST") is None else ("POST",)
        except GatewayError:
            return ("POST",)

    def respond(self, visit: Visit) -> Awaitable[None]:
        return self._call(visit) if visit.wire.method == b"POST" else self._list(visit)

    async def _list(self, visit: Visit) -> None:
        """The list of models, or one of them."""
        asked = target.parse_collection(visit.wire.path)
        catalog = await self.gateway.models.fresh_catalog()
        if isinstance(asked, target.ModelList):
            send_json(visit.wire, catalog.page(visit.query.get("pageSize"), visit.query.get("pageToken")))
            return
        found = catalog.get(asked.model)
        if found is None:
            raise NotFound(f"models/{asked.model} is not found for API version {asked.version}.")
        send_json(visit.wire, found)

    def _call(self, visit: Visit) -> Awaitable[None]:
        """One call, from the parsed target to the end of its answer."""
        gateway, wire = self.gateway, visit.wire
        asked: _Call | None = wire.head.found.get(_Call)
        length = wire.head.first.get(b"content-length")
        if asked is None or asked.config is not gateway.config or asked.length != length:
            call = target.parse_call(wire.path)
            asked = wire.head.found[_Call] = _Call(
                config=gateway.config,
                length=length,
                path=wire.path.decode("ascii", "backslashreplace"),
                call=call,
                framing=framing_of(call.method, visit.query, gateway.config.gateway.stream_default),
                query=MappingProxyType({k: v for k, v in visit.query.items() if k not in CREDENTIAL_PARAMETERS}),
                headers=MappingProxyType(plain_headers(wire)),
            )
        inbound = InboundCall(
            wire.id,
            asked.path,
            asked.call,
            asked.framing,
            asked.query,
            asked.headers,
            visit.key,
            decoded_body(wire),
            gateway.wall(),
        )
        prepared = gateway.calls.prepare(inbound)
        if visit.key is not None and gateway.clients.limits_streams:
            return self._answer_one_of(visit.key, wire, prepared)
        return self._answers.answer(wire, prepared)

    async def _answer_one_of(self, key: ClientKey, wire: GatewayRequestOnWire, prepared: Prepared) -> None:
        """Answer a call of a client key that may have only so many answered at once."""
        with self.gateway.clients.stream_of(key):
            await self._answers.answer(wire, prepared)


def framing_of(method: str, query: Mapping[str, str], default: str) -> Framing:
    """
    How the client wants the answer.

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
    The request's body, inflated if it was compressed.

    :raises UnsupportedMedia: for an encoding other than gzip.
    :raises BodyTooLarge: if it inflates beyond the limit.
    """
    return wire.body if b"content-encoding" not in wire.head.first else decoded(wire, wire.body, wire.limit)


def decoded(wire: GatewayRequestOnWire, body: bytes, limit: int) -> bytes:
    """
    The body of a request, inflated if it was compressed.

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


class Root(Resource):
    """
    The first segment of a path: an API version, ``healthz``, or what plugins add.

    Paths of resources that accounts have for themselves are looked at as a whole, and are `owned`'s; the path ``/`` is
    `home`'s.
    """

    def __init__(
        self, gateway: Gateway, access: Access, owned: IResource | None = None, home: IResource | None = None
    ) -> None:
        super().__init__()
        self._gateway = gateway
        self._unknown = Unknown(gateway, access)
        self.owned = owned
        self.home = home
        self.calls = api = Gemini(gateway, access)
        for segment in (*target.VERSIONS, "models"):
            self.putChild(segment.encode("ascii"), api)
        self.putChild(b"healthz", Health(gateway, access))
        self.putChild(b"readyz", Ready(gateway, access))

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        """Whose path it is."""
        if self.owned is not None and self._is_owned(request):
            return self.owned
        found: IResource = super().getChildWithDefault(path, request)
        return found

    def _is_owned(self, wire: GatewayRequestOnWire) -> bool:
        try:
            asked = ownership.parse(wire.path, wire.method.decode("ascii", "replace"))
        except GatewayError:
            return True  # it will say so
        if asked is None:
            return False
        # a tuned model may be described here, as every model of the list
        listed = asked.collection == "tunedModels" and wire.method in (b"GET", b"HEAD") and asked.name is not None
        return not (listed and self._gateway.models.catalog.get(asked.name or "") is not None)

    def getChild(self, path: bytes, request: Any) -> IResource:
        """Leading slashes say nothing; what is not known is answered as such."""
        if path == b"":
            return self if request.postpath else self.home or self._unknown
        return self._unknown
