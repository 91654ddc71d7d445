"""
Google's errors: google.rpc.Status documents in the words, details and order that each upstream kind uses.

Each function returns a :class:`GoogleError`, to be raised or rendered.  Texts are what clients match on, so they are
kept to the letter; this module never decides that a call fails.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import attrs

from agm.emulator.faults import Fault


class Kind(Enum):
    """The three upstream kinds, by the names a configuration gives them."""

    API_KEY = "api-key"
    VERTEX = "vertex"
    CODE_ASSIST = "code-assist"

    @property
    def service(self) -> str:
        """The host name that errors of this kind mention."""
        return _SERVICES[self]

    @property
    def package(self) -> str:
        """The protobuf package that errors of this kind mention."""
        return _PACKAGES[self]


_SERVICES = {
    Kind.API_KEY: "generativelanguage.googleapis.com",
    Kind.VERTEX: "aiplatform.googleapis.com",
    Kind.CODE_ASSIST: "cloudcode-pa.googleapis.com",
}
_PACKAGES = {
    Kind.API_KEY: "google.ai.generativelanguage.v1beta",
    Kind.VERTEX: "google.cloud.aiplatform.v1",
    Kind.CODE_ASSIST: "google.internal.cloud.code.v1internal",
}

_RPC = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_TYPE = "type.googleapis.com/google.rpc."
Detail = Mapping[str, Any]


class GoogleError(Exception):
    """A failed call, as google.rpc.Status: the HTTP `status`, a message, the code's name and the details."""

    def __init__(self, status: int, message: str, *, details: Sequence[Detail] = (), rpc: str | None = None) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.rpc = rpc or _RPC[status]
        self.details = tuple(details)

    def document(self) -> dict[str, Any]:
        """Return the body, before it is printed."""
        error: dict[str, Any] = {"code": self.status, "message": self.message, "status": self.rpc}
        if self.details:
            error["details"] = [dict(detail) for detail in self.details]
        return {"error": error}


@attrs.frozen
class Circumstances:
    """What an error's text mentions: the kind, the API's version, the model and method, the project, and the time."""

    kind: Kind
    version: str = "v1beta"
    model: str = ""
    method: str = "generateContent"
    project: str = "12345678"
    location: str = "global"
    now: float = 0.0


# -- details -----------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Return a google.protobuf.Duration in JSON: ``56s``, ``0.500s``, with 0, 3, 6 or 9 digits after the point."""
    nanos = round(seconds * 1_000_000_000)
    whole, rest = divmod(nanos, 1_000_000_000)
    if not rest:
        return f"{whole}s"
    digits = f"{rest:09d}"
    for length in (3, 6):
        if not digits[length:].strip("0"):
            return f"{whole}.{digits[:length]}s"
    return f"{whole}.{digits}s"


def go_duration(seconds: float) -> str:
    """Return a duration as Go prints it, which is how quotaResetDelay comes: ``539.477544ms``, ``143h4m52.7s``."""
    if seconds < 1:
        return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"
    whole = math.floor(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    rest = f"{whole % 60 + (seconds - whole):.9f}".rstrip("0").rstrip(".")
    prefix = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{prefix}{rest}s"


def timestamp(now: float) -> str:
    """Return a google.protobuf.Timestamp in JSON, to the microsecond where there are any."""
    moment = datetime.datetime.fromtimestamp(now, tz=datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")


def parse_timestamp(text: str) -> float | None:
    """Seconds since the epoch for a google.protobuf.Timestamp in JSON, or None for what is not one."""
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def error_info(reason: str, domain: str, metadata: Mapping[str, str]) -> Detail:
    """google.rpc.ErrorInfo."""
    return {"@type": _TYPE + "ErrorInfo", "reason": reason, "domain": domain, "metadata": dict(metadata)}


def retry_info(seconds: float) -> Detail:
    """google.rpc.RetryInfo."""
    return {"@type": _TYPE + "RetryInfo", "retryDelay": duration(seconds)}


def _help(*links: tuple[str, str]) -> Detail:
    return {"@type": _TYPE + "Help", "links": [{"description": text, "url": url} for text, url in links]}


def _localized(message: str) -> Detail:
    return {"@type": _TYPE + "LocalizedMessage", "locale": "en-US", "message": message}


# -- requests that cannot be read --------------------------------------------------------------------------------


@attrs.frozen
class Violation:
    """A part of a request that was refused: its snake_case path (empty at the top) and what is said of it."""

    field: str
    description: str


def bad_request(violations: Sequence[Violation]) -> GoogleError:
    """400 with BadRequest, a line of the message for each violation."""
    listed = [
        {"field": v.field, "description": v.description} if v.field else {"description": v.description}
        for v in violations
    ]
    return GoogleError(
        400,
        "\n".join(v.description for v in violations),
        details=[{"@type": _TYPE + "BadRequest", "fieldViolations": listed}],
    )


def unknown_name(name: str, path: str, why: str = "Cannot find field.") -> Violation:
    """Return a field that the message does not have."""
    at = f" at '{path}'" if path else ""
    return Violation(path, f"Invalid JSON payload received. Unknown name {json.dumps(name)}{at}: {why}")


def invalid_value(path: str, type_name: str, value: Any) -> Violation:
    """Return a value of the wrong type; `type_name` as in ``TYPE_STRING`` or the full name of a message or an enum."""
    text = json.dumps(value, ensure_ascii=False)
    return Violation(path, f"Invalid value at '{path}' ({type_name}), {text}")


def invalid_argument(message: str = "Request contains an invalid argument.") -> GoogleError:
    """400 without details."""
    return GoogleError(400, message)


def too_large(limit: int) -> GoogleError:
    """400 for a body beyond `limit` bytes."""
    return GoogleError(400, f"Request payload size exceeds the limit: {limit} bytes.")


# -- credentials -------------------------------------------------------------------------------------------------

_AUTH_MESSAGE = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_KEYS_UNSUPPORTED = (
    "API keys are not supported by this API. Expected OAuth2 access token or other authentication credentials that "
    "assert a principal. See https://cloud.google.com/docs/authentication"
)
_CREDENTIALS_MISSING = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other "
    "valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_UNREGISTERED = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other "
    "form of API consumer identity to call this API."
)


def _method_name(about: Circumstances) -> str:
    service = {Kind.API_KEY: "GenerativeService", Kind.VERTEX: "PredictionService", Kind.CODE_ASSIST: "CloudCode"}
    return f"{about.kind.package}.{service[about.kind]}.{about.method[:1].upper()}{about.method[1:]}"


def api_key_invalid(kind: Kind) -> GoogleError:
    """400 for an API key that is not one."""
    message = "API key not valid. Please pass a valid API key."
    info = error_info("API_KEY_INVALID", "googleapis.com", {"service": kind.service})
    return GoogleError(400, message, details=[info, _localized(message)])


def unregistered_caller() -> GoogleError:
    """403 for a call of the Developer API without any credential."""
    return GoogleError(403, _UNREGISTERED)


def unauthenticated(about: Circumstances, reason: str) -> GoogleError:
    """401; `reason` is ACCESS_TOKEN_EXPIRED, ACCESS_TOKEN_TYPE_UNSUPPORTED or CREDENTIALS_MISSING."""
    message = _CREDENTIALS_MISSING if reason == "CREDENTIALS_MISSING" else _AUTH_MESSAGE
    metadata = {"method": _method_name(about), "service": about.kind.service}
    return GoogleError(401, message, details=[error_info(reason, "googleapis.com", metadata)])


def keys_unsupported(about: Circumstances) -> GoogleError:
    """401 for an API key where only a token will do."""
    metadata = {"service": about.kind.service, "method": _method_name(about)}
    return GoogleError(401, _KEYS_UNSUPPORTED, details=[error_info("CREDENTIALS_MISSING", "googleapis.com", metadata)])


# -- permissions -------------------------------------------------------------------------------------------------

_API_TITLES = {
    Kind.API_KEY: "Generative Language API",
    Kind.VERTEX: "Vertex AI API",
    Kind.CODE_ASSIST: "Gemini for Google Cloud API",
}
_ENABLE = {
    Kind.API_KEY: "generativelanguage.googleapis.com",
    Kind.VERTEX: "aiplatform.googleapis.com",
    Kind.CODE_ASSIST: "cloudaicompanion.googleapis.com",
}


def service_disabled(about: Circumstances) -> GoogleError:
    """403 SERVICE_DISABLED: the API is not enabled in the project."""
    service, title = _ENABLE[about.kind], _API_TITLES[about.kind]
    url = f"https://console.developers.google.com/apis/api/{service}/overview?project={about.project}"
    message = (
        f"{title} has not been used in project {about.project} before or it is disabled. Enable it by visiting {url} "
        "then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our systems "
        "and retry."
    )
    metadata = {
        "service": service,
        "consumer": f"projects/{about.project}",
        "activationUrl": url,
        "serviceTitle": title,
    }
    return GoogleError(
        403,
        message,
        details=[
            error_info("SERVICE_DISABLED", "googleapis.com", metadata),
            _localized(message),
            _help(("Google developers console API activation", url)),
        ],
    )


def validation_required(about: Circumstances) -> GoogleError:
    """403 VALIDATION_REQUIRED: a person must act."""
    link = "https://accounts.google.com/signin/continue?sarp=1&scc=1&plt=emulator"
    learn_more = "https://support.google.com/accounts?p=al_alert"
    message = "Verify your account to continue."
    metadata = {
        "validation_error_message": message,
        "validation_link": link,
        "validation_url_link_text": "Verify your account",
        "validation_learn_more_link_text": "Learn more",
        "validation_learn_more_url": learn_more,
    }
    return GoogleError(
        403,
        message,
        details=[
            error_info("VALIDATION_REQUIRED", about.kind.service, metadata),
            _help(("Verify your account", link), ("Learn more", learn_more)),
        ],
    )


def iam_denied(about: Circumstances, project: str | None = None) -> GoogleError:
    """403 IAM_PERMISSION_DENIED on the model (Vertex AI) or the project (code-assist)."""
    project = project or about.project
    if about.kind is Kind.VERTEX:
        permission, domain = "aiplatform.endpoints.predict", "aiplatform.googleapis.com"
        resource = f"projects/{project}/locations/{about.location}/publishers/google/models/{about.model}"
    else:
        permission, domain = "cloudaicompanion.instances.completeTask", "cloudaicompanion.googleapis.com"
        resource = f"projects/{project}/locations/global"
    return GoogleError(
        403,
        f"Permission '{permission}' denied on resource '//{domain}/{resource}' (or it may not exist).",
        details=[error_info("IAM_PERMISSION_DENIED", domain, {"permission": permission, "resource": resource})],
    )


def consumer_invalid(about: Circumstances) -> GoogleError:
    """403 CONSUMER_INVALID: the project does not exist or was deleted."""
    metadata = {"consumer": f"projects/{about.project}", "service": about.kind.service}
    return GoogleError(
        403,
        f"Permission denied on resource project {about.project}.",
        details=[
            _help(
                (
                    "Google developers console API activation",
                    f"https://console.developers.google.com/project/{about.project}/apiui",
                )
            ),
            error_info("CONSUMER_INVALID", "googleapis.com", metadata),
        ],
    )


def user_project_denied(about: Circumstances, project: str) -> GoogleError:
    """403 USER_PROJECT_DENIED: ``x-goog-user-project`` names a project that the caller may not bill."""
    message = (
        f"Caller does not have required permission to use project {project}. Grant the caller the "
        "roles/serviceusage.serviceUsageConsumer role, or a custom role with the serviceusage.services.use "
        "permission, by visiting https://console.developers.google.com/iam-admin/iam/project?project="
        f"{project} and then retry. Propagation of the new permission may take a few minutes."
    )
    metadata = {"consumer": f"projects/{project}", "service": about.kind.service}
    return GoogleError(403, message, details=[error_info("USER_PROJECT_DENIED", "googleapis.com", metadata)])


def permission_denied(message: str = "The caller does not have permission") -> GoogleError:
    """403 without details."""
    return GoogleError(403, message)


#: Why a declared account is disabled, by the name that control takes.
DISABLED_REASONS = (
    "SERVICE_DISABLED",
    "CONSUMER_INVALID",
    "IAM_PERMISSION_DENIED",
    "VALIDATION_REQUIRED",
    "API_KEY_INVALID",
    "ACCESS_TOKEN_EXPIRED",
    "ACCESS_TOKEN_TYPE_UNSUPPORTED",
)


def disabled(about: Circumstances, reason: str) -> GoogleError:
    """Return the error of an account that was declared disabled for one of :data:`DISABLED_REASONS`."""
    match reason:
        case "SERVICE_DISABLED":
            return service_disabled(about)
        case "CONSUMER_INVALID":
            return consumer_invalid(about)
        case "IAM_PERMISSION_DENIED":
            return iam_denied(about)
        case "VALIDATION_REQUIRED":
            return validation_required(about)
        case "API_KEY_INVALID":
            return api_key_invalid(about.kind)
        case _:
            return unauthenticated(about, reason)


#: How the token endpoint fails on request: OAuth's error and its description by HTTP status.
TOKEN_STATUSES: Mapping[int, tuple[str, str]] = {
    400: ("invalid_grant", "Token has been expired or revoked."),
    401: ("invalid_client", "Unauthorized"),
    403: ("access_denied", "Account restricted"),
    429: ("rate_limit_exceeded", "Rate Limit Exceeded"),
    500: ("internal_failure", "Backend Error"),
    503: ("temporarily_unavailable", "Service unavailable. Please try again later."),
    504: ("temporarily_unavailable", "Deadline exceeded."),
}


# -- not found ---------------------------------------------------------------------------------------------------


def model_not_found(about: Circumstances) -> GoogleError:
    """404 for a model that the account lacks, or that lacks the method."""
    if about.kind is Kind.VERTEX:
        return GoogleError(
            404,
            f"Publisher Model `projects/{about.project}/locations/{about.location}/publishers/google/models/"
            f"{about.model}` was not found or your project does not have access to it. Please ensure you are using a "
            "valid model version. For more information, see: "
            "https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions",
        )
    if about.kind is Kind.CODE_ASSIST:
        return GoogleError(404, "Requested entity was not found.")
    return GoogleError(
        404,
        f"models/{about.model} is not found for API version {about.version}, or is not supported for {about.method}. "
        "Call ListModels to see the list of available models and their supported methods.",
    )


def model_unknown(model: str, version: str) -> GoogleError:
    """404 of GetModel."""
    return GoogleError(404, f"Model is not found: models/{model} for api version {version}")


# -- quota and capacity ------------------------------------------------------------------------------------------

_QUOTA_TEXT = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this "
    "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
    "https://ai.dev/rate-limit. "
)


def quota_failure(about: Circumstances, *, period: str, limit: int, delay: float) -> GoogleError:
    """429 for a request quota per `period`, ``Minute`` or ``Day``; `delay` is RetryInfo's, in seconds."""
    if about.kind is Kind.VERTEX:
        metric = f"aiplatform.googleapis.com/generate_content_requests_per_{period.lower()}_per_project_per_base_model"
        message = (
            f"Quota exceeded for {metric} with base model: {about.model}. Please submit a quota increase request. "
            "https://cloud.google.com/vertex-ai/docs/generative-ai/quotas-genai."
        )
        quota_id = f"GenerateContentRequestsPer{period}PerProjectPerModel"
        dimensions = {"base_model": about.model, "region": about.location}
    elif about.kind is Kind.CODE_ASSIST:
        return _code_assist_quota(about, period=period, limit=limit, delay=delay)
    else:
        metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
        message = (
            f"{_QUOTA_TEXT}\n* Quota exceeded for metric: {metric}, limit: {limit}, model: {about.model}\n"
            f"Please retry in {duration(delay)}."
        )
        quota_id = f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier"
        dimensions = {"location": about.location, "model": about.model}
    violation = {
        "quotaMetric": metric,
        "quotaId": quota_id,
        "quotaDimensions": dimensions,
        "quotaValue": str(limit),
    }
    return GoogleError(
        429,
        message,
        details=[
            _help(("Learn more about Gemini API quotas", "https://ai.google.dev/gemini-api/docs/rate-limits")),
            {"@type": _TYPE + "QuotaFailure", "violations": [violation]},
            retry_info(delay),
        ],
    )


def _code_assist_quota(about: Circumstances, *, period: str, limit: int, delay: float) -> GoogleError:
    name = "Gemini Requests"
    quota_limit = f"GeminiRequestsPer{period}PerUserPerTier"
    message = (
        f"Quota exceeded for quota metric '{name}' and limit '{name} per {period.lower()} per user per tier' of "
        f"service '{about.kind.service}' for consumer 'project_number:{about.project}'."
    )
    metadata = {
        "consumer": f"projects/{about.project}",
        "model": about.model,
        "quota_limit": quota_limit,
        "quota_limit_value": str(limit),
        "quota_location": about.location,
        "quota_metric": f"{about.kind.service}/gemini_requests",
        "service": about.kind.service,
    }
    violation = {
        "quotaMetric": metadata["quota_metric"],
        "quotaId": quota_limit,
        "quotaDimensions": {"location": about.location, "model": about.model},
        "quotaValue": str(limit),
    }
    return GoogleError(
        429,
        message,
        details=[
            error_info("RATE_LIMIT_EXCEEDED", "googleapis.com", metadata),
            {"@type": _TYPE + "QuotaFailure", "violations": [violation]},
            retry_info(delay),
        ],
    )


def _reset_metadata(about: Circumstances, delay: float) -> Mapping[str, str]:
    return {
        "model": about.model,
        "quotaResetDelay": go_duration(delay),
        "quotaResetTimeStamp": timestamp(math.ceil(about.now + delay)),
    }


def rate_limited(about: Circumstances, delay: float) -> GoogleError:
    """429 with RetryInfo of `delay` seconds: the plain one of each kind."""
    if about.kind is Kind.API_KEY:
        return quota_failure(about, period="Minute", limit=10, delay=delay)
    if about.kind is Kind.VERTEX:
        return GoogleError(429, _VERTEX_EXHAUSTED, details=[retry_info(delay)])
    return GoogleError(
        429,
        f"You have exhausted your capacity on this model. Your quota will reset after {go_duration(delay)}.",
        details=[
            error_info("RATE_LIMIT_EXCEEDED", about.kind.service, _reset_metadata(about, delay)),
            retry_info(delay),
        ],
    )


_VERTEX_EXHAUSTED = (
    "Resource exhausted. Please try again later. Please refer to "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details."
)


def quota_exhausted(about: Circumstances, delay: float) -> GoogleError:
    """429 QUOTA_EXHAUSTED until `delay` seconds from now."""
    return GoogleError(
        429,
        f"You have exhausted your capacity on this model. Your quota will reset after {go_duration(delay)}.",
        details=[
            error_info("QUOTA_EXHAUSTED", about.kind.service, _reset_metadata(about, delay)),
            retry_info(delay),
        ],
    )


def capacity_exhausted(about: Circumstances, status: int) -> GoogleError:
    """429 or 503 MODEL_CAPACITY_EXHAUSTED."""
    return GoogleError(
        status,
        f"No capacity available for model {about.model} on the server",
        details=[error_info("MODEL_CAPACITY_EXHAUSTED", about.kind.service, {"model": about.model})],
    )


def resource_exhausted(about: Circumstances) -> GoogleError:
    """429 without details."""
    if about.kind is Kind.API_KEY:
        return GoogleError(429, "Resource has been exhausted (e.g. check quota).")
    return GoogleError(429, _VERTEX_EXHAUSTED)


# -- plain statuses ----------------------------------------------------------------------------------------------

_HIGH_DEMAND = (
    "This model is currently experiencing high demand. Spikes in demand are usually temporary. Please try again later."
)
_INTERNAL = {
    Kind.API_KEY: "An internal error has occurred. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting",
    Kind.VERTEX: "Internal error encountered.",
    Kind.CODE_ASSIST: "Internal error encountered.",
}


def of_status(about: Circumstances, status: int, delay: float | None = None) -> GoogleError:
    """Return the usual error with an HTTP `status`; `delay` adds RetryInfo (a 429 has one anyhow, of one second)."""
    match status:
        case 400:
            error = invalid_argument()
        case 401:
            key = about.kind is Kind.API_KEY
            error = unauthenticated(about, "ACCESS_TOKEN_TYPE_UNSUPPORTED" if key else "ACCESS_TOKEN_EXPIRED")
        case 403:
            error = permission_denied() if about.kind is Kind.API_KEY else iam_denied(about)
        case 404:
            error = model_not_found(about)
        case 429:
            return rate_limited(about, 1.0 if delay is None else delay)
        case 499:
            error = GoogleError(499, "The operation was cancelled.")
        case 500:
            error = GoogleError(500, _INTERNAL[about.kind])
        case 503:
            error = GoogleError(503, _HIGH_DEMAND)
        case 504:
            error = GoogleError(504, "Deadline expired before operation could complete.")
        case _:
            raise ValueError(f"no error of status {status}")
    if delay is not None:
        error = GoogleError(status, error.message, details=[*error.details, retry_info(delay)])
    return error


def of_fault(about: Circumstances, fault: Fault) -> GoogleError | None:
    """Return the error that a fault answers the whole call with, or None if it shapes an answer instead."""
    if fault.status is not None:
        return of_status(about, fault.status, fault.number)
    number = fault.number or 0.0
    match fault.name:
        case "429rpm":
            return quota_failure(about, period="Minute", limit=10, delay=number)
        case "429day":
            return quota_failure(about, period="Day", limit=250, delay=26.0)
        case "429nodetails":
            return resource_exhausted(about)
        case "quota":
            return quota_exhausted(about, number)
        case "capacity429":
            return capacity_exhausted(about, 429)
        case "capacity503":
            return capacity_exhausted(about, 503)
        case "403validation":
            return validation_required(about)
        case "403disabled":
            return service_disabled(about)
        case "errarray":
            return of_status(about, int(number))
        case _:
            return None
