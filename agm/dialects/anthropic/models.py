"""``GET /v1/models`` and ``/v1/models/{id}``: the gateway's list of models in Anthropic's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agm.api import Visit, send_json, unknown_model
from agm.dialects.base import BadParameter, Dialect

__all__ = ["answer"]

USUAL, MOST = 20, 1000


def _described(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a model; "May be set to an epoch value if the release date is unknown", and Google does not tell it."""
    model = str(resource["name"]).removeprefix("models/")
    return {
        "type": "model",
        "id": model,
        "display_name": str(resource.get("displayName") or model),
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": resource.get("inputTokenLimit"),
        "max_tokens": resource.get("outputTokenLimit"),
    }


async def answer(dialect: Dialect, visit: Visit, model: str) -> None:
    """
    Answer with a page of the models, or with one.

    :raises NotFound: if there is no such model; it names the alias to write.
    """
    listed = [_described(resource) for resource in await dialect.gateway.list_models()]
    if model:
        found = next((one for one in listed if one["id"] == model.removeprefix("models/")), None)
        if found is None:
            raise unknown_model(model)
        send_json(visit.wire, found)
        return
    page, more = _page(listed, visit.query)
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    send_json(visit.wire, {"data": page, "has_more": more, **ends})


def _page(listed: list[dict[str, Any]], query: Mapping[str, str]) -> tuple[list[dict[str, Any]], bool]:
    """Return the models after one, or before one, and whether there are more that way."""
    limit = query.get("limit", str(USUAL))
    if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit) <= MOST:
        raise BadParameter("limit", f"1 to {MOST} is expected.")
    places = {one["id"]: number for number, one in enumerate(listed)}
    for name in ("after_id", "before_id"):
        if name in query and query[name] not in places:
            raise BadParameter(name, "no model has this id.")
    if "before_id" in query:
        end = places[query["before_id"]]
        begin = max(0, end - int(limit))
        return listed[begin:end], begin > 0
    begin = places[query["after_id"]] + 1 if "after_id" in query else 0
    return listed[begin : begin + int(limit)], begin + int(limit) < len(listed)
