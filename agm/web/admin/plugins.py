"""``/_agm/plugins``: the plugins, and how often each failed."""

from __future__ import annotations

from agm.web.admin.base import AdminResource
from agm.web.admin.describe import describe_plugins
from agm.web.base import Visit


class Plugins(AdminResource):
    """``GET /_agm/plugins``: the plugins in the order in which they are asked, and how often each failed."""

    async def respond_to_admin(self, visit: Visit) -> None:
        hooks = self.gateway.hooks
        self.tell(visit, describe_plugins(hooks.manager, hooks.failures))
