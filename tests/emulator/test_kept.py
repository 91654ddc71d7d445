"""File search stores, batches, tuned models and videos of the Developer API, and the older protocol of uploads."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.emulator.dialogue import KEY, Dialogue

OTHER = {"x-goog-api-key": "other"}


def store(emu: Dialogue, **described: Any) -> str:
    return str(emu.ask("POST", "/v1beta/fileSearchStores", described).json["name"])


def put(emu: Dialogue, name: str, content: bytes, **described: Any) -> dict[str, Any]:
    """Upload into a store, and the operation that this is."""
    start = {**KEY, "x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
    begun = emu.ask("POST", f"/upload/v1beta/{name}:uploadToFileSearchStore", described, start)
    url = str(begun.header("x-goog-upload-url")).removeprefix("http://127.0.0.1:8046")
    sent = emu.ask("POST", url, content, {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"})
    assert sent.header("x-goog-upload-status") == "final"
    document: dict[str, Any] = sent.json
    return document


def test_a_store_is_filled_by_an_upload(emu: Dialogue) -> None:
    """The document is pending until its operation is looked at."""
    name = store(emu, displayName="My docs")
    assert name.startswith("fileSearchStores/my-docs-")
    metadata = [{"key": "author", "stringValue": "Ada"}]
    operation = put(emu, name, b"hello", displayName="doc", mimeType="text/plain", customMetadata=metadata)
    assert operation["name"].startswith(f"{name}/upload/operations/doc-")
    assert "done" not in operation
    assert emu.ask("GET", f"/v1beta/{name}").json["pendingDocumentsCount"] == "1"
    done = emu.ask("GET", f"/v1beta/{operation['name']}").json
    assert done["done"] is True
    assert done["response"]["parent"] == name
    document = emu.ask("GET", f"/v1beta/{done['response']['documentName']}").json
    assert (document["state"], document["sizeBytes"], document["customMetadata"]) == ("STATE_ACTIVE", "5", metadata)
    shown = emu.ask("GET", f"/v1beta/{name}").json
    assert (shown["activeDocumentsCount"], shown["sizeBytes"]) == ("1", "5")
    assert "pendingDocumentsCount" not in shown


def test_a_file_is_imported_into_a_store(emu: Dialogue) -> None:
    """Its operation has another name than an upload's."""
    name = store(emu)
    file = emu.ask("POST", "/upload/v1beta/files?uploadType=media", b"abc", {**KEY, "content-type": "text/x"}).json
    operation = emu.ask("POST", f"/v1beta/{name}:importFile", {"fileName": file["file"]["name"]}).json
    assert operation["name"].startswith(f"{name}/operations/")
    listed = emu.ask("GET", f"/v1beta/{name}/documents").json["documents"]
    assert [one["mimeType"] for one in listed] == ["text/x"]
    assert emu.ask("POST", f"/v1beta/{name}:importFile", {"fileName": "files/none"}).status == 403
    assert emu.ask("POST", f"/v1beta/{name}:importFile", {}).status == 400


def test_a_store_is_its_owners(emu: Dialogue) -> None:
    """To look at, to fill, to delete and to be searched."""
    name = store(emu)
    body = {"contents": [{"parts": [{"text": "x"}]}], "tools": [{"fileSearch": {"fileSearchStoreNames": [name]}}]}
    assert emu.model("api-key", "m", body=body).status == 200
    assert emu.model("api-key", "m", body=body, headers=OTHER).status == 403
    for method, path in (("GET", name), ("DELETE", name), ("GET", f"{name}/documents")):
        assert emu.ask(method, f"/v1beta/{path}", headers=OTHER).status == 403
    assert emu.ask("GET", "/v1beta/fileSearchStores", headers=OTHER).json == {}
    assert [one["name"] for one in emu.ask("GET", "/v1beta/fileSearchStores").json["fileSearchStores"]] == [name]


def test_what_is_not_empty_is_deleted_with_force_only(emu: Dialogue) -> None:
    """Stores and documents."""
    name = store(emu)
    operation = put(emu, name, b"hello")
    document = emu.ask("GET", f"/v1beta/{operation['name']}").json["response"]["documentName"]
    for path in (document, name):
        refused = emu.ask("DELETE", f"/v1beta/{path}")
        assert (refused.status, refused.error["status"]) == (400, "FAILED_PRECONDITION")
        assert emu.ask("DELETE", f"/v1beta/{path}?force=True").json == {} if path == document else True
        if path == document:
            put(emu, name, b"again")
    assert emu.ask("DELETE", f"/v1beta/{name}?force=true").json == {}
    assert emu.ask("GET", f"/v1beta/{name}").status == 403


# -- uploads by Content-Range


def begun(emu: Dialogue) -> str:
    headers = {**KEY, "x-upload-content-type": "text/x"}
    answered = emu.ask("POST", "/upload/v1beta/files?uploadType=resumable", {"file": {"displayName": "r"}}, headers)
    assert (answered.status, answered.body) == (200, b"")
    return str(answered.header("location")).removeprefix("http://127.0.0.1:8046")


def part(emu: Dialogue, url: str, content: bytes, span: str) -> Any:
    return emu.ask("PUT", url, content, {"content-range": f"bytes {span}"})


def test_an_upload_by_content_range(emu: Dialogue) -> None:
    """308 says how much has come; what comes twice counts once."""
    url = begun(emu)
    assert part(emu, url, b"", "*/10").header("range") is None
    assert part(emu, url, b"hello", "0-4/10").header("range") == "bytes=0-4"
    assert part(emu, url, b"lo", "3-4/*").status == 308
    assert part(emu, url, b"", "*/10").header("range") == "bytes=0-4"
    assert part(emu, url, b"x", "7-7/10").status == 400
    done = part(emu, url, b"world", "5-9/10")
    assert (done.status, done.json["file"]["sizeBytes"], done.json["file"]["mimeType"]) == (200, "10", "text/x")
    assert part(emu, url, b"", "*/10").status == 404


def test_an_upload_without_a_range_is_whole(emu: Dialogue) -> None:
    """And one whose range cannot be read is refused."""
    assert emu.ask("PUT", begun(emu), b"hello", {}).json["file"]["sizeBytes"] == "5"
    assert part(emu, begun(emu), b"hello", "some").status == 400


# -- batches of embeddings, and from files


def looked(emu: Dialogue, name: str) -> Any:
    return [emu.ask("GET", f"/v1beta/{name}").json for _ in range(2)][-1]


def test_a_batch_of_embeddings(emu: Dialogue) -> None:
    """Vectors as by one call."""
    request = {"content": {"parts": [{"text": "hi"}]}, "outputDimensionality": 4}
    body = {"batch": {"inputConfig": {"requests": {"requests": [{"request": request, "metadata": {"key": "a"}}]}}}}
    made = emu.ask("POST", "/v1beta/models/e:asyncBatchEmbedContent", body).json
    assert made["metadata"]["@type"].endswith(".EmbedContentBatch")
    done = looked(emu, made["name"])
    (one,) = done["response"]["inlinedEmbedContentResponses"]["inlinedResponses"]
    single = emu.ask("POST", "/v1beta/models/e:embedContent", request).json["embedding"]
    assert (one["response"]["embedding"], one["metadata"]) == (single, {"key": "a"})


def test_a_batch_from_a_file_answers_in_a_file(emu: Dialogue) -> None:
    """A line a request, a line an answer; the file can be downloaded by its owner."""
    lines = b"".join(
        json.dumps({"key": text, "request": {"contents": [{"parts": [{"text": text}]}]}}).encode() + b"\n"
        for text in ("one", "two")
    )
    file = emu.ask("POST", "/upload/v1beta/files?uploadType=media", lines, {**KEY, "content-type": "text/plain"}).json
    body = {"batch": {"inputConfig": {"fileName": file["file"]["name"]}}}
    done = looked(emu, emu.ask("POST", "/v1beta/models/m:batchGenerateContent", body).json["name"])
    responses = done["response"]["responsesFile"]
    assert responses.startswith("files/batch-")
    answered = emu.ask("GET", f"/v1beta/{responses}:download?alt=media")
    documents = [json.loads(line) for line in answered.body.splitlines()]
    assert [one["key"] for one in documents] == ["one", "two"]
    assert '"two"' in documents[1]["response"]["candidates"][0]["content"]["parts"][0]["text"]
    assert emu.ask("GET", f"/v1beta/{responses}:download", headers=OTHER).status == 403
    described = emu.ask("GET", f"/v1beta/{responses}").json
    assert (described["source"], described["downloadUri"].rpartition("/")[0]) == (
        "GENERATED",
        "https://generativelanguage.googleapis.com/v1beta/files",
    )


@pytest.mark.parametrize("line", [b"no JSON", b"[]", b'{"key": "a"}'])
def test_a_file_that_is_no_batch_is_refused(emu: Dialogue, line: bytes) -> None:
    """With the number of the line."""
    file = emu.ask("POST", "/upload/v1beta/files?uploadType=media", line, {**KEY, "content-type": "text/plain"}).json
    body = {"batch": {"inputConfig": {"fileName": file["file"]["name"]}}}
    refused = emu.ask("POST", "/v1beta/models/m:batchGenerateContent", body)
    assert (refused.status, refused.error["message"][:7]) == (400, "Line 1 ")


# -- videos


def test_a_video_takes_two_looks(emu: Dialogue) -> None:
    """And is a file of its owner's."""
    body = {"instances": [{"prompt": "a cat"}], "parameters": {"sampleCount": 2}}
    made = emu.ask("POST", "/v1beta/models/veo:predictLongRunning", body).json
    assert made["name"].startswith("models/veo/operations/")
    assert emu.ask("GET", f"/v1beta/{made['name']}").json == made
    done = emu.ask("GET", f"/v1beta/{made['name']}").json
    samples = done["response"]["generateVideoResponse"]["generatedSamples"]
    assert len(samples) == 2
    uri = samples[0]["video"]["uri"]
    assert uri.startswith("https://generativelanguage.googleapis.com/v1beta/files/")
    video = emu.ask("GET", uri.removeprefix("https://generativelanguage.googleapis.com"))
    assert (video.header("content-type"), video.body[4:8]) == ("video/mp4", b"ftyp")
    assert b"a cat" in video.body
    assert emu.ask("GET", f"/v1beta/{made['name']}", headers=OTHER).status == 404


def test_a_video_can_be_refused(emu: Dialogue) -> None:
    """For what it lacks, and by the faults of its model's name."""
    assert emu.ask("POST", "/v1beta/models/veo:predictLongRunning", {"instances": [{}]}).status == 400
    asked = {"instances": [{"prompt": "x"}]}
    assert emu.ask("POST", "/v1beta/models/emu-429day:predictLongRunning", asked).status == 429
    assert emu.ask("POST", "/v1beta/models/emu-403validation:predictLongRunning", asked).status == 403


# -- tuned models


def test_a_model_is_tuned_and_called(emu: Dialogue) -> None:
    """Its operation ends at the second look."""
    example = {"textInput": "1", "output": "2"}
    body = {
        "displayName": "mine",
        "baseModel": "models/m",
        "tuningTask": {"trainingData": {"examples": {"examples": [example]}}},
    }
    operation = emu.ask("POST", "/v1beta/tunedModels?tunedModelId=mine", body).json
    assert operation["metadata"]["tunedModel"] == "tunedModels/mine"
    done = looked(emu, operation["name"])
    assert (done["done"], done["response"]["state"]) == (True, "ACTIVE")
    shown = emu.ask("GET", "/v1beta/tunedModels/mine").json
    assert (shown["state"], shown["displayName"], shown["baseModel"]) == ("ACTIVE", "mine", "models/m")
    assert "trainingData" not in shown["tuningTask"]
    changed = emu.ask("PATCH", "/v1beta/tunedModels/mine?updateMask=displayName", {"displayName": "ours"}).json
    assert changed["displayName"] == "ours"
    assert [one["name"] for one in emu.ask("GET", "/v1beta/tunedModels").json["tunedModels"]] == ["tunedModels/mine"]
    assert emu.ask("GET", "/v1beta/tunedModels/mine", headers=OTHER).status == 404
    assert emu.ask("DELETE", "/v1beta/tunedModels/mine").json == {}
    assert emu.ask("POST", "/v1beta/tunedModels", {}).status == 400


# -- files of Cloud Storage


def test_only_a_token_registers_files(emu: Dialogue) -> None:
    """A key cannot say whose bucket it is."""
    body = {"uris": ["gs://bucket/object"]}
    assert emu.ask("POST", "/v1beta/files:register", body).status == 401
    made = emu.ask("POST", "/v1beta/files:register", body, {"authorization": "Bearer t"}).json["files"]
    assert [one["uri"] for one in made] == ["gs://bucket/object"]
    assert emu.ask("POST", "/v1beta/files:register", {"uris": ["x"]}, {"authorization": "Bearer t"}).status == 400


def test_the_same_calls_give_the_same_bytes() -> None:
    """Names, too."""

    def said() -> list[bytes]:
        emu = Dialogue(seed=3)
        name = store(emu, displayName="a")
        operation = put(emu, name, b"x")
        veo = emu.ask("POST", "/v1beta/models/veo:predictLongRunning", {"instances": [{"prompt": "x"}]})
        return [name.encode(), json.dumps(operation).encode(), veo.body, base64.b64encode(veo.body)]

    assert said() == said()
