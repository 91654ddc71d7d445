"""``/_agm/forecast``: when accounts are back, and when at this pace the others are out."""

from __future__ import annotations

from agm.serving.forecast import forecast
from agm.web.admin.base import AdminResource
from agm.web.base import Visit


class Forecast(AdminResource):
    """``GET /_agm/forecast``: what comes next."""

    async def respond_to_admin(self, visit: Visit) -> None:
        self.tell(visit, forecast(self.gateway))
