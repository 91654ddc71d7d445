"""Files, cached contents and batches."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from tests.emulator.dialogue import KEY, Answered, Dialogue

OTHER = {"x-goog-api-key": "other"}
START = {**KEY, "x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}


def upload_url(emu: Dialogue, headers: Mapping[str, str] = START, **described: Any) -> str:
    answered = emu.ask("POST", "/upload/v1beta/files", {"file": described} if described else b"", headers)
    assert answered.status == 200, answered.body
    url = answered.header("x-goog-upload-url") or ""
    assert url.startswith("http://127.0.0.1:8046/upload/v1beta/files?upload_id=")
    return url.removeprefix("http://127.0.0.1:8046")


def send(emu: Dialogue, url: str, data: bytes, command: str = "upload, finalize", offset: int | str = 0) -> Answered:
    return emu.ask("POST", url, data, {"x-goog-upload-command": command, "x-goog-upload-offset": str(offset)})


def upload(emu: Dialogue, data: bytes = b"hello", mime_type: str = "text/plain", **described: Any) -> dict[str, Any]:
    url = upload_url(emu, {**START, "x-goog-upload-header-content-type": mime_type}, **described)
    document: dict[str, Any] = send(emu, url, data).json["file"]
    return document


def generate(emu: Dialogue, uri: str, headers: Mapping[str, str] = KEY) -> Answered:
    part = {"fileData": {"fileUri": uri, "mimeType": "text/plain"}}
    return emu.model("api-key", "m", body={"contents": [{"parts": [part, {"text": "x"}]}]}, headers=headers)


# -- uploads


def test_a_file_is_uploaded_in_two_steps(emu: Dialogue) -> None:
    """The second without a key: the URL carries the right."""
    file = upload(emu, b"hello", displayName="greeting")
    assert file["name"].startswith("files/")
    assert file["displayName"] == "greeting"
    assert (file["mimeType"], file["sizeBytes"], file["state"]) == ("text/plain", "5", "ACTIVE")
    assert base64.b64decode(file["sha256Hash"]).decode() == hashlib.sha256(b"hello").hexdigest()
    assert file["uri"] == f"http://127.0.0.1:8046/v1beta/{file['name']}"
    assert emu.ask("GET", f"/v1beta/{file['name']}").json == file
    entries = list(emu.state.log.entries())
    assert [entry.rpc for entry in entries] == ["CreateFile", "UploadFile", "GetFile"]
    assert {entry.account for entry in entries} == {"k1"}


def test_a_file_in_pieces(emu: Dialogue) -> None:
    """Each where the last ended; the way may be asked, and the end may come alone."""
    url = upload_url(emu, mimeType="text/x")
    assert send(emu, url, b"hel", "upload").header("x-goog-upload-status") == "active"
    assert send(emu, url, b"", "query").header("x-goog-upload-size-received") == "3"
    assert send(emu, url, b"lo", "upload", 2).status == 400
    assert send(emu, url, b"lo", "upload", 3).status == 200
    done = send(emu, url, b"", "finalize")
    assert done.header("x-goog-upload-status") == "final"
    assert done.json["file"]["sizeBytes"] == "5"
    assert done.json["file"]["mimeType"] == "text/x"
    assert send(emu, url, b"x").status == 404


def test_an_upload_can_be_given_up(emu: Dialogue) -> None:
    """Then its URL is worth nothing."""
    url = upload_url(emu)
    assert send(emu, url, b"", "cancel").header("x-goog-upload-status") == "cancelled"
    assert send(emu, url, b"x").status == 404


def test_a_file_may_be_named(emu: Dialogue) -> None:
    """Once, and not anyhow."""
    assert upload(emu, name="files/mine")["name"] == "files/mine"
    again = emu.ask("POST", "/upload/v1beta/files", {"file": {"name": "mine"}}, START)
    assert (again.status, again.error["status"]) == (409, "ALREADY_EXISTS")
    assert emu.ask("POST", "/upload/v1beta/files", {"file": {"name": "files/Mine!"}}, START).status == 400


CONTENT = b"hello\r\n--other\r\n\x00\xff"
PARTS = (
    b'--b\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{"file": {"displayName": "greeting"}}\r\n'
    b"--b\r\nContent-Type: text/plain\r\n\r\n" + CONTENT + b"\r\n--b--\r\n"
)
RELATED = {**KEY, "content-type": "multipart/related; boundary=b"}


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?uploadType=multipart", RELATED),
        ("", {**RELATED, "x-goog-upload-protocol": "multipart"}),
        (
            "",
            {**RELATED, "content-type": 'multipart/related; x=y; boundary="b"', "x-goog-upload-protocol": "multipart"},
        ),
    ],
)
def test_a_file_with_what_it_is_in_one_request(emu: Dialogue, query: str, headers: dict[str, str]) -> None:
    """What is said of it, and its bytes, whatever they are."""
    file = emu.ask("POST", f"/upload/v1beta/files{query}", PARTS, headers).json["file"]
    assert (file["displayName"], file["mimeType"], file["sizeBytes"]) == ("greeting", "text/plain", str(len(CONTENT)))
    assert base64.b64decode(file["sha256Hash"]).decode() == hashlib.sha256(CONTENT).hexdigest()
    assert emu.ask("GET", f"/v1beta/{file['name']}").json == file


@pytest.mark.parametrize(
    ("query", "headers"), [("?uploadType=media", {}), ("", {"x-goog-upload-protocol": "raw"})], ids=["media", "raw"]
)
def test_a_file_alone_in_one_request(emu: Dialogue, query: str, headers: dict[str, str]) -> None:
    """Its type is the request's."""
    answered = emu.ask("POST", f"/upload/v1beta/files{query}", CONTENT, {**KEY, **headers, "content-type": "audio/mp3"})
    assert (answered.json["file"]["mimeType"], answered.json["file"]["sizeBytes"]) == ("audio/mp3", str(len(CONTENT)))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (PARTS, "multipart/related"),
        (PARTS, "multipart/related; boundary=c"),
        (PARTS, "text/plain; boundary=b"),
        (PARTS[:-8], "multipart/related; boundary=b"),
        (b"--b\r\n\r\n{}\r\n--b--", "multipart/related; boundary=b"),
        (b"--b\r\nno blank line\r\n--b\r\n\r\nx\r\n--b--", "multipart/related; boundary=b"),
        (b"--b\r\n\r\n{\r\n--b\r\n\r\nx\r\n--b--", "multipart/related; boundary=b"),
        (b"", "multipart/related; boundary=b"),
    ],
)
def test_what_is_not_two_parts_is_refused(emu: Dialogue, body: bytes, content_type: str) -> None:
    """And nothing is kept of it."""
    headers = {**KEY, "content-type": content_type}
    answered = emu.ask("POST", "/upload/v1beta/files?uploadType=multipart", body, headers)
    assert (answered.status, answered.error["status"]) == (400, "INVALID_ARGUMENT")
    assert not emu.state.holdings.files


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {**START, "x-goog-upload-protocol": "pigeon"}, 400),
        ("POST", {**START, "x-goog-upload-command": "upload"}, 400),
        ("POST", {key: value for key, value in START.items() if key != "x-goog-api-key"}, 403),
        ("GET", START, 404),
    ],
)
def test_other_ways_to_upload_are_refused(emu: Dialogue, method: str, headers: Any, status: int) -> None:
    """Only in Google's protocols, and only with a key."""
    assert emu.ask(method, "/upload/v1beta/files", b"", headers).status == status


# -- files


def test_files_are_listed_in_pages_and_deleted(emu: Dialogue) -> None:
    """Only one's own."""
    names = [upload(emu)["name"] for _ in range(3)]
    page = emu.ask("GET", "/v1beta/files?pageSize=2").json
    rest = emu.ask("GET", f"/v1beta/files?pageSize=2&pageToken={page['nextPageToken']}").json
    assert [file["name"] for file in page["files"] + rest["files"]] == names
    assert emu.ask("GET", "/v1beta/files", headers=OTHER).json == {}
    assert emu.ask("DELETE", f"/v1beta/{names[0]}", headers=OTHER).status == 403
    assert emu.ask("DELETE", f"/v1beta/{names[0]}").json == {}
    assert emu.ask("GET", f"/v1beta/{names[0]}").status == 403


def test_a_file_is_its_owners(emu: Dialogue) -> None:
    """To look at, and to use in a prompt."""
    file = upload(emu)
    short = file["name"].removeprefix("files/")
    said = f"You do not have permission to access the File {short} or it may not exist."
    for answered in (emu.ask("GET", f"/v1beta/{file['name']}", headers=OTHER), generate(emu, file["uri"], OTHER)):
        assert (answered.status, answered.error["message"]) == (403, said)
    assert generate(emu, file["uri"]).status == 200
    assert generate(emu, "gs://bucket/object", OTHER).status == 200
    assert generate(emu, "https://example.com/video", OTHER).status == 200


def test_a_file_is_kept_for_two_days(emu: Dialogue) -> None:
    """Of the emulator's clock."""
    file = upload(emu)
    emu.control("clock", {"advance": 48 * 3600})
    assert emu.ask("GET", "/v1beta/files").json == {}
    assert emu.ask("GET", f"/v1beta/{file['name']}").status == 403


def test_a_video_takes_a_while(emu: Dialogue) -> None:
    """PROCESSING, and not to be used, for two seconds."""
    file = upload(emu, mime_type="video/mp4")
    assert file["state"] == "PROCESSING"
    refused = generate(emu, file["uri"])
    assert (refused.status, refused.error["status"]) == (400, "FAILED_PRECONDITION")
    emu.control("clock", {"advance": 2})
    assert emu.ask("GET", f"/v1beta/{file['name']}").json["state"] == "ACTIVE"
    assert generate(emu, file["uri"]).status == 200


def test_an_uploaded_file_cannot_be_downloaded(emu: Dialogue) -> None:
    """Google does not hand them back, either."""
    assert emu.ask("GET", f"/v1beta/{upload(emu)['name']}:download?alt=media").status == 400


# -- cached contents

LONG = {"contents": [{"role": "user", "parts": [{"text": "word " * 400}]}]}


def cache(emu: Dialogue, **changes: Any) -> Answered:
    return emu.ask("POST", "/v1beta/cachedContents", {"model": "models/m", "displayName": "c", **LONG, **changes})


def use(emu: Dialogue, name: str, model: str = "m", headers: Mapping[str, str] = KEY, **changes: Any) -> Answered:
    body = {"contents": [{"parts": [{"text": "and?"}]}], "cachedContent": name, **changes}
    return emu.model("api-key", model, body=body, headers=headers)


def test_contents_are_cached_and_counted(emu: Dialogue) -> None:
    """They are never shown again."""
    made = cache(emu).json
    assert made["usageMetadata"] == {"totalTokenCount": 500}
    assert "contents" not in made
    assert emu.ask("GET", f"/v1beta/{made['name']}").json == made
    usage = use(emu, made["name"]).json["usageMetadata"]
    assert (usage["promptTokenCount"], usage["cachedContentTokenCount"]) == (501, 500)


def test_a_cache_is_its_owners_and_its_models(emu: Dialogue) -> None:
    """And brings its own instruction and tools."""
    name = cache(emu).json["name"]
    foreign = use(emu, name, headers=OTHER)
    assert (foreign.status, foreign.error["message"]) == (403, "CachedContent not found (or permission denied)")
    assert "has to be the same" in use(emu, name, "other").error["message"]
    assert "can not be used with" in use(emu, name, tools=[{"googleSearch": {}}]).error["message"]
    assert emu.ask("GET", "/v1beta/cachedContents", headers=OTHER).json == {}


def test_a_cache_ends(emu: Dialogue) -> None:
    """After an hour, or when told; that can be changed."""
    hour, minute = cache(emu).json, cache(emu, ttl="60s").json
    moment = cache(emu, expireTime="1970-01-12T13:48:00Z").json
    assert (hour["expireTime"], minute["expireTime"], moment["expireTime"]) == (
        "1970-01-12T14:46:40Z",
        "1970-01-12T13:47:40Z",
        "1970-01-12T13:48:00Z",
    )
    longer = emu.ask("PATCH", f"/v1beta/{minute['name']}?updateMask=ttl", {"ttl": "7200s"}).json
    assert longer["expireTime"] == "1970-01-12T15:46:40Z"
    emu.control("clock", {"advance": 3600})
    listed = emu.ask("GET", "/v1beta/cachedContents?pageSize=1").json
    assert [one["name"] for one in listed["cachedContents"]] == [minute["name"]]
    assert emu.ask("GET", f"/v1beta/{hour['name']}").status == 403


def test_caches_are_listed_in_pages_and_deleted(emu: Dialogue) -> None:
    """As files are."""
    first, second = cache(emu).json["name"], cache(emu).json["name"]
    page = emu.ask("GET", "/v1beta/cachedContents?pageSize=1").json
    rest = emu.ask("GET", f"/v1beta/cachedContents?pageToken={page['nextPageToken']}").json
    assert [one["name"] for one in page["cachedContents"] + rest["cachedContents"]] == [first, second]
    assert emu.ask("DELETE", f"/v1beta/{first}").json == {}
    assert emu.ask("DELETE", f"/v1beta/{first}").status == 403


@pytest.mark.parametrize(
    "changes", [{"model": "m"}, {"contents": None}, {"ttl": "soon"}, {"expireTime": "soon"}, {"nonsense": 1}]
)
def test_bad_caches_are_refused(emu: Dialogue, changes: Any) -> None:
    """400."""
    assert cache(emu, **changes).status == 400


def test_only_the_end_of_a_cache_can_be_changed(emu: Dialogue) -> None:
    """400 for anything else."""
    name = cache(emu).json["name"]
    assert emu.ask("PATCH", f"/v1beta/{name}", {"displayName": "d"}).status == 400


# -- batches


def batch(emu: Dialogue, *texts: str, **config: Any) -> Answered:
    requests = [
        {"request": {"contents": [{"parts": [{"text": text}]}]}, **({"metadata": {"key": text}} if text else {})}
        for text in texts
    ]
    body = {"batch": {"displayName": "b", "inputConfig": config or {"requests": {"requests": requests}}}}
    return emu.ask("POST", "/v1beta/models/m:batchGenerateContent", body)


def test_a_batch_moves_on_each_time_it_is_looked_at(emu: Dialogue) -> None:
    """Pending, running, done; its answers keep their keys."""
    made = batch(emu, "one", "").json
    assert made["metadata"]["state"] == "BATCH_STATE_PENDING"
    looked = [emu.ask("GET", f"/v1beta/{made['name']}").json for _ in range(3)]
    assert [one["metadata"]["state"] for one in looked] == [
        "BATCH_STATE_RUNNING",
        "BATCH_STATE_SUCCEEDED",
        "BATCH_STATE_SUCCEEDED",
    ]
    assert looked[1]["done"] is True
    answered = looked[1]["response"]["inlinedResponses"]["inlinedResponses"]
    assert answered == looked[1]["metadata"]["output"]["inlinedResponses"]["inlinedResponses"]
    assert answered[0]["metadata"] == {"key": "one"}
    assert '"one"' in answered[0]["response"]["candidates"][0]["content"]["parts"][0]["text"]
    assert "metadata" not in answered[1]


def test_batches_are_listed_cancelled_and_deleted(emu: Dialogue) -> None:
    """By their owner."""
    first, second = batch(emu, "a").json["name"], batch(emu, "b").json["name"]
    page = emu.ask("GET", "/v1beta/batches?pageSize=1").json
    assert [one["name"] for one in page["operations"]] == [first]
    assert page["nextPageToken"]
    assert emu.ask("GET", f"/v1beta/{first}", headers=OTHER).status == 404
    assert emu.ask("POST", f"/v1beta/{first}:cancel").json == {}
    cancelled = emu.ask("GET", f"/v1beta/{first}").json
    assert (cancelled["metadata"]["state"], cancelled["error"]["code"]) == ("BATCH_STATE_CANCELLED", 1)
    assert emu.ask("DELETE", f"/v1beta/{first}").json == {}
    assert [one["name"] for one in emu.ask("GET", "/v1beta/batches").json["operations"]] == [second]
    assert emu.ask("GET", "/v1beta/batches", headers=OTHER).json == {}


def test_bad_batches_are_refused(emu: Dialogue) -> None:
    """Without requests, from a file that is not there, or with one that says nothing."""
    assert batch(emu).status == 400
    assert batch(emu, fileName="files/x").status == 403
    assert batch(emu, requests={"requests": [{"request": {}}]}).status == 400
