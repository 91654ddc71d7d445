"""``/_agm/status``: how the gateway stands, or one of its workers, as one JSON document."""

from __future__ import annotations

from agm.web.admin.base import AdminResource
from agm.web.admin.whole import status_of_all
from agm.web.base import Visit


class Status(AdminResource):
    """``GET /_agm/status``: how the gateway stands."""

    async def respond_to_admin(self, visit: Visit) -> None:
        self.tell(visit, await status_of_all(self.gateway, visit.query.get("worker")))
