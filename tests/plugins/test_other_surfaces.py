"""What plugins can do beside Google's calls: on the OpenAI surface, for interactions, and in batches."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted

from agm.api import Answer, ClientKey, Gateway, KeyRing, LocalAnswer, ModelChoice, digest, hookimpl
from agm.testing import GatewayFactory
from tests.helpers.support import AnsweringUpstream, Asked, account, eventually

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CREATION = {"model": "m", "input": "hi"}
SPENT = {"error": {"code": 429, "message": "Quota. Please retry in 600s.", "status": "RESOURCE_EXHAUSTED"}}
#: By the surface: the path, the body, and the method that hooks see.
SURFACES: dict[str, tuple[str, dict[str, Any], str]] = {
    "openai": ("/v1beta/openai/chat/completions", CHAT, "openai.chat.completions"),
    "interactions": ("/v1beta/interactions", CREATION, "interactions.create"),
}


def named(name: str, **functions: Any) -> Any:
    return SimpleNamespace(__name__=name, **{hook: hookimpl(function) for hook, function in functions.items()})


class Upstream(AnsweringUpstream):
    """One that has no quota for a model called m."""

    def __init__(self) -> None:
        self.models: list[str] = []
        super().__init__(self._say)

    def _say(self, asked: Asked) -> tuple[Any, ...]:
        model = json.loads(asked.body)["model"]
        self.models.append(model)
        if model.endswith("m"):
            return 429, SPENT
        return 200, {"id": "v1_x", "object": "interaction", "model": model, "status": "completed"}


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[Upstream]:
    answering = Upstream()
    yield answering
    await answering.stop()


async def post(running: Any, surface: str, **more: Any) -> Any:
    path, body, _ = SURFACES[surface]
    return await running.fetch("POST", path, body=json.dumps({**body, **more}).encode())


@pytest.mark.parametrize("surface", list(SURFACES))
@pytest.mark.parametrize("stream", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_plugin_answers_in_the_form_of_the_surface(
    gateway: GatewayFactory, upstream: Upstream, surface: str, stream: bool
) -> None:
    seen: list[Any] = []
    event = {"event_type": "interaction.completed", "n": 1}

    def agm_answer_request(request: Any) -> LocalAnswer:
        seen.append(request)
        return LocalAnswer([event, event] if stream else event, headers={"x-cache": "hit"})

    running = await gateway(account(upstream), plugins=[named("cache", agm_answer_request=agm_answer_request)])
    answered = await post(running, surface, stream=stream)
    assert (answered.status, answered.headers["x-cache"], upstream.asked) == (200, "hit", [])
    (request,) = seen
    assert (request.method, request.model) == (SURFACES[surface][2], "m")
    if not stream:
        assert answered.json == event
        assert answered.headers["content-type"].startswith("application/json")
        return
    assert answered.headers["content-type"].startswith("text/event-stream")
    data = json.dumps(event, separators=(",", ":"))
    if surface == "openai":
        assert answered.body.decode() == f"data: {data}\r\n\r\n" * 2 + "data: [DONE]\n\n"
    else:
        one = f"event: interaction.completed\ndata: {data}\n\n"
        assert answered.body.decode() == one * 2 + "event: done\ndata: [DONE]\n\n"


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("surface", list(SURFACES))
@pytest_twisted.ensureDeferred
async def test_the_answer_of_a_call_is_of_another_form_and_refused(
    gateway: GatewayFactory, upstream: Upstream, surface: str
) -> None:
    closed: list[bool] = []

    class Foreign(Answer):
        status = 200

        def close(self) -> None:
            closed.append(True)

    running = await gateway(account(upstream), plugins=[named("hedge", agm_answer_request=lambda request: Foreign())])
    answered = await post(running, surface)
    assert answered.status == 500
    assert answered.json["error"]["details"][0]["reason"] == "PLUGIN_FAILED"
    assert (closed, upstream.asked) == ([True], [])


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_an_event_of_an_interaction_without_its_type_is_blamed(
    gateway: GatewayFactory, upstream: Upstream
) -> None:
    plugin = named("cache", agm_answer_request=lambda request: LocalAnswer([{"n": 1}]))
    running = await gateway(account(upstream), plugins=[plugin])
    assert (await post(running, "interactions", stream=True)).status == 500
    assert running.gateway.hooks.failures["cache", "agm_answer_request"] == 1


@pytest.mark.parametrize("by", ["configuration", "plugin"])
@pytest.mark.parametrize("surface", list(SURFACES))
@pytest_twisted.ensureDeferred
async def test_other_models_are_tried_where_quota_alone_keeps_one_from_serving(
    gateway: GatewayFactory, upstream: Upstream, surface: str, by: str
) -> None:
    records: list[Any] = []
    chosen = named(
        "chosen",
        agm_map_model=lambda model: ModelChoice(model, "so", ("models-of-m", "n")) if by == "plugin" else None,
        agm_request_finished=lambda record: records.append(record),
    )
    fallbacks = '[models.fallbacks]\nm = ["models-of-m", "n"]\n' if by == "configuration" else ""
    running = await gateway(account(upstream) + fallbacks + "[pool]\nmax_wait = 0\n", plugins=[chosen])
    answered = await post(running, surface)
    assert (answered.status, upstream.models) == (200, ["m", "models-of-m", "n"])
    (record,) = records
    assert (record.request.asked_model, record.request.model) == ("m", "n")
    assert [attempt.model for attempt in record.attempts] == ["m", "models-of-m", "n"]


@pytest_twisted.ensureDeferred
async def test_what_names_an_interaction_or_an_agent_has_no_fallback(
    gateway: GatewayFactory, upstream: Upstream
) -> None:
    running = await gateway(account(upstream) + '[models.fallbacks]\nm = ["n"]\n[pool]\nmax_wait = 0\n')
    running.gateway.calls.context.ownership.remember("interactions/v1_before", "a")
    assert (await post(running, "interactions", previous_interaction_id="v1_before")).status == 429
    assert upstream.models == ["m"]


@pytest.mark.parametrize("surface", list(SURFACES))
@pytest_twisted.ensureDeferred
async def test_who_asks_is_told(gateway: GatewayFactory, upstream: Upstream, surface: str) -> None:
    seen: list[Any] = []
    key = ClientKey("ada", digest("key-of-ada"), team="search", metadata={"user": "Ada"})
    plugin = named(
        "mine",
        agm_client_keys=lambda: [KeyRing([key])],
        agm_request_finished=lambda record: seen.append(record.request),
    )
    running = await gateway(account(upstream), plugins=[plugin])
    path, body, _ = SURFACES[surface]
    await running.fetch("POST", path, body=json.dumps({**body, "model": "n"}).encode(), key="key-of-ada")
    (request,) = seen
    assert (request.client_key, request.team, request.key_metadata) == ("ada", "search", {"user": "Ada"})


@pytest_twisted.ensureDeferred
async def test_a_call_for_an_interaction_is_the_plugins_to_translate(
    gateway: GatewayFactory, upstream: Upstream
) -> None:
    """What an Answer cannot be, a LocalAnswer is made of."""

    class Translating:
        gateway: Gateway

        @hookimpl
        def agm_started(self, gateway: Gateway) -> None:
            self.gateway = gateway

        @hookimpl
        async def agm_answer_request(self, request: Any) -> LocalAnswer | None:
            if request.method != "interactions.create":
                return None
            answer = await self.gateway.call("n", {"model": "n", "contents": []}, parent=request)
            return LocalAnswer({"id": "v1_mine", "of": (await answer.json())["model"]})

    running = await gateway(account(upstream), plugins=[Translating()])
    assert (await post(running, "interactions")).json == {"id": "v1_mine", "of": "n"}


# Batches

INNER = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


def batch(names: tuple[str, str], requests: list[Any]) -> dict[str, Any]:
    outer, config = names
    found: dict[str, Any] = {config: {"requests": {"requests": requests}}}
    return {outer: found} if outer else found


@pytest.mark.parametrize("names", [("batch", "inputConfig"), ("batch", "input_config"), ("", "inputConfig")])
@pytest.mark.parametrize("method", ["batchGenerateContent", "asyncBatchEmbedContent"])
@pytest_twisted.ensureDeferred
async def test_each_request_of_a_batch_is_edited_as_what_it_is_and_then_the_batch(
    gateway: GatewayFactory, method: str, names: tuple[str, str]
) -> None:
    answering = AnsweringUpstream(lambda _: (200, {"name": "batches/b"}))
    seen: list[tuple[str, str]] = []

    def agm_transform_request(body: dict[str, Any], request: Any) -> dict[str, Any]:
        seen.append((request.method, request.id))
        assert request.body.json().keys() <= {"contents", *names}
        return {**body, "of": request.method}

    running = await gateway(account(answering), plugins=[named("mine", agm_transform_request=agm_transform_request)])
    sent = batch(names, [{"request": INNER, "metadata": {"key": str(n)}} for n in range(40)])
    answered = await running.fetch("POST", f"/v1beta/models/m:{method}", body=json.dumps(sent).encode())
    assert answered.status == 200, answered.body
    inner = "generateContent" if method.startswith("batch") else "embedContent"
    assert [one for one, _ in seen] == [inner] * 40 + [method]
    assert len({identifier for _, identifier in seen}) == 1
    edited = [{"request": {**INNER, "of": inner}, "metadata": {"key": str(n)}} for n in range(40)]
    (asked,) = answering.asked
    assert json.loads(asked.body) == {**batch(names, edited), "of": method}
    await answering.stop()


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"batch": None},
        {"batch": {"inputConfig": []}},
        {"batch": {"inputConfig": {"requests": {"requests": [None, {}, {"request": 5}]}}}},
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_batch_that_is_none_is_the_upstreams_to_refuse(gateway: GatewayFactory, odd: dict[str, Any]) -> None:
    answering = AnsweringUpstream(lambda _: (200, {"name": "batches/b"}))
    plugin = named("mine", agm_transform_request=lambda body: {**body, "seen": True})
    running = await gateway(account(answering), plugins=[plugin])
    await running.fetch("POST", "/v1beta/models/m:batchGenerateContent", body=json.dumps(odd).encode())
    await eventually(lambda: answering.asked, "the batch")
    assert json.loads(answering.asked[0].body) == {**odd, "seen": True}
    await answering.stop()


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_plugin_that_fails_in_a_batch_keeps_all_of_it(gateway: GatewayFactory) -> None:
    answering = AnsweringUpstream(lambda _: (200, {"name": "batches/b"}))
    fails: Callable[..., Any] = lambda request: 1 / (request.method != "generateContent")  # noqa: E731
    running = await gateway(account(answering), plugins=[named("mine", agm_transform_request=fails)])
    sent = batch(("batch", "inputConfig"), [{"request": INNER}])
    answered = await running.fetch("POST", "/v1beta/models/m:batchGenerateContent", body=json.dumps(sent).encode())
    assert (answered.status, answering.asked) == (500, [])
    await answering.stop()
