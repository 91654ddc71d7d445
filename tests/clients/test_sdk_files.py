"""google-genai's files and caches through a gateway with several accounts: each lives on one, unseen by the others."""

from __future__ import annotations

import hashlib
import io
import subprocess
from pathlib import Path

import pytest
from google import genai
from google.genai import errors, types

from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, Emulator, GatewayFactory, RunningGateway

MODEL = "gemini-2.5-flash"
TEXT = types.UploadFileConfig(mime_type="text/plain", display_name="a text")


@pytest.fixture
def running(new_gateway: GatewayFactory) -> RunningGateway:
    """A gateway with five accounts."""
    started: RunningGateway = new_gateway("api-key", accounts=5)
    return started


@pytest.fixture
def client(running: RunningGateway) -> genai.Client:
    """The SDK, pointed at it."""
    options = types.HttpOptions(base_url=running.url, timeout=PATIENCE_MS)
    return genai.Client(api_key=CLIENT_KEY, http_options=options)


def test_files_are_uploaded_used_listed_and_deleted(client: genai.Client, emulator: Emulator) -> None:
    """Files go to several accounts, and every question about one to its own."""
    # more than the SDK sends at once, so that the second part goes to where the first did
    contents = [b"first", b"second" * 2_000_000, b"", b"fourth"]
    files = [client.files.upload(file=io.BytesIO(content), config=TEXT) for content in contents]
    for content, file in zip(contents, files, strict=True):
        assert file.name is not None
        found = client.files.get(name=file.name)
        assert (found.size_bytes, found.display_name) == (len(content), "a text")
        answer = client.models.generate_content(model=MODEL, contents=["What is in it?", file])
        assert answer.text
    names = {file.name for file in files}
    assert {file.name for file in client.files.list()} >= names
    assert {file.name for file in client.files.list(config={"page_size": 1})} >= names
    uploads = [e for e in emulator.control("GET", "log")["entries"] if e["path"].startswith("/upload/")]
    assert len({entry["account"] for entry in uploads}) > 1
    assert hashlib.sha256(contents[0]).hexdigest() in {entry["body_sha256"] for entry in uploads}
    for file in files:
        client.files.delete(name=str(file.name))
        with pytest.raises(errors.ClientError) as refused:
            client.files.get(name=str(file.name))
        assert refused.value.code == 403


async def upload_and_ask(client: genai.Client) -> str | None:
    """The asynchronous SDK's way to a text about a file."""
    file = await client.aio.files.upload(file=io.BytesIO(b"text"), config=TEXT)
    answer = await client.aio.models.generate_content(model=MODEL, contents=["What is in it?", file])
    await client.aio.files.delete(name=str(file.name))
    return answer.text


def test_the_asynchronous_sdk_uploads_too(client: genai.Client) -> None:
    import asyncio

    assert asyncio.run(upload_and_ask(client))


def test_caches_are_created_used_listed_changed_and_deleted(client: genai.Client) -> None:
    """A cache's owner answers what is asked with it."""
    made = [
        client.caches.create(model=MODEL, config=types.CreateCachedContentConfig(contents=[f"text {n}"], ttl="300s"))
        for n in range(6)
    ]
    for cache in made:
        name = str(cache.name)
        answer = client.models.generate_content(
            model=MODEL, contents="What does it say?", config=types.GenerateContentConfig(cached_content=name)
        )
        assert answer.text
        assert client.caches.update(name=name, config={"ttl": "600s"}).expire_time is not None
        assert client.caches.get(name=name).name == name
    assert {cache.name for cache in client.caches.list()} >= {cache.name for cache in made}
    for cache in made:
        client.caches.delete(name=str(cache.name))
    assert not {cache.name for cache in client.caches.list()} & {cache.name for cache in made}


def test_batches_are_created_and_watched(client: genai.Client) -> None:
    """A batch is made on one account and watched there until it is done."""
    requests = [types.InlinedRequest(contents=[types.Content(role="user", parts=[types.Part(text="hi")])])]
    batches = [client.batches.create(model=MODEL, src=requests) for _ in range(3)]
    for batch in batches:
        for _ in range(3):
            batch = client.batches.get(name=str(batch.name))
        assert batch.state == types.JobState.JOB_STATE_SUCCEEDED
    assert {batch.name for batch in client.batches.list()} >= {batch.name for batch in batches}


def test_curl_uploads_without_a_key_to_the_address_it_was_given(running: RunningGateway, tmp_path: Path) -> None:
    """As in Google's own pages for the shell: the address in the answer's header is the right to upload."""
    head = tmp_path / "head"
    begin = [
        "curl",
        "-sS",
        "-D",
        str(head),
        f"{running.url}/upload/v1beta/files",
        "-H",
        f"x-goog-api-key: {CLIENT_KEY}",
    ]
    begin += ["-H", "X-Goog-Upload-Protocol: resumable", "-H", "X-Goog-Upload-Command: start"]
    begin += ["-H", "X-Goog-Upload-Header-Content-Type: text/plain", "-d", '{"file": {"display_name": "x"}}']
    subprocess.run([*begin, "-H", "Content-Type: application/json"], check=True, capture_output=True, timeout=60)
    lines = dict(line.split(": ", 1) for line in head.read_text().splitlines() if ": " in line)
    url = next(value for name, value in lines.items() if name.lower() == "x-goog-upload-url")
    assert url.startswith(f"{running.url}/upload/v1beta/files?upload_id=")
    file = tmp_path / "file"
    file.write_bytes(b"x" * 3_000_000)
    send = ["curl", "-sS", url, "-H", "X-Goog-Upload-Offset: 0", "-H", "X-Goog-Upload-Command: upload, finalize"]
    done = subprocess.run([*send, "--data-binary", f"@{file}"], check=True, capture_output=True, timeout=60)
    assert b'"sizeBytes": "3000000"' in done.stdout, done.stdout
    forged = subprocess.run(
        ["curl", "-sS", f"{running.url}/upload/v1beta/files?upload_id=guess", "--data-binary", "x"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert b'"code": 401' in forged.stdout
