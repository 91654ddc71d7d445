"""
Tuned models of the Developer API: made from examples, looked at, changed and deleted.

The training data may be missing, as google-genai 3.6 leaves it out.  A model is being created until it or its operation
is looked at for the second time; calling it works all along.
"""

from __future__ import annotations

from typing import Any

from agm.emulator import errors
from agm.emulator.errors import timestamp
from agm.emulator.holdings import Operation, Staged
from agm.emulator.stored import Context, listed, owned, route

_PACKAGE = "type.googleapis.com/google.ai.generativelanguage.v1beta."
_STATES = ("CREATING", "CREATING", "ACTIVE")
#: What may be changed of a tuned model.
_MUTABLE = ("displayName", "description", "temperature", "topP", "topK", "readerProjectNumbers")


def _create(context: Context) -> dict[str, Any]:
    message = context.read("TunedModel")
    examples = message.get("tuningTask", {}).get("trainingData", {}).get("examples", {}).get("examples") or ()
    base = message.get("baseModel") or message.get("tunedModelSource", {}).get("baseModel", "")
    if not base:
        raise errors.invalid_argument("* CreateTunedModelRequest.tuned_model.source_model: must be specified\n")
    identifier = context.call.query.get("tunedModelId") or context.new_id()
    name, now = f"tunedModels/{identifier}", timestamp(context.now)
    task = {key: value for key, value in message.get("tuningTask", {}).items() if key != "trainingData"}
    described = {key: message[key] for key in _MUTABLE if key in message}
    model = Staged(
        name=name,
        account=context.account,
        described={
            **described,
            "baseModel": base,
            "createTime": now,
            "updateTime": now,
            "tuningTask": {"startTime": now, **task},
        },
        states=_STATES,
    )
    context.holdings.staged[name] = model
    metadata = {"@type": f"{_PACKAGE}CreateTunedModelMetadata", "tunedModel": name, "totalSteps": len(examples)}

    def finish() -> None:
        model.end("ACTIVE")

    operation = Operation(
        name=f"{name}/operations/{context.new_id()}",
        account=context.account,
        response={"@type": f"{_PACKAGE}TunedModel", **model.resource(), "state": "ACTIVE"},
        metadata=metadata,
        looks=2,
        then=finish,
    )
    context.holdings.operations[operation.name] = operation
    return operation.resource()


def _model(context: Context) -> Staged:
    return context.holdings.one_staged(context.name, context.account)


def _list(context: Context) -> dict[str, Any]:
    models = [one for one in owned(context, context.holdings.staged.values()) if one.name.startswith("tunedModels/")]
    return listed(context, "tunedModels", [one.resource() for one in models], default=10)


def _get(context: Context) -> dict[str, Any]:
    model = _model(context)
    model.look()
    return model.resource()


def _patch(context: Context) -> dict[str, Any]:
    model, message = _model(context), context.read("TunedModel")
    mask = context.call.query.get("updateMask", "")
    changed = {key: message[key] for key in _MUTABLE if key in message and (not mask or key in mask.split(","))}
    if not changed:
        raise errors.invalid_argument("* UpdateTunedModelRequest.update_mask: nothing that can be updated\n")
    model.described |= {**changed, "updateTime": timestamp(context.now)}
    return model.resource()


def _delete(context: Context) -> dict[str, Any]:
    del context.holdings.staged[_model(context).name]
    return {}


def _cancel(context: Context) -> dict[str, Any]:
    model = _model(context)
    if model.state == "CREATING":
        model.end("FAILED")
    return {}


def _operation(context: Context) -> dict[str, Any]:
    return context.holdings.operation(context.name, context.account).look()


ROUTES = (
    route(r"tunedModels", "POST", "CreateTunedModel", _create),
    route(r"tunedModels", "GET", "ListTunedModels", _list),
    route(r"(tunedModels/[^/:]+)", "GET", "GetTunedModel", _get),
    route(r"(tunedModels/[^/:]+)", "PATCH", "UpdateTunedModel", _patch),
    route(r"(tunedModels/[^/:]+)", "DELETE", "DeleteTunedModel", _delete),
    route(r"(tunedModels/[^/:]+):cancel", "POST", "CancelTunedModel", _cancel),
    route(r"(tunedModels/[^/:]+/operations/[^/:]+)", "GET", "GetOperation", _operation),
)
