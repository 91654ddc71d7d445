"""``/_agm/keys``: the client keys, their limits and their use."""

from __future__ import annotations

from agm.web.admin.base import AdminResource
from agm.web.admin.describe import describe_key
from agm.web.base import Visit


class ClientKeys(AdminResource):
    """``GET /_agm/keys``: the limits of each client key, and what it has used of them today."""

    async def respond_to_admin(self, visit: Visit) -> None:
        self.tell(visit, {"client_keys": [describe_key(self.gateway, key) for key in self.gateway.clients.client_keys]})
