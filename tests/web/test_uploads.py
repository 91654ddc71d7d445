"""Uploads: streamed to the account that takes them, held back by a slow upstream, and never held whole."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted

from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import (
    JSON_HEAD,
    AnsweringUpstream,
    Asked,
    ScriptedUpstream,
    connect,
    eventually,
    google_error,
    info,
    post,
    retry,
    settle,
)

MIB = 1024 * 1024
START = {
    "X-Goog-Upload-Protocol": "resumable",
    "X-Goog-Upload-Command": "start",
    "X-Goog-Upload-Header-Content-Type": "text/plain",
}
SEND = "X-Goog-Upload-Command: upload, finalize\r\nX-Goog-Upload-Offset: 0"


def account(url: str) -> str:
    return f'[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "key-a"\nendpoints = ["{url}"]\n'


def begun(running: RunningGateway, upstream: ScriptedUpstream) -> str:
    """The target of an upload that has been begun on account a."""
    root: Any = running.site.resource
    now = running.gateway.wall()
    token = root.owned.uploads.begin("a", f"{upstream.url}/up?upload_id=x", now)
    return f"/upload/v1beta/files?upload_id={token}"


def head(target: str, length: int | str) -> bytes:
    framing = f"Content-Length: {length}" if isinstance(length, int) else "Transfer-Encoding: chunked"
    return f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{SEND}\r\n{framing}\r\n\r\n".encode()


@pytest_twisted.ensureDeferred
async def test_a_slow_upstream_holds_back_the_client(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """Of 64 MiB the gateway takes no more than sockets hold, and the rest when the upstream goes on."""
    running = await gateway(account(upstream.url) + '[gateway]\nmax_body = "1MiB"\n')
    client = await connect(running.port)
    client.send(head(begun(running, upstream), 64 * MIB))
    await eventually(lambda: upstream.connections and upstream.connections[0].received, "the head")
    wire = upstream.connections[0]
    wire.keep = False
    wire.transport.pauseProducing()
    client.send(b"x" * 64 * MIB)
    (channel,) = running.site.channels
    streamed = channel.request.streamed
    await eventually(lambda: streamed.size, "the first bytes")
    await settle(0.5)
    assert streamed.size < 32 * MIB
    wire.transport.resumeProducing()
    await eventually(lambda: streamed.complete, "all bytes")
    await eventually(lambda: wire.count > 64 * MIB, "all bytes at the upstream")
    wire.send(JSON_HEAD + b'X-Goog-Upload-Status: final\r\nContent-Length: 27\r\n\r\n{"file":{"name":"files/a"}}')
    received = await client.until(b'{"file":{"name":"files/a"}}')
    assert b"X-Goog-Upload-Status: final" in received
    assert running.gateway.ownership.owner("files/a") == "a"
    client.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")  # the connection goes on
    await client.until(b'{"status":"ok"}')
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_an_upload_needs_no_length(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """A chunked body goes on chunked, without the account's key: the address is the right."""
    running = await gateway(account(upstream.url))
    client = await connect(running.port)
    client.send(head(begun(running, upstream), "unknown") + b"5\r\nhello\r\n")
    await eventually(lambda: upstream.connections and b"hello" in upstream.connections[0].received, "a chunk")
    client.send(b"3\r\nend\r\n0\r\n\r\n")
    wire = upstream.connections[0]
    received = await wire.until(b"3\r\nend\r\n", b"0\r\n\r\n")
    assert received.startswith(b"POST /up?upload_id=x HTTP/1.1\r\n")
    assert b"key-a" not in received
    wire.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
    await client.until(b"\r\n\r\n{}")
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_an_early_answer_reaches_the_client_and_ends_the_upload(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """What is not wanted any more is not sent on, and nothing of it is taken for another request."""
    running = await gateway(account(upstream.url))
    client = await connect(running.port)
    client.send(head(begun(running, upstream), 10 * MIB) + b"x" * 1000)
    await eventually(lambda: upstream.connections and upstream.connections[0].received, "the head")
    upstream.connections[0].send(b"HTTP/1.1 410 Gone\r\nContent-Length: 4\r\n\r\ngone")
    received = await client.until(b"gone")
    assert received.startswith(b"HTTP/1.1 410 Gone\r\n")
    assert b"Connection: close\r\n" in received
    client.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await client.closed()
    assert client.received.count(b"HTTP/1.1") == 1
    await eventually(lambda: upstream.connections[0].lost, "the upstream's connection to end")
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_its_upload(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """The upstream's connection is closed at once: half a file never looks whole."""
    running = await gateway(account(upstream.url))
    client = await connect(running.port)
    client.send(head(begun(running, upstream), MIB) + b"x" * 1000)
    await eventually(lambda: upstream.connections and b"xxx" in upstream.connections[0].received, "some bytes")
    client.transport.abortConnection()
    await eventually(lambda: upstream.connections[0].lost, "the upstream's connection to end")


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_takes_nothing_is_given_up(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """The client is told, in Google's form."""
    running = await gateway(account(upstream.url) + "[timeouts]\nidle = 0.2\n")
    client = await connect(running.port)
    client.send(head(begun(running, upstream), 64 * MIB))
    await eventually(lambda: upstream.connections and upstream.connections[0].received, "the head")
    upstream.connections[0].transport.pauseProducing()
    client.send(b"x" * 64 * MIB)
    received = await client.until(b'"DEADLINE_EXCEEDED"')
    assert received.startswith(b"HTTP/1.1 504 ")
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_an_upload_s_answer_is_waited_for_as_long_as_the_client_asks(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """With ``X-Server-Timeout``, as any other."""
    running = await gateway(account(upstream.url) + "[timeouts]\nfirst_byte = 0.1\n")
    client = await connect(running.port)
    client.send(post(begun(running, upstream), b"{}", "X-Server-Timeout: 30"))
    up = await upstream.connection()
    await settle(0.4)
    up.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
    assert (await client.until(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200 ")
    client.transport.abortConnection()
    await client.closed()


@pytest_twisted.ensureDeferred
async def test_nobody_begins_an_upload_without_a_key_or_guesses_one(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """The bytes need no key, because their address cannot be guessed; everything else does."""
    strict = '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "k"\nkey = "a-client-key-0123"\n'
    running = await gateway(emulator.account("a") + strict)
    description = b'{"file": {"displayName": "x"}}'
    path = "/upload/v1beta/files"
    assert (await running.fetch("POST", path, body=description, headers=START)).status == 401
    assert (await running.fetch("POST", f"{path}?upload_id=guess", body=b"x")).status == 401
    key = "a-client-key-0123"
    assert (await running.fetch("POST", f"{path}?upload_id=guess", body=b"x", key=key)).status == 404
    answer = await running.fetch("POST", path, body=description, headers=START, key=key)
    address = answer.headers["x-goog-upload-url"]
    assert address.startswith(f"{running.url}{path}?upload_id=")
    target = address.removeprefix(running.url)
    first = {"X-Goog-Upload-Command": "upload", "X-Goog-Upload-Offset": "0"}
    assert (await running.fetch("POST", target, body=b"first", headers=first)).headers[
        "x-goog-upload-status"
    ] == "active"
    queried = await running.fetch("POST", target, headers={"X-Goog-Upload-Command": "query"})
    assert queried.headers["x-goog-upload-size-received"] == "5"
    last = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "5"}
    done = await running.fetch("POST", target, body=b"-last", headers=last)
    assert done.json["file"]["sizeBytes"] == "10"
    assert running.gateway.ownership.owner(done.json["file"]["name"]) == "a"


@pytest.mark.parametrize("kind", ["media", "multipart"])
@pytest_twisted.ensureDeferred
async def test_a_file_may_come_in_one_request(gateway: GatewayFactory, kind: str) -> None:
    """As it is, with the account's key in place of the client's."""

    def answer(asked: Asked) -> tuple[int, object]:
        return 200, {"file": {"name": "files/made"}}

    upstream = AnsweringUpstream(answer)
    running = await gateway(account(upstream.url))
    body = b"--b\r\n\r\n" + bytes(range(256)) * 1000
    done = await running.fetch(
        "POST",
        f"/upload/v1beta/files?uploadType={kind}&key=client-key",
        body=body,
        headers={"Content-Type": "multipart/related; boundary=b"},
    )
    assert done.json == {"file": {"name": "files/made"}}
    (asked,) = upstream.asked
    assert asked.uri == f"/upload/v1beta/files?uploadType={kind}"
    assert (asked.body, asked.credential) == (body, "key-a")
    assert asked.headers["content-type"] == "multipart/related; boundary=b"
    assert running.gateway.ownership.owner("files/made") == "a"
    await upstream.stop()


SMALL, LARGE = 1000, 2 * MIB


def two_parts(content: bytes) -> bytes:
    """A file with what it is, in one body."""
    described = b'--b\r\nContent-Type: application/json\r\n\r\n{"file": {"displayName": "x"}}\r\n'
    return described + b"--b\r\nContent-Type: text/plain\r\n\r\n" + content + b"\r\n--b--\r\n"


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?uploadType=multipart", {"Content-Type": "multipart/related; boundary=b"}),
        ("", {"Content-Type": "multipart/related; boundary=b", "X-Goog-Upload-Protocol": "multipart"}),
        ("?uploadType=media", {"Content-Type": "text/plain"}),
        ("", {"Content-Type": "text/plain", "X-Goog-Upload-Protocol": "raw"}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_file_in_one_request_belongs_to_who_took_it(
    gateway: GatewayFactory, emulator: RunningEmulator, query: str, headers: dict[str, str], size: int
) -> None:
    """Its bytes arrive, large or small, and what names it goes where it is."""
    two = emulator.account("a") + emulator.account("b")
    running = await gateway(two + '[pool]\nstrategy = "round-robin"\n[gateway]\nshow_account = true\n')
    owners = set()
    for _ in range(2):
        content = (bytes(range(256)) * (size // 256 + 1))[:size]
        body = content if "text" in headers["Content-Type"] else two_parts(content)
        answer = await running.fetch("POST", f"/upload/v1beta/files{query}", body=body, headers=headers)
        assert answer.status == 200, answer.body
        file = answer.json["file"]
        assert (file["sizeBytes"], file["mimeType"]) == (str(size), "text/plain")
        assert base64.b64decode(file["sha256Hash"]).decode() == hashlib.sha256(content).hexdigest()
        owners.add(answer.account)
        part = {"fileData": {"fileUri": file["uri"], "mimeType": "text/plain"}}
        for _ in range(2):
            asked = await running.ask(body={"contents": [{"role": "user", "parts": [part, {"text": "what?"}]}]})
            assert (asked.status, asked.account) == (200, answer.account)
    assert owners == {"a", "b"}


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest_twisted.ensureDeferred
async def test_an_upload_in_one_request_counts_for_its_key(
    gateway: GatewayFactory, emulator: RunningEmulator, size: int
) -> None:
    """A key that is held to some models may upload, but not more often than any request."""
    limited = '[[auth.keys]]\nname = "k"\nkey = "a-client-key-0123"\nmodels = ["m"]\nrequests_per_minute = 1\n'
    running = await gateway(emulator.account("a") + '[auth]\nmode = "strict"\n' + limited)
    path, text = "/upload/v1beta/files?uploadType=media", {"Content-Type": "text/plain"}
    assert (await running.fetch("POST", path, body=b"x" * size, headers=text)).status == 401
    statuses = [
        (await running.fetch("POST", path, body=b"x" * size, headers=text, key="a-client-key-0123")).status
        for _ in range(2)
    ]
    assert statuses == [200, 429]
    assert [entry.rpc for entry in emulator.log] == ["CreateFile"]


@pytest_twisted.ensureDeferred
async def test_an_upload_that_is_kept_to_be_sent_again_counts_among_the_bodies(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """A large one is not kept, and does not count."""
    running = await gateway(emulator.account("a") + "[gateway]\nmax_body = 1000\n[limits]\nbodies = 1000\n")
    path, text = "/upload/v1beta/files?uploadType=media", {"Content-Type": "text/plain"}
    answers = [
        await running.fetch("POST", path, body=b"x" * size, headers=text) for size in (1000, 1001, 1000, LARGE, 1000)
    ]
    assert [answer.status for answer in answers] == [200, 503, 200, 200, 200]
    assert answers[1].json["error"]["details"][0]["reason"] == "TOO_MANY_BODIES"
    assert running.site.reserved == 0


def three_accounts(upstream: AnsweringUpstream) -> str:
    """Accounts in an order, on one upstream."""
    return '[gateway]\nshow_account = true\n[pool]\nstrategy = "priority"\nmax_wait = 0\n' + "".join(
        f'[[accounts]]\nname = "{name}"\nkind = "api-key"\napi_key = "key-{name}"\nendpoints = ["{upstream.url}"]\n'
        f"priority = {number}\n"
        for number, name in enumerate("abc")
    )


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("47s"))),
        (400, google_error(400, "INVALID_ARGUMENT", "API key not valid.", info("API_KEY_INVALID"))),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_refused_upload_means_what_it_means_for_any_request(
    gateway: GatewayFactory, status: int, error: dict[str, Any]
) -> None:
    """A small one goes to another account at once; of a large one the bytes are gone, but the next goes there."""
    upstream = AnsweringUpstream(
        lambda asked: (status, error) if asked.credential == "key-a" else (200, {"file": {"name": "files/made"}})
    )
    path, text = "/upload/v1beta/files?uploadType=media", {"Content-Type": "text/plain"}
    small = await gateway(three_accounts(upstream))
    assert (await small.fetch("POST", path, body=b"x", headers=text)).account == "b"
    assert set(upstream.credentials) == {"key-a", "key-b"}
    upstream.asked.clear()
    assert (await small.fetch("POST", path, body=b"x", headers=text)).account == "b"
    assert upstream.credentials == ["key-b"]
    assert small.gateway.ownership.owner("files/made") == "b"
    upstream.asked.clear()
    large = await gateway(three_accounts(upstream))
    refused = await large.fetch("POST", path, body=b"x" * LARGE, headers=text)
    assert (refused.status, refused.json["error"]["status"]) == (status, error["error"]["status"])
    assert ("retry-after" in refused.headers) == (status == 429)
    assert (await large.fetch("POST", path, body=b"x" * LARGE, headers=text)).account == "b"
    assert upstream.credentials == ["key-a", "key-b"]
    assert {len(asked.body) for asked in upstream.asked} == {LARGE}
    reasons = [
        attempt.verdict and attempt.verdict.reason for it in large.gateway.live.finished for attempt in it.attempts
    ]
    assert reasons[0] not in (None, "UPLOAD_FAILED")
    assert reasons[1:] == [None]
    await upstream.stop()


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest_twisted.ensureDeferred
async def test_an_upload_into_a_store_finds_the_stores_owner(gateway: GatewayFactory, size: int) -> None:
    """Nobody remembers it: it is looked for before a large file is sent, and a small one is shown to each."""

    def answer(asked: Asked) -> tuple[int, object]:
        if asked.credential != "key-b":
            return 403, google_error(403, "PERMISSION_DENIED", "You do not have permission to access the store s.")
        return 200, {"name": "fileSearchStores/s/upload/operations/o"}

    upstream = AnsweringUpstream(answer)
    running = await gateway(three_accounts(upstream))
    path = "/upload/v1beta/fileSearchStores/s:uploadToFileSearchStore?uploadType=media"
    text = {"Content-Type": "text/plain"}
    taken = await running.fetch("POST", path, body=b"x" * size, headers=text)
    assert (taken.status, taken.account) == (200, "b")
    assert running.gateway.ownership.owner("fileSearchStores/s") == "b"
    assert [asked.credential for asked in upstream.asked if len(asked.body) == size][-1] == "key-b"
    assert sum(len(asked.body) == LARGE for asked in upstream.asked) in (0, 1)
    again = await running.fetch("POST", path, body=b"x" * size, headers=text)
    polled = await running.fetch("GET", "/v1beta/fileSearchStores/s/upload/operations/o")
    assert (again.account, polled.account) == ("b", "b")
    nobodys = path.replace("/s:", "/nobodys:")
    upstream.asked.clear()
    upstream_says_no = await (await gateway(three_accounts(upstream).replace('"key-b"', '"key-d"'))).fetch(
        "POST", nobodys, body=b"x" * size, headers=text
    )
    assert upstream_says_no.status == 403
    assert not any(len(asked.body) == LARGE for asked in upstream.asked)
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_googles_older_protocol_is_relayed_too(gateway: GatewayFactory) -> None:
    """``uploadType=resumable`` names its address in ``Location``, and says 308 and a range until it is done."""
    urls: list[str] = []

    def answer(asked: Asked) -> tuple[int, object, dict[str, str]]:
        if "uploadType" in asked.uri:
            return 200, b"", {"Location": f"{urls[0]}/session/1"}
        return 308, b"", {"Range": "bytes=0-4"}

    upstream = AnsweringUpstream(answer)
    urls.append(upstream.url)
    running = await gateway(account(upstream.url))
    path = "/upload/v1beta/files?uploadType=resumable"
    answered = await running.fetch("POST", path, body=json.dumps({"file": {}}).encode())
    target = answered.headers["location"].removeprefix(running.url)
    assert target.startswith("/upload/v1beta/files?upload_id=")
    client = await connect(running.port)
    client.send(f"PUT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode())
    client.send(b"Content-Range: bytes 0-4/10\r\nContent-Length: 5\r\n\r\nhello")
    more = await client.until(b"\r\n\r\n")
    assert more.startswith(b"HTTP/1.1 308 ")
    assert b"Range: bytes=0-4\r\n" in more
    client.transport.abortConnection()
    assert upstream.asked[1].uri == "/session/1"
    assert upstream.asked[1].headers["content-range"] == "bytes 0-4/10"
    await upstream.stop()


@pytest_twisted.async_yield_fixture
async def naming() -> AsyncIterator[Callable[..., AnsweringUpstream]]:
    """A function that makes an upstream, which has the bytes of uploads sent to an address; HERE in it is its own."""
    started: list[AnsweringUpstream] = []

    def make(url: str, header: str = "X-Goog-Upload-URL") -> AnsweringUpstream:
        def answer(asked: Asked) -> tuple[Any, ...]:
            if "upload_id=" in asked.uri:
                return 200, {"file": {"name": "files/f"}}, {"X-Goog-Upload-Status": "final"}
            here = upstream.url.removeprefix("http://")
            return 200, b"", {header: url.replace("HERE", here), "X-Goog-Upload-Status": "active"}

        upstream = AnsweringUpstream(answer)
        started.append(upstream)
        return upstream

    yield make
    for upstream in started:
        await upstream.stop()


@pytest.mark.parametrize("header", ["X-Goog-Upload-URL", "X-Goog-Upload-Control-URL", "Location"])
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/upload?upload_id=u",
        "http://HERE.evil.example/upload?upload_id=u",
        "http://localhost/upload?upload_id=u",
        "http://user@HERE/upload?upload_id=u",
        "http://HERE@evil.example/upload?upload_id=u",
        "https://HERE/upload?upload_id=u",
        "ftp://HERE/upload?upload_id=u",
        "//evil.example/upload?upload_id=u",
        "http://evil.example\\@HERE/upload?upload_id=u",
        "http://HERE",
        "http://HERE?upload_id=u",
        "http://HERE/upload?upload_id=u#x",
        "http://HERE/upload upload_id=u",
        "http://HERE0/upload",
        "http://127.0.0.1:99999/upload",
        "upload?upload_id=u",
        "http://169.254.169.254/computeMetadata/v1/",
    ],
)
@pytest_twisted.ensureDeferred
async def test_bytes_go_to_the_upstream_that_was_asked_and_nowhere_else(
    gateway: GatewayFactory, naming: Callable[..., AnsweringUpstream], header: str, url: str
) -> None:
    """An address of another scheme, host or port is refused, and no address is given out for it."""
    upstream = naming(url, header)
    running = await gateway(account(upstream.url))
    begun = await running.fetch("POST", "/upload/v1beta/files", body=b"{}", headers=START)
    assert (begun.status, begun.json["error"]["details"][0]["reason"]) == (502, "UPLOAD_ADDRESS_FOREIGN")
    assert not {"x-goog-upload-url", "x-goog-upload-control-url", "location"} & begun.headers.keys()
    assert "evil" not in begun.body.decode()


@pytest.mark.parametrize("url", ["http://HERE/x?upload_id=u", "/x?upload_id=u", "http://HERE/x?upload_id=u/../..//@y"])
@pytest_twisted.ensureDeferred
async def test_an_address_of_the_upstreams_own_is_taken_however_it_is_written(
    gateway: GatewayFactory, naming: Callable[..., AnsweringUpstream], url: str
) -> None:
    upstream = naming(url)
    running = await gateway(account(upstream.url + "/prefix"))
    begun = await running.fetch("POST", "/upload/v1beta/files", body=b"{}", headers=START)
    target = begun.headers["x-goog-upload-url"].removeprefix(running.url)
    assert (await running.fetch("POST", target, body=b"hello")).status == 200
    assert upstream.asked[-1].uri == url.removeprefix("http://HERE")


@pytest.mark.parametrize(
    ("configured", "headers", "base"),
    [
        ("", {"Host": "127.0.0.1:8045"}, "http://127.0.0.1:8045"),
        ('public_url = "https://ai.example.net/gemini"', {"Host": "127.0.0.1:8045"}, "https://ai.example.net/gemini"),
        ('public_url = "https://ai.example.net"', {"Host": "ai.example.net"}, "https://ai.example.net"),
        # what a proxy says that is not believed
        (
            'allowed_hosts = ["ai.example.net"]',
            {"Host": "ai.example.net", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"},
            "http://ai.example.net",
        ),
        # and of one that is
        (
            'trusted_proxies = ["loopback"]\nallowed_hosts = ["ai.example.net"]',
            {"Host": "ai.example.net:8443", "X-Forwarded-Proto": "https"},
            "https://ai.example.net:8443",
        ),
        (
            'trusted_proxies = ["loopback"]',
            {"X-Forwarded-Proto": "http, HTTPS", "X-Forwarded-Host": "evil.example, ai.example.net"},
            "https://ai.example.net",
        ),
        (
            'trusted_proxies = ["loopback"]',
            {"Forwarded": 'for=203.0.113.9;host="ai.example.net:8443";proto=https'},
            "https://ai.example.net:8443",
        ),
        (
            'trusted_proxies = ["loopback"]',
            {"Host": "127.0.0.1", "X-Forwarded-Proto": "javascript", "X-Forwarded-Host": "evil.example/?"},
            "http://127.0.0.1",
        ),
        (
            'trusted_proxies = ["loopback"]\npublic_url = "https://ai.example.net"',
            {"X-Forwarded-Host": "other.example"},
            "https://ai.example.net",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_address_of_an_upload_is_the_one_by_which_clients_know_the_gateway(
    gateway: GatewayFactory,
    naming: Callable[..., AnsweringUpstream],
    configured: str,
    headers: dict[str, str],
    base: str,
) -> None:
    for header in ("X-Goog-Upload-URL", "Location"):
        upstream = naming("http://HERE/x?upload_id=u", header)
        running = await gateway(f'[gateway]\n{configured}\n[auth]\nmode = "off"\n' + account(upstream.url))
        begun = await running.fetch("POST", "/upload/v1beta/files", body=b"{}", headers={**START, **headers})
        assert begun.headers[header.lower()].startswith(f"{base}/upload/v1beta/files?upload_id="), begun


@pytest_twisted.ensureDeferred
async def test_an_upload_to_other_kinds_of_accounts_is_refused(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(emulator.account("a", kind="vertex"))
    for headers in (START, {}):
        answer = await running.fetch("POST", "/upload/v1beta/files", body=b"{}", headers=headers)
        assert answer.status == 501
