"""
JSON that is made to be slow holds nobody else up: every place that reads some is given the worst of its size.

How long the reactor is held is told in CPU time, and measured against what it takes in the same process to make values
of a document of that size: it is a small part of it.  What comes out is bounded by what went in.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

import msgspec
import pytest
import pytest_twisted

from agm import hookimpl
from agm.testing import Answer, GatewayFactory, RunningGateway
from tests.helpers.support import AnsweringUpstream, Asked, reactor

SIZE = 4 * 1024 * 1024
KEY = "a-client-key-0123"

#: What a body begins with, so that it is read for what it may name.
_NAMES = b'"a":"files/b","b":"cachedContents/c"'
#: Bodies of about so many bytes.
SHAPES: dict[str, Callable[[int], bytes]] = {
    "lists": lambda n: b'{"contents":[{"parts":[]}],%b,"x":[%b[]]}' % (_NAMES, b"[]," * (n // 3)),
    "turns": lambda n: b'{%b,"contents":[%b{}]}' % (_NAMES, b"{}," * (n // 3)),
    "few turns": lambda n: b'{%b,"contents":[%b{}]}' % (_NAMES, b"{}%b," % (b" " * 20) * (n // 23)),
    "fields": lambda n: b"{%b%b}" % (_NAMES, b"".join(b',"%x":0' % i for i in range(n // 10))),
    "numbers": lambda n: b'{%b,"x":[%b1]}' % (_NAMES, b"1," * (n // 2)),
    "quotes": lambda n: b'{%b,"x":"%b"}' % (_NAMES, rb"\"files/" * (n // 8)),
    "strings": lambda n: b'{%b,"x":["%b"]}' % (_NAMES, b'files/b"   ,   "' * (n // 16)),
    "escapes": lambda n: b'{%b,"x":"%b"}' % (_NAMES, rb"\u0066" * (n // 6)),
    "spaces": lambda n: b"{%b,%b}" % (_NAMES, b" " * n),
    "lenient": lambda n: b"{%b,'x':[%b],}" % (_NAMES, b"{a:''}," * (n // 7)),
    "deep": lambda n: b'{%b,"x":%b1%b}' % (_NAMES, b"[" * (n // 2), b"]" * (n // 2)),
    "towers": lambda n: b'{%b,"x":[%b1]}' % (_NAMES, (b"[" * 90 + b"]" * 90 + b",") * (n // 181)),
}


@cache
def values_of(size: int) -> float:
    """The seconds that it takes to make values of a document of so many bytes."""
    document = b"[" + b"[]," * (size // 3) + b"[]]"
    began = time.thread_time()
    msgspec.json.decode(document)
    return time.thread_time() - began


class Watch:
    """How long the reactor was busy with one thing at most, whoever's it was."""

    def __init__(self) -> None:
        self.longest = 0.0

    def __enter__(self) -> Watch:
        self._last = time.thread_time()
        self._call = reactor.callLater(0, self._turn)
        return self

    def _turn(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self._last)
        self._last = now
        self._call = reactor.callLater(0, self._turn)

    def __exit__(self, *why: object) -> None:
        self._call.cancel()


async def unheld(what: str, ask: Callable[..., Awaitable[Answer]], *arguments: Any, **named: Any) -> Answer:
    """The answer; a second look is taken before it is believed that something was held up for it."""
    for _ in range(3):
        with Watch() as watch:
            answer = await ask(*arguments, **named)
        if watch.longest < 0.02 or watch.longest < values_of(SIZE) / 3:
            return answer
    pytest.fail(f"{what}: the reactor was held for {watch.longest:.2f} s of CPU time")


class Answers:
    """What the upstream at `url` says to everything."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.body = b"{}"
        self.headers: dict[str, str] = {}

    def __call__(self, asked: Asked) -> tuple[Any, ...]:
        return self.status, self.body, self.headers


Start = Callable[..., Awaitable[RunningGateway]]


@pytest_twisted.async_yield_fixture
async def answers() -> AsyncIterator[Answers]:
    """An upstream, and what it says."""
    said = Answers()
    upstream = AnsweringUpstream(said)
    said.url = upstream.url
    yield said
    await upstream.stop()


@pytest.fixture
def start(gateway: GatewayFactory, answers: Answers) -> Start:
    """A function that starts a gateway with two accounts of a kind, of which something is known."""

    async def begin(kind: str = "api-key", extra: str = "", plugins: tuple[object, ...] = ()) -> RunningGateway:
        credential = 'api_key = "key"' if kind == "api-key" else 'access_token = "token"\nproject = "p"'
        tables = "".join(
            f'[[accounts]]\nname = "{name}"\nkind = "{kind}"\n{credential}\nendpoints = ["{answers.url}"]\n'
            for name in "ab"
        )
        running = await gateway(
            '[gateway]\nmax_body = "64MiB"\n[pool]\nmax_wait = 0\n' + tables + extra, plugins=list(plugins)
        )
        for name, owner in (("files/one", "a"), ("cachedContents/two", "b"), ("models/veo/operations/o", "a")):
            running.gateway.ownership.remember(name, owner)
        return running

    return begin


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("api-key", "generateContent"),
        ("code-assist", "streamGenerateContent"),
        pytest.param("vertex", "generateContent", marks=pytest.mark.slow),
        pytest.param("vertex", "countTokens", marks=pytest.mark.slow),
        pytest.param("code-assist", "countTokens", marks=pytest.mark.slow),
    ],
)
@pytest_twisted.ensureDeferred
async def test_no_call_holds_the_others_up(start: Start, kind: str, method: str) -> None:
    """Whatever has to be found in a body: a conversation, names of resources, fields, roles."""
    running = await start(kind)
    for shape, make in SHAPES.items():
        answer = await unheld(shape, running.ask, body=make(SIZE), method=method)
        assert answer.status in (200, 400, 502)


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_no_new_resource_holds_the_others_up(start: Start) -> None:
    """Names and models are looked for in slices; a key that is held to some models gets nothing unread past that."""
    keys = f'[auth]\nmode = "strict"\n[[auth.keys]]\nname = "k"\nkey = "{KEY}"\nmodels = ["m"]\n'
    running = await start(extra=keys)
    for shape in ("lists", "fields", "quotes", "strings", "lenient"):
        body = SHAPES[shape](SIZE)
        answer = await unheld(shape, running.fetch, "POST", "/v1beta/cachedContents", body=body, key=KEY)
        assert answer.status in (200, 400)
    for path in ("fileSearchStores/s:importFile", "models/m:batchGenerateContent"):
        await unheld(path, running.fetch, "POST", f"/v1beta/{path}", body=SHAPES["strings"](SIZE), key=KEY)
    started = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    body = SHAPES["lists"](1_000_000)
    await unheld("an upload", running.fetch, "POST", "/upload/v1beta/files", body=body, key=KEY, headers=started)


@pytest_twisted.ensureDeferred
async def test_no_explanation_holds_the_others_up(start: Start) -> None:
    """Nor anything else that is asked of the gateway itself."""
    running = await start(extra="[request_log]\nenabled = true\n")
    for shape, make in SHAPES.items():
        body = make(SIZE)
        answer = await unheld(shape, running.fetch, "POST", "/_agm/explain", body=b'{"model":"m","body":%b}' % body)
        assert len(answer.body) < 300_000
        for sent in (body, b'{"seconds":%b}' % body):
            await unheld(shape, running.fetch, "POST", "/_agm/log/bodies", body=sent)
    many = b",".join(b'"%x":"v"' % i for i in range(SIZE // 12))
    for field in (b"headers", b"query"):
        question = b'{"model":"m","%b":{%b}}' % (field, many)
        answer = await unheld("many of them", running.fetch, "POST", "/_agm/explain", body=question)
        assert (answer.status, "larger than" in answer.json["error"]["message"]) == (400, True)
    answer = await unheld("a name", running.fetch, "POST", "/_agm/explain", body=b'{"model":"%b"}' % (b"|" * SIZE))
    assert answer.status == 400


@pytest_twisted.ensureDeferred
async def test_what_is_shown_is_not_much_more_than_what_was_sent(start: Start) -> None:
    """Brackets in brackets, laid out, would be mostly space: from some depth on a body is shown as text."""
    running = await start()
    for depth in (10, 31, 33, 60, 900):
        tower = b"[" * depth + b"[]," * 20 + b"1" + b"]" * depth + b","
        body = b'{"contents":[{"parts":[{"text":"\\n"}]}],"x":[%b1]}' % (tower * (30_000 // len(tower)))
        question = b'{"model":"m","body":%b}' % body
        answer = await unheld(str(depth), running.fetch, "POST", "/_agm/explain", body=question)
        assert answer.status == 200
        assert len(answer.body) < 20 * len(question)
        assert isinstance(answer.json["upstream"]["body"], dict if depth < 30 else str)


@pytest.mark.parametrize("size", [20_000, 1_000_000])
@pytest_twisted.ensureDeferred
async def test_no_error_of_an_upstream_holds_the_others_up(start: Start, answers: Answers, size: int) -> None:
    """It is read, kept out of the account's way, cleaned of secrets and laid out, all within bounds."""
    running = await start()
    for shape in ("lists", "fields", "numbers", "quotes", "deep", "towers"):
        inner = SHAPES[shape](size)
        for status, form in ((400, b"%b"), (403, b"[%b]"), (429, b"%b"), (503, b"%b")):
            answers.status = status
            error = b'{"error":{"code":%d,"message":"no\\n","status":"X","details":%b}}' % (status, inner)
            answers.body = form % error
            for path in ("models/m:generateContent", "models/m:streamGenerateContent?alt=sse", "cachedContents"):
                what = f"{status}, {shape}, {path}"
                answer = await unheld(what, running.fetch, "POST", f"/v1beta/{path}", body=b"{}")
                assert answer.status >= 400
                assert len(answer.body) < 3_000_000
            running.gateway.pool.replace(running.gateway.pool.accounts, ())  # nothing is held against them


@pytest_twisted.ensureDeferred
async def test_no_answer_of_an_upstream_holds_the_others_up(start: Start, answers: Answers) -> None:
    """Lists, what was made, files, reports of models, events: wrapped or not."""
    running, wrapped = await start(), await start("code-assist")
    for shape in ("lists", "turns", "fields", "numbers", "quotes", "strings", "deep", "towers"):
        inner = SHAPES[shape](SIZE)
        answers.headers = {}
        answers.body = b'{"name":"files/x","files":[%b]}' % inner
        await unheld(f"{shape}, a list", running.fetch, "GET", "/v1beta/files")
        await unheld(f"{shape}, a file", running.fetch, "GET", "/v1beta/files/x")
        await unheld(f"{shape}, a cache", running.fetch, "POST", "/v1beta/cachedContents", body=b"{}")
        await unheld(f"{shape}, an answer", running.ask, method="predict")
        answers.body = b'{"models":[%b]}' % SHAPES[shape](3_000_000)
        running.gateway.models.report_from(running.gateway.pool.accounts)
        await unheld(f"{shape}, models", running.fetch, "GET", "/v1beta/models")
        for it, event in ((running, inner), (wrapped, b'{"response":%b}' % inner)):
            answers.headers, answers.body = {}, event
            await unheld(f"{shape}, unary", it.ask)
            answers.headers, answers.body = {"content-type": "text/event-stream"}, b"data: %b\r\n\r\n" % event
            await unheld(f"{shape}, an event", it.ask, method="streamGenerateContent")


@pytest_twisted.ensureDeferred
async def test_what_is_too_dense_is_not_decoded_for_a_plugin_either(start: Start) -> None:
    """A plugin that edits bodies needs them whole: there are limits to that."""
    seen: list[object] = []

    class Editor:
        @hookimpl
        def agm_transform_request(self, body: Any, request: Any) -> Any:
            seen.append(body)
            return body

    running = await start(plugins=(Editor(),))
    for shape in ("lists", "towers", "deep", "numbers"):
        answer = await unheld(shape, running.ask, body=SHAPES[shape](SIZE))
        assert answer.status == 400
    assert not seen
    assert (await running.ask()).status == 200
    assert len(seen) == 1
