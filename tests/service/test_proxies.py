"""
The proxies in ``deploy/proxy``, each as its program runs it: what passes through them is as it is without.

The files are used as they are but for addresses and paths.  What is not installed is skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.endpoints import SSL4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from agm.testing import GatewayFactory, RunningGateway
from tests.helpers.support import (
    JSON_HEAD,
    SSE_HEAD,
    ScriptedUpstream,
    Wire,
    account,
    chunk,
    eventually,
    get,
    post,
    reactor,
)
from tests.upstream.certificates import TestAuthority

pytestmark = pytest.mark.process

DEPLOY = Path(__file__).parents[2] / "deploy"
HOST = "ai.example.net"
AUTHORITY = TestAuthority()
STREAM = "/v1beta/models/m:streamGenerateContent"
MIB = 1024 * 1024
KEYS = '[[auth.keys]]\nname = "ci"\nkey = "canary-proxied-key"\n'
KEY = "x-goog-api-key: canary-proxied-key"


@attrs.frozen(eq=False)
class Proxied:
    """A gateway behind a proxy; `path` is what the proxy takes away."""

    running: RunningGateway
    port: int
    path: str

    async def client(self) -> Wire:
        """A client's connection to the proxy."""
        trusted = optionsForClientTLS(HOST, Certificate.loadPEM(AUTHORITY.pem))
        endpoint = SSL4ClientEndpoint(reactor, "127.0.0.1", self.port, trusted)
        for _ in range(500):
            try:
                wire: Wire = await connectProtocol(endpoint, Wire())
                return wire
            except ConnectError:  # it has only begun to listen
                await deferLater(reactor, 0.02)
        raise AssertionError("the proxy does not listen")

    def said(self, request: bytes) -> bytes:
        """A request as the client sends it, by the public name and below the public path."""
        line, _, rest = request.partition(b"\r\n")
        method, target, version = line.split(b" ")
        return (
            b" ".join((method, self.path.encode() + target, version))
            + b"\r\n"
            + rest.replace(b"Host: 127.0.0.1", f"Host: {HOST}:{self.port}".encode(), 1)
        )

    async def status(self, *headers: str, path: str = "/v1beta/models") -> int:
        """The status of an answer."""
        client = await self.client()
        client.send(self.said(get(path, *headers)))
        head = await client.until(b"\r\n\r\n")
        client.transport.abortConnection()
        return int(head.split(b" ")[1])


def nginx(folder: Path, port: int, gateway: int, path: str) -> tuple[list[str], dict[str, str]]:
    """A command that runs nginx with the file of ``deploy/proxy``, and its environment."""
    text = (DEPLOY / "proxy" / "nginx.conf").read_text("utf-8")
    text = text.replace("127.0.0.1:8045", f"127.0.0.1:{gateway}").replace("listen 443", f"listen 127.0.0.1:{port}")
    text = text.replace("/etc/ssl/ai.example.net/", f"{folder}/")
    if path:
        text = text.replace("location / {", f"location {path}/ {{").replace("http://agm;", "http://agm/;")
    (folder / "agm.conf").write_text(text)
    temporary = "".join(f"{n}_temp_path {folder}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} pid {folder}/pid; error_log stderr; daemon off; worker_processes 1;"
        f"events {{}} http {{ access_log off; {temporary} include {folder}/agm.conf; }}"
    )
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")], {}


def caddy(folder: Path, port: int, gateway: int, path: str) -> tuple[list[str], dict[str, str]]:
    """The same for Caddy."""
    text = (DEPLOY / "proxy" / "Caddyfile").read_text("utf-8")
    text = text.replace("127.0.0.1:8045", f"127.0.0.1:{gateway}")
    text = text.replace(
        "ai.example.net {",
        f"https://{HOST}:{port} {{\n\tbind 127.0.0.1\n\ttls {folder}/fullchain.pem {folder}/key.pem",
    )
    if path:
        text = text.replace("\treverse_proxy", f"\thandle_path {path}/* {{\n\treverse_proxy") + "}\n"
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{text}")
    home = {name: str(folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")], home


def haproxy(folder: Path, port: int, gateway: int, path: str) -> tuple[list[str], dict[str, str]]:
    """The same for HAProxy."""
    text = (DEPLOY / "proxy" / "haproxy.cfg").read_text("utf-8")
    text = text.replace("127.0.0.1:8045", f"127.0.0.1:{gateway}").replace("bind :443", f"bind 127.0.0.1:{port}")
    text = text.replace("/etc/haproxy/ai.example.net.pem", f"{folder}/both.pem")
    if path:
        text = text.replace(
            "    default_backend", f"    http-request replace-path ^{path}/?(.*) /\\1\n    default_backend"
        )
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], {}


#: Debian has daemons where not everybody looks.
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def started(folder: Path, command: list[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
    """A proxy that begins to run; what it says is in the folder."""
    with (folder / "out").open("wb") as out:
        return subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env={**os.environ, "PATH": SBIN, **more})


PROXIES = {"nginx": nginx, "caddy": caddy, "haproxy": haproxy}
Behind = Callable[..., Awaitable[Proxied]]


@pytest_twisted.async_yield_fixture(params=PROXIES)
async def behind(
    request: pytest.FixtureRequest, gateway: GatewayFactory, tmp_path: Path, unused_port: Callable[[], int]
) -> AsyncIterator[Behind]:
    """A function that starts a gateway and a proxy before it."""
    if shutil.which(request.param, path=SBIN) is None:
        pytest.skip(f"{request.param} is not installed")
    processes: list[subprocess.Popen[bytes]] = []

    async def start(config: str, path: str = "") -> Proxied:
        port = unused_port()
        public = f'[gateway]\npublic_url = "https://{HOST}:{port}{path}"\n'
        running = await gateway(config.replace("[gateway]\n", public) if "[gateway]" in config else public + config)
        folder = tmp_path / f"proxy-{port}"
        folder.mkdir()
        certificate, key = AUTHORITY.server_pem(HOST)
        (folder / "fullchain.pem").write_bytes(certificate)
        (folder / "key.pem").write_bytes(key)
        (folder / "both.pem").write_bytes(certificate + key)
        processes.append(started(folder, *PROXIES[request.param](folder, port, running.port, path)))
        return Proxied(running, port, path)

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        await deferToThread(process.wait, 30)


@pytest.fixture
def unused_port() -> Callable[[], int]:
    """A function that gives a port on which nobody listens."""

    def find() -> int:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return int(s.getsockname()[1])

    return find


@pytest.mark.parametrize("path", ["", "/gemini"])
@pytest.mark.parametrize("alt", ["sse", "json"])
@pytest_twisted.ensureDeferred
async def test_an_event_goes_out_before_the_next_one_comes_in(
    behind: Behind, upstream: ScriptedUpstream, alt: str, path: str
) -> None:
    proxied = await behind(account(upstream), path)
    client = await proxied.client()
    client.send(proxied.said(post(f"{STREAM}?alt={alt}")))
    up = await upstream.connection()
    up.send(SSE_HEAD if alt == "sse" else JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    pieces = (
        [b'data: {"n":%d}\r\n\r\n' % n for n in range(3)] if alt == "sse" else [b'[{"n":0}', b',{"n":1}', b',{"n":2}]']
    )
    for number, piece in enumerate(pieces):
        up.send(chunk(piece))
        await client.until(b'{"n":%d}' % number)
    up.send(b"0\r\n\r\n")
    await client.until(b"\r\n0\r\n\r\n")
    client.transport.abortConnection()


@pytest.mark.parametrize("begun", [True, False], ids=["in the middle", "before the first byte"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_upstream_request(
    behind: Behind, upstream: ScriptedUpstream, begun: bool
) -> None:
    proxied = await behind(account(upstream))
    client = await proxied.client()
    client.send(proxied.said(post(f"{STREAM}?alt=sse")))
    up = await upstream.connection()
    if begun:
        up.send(SSE_HEAD + chunk(b'data: {"n":0}\r\n\r\n'))
        await client.until(b'{"n":0}')
    client.transport.abortConnection()
    await eventually(lambda: up.lost, "the end of the upstream's request")


@pytest.mark.parametrize("path", ["", "/gemini"])
@pytest_twisted.ensureDeferred
async def test_an_upload_goes_on_at_the_public_address_and_is_not_held(
    behind: Behind, upstream: ScriptedUpstream, path: str
) -> None:
    proxied = await behind(account(upstream), path)
    client = await proxied.client()
    start = ("X-Goog-Upload-Protocol: resumable", "X-Goog-Upload-Command: start")
    client.send(proxied.said(post("/upload/v1beta/files", b"{}", *start)))
    up = await upstream.connection()
    up.send(f"HTTP/1.1 200 OK\r\nX-Goog-Upload-URL: {upstream.url}/up?x=y\r\nContent-Length: 0\r\n\r\n".encode())
    head = await client.until(b"\r\n\r\n")
    (line,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-goog-upload-url: ")]
    url = line.partition(b": ")[2].decode()
    public = f"https://{HOST}:{proxied.port}{path}"
    assert url.startswith(f"{public}/upload/v1beta/files?upload_id=")
    client.received, size = b"", 8 * MIB
    target = url.removeprefix(public)
    client.send(
        proxied.said(
            get(target, "X-Goog-Upload-Command: upload, finalize", "X-Goog-Upload-Offset: 0", f"Content-Length: {size}",
                method="POST")
        )
    )  # fmt: skip
    client.send(b"x" * (size // 2))
    await eventually(lambda: sum(len(w.received) for w in upstream.connections) > size // 4, "the first half")
    client.send(b"x" * (size // 2))
    wire = next(w for w in upstream.connections if b"/up?x=y" in w.received)
    await eventually(lambda: wire.received.count(b"x" * 1024) >= size // 1024, "all of it")
    wire.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
    await client.until(b"\r\n\r\n{}")
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_who_comes_through_is_asked_for_a_key_and_the_persons_own_stays_closed(behind: Behind) -> None:
    proxied = await behind(KEYS)
    assert await proxied.status() == 401
    assert await proxied.status(KEY) == 200
    assert await proxied.status(path="/healthz") == 200
    assert await proxied.status(path="/_agm/status") == 401
    assert await proxied.status(KEY, path="/_agm/status") == 403
    assert await proxied.status("X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1") == 401


@pytest.mark.parametrize(
    "header", ["A: b", "X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9", "X-Real-IP: 203.0.113.9"]
)
@pytest_twisted.ensureDeferred
async def test_a_proxy_that_is_believed_says_what_it_has_seen_and_not_what_it_was_told(
    behind: Behind, header: str
) -> None:
    """Here it has seen this machine, whatever the client says of itself."""
    proxied = await behind(KEYS + '[gateway]\ntrusted_proxies = ["loopback"]\n')
    assert await proxied.status(header, path="/_agm/status") == 200


@pytest_twisted.ensureDeferred
async def test_connections_to_the_gateway_are_kept(behind: Behind) -> None:
    proxied = await behind(KEYS)
    for _ in range(8):
        assert await proxied.status(KEY) == 200
    assert len(proxied.running.site.channels) < 5  # a thread of the proxy's may have one of its own


@pytest_twisted.ensureDeferred
async def test_pages_of_the_public_address_are_the_gateways_own(behind: Behind) -> None:
    proxied = await behind(KEYS)
    own: Any = f"Origin: https://{HOST}:{proxied.port}"
    assert await proxied.status(KEY, own) == 200
    assert await proxied.status(KEY, "Origin: https://evil.example") == 403
