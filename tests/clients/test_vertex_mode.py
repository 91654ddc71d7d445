"""google-genai with ``vertexai=True``, in each way of pointing it here, through gateways of two kinds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, Emulator, GatewayFactory, RunningGateway, SessionGateway

MODEL = "gemini-2.5-flash"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The SDK warns of methods that it will drop, or may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def client(url: str, way: str) -> genai.Client:
    """The SDK: with a key (express), with a project and a token, or with a base URL that is a collection's."""
    options = types.HttpOptions(base_url=url, timeout=PATIENCE_MS)
    if way == "project":
        # the token of a gateway's client is its key
        return genai.Client(
            vertexai=True,
            project="mine",
            location="us-central1",
            credentials=Credentials(CLIENT_KEY),
            http_options=options,
        )
    if way == "collection":
        options.base_url_resource_scope = types.ResourceScope.COLLECTION
    return genai.Client(vertexai=True, api_key=CLIENT_KEY, http_options=options)


@pytest.fixture(params=["express", "project", "collection"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kind", ["vertex", "api-key"])
def test_calls_that_both_services_have(gateways: SessionGateway, kind: str, way: str) -> None:
    sdk = client(gateways(kind).url, way)
    assert sdk.models.generate_content(model=MODEL, contents="Hi").text
    pieces = [chunk.text for chunk in sdk.models.generate_content_stream(model=MODEL, contents="Hi") if chunk.text]
    assert "".join(pieces) == sdk.models.generate_content(model=MODEL, contents="Hi").text
    counted = sdk.models.count_tokens(model=MODEL, contents="Hi", config={"system_instruction": "Be brief, please."})
    assert counted.total_tokens == 6
    config = types.EmbedContentConfig(output_dimensionality=5, task_type="CLUSTERING")
    embedded = sdk.models.embed_content(model="gemini-embedding-001", contents="x", config=config)
    assert embedded.embeddings is not None
    assert len(embedded.embeddings[0].values or ()) == 5
    vectors = sdk.models.embed_content(model="text-embedding-005", contents=["x", "y"])
    assert len(vectors.embeddings or ()) == 2
    assert sdk.models.generate_images(model="imagen-4.0-generate-001", prompt="x").generated_images
    if way != "collection":
        names = {str(model.name) for model in sdk.models.list()}
        assert "publishers/google/models/house-model" in names
        assert sdk.models.get(model=MODEL).name == f"publishers/google/models/{MODEL}"


def test_calls_that_vertex_ai_alone_has(gateways: SessionGateway) -> None:
    sdk = client(gateways("vertex").url, "project")
    assert sdk.models.compute_tokens(model=MODEL, contents="Hello there").tokens_info
    other = client(gateways("api-key").url, "project")
    for call in (
        lambda: other.models.compute_tokens(model=MODEL, contents="x"),
        lambda: other.caches.create(model=MODEL, config={"contents": ["x"]}),
    ):
        with pytest.raises(errors.ServerError) as refused:
            call()
        assert refused.value.code == 501


def test_what_a_project_keeps(gateways: SessionGateway) -> None:
    """Caches, batches, tuned models and videos, each made, used, listed and removed."""
    sdk = client(gateways("vertex").url, "project")
    cache = sdk.caches.create(model=MODEL, config={"contents": ["x" * 100]})
    name = str(cache.name)
    assert sdk.caches.get(name=name).name == name
    assert name in {one.name for one in sdk.caches.list()}
    used = sdk.models.generate_content(model=MODEL, contents="x", config={"cached_content": name})
    assert used.usage_metadata is not None
    assert used.usage_metadata.cached_content_token_count == 25
    assert sdk.caches.update(name=name, config={"ttl": "600s"}).name == name
    sdk.caches.delete(name=name)
    batch = sdk.batches.create(model=MODEL, src="gs://b/in.jsonl", config={"dest": "gs://b/out"})
    states = [sdk.batches.get(name=str(batch.name)).state for _ in range(2)]
    assert states[-1] == types.JobState.JOB_STATE_SUCCEEDED
    assert batch.name in {one.name for one in sdk.batches.list()}
    sdk.batches.delete(name=str(batch.name))
    tuning = sdk.tunings.tune(base_model=MODEL, training_dataset={"gcs_uri": "gs://b/t.jsonl"})
    tuned: Any = [sdk.tunings.get(name=str(tuning.name)) for _ in range(2)][-1].tuned_model
    assert sdk.models.generate_content(model=tuned.endpoint, contents="x").text
    assert tuning.name in {one.name for one in sdk.tunings.list()}


def test_a_video(gateways: SessionGateway) -> None:
    sdk = client(gateways("vertex").url, "project")
    operation = sdk.models.generate_videos(model="veo-3.0-generate-001", source={"prompt": "a cat"})
    for _ in range(2):
        assert not operation.done
        operation = sdk.operations.get(operation)
    assert operation.done
    assert operation.response is not None
    (video,) = operation.response.generated_videos or ()
    assert video.video is not None
    assert b"a cat" in (video.video.video_bytes or b"")


def test_a_persons_own_token_is_refused_and_never_told(new_gateway: GatewayFactory, emulator: Emulator) -> None:
    """The gateway's log is searched for it when it ends: see ``check_log``."""
    running: RunningGateway = new_gateway("vertex", accounts=1)
    options = types.HttpOptions(base_url=running.url, timeout=PATIENCE_MS)
    token = "ya29.canary-of-a-person"
    sdk = genai.Client(
        vertexai=True, project="mine", location="us", credentials=Credentials(token), http_options=options
    )
    with pytest.raises(errors.ClientError) as refused:
        sdk.models.generate_content(model=MODEL, contents="x")
    assert refused.value.code == 401
    assert token not in str(refused.value)
