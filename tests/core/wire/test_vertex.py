"""Paths in the shape of Vertex AI, and what is different between its messages and the Developer API's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.errors import GatewayError, InvalidRequest, NotFound
from agm.core.wire import vertex
from agm.core.wire.target import ModelCall
from agm.core.wire.vertex import Place, PublisherModels, VertexCall, VertexResource

PLACE = "projects/p/locations/us-central1"


@pytest.mark.parametrize(
    ("path", "version", "place"),
    [
        (f"/v1/{PLACE}/publishers/google/models/m:predict", "v1", Place("p", "us-central1")),
        (f"/v1beta1/{PLACE}/publishers/google/models/m:predict", "v1beta", Place("p", "us-central1")),
        ("/v1beta/publishers/google/models/m:predict", "v1beta", Place(None, None)),
        ("/publishers/google/models/m:predict", "v1beta", Place(None, None)),
        ("//v1//publishers/google/models/m:predict", "v1", Place(None, None)),
        ("/v1/projects/a%20b/locations/l/publishers/google/models/m:predict", "v1", Place("a b", "l")),
    ],
)
def test_a_call_is_read_with_and_without_a_place(path: str, version: str, place: Place) -> None:
    """base_url_resource_scope=COLLECTION leaves out the version, too."""
    assert vertex.claims(path.encode())
    assert vertex.parse(path.encode()) == VertexCall(ModelCall(version, "m", "predict"), place)


@pytest.mark.parametrize(
    ("written", "method"),
    [
        ("generateContent", "generateContent"),
        ("batchEmbedContents", "batchEmbedContents"),
        ("computeTokens", "vertex.computeTokens"),
        ("predictLongRunning", "vertex.predictLongRunning"),
        ("fetchPredictOperation", "vertex.fetchPredictOperation"),
    ],
)
def test_what_vertex_ai_alone_has_is_told_apart(written: str, method: str) -> None:
    """So that no account of another kind is asked."""
    asked = vertex.parse(f"/v1/publishers/google/models/m:{written}".encode())
    assert isinstance(asked, VertexCall)
    assert asked.call.method == method


def test_a_tuned_models_endpoint_is_called_like_a_model() -> None:
    """Its colon may be escaped, as every model's may."""
    asked = vertex.parse(f"/v1/{PLACE}/endpoints/12%3AgenerateContent".encode())
    assert asked == VertexCall(ModelCall("v1", "endpoints/12", "generateContent"), Place("p", "us-central1"))


@pytest.mark.parametrize(("path", "model"), [("publishers/google/models", None), ("publishers/google/models/m", "m")])
def test_models_are_listed_and_looked_up(path: str, model: str | None) -> None:
    """With and without a place."""
    assert vertex.parse(f"/v1beta1/{path}".encode()) == PublisherModels(model)
    assert vertex.parse(f"/v1beta1/{PLACE}/{path}".encode()) == PublisherModels(model)


@pytest.mark.parametrize(
    ("rest", "http_method", "name", "method"),
    [
        ("cachedContents", "POST", None, "vertex.cachedContents.create"),
        ("cachedContents", "GET", None, "vertex.cachedContents.list"),
        ("cachedContents/5", "PATCH", "cachedContents/5", "vertex.cachedContents.update"),
        ("batchPredictionJobs/7", "GET", "batchPredictionJobs/7", "vertex.batchPredictionJobs.get"),
        ("batchPredictionJobs/7:cancel", "POST", "batchPredictionJobs/7", "vertex.batchPredictionJobs.cancel"),
        ("tuningJobs/7", "DELETE", "tuningJobs/7", "vertex.tuningJobs.delete"),
        ("reasoningEngines/7:query", "POST", "reasoningEngines/7", "vertex.reasoningEngines.call"),
        ("models", "GET", None, "vertex.models.list"),
        (
            "publishers/google/models/veo/operations/o",
            "GET",
            "publishers/google/models/veo/operations/o",
            "vertex.operations.list",
        ),
    ],
)
def test_what_a_project_keeps(rest: str, http_method: str, name: str | None, method: str) -> None:
    """Its path is for whichever project serves."""
    asked = vertex.parse(f"/v1beta1/{PLACE}/{rest}".encode())
    assert isinstance(asked, VertexResource)
    assert (asked.name, asked.path) == (name, f"/v1beta1/projects/-/locations/-/{rest}")
    assert asked.method(http_method) == method.replace("operations.list", "operations.get")
    assert vertex.placed(asked.path, "a/b", "l").startswith("/v1beta1/projects/a%2Fb/locations/l/")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/publishers/anthropic/models/claude:rawPredict", "publisher anthropic"),
        ("/v1/publishers/google/models/m:sing", "METHOD one of"),
        (f"/v1/{PLACE}/datasets/1", "cachedContents"),
        (f"/v1/{PLACE}/endpoints/1:sing", "METHOD one of"),
    ],
)
def test_what_is_not_served_is_told_with_what_is(path: str, told: str) -> None:
    """404."""
    with pytest.raises(NotFound) as refused:
        vertex.parse(path.encode())
    assert told in refused.value.message


@pytest.mark.parametrize(
    "path",
    [f"/v1/{PLACE}/cachedContents/../x", f"/v1/{PLACE}/cachedContents/a%3Fb", "/v1/publishers/google/models/%ff:x"],
)
def test_what_no_name_can_hold_is_refused(path: str) -> None:
    """400: it could change where the request goes."""
    with pytest.raises(InvalidRequest):
        vertex.parse(path.encode())


@pytest.mark.parametrize(
    "path", ["/v1beta/models/m:generateContent", "/v1/cachedContents", "/v1beta/openai/files", "/"]
)
def test_the_developer_apis_paths_are_not_claimed(path: str) -> None:
    """Their resources have the same names."""
    assert not vertex.claims(path.encode())


@given(st.binary(max_size=60))
def test_whatever_is_asked_is_read_or_refused(tail: bytes) -> None:
    """And what goes upstream holds no query and no other host."""
    path = b"/v1/projects/p/locations/l/" + tail
    if not vertex.claims(path):
        return
    try:
        asked = vertex.parse(path)
    except GatewayError:
        return
    if isinstance(asked, VertexResource):
        assert asked.path.startswith("/v1/projects/-/locations/-/")
        assert not set(asked.path) & set("?# \\")


# -- messages

CONTENTS = [{"role": "user", "parts": [{"text": "a b"}]}]


def test_only_the_model_of_a_body_gets_another_place() -> None:
    """A text that looks like one stays."""
    name = f"{PLACE}/publishers/google/models/m"
    body = json.dumps({"model": name, "contents": [{"parts": [{"text": name}]}]}).encode()
    changed = json.loads(vertex.with_place(body, "own", "eu"))
    assert changed["model"] == "projects/own/locations/eu/publishers/google/models/m"
    assert changed["contents"][0]["parts"][0]["text"] == name
    for same in (b'{"model": "publishers/google/models/m"}', b'{"model": 1}', b"{", b'{"contents": []}'):
        assert vertex.with_place(same, "own", "eu") == same


def test_a_count_of_more_than_contents_becomes_a_whole_request() -> None:
    """The Developer API counts nothing else beside them."""
    plain = json.dumps({"contents": CONTENTS}).encode()
    assert vertex.developer_count(plain, "m") == plain
    more = json.dumps({"contents": CONTENTS, "systemInstruction": {"parts": []}, "endpoint": "x"}).encode()
    assert json.loads(vertex.developer_count(more, "m")) == {
        "generateContentRequest": {"model": "models/m", "contents": CONTENTS, "systemInstruction": {"parts": []}}
    }
    assert vertex.developer_count(b"no JSON", "m") == b"no JSON"


def test_an_embeddings_settings_stand_beside_its_content() -> None:
    """In the Developer API."""
    body = b'{"content": {"parts": []}, "embedContentConfig": {"taskType": "CLUSTERING", "outputDimensionality": 5}}'
    assert json.loads(vertex.developer_embed(body)) == {
        "content": {"parts": []},
        "taskType": "CLUSTERING",
        "outputDimensionality": 5,
    }
    assert vertex.developer_embed(b'{"content": {}}') == b'{"content": {}}'


def test_a_count_is_answered_with_billable_characters() -> None:
    """As Vertex AI does; what is no count stays."""
    characters = vertex.billable_characters(json.dumps({"contents": CONTENTS}).encode())
    assert characters == 2
    answer = json.loads(vertex.vertex_count(b'{"totalTokens": 3, "promptTokensDetails": []}', characters))
    assert answer == {"totalTokens": 3, "totalBillableCharacters": 2, "promptTokensDetails": []}
    assert vertex.vertex_count(b'{"error": {}}', 2) == b'{"error": {}}'
    assert vertex.billable_characters(b"[") == 0


def test_a_prediction_of_texts_is_a_batch_of_embeddings() -> None:
    """There and back; what the Developer API does not know goes along for it to refuse."""
    body = b'{"instances": [{"content": "x", "task_type": "CLUSTERING"}], "parameters": {"outputDimensionality": 5}}'
    request = {"model": "models/e", "content": {"parts": [{"text": "x"}]}, "taskType": "CLUSTERING"}
    assert json.loads(vertex.developer_predict(body, "e")) == {"requests": [{**request, "outputDimensionality": 5}]}
    kept = b'{"instances": [{"content": "x"}], "parameters": {"autoTruncate": true}}'
    assert b"autoTruncate" not in vertex.developer_predict(kept, "e")
    assert b"autoTruncate" in vertex.developer_predict(kept.replace(b"true", b"false"), "e")
    assert vertex.developer_predict(b"[]", "e") == b"[]"
    answer = json.loads(vertex.vertex_predictions(b'{"embeddings": [{"values": [1.0]}]}'))
    assert answer == {"predictions": [{"embeddings": {"values": [1.0]}}]}
    assert vertex.vertex_predictions(b'{"error": {}}') == b'{"error": {}}'
