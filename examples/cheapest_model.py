"""
Serve the model ``auto`` by the smallest model that is good enough for the size of the prompt.

Copy this file into the folder of ``[plugins] path``; its settings, with their defaults::

    [plugins.cheapest_model]
    name = "auto"                                     # what clients ask for
    otherwise = "gemini-2.5-pro"                      # beyond all limits
    [plugins.cheapest_model.up_to]                    # tokens, roughly: four bytes of the body are one
    "gemini-2.5-flash-lite" = 2000
    "gemini-2.5-flash" = 30000

The size is that of the body as it was sent, so it costs nothing to look at, and pictures count by their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agm.api import GatewayRequest, ModelChoice, hookimpl

BYTES_PER_TOKEN = 4

settings: dict[str, Any] = {}


@hookimpl
def agm_configure(config: Any) -> None:
    """Read the table, smallest limit first."""
    table = config.plugins.tables.get("cheapest_model", {})
    up_to: Mapping[str, int] = table.get("up_to", {"gemini-2.5-flash-lite": 2_000, "gemini-2.5-flash": 30_000})
    settings.clear()
    settings["name"] = table.get("name", "auto")
    settings["otherwise"] = table.get("otherwise", "gemini-2.5-pro")
    settings["up_to"] = sorted((limit, model) for model, limit in up_to.items())


@hookimpl
def agm_map_model(model: str, request: GatewayRequest) -> ModelChoice | None:
    """The first model whose limit the prompt does not exceed."""
    if model != settings["name"]:
        return None
    tokens = len(request.body.raw) // BYTES_PER_TOKEN
    for limit, cheap in settings["up_to"]:
        if tokens <= limit:
            return ModelChoice(cheap, f"about {tokens} tokens, at most {limit}")
    return ModelChoice(settings["otherwise"], f"about {tokens} tokens, beyond every limit")
