"""
Anthropic's Messages API, spoken to its clients: ``/v1/messages`` and ``/anthropic/v1/…``.

This is the plugin; what an endpoint does is imported with the first request to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agm import hookimpl

if TYPE_CHECKING:
    from agm.api import Site


@hookimpl
def agm_resources(site: Site) -> dict[str, Any]:
    """Add the endpoints."""
    from agm.dialects.anthropic.resource import ENDPOINTS, Anthropic

    resource = Anthropic(site.gateway, site.access)
    site.dialects[resource.name] = resource.translate
    return {"anthropic": resource, **{f"v1/{endpoint}": resource for endpoint in ENDPOINTS}}
