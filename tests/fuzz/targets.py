"""
What is fuzzed, and what must hold of it: for each input no exception but those that are documented, the same result
however the input is cut, and nothing that is not what it says it is.

A target's ``check`` raises whatever shows that something does not hold.  Differences to other readers are
:mod:`fuzz.differential`'s, and time is :mod:`fuzz.growth`'s.
"""

from __future__ import annotations

import gzip
import ipaddress
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import attrs
import msgspec

from agm import config
from agm.core import bodies as bodies_
from agm.core import classify, errors, ownership
from agm.core.client_keys import ClientKey, KeyRing, digest, presented_keys
from agm.core.errors import GatewayError
from agm.core.kinds import COLLECTIONS
from agm.core.request import Body
from agm.core.wire import answer_filters as answers
from agm.core.wire import envelope, openai, target, usage, vertex
from agm.core.wire.answer_filters import AnswerFilter, Framing
from agm.core.wire.gzip import inflate
from agm.core.wire.request_parser import END, Head, Malformed, RequestReader
from agm.core.wire.sse import EventReader, EventTooLarge
from agm.web.access import Access, Peer
from agm.web.inbound import framing_of
from tests.fuzz import connections, esf, frames
from tests.fuzz.mutation import TOKENS, pieces
from tests.web import hostile


@contextmanager
def refusing(*statuses: int) -> Iterator[None]:
    """What is inside may be refused, with one of these statuses."""
    try:
        yield
    except GatewayError as e:
        if e.status not in statuses:
            raise


@attrs.frozen
class Target:
    """One thing that is fuzzed: inputs to begin with, and what must hold of any."""

    seeds: Sequence[bytes]
    check: Callable[[bytes, random.Random], object]
    tokens: Sequence[bytes] = TOKENS


def vertex_targets(data: bytes, rng: random.Random) -> None:
    """A path in Vertex AI's shape gives parts or a refusal, and goes nowhere but below an account's place."""
    if not vertex.claims(data):
        return
    with refusing(400, 404):
        asked = vertex.parse(data)
        if isinstance(asked, vertex.VertexResource):
            path = vertex.placed(asked.path, "p/../q", "l?x")
            assert path.startswith(("/v1/projects/p%2F..%2Fq/locations/l%3Fx/", "/v1beta1/projects/p%2F..%2Fq/"))
            assert not set(path) & set("?# \\"), path
            assert "/../" not in path


def openai_targets(data: bytes, rng: random.Random) -> None:
    """A path of the OpenAI surface gives parts or a refusal, and stays on it."""
    for method in ("GET", "POST", "DELETE"):
        with refusing(400, 404):
            asked = openai.parse(data, method)
            assert re.fullmatch(r"/v1(?:beta|alpha)?/openai/[!-~]+", asked.path), asked.path
            assert not set(asked.path) & set("?#\\")


def openai_bodies(data: bytes, rng: random.Random) -> None:
    """A body has a model or none, or is refused; with another model it is the same body with that one."""
    for content_type in ("application/json", "multipart/form-data; boundary=b"):
        with refusing(400):
            asked = openai.read(data, content_type)
            if asked.model is not None:
                changed = openai.with_model(data, asked, "another")
                assert openai.read(changed, content_type).model == "another"


_ROWS = [row for row in hostile.rows() if len(row.request) < 3000]
REQUESTS = [row.request for row in _ROWS]
PATHS = sorted({b"/v1beta/models/%2f", *(request.split(b" ")[1] for request in REQUESTS if request.count(b" ") >= 2)})

ERROR = b'{"error": {"code": 429, "message": "Please retry in 56.18s.", "status": "RESOURCE_EXHAUSTED"}}'
EVENTS = [
    b'data: {"candidates": [{"content": {"parts": [{"text": "a"}]}}]}\r\n\r\ndata: {"b": 1}\r\n\r\n',
    b'data: {"response": {"a": [1, "\xc3\xa9"]}, "traceId": "x"}\n\n: comment\nid: 1\n\ndata: [DONE]\n\n',
    b'data: {"a":\ndata: 1}\n\n' + ERROR,
    b"data: " + ERROR + b"\r\n\r\n",
    b'\xef\xbb\xbfdata:{"a": 1}\r\rdata: {"b": 2}\r\n\r\n\n[' + ERROR + b"]",
    b'data: {"response": {"a": 1}}\n\ndata: {"response": {"error": 1}}\n\n\n{ \n "error" : {"code":',
    b'data: "x\n\ndata:\n\ndata\n\n{"a": "\\"error\\""}',
]
ARRAYS = [
    b'[{"a": 1}\n,\r\n{"b": [1, "]"]}\n]',
    b'[{\n  "error": {\n    "code": 503\n  }\n}\n]',
    b'[{"a": 1}\n,\r\n{"error": {"code": 500, "message": "x"}}\n]',
    b"[]",
    ERROR,
    b'  [ {"a": "\\"error\\": {"} ] ',
    b'[{"a": 1}\n,\r\n' + b"\r\n" * 40 + b'{"error": {"code": 500}}\n]',
    b"[{" + b"\n " * 50 + b'"error": {"code": 503}}]',
    b"[{" + b"\n " * 200 + b'"error": {"code": 503}}]',
]
#: Beginnings of errors that are none, to be sent again and again.
ANSWER_STARTS = [b'\n{"error" :', b'data: {"error":\n', b'\n[{"error": x']


def events(data: bytes, rng: random.Random) -> None:
    """However a stream is cut, its events and its end are the same."""
    limit = rng.choice((10, 60, 10_000))

    def read(chunks: Sequence[bytes]) -> tuple[list[bytes], object]:
        reader, found = EventReader(max_event=limit), []
        try:
            for chunk in chunks:
                found += reader.feed(chunk)
            return found, reader.close()
        except EventTooLarge as e:
            return [*found, *e.events], "too large"

    whole, cut = read([data]), read(pieces(data, rng))
    assert whole == cut
    assert all(len(event) <= limit for event in whole[0])


def _filters() -> list[Callable[[], AnswerFilter]]:
    return [
        answers.PlainEvents,
        answers.PlainArray,
        answers.PlainBody,
        lambda: answers.CollectedBody(envelope.unwrap, limit=2000),
        *(
            lambda change=change, framing=framing: answers.EventPipe(change, framing, forward_done=True)  # type: ignore[misc]
            for change in (envelope.unwrap, answers.plain_event)
            for framing in (Framing.SSE, Framing.ARRAY)
        ),
    ]


def answer_filters(data: bytes, rng: random.Random) -> None:
    """However an answer is cut, the client gets the same of it, and the same verdict at its end."""
    for make in _filters():

        def run(chunks: Sequence[bytes], make: Callable[[], AnswerFilter] = make) -> tuple[bytes, bool]:
            filter_ = make()
            out = b"".join([filter_.feed(chunk) for chunk in chunks])
            out += filter_.close()
            return out, filter_.failure is not None

        whole, cut = run([data]), run(pieces(data, rng))
        assert whole[1] == cut[1], make
        # of what follows an error in the same chunk more or less may pass: the connection breaks off behind it
        assert whole[0] == cut[0] or (whole[1] and (whole[0].startswith(cut[0]) or cut[0].startswith(whole[0]))), make
        if not whole[1] and make in (answers.PlainArray, answers.PlainBody):
            assert whole[0] == data or (not whole[0] and b"{" not in data)  # an array of nothing is no answer


_SAFE_PATH = re.compile(r"/[\x21-\x22\x24-\x3e\x40-\x7e]*")  # no ? and no #


def targets(data: bytes, rng: random.Random) -> None:
    """A path gives parts or a refusal; a path made of the parts gives the same parts, and goes nowhere else."""
    path = data.partition(b"?")[0]
    with refusing(400, 404):
        call = target.parse_call(path)
        again = f"/{call.version}/models/{target.quote_model(call.model)}:{call.method}"
        assert _SAFE_PATH.fullmatch(again)
        assert not {"", ".", ".."} & set(again[1:].split("/"))
        assert target.parse_call(again.encode("ascii")) == call
        assert len(call.model) <= target.MAX_MODEL
    with refusing(400, 404):
        asked = target.parse_collection(path)
        if isinstance(asked, target.ModelGet):
            again = f"/{asked.version}/models/{target.quote_model(asked.model)}"
            assert target.parse_collection(again.encode("ascii")) == asked
    for method in ("GET", "POST", "DELETE"):
        with refusing(400):
            owned = ownership.parse(path, method)
            if owned is not None:
                assert _SAFE_PATH.fullmatch(owned.path)
                assert not {"", ".", ".."} & set(owned.path[1:].split("/"))
                assert ownership.parse(owned.path.encode("ascii"), method) == owned
                assert owned.method(method)


def queries(data: bytes, rng: random.Random) -> None:
    """A query gives a framing or a refusal, a page token a page or a refusal."""
    text = data.decode("latin-1")
    with refusing(400):
        framing_of("streamGenerateContent", {"alt": text, "$alt": text}, "sse")
    with refusing(400):
        page = ownership.Page.decode(text)
        assert ownership.Page.decode(page.encode()) == page


def durations(data: bytes, rng: random.Random) -> None:
    """Whatever is stated as a delay is a number of seconds, or nothing."""
    text = data.decode("utf-8", "replace")
    for found in (
        classify.parse_duration(text),
        classify.parse_retry_after(text, 1.8e9),
        classify.parse_duration({"seconds": text, "nanos": text}),
    ):
        assert found is None or (found >= 0 and math.isfinite(found))


def error_bodies(data: bytes, rng: random.Random) -> None:
    """Whatever an upstream says of its failure means something, and no delay is longer than it may be."""
    header = rng.choice((None, "", "17", "Wed, 21 Oct 2026 07:28:00 GMT", data.decode("latin-1")))
    for status in (400, 401, 403, 404, 408, 429, 499, 500, 501, 503, 504):
        verdict = classify.classify(status, data, now=1.8e9, retry_after=header)
        assert verdict.reason
        assert verdict.delay is None or 0 <= verdict.delay <= classify.MAX_COOLDOWN
    once = errors.with_retry_info(data, 3.5)
    assert errors.with_retry_info(once, 3.5) == once
    found = envelope.error_document(data)
    if found is not None:
        assert b"\n" not in found
        assert envelope.error_document(found) is not None
    assert 400 <= envelope.error_code(data) <= 599
    ownership.names_told(data)
    watch = usage.UsageWatch()
    for piece in pieces(data, rng):
        watch.feed(piece)
    watch.read()


def bodies(data: bytes, rng: random.Random) -> None:
    """A request's body is refused, or passes as what it is: what wraps it is JSON if it is."""
    made = []
    for make in (
        lambda: envelope.wrap(data, project="p", model="m", request_id="r", user_agent="u", session_id="s"),
        lambda: envelope.wrap_count(data, model="m"),
        lambda: envelope.plain_count(data),
        lambda: envelope.with_roles(data),
        lambda: bytes(envelope.parse_object(data).get("a", b"{}")),
        lambda: msgspec.json.encode(Body(data).json()),
    ):
        with refusing(400):
            made.append(make())
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        pass
    else:
        for document in made:
            json.loads(document)
    roles = envelope.with_roles(data)
    assert envelope.with_roles(roles) == roles
    assert envelope.plain_count(envelope.plain_count(data)) == envelope.plain_count(data) or b"enerate" in data
    Body(data).fingerprint  # noqa: B018  # it must not raise
    with suppress(envelope.NotAnEnvelope, envelope.UpstreamError):
        envelope.unwrap(data)


#: What no name or model is looked for in, in the words of the fields around it.
_OWN_WORDS = {
    ("functionCall", "args"),
    ("function_call", "args"),
    ("functionResponse", "response"),
    ("function_response", "response"),
    *(
        (outer, inner)
        for outer in ("functionDeclarations", "function_declarations")
        for inner in (
            *("parameters", "parametersJsonSchema", "parameters_json_schema"),
            *("response", "responseJsonSchema", "response_json_schema"),
        )
    ),
    *(
        (outer, inner)
        for outer in ("generationConfig", "generation_config")
        for inner in ("responseSchema", "response_schema", "responseJsonSchema", "response_json_schema")
    ),
}


def _said(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    """The strings of a document, each with the name of the field that it, or the list around it, stands in."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, esf.Fields):
        for name, inner in value:
            if isinstance(inner, str) or (field, name) not in _OWN_WORDS:
                yield from _said(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _said(inner, field)


def _read(data: bytes) -> bodies_.Reading | None:
    reading = bodies_.Reading(data)
    try:
        while reading.go_on():
            pass
    except bodies_.Unreadable:
        return None
    return reading


def named(data: bytes, rng: random.Random) -> None:
    """Whatever Google would take is read, and every name and model of it is seen; what is searched hides none."""
    try:
        document = esf.read(data)
    except (esf.Refused, RecursionError):
        document = None
    seen = _read(data)
    if isinstance(document, esf.Fields):
        assert seen is not None or _IN_A_NAME.search(data)
    if isinstance(document, esf.Fields) and seen is not None:
        for field, value in _said(document):
            name = ownership.named_by(value)
            assert name is None or name in seen.names or field.encode() in bodies_._TEXTS
            if field.encode() in bodies_._MODELS and value.isascii() and b"\\U" not in data:  # Google's newer escape
                assert value in seen.models
    if seen is not None and seen.names:
        strict = Body(data).strict
        if not ownership.may_name(data, _KNOWN):
            assert not strict
            assert b"\\" in data
        elif strict and (found := ownership.written_in(data, _KNOWN)) is not None:
            assert seen.names.keys() <= found.keys()
            if not any(mark in data for mark in ownership._OWN_WORDS):
                assert seen.names.keys() == found.keys()
                assert all(found.values())


#: A slash in a name without quotes, or behind a number.
_IN_A_NAME = re.compile(rb"[^\s,]/")
_KNOWN = (*COLLECTIONS, "models")


def inflated(data: bytes, rng: random.Random) -> None:
    """A gzip'd body is refused, or is what gzip itself reads, within its bound."""
    limit = rng.choice((0, 100, 10_000))
    with refusing(400, 413):
        found = inflate(data, limit)
        assert len(found) <= limit
        assert found == gzip.decompress(data)


def configurations(data: bytes, rng: random.Random) -> None:
    """Any text is a configuration, or the one error that there is for what is none."""
    with suppress(config.ConfigError):
        config.parse(data.decode("utf-8", "replace"), environ={"KEY": "k", "EMPTY": ""})


def client_keys(data: bytes, rng: random.Random) -> None:
    """Keys are found where they may be, and nothing else is a key."""
    text = data.decode("latin-1")
    found = presented_keys({b"authorization": data, b"x-api-key": data[::-1]}, text)
    assert all(key and key == key.strip() for key in found)
    assert len(set(found)) == len(found)
    ring = KeyRing([ClientKey("a", digest("secret"))])
    for key in (*found, text):
        known = ring.lookup(key)
        assert (known is not None) == (key == "secret")


def hosts_and_origins(data: bytes, rng: random.Random) -> None:
    """A Host and an Origin are the gateway's, or refused."""
    access = Access.of(["own.example"], ["127.0.0.1"], ["https://page.example"])
    text = data.decode("latin-1")
    host = None
    with refusing(400, 421):
        host = access.check_host([text], required=True)
    if host is not None:
        assert host == "own.example" or access.check_host([f"[{host}]" if ":" in host else host], required=True) == host
        assert re.fullmatch(r"own\.example|localhost|[A-Za-z0-9_.-]*\.localhost|127(\.[0-9]+){3}|[0-9a-f:.]+", host), (
            host
        )
    with refusing(403, 415):
        allowed = access.check_origin(text, "127.0.0.1")
        assert allowed is None or allowed.lower().rstrip("/") == "https://page.example"
        access.check_page("POST", {b"origin": data, b"content-type": data}, let_in=allowed is not None)
    with refusing(403, 415):
        access.check_page("POST", {b"sec-fetch-site": data, b"content-type": data}, let_in=False)
        assert data in (b"same-origin", b"none")


def senders(data: bytes, rng: random.Random) -> None:
    """Whatever a proxy says, or a client in its place, makes nobody local who is not, and an address stays one."""
    name = rng.choice((b"x-forwarded-for", b"forwarded", b"x-real-ip"))
    proxied = Head(b"GET", b"/", b"HTTP/1.1", [(name, data), (b"host", b"127.0.0.1")])
    trusting = Access.of([], ["127.0.0.1"], [], trusted_proxies=["loopback", "10.0.0.0/8"])
    assert not Access.of([], ["127.0.0.1"], []).sender(Peer("127.0.0.1"), proxied).local
    assert not trusting.sender(Peer("192.0.2.7"), proxied).local
    found = trusting.sender(Peer("127.0.0.1"), proxied)
    assert found.forwarded
    address = ipaddress.ip_address(found.address)
    assert address.is_loopback or not found.local
    base = trusting.address(Peer("127.0.0.1"), Head(b"GET", b"/", b"HTTP/1.1", [(b"forwarded", data)]), secure=False)
    assert re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", base), base


def read_requests(chunks: Sequence[bytes]) -> tuple[list[tuple[Head, bytes, bool]], int]:
    """The requests of a connection: head, body, and whether it is whole; and the status of what ends it, or 0."""
    reader = RequestReader(max_head=2000, max_lines=20)
    found: list[tuple[Head, bytes, bool]] = []
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while (event := reader.next()) is not None:
                if isinstance(event, Head):
                    found.append((event, b"", False))
                elif event is END:
                    found[-1] = (*found[-1][:2], True)
                else:
                    assert isinstance(event, bytes)
                    assert event
                    found[-1] = (found[-1][0], found[-1][1] + event, False)
    except Malformed as e:
        return found, e.status
    return found, 0


def requests(data: bytes, rng: random.Random) -> None:
    """However a client's bytes are cut, they are the same requests, and end in the same way."""

    def told(chunks: Sequence[bytes]) -> object:
        found, status = read_requests(chunks)
        whole = [(h.method, h.target, h.version, h.fields, h.length, h.keep_alive, h.expects) for h, _, _ in found]
        # of a body that is broken the pieces before may have been told
        contents = [body for _, body, complete in found if complete]
        return whole, contents, status > 0  # of two reasons the one that is met first counts

    whole, cut = told([data]), told(pieces(data, rng))
    assert whole == cut


_CONFIGURATION = b"""
[gateway]
listen = ["tcp:8045:interface=127.0.0.1", "unix:/tmp/x"]
max_body = "100MiB"
allowed_hosts = ["a.example"]
cors_origins = ["https://page.example"]
stream_default = "json"
[timeouts]
connect = 10
idle = 0.5
[auth]
mode = "strict"
[[auth.keys]]
name = "laptop"
key = "correct-horse-battery-staple"
models = ["gemini-*"]
requests_per_minute = 60
[[auth.keys]]
name = "other"
key_env = "KEY"
[models]
list = ["gemini-2.5-flash"]
[models.aliases]
"gpt-4o*" = "gemini-2.5-flash"
[pool]
strategy = "sticky"
max_attempts = 3
[[accounts]]
name = "work"
kind = "api-key"
api_key_env = "KEY"
endpoints = ["https://generativelanguage.googleapis.com"]
[[accounts]]
name = "project-a"
kind = "vertex"
credentials = "adc"
project = "project-a"
location = "global"
[[accounts]]
name = "team"
kind = "code-assist"
access_token = "t"
project = "project-b"
models = ["gemini-*"]
priority = 0
max_concurrency = 8
enabled = true
[plugins.other]
x = 1979-05-27T07:32:00Z
[limits]
streams_per_key = 3
"""

_ERRORS = [
    ERROR,
    b'[{"error": {"code": 403, "status": "PERMISSION_DENIED", "details": [{"@type": "x.google.rpc.ErrorInfo", '
    b'"reason": "VALIDATION_REQUIRED", "metadata": {"quotaResetDelay": "143h4m52.7s", '
    b'"quotaResetTimeStamp": "2026-11-22T10:00:00Z"}}]}}]',
    b'{"error": {"details": [{"@type": "x.RetryInfo", "retryDelay": "0.5s"}, {"@type": "x.QuotaFailure", "violations": '
    b'[{"quotaId": "PerDay", "quotaMetric": null}]}, {"@type": "x.ErrorInfo", "reason": "QUOTA_EXHAUSTED"}]}}',
    b'{"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2}, "candidates": [{"finishReason": "STOP"}]}',
    b'{"name": "files/abc", "file": {"uri": "https://x.example/v1beta/files/abc", "name": "files/abc"}}',
    b"<html>502</html>",
]
_BODIES = [
    b'{"contents": [{"role": "user", "parts": [{"text": "hi"}]}, {"parts": [{"text": "b"}]}], "model": "models/m"}',
    b'{"generateContentRequest": {"model": "models/m", "contents": [{"parts": [{"text": "a"}]}], "tools": []}}',
    b'{"contents": [], "cachedContent": "cachedContents/a", "sessionId": "s"}',
    b'{"contents": [{"parts": [{"file_data": {"file_uri": "https://x/v1beta/files/abc"}}]}]}',
    b'{"response": {"a": 1}, "traceId": "t"}',
    b'{"a": 1e400, "b": -0, "c": "\\ud800", "d": "\xed\xa0\x80", "a": 2}',
]

_NAMING = [
    *_BODIES,
    b'{"contents": [{"parts": [{"text": "files/x"}, {"fileData": {"fileUri": "files/a"}}]},], \'model\': "models/m"}',
    b'{tools: [{fileSearch: {file_search_store_names: ["fileSearchStores/a", "fileSearchStores/b/documents/c",]}}]}',
    b'{"instances":[{"prompt":"x","video":{"uri":"https:\\/\\/h\\/v1beta\\/files\\/v:download?alt=media"}}],"p":{"n":1.5e3}}',
    b'{"cachedContent": "cachedContents\\u002fa", "model": "models/a", "mod\\u0065l": "models/b", base_model: "c"} ',
    b'{"parts":[{"functionCall":{"args":{"uri":"files/a"}}},{"functionResponse":{"response":{"o":["files/b"]},'
    b'"parts":[{"fileData":{"fileUri":"files/c"}}]}}], "a": [[[]], {}, null, true, -1, ""]}',
    b'/* a */ {"a": "it\\\'s", // b\n "name" : "models/v/operations/o",'
    b' "f\\ile": \'fi\\les/a\', b: , c: [,"batches/b"]}',
]

_VERTEX_PATHS = [
    b"/v1beta1/projects/p/locations/l/publishers/google/models/m:generateContent",
    b"/v1/projects/p/locations/l/cachedContents/5",
    b"/v1beta1/projects/p/locations/l/batchPredictionJobs/7:cancel",
    b"/publishers/google/models/m%3Apredict",
    b"/v1/projects/p/locations/l/publishers/google/models/m/operations/o",
]
_OPENAI_PATHS = [
    b"/v1beta/openai/chat/completions",
    b"/v1beta/openai/files/files%2Fa/content",
    b"/v1beta/openai/batches/batches/b/cancel",
    b"/v1/openai/models/models%2Fm",
]
_OPENAI_BODIES = [
    b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]}',
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nveo\r\n'
    b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--b--\r\n',
]
TARGETS: dict[str, Target] = {
    "events": Target(EVENTS, events),
    "answers": Target([*EVENTS, *ARRAYS, *_BODIES], answer_filters),
    "targets": Target(PATHS, targets),
    "vertex-targets": Target(_VERTEX_PATHS, vertex_targets),
    "openai-targets": Target(_OPENAI_PATHS, openai_targets),
    "openai-bodies": Target(_OPENAI_BODIES, openai_bodies),
    "queries": Target([b"sse", b"json;enum-encoding=int", ownership.Page("a", "t").encode().encode()], queries),
    "durations": Target(
        [b"56s", b"0.539477544s", b"539.477544ms", b"143h4m52.7s", b"17", b"Wed, 21 Oct 2026 07:28:00 GMT", b"1e9"],
        durations,
        (*TOKENS, b"h", b"ms", b"\xc2\xb5s", b"\xd9\xa1", b"inf", b"nan", b"GMT", b"+9999"),
    ),
    "errors": Target(_ERRORS, error_bodies),
    "bodies": Target(_BODIES, bodies),
    "names": Target(
        _NAMING,
        named,
        (
            *(*TOKENS, b"'", b",}", b",]", b"//", b"/*", b"*/", b"\\'", b'\\"', b"\\\\", b"\\/", b"\\f", b"\\u006"),
            *(b"files/", b'"model":', b"model:", b'"text":', b'"args":', b'"', b'"'),
        ),
    ),
    "gzip": Target(
        [gzip.compress(b"x" * 5000, mtime=0), gzip.compress(b"a", mtime=0) * 3, gzip.compress(b"", mtime=0)], inflated
    ),
    "configuration": Target([_CONFIGURATION, *re.split(rb"(?m)^(?=\[)", _CONFIGURATION)[1:]], configurations),
    "client-keys": Target([b"Bearer secret", b"secret", b"bearer  x", b"Basic eDp5"], client_keys),
    "access": Target(
        [b"127.0.0.1:8045", b"[::1]:80", b"localhost", b"own.example", b"https://page.example", b"none", b"text/plain"],
        hosts_and_origins,
    ),
    "senders": Target(
        [
            b"127.0.0.1",
            b"127.0.0.1, 203.0.113.9",
            b"203.0.113.9:80, 10.0.0.1",
            b"[2001:db8::9]:4711",
            b'for="[2001:db8::9]:4711";proto=https;host="ai.example.net:8443", for=127.0.0.1',
            b"for=_hidden;by=unknown",
        ],
        senders,
        (*TOKENS, b",", b";", b"for=", b"127.0.0.1", b"::1", b"unknown", b'"'),
    ),
    "requests": Target(REQUESTS, requests),
    "connections": Target(REQUESTS, connections.check),
    "frames": Target(frames.SEEDS, frames.check),
}
