"""``GET /v1/models`` and ``/v1/models/{id}``: the gateway's list of models in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agm.api import Visit, send_json, unknown_model
from agm.dialects.base import Dialect


def _described(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a model; Google tells no date, and OpenAI's form has to have one."""
    model = str(resource["name"]).removeprefix("models/")
    return {"id": model, "object": "model", "created": 0, "owned_by": "google"}


async def answer(dialect: Dialect, visit: Visit, model: str) -> None:
    """
    Answer with all models, or with one.

    :raises NotFound: if there is no such model; it names the alias to write.
    """
    listed = [_described(resource) for resource in await dialect.gateway.list_models()]
    if not model:
        send_json(visit.wire, {"object": "list", "data": listed})
        return
    found = next((one for one in listed if one["id"] == model.removeprefix("models/")), None)
    if found is None:
        raise unknown_model(model)
    send_json(visit.wire, found)
