"""``/_agm/cluster``: the machines and workers that are one gateway, and whether they agree."""

from __future__ import annotations

from agm.web.admin.base import AdminResource
from agm.web.admin.whole import describe_cluster
from agm.web.base import Visit


class ClusterView(AdminResource):
    """``GET /_agm/cluster``: machines, workers, versions, agreement."""

    async def respond_to_admin(self, visit: Visit) -> None:
        self.tell(visit, await describe_cluster(self.gateway))
