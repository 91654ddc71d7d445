"""Stores, documents, operations, tuned models, batches and Veo by google-genai, at the emulator and through."""

from __future__ import annotations

import http.client
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from google import genai
from google.genai import errors, types

from testbed.processes import environment, running
from tests.clients.servers import (
    CLIENT_KEY,
    PATIENCE_MS,
    Emulator,
    RunningGateway,
    SessionGateway,
    Target,
)

MODEL = "gemini-2.5-flash"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def alone(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with one account: a file can be put into a store of its own account only."""
    started = RunningGateway.start(tmp_path_factory.mktemp("alone") / "gateway", emulator.url, "api-key", accounts=1)
    try:
        yield started
        started.stop()
    finally:
        started.twistd.kill()


@pytest.fixture(params=["direct", "through"])
def url(request: pytest.FixtureRequest, direct: Target, alone: RunningGateway) -> str:
    """Where the SDK is pointed."""
    return direct.url if request.param == "direct" else alone.url


@pytest.fixture
def sdk(url: str) -> genai.Client:
    return genai.Client(api_key=CLIENT_KEY, http_options=types.HttpOptions(base_url=url, timeout=PATIENCE_MS))


def test_file_search_stores(sdk: genai.Client) -> None:
    """Filled by an upload and from a file, searched, listed, emptied and removed."""
    stores = sdk.file_search_stores
    store = stores.create(config={"display_name": "My docs"})
    name = str(store.name)
    config = types.UploadToFileSearchStoreConfig(mime_type="text/plain", display_name="doc")
    uploaded = stores.upload_to_file_search_store(file_search_store_name=name, file=io.BytesIO(b"text"), config=config)
    done = sdk.operations.get(uploaded)
    assert done.done
    assert done.response is not None
    file = sdk.files.upload(file=io.BytesIO(b"abc"), config={"mime_type": "text/plain"})
    assert sdk.operations.get(stores.import_file(file_search_store_name=name, file_name=str(file.name))).done
    documents = list(stores.documents.list(parent=name))
    assert done.response.document_name in {document.name for document in documents}
    assert stores.documents.get(name=str(documents[0].name)).size_bytes
    assert stores.get(name=name).active_documents_count == 2
    tool = types.Tool(file_search=types.FileSearch(file_search_store_names=[name]))
    assert sdk.models.generate_content(model=MODEL, contents="x", config={"tools": [tool]}).text
    assert name in {one.name for one in stores.list()}
    stores.documents.delete(name=str(documents[0].name), config={"force": True})
    stores.delete(name=name, config={"force": True})
    with pytest.raises(errors.ClientError):
        stores.get(name=name)


def test_batches_of_embeddings_and_from_files(sdk: genai.Client) -> None:
    """Whose answers are in the batch, or in a file."""
    contents = types.EmbedContentBatch(contents=[types.Content(parts=[types.Part(text="x")])])
    source = types.EmbeddingsBatchJobSource(inlined_requests=contents)
    batch = sdk.batches.create_embeddings(model="gemini-embedding-001", src=source)
    for _ in range(2):
        batch = sdk.batches.get(name=str(batch.name))
    assert batch.dest is not None
    (answer,) = batch.dest.inlined_embed_content_responses or ()
    assert answer.response is not None
    line = {"key": "a", "request": {"contents": [{"parts": [{"text": "hi"}]}]}}
    file = sdk.files.upload(file=io.BytesIO(json.dumps(line).encode()), config={"mime_type": "application/jsonl"})
    batch = sdk.batches.create(model=MODEL, src=str(file.name))
    for _ in range(2):
        batch = sdk.batches.get(name=str(batch.name))
    assert batch.dest is not None
    answers = sdk.files.download(file=str(batch.dest.file_name))
    assert json.loads(answers)["key"] == "a"


def ask(url: str, path: str, body: object) -> dict[str, object]:
    """A POST as curl sends it, for what the SDK refuses to send."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=PATIENCE_MS / 1000)
    try:
        connection.request("POST", path, json.dumps(body), {"x-goog-api-key": CLIENT_KEY})
        document: dict[str, object] = json.loads(connection.getresponse().read())
        return document
    finally:
        connection.close()


def test_a_video_is_made_watched_and_downloaded(sdk: genai.Client, url: str) -> None:
    """The SDK makes none by the Developer API, and fetches those that were made."""
    body = {"instances": [{"prompt": "a cat"}]}
    made = ask(url, "/v1beta/models/veo-3.0-generate-001:predictLongRunning", body)
    operation = types.GenerateVideosOperation(name=str(made["name"]))
    for _ in range(2):
        operation = sdk.operations.get(operation)
    assert operation.done
    assert operation.response is not None
    (video,) = operation.response.generated_videos or ()
    assert b"a cat" in sdk.files.download(file=video)


def test_a_model_is_tuned(sdk: genai.Client) -> None:
    """Made, called, changed and removed."""
    example = types.TuningExample(text_input="1", output="2")
    job = sdk.tunings.tune(base_model="models/gemini-2.0-flash", training_dataset={"examples": [example]})
    name = str(job.name)
    assert [sdk.tunings.get(name=name).state for _ in range(2)][-1] == types.JobState.JOB_STATE_SUCCEEDED
    assert name in {one.name for one in sdk.models.list(config={"query_base": False})}
    assert sdk.models.generate_content(model=name, contents="x").text
    assert sdk.models.update(model=name, config={"display_name": "mine"}).display_name == "mine"
    sdk.models.delete(model=name)


def test_register_files_is_refused_with_the_reason(gateways: SessionGateway) -> None:
    """It would need the person's own token."""
    refused = ask(gateways("api-key").url, "/v1beta/files:register", {"uris": ["gs://b/o"]})
    assert refused["error"]["code"] == 501  # type: ignore[index]
    assert "Cloud Storage" in str(refused)


def send(url: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """A POST, and the status, headers (lower-case names) and body of its answer."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=PATIENCE_MS / 1000)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.headers.items()}, response.read()
    finally:
        connection.close()


def test_an_upload_outlives_a_restart_of_the_gateway(emulator: Emulator, tmp_path: Path) -> None:
    """Its second part is taken by the process that comes after; an id that was changed is nobody's."""
    home = tmp_path / "first"
    first = RunningGateway.start(home, emulator.url, "api-key", accounts=3)
    try:
        start = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start", "x-goog-api-key": CLIENT_KEY}
        _, begun, _ = send(first.url, "/upload/v1beta/files", b'{"file": {"displayName": "x"}}', start)
        target = begun["x-goog-upload-url"].removeprefix(first.url)
        part = {"X-Goog-Upload-Command": "upload", "X-Goog-Upload-Offset": "0"}
        assert send(first.url, target, b"hello ", part)[1]["x-goog-upload-status"] == "active"
        first.stop()
        arguments = ("agm", "--config", str(home / "agm.toml"))
        with running(tmp_path / "second", *arguments, env=environment(home)) as second:
            url = second.url()
            last = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "6"}
            status, _, body = send(url, target, b"world", last)
            assert (status, json.loads(body)["file"]["sizeBytes"]) == (200, "11")
            forged = target.replace("upload_id=", "upload_id=A")
            assert send(url, forged, b"x", last)[0] == 401
            assert second.stop() == 0
    finally:
        first.twistd.kill()
