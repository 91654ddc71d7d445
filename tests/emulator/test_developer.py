"""The Developer API's paths and messages."""

from __future__ import annotations

import base64
import math
from typing import Any

import pytest

from agm.emulator.modelcalls import MOST_BODY
from tests.emulator.dialogue import HELLO, Dialogue

MODELS = "/v1beta/models"


def contents(*parts: Any, role: str | None = "user") -> dict[str, Any]:
    return {"contents": [{"parts": list(parts), **({} if role is None else {"role": role})}]}


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_all_versions_answer(emu: Dialogue, version: str) -> None:
    """Alike, but for the words of a 404."""
    assert emu.ask("POST", f"/{version}/models/m:generateContent", HELLO).status == 200
    missing = emu.ask("POST", f"/{version}/models/emu-404:generateContent", HELLO)
    assert missing.error["message"].startswith(f"models/emu-404 is not found for API version {version}, ")


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("models/my/model:free", "my/model:free"),
        ("models/a b", "a b"),
        ("models/publishers/google/models/x", "publishers/google/models/x"),
        ("tunedModels/abc", "tunedModels/abc"),
        ("dynamic/1", "dynamic/1"),
    ],
)
def test_the_method_is_after_the_last_colon(emu: Dialogue, path: str, model: str) -> None:
    """Names hold more than letters."""
    answered = emu.ask("POST", f"/v1beta/{path}:generateContent", HELLO)
    assert (answered.status, answered.entry.model, answered.entry.rpc) == (200, model, "generateContent")
    assert answered.json["modelVersion"] == model


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1beta/models/m:sing"),
        ("GET", "/v1beta/models/m/operations"),
        ("POST", "/v1beta/models/m"),
        ("DELETE", "/v1beta/models/m"),
        ("POST", "/v2/models/m:generateContent"),
        ("POST", "//v1beta/models/m:generateContent"),
        ("POST", "/upload/v1beta/corpora"),
        ("GET", "/"),
    ],
)
def test_what_does_not_exist_is_googles_page(emu: Dialogue, method: str, path: str) -> None:
    """HTML, with the path in it."""
    answered = emu.ask(method, path, HELLO)
    assert answered.status == 404
    assert answered.header("content-type") == "text/html; charset=UTF-8"
    assert f"<code>{path}</code>".encode() in answered.body


# -- models


def test_models_are_listed_in_pages(emu: Dialogue) -> None:
    """Size and token."""
    whole = emu.ask("GET", MODELS).json
    assert "nextPageToken" not in whole
    names, token = [], ""
    while True:
        page = emu.ask("GET", f"{MODELS}?pageSize=5" + (f"&pageToken={token}" if token else "")).json
        assert len(page["models"]) <= 5
        names += [model["name"] for model in page["models"]]
        token = page.get("nextPageToken")
        if token is None:
            break
    assert names == [model["name"] for model in whole["models"]]
    assert "models/gemini-2.5-flash" in names


@pytest.mark.parametrize("query", ["pageSize=x", "pageSize=-1", "pageToken=%%%", "pageToken=eA==", "pageToken=OTk5"])
def test_a_bad_page_is_refused(emu: Dialogue, query: str) -> None:
    """400."""
    assert emu.ask("GET", f"{MODELS}?{query}").status == 400


@pytest.mark.parametrize("query", ["pageSize=0", "pageSize=100000", "pageSize="])
def test_an_odd_page_size_is_the_nearest_good_one(emu: Dialogue, query: str) -> None:
    """The whole list is shorter than the default."""
    assert len(emu.ask("GET", f"{MODELS}?{query}").json["models"]) == len(emu.ask("GET", MODELS).json["models"])


def test_a_model_has_the_documented_fields(emu: Dialogue) -> None:
    """A generating one, and one that embeds."""
    model = emu.ask("GET", f"{MODELS}/gemini-2.5-flash").json
    assert model["inputTokenLimit"] == 1_048_576
    assert model["thinking"] is True
    assert "generateContent" in model["supportedGenerationMethods"]
    assert "temperature" not in emu.ask("GET", f"{MODELS}/gemini-embedding-001").json
    assert "maxTemperature" not in emu.ask("GET", f"{MODELS}/gemma-3-27b-it").json


def test_an_unknown_model_is_not_found_but_a_fault_is(emu: Dialogue) -> None:
    """In GetModel's words."""
    missing = emu.ask("GET", f"{MODELS}/nonesuch")
    assert (missing.status, missing.error["message"]) == (
        404,
        "Model is not found: models/nonesuch for api version v1beta",
    )
    assert emu.ask("GET", f"{MODELS}/emu-cut").json["name"] == "models/emu-cut"


def test_an_account_sees_its_own_models(emu: Dialogue) -> None:
    """And a call without a key sees none."""
    emu.control("accounts", {"name": "a", "credentials": ["k1"], "models": ["gemini-2.5-*"]})
    assert {model["name"][7:17] for model in emu.ask("GET", MODELS).json["models"]} == {"gemini-2.5"}
    assert emu.ask("GET", f"{MODELS}/gemini-3-pro-preview").status == 404
    assert emu.ask("GET", MODELS, headers={}).status == 403


# -- contents


def test_what_says_nothing_is_refused(emu: Dialogue) -> None:
    """In the Developer API's words."""

    def said(body: Any) -> str:
        answered = emu.ask("POST", f"{MODELS}/m:generateContent", body)
        assert (answered.status, answered.error["status"]) == (400, "INVALID_ARGUMENT")
        message: str = answered.error["message"]
        return message

    assert said({}) == "* GenerateContentRequest.contents: contents is not specified\n"
    assert said({"contents": [{"role": "user"}]}) == (
        "* GenerateContentRequest.contents[0].parts: contents.parts must not be empty.\n"
    )
    assert said(contents({"text": "x"}, {"thought": True})) == (
        "* GenerateContentRequest.contents[0].parts[1].data: required oneof field 'data' must have one initialized "
        "field\n"
    )
    assert said(contents({"text": "x"}, role="system")) == "Please use a valid role: user, model."


def test_a_role_may_be_left_out(emu: Dialogue) -> None:
    """And ``function`` is one."""
    for role in (None, "function", "model"):
        assert emu.ask("POST", f"{MODELS}/m:generateContent", contents({"text": "x"}, role=role)).status == 200


@pytest.mark.parametrize(
    "config", [{"maxOutputTokens": 0}, {"candidateCount": 9}, {"temperature": 2.1}, {"topP": -1}, {"temperature": -0.1}]
)
def test_values_out_of_range_are_refused(emu: Dialogue, config: dict[str, Any]) -> None:
    """With the range."""
    answered = emu.ask("POST", f"{MODELS}/m:generateContent", {**HELLO, "generationConfig": config})
    name, value = next(iter(config.items()))
    assert answered.status == 400
    assert f"it has a {name} value of {value} but the supported range is from" in answered.error["message"]


def test_values_at_the_ends_of_the_range_are_good(emu: Dialogue) -> None:
    """Inclusive where Google's are."""
    config = {"maxOutputTokens": 65_536, "candidateCount": 8, "temperature": 2.0, "topP": 1}
    assert emu.ask("POST", f"{MODELS}/m:generateContent", {**HELLO, "generationConfig": config}).status == 200


def test_bad_json_and_unknown_fields_are_refused(emu: Dialogue) -> None:
    """Before anything else happens."""
    assert emu.ask("POST", f"{MODELS}/m:generateContent", b"{").error["message"].startswith("Invalid JSON payload")
    answered = emu.ask("POST", f"{MODELS}/m:generateContent", {**HELLO, "messages": []})
    assert answered.detail("BadRequest")["fieldViolations"][0]["description"] == (
        'Invalid JSON payload received. Unknown name "messages": Cannot find field.'
    )


def test_a_body_beyond_the_limit_is_refused(emu: Dialogue) -> None:
    """With the limit in bytes."""
    answered = emu.ask("POST", f"{MODELS}/m:generateContent", b" " * (MOST_BODY + 1))
    assert answered.error["message"] == f"Request payload size exceeds the limit: {MOST_BODY} bytes."


def test_a_schema_that_makes_no_sense_is_the_callers_mistake(emu: Dialogue) -> None:
    """400, not 500."""
    config = {"responseMimeType": "application/json", "responseJsonSchema": {"enum": 5}}
    assert emu.ask("POST", f"{MODELS}/m:generateContent", {**HELLO, "generationConfig": config}).status == 400


# -- counting


def test_counts_agree_with_usage(emu: Dialogue) -> None:
    """For a whole request, tools and instruction included."""
    request = {
        **contents({"text": "hello there"}, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "tools": [{"googleSearch": {}}],
    }
    usage = emu.ask("POST", f"{MODELS}/m:generateContent", request).json["usageMetadata"]
    counted = emu.ask(
        "POST", f"{MODELS}/m:countTokens", {"generateContentRequest": {"model": "models/m", **request}}
    ).json
    assert counted["totalTokens"] == usage["promptTokenCount"]
    assert counted["promptTokensDetails"] == usage["promptTokensDetails"]
    plain = emu.ask("POST", f"{MODELS}/m:countTokens", {"contents": request["contents"]}).json
    assert plain["totalTokens"] == 3 + 258


def test_nothing_cannot_be_counted(emu: Dialogue) -> None:
    """400."""
    answered = emu.ask("POST", f"{MODELS}/m:countTokens", {})
    assert answered.error["message"] == "* CountTokensRequest.contents: contents is not specified\n"


# -- embeddings and pictures


def embedding(emu: Dialogue, text: str, model: str = "gemini-embedding-001", **more: Any) -> list[float]:
    body = {"content": {"parts": [{"text": text}]}, **more}
    values: list[float] = emu.ask("POST", f"{MODELS}/{model}:embedContent", body).json["embedding"]["values"]
    return values


def test_embeddings_are_unit_vectors_of_the_right_size(emu: Dialogue) -> None:
    """The model's, or what was asked for."""
    assert len(embedding(emu, "x")) == 3_072
    assert len(embedding(emu, "x", "text-embedding-004")) == 768
    assert len(embedding(emu, "x", outputDimensionality=256)) == 256
    assert math.isclose(math.hypot(*embedding(emu, "a few words")), 1.0, rel_tol=1e-6)
    assert math.isclose(math.hypot(*embedding(emu, "")), 1.0, rel_tol=1e-6)


def test_embeddings_of_like_texts_are_close(emu: Dialogue) -> None:
    """And the same text has the same."""

    def likeness(one: str, other: str) -> float:
        return sum(a * b for a, b in zip(embedding(emu, one), embedding(emu, other), strict=True))

    assert embedding(emu, "red cat") == embedding(emu, "Red cat!")
    assert likeness("red cat", "black cat") > likeness("red cat", "tax law") + 0.2


def test_a_batch_embeds_each(emu: Dialogue) -> None:
    """In order, as alone."""
    requests = [{"model": "models/m", "content": {"parts": [{"text": text}]}} for text in ("a", "b")]
    batch = emu.ask("POST", f"{MODELS}/m:batchEmbedContents", {"requests": requests}).json
    assert [one["values"] for one in batch["embeddings"]] == [embedding(emu, "a", "m"), embedding(emu, "b", "m")]


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("embedContent", {}),
        ("embedContent", {"content": {}}),
        ("embedContent", {"content": {"parts": [{"text": "x"}]}, "outputDimensionality": 5_000}),
        ("batchEmbedContents", {}),
        ("batchEmbedContents", {"requests": [{"model": "models/other", "content": {"parts": [{"text": "x"}]}}]}),
        ("batchEmbedContents", {"requests": [{"model": "models/m"}] * 101}),
        ("predict", {}),
        ("predict", {"instances": ["x"]}),
        ("predict", {"instances": [{"text": "x"}]}),
        ("predict", {"instances": [{"prompt": "x"}], "parameters": {"sampleCount": 9}}),
        ("predict", {"instances": [{"prompt": "x"}], "parameters": {"sampleCount": "1"}}),
    ],
)
def test_incomplete_requests_are_refused(emu: Dialogue, method: str, body: Any) -> None:
    """400."""
    assert emu.ask("POST", f"{MODELS}/m:{method}", body).status == 400


def test_pictures_are_made(emu: Dialogue) -> None:
    """Imagen's predict; each picture another one."""
    body = {"instances": [{"prompt": "a cat"}], "parameters": {"sampleCount": 2, "aspectRatio": "3:4"}}
    predictions = emu.ask("POST", f"{MODELS}/imagen-4.0-generate-001:predict", body).json["predictions"]
    assert [one["mimeType"] for one in predictions] == ["image/png"] * 2
    assert len({one["bytesBase64Encoded"] for one in predictions}) == 2
    assert base64.b64decode(predictions[0]["bytesBase64Encoded"]).startswith(b"\x89PNG")
    alone = emu.ask("POST", f"{MODELS}/x:predict", {"instances": [{"prompt": "a"}], "parameters": [1]})
    assert len(alone.json["predictions"]) == 1
