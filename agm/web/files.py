"""
Files, cached contents, batches and the other resources that an account has for itself, relayed to their account.

The paths are Google's, and so are the bodies, which are not looked into but for the names of resources.  Lists are put
together from those of all accounts.  Nothing is kept here: who has what is known to :mod:`agm.core.ownership`.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl, quote, urlencode

import attrs
import msgspec

from agm.core import ownership
from agm.core.answers import Framing
from agm.core.errors import InvalidRequest, NotFound, Unimplemented
from agm.core.kinds import METHODS
from agm.core.ownership import OwnedTarget, Page
from agm.core.request import Body, GatewayRequest, ModelChoice
from agm.core.target import bare_model, quote_model
from agm.defaults.wrapping import USER_AGENT
from agm.gateway import Gateway
from agm.owned import Lists, ResourceAttempts, Search, names_in, owner_of
from agm.web.resources import CREDENTIAL_PARAMETERS, Gemini, Visit, decoded_body, plain_headers
from agm.web.site import GatewayRequestOnWire

#: Headers of a client's that go along: they are about the resource, not about who asks or over which hop.
FORWARDED = (
    "content-type",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "x-server-timeout",
)
#: A list's page is never asked for with more than this.
MAX_PAGE = 1000
#: Collections whose resources are not listed as a whole.
_WITHOUT_A_LIST = frozenset({"operations", "models"})


class _Model(msgspec.Struct):
    """As much of a new resource as says which model it is for."""

    model: str = ""
    baseModel: str = ""


class Owned(Gemini):
    """Resources that accounts have for themselves, and calls that make such."""

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        return ("GET", "POST", "PATCH", "DELETE")

    async def respond(self, visit: Visit) -> None:
        wire = visit.wire
        asked = ownership.parse(wire.path, wire.method.decode("ascii"))
        if asked is None:
            raise NotFound("The path is not known: the Gemini API has no such method of this resource.")
        if asked.way == "upload":
            raise Unimplemented("Uploads are not relayed.", reason="UPLOADS_NOT_RELAYED")
        body = decoded_body(wire)
        await self._answer(wire, OwnedPreparation(self.gateway, visit, asked, body))


class OwnedPreparation:
    """
    The steps before a request about a resource is sent: hold the key to its limits, find the owner.

    :ivar request: the request as plugins see it; its model is empty where it is about no model.
    """

    def __init__(self, gateway: Gateway, visit: Visit, asked: OwnedTarget, body: bytes) -> None:
        self._gateway = gateway
        self._visit = visit
        self._asked = asked
        self._http_method = visit.wire.method.decode("ascii")
        self._query = [
            (name, value)
            for name, value in parse_qsl(visit.wire.uri.partition(b"?")[2].decode("ascii", "replace"), True)
            if name not in CREDENTIAL_PARAMETERS
        ]
        model = asked.model or (_model_in(body) if self._http_method == "POST" else "")
        self.request = GatewayRequest(
            id=visit.wire.id,
            path=visit.wire.path.decode("ascii", "backslashreplace"),
            version=asked.version,
            method=asked.method(self._http_method),
            asked_model=model,
            model=model,
            framing=Framing.UNARY,
            query=dict(reversed(self._query)),
            headers=plain_headers(visit.wire),
            client_key=None if visit.key is None else visit.key.name,
            received_at=gateway.wall(),
            body=Body(body),
            upstream_framing=Framing.UNARY,
        )

    async def run(self) -> ResourceAttempts | Search | Lists:
        """
        Take the steps.

        :raises GatewayError: if the request may not be made.
        """
        gateway, asked, request = self._gateway, self._asked, self.request
        mapped = ModelChoice(request.model, "as asked")
        path = asked.path
        if asked.model:
            mapped = gateway.hooks.map_model(gateway.catalog.id_of(asked.model), request)
            request = self.request = attrs.evolve(request, model=mapped.model)
            path = f"/{asked.version}/models/{quote_model(mapped.model)}:{asked.verb}"
        if self._visit.key is not None:
            gateway.admit(self._visit.key, request.asked_model)
        name = None if asked.name is None else ownership.root(asked.name)
        owned = owner_of(gateway, [name] if name is not None else names_in("", request.body))
        attempts = ResourceAttempts(
            gateway,
            request,
            request.body.raw,
            mapped,
            owner=None if owned is None else owned[0],
            owned="" if owned is None else owned[1],
            name=name,
            path=path + _query(self._query),
            http_method=self._http_method,
            headers=_headers(request, body=bool(request.body.raw)),
        )
        able = sum(request.method in METHODS[account.kind] for account in gateway.pool.accounts)
        if owned is not None or able < 2:
            return attempts
        if name is not None:
            return Search(attempts)
        if request.method.endswith(".list") and asked.collection not in _WITHOUT_A_LIST:
            return self._lists(attempts, path)
        return attempts

    def _lists(self, attempts: ResourceAttempts, path: str) -> Lists:
        size, token = self.request.query.get("pageSize", ""), self.request.query.get("pageToken", "")
        if size and not (size.isascii() and size.isdigit() and len(size) < 10):
            raise InvalidRequest(f"Invalid value for pageSize: {size[:40]!r}.")
        rest = [(name, value) for name, value in self._query if name not in ("pageSize", "pageToken")]

        def path_of(size: int | None, token: str) -> str:
            own = [("pageSize", str(size))] if size is not None else []
            return path + _query([*rest, *own, *([("pageToken", token)] if token else [])])

        wanted = min(int(size), MAX_PAGE) if size and int(size) else None
        return Lists(attempts, wanted, Page.decode(token) if token else None, path_of)


def _model_in(body: bytes) -> str:
    """The model that a new resource is for, or nothing."""
    if b"odel" not in body:
        return ""
    try:
        found = msgspec.json.decode(body, type=_Model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return bare_model(found.model or found.baseModel)


def _query(parameters: Sequence[tuple[str, str]]) -> str:
    return "?" + urlencode(parameters, quote_via=quote) if parameters else ""


def _headers(request: GatewayRequest, *, body: bool) -> tuple[tuple[bytes, bytes], ...]:
    found = [
        (name.encode("ascii"), request.headers[name].encode("latin-1"))
        for name in FORWARDED
        if name in request.headers and (body or name != "content-type")
    ]
    return (*found, (b"User-Agent", USER_AGENT.encode("ascii")))
