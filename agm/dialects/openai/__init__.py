"""
OpenAI's API, spoken to its clients: ``/v1`` and ``/openai/v1``.

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
    from agm.dialects.openai.resource import ENDPOINTS, OpenAI

    resource = OpenAI(site.gateway, site.access)
    site.dialects[resource.name] = resource.translate
    return {"openai": resource, **{f"v1/{endpoint}": resource for endpoint in ENDPOINTS}}
