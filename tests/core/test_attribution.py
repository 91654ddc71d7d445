"""Whom a refusal is about: the account, the model, or the request; in Google's sentences, and in those of attackers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.classify import ABOUT_THE_REQUEST, MAX_MESSAGE, Fault, Verdict, classify
from agm.core.google_error import MAX_DETAILS, read_error
from tests.core.cuts import unhurried

TYPE = "type.googleapis.com/google.rpc."
STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
MODEL = "gemini-2.5-flash"
VERTEX_MODEL = f"projects/p-own/locations/global/publishers/google/models/{MODEL}"


def info(reason: str, domain: str = "googleapis.com", **metadata: str) -> dict[str, Any]:
    return {"@type": TYPE + "ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata}


def verdict(
    status: int,
    message: str,
    *details: dict[str, Any],
    kind: str = "api-key",
    project: str | None = None,
    rpc: str | None = None,
    model: str = MODEL,
) -> Verdict:
    error = {"code": status, "message": message, "status": rpc or STATUS[status], "details": list(details)}
    return classify(status, json.dumps({"error": error}).encode(), now=0.0, kind=kind, project=project, model=model)


# -- The request ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "fault"),
    [
        (403, "You do not have permission to access the file search store x or it may not exist.", Fault.MISSING),
        (403, "You do not have permission to access the File abc or it may not exist.", Fault.MISSING),
        (403, "CachedContent not found (or permission denied)", Fault.MISSING),
        (404, "Not found: cached content metadata for 1234567890123456789.", Fault.MISSING),
        (404, "files/abc was not found.", Fault.MISSING),
        (403, "Permission denied while accessing input file.", Fault.FINAL),
        (403, "The service account lacks storage.objects.get access to the Cloud Storage object.", Fault.FINAL),
        (403, "Cannot read gs://bucket/a.mp4.", Fault.FINAL),
        (403, "The billing account for the owning project is disabled in state absent", Fault.FINAL),
        (403, "Data store projects/1/locations/global/dataStores/x is not accessible.", Fault.FINAL),
        (404, "The requested operation was not found.", Fault.FINAL),
        (404, "Endpoint endpoints/123 does not exist.", Fault.FINAL),
        (404, "models/another is not found for API version v1beta, or is not supported for embedContent.", Fault.FINAL),
        (403, "Project 1 is not allowed to use models/another.", Fault.UNCLEAR),
        (401, "API keys are not supported by this API. Expected OAuth2 access token.", Fault.FINAL),
        (400, "Request contains an invalid argument.", Fault.FINAL),
        (400, "The File xyz is not in an ACTIVE state and usage is not allowed.", Fault.FINAL),
        (400, "Service agents are being provisioned. They are needed to read the Cloud Storage file.", Fault.FINAL),
    ],
)
@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
def test_what_a_request_names_is_not_the_accounts(kind: str, status: int, message: str, fault: Fault) -> None:
    """A file, a store, a cache, a bucket, another model: of whatever kind the account is."""
    found = verdict(status, message, kind=kind, rpc="FAILED_PRECONDITION" if status == 400 else None)
    assert found.fault is fault
    assert (found.message == "") == (fault in ABOUT_THE_REQUEST)  # it may repeat what the request says


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("api-key", info("SERVICE_DISABLED", service="discoveryengine.googleapis.com", consumer="projects/1")),
        ("vertex", info("SERVICE_DISABLED", service="discoveryengine.googleapis.com", consumer="projects/p-own")),
        ("vertex", info("SERVICE_DISABLED", service="aiplatform.googleapis.com", consumer="projects/p-other")),
        ("vertex", info("BILLING_DISABLED", service="storage.googleapis.com")),
        ("vertex", info("CONSUMER_INVALID", consumer="projects/p-other")),
        ("api-key", info("API_KEY_INVALID", service="maps.googleapis.com")),
        ("vertex", info("IAM_PERMISSION_DENIED", permission="storage.objects.get", resource="projects/_/buckets/b")),
        ("vertex", info("IAM_PERMISSION_DENIED", permission="discoveryengine.servingConfigs.search")),
        (
            "vertex",
            info(
                "IAM_PERMISSION_DENIED",
                permission="aiplatform.cachedContents.get",
                resource="projects/p-own/locations/global/cachedContents/1",
            ),
        ),
        (
            "vertex",
            info(
                "IAM_PERMISSION_DENIED",
                permission="aiplatform.endpoints.predict",
                resource="projects/p-own/locations/global/endpoints/7",
            ),
        ),
        (
            "vertex",
            info(
                "IAM_PERMISSION_DENIED",
                permission="aiplatform.endpoints.predict",
                resource=VERTEX_MODEL.replace("p-own", "p-other"),
            ),
        ),
        (
            "vertex",
            info(
                "IAM_PERMISSION_DENIED",
                permission="aiplatform.endpoints.predict",
                resource=VERTEX_MODEL.replace(MODEL, "another"),
            ),
        ),
    ],
)
def test_an_error_info_about_another_service_or_project_is_about_the_request(kind: str, details: Any) -> None:
    """A tool whose API is off, a bucket, an endpoint or a cache that the client named."""
    assert verdict(403, "x", details, kind=kind, project="p-own").fault is Fault.FINAL


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (
            "Discovery Engine API has not been used in project 12345 before or it is disabled. Enable it by visiting "
            "https://console.developers.google.com/apis/api/discoveryengine.googleapis.com/overview?project=12345",
            "api-key",
        ),
        (
            "Vertex AI API has not been used in project p-other-1 before or it is disabled. Enable it by visiting "
            "https://console.developers.google.com/apis/api/aiplatform.googleapis.com/overview?project=p-other-1",
            "vertex",
        ),
        ("This API method requires billing to be enabled. Please enable billing on project #p-other-1.", "vertex"),
        ("Permission 'storage.objects.get' denied on resource '//x/y' (or it may not exist).", "vertex"),
    ],
)
def test_sentences_about_another_service_or_project_are_about_the_request(message: str, kind: str) -> None:
    """The same without an ErrorInfo."""
    assert verdict(403, message, kind=kind, project="p-own").fault is Fault.FINAL


# -- The account and the model ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (403, "Your API key was reported as leaked. Please use another API key.", "API_KEY_LEAKED"),
        (403, "API key has been compromised.", "API_KEY_LEAKED"),
        (403, "Permission denied: Consumer 'api_key:x' has been suspended.", "SUSPENDED"),
        (403, "Your account has been suspended.", "SUSPENDED"),
        (403, "Your project has been denied access. Please contact support.", "ACCESS_DENIED"),
        (400, "API key not valid. Please pass a valid API key.", "API_KEY_INVALID"),
        (400, "API Key not found. Please pass a valid API key.", "API_KEY_INVALID"),
        (400, "API key expired. Please renew the API key.", "API_KEY_EXPIRED"),
        (401, "API key is invalid.", "API_KEY_INVALID"),
        (403, "Verify your account to continue.", "VALIDATION_REQUIRED"),
        (403, "This service has been disabled in this account for violation of Terms of Service.", "TERMS_OF_SERVICE"),
    ],
)
def test_what_somebody_has_to_mend_locks_the_account(status: int, message: str, reason: str) -> None:
    """Without an ErrorInfo, too; Google's sentence is kept."""
    found = verdict(status, message)
    assert (found.fault, found.reason, found.message) == (Fault.LOCKED, reason, message)


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (400, "User location is not supported for the API use.", "LOCATION_NOT_SUPPORTED"),
        (400, "Your location is not supported by google-generativeai at the moment.", "LOCATION_NOT_SUPPORTED"),
        (
            400,
            "Gemini API free tier is not available in your country. Please enable billing on your project.",
            "LOCATION_NOT_SUPPORTED",
        ),
        (400, "Please enable billing on your project in Google AI Studio.", "BILLING"),
        (400, "Your prepayment credits are depleted.", "BILLING"),
        (403, "This API method requires billing to be enabled. Please enable billing on project #123456.", "BILLING"),
        (403, "Billing is disabled for project p-own.", "BILLING"),
        (
            403,
            "Generative Language API has not been used in project 12345 before or it is disabled. Enable it by visiting"
            " https://console.developers.google.com/apis/api/generativelanguage.googleapis.com/overview?project=12345",
            "SERVICE_DISABLED",
        ),
        (
            403,
            "Requests to this API generativelanguage.googleapis.com method google.x.GenerateContent are blocked.",
            "API_KEY_BLOCKED",
        ),
        (403, "The provided API key has an IP address restriction.", "API_KEY_BLOCKED"),
        (403, "Method doesn't allow unregistered callers (callers without established identity).", "NO_CREDENTIAL"),
        (
            403,
            "You are currently configured to use a Google Cloud Project but lack a Gemini Code Assist license.",
            "NO_LICENCE",
        ),
    ],
)
def test_what_may_mend_itself_blocks_the_account(status: int, message: str, reason: str) -> None:
    """Location, billing, services, restrictions of a key: for all models, and tried again."""
    found = verdict(status, message, project="p-own", rpc="FAILED_PRECONDITION" if status == 400 else None)
    assert (found.fault, found.reason, found.message) == (Fault.BLOCKED, reason, message)


@pytest.mark.parametrize(
    ("kind", "detail", "fault"),
    [
        ("api-key", info("API_KEY_INVALID", service="generativelanguage.googleapis.com"), Fault.LOCKED),
        ("api-key", info("CONSUMER_SUSPENDED", service="generativelanguage.googleapis.com"), Fault.LOCKED),
        ("code-assist", info("VALIDATION_REQUIRED", "cloudcode-pa.googleapis.com"), Fault.LOCKED),
        ("api-key", info("API_KEY_SERVICE_BLOCKED", service="generativelanguage.googleapis.com"), Fault.BLOCKED),
        ("api-key", info("API_KEY_IP_ADDRESS_BLOCKED"), Fault.BLOCKED),
        ("code-assist", info("SERVICE_DISABLED", service="cloudaicompanion.googleapis.com"), Fault.BLOCKED),
        ("vertex", info("SERVICE_DISABLED", service="us-central1-aiplatform.googleapis.com"), Fault.BLOCKED),
        ("vertex", info("SERVICE_DISABLED", consumer="projects/1234567"), Fault.BLOCKED),  # a number, not an id
        ("vertex", info("CONSUMER_INVALID", consumer="projects/p-own"), Fault.BLOCKED),
        ("vertex", info("BILLING_DISABLED"), Fault.BLOCKED),
        (
            "vertex",
            info("IAM_PERMISSION_DENIED", permission="aiplatform.endpoints.predict", resource=VERTEX_MODEL),
            Fault.FORBIDDEN,
        ),
        (
            "code-assist",
            info(
                "IAM_PERMISSION_DENIED",
                "cloudaicompanion.googleapis.com",
                permission="cloudaicompanion.instances.completeTask",
                resource="projects/p-own/locations/global",
            ),
            Fault.BLOCKED,
        ),
        (
            "vertex",
            info("IAM_PERMISSION_DENIED", permission="serviceusage.services.use", resource="projects/p-own"),
            Fault.BLOCKED,
        ),
    ],
)
def test_an_error_info_about_the_accounts_own_counts(kind: str, detail: Any, fault: Fault) -> None:
    """Its own API, at whichever location, and its own project."""
    assert verdict(403, "x", detail, kind=kind, project="p-own").fault is fault


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_error_info_counts_with_any_of_these_statuses(status: int) -> None:
    """Google is not strict about them."""
    assert verdict(status, "x", info("SERVICE_DISABLED")).fault is Fault.BLOCKED


@pytest.mark.parametrize(
    ("status", "message", "fault"),
    [
        (404, f"models/{MODEL} is not found for API version v1, or is not supported for generateContent.", "NO_MODEL"),
        (404, f"Publisher Model `{VERTEX_MODEL}` was not found or your project has no access to it.", "NO_MODEL"),
        (404, f"Model {MODEL} is no longer available.", "NO_MODEL"),
        (404, "This model is deprecated.", "NO_MODEL"),
        (403, f"Project `1` is not allowed to use Publisher Model `{VERTEX_MODEL}`", "FORBIDDEN"),
        (403, f"Permission 'aiplatform.endpoints.predict' denied on resource '//x/{VERTEX_MODEL}'.", "FINAL"),
        (
            403,
            f"Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/{VERTEX_MODEL}'"
            " (or it may not exist).",
            "FORBIDDEN",
        ),
    ],
)
def test_words_about_the_model_are_about_the_model(status: int, message: str, fault: str) -> None:
    """And about no other."""
    assert verdict(status, message, kind="vertex", project="p-own").fault is Fault[fault]


@pytest.mark.parametrize("name", ["gemini-live-voice", "deep-research-agent", "files/x", "batch-operation"])
def test_a_models_name_is_not_taken_for_a_thing(name: str) -> None:
    """However it is called."""
    message = f"models/{name} is not found for API version v1beta, or is not supported for generateContent."
    assert verdict(404, message, model=name).fault is Fault.NO_MODEL


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "The caller does not have permission"),
        (403, "Forbidden"),
        (403, ""),
        (403, "Request had insufficient authentication scopes."),
        (403, "Request is prohibited by organization's policy."),
        (404, "Requested entity was not found."),
        (404, ""),
    ],
)
def test_what_does_not_tell_is_unclear(status: int, message: str) -> None:
    """Another account may be asked; nothing is held against this one."""
    assert verdict(status, message).fault is Fault.UNCLEAR
    assert verdict(status, message, info("SOMETHING_NEW")).reason == "SOMETHING_NEW"


def test_a_failed_precondition_about_a_place_in_unknown_words_is_unclear() -> None:
    """It may well be the account; the gateway's own question tells."""
    message = "This request cannot be served where you are: unsupported region."
    assert verdict(400, message, rpc="FAILED_PRECONDITION").fault is Fault.UNCLEAR
    assert verdict(400, message).fault is Fault.FINAL


def test_a_refused_credential_is_refreshed_first() -> None:
    """Whatever else it says."""
    message = "Request had invalid authentication credentials. Expected OAuth 2 access token."
    for reason in ("ACCESS_TOKEN_EXPIRED", "ACCESS_TOKEN_TYPE_UNSUPPORTED", "CREDENTIALS_MISSING"):
        assert verdict(401, message, info(reason)).fault is Fault.CREDENTIAL


# -- Quotas of tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "quota_id", "fault"),
    [
        ("generativelanguage.googleapis.com/generate_content_requests", "RequestsPerMinute", Fault.RATE),
        ("discoveryengine.googleapis.com/search_requests", "RequestsPerMinute", Fault.UNCLEAR),
        ("generativelanguage.googleapis.com/search_grounding_requests", "RequestsPerDay", Fault.UNCLEAR),
        ("generativelanguage.googleapis.com/x", "GroundedRequestsPerDayPerProject", Fault.UNCLEAR),
        ("", "RequestsPerMinute", Fault.RATE),
    ],
)
def test_the_quota_of_a_tool_is_not_the_models(metric: str, quota_id: str, fault: Fault) -> None:
    """Requests without the tool are served all the same."""
    detail = {"@type": TYPE + "QuotaFailure", "violations": [{"quotaMetric": metric, "quotaId": quota_id}]}
    error = {"code": 429, "message": "Quota.", "status": "RESOURCE_EXHAUSTED", "details": [detail]}
    assert classify(429, json.dumps({"error": error}).encode(), now=0.0).fault is fault


# -- What is not Google's ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document", [b"", b"<html>Blocked</html>", b'{"error": "no"}', b"\x1f\x8b\x08", b"[]", b"null"]
)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 407, 451])
def test_a_page_of_somebody_elses_is_the_endpoints_failure(status: int, document: bytes) -> None:
    """Whatever its status: it says nothing of an account, a credential or a model."""
    assert classify(status, document, now=0.0).fault is Fault.ENDPOINT


# -- Attackers and accidents -----------------------------------------------------------------------------------

#: Sentences that would take an account away from everybody.
DANGEROUS = (
    "API key not valid. Please pass a valid API key.",
    "API key expired.",
    "Your API key was reported as leaked.",
    "User location is not supported for the API use.",
    "Consumer 'x' has been suspended.",
    "Verify your account to continue.",
    "This API method requires billing to be enabled.",
)


@unhurried
@given(st.sampled_from(DANGEROUS), st.sampled_from([400, 403, 404]))
def test_a_client_cannot_put_words_into_googles_mouth(words: str, status: int) -> None:
    """Google repeats names, values and addresses: what a client wrote never counts for Google's own."""
    for repeated in (
        f'Invalid JSON payload received. Unknown name "{words}": Cannot find field.',
        f"Invalid value at 'contents[0]' (TYPE_STRING), \"{words}\"",
        f"models/{words} is not found for API version v1beta, or is not supported for generateContent.",
        f"You do not have permission to access the File {words} or it may not exist.",
        f"Unsupported file uri: {words}",
        f"* GenerateContentRequest.contents: {words}",
    ):
        for rpc in (None, "FAILED_PRECONDITION"):
            found = verdict(status, repeated, rpc=rpc, model=words)
            assert found.fault not in (Fault.LOCKED, Fault.BLOCKED, Fault.CREDENTIAL), repeated


def test_googles_links_and_words_are_kept_within_bounds() -> None:
    """The page that mends it comes first; what is no https address, or too long, is left out."""
    found = verdict(
        403,
        "x" * 10_000,
        info("VALIDATION_REQUIRED", validation_link="https://accounts.google.com/signin?a=1"),
        {"@type": TYPE + "Help", "links": [{"url": "https://support.google.com"}, {"url": "javascript:x"}, 5]},
    )
    assert found.link == "https://accounts.google.com/signin?a=1"
    assert len(found.message) == MAX_MESSAGE
    for link in ("http://a", "https://" + "x" * 2000, "", 5):
        assert (
            verdict(403, "x", info("VALIDATION_REQUIRED"), {"@type": TYPE + "Help", "links": [{"url": link}]}).link
            is None
        )


def test_of_an_error_with_endless_details_the_first_ones_count() -> None:
    """The work is bounded."""
    error = {"details": [info("A")] * 1000}
    found = read_error(json.dumps({"error": error}).encode())
    assert found is not None
    assert len(found.infos) == MAX_DETAILS
