"""What plugins serve with twisted.web's own means: files, pages that fail, and errors that are told as such."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.web.resource import EncodingResourceWrapper, Resource
from twisted.web.server import GzipEncoderFactory
from twisted.web.static import File

from agm import hookimpl
from agm.testing import GatewayFactory
from tests.helpers.support import connect, get


class Failing(Resource):
    """A page that raises, having done as much of an answer as the path says."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        done = request.postpath[0]
        if done == b"headers":
            request.setHeader("Content-Length", "3")
            request.setHeader("Content-Type", "text/html")
        elif done != b"nothing":
            request.write(b"hello")
        if done == b"everything":
            request.finish()
        raise RuntimeError("on purpose")


class Pages:
    """A plugin of failing pages, and of a file."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file

    @hookimpl
    def agm_resources(self) -> dict[str, Any]:
        pages: dict[str, Any] = {
            "fails": Failing(),
            "small": EncodingResourceWrapper(Failing(), [GzipEncoderFactory()]),
        }
        return pages if self._file is None else {**pages, "file": File(str(self._file))}


@pytest_twisted.ensureDeferred
async def test_a_large_file_is_served_to_its_end(gateway: GatewayFactory, tmp_path: Path) -> None:
    """twisted.web reads it piece by piece, whenever the transport asks for more: a pull producer."""
    file = tmp_path / "large"
    file.write_bytes(os.urandom(1_000_000))
    running = await gateway("", plugins=[Pages(file)])
    client = await connect(running.port)
    client.send(get("/file", "Connection: close"))
    head, _, body = (await client.closed()).partition(b"\r\n\r\n")
    assert b"Content-Length: 1000000\r\n" in head
    assert body == file.read_bytes()


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("path", ["/fails/nothing", "/fails/headers", "/small/nothing", "/small/headers"])
@pytest_twisted.ensureDeferred
async def test_a_page_that_raises_is_an_error_like_any_other(gateway: GatewayFactory, path: str) -> None:
    """Nothing of the page's own answer is left in it: no length, no type, no encoding; and the connection goes on."""
    running = await gateway("", plugins=[Pages()])
    client = await connect(running.port)
    client.send(get(path, "Accept-Encoding: gzip") + get("/healthz", "Connection: close"))
    first, second = (await client.closed()).split(b"HTTP/1.1 ")[1:]
    head, _, body = first.partition(b"\r\n\r\n")
    assert head.startswith(b"500 ")
    assert head.count(b"Content-Length: ") == 1
    assert b"Content-Type: application/json" in head
    assert b"Content-Encoding" not in head
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
    assert json.loads(body)["error"]["status"] == "INTERNAL"
    assert second.startswith(b"200 ")


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_page_that_raises_in_the_middle_is_cut(gateway: GatewayFactory) -> None:
    running = await gateway("", plugins=[Pages()])
    client = await connect(running.port)
    client.send(get("/fails/something") + get("/healthz"))
    received = await client.closed()
    assert not received.endswith(b"0\r\n\r\n")
    assert b'"status"' not in received


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("page", ["fails", "small"])
@pytest_twisted.ensureDeferred
async def test_a_page_that_raises_after_its_answer_has_answered(
    gateway: GatewayFactory, page: str, logged_failures: list[dict[str, Any]]
) -> None:
    """Its error is logged, once, and the next request is served."""
    running = await gateway("", plugins=[Pages()])
    client = await connect(running.port)
    client.send(get(f"/{page}/everything") + get("/healthz", "Connection: close"))
    received = await client.closed()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b'{"status":"ok"}')
    assert [str(event["log_failure"].value) for event in logged_failures] == ["on purpose"]
