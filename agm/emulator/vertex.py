"""
Vertex AI: models of a project and a location, tuned endpoints, express mode with an API key, the publisher's list, and
what a project keeps (:mod:`agm.emulator.jobs`, :mod:`agm.emulator.videos`).

Calls below ``projects/`` want a token; those below ``publishers/`` take an API key too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agm.emulator import catalogue, jobs, modelcalls, pages, stored, videos
from agm.emulator.calls import Call, Target
from agm.emulator.errors import GoogleError, Kind, model_unknown
from agm.emulator.replies import Reply, json_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State

_PLACE = r"/(?P<version>v1|v1beta1)/(?:projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/)?"
PATH = re.compile(
    _PLACE
    + r"(?P<rest>(?:publishers|endpoints)/.+|(?:cachedContents|batchPredictionJobs|tuningJobs|models)(?:[/:].+)?)",
    re.DOTALL,
)
_METHOD = re.compile(
    _PLACE + r"(?:publishers/[^/]+/models|(?P<tuned>endpoints))/(?P<model>.+):(?P<method>[A-Za-z]+)", re.DOTALL
)
_LIST = re.compile(_PLACE + r"publishers/google/models(?:/(?P<model>[^:]+))?")

#: The request message of each method; there is no batchEmbedContents here.
MESSAGES: Mapping[str, str] = {
    "generateContent": "GenerateContentRequest",
    "streamGenerateContent": "GenerateContentRequest",
    "countTokens": "CountTokensRequest",
    "computeTokens": "ComputeTokensRequest",
    "embedContent": "EmbedContentRequest",
    "predict": "PredictRequest",
}


def handles(call: Call) -> bool:
    """Whether a path belongs to this surface; what a project keeps is nowhere but below it."""
    path = PATH.fullmatch(call.path)
    return path is not None and (path["project"] is not None or path["rest"].startswith(("publishers/", "endpoints/")))


def reply(call: Call, state: State, entry: Entry) -> Reply:
    """Answer a call of this surface."""
    method = _METHOD.fullmatch(call.path)
    if call.method == "POST" and method is not None and method["method"] in MESSAGES:
        target = Target(
            kind=Kind.VERTEX,
            version=method["version"],
            model=("endpoints/" if method["tuned"] else "") + method["model"],
            method=method["method"],
            project=method["project"],
            location=method["location"] or "global",
        )
        return _model_call(call, state, entry, target)
    listing = _LIST.fullmatch(call.path)
    if call.method == "GET" and listing is not None:
        return _models(call, state, entry, listing)
    path = PATH.fullmatch(call.path)
    if path is None or path["project"] is None:
        return pages.not_found(call.path)
    version, project, location = path["version"], path["project"], path["location"]
    try:
        answered = stored.reply(
            (*jobs.ROUTES, *videos.VERTEX_ROUTES),
            call,
            state,
            entry,
            version,
            path["rest"],
            kind=Kind.VERTEX,
            project=project,
            location=location,
        )
    except GoogleError as error:
        return modelcalls.error_reply(error, kind=Kind.VERTEX)
    return pages.not_found(call.path) if answered is None else answered


def _model_call(call: Call, state: State, entry: Entry, target: Target) -> Reply:
    try:
        admitted = modelcalls.admit(call, state, entry, target, keys=target.project is None)
        message = modelcalls.read_body(call, MESSAGES[target.method], Kind.VERTEX)
        return modelcalls.answer(admitted, state, message)
    except GoogleError as error:
        return modelcalls.refuse(call, target, error)


def _models(call: Call, state: State, entry: Entry, path: re.Match[str]) -> Reply:
    name = path["model"] or ""
    target = Target(
        Kind.VERTEX, path["version"], name, "GetPublisherModel" if name else "ListPublisherModels", path["project"]
    )
    try:
        admitted = modelcalls.admit(call, state, entry, target)
        entry.model = name or None
        if name:
            model = catalogue.find(name)
            if model is None or not admitted.account.has_model(name):
                raise model_unknown(name, path["version"])
            return json_reply(model.publisher_resource(), pretty_print=call.pretty_print)
        known = [model for model in catalogue.MODELS if admitted.account.has_model(model.name)]
        listed, token = catalogue.page(known, call.query.get("pageSize"), call.query.get("pageToken"))
    except GoogleError as error:
        return modelcalls.refuse(call, target, error)
    document: dict[str, object] = {"publisherModels": [model.publisher_resource() for model in listed]}
    if token is not None:
        document["nextPageToken"] = token
    return json_reply(document, pretty_print=call.pretty_print)
