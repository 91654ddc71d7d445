"""Uploads: streamed to the account that takes them, held back by a slow upstream, and never held whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from support import JSON_HEAD, AnsweringUpstream, Asked, ScriptedUpstream, connect, eventually, post, settle

from agm.testing import GatewayFactory, RunningEmulator, RunningGateway

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
    now = running.gateway.reactor.seconds()
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


@pytest_twisted.ensureDeferred
async def test_an_upload_to_other_kinds_of_accounts_is_refused(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(emulator.account("a", kind="vertex"))
    for headers in (START, {}):
        answer = await running.fetch("POST", "/upload/v1beta/files", body=b"{}", headers=headers)
        assert answer.status == 501
