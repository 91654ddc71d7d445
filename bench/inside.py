"""A plugin that shows what a gateway holds, for the benchmarks: ``GET /inside``.  Nobody else should load it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from agm import hookimpl
from agm.api import ApiResource, Visit
from agm.serving.attempts import Attempts
from agm.upstream.client import UpstreamBody
from agm.web.channel import GatewayChannel
from agm.web.relay import Relay
from agm.web.request import GatewayRequestOnWire

#: What must be gone when its request has ended.
_PASSING = (Attempts, GatewayChannel, GatewayRequestOnWire, Relay, UpstreamBody)


def tidy() -> None:
    """Let go of what nobody needs: what is resident afterwards is in use."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another libc than GNU's
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Inside(ApiResource):
    """Counts of what the process holds, after it was tidied up.  The one who asks is among them."""

    async def respond(self, visit: Visit) -> None:
        tidy()
        gateway, site = self.gateway, visit.wire.site
        objects = gc.get_objects()
        held = {kind.__name__: sum(1 for it in objects if type(it) is kind) for kind in _PASSING}
        connections = gateway.client.connections().values()
        counts = {
            "timers": len(gateway.reactor.getDelayedCalls()),
            "leases": sum(gateway.pool.loads().values()),
            "waiting": gateway.pool.waiting(),
            "clients": len(site.channels),
            "reserved": site.reserved,
            "used": sum(used for used, _ in connections),
            "idle": sum(idle for _, idle in connections),
            **held,
        }
        visit.wire.send(200, [], msgspec.json.encode(counts))


@hookimpl
def agm_resources(site: Any) -> Mapping[str, Any]:
    return {"inside": Inside(site.gateway, site.access)}
