"""``/_agm``: a resource is a module beside this one, and a line here."""

from __future__ import annotations

from typing import Any

from twisted.web.resource import IResource, Resource

from agm.serving.gateway import Gateway
from agm.web.access import Access
from agm.web.admin.accounts import Accounts
from agm.web.admin.aliases import Aliases
from agm.web.admin.client_keys import ClientKeys
from agm.web.admin.cluster import ClusterView
from agm.web.admin.events import Events
from agm.web.admin.explain import Explain
from agm.web.admin.forecast import Forecast
from agm.web.admin.plugins import Plugins
from agm.web.admin.request_log import Log
from agm.web.admin.status import Status
from agm.web.admin.usage import Usage
from agm.web.base import Unknown


class AdminRoot(Resource):
    """Everything below ``/_agm``."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__()
        self._unknown = Unknown(gateway, access)
        self.putChild(b"accounts", Accounts(gateway, access))
        self.putChild(b"aliases", Aliases(gateway, access))
        self.putChild(b"cluster", ClusterView(gateway, access))
        self.putChild(b"events", Events(gateway, access))
        self.putChild(b"explain", Explain(gateway, access))
        self.putChild(b"forecast", Forecast(gateway, access))
        self.putChild(b"keys", ClientKeys(gateway, access))
        self.putChild(b"log", Log(gateway, access))
        self.putChild(b"plugins", Plugins(gateway, access))
        self.putChild(b"status", Status(gateway, access))
        self.putChild(b"usage", Usage(gateway, access))

    def getChild(self, path: bytes, request: Any) -> IResource:
        """There is nothing else."""
        return self._unknown

    def render(self, request: Any) -> int:
        """Nor is it something itself."""
        return self._unknown.render(request)
