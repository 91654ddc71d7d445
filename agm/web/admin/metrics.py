"""
``GET /metrics``: what Prometheus reads.

Open like ``/_agm``, to this machine and to client keys with ``admin = true``.  Where the configuration names a token it
is open to whoever shows that one, from anywhere; then this machine alone is no reason to be let in, because a proxy on
it may bring others along.
"""

from __future__ import annotations

from collections.abc import Mapping

from agm.core.client_keys import ClientKey, KeyRing, presented_keys
from agm.core.errors import Forbidden, NotFound
from agm.observe.metrics import Metrics
from agm.serving.gateway import Gateway
from agm.web.access import Access
from agm.web.base import ApiResource, Visit
from agm.web.request import GatewayRequestOnWire


class Scrape(ApiResource):
    """The metrics of a gateway."""

    nothing_below = True

    def __init__(self, gateway: Gateway, access: Access, metrics: Metrics) -> None:
        super().__init__(gateway, access)
        self._metrics = metrics
        self._ring: tuple[str, KeyRing] | None = None

    def is_open(self, wire: GatewayRequestOnWire, query: Mapping[str, str]) -> bool:
        """Whoever shows the token needs no client key."""
        digest = self.gateway.config.metrics.digest
        if digest is None:
            return False
        if self._ring is None or self._ring[0] != digest:
            self._ring = (digest, KeyRing([ClientKey("metrics", digest)]))
        shown = presented_keys({name: wire.head.first[name] for name in (b"authorization",) if name in wire.head.first})
        return any(self._ring[1].lookup(token) is not None for token in shown)

    async def respond(self, visit: Visit) -> None:
        config = self.gateway.config.metrics
        if not config.enabled:
            raise NotFound("There are no metrics here: [metrics] enabled is false.")
        admin = visit.key is not None and visit.key.admin
        if config.digest is not None:
            if not admin and not self.is_open(visit.wire, visit.query):
                raise Forbidden(
                    "This is open to the bearer of the [metrics] token, and to client keys with admin = true.",
                    reason="METRICS_TOKEN_MISSING",
                )
        elif not admin and not visit.wire.sender.local:
            raise Forbidden(
                "This is open to the gateway's own machine, to client keys with admin = true, and to the bearer of "
                "the [metrics] token, if one is configured.",
                reason="ADMIN_ONLY",
            )
        exposition = await self._metrics.expose_all(visit.header("accept") or "")
        visit.wire.send(200, [(b"Content-Type", exposition.content_type.encode("ascii"))], exposition.body)
