"""
Secrets stay in: a gateway whose every secret is a canary, and an upstream that repeats whatever it is shown.

What is searched is all that comes out of the process: its log in both forms, every answer, and what it tells an admin.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest

from agm.core.redact import MARK
from testbed.processes import PATIENCE, Twistd, running

CLIENT_KEY = "canary-client-key-1"
STRANGER = "AIzaSyCanary-of-a-stranger-0123456789abc"
API_KEY = "AIzaSyCanary-of-an-account-0123456789ab"
TOKEN = "canary-access-token-2"
REFRESH_TOKEN = "canary/refresh=token-3"
CLIENT_SECRET = "canary-client-secret-4"
GIVEN_TOKEN = "canary-given-token-5"
PLUGIN_SECRET = "canary-plugin-secret-6"
#: What a person says is in no log either.
SAID = "canary-conversation-7"
CANARIES = ("canary", "Canary", "pass-word-8")
MODELS = ("echo-400", "echo-html", "echo-sse", "echo-array", "echo-late")

PLUGIN = """
from agm import hookimpl
from twisted.logger import Logger
from twisted.web.resource import Resource

log = Logger()


class Page(Resource):
    isLeaf = True

    def render(self, request):
        raise RuntimeError(f"{request.uri} {request.requestHeaders!r}")


@hookimpl
def agm_configure(config):
    global secret
    secret = config.plugins.tables["leaky"]["token"]


@hookimpl
def agm_map_model(model, request):
    print("a plugin prints", secret)
    log.info("{request_id}: {secret} maps {model}", request_id=request.id, secret=secret, model=model)
    if model == "boom":
        raise RuntimeError(f"with {secret}, {request.query} and {request.headers}")


@hookimpl
def agm_filter_accounts(accounts, request):
    return {a.name: f"refused with {secret}" for a in accounts if request.asked_model == "refused"}


@hookimpl
def agm_resources(site):
    return {"page": Page()}
"""


class Echo(BaseHTTPRequestHandler):
    """An upstream that repeats credentials, in whatever form the model's name asks for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.path == "/token":
            if b"canary%2Frefresh" not in body:
                return self._send(400, json.dumps({"error": "invalid_grant"}))
            return self._send(
                200, json.dumps({"access_token": GIVEN_TOKEN, "expires_in": 3600, "token_type": "Bearer"})
            )
        asked = self.path + body.decode("utf-8", "replace")  # code-assist has the model in its body
        shown = self.headers.get("x-goog-api-key") or self.headers.get("authorization", "")
        error = {"error": {"code": 400, "message": f"it was {shown}", "status": "INVALID_ARGUMENT", "details": [shown]}}
        good = {"candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}}]}
        if "echo-html" in asked:
            return self._send(500, f"<html>{shown} at {self.path}</html>", "text/html")
        if "echo-sse" in asked:
            events = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in (good, error))
            return self._send(200, events, "text/event-stream")
        if "echo-array" in asked:
            return self._send(200, f"[{json.dumps(good)}\n,\r\n{json.dumps(error)}]")
        if "echo-late" in asked:  # escapes hide nothing
            return self._send(400, json.dumps(error).replace("canary", "c\\u0061nary").replace("AIza", "\\u0041Iza"))
        return self._send(400 if "echo-400" in asked else 403, json.dumps(error, indent=2))

    do_GET = do_POST

    def _send(self, status: int, body: str, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        """Nothing."""


class EchoServer(ThreadingHTTPServer):
    """Its socket."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A gateway that cuts a connection is no error."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """The address of one."""
    server = EchoServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@attrs.frozen(eq=False)
class Talkative:
    """A running gateway; `heard` is everything that it has answered."""

    twistd: Twistd
    port: int
    heard: list[bytes] = attrs.Factory(list)

    def send(self, data: bytes) -> bytes:
        """Send bytes and read until the gateway closes."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as client:
            client.sendall(data)
            answer = b""
            try:
                while piece := client.recv(65536):
                    answer += piece
            except ConnectionResetError:  # an answer that was cut
                pass
        self.heard.append(answer)
        return answer

    def ask(self, target: str, *headers: str, body: Any = None, method: str = "POST") -> bytes:
        """Send a request on a connection of its own."""
        text = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
        lines += ["Content-Type: application/json", f"Content-Length: {len(text)}"]
        return self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + text)


CONFIG = f"""
[gateway]
listen = ["tcp:0:interface=127.0.0.1"]
[auth]
mode = "strict"
[[auth.keys]]
name = "tests"
key = "{CLIENT_KEY}"
admin = true
[pool]
state = "none"
max_wait = 0
[plugins]
load = ["leaky"]
[plugins.leaky]
token = "{PLUGIN_SECRET}"
[[accounts]]
name = "with-key"
kind = "api-key"
api_key = "{API_KEY}"
endpoints = ["URL"]
models = ["key-*"]
[[accounts]]
name = "with-token"
kind = "vertex"
access_token = "{TOKEN}"
project = "p"
endpoints = ["URL"]
models = ["token-*"]
[[accounts]]
name = "with-file"
kind = "code-assist"
credentials = "file.json"
project = "p"
endpoints = ["URL"]
models = ["file-*"]
"""


def start(folder: Path, upstream: str, form: str) -> Twistd:
    login = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": CLIENT_SECRET,
        "refresh_token": REFRESH_TOKEN,
        "token_uri": f"{upstream}/token",
    }
    for name, text in {
        "agm.toml": CONFIG.replace("URL", upstream),
        "file.json": json.dumps(login),
        "leaky.py": PLUGIN,
    }.items():
        (folder / name).touch(0o600)
        (folder / name).write_text(text)
    # the plugin is found because it lies in the folder that twistd is started in
    return Twistd.start(folder, "agm", "--config", "agm.toml", "--plugin", "leaky", "--log-format", form)


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.process
def test_no_secret_comes_out_of_a_gateway(tmp_path: Path, upstream: str, form: str) -> None:
    twistd = start(tmp_path, upstream, form)
    try:
        gateway = Talkative(twistd, int(twistd.url().rpartition(":")[2]))
        talk(gateway)
        assert twistd.stop() == 0
    finally:
        twistd.kill()
    heard = [answer.decode("latin-1") for answer in gateway.heard]
    for what in (*heard, twistd.log, *twistd.errors):
        for canary in CANARIES:
            assert canary not in what, what[max(what.find(canary) - 1500, 0) :][:3000]
    assert twistd.log.count(MARK) > 5
    assert "Traceback" in twistd.log
    if form == "json":
        documents = [json.loads(line) for line in twistd.log.splitlines()]
        failed = [document for document in documents if "traceback" in document]
        assert {MARK in document["traceback"] for document in failed} == {True}
        assert all(document.get("request_id") for document in failed)


def talk(gateway: Talkative) -> None:
    """Everything that could bring a secret out."""
    bearer, body = f"Authorization: Bearer {CLIENT_KEY}", {"contents": [{"role": "user", "parts": [{"text": SAID}]}]}
    # what the upstream repeats of each kind of credential
    for kind in ("key", "token", "file"):
        for model in MODELS:
            method, alt = ("streamGenerateContent", "?alt=sse") if model == "echo-sse" else ("generateContent", "")
            if model == "echo-array":
                method, alt = "streamGenerateContent", "?alt=json"
            answer = gateway.ask(f"/v1beta/models/{kind}-{model}:{method}{alt}", bearer, body=body)
            if model in ("echo-400", "echo-late"):
                assert answer.startswith(b"HTTP/1.1 400 "), answer
                assert answer.count(MARK.encode()) == 2, answer
            if model == "echo-sse" and kind != "file":
                assert b"hello" in answer
                assert answer.count(MARK.encode()) == 2, answer
    answer = gateway.ask("/upload/v1beta/files?uploadType=media", bearer, body={"file": {}})
    assert answer.startswith(b"HTTP/1.1 403 "), answer
    assert MARK.encode() in answer
    # where clients put keys, their own and strangers'
    for key in (CLIENT_KEY, STRANGER):
        for model in ("boom", "refused", "key-echo-400"):
            path = f"/v1beta/models/{model}:generateContent"
            gateway.ask(f"{path}?key={key}", body=body)
            gateway.ask(f"http://127.0.0.1{path}?key={key}&alt=json", body=body)
            gateway.ask(path, f"x-goog-api-key: {key}", body={**body, "key": key})
            gateway.ask(f"{path}?key={key}&alt={key}", bearer, body=body)
            gateway.ask(f"/v1beta/models/{key}:generateContent", bearer, body=body)
            gateway.ask(f"/v1beta/models/m:{key}", bearer, body=body)
        gateway.ask(f"/page?key={key}", bearer, f"x-api-key: {key}", f"Cookie: sid={key}", method="GET")
        gateway.ask(f"/{key}?key={key}", bearer, method="GET")
        gateway.ask(f"/v1beta/models?pageToken={key}&key={key}", method="GET")
        gateway.ask("/v1beta/models", f"Host: {key}", bearer, method="GET")
        gateway.ask("/v1beta/models", f"Origin: http://{key}", bearer, method="GET")
        gateway.ask(f"/v1beta/models?key={key}", method=f"{key}")
    # what is not HTTP
    for line in (
        f"GET /v1beta/models?key={CLIENT_KEY}",
        f"GET /v1beta/models?key={CLIENT_KEY} HTTP/1.1 x",
        f"GET  /v1beta/models?key={CLIENT_KEY} HTTP/1.1",
        f"GET /v1beta/models?key={CLIENT_KEY}\x00 HTTP/1.1",
        f"GET /%zz?key={CLIENT_KEY} HTTP/1.1",
        f"GET http://me:pass-word-8@127.0.0.1/v1beta/models?key={CLIENT_KEY} HTTP/1.1",
        f"GET ftp://{CLIENT_KEY}/ HTTP/1.1",
        f"POST /v1beta/models/m:generateContent?key={CLIENT_KEY} HTTP/1.1\r\nContent-Length: {CLIENT_KEY}",
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization Bearer {CLIENT_KEY}",
        f"GET /v1beta/models?key={CLIENT_KEY * 4000} HTTP/1.1",
    ):
        gateway.send(f"{line}\r\nConnection: close\r\n\r\n".encode("latin-1"))
    # what an admin is told
    for model in ("boom", "refused", "key-echo-400", "token-x"):
        question = {
            "model": model,
            "body": {"contents": [], "k": CLIENT_KEY, "a": API_KEY},
            "query": {"key": CLIENT_KEY, "$fields": TOKEN},
            "headers": {"Authorization": CLIENT_KEY, "X-Other": PLUGIN_SECRET},
        }
        answer = gateway.ask("/_agm/explain", bearer, body=question)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
    gateway.ask("/_agm/explain", bearer, body={"model": "m", "key": CLIENT_KEY, "method": STRANGER})
    for page in ("accounts", "plugins", "status", CLIENT_KEY):
        gateway.ask(f"/_agm/{page}?key={CLIENT_KEY}", bearer, method="GET")


@pytest.mark.process
def test_a_start_that_fails_tells_no_secret(tmp_path: Path) -> None:
    (tmp_path / "agm.toml").touch(0o600)
    (tmp_path / "agm.toml").write_text(
        f'[gateway]\nlisten = ["tcp:1:interface={STRANGER}"]\n'
        f'[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = ["{STRANGER}"]\napi_key_env = "{STRANGER}"\n'
        f'[[auth.keys]]\nname = "b"\nkey = "{CLIENT_KEY} "\nkey_sha256 = "{CLIENT_KEY}"\n'
    )
    with running(tmp_path, "agm", "--config", "agm.toml") as twistd:
        assert twistd.wait() == 1
    assert len(twistd.errors) >= 3
    for canary in (CLIENT_KEY, "canary-of-an"):
        assert canary not in "\n".join([twistd.log, *twistd.errors])
