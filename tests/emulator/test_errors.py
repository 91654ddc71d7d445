"""Google's errors, to the letter of what clients match on."""

from __future__ import annotations

import pytest

from agm.emulator import errors
from agm.emulator.errors import Circumstances, GoogleError, Kind
from agm.emulator.faults import FAULTS, STATUSES, Fault

KINDS = list(Kind)


def about(kind: Kind) -> Circumstances:
    return Circumstances(kind, model="gemini-x", project="proj", now=1_000_000.0)


def reasons(error: GoogleError) -> list[str]:
    return [detail["reason"] for detail in error.details if "reason" in detail]


def retry_delay(error: GoogleError) -> str | None:
    return next((detail["retryDelay"] for detail in error.details if "retryDelay" in detail), None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (56, "56s"),
        (0.5, "0.500s"),
        (2.25, "2.250s"),
        (0.539477, "0.539477s"),
        (0.539477544, "0.539477544s"),
        (0, "0s"),
    ],
)
def test_durations_have_0_3_6_or_9_digits(seconds: float, text: str) -> None:
    """google.protobuf.Duration in JSON."""
    assert errors.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.539477544, "539.477544ms"),
        (143 * 3600 + 4 * 60 + 52.7, "143h4m52.7s"),
        (90, "1m30s"),
        (5, "5s"),
        (0.5, "500ms"),
    ],
)
def test_quota_resets_are_printed_as_go_does(seconds: float, text: str) -> None:
    """quotaResetDelay."""
    assert errors.go_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-15T09:30:00Z", 1768469400.0),
        ("2026-01-15T09:30:00.5+00:00", 1768469400.5),
        ("2026-01-15T09:30:00", None),
        ("soon", None),
    ],
)
def test_timestamps_are_read(text: str, seconds: float | None) -> None:
    """With a zone; without one a time is none."""
    assert errors.parse_timestamp(text) == seconds


def test_a_timestamp_is_printed() -> None:
    """With a Z, and fractions only if there are any."""
    assert errors.timestamp(1768469400.0) == "2026-01-15T09:30:00Z"
    assert errors.timestamp(1768469400.25) == "2026-01-15T09:30:00.250000Z"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", sorted(STATUSES))
def test_every_status_has_googles_body(kind: Kind, status: int) -> None:
    """Code, message and the code's name."""
    error = errors.of_status(about(kind), status).document()["error"]
    names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
    names |= {
        429: "RESOURCE_EXHAUSTED",
        499: "CANCELLED",
        500: "INTERNAL",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }
    assert error["code"] == status
    assert error["status"] == names[status]
    assert error["message"]


def test_a_status_without_an_error_is_a_mistake() -> None:
    """200 has none."""
    with pytest.raises(ValueError, match="no error of status 200"):
        errors.of_status(about(Kind.VERTEX), 200)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_429_says_when_to_come_back(kind: Kind) -> None:
    """One second, or as told."""
    assert retry_delay(errors.of_status(about(kind), 429)) == "1s"
    assert retry_delay(errors.of_status(about(kind), 429, 2.5)) == "2.500s"


def test_other_statuses_say_so_if_told() -> None:
    """``emu-503-4``."""
    assert retry_delay(errors.of_status(about(Kind.VERTEX), 503)) is None
    assert retry_delay(errors.of_status(about(Kind.VERTEX), 503, 4)) == "4s"


def test_the_401_of_a_token_names_the_reason() -> None:
    """ErrorInfo with the service and the method."""
    error = errors.of_status(about(Kind.CODE_ASSIST), 401)
    assert error.message.startswith("Request had invalid authentication credentials.")
    assert error.details == (
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "ACCESS_TOKEN_EXPIRED",
            "domain": "googleapis.com",
            "metadata": {
                "method": "google.internal.cloud.code.v1internal.CloudCode.GenerateContent",
                "service": "cloudcode-pa.googleapis.com",
            },
        },
    )


def test_the_404_of_a_model() -> None:
    """In the words of each kind."""
    assert errors.of_status(about(Kind.API_KEY), 404).message == (
        "models/gemini-x is not found for API version v1beta, or is not supported for generateContent. Call ListModels "
        "to see the list of available models and their supported methods."
    )
    assert "`projects/proj/locations/global/publishers/google/models/gemini-x`" in (
        errors.of_status(about(Kind.VERTEX), 404).message
    )
    assert errors.of_status(about(Kind.CODE_ASSIST), 404).message == "Requested entity was not found."


def test_the_developer_apis_quota_failure() -> None:
    """QuotaFailure, RetryInfo and the text agree."""
    error = errors.of_fault(about(Kind.API_KEY), Fault("429rpm", 56.18))
    assert error is not None
    assert error.message.endswith(", limit: 10, model: gemini-x\nPlease retry in 56.180s.")
    violation = error.details[1]["violations"][0]
    assert violation == {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
        "quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
        "quotaDimensions": {"location": "global", "model": "gemini-x"},
        "quotaValue": "10",
    }
    assert retry_delay(error) == "56.180s"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "period"), [("429rpm", "PerMinute"), ("429day", "PerDay")])
def test_quota_ids_name_their_period(kind: Kind, name: str, period: str) -> None:
    """A daily failure still carries a short delay."""
    error = errors.of_fault(about(kind), Fault(name, FAULTS[name].default))
    assert error is not None
    quota_ids = [v["quotaId"] for detail in error.details for v in detail.get("violations", ())]
    assert [period in quota_id for quota_id in quota_ids] == [True]
    assert retry_delay(error) == ("56s" if period == "PerMinute" else "26s")


@pytest.mark.parametrize("kind", KINDS)
def test_a_429_may_have_no_details(kind: Kind) -> None:
    """As Vertex AI's often has not."""
    error = errors.of_fault(about(kind), Fault("429nodetails"))
    assert error is not None
    assert "details" not in error.document()["error"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exhausted_quota_names_its_reset(kind: Kind) -> None:
    """Delay in Go's form, and the moment."""
    error = errors.of_fault(about(kind), Fault("quota", 3601.5))
    assert error is not None
    assert reasons(error) == ["QUOTA_EXHAUSTED"]
    assert error.details[0]["metadata"] == {
        "model": "gemini-x",
        "quotaResetDelay": "1h0m1.5s",
        "quotaResetTimeStamp": "1970-01-12T14:46:42Z",
    }
    assert retry_delay(error) == "3601.500s"


@pytest.mark.parametrize(("name", "status"), [("capacity429", 429), ("capacity503", 503)])
def test_capacity_is_the_models(name: str, status: int) -> None:
    """The same words with either status."""
    error = errors.of_fault(about(Kind.CODE_ASSIST), Fault(name))
    assert error is not None
    assert (error.status, reasons(error)) == (status, ["MODEL_CAPACITY_EXHAUSTED"])
    assert error.message == "No capacity available for model gemini-x on the server"


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_that_a_person_must_mend(kind: Kind) -> None:
    """Each with a link to act on."""
    validation = errors.of_fault(about(kind), Fault("403validation"))
    disabled = errors.of_fault(about(kind), Fault("403disabled"))
    assert validation is not None
    assert disabled is not None
    assert (reasons(validation), reasons(disabled)) == (["VALIDATION_REQUIRED"], ["SERVICE_DISABLED"])
    assert validation.details[0]["metadata"]["validation_link"].startswith("https://")
    assert "before or it is disabled. Enable it by visiting https://console.developers.google.com/" in disabled.message


def test_faults_that_shape_an_answer_are_no_errors() -> None:
    """A cut stream began well."""
    assert errors.of_fault(about(Kind.API_KEY), Fault("cut")) is None


@pytest.mark.parametrize("reason", errors.DISABLED_REASONS)
def test_a_disabled_account_is_refused_for_its_reason(reason: str) -> None:
    """Whatever was declared."""
    error = errors.disabled(about(Kind.VERTEX), reason)
    assert reasons(error) == [reason]
    assert error.status in (400, 401, 403)
