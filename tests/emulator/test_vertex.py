"""Vertex AI's paths and messages."""

from __future__ import annotations

import pytest

from tests.emulator.dialogue import HELLO, KEY, TOKEN, Dialogue

PLACE = "/v1/projects/p/locations/us-central1"


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (f"{PLACE}/publishers/google/models/m", "m"),
        ("/v1beta1/projects/p/locations/global/publishers/google/models/m", "m"),
        (f"{PLACE}/endpoints/123", "endpoints/123"),
        ("/v1/publishers/google/models/m", "m"),
        ("/v1beta1/publishers/google/models/m", "m"),
    ],
)
def test_models_endpoints_and_express_mode(emu: Dialogue, path: str, model: str) -> None:
    """All with a token; express mode with a key, too."""
    answered = emu.ask("POST", f"{path}:generateContent", HELLO, TOKEN)
    assert (answered.status, answered.entry.model) == (200, model)
    with_key = emu.ask("POST", f"{path}:generateContent", HELLO, KEY)
    assert with_key.status == (401 if "projects" in path else 200)


@pytest.mark.parametrize(
    "path",
    [
        f"{PLACE}/publishers/google/models/m:batchEmbedContents",
        f"{PLACE}/publishers/google/models/m",
        f"{PLACE}/endpoints/1:sing",
    ],
)
def test_what_does_not_exist_is_googles_page(emu: Dialogue, path: str) -> None:
    """There is no batchEmbedContents here."""
    answered = emu.ask("POST", path, HELLO, TOKEN)
    assert (answered.status, answered.header("content-type")) == (404, "text/html; charset=UTF-8")


def test_a_role_is_mandatory(emu: Dialogue) -> None:
    """For generating and for counting."""
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    for method in ("generateContent", "countTokens"):
        answered = emu.model("vertex", "m", method, body)
        assert (answered.status, answered.error["message"]) == (400, "Please use a valid role: user, model.")


def test_what_says_nothing_is_refused(emu: Dialogue) -> None:
    """In Vertex AI's words."""
    assert emu.model("vertex", "m", body={}).error["message"] == "at least one contents field is required"
    empty = emu.model("vertex", "m", body={"contents": [{"role": "user"}]})
    assert empty.error["message"].startswith(
        "Unable to submit request because it must include at least one parts field"
    )


def test_counting_bills_characters(emu: Dialogue) -> None:
    """And agrees with usage; instances are counted as well."""
    counted = emu.model("vertex", "m", "countTokens").json
    usage = emu.model("vertex", "m").json["usageMetadata"]
    assert counted == {
        "totalTokens": usage["promptTokenCount"],
        "totalBillableCharacters": 12,
        "promptTokensDetails": usage["promptTokensDetails"],
    }
    assert emu.model("vertex", "m", "countTokens", {"instances": [{"content": "abc"}]}).json["totalTokens"] == 5


def test_embeddings_in_both_ways(emu: Dialogue) -> None:
    """embedContent, and predict for the older models."""
    one = emu.model("vertex", "m", "embedContent", {"content": {"parts": [{"text": "x y z w"}]}}).json
    assert len(one["embedding"]["values"]) == 3_072
    assert one["usageMetadata"] == {"promptTokenCount": 2, "totalTokenCount": 2}
    body = {"instances": [{"content": "a b"}, {"content": "c"}], "parameters": {"outputDimensionality": 16}}
    predicted = emu.model("vertex", "text-embedding-005", "predict", body).json
    assert [len(one["embeddings"]["values"]) for one in predicted["predictions"]] == [16, 16]
    assert predicted["metadata"] == {"billableCharacterCount": 3}


def test_the_publishers_models(emu: Dialogue) -> None:
    """Listed in pages, one by one, and refused without a credential."""
    page = emu.ask("GET", "/v1beta1/publishers/google/models?pageSize=2", headers=TOKEN).json
    assert [model["name"] for model in page["publisherModels"]] == [
        "publishers/google/models/gemini-2.5-pro",
        "publishers/google/models/gemini-2.5-flash",
    ]
    assert page["nextPageToken"]
    everything = emu.ask("GET", f"{PLACE}/publishers/google/models", headers=KEY).json
    assert "nextPageToken" not in everything
    assert everything["publisherModels"][6]["launchStage"] == "PUBLIC_PREVIEW"
    one = emu.ask("GET", "/v1/publishers/google/models/gemini-2.5-pro", headers=KEY)
    assert one.json["launchStage"] == "GA"
    assert emu.ask("GET", "/v1/publishers/google/models/nonesuch", headers=KEY).status == 404
    assert emu.ask("GET", "/v1beta1/publishers/google/models", headers={}).status == 401
    assert emu.ask("GET", "/v1beta1/publishers/google/models?pageSize=x", headers=KEY).status == 400
