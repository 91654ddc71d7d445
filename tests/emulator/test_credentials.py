"""Good and bad credentials on the three kinds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.emulator.dialogue import HELLO, KEY, KINDS, Dialogue

kinds = pytest.mark.parametrize("kind", KINDS)


def refused(emu: Dialogue, kind: str, headers: Mapping[str, str]) -> tuple[int, list[str]]:
    answered = emu.model(kind, "m", headers=headers)
    return answered.status, answered.reasons


@kinds
def test_a_token_is_good_everywhere(emu: Dialogue, kind: str) -> None:
    """It names the account."""
    answered = emu.model(kind, "m", headers={"authorization": "bearer t7"})
    assert (answered.status, answered.entry.account) == (200, "t7")


def test_a_key_comes_by_header_or_query(emu: Dialogue) -> None:
    """As SDKs send it."""
    assert emu.model("api-key", "m", headers={"x-goog-api-key": "k7"}).entry.account == "k7"
    answered = emu.ask("POST", "/v1beta/models/m:generateContent?key=k8", HELLO, {})
    assert (answered.status, answered.entry.account) == (200, "k8")
    answered = emu.ask("POST", "/v1beta/models/m:generateContent?access_token=t8", HELLO, {})
    assert (answered.status, answered.entry.account) == (200, "t8")


def test_without_a_credential(emu: Dialogue) -> None:
    """403 on the Developer API, 401 elsewhere."""
    assert refused(emu, "api-key", {}) == (403, [])
    assert refused(emu, "vertex", {}) == (401, ["CREDENTIALS_MISSING"])
    assert refused(emu, "code-assist", {"authorization": "Basic x"}) == (401, ["CREDENTIALS_MISSING"])
    assert (
        emu.model("api-key", "m", headers={})
        .error["message"]
        .startswith("Method doesn't allow unregistered callers (callers without established identity).")
    )


@pytest.mark.parametrize("key", ["invalid", "bad-key", "bad-key-2"])
def test_a_bad_key(emu: Dialogue, key: str) -> None:
    """400, with the words that every SDK matches."""
    answered = emu.model("api-key", "m", headers={"x-goog-api-key": key})
    assert (answered.status, answered.reasons) == (400, ["API_KEY_INVALID"])
    assert answered.error["message"] == "API key not valid. Please pass a valid API key."


@kinds
def test_bad_tokens(emu: Dialogue, kind: str) -> None:
    """Expired and invalid ones."""
    assert refused(emu, kind, {"authorization": "Bearer expired-1"}) == (401, ["ACCESS_TOKEN_EXPIRED"])
    assert refused(emu, kind, {"authorization": "Bearer invalid"}) == (401, ["ACCESS_TOKEN_TYPE_UNSUPPORTED"])


@pytest.mark.parametrize("kind", ["vertex", "code-assist"])
def test_a_key_where_only_a_token_will_do(emu: Dialogue, kind: str) -> None:
    """401, in words of its own."""
    answered = emu.model(kind, "m", headers=KEY)
    assert (answered.status, answered.reasons) == (401, ["CREDENTIALS_MISSING"])
    assert answered.error["message"].startswith("API keys are not supported by this API.")


@kinds
def test_an_issued_token_ends(emu: Dialogue, kind: str) -> None:
    """On the emulator's clock."""
    token = emu.state.issue(emu.state.account_of("alice"))
    headers = {"authorization": f"Bearer {token}"}
    answered = emu.model(kind, "m", headers=headers)
    assert (answered.status, answered.entry.account) == (200, "alice")
    emu.state.clock.advance(3_601)
    assert refused(emu, kind, headers) == (401, ["ACCESS_TOKEN_EXPIRED"])


def test_a_declared_credential_is_good_whatever_its_name(emu: Dialogue) -> None:
    """Control knows better."""
    emu.control("accounts", {"name": "a", "credentials": ["invalid", "expired-x"]})
    assert emu.model("api-key", "m", headers={"x-goog-api-key": "invalid"}).entry.account == "a"
    assert emu.model("vertex", "m", headers={"authorization": "Bearer expired-x"}).entry.account == "a"


@kinds
def test_a_disabled_account_is_refused(emu: Dialogue, kind: str) -> None:
    """For its reason."""
    emu.control("accounts", {"name": "a", "credentials": ["t"], "disabled": "VALIDATION_REQUIRED"})
    assert refused(emu, kind, {"authorization": "Bearer t"}) == (403, ["VALIDATION_REQUIRED"])


def test_a_declared_project_is_the_only_one(emu: Dialogue) -> None:
    """In paths, envelopes and x-goog-user-project."""
    emu.control("accounts", {"name": "a", "credentials": ["t"], "project": "mine"})
    token = {"authorization": "Bearer t"}
    assert refused(emu, "vertex", token) == (403, ["IAM_PERMISSION_DENIED"])
    assert refused(emu, "code-assist", token) == (403, ["IAM_PERMISSION_DENIED"])
    assert refused(emu, "api-key", token) == (200, [])
    foreign = {**token, "x-goog-user-project": "other"}
    assert refused(emu, "api-key", foreign) == (403, ["USER_PROJECT_DENIED"])
    own = {**token, "x-goog-user-project": "mine"}
    body = {"model": "m", "project": "mine", "request": HELLO}
    assert emu.ask("POST", "/v1internal:generateContent", body, own).status == 200
    path = "/v1/projects/mine/locations/us-central1/publishers/google/models/m:generateContent"
    assert emu.ask("POST", path, HELLO, own).status == 200


@kinds
def test_models_and_quotas_of_an_account(emu: Dialogue, kind: str) -> None:
    """404 for what it lacks, 429 beyond what it may."""
    emu.control(
        "accounts",
        {
            "accounts": [
                {"name": "a", "credentials": ["t"], "models": ["gemini-2*"], "quotas": {"requests_per_minute": 1}}
            ]
        },
    )
    token = {"authorization": "Bearer t"}
    assert emu.model(kind, "gemini-3-pro", headers=token).status == 404
    assert emu.model(kind, "gemini-2.5-pro", headers=token).status == 200
    limited = emu.model(kind, "gemini-2.5-pro", headers=token)
    assert limited.status == 429
    assert limited.detail("RetryInfo")["retryDelay"] == "60s"
    assert "PerMinute" in limited.detail("QuotaFailure")["violations"][0]["quotaId"]


@kinds
def test_a_script_answers_one_call_a_step(emu: Dialogue, kind: str) -> None:
    """Whatever the model."""
    emu.control("script", {"account": "t1", "steps": ["429-2", "ok", "503", "latency-5"]})
    emu.control("script", {"account": "k1", "steps": ["429-2", "ok", "503", "latency-5"]})
    first = emu.model(kind, "m")
    assert first.detail("RetryInfo")["retryDelay"] == "2s"
    assert [emu.model(kind, "m").status for _ in range(2)] == [200, 503]
    assert emu.model(kind, "m").waits == [0.005]
    assert emu.model(kind, "m").waits == []
