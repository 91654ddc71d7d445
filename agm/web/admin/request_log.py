"""
The request log for the person who runs the gateway: ``/_agm/log`` says how it stands, ``/_agm/log/bodies`` has bodies
kept for a time.  What is in the log is read from its file, by ``agm log`` and ``agm usage``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.web.resource import IResource

from agm.core.errors import NOT_JSON, InvalidRequest, NotFound
from agm.observe.peers import added
from agm.observe.requestlog.writer import MOST_BODIES
from agm.serving.gateway import Gateway
from agm.web.access import Access
from agm.web.admin.base import AdminResource
from agm.web.admin.describe import config_of
from agm.web.base import Unknown, Visit

OFF = "The request log is off: [request_log] enabled is false, or the gateway has no configuration file."


def describe_log(gateway: Gateway) -> dict[str, Any]:
    """Describe the state of the request log as a JSON document; see docs/request-log.md."""
    found = gateway.request_log
    if found is None:
        return {"enabled": False, "config": config_of(gateway)}
    return {
        "enabled": True,
        "config": config_of(gateway),
        "path": str(found.path),
        "written": found.written,
        "waiting": found.waiting,
        "dropped": found.dropped,
        "failing": found.failing,
        "bodies_seconds_left": round(found.bodies_left, 1),
    }


class Log(AdminResource):
    """``GET /_agm/log``: how the request log stands."""

    isLeaf = False

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__(gateway, access)
        self._unknown = Unknown(gateway, access)
        self.putChild(b"bodies", LogBodies(gateway, access))

    def getChild(self, path: bytes, request: Any) -> IResource:
        """There is nothing else."""
        return self._unknown

    async def respond_to_admin(self, visit: Visit) -> None:
        self.tell(visit, await log_of_all(self.gateway))


async def log_of_all(gateway: Gateway) -> dict[str, Any]:
    """Describe the state of the request log, into which all workers write."""
    found = describe_log(gateway)
    if gateway.peers is None or not found["enabled"]:
        return found
    answers, _ = await gateway.peers.ask("log")
    every = [answer.document for answer in answers]
    failing = next((it["failing"] for it in every if it["failing"] is not None), None)
    return {**found, **added(every, "written", "waiting", "dropped"), "failing": failing}


def keep_bodies(gateway: Gateway, seconds: float) -> None:
    """Have this process keep bodies for a time."""
    if gateway.request_log is not None:
        gateway.request_log.keep_bodies(seconds)


class _Wish(msgspec.Struct, forbid_unknown_fields=True):
    seconds: float


class LogBodies(AdminResource):
    """``POST /_agm/log/bodies``: have bodies kept for so many seconds; 0 ends it at once."""

    methods = ("POST",)
    for_admins = True

    async def respond_to_admin(self, visit: Visit) -> None:
        found = self.gateway.request_log
        if found is None:
            raise NotFound(OFF)
        try:
            seconds = msgspec.json.decode(visit.wire.body, type=_Wish).seconds
        except NOT_JSON as e:
            raise InvalidRequest(f"This does not say for how long bodies are to be kept: {e}") from None
        if not 0 <= seconds <= MOST_BODIES:
            raise InvalidRequest(f"Bodies are kept for 0 to {MOST_BODIES:g} seconds.")
        if self.gateway.peers is None:
            keep_bodies(self.gateway, seconds)
        else:
            await self.gateway.peers.ask("bodies", seconds)
        self.tell(visit, await log_of_all(self.gateway))
