"""``/_agm/status``: how the gateway stands, as one JSON document."""

from __future__ import annotations

from agm.web.admin.base import AdminResource
from agm.web.admin.describe import describe_status
from agm.web.base import Visit


class Status(AdminResource):
    """``GET /_agm/status``: how the gateway stands."""

    async def respond_to_admin(self, visit: Visit) -> None:
        self.tell(visit, describe_status(self.gateway))
