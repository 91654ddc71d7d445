"""
Live sessions: the paths that open a WebSocket, and who may.

A refusal is an HTTP status, before the upgrade: libraries show nothing else of it.  What follows the upgrade is
:mod:`agm.web.session`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from agm.core import live
from agm.core.client_keys import ClientKey
from agm.core.errors import GatewayError, InvalidRequest, Unauthenticated
from agm.core.live import Pin
from agm.core.wire.websocket import (
    NotAnUpgrade,
    accept_of,
    upgrade_key,
)
from agm.net.writes import send
from agm.web.answering import AnsweringResource
from agm.web.base import Visit
from agm.web.request import SERVER, GatewayRequestOnWire
from agm.web.session import Session

if TYPE_CHECKING:
    pass

_HANDSHAKE = (b"upgrade", b"connection", b"sec-websocket-version", b"sec-websocket-key")


class UpgradeRequired(GatewayError):
    """426: the path is a WebSocket's."""

    status, reason = 426, "UPGRADE_REQUIRED"

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [*super().headers(), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13")]


class LiveSessions(AnsweringResource):
    """The paths of Live sessions."""

    methods = ("GET",)

    def claims(self, wire: GatewayRequestOnWire) -> bool:
        """See :class:`agm.web.answering.AnsweringResource`."""
        return live.parse(wire.path) is not None

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        return self.methods

    def is_open(self, wire: GatewayRequestOnWire, query: Mapping[str, str]) -> bool:
        """Return a token that is known needs no key beside it."""
        token = token_of(wire, query)
        return token is not None and self.gateway.pins.find(token, self.gateway.wall()) is not None

    async def respond(self, visit: Visit) -> None:
        """Grant the upgrade, or say why not."""
        wire, gateway = visit.wire, self.gateway
        target = live.parse(wire.path)
        assert target is not None, "claims() says so"
        try:
            accept = accept_of(
                upgrade_key(wire.method, wire.head.version, {name: wire.head.values(name) for name in _HANDSHAKE})
            )
        except NotAnUpgrade as e:
            raise (UpgradeRequired if e.status == 426 else InvalidRequest)(str(e), reason="UPGRADE_INVALID") from None
        key, token, pin = visit.key, token_of(wire, visit.query), None
        if token is not None:
            pin = gateway.pins.find(token, gateway.wall())
            if pin is None:
                raise Unauthenticated(
                    "This ephemeral token is not known to this gateway, or has expired. Make one with "
                    "POST /v1alpha/auth_tokens at the gateway.",
                    reason="TOKEN_INVALID",
                )
            key = self._key_of(pin)
        release = gateway.sessions.admit(key)
        channel = wire.channel
        session = Session(gateway, visit, target, key, token, pin, release)
        send(
            channel.transport,
            b"HTTP/1.1 101 Switching Protocols\r\nServer: %b\r\nX-Agm-Request-Id: %b\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % (SERVER, wire.id.encode("ascii"), accept),
        )
        wire.startedWriting = 1
        wire.code = 101
        session.begin(channel.upgrade(session))

    def _key_of(self, pin: Pin) -> ClientKey | None:
        """
        Return the client key that has made a token.

        :raises Unauthenticated: if it is gone.
        """
        if pin.client_key is None:
            return None
        known = next((key for key in self.gateway.clients.client_keys if key.name == pin.client_key), pin.key)
        if known is None:
            raise Unauthenticated("The client key that has made this token is not known to this gateway any more.")
        return cast(ClientKey, known)


def token_of(wire: GatewayRequestOnWire, query: Mapping[str, str]) -> str | None:
    """Return the ephemeral token that a request carries; None if there is none."""
    scheme, _, token = (wire.header(b"authorization") or "").strip().partition(" ")
    places = (
        token.strip() if scheme.lower() in ("token", "bearer") else "",
        query.get("access_token", ""),
        wire.header(b"x-goog-api-key") or "",
        query.get("key", ""),
    )
    return next((place.strip() for place in places if place.strip().startswith(live.TOKEN)), None)
