"""
Ephemeral tokens: ``POST /V/auth_tokens`` makes one at an account, which a session shows in place of a key.

The token is its account's, and what it may do is what the client key may that has made it: both are remembered by its
digest.  The token itself passes through, and is kept out of every log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import attrs
import msgspec

from agm.core import documents, live
from agm.core.client_keys import ClientKey
from agm.core.errors import NOT_JSON, InvalidRequest
from agm.core.live import Pin
from agm.core.pool.lease import Lease
from agm.core.request import Account, GatewayRequest, UpstreamRequest
from agm.core.wire.answer_filters import CollectedBody, Framing
from agm.core.wire.target import ModelCall, bare_model
from agm.plugins.builtin.wrapping import USER_AGENT
from agm.serving.answers import MAX_ERROR, OpenAnswer
from agm.serving.attempts import Attempts
from agm.serving.context import ServingContext
from agm.serving.gateway import Gateway
from agm.serving.prepare import InboundCall, PrepareCall
from agm.serving.sharing import maker_of
from agm.serving.wrapping import CallWrapping
from agm.upstream.client import UpstreamAnswer, UpstreamBody
from agm.web.answering import AnsweringResource
from agm.web.base import Visit
from agm.web.inbound import decoded_body, plain_headers
from agm.web.request import GatewayRequestOnWire

_PATH = re.compile(rb"/+(?P<version>v1beta|v1alpha|v1)/+auth_tokens/?")
#: Google's default for how long a token can be used, in seconds, and the most that there may be.
LIFETIME, MOST_LIFETIME = 1800.0, 20 * 3600.0


class AuthTokens(AnsweringResource):
    """Where ephemeral tokens are made."""

    methods = ("POST",)

    def claims(self, wire: GatewayRequestOnWire) -> bool:
        """See :class:`agm.web.answering.AnsweringResource`."""
        return _PATH.fullmatch(wire.path) is not None

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        return self.methods

    async def respond(self, visit: Visit) -> None:
        """Make a token at an account that may serve the model it is for."""
        wire, gateway = visit.wire, self.gateway
        path = _PATH.fullmatch(wire.path)
        assert path is not None, "claims() says so"
        body = decoded_body(wire) or b"{}"
        document = _document(body)
        model = _model_of(document)
        calls = gateway.calls
        inbound = InboundCall(
            wire.id,
            wire.path.decode("ascii"),
            ModelCall(path["version"].decode("ascii"), model, "auth_tokens.create"),
            Framing.UNARY,
            MappingProxyType({}),
            MappingProxyType(plain_headers(wire)),
            visit.key,
            body,
            gateway.wall(),
        )
        await self.answer(wire, PrepareToken(gateway, calls.context, calls.prepare(inbound), visit.key, model))


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = documents.decode(body)
    except NOT_JSON:
        document = None
    if not isinstance(document, dict):
        raise InvalidRequest("The body has to be a JSON object, an AuthToken.", reason="BODY_UNREADABLE")
    return document


def _setup_of(document: Mapping[str, Any]) -> dict[str, Any] | None:
    setup = document.get("bidiGenerateContentSetup", document.get("bidi_generate_content_setup"))
    return setup if isinstance(setup, dict) else None


def _model_of(document: Mapping[str, Any]) -> str:
    setup = _setup_of(document)
    model = None if setup is None else setup.get("model")
    return bare_model(model) if isinstance(model, str) else ""


@attrs.define(eq=False)
class PrepareToken:
    """The steps before a token is made: those of a call for its model."""

    _gateway: Gateway
    _context: ServingContext
    _call: PrepareCall
    _key: ClientKey | None
    _model: str

    @property
    def request(self) -> GatewayRequest:
        """The request, as far as it is known."""
        return self._call.request

    async def run(self) -> Attempts:
        """Take them.  :raises GatewayError: if the token may not be made."""
        prepared = await self._call.run()
        assert isinstance(prepared.wrapping, CallWrapping), "it is a call's"
        wrapping = TokenWrapping(self._context, prepared.request, prepared.wrapping.body, self._learn)
        return Attempts(self._context, prepared.request, prepared.routing, wrapping, prepared.mapped)

    def _learn(self, account: Account, answer: bytes) -> None:
        """An account has made a token: it is this client's."""
        gateway, key = self._gateway, self._key
        try:
            name = documents.decode(answer)["name"]
        except (*NOT_JSON, KeyError, TypeError):
            return
        if not isinstance(name, str) or not name.startswith(live.TOKEN):
            return
        gateway.redactor.add_transient(name)
        now = gateway.wall()
        listed = key is None or any(known.name == key.name for known in gateway.clients.client_keys)
        ends = now + _lifetime(_document(self._call.request.body.raw), now)
        maker = maker_of(key)
        pin = Pin(account.name, maker.key or None, ends, self._model, None if listed else key, maker.team)
        gateway.pins.remember(name, pin)


def _lifetime(document: Mapping[str, Any], now: float) -> float:
    """For how many seconds a token can be used."""
    told = document.get("expireTime", document.get("expire_time"))
    try:
        ends = datetime.fromisoformat(str(told).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return LIFETIME
    return min(max(ends - now, 0.0), MOST_LIFETIME)


@attrs.define(eq=False)
class TokenWrapping(CallWrapping):
    """Sends what makes a token, with the model as the upstream calls it, and reads the name out of the answer."""

    _learn: Any

    def wrap(self, account: Account) -> UpstreamRequest:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        request, body = self._request, self._body
        setup = _setup_of(document := _document(body))
        if setup is not None and request.model and setup.get("model") != f"models/{request.model}":
            setup["model"] = f"models/{request.model}"
            body = msgspec.json.encode(document)
        headers = ((b"Content-Type", b"application/json"), (b"User-Agent", USER_AGENT.encode("ascii")))
        return UpstreamRequest(f"/{request.version}/auth_tokens", headers, body, Framing.UNARY)

    def at_head(self, answer: UpstreamAnswer, lease: Lease) -> OpenAnswer:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        account = lease.account

        def learn(body: bytes) -> bytes:
            self._learn(account, body)
            return body

        flow = UpstreamBody(
            CollectedBody(learn, limit=MAX_ERROR), self._context.deadlines, self._context.config.timeouts.idle
        )
        answer.deliver(flow)
        return OpenAnswer(answer, flow, account, Framing.UNARY, True, lease)
