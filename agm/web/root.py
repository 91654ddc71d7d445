"""
The resource tree: which surface has a path.

A surface is a module with a resource of its own, and one line here: in :attr:`Root.surfaces` if its paths lie below the
versions of the Gemini API, where it says itself which are its own, and else in the table of first segments.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.web.resource import IResource, Resource

from agm.config.problems import fail
from agm.core.errors import GatewayError
from agm.core.wire import target
from agm.plugins.hooks import HookFailed
from agm.plugins.manager import PluginError
from agm.serving.gateway import Gateway
from agm.web.access import Access
from agm.web.admin.metrics import Scrape
from agm.web.admin.root import AdminRoot
from agm.web.answering import AnsweringResource
from agm.web.auth_tokens import AuthTokens
from agm.web.base import ApiResource, Unknown
from agm.web.dashboard import Dashboard, Home
from agm.web.files import Owned
from agm.web.gemini import Gemini
from agm.web.health import Health, Ready
from agm.web.interactions import Interactions
from agm.web.live import LiveSessions
from agm.web.openai import OpenAI
from agm.web.site import GatewaySite
from agm.web.vertex import Vertex

_REPEATED = re.compile(rb"//+")
#: Connections served at once where nobody has asked how many descriptors the process has.
CONNECTIONS = 1000


class Root(Resource):
    """
    The root of the tree.

    :ivar calls: answers the calls of models, which :class:`agm.web.site.GatewaySite` leads there without a walk.
    :ivar segments: the first segments of paths that are the gateway's own.
    :ivar added: what plugins have added below the versions of the Gemini API, each with how its paths begin.
    :ivar surfaces: those that claim whole paths, in the order in which they are asked, before any segment is looked at.
    """

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__()
        self.added: list[tuple[bytes, Any]] = []
        self._home = Home(gateway, access)
        self._unknown = Unknown(gateway, access)
        self.calls = Gemini(gateway, access)
        self.owned = Owned(gateway, access)
        self.surfaces: tuple[AnsweringResource, ...] = (
            LiveSessions(gateway, access),
            AuthTokens(gateway, access),
            Interactions(gateway, access),
            self.owned,
            Vertex(gateway, access),
            OpenAI(gateway, access),
        )
        segments: dict[str, IResource] = {
            **dict.fromkeys((*target.VERSIONS, "models"), self.calls),
            "healthz": Health(gateway, access),
            "readyz": Ready(gateway, access),
            "upload": self._unknown,  # but for what is claimed
            "ws": self._unknown,  # likewise
            "metrics": Scrape(gateway, access, gateway.metrics),
            "_agm": AdminRoot(gateway, access),
            "ui": Dashboard(gateway, access),
        }
        self.segments = frozenset(segments)
        for segment, resource in segments.items():
            self.putChild(segment.encode("ascii"), resource)

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        """Find the resource of a path."""
        claiming = self._claiming(request)
        if claiming is not None:
            return claiming
        for surface in self.surfaces:
            if surface.claims(request):
                return surface
        found: IResource = super().getChildWithDefault(path, request)
        return found

    def _claiming(self, request: Any) -> ApiResource | None:
        """Find the plugin's resource that claims a request."""
        if self.added:
            asked = _REPEATED.sub(b"/", request.path) + b"/"
            for start, resource in self.added:
                if asked.startswith(start) and resource.claims(request):
                    return resource
        return None

    def error_body(self, request: Any, error: GatewayError) -> bytes:
        """Lay out an error in the form of the API that a request is for."""
        found = self._claiming(request)
        if found is None:
            first = request.path.lstrip(b"/").partition(b"/")[0]
            found = self.children.get(first)
        return found.error_body(error) if isinstance(found, ApiResource) else error.body()

    def getChild(self, path: bytes, request: Any) -> IResource:
        """Leading slashes say nothing; what is not known is answered as such."""
        if path == b"":
            return self if request.postpath else self._home
        return self._unknown


def make_site(gateway: Gateway, access: Access, *, connections: int = CONNECTIONS) -> GatewaySite:
    """
    Make the HTTP side of a gateway, with what plugins add to it.

    :param connections: how many are served at once where ``[limits] connections`` says nothing.
    :raises SystemExit: if a plugin takes a path that is the gateway's own, or fails.
    """
    root = Root(gateway, access)
    site = GatewaySite(
        root,
        calls=root.calls,
        reactor=gateway.reactor,
        max_body=gateway.config.gateway.max_body,
        limits=gateway.config.limits,
        timeouts=gateway.config.timeouts,
        connections=gateway.config.limits.connections or connections,
    )
    site.gateway, site.access = gateway, access
    try:
        added = gateway.hooks.resources(site, root.segments)
    except (PluginError, HookFailed) as e:
        fail(str(e))
    for path, resource in gateway.hooks.paths:
        root.added.append((f"/{path}/".encode("ascii"), resource))
        site.added.setdefault(f"/{path}".encode("ascii"), []).append(resource)
    for segment, resource in added.items():
        root.putChild(segment.encode("utf-8"), resource)
    return site
