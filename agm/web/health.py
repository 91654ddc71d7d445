"""``GET /healthz`` and ``GET /readyz``: whether the gateway runs, and whether requests should come here."""

from __future__ import annotations

from agm.core.errors import Unavailable
from agm.web.base import ApiResource, Visit


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
        site = visit.wire.site
        if site.leaving or site.draining:
            raise Unavailable("The gateway is stopping.", reason="STOPPING", retry_after=1.0)
        visit.wire.send(200, [], b'{"status":"ok"}')
