"""Code-assist's envelope, and what it says of an account."""

from __future__ import annotations

from typing import Any

import pytest

from agm.emulator.replies import ESF
from tests.emulator.dialogue import HELLO, TOKEN, Answered, Dialogue


def call(emu: Dialogue, method: str, body: Any = None) -> Answered:
    return emu.ask("POST", f"/v1internal:{method}", {} if body is None else body, TOKEN)


def test_generation_travels_in_an_envelope(emu: Dialogue) -> None:
    """Both forms of the request, and the headers of this service."""
    for body in (
        {"project": "p", "model": "m", "request": {**HELLO, "sessionId": "s"}, "requestId": "r", "requestType": "agent",
         "userAgent": "agm"},
        {"model": "models/m", "project": "p", "user_prompt_id": "u", "request": {**HELLO, "session_id": "s"}},
    ):  # fmt: skip
        answered = call(emu, "generateContent", body)
        assert answered.status == 200
        assert list(answered.json) == ["response", "traceId"]
        assert answered.json["response"]["modelVersion"] == answered.entry.model == "m"
        assert set(ESF) <= set(answered.reply.headers)


@pytest.mark.parametrize("body", [{}, {"model": "m"}, {"model": "m", "request": {}}, {"request": HELLO}])
def test_an_incomplete_envelope_is_refused(emu: Dialogue, body: Any) -> None:
    """400."""
    assert call(emu, "generateContent", body).status == 400


def test_counting_has_an_envelope_of_its_own(emu: Dialogue) -> None:
    """Model and contents only; the answer has none."""
    answered = call(emu, "countTokens", {"request": {"model": "models/m", **HELLO}})
    assert answered.json == {"totalTokens": 4}
    refused = call(emu, "countTokens", {"model": "m", "project": "p", "request": {"model": "models/m", **HELLO}})
    assert [v["description"] for v in refused.detail("BadRequest")["fieldViolations"]] == [
        'Invalid JSON payload received. Unknown name "model": Cannot find field.',
        'Invalid JSON payload received. Unknown name "project": Cannot find field.',
    ]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1internal:sing"), ("GET", "/v1internal:generateContent"), ("POST", "/v1internal/operations/x")],
)
def test_what_does_not_exist_is_googles_page(emu: Dialogue, method: str, path: str) -> None:
    """HTML."""
    assert emu.ask(method, path, b"", TOKEN).header("content-type") == "text/html; charset=UTF-8"


def test_an_account_is_loaded_with_its_tier_and_project(emu: Dialogue) -> None:
    """An undeclared one is licensed already."""
    loaded = call(emu, "loadCodeAssist", {"metadata": {"ideType": "IDE_UNSPECIFIED", "pluginType": "GEMINI"}}).json
    assert loaded["currentTier"]["id"] == "standard-tier"
    assert loaded["cloudaicompanionProject"] == "project-t1"
    assert loaded["paidTier"]["id"] == "standard-tier"
    emu.control("accounts", {"name": "a", "credentials": ["t1"], "tier": "free-tier", "project": "mine"})
    loaded = call(emu, "loadCodeAssist").json
    assert (loaded["cloudaicompanionProject"], "paidTier" in loaded) == ("mine", False)
    emu.control("accounts", {"name": "a", "credentials": ["t1"], "tier": "special"})
    assert call(emu, "loadCodeAssist").json["currentTier"]["name"] == "Gemini Code Assist"


def test_an_account_without_a_tier_is_onboarded(emu: Dialogue) -> None:
    """An operation that is polled, and then the account has its tier."""
    emu.control("accounts", {"name": "a", "credentials": ["t1"], "tier": None})
    loaded = call(emu, "loadCodeAssist").json
    assert "currentTier" not in loaded
    tier = next(tier for tier in loaded["allowedTiers"] if tier.get("isDefault"))
    started = call(emu, "onboardUser", {"tierId": tier["id"]}).json
    assert "done" not in started
    done = emu.ask("GET", f"/v1internal/{started['name']}", headers=TOKEN).json
    assert done["done"] is True
    assert done["response"]["cloudaicompanionProject"]["id"] == "project-a"
    assert call(emu, "loadCodeAssist").json["currentTier"]["id"] == "free-tier"
    foreign = emu.ask("GET", f"/v1internal/{started['name']}", headers={"authorization": "Bearer other"})
    assert foreign.status == 404
    assert emu.ask("GET", "/v1internal/operations/nonesuch", headers=TOKEN).status == 404


def test_a_paid_tier_brings_its_project(emu: Dialogue) -> None:
    """And keeps it."""
    started = call(emu, "onboardUser", {"tierId": "standard-tier", "cloudaicompanionProject": "mine"}).json
    emu.ask("GET", f"/v1internal/{started['name']}", headers=TOKEN)
    assert call(emu, "loadCodeAssist").json["cloudaicompanionProject"] == "mine"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"tierId": "free-tier", "cloudaicompanionProject": "p"}, "INVALID_ARGUMENT"),
        ({"tierId": "standard-tier"}, "FAILED_PRECONDITION"),
        ({"tierId": "nonesuch"}, "INVALID_ARGUMENT"),
        ({}, "INVALID_ARGUMENT"),
    ],
)
def test_bad_onboarding_is_refused(emu: Dialogue, body: Any, status: str) -> None:
    """The free tier has a project of its own; the others bring one."""
    answered = call(emu, "onboardUser", body)
    assert (answered.status, answered.error["status"]) == (400, status)


def test_quota_and_models_of_an_account(emu: Dialogue) -> None:
    """What is left today goes down with use; the reset is at midnight."""
    emu.control(
        "accounts", {"name": "a", "credentials": ["t1"], "quotas": {"requests_per_day": 4}, "models": ["*flash"]}
    )
    call(emu, "generateContent", {"model": "gemini-2.5-flash", "request": HELLO})
    buckets = {bucket["modelId"]: bucket for bucket in call(emu, "retrieveUserQuota", {"project": "p"}).json["buckets"]}
    assert set(buckets) == {"gemini-2.5-flash", "gemini-2.0-flash"}
    assert buckets["gemini-2.5-flash"] == {
        "modelId": "gemini-2.5-flash",
        "tokenType": "REQUESTS",
        "remainingAmount": "3",
        "remainingFraction": 0.75,
        "resetTime": "1970-01-13T00:00:00Z",
    }
    models = call(emu, "fetchAvailableModels").json["models"]
    assert models["gemini-2.5-flash"]["quotaInfo"]["remainingFraction"] == 0.75
    assert models["gemini-2.0-flash"]["supportsThinking"] is False


def test_without_quotas_everything_is_left(emu: Dialogue) -> None:
    """A thousand, say."""
    assert call(emu, "retrieveUserQuota").json["buckets"][0]["remainingAmount"] == "1000"


def test_bad_requests_about_the_account_are_refused(emu: Dialogue) -> None:
    """With this service's header."""
    answered = call(emu, "loadCodeAssist", {"nonsense": 1})
    assert answered.status == 400
    assert answered.header("x-cloudaicompanion-trace-id")
