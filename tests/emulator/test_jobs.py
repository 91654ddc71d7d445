"""What a project of Vertex AI keeps: caches, jobs, models and videos."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.emulator.dialogue import HELLO, KEY, TOKEN, Dialogue

PLACE = "/v1beta1/projects/p/locations/us-central1"
MODEL = "projects/p/locations/us-central1/publishers/google/models/m"
OTHER = {"authorization": "Bearer other"}


def ask(emu: Dialogue, method: str, path: str, body: Any = b"", headers: Any = TOKEN) -> Any:
    return emu.ask(method, path, body, headers)


def cache(emu: Dialogue) -> Any:
    content = [{"role": "user", "parts": [{"text": "word " * 40}]}]
    return ask(emu, "POST", f"{PLACE}/cachedContents", {"model": MODEL, "contents": content, "ttl": "60s"})


def test_contents_are_cached_under_the_projects_number(emu: Dialogue) -> None:
    """Which will do to ask, as the id does."""
    made = cache(emu).json
    identifier = made["name"].rpartition("/")[2]
    assert identifier.isdigit()
    assert made["name"].split("/")[1].isdigit()
    assert made["model"].endswith("/locations/us-central1/publishers/google/models/m")
    for name in (made["name"], f"projects/p/locations/us-central1/cachedContents/{identifier}"):
        assert ask(emu, "GET", f"/v1beta1/{name}").json == made
        used = emu.model("vertex", "m", body={**HELLO, "cachedContent": name}).json
        assert used["usageMetadata"]["cachedContentTokenCount"] == 50
    assert emu.model("vertex", "other", body={**HELLO, "cachedContent": made["name"]}).status == 400
    assert ask(emu, "GET", f"/v1beta1/{made['name']}", headers=OTHER).status == 404
    assert ask(emu, "PATCH", f"/v1beta1/{made['name']}", {"ttl": "7200s"}).json["expireTime"] > made["expireTime"]
    assert ask(emu, "GET", f"{PLACE}/cachedContents").json["cachedContents"]
    assert ask(emu, "DELETE", f"/v1beta1/{made['name']}").json == {}
    assert ask(emu, "GET", f"/v1beta1/{made['name']}").status == 404


def test_a_place_has_its_own(emu: Dialogue) -> None:
    """What is in one location is not in another."""
    cache(emu)
    assert ask(emu, "GET", "/v1beta1/projects/p/locations/europe-west1/cachedContents").json == {}


def test_a_key_will_not_do(emu: Dialogue) -> None:
    """Express mode has none of it."""
    assert ask(emu, "GET", f"{PLACE}/cachedContents", headers=KEY).status == 401
    assert ask(emu, "GET", "/v1beta1/cachedContents").status == 404


JOB = {"model": "publishers/google/models/m", "inputConfig": {"x": 1}, "outputConfig": {"y": 2}, "displayName": "j"}


def test_a_batch_job_moves_on_and_is_deleted(emu: Dialogue) -> None:
    """Pending, running, done."""
    made = ask(emu, "POST", f"{PLACE}/batchPredictionJobs", JOB).json
    assert (made["state"], made["inputConfig"]) == ("JOB_STATE_PENDING", {"x": 1})
    states = [ask(emu, "GET", f"/v1beta1/{made['name']}").json["state"] for _ in range(3)]
    assert states == ["JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED", "JOB_STATE_SUCCEEDED"]
    assert len(ask(emu, "GET", f"{PLACE}/batchPredictionJobs").json["batchPredictionJobs"]) == 1
    assert ask(emu, "DELETE", f"/v1beta1/{made['name']}").json["done"] is True
    assert ask(emu, "GET", f"/v1beta1/{made['name']}").status == 404


def test_a_job_is_cancelled(emu: Dialogue) -> None:
    """And stays so."""
    made = ask(emu, "POST", f"{PLACE}/batchPredictionJobs", JOB).json
    assert ask(emu, "POST", f"/v1beta1/{made['name']}:cancel").json == {}
    assert ask(emu, "GET", f"/v1beta1/{made['name']}").json["state"] == "JOB_STATE_CANCELLED"


@pytest.mark.parametrize("field", ["model", "inputConfig", "outputConfig"])
def test_a_job_that_lacks_something_is_refused(emu: Dialogue, field: str) -> None:
    """By name."""
    job = {name: value for name, value in JOB.items() if name != field}
    assert ask(emu, "POST", f"{PLACE}/batchPredictionJobs", job).status == 400


def test_a_model_is_tuned_deployed_and_called(emu: Dialogue) -> None:
    """The job names the endpoint."""
    body = {"baseModel": "m", "supervisedTuningSpec": {"trainingDatasetUri": "gs://b/o"}}
    made = ask(emu, "POST", f"{PLACE}/tuningJobs", body).json
    done = [ask(emu, "GET", f"/v1beta1/{made['name']}").json for _ in range(2)][-1]
    tuned = done["tunedModel"]
    assert ask(emu, "POST", f"/v1beta1/{tuned['endpoint']}:generateContent", HELLO).status == 200
    model = tuned["model"].removesuffix("@1")
    assert ask(emu, "GET", f"/v1beta1/{model}").json["deployedModels"] == [{"endpoint": tuned["endpoint"]}]
    assert [one["name"] for one in ask(emu, "GET", f"{PLACE}/models").json["models"]] == [model]
    assert ask(emu, "PATCH", f"/v1beta1/{model}", {"displayName": "x"}).json["displayName"] == "x"
    assert ask(emu, "POST", f"{PLACE}/tuningJobs", {}).status == 400


def test_a_video_is_fetched_by_its_operation(emu: Dialogue) -> None:
    """With its bytes, or in the bucket that was named."""
    path = f"{PLACE}/publishers/google/models/veo"
    for parameters, key in (({}, "bytesBase64Encoded"), ({"storageUri": "gs://b/"}, "gcsUri")):
        body = {"instances": [{"prompt": "a cat"}], "parameters": parameters}
        name = ask(emu, "POST", f"{path}:predictLongRunning", body).json["name"]
        fetched = [ask(emu, "POST", f"{path}:fetchPredictOperation", {"operationName": name}) for _ in range(2)]
        assert "done" not in fetched[0].json
        (video,) = fetched[1].json["response"]["videos"]
        assert video["mimeType"] == "video/mp4"
        assert b"a cat" in base64.b64decode(video[key]) if not parameters else video[key] == "gs://b/sample_0.mp4"
    foreign = ask(emu, "POST", f"{path}:fetchPredictOperation", {"operationName": name}, OTHER)
    assert foreign.status == 404
    other = f"{PLACE}/publishers/google/models/other:fetchPredictOperation"
    assert ask(emu, "POST", other, {"operationName": name}).status == 400


def test_tokens_are_computed(emu: Dialogue) -> None:
    """As many as are counted."""
    (info,) = emu.model("vertex", "m", "computeTokens").json["tokensInfo"]
    assert b"".join(base64.b64decode(token) for token in info["tokens"]) == b"Hello <there>"
    assert len(info["tokenIds"]) == emu.model("vertex", "m", "countTokens").json["totalTokens"]
    assert emu.model("vertex", "m", "computeTokens", body={}).status == 400


def test_the_newer_form_of_embeddings(emu: Dialogue) -> None:
    """Whose settings are in a message of their own."""
    body = {"content": {"parts": [{"text": "x"}]}, "embedContentConfig": {"outputDimensionality": 5}}
    assert len(emu.model("vertex", "e", "embedContent", body).json["embedding"]["values"]) == 5
