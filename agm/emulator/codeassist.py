"""
The code-assist API: ``/v1internal:{method}``, with a token only.

Requests and answers of generation travel in an envelope; the rest is about the account: its tier and project, its
onboarding (a long-running operation), its quota and its models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from agm.emulator import answers, catalogue, errors, modelcalls, pages
from agm.emulator.calls import Call, Target
from agm.emulator.errors import GoogleError, Kind, timestamp
from agm.emulator.modelcalls import Admitted
from agm.emulator.replies import ESF, Reply, json_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import Account, State

_METHOD = re.compile(r"/v1internal:(?P<method>[A-Za-z]+)")
_OPERATION = re.compile(r"/v1internal/(?P<name>operations/[A-Za-z0-9._-]+)")

_FREE = "free-tier"
_TIERS = {
    _FREE: ("Gemini Code Assist for individuals", False),
    "legacy-tier": ("Gemini Code Assist (legacy)", True),
    "standard-tier": ("Gemini Code Assist", True),
}


def handles(call: Call) -> bool:
    """Return whether a path belongs to this surface."""
    return call.path.startswith("/v1internal")


def reply(call: Call, state: State, entry: Entry) -> Reply:
    """Answer a call of this surface."""
    method = _METHOD.fullmatch(call.path)
    operation = _OPERATION.fullmatch(call.path)
    if call.method == "POST" and method is not None and method["method"] in _ENVELOPES:
        return _model_call(call, state, entry, method["method"])
    if call.method == "POST" and method is not None and method["method"] in _ABOUT_ACCOUNT:
        target = Target(Kind.CODE_ASSIST, "v1internal", "", method["method"])
        message, answer = _ABOUT_ACCOUNT[method["method"]]
    elif call.method == "GET" and operation is not None:
        target = Target(Kind.CODE_ASSIST, "v1internal", "", "GetOperation")
        message, answer = "Empty", _operation(operation["name"])
    else:
        return pages.not_found(call.path)
    try:
        admitted = modelcalls.admit(call, state, entry, target, keys=False)
        entry.model = None
        body = {} if call.method == "GET" else modelcalls.read_body(call, message, Kind.CODE_ASSIST)
        return json_reply(answer(admitted, state, body), headers=ESF, pretty_print=call.pretty_print)
    except GoogleError as error:
        return modelcalls.refuse(call, target, error)


# -- model calls -------------------------------------------------------------------------------------------------

_ENVELOPES: Mapping[str, str] = {
    "generateContent": "GenerateContentEnvelope",
    "streamGenerateContent": "GenerateContentEnvelope",
    "countTokens": "CountTokensEnvelope",
}


def _model_call(call: Call, state: State, entry: Entry, method: str) -> Reply:
    target = Target(Kind.CODE_ASSIST, "v1internal", "", method)
    try:
        admitted = modelcalls.admit(call, state, entry, target, keys=False)
        envelope = modelcalls.read_body(call, _ENVELOPES[method], Kind.CODE_ASSIST)
        message = envelope.get("request", {})
        model = (message if method == "countTokens" else envelope).get("model", "").removeprefix("models/")
        target = attrs.evolve(target, model=model)
        entry.model = model or None
        if not model or not message:
            raise errors.invalid_argument()
        about = attrs.evolve(admitted.about, model=model)
        project = envelope.get("project")
        declared = admitted.account.project
        if project and declared and project != declared:
            raise errors.iam_denied(about, project)
        if project:  # errors name the one that was asked with
            about = attrs.evolve(about, project=project)
        return modelcalls.answer(attrs.evolve(admitted, target=target, about=about), state, message)
    except GoogleError as error:
        return modelcalls.refuse(call, target, error)


# -- the account -------------------------------------------------------------------------------------------------


def _tier(tier: str, *, default: bool = False) -> dict[str, Any]:
    name, own_project = _TIERS.get(tier, ("Gemini Code Assist", True))
    document = {
        "id": tier,
        "name": name,
        "description": "A tier of the emulator",
        "userDefinedCloudaicompanionProject": own_project,
    }
    return {**document, "isDefault": True} if default else document


def _project(account: Account) -> str:
    return account.project_or_default


def _load(admitted: Admitted, state: State, message: Mapping[str, Any]) -> dict[str, Any]:
    account = admitted.account
    if account.tier is None:
        return {"allowedTiers": [_tier(_FREE, default=True), _tier("standard-tier")]}
    document: dict[str, Any] = {
        "currentTier": _tier(account.tier),
        "allowedTiers": [_tier(account.tier, default=True)],
    }
    document["cloudaicompanionProject"] = _project(account)
    if account.tier != _FREE:
        document["paidTier"] = {"id": account.tier, "name": _tier(account.tier)["name"]}
    return document


def _onboard(admitted: Admitted, state: State, message: Mapping[str, Any]) -> dict[str, Any]:
    tier = message.get("tierId", "")
    project = message.get("cloudaicompanionProject")
    if tier not in _TIERS:
        raise errors.invalid_argument(f"Invalid tier id: {tier}")
    if tier == _FREE and project:
        raise errors.invalid_argument("The free tier uses a managed project; cloudaicompanionProject must not be set.")
    if tier != _FREE and not project:
        raise errors.GoogleError(
            400, f"Tier {tier} requires a project; cloudaicompanionProject must be set.", rpc="FAILED_PRECONDITION"
        )
    account = admitted.account
    name = "operations/onboard-" + answers.identifier(
        answers.digest_of(state.seed, account.name, {"tier": tier, "project": project or ""})
    )
    state.onboardings[name] = (account.name, tier, project)
    return {"name": name, "metadata": {"@type": _OPERATION_METADATA}}


_OPERATION_METADATA = "type.googleapis.com/google.internal.cloud.code.v1internal.OnboardUserMetadata"
_OPERATION_RESPONSE = "type.googleapis.com/google.internal.cloud.code.v1internal.OnboardUserResponse"

Answer = Callable[[Admitted, State, Mapping[str, Any]], dict[str, Any]]


def _operation(name: str) -> Answer:
    """An onboarding is done when it is first asked about."""

    def answer(admitted: Admitted, state: State, message: Mapping[str, Any]) -> dict[str, Any]:
        started = state.onboardings.get(name)
        if started is None or started[0] != admitted.account.name:
            raise errors.GoogleError(404, "Requested entity was not found.")
        account = admitted.account
        account.tier = started[1]
        account.project = started[2] or account.project
        project = _project(account)
        return {
            "name": name,
            "done": True,
            "response": {
                "@type": _OPERATION_RESPONSE,
                "cloudaicompanionProject": {"id": project, "name": project, "projectNumber": "123456789012"},
            },
        }

    return answer


def _remaining(account: Account, state: State, model: str) -> tuple[int, float]:
    """Return the calls that are left today for a model, and the fraction that they are."""
    limit = account.quotas.requests_per_day
    if not limit:
        return 1_000, 1.0
    left = max(0, limit - state.quota_used(account.name).get(model, 0))
    return left, left / limit


def _midnight(state: State) -> str:
    day = 86_400
    return timestamp((state.clock.now() // day + 1) * day)


def _known(account: Account) -> list[catalogue.Model]:
    return [model for model in catalogue.MODELS if model.generates and account.has_model(model.name)]


def _quota(admitted: Admitted, state: State, message: Mapping[str, Any]) -> dict[str, Any]:
    buckets = []
    for model in _known(admitted.account):
        left, fraction = _remaining(admitted.account, state, model.name)
        buckets.append(
            {
                "modelId": model.name,
                "tokenType": "REQUESTS",
                "remainingAmount": str(left),
                "remainingFraction": fraction,
                "resetTime": _midnight(state),
            }
        )
    return {"buckets": buckets}


def _models(admitted: Admitted, state: State, message: Mapping[str, Any]) -> dict[str, Any]:
    models = {}
    for model in _known(admitted.account):
        _, fraction = _remaining(admitted.account, state, model.name)
        models[model.name] = {
            "displayName": model.display_name,
            "quotaInfo": {"remainingFraction": fraction, "resetTime": _midnight(state)},
            "maxTokens": model.input_limit,
            "maxOutputTokens": model.output_limit,
            "supportsImages": True,
            "supportsThinking": model.thinking,
        }
    return {"models": models, "deprecatedModelIds": {"gemini-1.5-pro": {"newModelId": "gemini-2.5-pro"}}}


_ABOUT_ACCOUNT: Mapping[str, tuple[str, Answer]] = {
    "loadCodeAssist": ("LoadCodeAssistRequest", _load),
    "onboardUser": ("OnboardUserRequest", _onboard),
    "retrieveUserQuota": ("RetrieveUserQuotaRequest", _quota),
    "fetchAvailableModels": ("FetchAvailableModelsRequest", _models),
}
