"""
The Gemini Developer API: ``/v1beta``, ``/v1`` and ``/v1alpha``, with an API key or a token.

This module knows the paths; what a call then does is in :mod:`agm.emulator.modelcalls`,
:mod:`agm.emulator.interactions` and, for what is kept, in the modules whose tables are in :data:`ROUTES`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agm.emulator import (
    batches,
    catalogue,
    interactions,
    live,
    modelcalls,
    pages,
    storage,
    stored,
    stores,
    tuning,
    uploads,
    videos,
)
from agm.emulator.calls import Call, Target
from agm.emulator.errors import GoogleError, Kind, model_unknown
from agm.emulator.replies import Reply, json_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State

PATH = re.compile(r"/(?:upload/)?(?P<version>v1beta|v1alpha|v1)/(?P<rest>.+)", re.DOTALL)
# The method is after the last colon: names hold colons, slashes and spaces.
_METHOD = re.compile(r"(?P<collection>models|tunedModels|dynamic)/(?P<model>.+):(?P<method>[A-Za-z]+)", re.DOTALL)

#: The request message of each method.
MESSAGES: Mapping[str, str] = {
    "generateContent": "GenerateContentRequest",
    "streamGenerateContent": "GenerateContentRequest",
    "countTokens": "CountTokensRequest",
    "embedContent": "EmbedContentRequest",
    "batchEmbedContents": "BatchEmbedContentsRequest",
    "predict": "PredictRequest",
}


#: Calls about what is kept.
ROUTES = (*storage.ROUTES, *batches.ROUTES, *stores.ROUTES, *tuning.ROUTES, *videos.ROUTES)


def handles(call: Call) -> bool:
    """Return whether a path belongs to this surface."""
    return PATH.fullmatch(call.path) is not None


def reply(call: Call, state: State, entry: Entry) -> Reply:
    """Answer a call of this surface."""
    path = PATH.fullmatch(call.path)
    assert path is not None  # see handles()
    version, rest = path["version"], path["rest"]
    method = _METHOD.fullmatch(rest) if call.method == "POST" and not call.path.startswith("/upload/") else None
    if method is not None and method["method"] in MESSAGES:
        tuned = "" if method["collection"] == "models" else method["collection"] + "/"
        target = Target(Kind.API_KEY, version, tuned + method["model"], method["method"])
        return _model_call(call, state, entry, target)
    interaction = interactions.reply(call, state, entry, version, rest)
    if interaction is not None:
        return interaction
    try:
        if call.method == "GET" and (rest == "models" or rest.startswith("models/")) and "/operations" not in rest:
            return _models(call, state, entry, version, rest.removeprefix("models").removeprefix("/"))
        if rest == "auth_tokens" and call.method == "POST":
            return _new_token(call, state, entry, version)
        if call.path.startswith("/upload/"):
            answered = uploads.reply(call, state, entry, version, rest)
        else:
            answered = stored.reply(ROUTES, call, state, entry, version, rest)
    except GoogleError as error:
        return modelcalls.error_reply(error, kind=Kind.API_KEY)
    return pages.not_found(call.path) if answered is None else answered


def _model_call(call: Call, state: State, entry: Entry, target: Target) -> Reply:
    try:
        admitted = modelcalls.admit(call, state, entry, target)
        message = modelcalls.read_body(call, MESSAGES[target.method], Kind.API_KEY)
        return modelcalls.answer(admitted, state, message)
    except GoogleError as error:
        return modelcalls.refuse(call, target, error)


def _new_token(call: Call, state: State, entry: Entry, version: str) -> Reply:
    admitted = modelcalls.admit(call, state, entry, Target(Kind.API_KEY, version, "", "CreateToken"))
    entry.model = None
    return json_reply(live.new_token(call.body, admitted.account, state), pretty_print=call.pretty_print)


def _models(call: Call, state: State, entry: Entry, version: str, name: str) -> Reply:
    target = Target(Kind.API_KEY, version, name, "GetModel" if name else "ListModels")
    admitted = modelcalls.admit(call, state, entry, target)
    entry.model = name or None
    if name:
        model = catalogue.find(name)
        if model is None or not admitted.account.has_model(name):
            raise model_unknown(name, version)
        return json_reply(model.resource(), pretty_print=call.pretty_print)
    known = [model for model in catalogue.MODELS if admitted.account.has_model(model.name)]
    listed, token = catalogue.page(known, call.query.get("pageSize"), call.query.get("pageToken"))
    document: dict[str, object] = {"models": [model.resource() for model in listed]}
    if token is not None:
        document["nextPageToken"] = token
    return json_reply(document, pretty_print=call.pretty_print)
