"""The answer cache: what is the same, what is kept, for whom, and for how long."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from twisted.web.client import ResponseFailed

from agm.api import ClientKey, KeyRing, digest, hookimpl
from agm.contrib import answer_cache
from agm.contrib.answer_cache import OVERHEAD, AnswerCache
from agm.testing import GatewayFactory, RunningGateway, check_plugin, parse_config
from tests.helpers.support import (
    SSE_HEAD,
    AnsweringUpstream,
    Asked,
    ScriptedUpstream,
    account,
    chunk,
    connect,
    eventually,
    post,
)

QUESTION = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
EVENT: dict[str, Any] = {"candidates": [{"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}]}
KEYS = [
    ClientKey("ada", digest("key-of-ada"), team="search"),
    ClientKey("bob", digest("key-of-bob"), team="search"),
    ClientKey("eve", digest("key-of-eve"), team="ads"),
    ClientKey("joe", digest("key-of-joe")),
]


class Keys:
    @hookimpl
    def agm_client_keys(self, config: Any) -> list[KeyRing]:
        return [KeyRing(KEYS)]


def told(asked: Asked, event: dict[str, Any] = EVENT, status: int = 200) -> tuple[Any, ...]:
    if status != 200:
        return status, {"error": {"code": status, "message": "no", "status": "INVALID_ARGUMENT"}}
    if "alt=sse" in asked.uri:
        data = b"".join(b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in ({"candidates": []}, event))
        return 200, data, {"content-type": "text/event-stream"}
    return 200, [event] if ":streamGenerateContent" in asked.path else event


class Answers(AnsweringUpstream):
    """An upstream whose answers a test can change."""

    def __init__(self) -> None:
        self.said: Callable[[Asked], tuple[Any, ...]] = told
        super().__init__(lambda asked: self.said(asked))


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[Answers]:
    answering = Answers()
    yield answering
    await answering.stop()


async def start(gateway: GatewayFactory, upstream: Answers, settings: str = "") -> tuple[RunningGateway, AnswerCache]:
    cache = AnswerCache()
    text = account(upstream) + f"[plugins.answer_cache]\n{settings}\n"
    return await gateway(text, plugins=[Keys(), cache]), cache


async def asked(running: RunningGateway, *, key: str | None = None, **how: Any) -> str:
    """Ask, and return what the cache says of it."""
    answer = await running.ask("m", body=how.pop("body", QUESTION), key=key and f"key-of-{key}", **how)
    assert answer.status == 200, answer.body
    return answer.headers.get("x-agm-cache", "none")


@pytest.mark.parametrize("way", ["generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent?alt=json"])
@pytest_twisted.ensureDeferred
async def test_the_same_question_is_answered_from_memory_to_the_byte(
    gateway: GatewayFactory, upstream: Answers, way: str
) -> None:
    running, cache = await start(gateway, upstream)
    found = [
        await running.fetch("POST", f"/v1beta/models/m:{way}", body=json.dumps(QUESTION).encode()) for _ in range(3)
    ]
    assert [one.headers["x-agm-cache"] for one in found] == ["miss", "hit", "hit"]
    assert len({(one.body, one.headers["content-type"].partition(";")[0]) for one in found}) == 1
    assert len(upstream.asked) == 1
    assert len(cache) == 1
    assert running.gateway.live.latest(1)[0]["outcome"] == "ok"


@pytest_twisted.ensureDeferred
async def test_what_differs_in_anything_is_another_question(gateway: GatewayFactory, upstream: Answers) -> None:
    running, _ = await start(gateway, upstream)
    assert await asked(running) == "miss"
    assert await asked(running, body=json.dumps(QUESTION, indent=1).encode()) == "miss"
    assert await asked(running, method="streamGenerateContent") == "miss"
    body = json.dumps(QUESTION).encode()
    for path in (
        "/v1beta/models/m:streamGenerateContent?alt=json",
        "/v1/models/m:generateContent",
        "/v1beta/models/n:generateContent",
        "/v1beta/models/m:generateContent?fields=candidates",
        "/v1beta/models/m:countTokens",
        "/v1/projects/p/locations/global/publishers/google/models/m:generateContent",
    ):
        answer = await running.fetch("POST", path, body=body)
        assert (answer.status, answer.headers["x-agm-cache"]) == (200, "miss"), path
    assert await asked(running) == "hit"


@pytest_twisted.ensureDeferred
async def test_a_long_body_is_told_by_its_digest(gateway: GatewayFactory, upstream: Answers) -> None:
    running, cache = await start(gateway, upstream)
    long, other = (json.dumps({**QUESTION, "labels": {"x": "y" * 5000 + end}}).encode() for end in "ab")
    assert [await asked(running, body=one) for one in (long, other, long)] == ["miss", "miss", "hit"]
    assert cache.bytes < 2 * (OVERHEAD + 200)


@pytest.mark.parametrize(
    ("share", "found"),
    [
        ("key", {"ada": "hit", "bob": "miss", "eve": "miss", "joe": "miss", None: "miss"}),
        ("team", {"ada": "hit", "bob": "hit", "eve": "miss", "joe": "miss", None: "miss"}),
        ("all", {"ada": "hit", "bob": "hit", "eve": "hit", "joe": "hit", None: "hit"}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_answer_is_for_whoever_asked_for_it_and_whom_the_settings_name(
    gateway: GatewayFactory, upstream: Answers, share: str, found: dict[str | None, str]
) -> None:
    running, _ = await start(gateway, upstream, f'share = "{share}"')
    assert await asked(running, key="ada") == "miss"
    assert {key: await asked(running, key=key) for key in found} == found


@pytest.mark.parametrize(
    "name", ["files/x", "files\\/x", "fi\\u006ces/x", "cachedContents/c", "gs://bucket/x", "fileSearchStores/s"]
)
@pytest_twisted.ensureDeferred
async def test_what_names_a_thing_that_not_all_may_see_is_kept_for_its_key_alone(
    gateway: GatewayFactory, upstream: Answers, name: str
) -> None:
    body = b'{"contents": [{"role": "user", "parts": [{"fileData": {"fileUri": "%b"}}]}]}' % name.encode()
    running, cache = await start(gateway, upstream, 'share = "all"')
    assert [await asked(running, key="ada", body=body) for _ in range(2)] == ["none", "none"]
    assert len(cache) == 0
    running, cache = await start(gateway, upstream)
    assert [await asked(running, key="ada", body=body) for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize(
    "said",
    [
        lambda asked: told(asked, status=400),
        lambda asked: told(asked, {"candidates": [{"content": {"parts": [{"text": "he"}]}}]}),
        lambda asked: told(asked, {"candidates": [{"finishReason": "SAFETY"}]}),
        lambda asked: told(asked, {"promptFeedback": {"blockReason": "SAFETY"}}),
        lambda asked: told(asked, {"error": {"code": 503, "message": "half-way", "status": "UNAVAILABLE"}}),
    ],
)
@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest_twisted.ensureDeferred
async def test_errors_and_what_did_not_come_to_a_good_end_are_not_kept(
    gateway: GatewayFactory, upstream: Answers, method: str, said: Any
) -> None:
    running, cache = await start(gateway, upstream)
    upstream.said = said
    with suppress(ResponseFailed):  # a stream that ends in an error breaks off
        await running.ask("m", body=QUESTION, method=method)
    assert len(cache) == 0
    assert not cache._asked
    upstream.said = told
    assert await asked(running, method=method) == "miss"
    assert await asked(running, method=method) == "hit"


@pytest_twisted.ensureDeferred
async def test_a_stream_that_breaks_off_is_not_kept(gateway: GatewayFactory) -> None:
    scripted = ScriptedUpstream()
    cache = AnswerCache()
    running = await gateway(account(scripted), plugins=[cache])
    client = await connect(running.port)
    client.send(post("/v1beta/models/m:streamGenerateContent?alt=sse"))
    wire = await scripted.connection()
    wire.send(SSE_HEAD + chunk(b"data: " + json.dumps(EVENT).encode() + b"\r\n\r\n"))
    await client.until(b"hello")
    wire.transport.abortConnection()
    await client.closed()
    assert len(cache) == 0
    await scripted.stop()


@pytest_twisted.ensureDeferred
async def test_answers_are_kept_for_so_long(gateway: GatewayFactory, upstream: Answers) -> None:
    running, cache = await start(gateway, upstream, "seconds = 60")
    now = running.gateway.wall()
    running.gateway.wall = lambda: now
    assert [await asked(running) for _ in range(2)] == ["miss", "hit"]
    running.gateway.wall = lambda: now + 59.9
    assert await asked(running) == "hit"
    running.gateway.wall = lambda: now + 60.1
    assert [await asked(running) for _ in range(2)] == ["miss", "hit"]
    assert len(cache) == 1


@pytest_twisted.ensureDeferred
async def test_the_size_is_bounded_and_the_least_used_goes_first(gateway: GatewayFactory, upstream: Answers) -> None:
    size = len(json.dumps(EVENT)) + OVERHEAD
    running, cache = await start(gateway, upstream, f"max_bytes = {2 * size + 10}")

    async def about(text: str) -> str:
        return await asked(running, body={"contents": [{"role": "user", "parts": [{"text": text}]}]})

    assert [await about(text) for text in "abac"] == ["miss", "miss", "hit", "miss"]
    assert cache.bytes <= 2 * size + 10
    assert [await about(text) for text in "ab"] == ["hit", "miss"]
    running, cache = await start(gateway, upstream, f"max_answer_bytes = {len(json.dumps(EVENT)) - 1}")
    assert [await asked(running) for _ in range(2)] == ["miss", "miss"]
    assert len(cache) == 0


@pytest_twisted.ensureDeferred
async def test_a_client_may_ask_for_a_new_answer_or_that_it_is_not_kept(
    gateway: GatewayFactory, upstream: Answers
) -> None:
    running, cache = await start(gateway, upstream)
    assert await asked(running, headers={"cache-control": "no-store"}) == "none"
    assert len(cache) == 0
    assert await asked(running) == "miss"
    assert await asked(running, headers={"Cache-Control": "no-cache"}) == "miss"
    assert await asked(running) == "hit"
    assert len(upstream.asked) == 3


@pytest_twisted.ensureDeferred
async def test_models_and_methods_can_be_named(gateway: GatewayFactory, upstream: Answers) -> None:
    running, _ = await start(gateway, upstream, 'models = ["gemini-*"]')
    assert [await asked(running) for _ in range(2)] == ["none", "none"]
    running, _ = await start(gateway, upstream, 'methods = ["countTokens"]')
    assert await asked(running) == "none"
    assert [await asked(running, method="countTokens") for _ in range(2)] == ["miss", "hit"]


@pytest_twisted.ensureDeferred
async def test_an_answer_of_a_fallback_is_the_fallbacks(gateway: GatewayFactory, upstream: Answers) -> None:
    cache = AnswerCache()
    text = account(upstream) + '[models.fallbacks]\nm = ["n"]\n[pool]\nmax_wait = 0\n'
    running = await gateway(text, plugins=[cache])
    spent = {"error": {"code": 429, "message": "Quota. Please retry in 600s.", "status": "RESOURCE_EXHAUSTED"}}
    upstream.said = lambda asked: (429, spent) if "/m:" in asked.path else told(asked)
    assert await asked(running) == "miss"
    assert await asked(running) == "miss"  # m has given nothing to be kept
    answer = await running.ask("n", body=QUESTION)
    assert answer.headers["x-agm-cache"] == "hit"


@pytest.mark.parametrize("stream", [False, True])
@pytest_twisted.ensureDeferred
async def test_the_openai_surface_has_its_answers_from_memory(
    gateway: GatewayFactory, upstream: Answers, stream: bool
) -> None:
    choice = {"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}

    def say(asked: Asked) -> tuple[Any, ...]:
        if not stream:
            return 200, {"choices": [choice]}
        data = b"data: " + json.dumps({"choices": [{**choice, "delta": {"content": "hello"}}]}).encode()
        return 200, data + b"\n\ndata: [DONE]\n\n", {"content-type": "text/event-stream"}

    upstream.said = say
    running, _ = await start(gateway, upstream)
    body = json.dumps({"model": "m", "messages": [], "stream": stream}).encode()
    found = [await running.fetch("POST", "/v1beta/openai/chat/completions", body=body) for _ in range(2)]
    assert [one.headers["x-agm-cache"] for one in found] == ["miss", "hit"]
    assert found[0].body == found[1].body
    assert b"[DONE]" in found[1].body or not stream


@pytest_twisted.ensureDeferred
async def test_an_explanation_tells_a_hit_and_counts_nothing(gateway: GatewayFactory, upstream: Answers) -> None:
    running, cache = await start(gateway, upstream)
    await asked(running)
    found = await running.explain("m", body=QUESTION)
    assert found["answer"]["status"] == 200
    assert found["answer"]["plugin"].endswith("AnswerCache")
    assert cache._asked == {}


@pytest_twisted.ensureDeferred
async def test_other_settings_empty_it_and_the_same_do_not(gateway: GatewayFactory, upstream: Answers) -> None:
    running, cache = await start(gateway, upstream)
    await asked(running)
    await running.gateway.reload(parse_config(account(upstream)))
    assert len(cache) == 1
    await running.gateway.reload(parse_config(account(upstream) + "[plugins.answer_cache]\nseconds = 5\n"))
    assert (len(cache), cache.bytes) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_it_is_loaded_by_its_name(gateway: GatewayFactory, upstream: Answers) -> None:
    running = await gateway(account(upstream) + '[plugins]\nload = ["agm.contrib.answer_cache"]\n')
    answer_cache._cache._answers.clear()
    assert [await asked(running) for _ in range(2)] == ["miss", "hit"]
    await eventually(lambda: not answer_cache._cache._asked, "nothing in flight")


def test_it_does_what_the_hookspecs_ask() -> None:
    check_plugin(AnswerCache(), name="answer_cache", settings='[plugins.answer_cache]\nshare = "team"\n')


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ('share = "world"', "plugins.answer_cache.share: invalid enum value 'world'"),
        ("seconds = 0", "plugins.answer_cache.seconds: expected `float` > 0"),
        ("max_byte = 1", "plugins.answer_cache.max_byte: unknown key; did you mean 'max_bytes'?"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_settings_that_cannot_be_are_refused(gateway: GatewayFactory, setting: str, why: str) -> None:
    with pytest.raises(SystemExit) as caught:
        await gateway(f"[plugins.answer_cache]\n{setting}\n", plugins=[AnswerCache()])
    assert why.replace("`", "") in str(caught.value)
