"""
What a project of Vertex AI has: cached contents, batch and tuning jobs, tuned models.

Names in answers hold the project's number, as Google's do; either the number or the id will do to ask.  A job moves on
each time it is looked at.  The buckets that jobs read and write are not looked into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agm.emulator import errors, storage
from agm.emulator.errors import timestamp
from agm.emulator.holdings import CACHE_LIFETIME, CachedContent, Staged, project_number
from agm.emulator.stored import Context, listed, owned, route

_JOB_STATES = ("JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED")


def _place(context: Context) -> str:
    """``projects/NUMBER/locations/LOCATION``, without which nothing here can be asked for."""
    target = context.admitted.target
    return f"projects/{project_number(context.admitted.about.project)}/locations/{target.location}"


def _full(context: Context) -> str:
    return f"{_place(context)}/{context.name}"


# -- cached contents ---------------------------------------------------------------------------------------------


def _create_cache(context: Context) -> dict[str, Any]:
    message = context.read("CachedContent")
    model = message.get("model", "")
    if "/publishers/" not in f"/{model}":
        raise errors.invalid_argument("The model of a CachedContent must be a publisher model's resource name.")
    content: dict[str, Any] = {
        key: message[key] for key in ("contents", "systemInstruction", "tools", "toolConfig") if key in message
    }
    if not content:
        raise errors.invalid_argument("CachedContent has no contents, system instruction or tools.")
    now = context.now
    expires = storage.expiry(message, now)
    cache = CachedContent(
        name=f"{_place(context)}/cachedContents/{context.holdings.new_number(context.state.seed)}",
        account=context.account,
        model=f"{_place(context)}/publishers/{model.partition('publishers/')[2]}",
        display_name=message.get("displayName", ""),
        content=content,
        created=now,
        updated=now,
        expires=now + CACHE_LIFETIME if expires is None else expires,
    )
    context.holdings.caches[cache.name] = cache
    return cache.vertex_resource()


def _list_caches(context: Context) -> dict[str, Any]:
    place = _place(context) + "/"
    caches = [
        cache
        for cache in owned(context, context.holdings.caches.values())
        if cache.name.startswith(place) and not cache.gone(context.now)
    ]
    return listed(context, "cachedContents", [cache.vertex_resource() for cache in caches])


def _cache(context: Context) -> CachedContent:
    return context.holdings.vertex_cache(_full(context), context.account, context.now)


def _get_cache(context: Context) -> dict[str, Any]:
    return _cache(context).vertex_resource()


def _patch_cache(context: Context) -> dict[str, Any]:
    cache, message = _cache(context), context.read("CachedContent")
    expires = storage.expiry(message, context.now)
    if expires is None:
        raise errors.invalid_argument("Only the expiration of a CachedContent can be updated.")
    cache.expires, cache.updated = expires, context.now
    return cache.vertex_resource()


def _delete_cache(context: Context) -> dict[str, Any]:
    del context.holdings.caches[_cache(context).name]
    return {}


# -- jobs --------------------------------------------------------------------------------------------------------


def _keep(context: Context, collection: str, described: Mapping[str, Any], states: Sequence[str]) -> Staged:
    now = timestamp(context.now)
    kept = Staged(
        name=f"{_place(context)}/{collection}/{context.holdings.new_number(context.state.seed)}",
        account=context.account,
        described={**described, "createTime": now, "updateTime": now},
        states=states,
    )
    context.holdings.staged[kept.name] = kept
    return kept


def _create_batch(context: Context) -> dict[str, Any]:
    message = context.read("BatchPredictionJob")
    for field, snake in (("model", "model"), ("inputConfig", "input_config"), ("outputConfig", "output_config")):
        if not message.get(field):
            raise errors.invalid_argument(f"List of found errors:\t1.Field: batch_prediction_job.{snake}; is required.")
    return _keep(context, "batchPredictionJobs", message, _JOB_STATES).resource()


def _create_tuning(context: Context) -> dict[str, Any]:
    message = context.read("TuningJob")
    if not message.get("baseModel") and not message.get("preTunedModel"):
        raise errors.invalid_argument("Base model must be specified.")
    return _keep(context, "tuningJobs", message, _JOB_STATES).resource()


def _job(context: Context) -> Staged:
    return context.holdings.one_staged(_full(context), context.account)


def _get_job(context: Context) -> dict[str, Any]:
    job = _job(context)
    job.look()
    if job.state == "JOB_STATE_SUCCEEDED":
        job.described.setdefault("endTime", timestamp(context.now))
        if "/tuningJobs/" in job.name and "tunedModel" not in job.described:
            job.described["tunedModel"] = _tuned(context, job)
    return job.resource()


def _tuned(context: Context, job: Staged) -> dict[str, str]:
    """Return the model and the endpoint that a tuning job has come to."""
    shown = job.described.get("tunedModelDisplayName") or job.described.get("baseModel", "")
    model = _keep(context, "models", {"displayName": shown, "versionId": "1"}, ("",))
    endpoint = f"{_place(context)}/endpoints/{context.holdings.new_number(context.state.seed)}"
    model.described["deployedModels"] = [{"endpoint": endpoint}]
    return {"model": f"{model.name}@1", "endpoint": endpoint}


def _list_of(context: Context, collection: str) -> list[Staged]:
    place = f"{_place(context)}/{collection}/"
    return [one for one in owned(context, context.holdings.staged.values()) if one.name.startswith(place)]


def _list_batches(context: Context) -> dict[str, Any]:
    return listed(context, "batchPredictionJobs", [one.resource() for one in _list_of(context, "batchPredictionJobs")])


def _list_tunings(context: Context) -> dict[str, Any]:
    return listed(context, "tuningJobs", [one.resource() for one in _list_of(context, "tuningJobs")])


def _cancel(context: Context) -> dict[str, Any]:
    job = _job(context)
    if job.state != "JOB_STATE_SUCCEEDED":
        job.end("JOB_STATE_CANCELLED")
    return {}


def _deleted(context: Context) -> dict[str, Any]:
    """Return the operation that a deletion is, done already."""
    del context.holdings.staged[_job(context).name]
    return {
        "name": f"{_full(context)}/operations/{context.holdings.new_number(context.state.seed)}",
        "metadata": {"@type": "type.googleapis.com/google.cloud.aiplatform.v1.DeleteOperationMetadata"},
        "done": True,
        "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
    }


def _model(kept: Staged) -> dict[str, Any]:
    return {key: value for key, value in kept.resource().items() if key != "state"}


def _list_models(context: Context) -> dict[str, Any]:
    return listed(context, "models", [_model(one) for one in _list_of(context, "models")])


def _get_model(context: Context) -> dict[str, Any]:
    return _model(_job(context))


def _patch_model(context: Context) -> dict[str, Any]:
    model, message = _job(context), context.read("UpdateModel")
    model.described |= {**message, "updateTime": timestamp(context.now)}
    return _model(model)


ROUTES = (
    route(r"cachedContents", "POST", "CreateCachedContent", _create_cache),
    route(r"cachedContents", "GET", "ListCachedContents", _list_caches),
    route(r"(cachedContents/[^/:]+)", "GET", "GetCachedContent", _get_cache),
    route(r"(cachedContents/[^/:]+)", "PATCH", "UpdateCachedContent", _patch_cache),
    route(r"(cachedContents/[^/:]+)", "DELETE", "DeleteCachedContent", _delete_cache),
    route(r"batchPredictionJobs", "POST", "CreateBatchPredictionJob", _create_batch),
    route(r"batchPredictionJobs", "GET", "ListBatchPredictionJobs", _list_batches),
    route(r"(batchPredictionJobs/[^/:]+)", "GET", "GetBatchPredictionJob", _get_job),
    route(r"(batchPredictionJobs/[^/:]+):cancel", "POST", "CancelBatchPredictionJob", _cancel),
    route(r"(batchPredictionJobs/[^/:]+)", "DELETE", "DeleteBatchPredictionJob", _deleted),
    route(r"tuningJobs", "POST", "CreateTuningJob", _create_tuning),
    route(r"tuningJobs", "GET", "ListTuningJobs", _list_tunings),
    route(r"(tuningJobs/[^/:]+)", "GET", "GetTuningJob", _get_job),
    route(r"(tuningJobs/[^/:]+):cancel", "POST", "CancelTuningJob", _cancel),
    route(r"models", "GET", "ListModels", _list_models),
    route(r"(models/[^/:]+)", "GET", "GetModel", _get_model),
    route(r"(models/[^/:]+)", "PATCH", "UpdateModel", _patch_model),
    route(r"(models/[^/:]+)", "DELETE", "DeleteModel", _deleted),
)
