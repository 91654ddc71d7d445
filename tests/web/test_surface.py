"""The HTTP surface: what each path, method and key answers, in Google's form."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import pytest_twisted

from agm.core.client_keys import digest
from agm.testing import GatewayFactory, RunningGateway
from tests.helpers.support import JSON_HEAD, ScriptedUpstream, Wire, account, connect, eventually, get, post, settle

UNARY = "/v1beta/models/m:generateContent"


class Answer:
    """A parsed answer."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The google.rpc.Status of an error, checked for its form."""
        error = self.json["error"]
        assert error["code"] == self.status
        assert isinstance(error["message"], str)
        assert error["status"].isupper()
        assert self.headers["content-type"].startswith("application/json")
        return error

    @property
    def reason(self) -> str:
        return next(d["reason"] for d in self.error["details"] if d["@type"].endswith("ErrorInfo"))


async def say(running: RunningGateway, data: bytes) -> Answer:
    """Send the bytes of one request and read the whole answer."""
    client = await connect(running.port)
    client.send(data)
    answer = await read(client)
    client.transport.abortConnection()
    return answer


async def read(client: Wire) -> Answer:
    def whole() -> bool:
        head, found, body = client.received.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return bool(found) and (client.lost is not None or len(body) >= (int(lengths[0][15:]) if lengths else 0))

    await eventually(whole, "a whole answer")
    return Answer(client.received)


@pytest_twisted.ensureDeferred
async def test_health_answers_ok_and_says_which_request_it_was(gateway: GatewayFactory) -> None:
    answer = await say(await gateway(""), get("/healthz"))
    assert answer.status == 200
    assert answer.json["status"] == "ok"
    assert len(answer.headers["x-agm-request-id"]) == 24


@pytest_twisted.ensureDeferred
async def test_without_accounts_models_are_listed_and_generation_says_how_to_add_one(gateway: GatewayFactory) -> None:
    running = await gateway("")
    assert "models/gemini-2.5-flash" in [m["name"] for m in (await say(running, get("/v1beta/models"))).json["models"]]
    answer = await say(running, post("/v1beta/models/gemini-2.5-flash:generateContent"))
    assert answer.status == 503
    assert "agm account add" in answer.error["message"]


@pytest_twisted.ensureDeferred
async def test_the_list_is_paged_and_every_version_has_it(gateway: GatewayFactory) -> None:
    running = await gateway('[models]\nlist = ["a", "b", "c"]\n[models.aliases]\n"d" = "a"\n"w*" = "b"\n')
    names: list[str] = []
    token = ""
    pages = 0
    while True:
        page = (await say(running, get(f"/v1/models?pageSize=3&pageToken={token}"))).json
        names += [model["name"] for model in page["models"]]
        token = page.get("nextPageToken", "")
        pages += 1
        if not token:
            break
    assert names == ["models/a", "models/b", "models/c", "models/d"]
    assert pages == 2
    assert (await say(running, get("/v1alpha/models/a"))).json["name"] == "models/a"
    assert (await say(running, get("/v1beta/models/models/a"))).json["name"] == "models/a"
    assert (await say(running, get("//models?pageSize=1"))).json["models"][0]["name"] == "models/a"
    assert (await say(running, get("/v1beta/models/zzz"))).error["status"] == "NOT_FOUND"
    assert (await say(running, get("/v1beta/models?pageSize=x"))).error["status"] == "INVALID_ARGUMENT"
    assert (await say(running, get("/v1beta/models?pageToken=x"))).error["status"] == "INVALID_ARGUMENT"


@pytest_twisted.ensureDeferred
async def test_what_accounts_report_is_listed_and_can_be_called_by_its_display_name(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway('[models]\nlist = ["a"]\n' + account(upstream))
    client = await connect(running.port)
    client.send(get("/v1beta/models"))
    up = await upstream.connection()
    assert up.received.startswith(b"GET /v1beta/models?pageSize=1000 ")
    body = b'{"models": [{"name": "models/reported", "displayName": "Reported One", "inputTokenLimit": 7}]}'
    up.send(JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    models = (await read(client)).json["models"]
    assert [m["name"] for m in models] == ["models/a", "models/reported"]
    for name in ("Reported%20One", "reported", "models/reported"):
        up.received = b""
        asking = await connect(running.port)
        asking.send(post(f"/v1beta/models/{name}:generateContent"))
        await eventually(lambda: b"POST" in up.received)
        assert up.received.startswith(b"POST /v1beta/models/reported:generateContent ")
        up.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
        await asking.until(b"{}")


@pytest.mark.parametrize(
    ("target", "served"),
    [
        ("/v1beta/models/m:generateContent", "/v1beta/models/m:generateContent"),
        ("/v1/models/m:generateContent", "/v1/models/m:generateContent"),
        ("/v1alpha/models/m:generateContent", "/v1alpha/models/m:generateContent"),
        ("/v1beta/models/m%3AgenerateContent", "/v1beta/models/m:generateContent"),
        ("/v1beta/models/models/m:generateContent", "/v1beta/models/m:generateContent"),
        ("//v1beta/models/m:countTokens", "/v1beta/models/m:countTokens"),
        ("///v1beta/models/m:countTokens", "/v1beta/models/m:countTokens"),
        ("/v1beta/models/m/countTokens", "/v1beta/models/m:countTokens"),
        ("//models/m:generateContent", "/v1beta/models/m:generateContent"),
        ("/models/my/model:free:generateContent", "/v1beta/models/my/model:free:generateContent"),
        ("/v1beta/models/my/model:free:generateContent", "/v1beta/models/my/model:free:generateContent"),
        ("/v1beta/models/a%20b:generateContent", "/v1beta/models/a%20b:generateContent"),
        (
            "/v1beta/models/publishers/google/models/X:generateContent",
            "/v1beta/models/publishers/google/models/X:generateContent",
        ),
        ("/v1beta/tunedModels/abc:generateContent", "/v1beta/tunedModels/abc:generateContent"),
        ("/v1beta/models/m:embedContent", "/v1beta/models/m:embedContent"),
        ("/v1beta/models/m:batchEmbedContents", "/v1beta/models/m:batchEmbedContents"),
        ("/v1beta/models/m:predict", "/v1beta/models/m:predict"),
        ("/v1beta/models/m:streamGenerateContent", "/v1beta/models/m:streamGenerateContent?alt=sse"),
        ("/v1beta/models/m:streamGenerateContent?alt=sse", "/v1beta/models/m:streamGenerateContent?alt=sse"),
        ("/v1beta/models/m:streamGenerateContent?alt=json", "/v1beta/models/m:streamGenerateContent?alt=json"),
        (
            "/v1beta/models/m:streamGenerateContent?%24alt=json%3Benum-encoding%3Dint",
            "/v1beta/models/m:streamGenerateContent?%24alt=json%3Benum-encoding%3Dint",
        ),
        ("/v1beta/models/m:generateContent?key=x&fields=a%26b&evil=1", "/v1beta/models/m:generateContent?fields=a%26b"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_call_reaches_the_upstream_at_the_path_that_it_means(
    gateway: GatewayFactory, upstream: ScriptedUpstream, target: str, served: str
) -> None:
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post(target))
    up = await upstream.connection()
    assert up.received.split(b" ")[1].decode() == served
    answer = b"{}"
    if "stream" in served:
        answer = b"data: {}\r\n\r\n" if served.endswith("sse") else b"[{}]"
    up.send(JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(answer) + answer)
    await client.until(answer)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (get("/"), 404, "NOT_FOUND"),
        (get("/favicon.ico"), 404, "NOT_FOUND"),
        (get("/v1beta"), 404, "NOT_FOUND"),
        (get("/v1beta/"), 404, "NOT_FOUND"),
        (get("/v2/models"), 404, "NOT_FOUND"),
        (post("/v1beta/models/m:inventContent"), 404, "NOT_FOUND"),
        (post("/v1beta/files/x:generateContent"), 404, "NOT_FOUND"),
        (get(UNARY), 405, "INVALID_ARGUMENT"),
        (post("/v1beta/models"), 405, "INVALID_ARGUMENT"),
        (post("/healthz"), 405, "INVALID_ARGUMENT"),
        (get(UNARY, method="DELETE"), 405, "INVALID_ARGUMENT"),
        (get("/healthz", method="BREW"), 405, "INVALID_ARGUMENT"),
        (post("/v1beta/models/../secrets:generateContent"), 400, "INVALID_ARGUMENT"),
        (post("/v1beta/models/a%00b:generateContent"), 400, "INVALID_ARGUMENT"),
        (post("/v1beta/models/a%0d%0ab:generateContent"), 400, "INVALID_ARGUMENT"),
        (post("/v1beta/models/%ff:generateContent"), 400, "INVALID_ARGUMENT"),
        (post("/v1beta/models/m:streamGenerateContent?alt=proto"), 400, "INVALID_ARGUMENT"),
        (post(UNARY, b"x", "Content-Encoding: br"), 415, "INVALID_ARGUMENT"),
        (post(UNARY, b"x", "Content-Encoding: gzip"), 400, "INVALID_ARGUMENT"),
        (post(UNARY, gzip.compress(b"{}")[:-4], "Content-Encoding: gzip"), 400, "INVALID_ARGUMENT"),
        (post(UNARY, gzip.compress(b"{}") + b"junk", "Content-Encoding: gzip"), 400, "INVALID_ARGUMENT"),
        (b"POST * HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", 405, "INVALID_ARGUMENT"),
        (get("http://evil.example/healthz"), 421, "PERMISSION_DENIED"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400, "INVALID_ARGUMENT"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "INVALID_ARGUMENT"),
        (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, "PERMISSION_DENIED"),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1.evil.example:8045\r\n\r\n", 421, "PERMISSION_DENIED"),
        (b"GET /healthz HTTP/1.1\r\nHost: x@127.0.0.1\r\n\r\n", 400, "INVALID_ARGUMENT"),
        (get("/healthz", "Origin: https://evil.example"), 403, "PERMISSION_DENIED"),
        (get("/healthz", "Origin: null"), 403, "PERMISSION_DENIED"),
        (b"GET /healthz HTTP/1.1\r\nHost: \xff\r\n\r\n", 400, "INVALID_ARGUMENT"),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: \xff\r\n\r\n", 403, "PERMISSION_DENIED"),
        (b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: \xff\r\n\r\n", 404, "NOT_FOUND"),
        (b"NOT HTTP\r\n\r\n", 400, "INVALID_ARGUMENT"),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400, "INVALID_ARGUMENT"),
        (b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1x\r\n\r\n", 400, "INVALID_ARGUMENT"),
        (
            b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "INVALID_ARGUMENT",
        ),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nA: " + b"x" * 40_000 + b"\r\n\r\n", 431, "INVALID_ARGUMENT"),
        (b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431, "INVALID_ARGUMENT"),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n", 431, "INVALID_ARGUMENT"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_served_is_refused_in_googles_form(
    gateway: GatewayFactory, data: bytes, status: int, code: str
) -> None:
    answer = await say(await gateway(""), data)
    assert (answer.status, answer.error["status"]) == (status, code)
    assert "x-agm-request-id" in answer.headers
    if status == 405:
        assert "OPTIONS" in answer.headers["allow"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
@pytest_twisted.ensureDeferred
async def test_an_unknown_path_is_404_whatever_the_method(gateway: GatewayFactory, method: str) -> None:
    running = await gateway("")
    for path in (
        "/",
        "/nowhere",
        "/v1beta",
        "/v1beta/",
        "/v1beta/secrets",
        "/v1beta/secrets/m:generateContent",
        "/v1beta/models/m:generateContents",
        "/v1beta/v1beta/models",
        "/v1beta/v1beta/models/m:generateContent",
        "/v1/v1beta/models/m",
        "/v1beta/v1/files/a",
        "/v1beta/upload/v1beta/files",
        "/v1beta/files/a:no-method",
        "/v1/completions",
        "/chat/completions",
        "/openai/v1/nowhere",
        "/v1beta/%ff",
        "/upload/v1beta/secrets",
        "/healthz/x",
        "/readyz/x",
        "/metrics/x",
        "/ui/nowhere",
        "/ui/app.js/x",
        "/_agm",
        "/_agm/",
        "/_agm/nowhere",
        "/_agm/status/x",
        "/_agm/explain/x",
        "/_agm/log/x",
        "/_agm/log/bodies/x",
    ):
        client = await connect(running.port)
        client.send(get(path, "Connection: close", method=method))
        received = await client.closed()
        assert received.startswith(b"HTTP/1.1 404 "), (path, received[:200])
        assert b"\r\nAllow:" not in received, path


@pytest_twisted.ensureDeferred
async def test_a_page_that_may_ask_gets_to_see_that_a_path_is_not_known(gateway: GatewayFactory) -> None:
    """Its browser asks first, and would show nothing but that it may not."""
    running = await gateway('[gateway]\ncors_origins = ["https://app.example"]\n')
    page = "Origin: https://app.example"
    asked = await say(running, get("/nowhere", page, "Access-Control-Request-Method: PUT", method="OPTIONS"))
    assert (asked.status, "PUT" in asked.headers["access-control-allow-methods"]) == (204, True)
    answer = await say(running, get("/nowhere", page))
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (404, "https://app.example")


@pytest_twisted.ensureDeferred
async def test_where_a_key_is_asked_for_nobody_else_learns_what_there_is(gateway: GatewayFactory) -> None:
    running = await gateway(KEYS, auth_mode="strict")
    for path in ("/nowhere", "/v1beta/v1beta/models", "/v1beta/files/a:no-method"):
        assert (await say(running, get(path))).status == 401
        assert (await say(running, get(path, "x-api-key: correct-horse"))).status == 404


@pytest_twisted.ensureDeferred
async def test_the_base_url_of_the_cure_is_the_public_one(gateway: GatewayFactory) -> None:
    running = await gateway('[gateway]\npublic_url = "https://ai.example.net/gemini"\n')
    twice = await say(running, get("/v1beta/v1beta/models"))
    assert twice.error["message"].endswith("Leave it out of the base URL: https://ai.example.net/gemini")
    passed = await say(running, get("/gemini/v1beta/models"))
    assert "strip /gemini" in passed.error["message"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8045", "localhost:1", "[::1]:8045", "mine.example", "a.localhost"]
)
@pytest_twisted.ensureDeferred
async def test_the_names_of_this_machine_and_the_configured_ones_are_let_in(gateway: GatewayFactory, host: str) -> None:
    running = await gateway('[gateway]\nallowed_hosts = ["mine.example"]\n')
    answer = await say(running, f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.status == 200


@pytest_twisted.ensureDeferred
async def test_a_configured_origin_gets_its_cors_headers_and_preflight(gateway: GatewayFactory) -> None:
    running = await gateway(
        '[gateway]\ncors_origins = ["https://app.example"]\n[auth]\nmode = "strict"\n', auth_mode="strict"
    )
    answer = await say(
        running,
        get(
            UNARY,
            "Origin: https://app.example",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: x-goog-api-key, content-type",
            method="OPTIONS",
        ),
    )
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-allow-headers"] == "x-goog-api-key, content-type"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert (await say(running, get("/healthz", "Origin: https://app.example"))).headers["vary"] == "Origin"


@pytest_twisted.ensureDeferred
async def test_head_is_get_without_a_body_and_options_names_the_methods(gateway: GatewayFactory) -> None:
    running = await gateway("")
    client = await connect(running.port)
    client.send(get("/healthz", method="HEAD"))
    await client.until(b"\r\n\r\n")
    await settle()
    assert client.received.endswith(b"\r\n\r\n")
    assert b"Content-Length: 15" in client.received
    assert (await say(running, get("/v1beta/models", method="OPTIONS"))).headers["allow"] == "GET, HEAD, OPTIONS"
    assert (await say(running, get(UNARY, method="OPTIONS"))).headers["allow"] == "POST, OPTIONS"


KEYS = f"""
[[auth.keys]]
name = "laptop"
key = "correct-horse"
[[auth.keys]]
name = "ci"
key_sha256 = "{digest("battery-staple")}"
models = ["gemini-2.5-*"]
requests_per_minute = 2
"""


@pytest.mark.parametrize(
    "sent",
    [
        ("/healthz", "Authorization: Bearer correct-horse"),
        ("/healthz", "authorization: bearer  correct-horse"),
        ("/healthz", "x-api-key: correct-horse"),
        ("/healthz", "x-goog-api-key: correct-horse"),
        ("/healthz?key=correct-horse",),
        ("/healthz?key=correct%2Dhorse",),
        ("/healthz", "x-goog-api-key: battery-staple"),
        ("/healthz", "Authorization: Bearer wrong", "x-goog-api-key: correct-horse"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_key_is_taken_from_each_of_its_four_places(gateway: GatewayFactory, sent: tuple[str, ...]) -> None:
    running = await gateway(KEYS, auth_mode="strict")
    assert (await say(running, get(*sent))).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        ("/healthz",),
        ("/healthz", "x-api-key: wrong"),
        ("/healthz", "Authorization: Basic correct-horse"),
        ("/healthz?key=",),
    ],
)
@pytest_twisted.ensureDeferred
async def test_strict_refuses_everything_without_a_known_key(gateway: GatewayFactory, sent: tuple[str, ...]) -> None:
    answer = await say(await gateway(KEYS, auth_mode="strict"), get(*sent))
    assert answer.status == 401
    assert answer.error["status"] == "UNAUTHENTICATED"
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest_twisted.ensureDeferred
async def test_all_except_health_leaves_only_health_open(gateway: GatewayFactory) -> None:
    running = await gateway(KEYS, auth_mode="all_except_health")
    assert (await say(running, get("/healthz"))).status == 200
    assert (await say(running, get("/v1beta/models"))).status == 401
    assert (await say(running, get("/nowhere"))).status == 401
    assert (await say(running, get("/v1beta/models?key=correct-horse"))).status == 200


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_mode_that_asks_for_a_key_with_none_configured_refuses_all_and_says_why(
    gateway: GatewayFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    from twisted.logger import globalLogPublisher

    seen: list[str] = []

    def watch(event: Any) -> None:
        seen.append(str(event.get("log_format")))

    globalLogPublisher.addObserver(watch)
    running = await gateway("", auth_mode="strict")
    globalLogPublisher.removeObserver(watch)
    assert (await say(running, get("/healthz", "x-api-key: anything"))).status == 401
    assert any("no client key is configured" in line for line in seen)


@pytest_twisted.ensureDeferred
async def test_a_key_is_held_to_its_models_and_its_requests_per_minute(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(KEYS + account(upstream), auth_mode="strict")
    key = "x-goog-api-key: battery-staple"
    assert (await say(running, post("/v1beta/models/imagen:predict", b"{}", key))).reason == "MODEL_NOT_ALLOWED"
    for number in range(2):
        client = await connect(running.port)
        client.send(post("/v1beta/models/gemini-2.5-pro:generateContent", b"{}", key))
        up = await upstream.connection()
        await up.asked(number + 1)
        assert up.received.count(b"POST") == number + 1
        assert b"battery" not in up.received
        up.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
        await client.until(b"{}")
    answer = await say(running, post("/v1beta/models/gemini-2.5-pro:generateContent", b"{}", key))
    assert answer.status == 429
    assert answer.reason == "CLIENT_KEY_LIMIT"
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert any(d["@type"].endswith("RetryInfo") for d in answer.error["details"])


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:1/healthz", "HTTP://localhost/healthz?x=1", "https://[::1]/healthz"]
)
@pytest_twisted.ensureDeferred
async def test_a_target_in_absolute_form_is_understood(gateway: GatewayFactory, target: str) -> None:
    running = await gateway("")
    assert (await say(running, get(target))).json["status"] == "ok"
    assert (await say(running, get("http://127.0.0.1"))).status == 404
    answer = await say(running, b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert answer.status == 204
    assert "x-agm-request-id" in answer.headers


@pytest.mark.parametrize(
    "begun", [b"POST /v1beta/mod", post(UNARY)[:60], post(UNARY)[:-5]], ids=["line", "headers", "body"]
)
@pytest_twisted.ensureDeferred
async def test_a_request_that_does_not_go_on_is_refused_in_googles_form(gateway: GatewayFactory, begun: bytes) -> None:
    running = await gateway("[timeouts]\nrequest_read = 0.3\n")
    answer = await say(running, begun)
    assert (answer.status, answer.error["status"]) == (408, "DEADLINE_EXCEEDED")
    assert "request_read" in answer.error["message"]
    assert "x-agm-request-id" in answer.headers


@pytest_twisted.ensureDeferred
async def test_an_idle_connection_is_closed_without_a_word(gateway: GatewayFactory) -> None:
    running = await gateway("[timeouts]\nrequest_read = 0.3\n")
    client = await connect(running.port)
    client.send(get("/healthz"))
    received = await client.closed()
    assert received.count(b"HTTP/1.1") == 1


@pytest_twisted.ensureDeferred
async def test_a_gzipped_body_of_several_members_is_read_whole(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(account(upstream))
    client = await connect(running.port)
    client.send(post(UNARY, gzip.compress(b'{"conte') + gzip.compress(b'nts": []}'), "Content-Encoding: gzip"))
    assert (await upstream.connection()).received.endswith(b'{"contents": []}')
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_a_gzipped_body_reaches_the_upstream_inflated(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(account(upstream))
    client = await connect(running.port)
    body = b'{"contents": []}'
    client.send(post(UNARY, gzip.compress(body), "Content-Encoding: gzip"))
    up = await upstream.connection()
    assert up.received.endswith(body)
    assert b"gzip" not in up.received
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_a_body_is_bounded_whether_announced_chunked_or_inflated(gateway: GatewayFactory) -> None:
    running = await gateway('[gateway]\nmax_body = "1KiB"\n')
    announced = await say(running, f"POST {UNARY} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1025\r\n\r\n".encode())
    chunked = await say(
        running,
        f"POST {UNARY} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b"400\r\n"
        + b"x" * 1024
        + b"\r\n1\r\nx\r\n",
    )
    inflated = await say(running, post(UNARY, gzip.compress(b"x" * 1025), "Content-Encoding: gzip"))
    for answer in (announced, chunked, inflated):
        assert answer.status == 413
        assert "max_body" in answer.error["message"]
    assert announced.headers["connection"] == "close"


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_seen_by_a_client_that_goes_on_sending(gateway: GatewayFactory) -> None:
    running = await gateway('[gateway]\nmax_body = "1KiB"\n')
    client = await connect(running.port)
    client.send(f"POST {UNARY} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n\r\n".encode())
    for _ in range(90):
        client.send(b"x" * 100_000)
        await settle(0)
    assert (await read(client)).status == 413


@pytest_twisted.ensureDeferred
async def test_a_client_that_waits_for_100_continue_gets_it_or_the_refusal(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway('[gateway]\nmax_body = "1KiB"\n' + account(upstream))
    head = f"POST {UNARY} HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: "
    client = await connect(running.port)
    client.send(f"{head}2\r\n\r\n".encode())
    await client.until(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"{}")
    up = await upstream.connection()
    assert up.received.endswith(b"{}")
    assert b"Expect" not in up.received
    client.transport.abortConnection()
    refused = await connect(running.port)
    refused.send(f"{head}2000\r\n\r\n".encode())
    answer = await read(refused)
    assert answer.status == 413
    assert b"100 Continue" not in refused.received


@pytest.mark.parametrize("more", ["", "X: y\r\n"], ids=["length last", "length in the middle"])
@pytest_twisted.ensureDeferred
async def test_each_request_of_a_connection_that_waits_for_100_continue_gets_it(
    gateway: GatewayFactory, upstream: ScriptedUpstream, more: str
) -> None:
    """Those that are alike as well as those that differ in their length, and also behind ones that do not wait."""
    running = await gateway(account(upstream))
    client = await connect(running.port)
    longer = b'{"a": 1}'
    asked = [(b"{}", True), (b"{}", True), (longer, True), (b"{}", True), (b"{}", False), (longer, True), (b"{}", True)]
    for number, (body, expects) in enumerate(asked):
        client.received = b""
        expect = "Expect: 100-continue\r\n" if expects else ""
        head = f"POST {UNARY} HTTP/1.1\r\nHost: 127.0.0.1\r\n{expect}Content-Length: {len(body)}\r\n{more}\r\n"
        client.send(head.encode())
        if expects:
            await client.until(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(body)
        await eventually(lambda: upstream.connections, "the upstream's connection")
        wire = upstream.connections[0]
        await wire.until(b"\r\n\r\n" + body)
        wire.received = b""
        wire.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
        await client.until(b"HTTP/1.1 200 OK", b"\r\n\r\n{}")
        assert client.received.count(b"100 Continue") == expects, number
    client.transport.abortConnection()
    await client.closed()


@pytest_twisted.ensureDeferred
async def test_pipelined_and_kept_alive_requests_are_answered_in_order(gateway: GatewayFactory) -> None:
    running = await gateway("")
    client = await connect(running.port)
    client.send(get("/healthz") + get("/nowhere") + get("/healthz", "Connection: close"))
    received = await client.closed()
    assert [int(part.split()[0]) for part in received.split(b"HTTP/1.1 ")[1:]] == [200, 404, 200]


@pytest_twisted.ensureDeferred
async def test_each_request_of_a_connection_is_looked_at_for_itself(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """What is known of the one before holds for one that is the same, and for no other."""
    running = await gateway(
        '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "k"\nkey = "canary-key-1"\n' + account(upstream)
    )
    client = await connect(running.port)
    key = "x-goog-api-key: canary-key-"
    other = UNARY.replace("generateContent", "countTokens")
    asked = [
        (post(UNARY, b"{}", f"{key}1"), 200),
        (post(UNARY, b'{"contents":[]}', f"{key}1"), 200),
        (post(f"{UNARY}?$alt=json", b"{}", f"{key}1"), 200),
        (post(other, b"{}", f"{key}1"), 200),
        (post(UNARY, b"{}", f"{key}2"), 401),
        (post(UNARY, b"{}", f"{key}1", "Origin: https://elsewhere.example"), 403),
        (post(UNARY, b"{}", f"{key}1"), 200),
        (post(UNARY, b"{}", f"{key}1", "Host: elsewhere.example"), 400),
    ]
    up: Wire | None = None
    for number, (request, status) in enumerate(asked):
        client.received = b""
        client.send(request)
        if status == 200:
            up = up or await upstream.connection()
            await up.until(b"\r\n\r\n" + request.partition(b"\r\n\r\n")[2])
            sent, up.received = up.received, b""
            assert sent.split(b" ")[1].decode() == request.split(b" ")[1].decode().replace("?$alt", "?%24alt")
            up.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
        answer = await read(client)
        assert answer.status == status, number


@pytest_twisted.ensureDeferred
async def test_the_account_is_named_only_where_the_configuration_says_so(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    for shown in (False, True):
        running = await gateway(f"[gateway]\nshow_account = {str(shown).lower()}\n" + account(upstream))
        client = await connect(running.port)
        client.send(post(UNARY, b"{}"))
        up = await upstream.connection(int(shown))
        up.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
        await client.until(b"{}")
        assert (b"x-agm-account: a" in client.received.lower()) is shown
