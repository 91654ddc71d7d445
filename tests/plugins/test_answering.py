"""What plugins do before an upstream is asked: look up, answer, keep an answer; and how they begin and end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from agm import hookimpl
from agm.api import (
    Account,
    AccountSource,
    ApiKey,
    EndStream,
    Framing,
    Gateway,
    GatewayRequest,
    KeepAnswer,
    LocalAnswer,
    ModelChoice,
    RequestRecord,
    Unavailable,
)
from agm.testing import GatewayFactory, RunningEmulator
from tests.helpers.support import SSE_HEAD, ScriptedUpstream, account, chunk, connect, eventually, post

DOCUMENT = {"candidates": [{"content": {"role": "model", "parts": [{"text": "from here"}]}, "finishReason": "STOP"}]}
#: How a client asks in each framing.
WAYS = {
    Framing.UNARY: ("generateContent", ""),
    Framing.SSE: ("streamGenerateContent", "?alt=sse"),
    Framing.ARRAY: ("streamGenerateContent", "?alt=json"),
}
BODY = b'{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}'


def named(name: str, **functions: Any) -> Any:
    """A plugin of some functions, each marked."""
    return SimpleNamespace(__name__=name, **{hook: hookimpl(function) for hook, function in functions.items()})


class Kept:
    """Remembers the records."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)


def path(framing: Framing, model: str = "m") -> str:
    method, query = WAYS[framing]
    return f"/v1beta/models/{model}:{method}{query}"


def documents(framing: Framing, body: bytes) -> Any:
    if framing is Framing.SSE:
        return [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: ")]
    return json.loads(body)


# A local answer


@pytest.mark.parametrize("awaits", [False, True])
@pytest.mark.parametrize("framing", list(WAYS))
@pytest_twisted.ensureDeferred
async def test_a_local_answer_comes_in_the_form_that_the_client_asked_for(
    gateway: GatewayFactory, emulator: RunningEmulator, framing: Framing, awaits: bool
) -> None:
    content: Any = DOCUMENT if framing is Framing.UNARY else [DOCUMENT, DOCUMENT]

    def answer(request: GatewayRequest) -> Any:
        return LocalAnswer(content, headers={"x-cache": "hit"}) if request.model == "m" else None

    async def later(request: GatewayRequest) -> Any:
        return answer(request)

    kept = Kept()
    running = await gateway(
        emulator.account("a"), plugins=[kept, named("cache", agm_answer_request=later if awaits else answer)]
    )
    found = await running.fetch("POST", path(framing), body=BODY)
    assert (found.status, found.headers["x-cache"]) == (200, "hit")
    expected = "text/event-stream" if framing is Framing.SSE else "application/json"
    assert found.headers["content-type"].startswith(expected)
    assert documents(framing, found.body) == content
    assert not emulator.log
    (record,) = kept.records
    assert (record.outcome, record.account, record.attempts, record.sent) == ("ok", None, (), len(found.body))
    assert (await running.fetch("POST", path(framing, "other"), body=BODY)).status == 200
    assert len(emulator.log) == 1


@pytest_twisted.ensureDeferred
async def test_a_guard_refuses_in_its_own_words_and_a_broken_one_lets_nothing_out(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    def guard(request: GatewayRequest) -> None:
        raise Unavailable("Not today.", reason="NOT_TODAY")

    running = await gateway(emulator.account("a"), plugins=[named("guard", agm_answer_request=guard)])
    found = await running.ask("m")
    assert (found.status, found.json["error"]["message"]) == (503, "Not today.")
    assert not emulator.log


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize(
    "result",
    [
        5,
        LocalAnswer([]),
        LocalAnswer({"at": object()}),
        LocalAnswer(DOCUMENT, headers={"a\r\nb": "c"}),
        LocalAnswer({}, 99),
    ],
    ids=["number", "nothing", "an object", "a line break", "status"],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_go_out_is_blamed_on_its_plugin(
    gateway: GatewayFactory, emulator: RunningEmulator, result: Any
) -> None:
    running = await gateway(emulator.account("a"), plugins=[named("odd", agm_answer_request=lambda request: result)])
    found = await running.ask("m")
    assert found.status == 500
    assert "agm_answer_request of plugin odd" in found.json["error"]["message"]
    assert running.gateway.hooks.failures["odd", "agm_answer_request"] == 1
    assert not emulator.log


@pytest_twisted.ensureDeferred
async def test_an_explanation_names_the_plugin_that_answers(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(
        emulator.account("a"), plugins=[named("cache", agm_answer_request=lambda request: LocalAnswer(DOCUMENT))]
    )
    explained = await running.explain("m")
    assert explained["answer"] == {"status": 200, "plugin": "cache"}
    assert "account" not in explained


# An answer that is kept


@pytest.mark.parametrize("framing", list(WAYS))
@pytest_twisted.ensureDeferred
async def test_an_answer_is_kept_as_the_client_got_it_and_given_again(
    gateway: GatewayFactory, emulator: RunningEmulator, framing: Framing
) -> None:
    answers: dict[bytes, bytes] = {}

    def answer(request: GatewayRequest) -> Any:
        known = answers.get(request.body.raw)
        return KeepAnswer() if known is None else LocalAnswer(known, headers={"x-cache": "hit"})

    def keep(record: RequestRecord) -> None:
        if record.answer is not None:
            answers[record.request.body.raw] = record.answer

    running = await gateway(
        emulator.account("a", "code-assist"),
        plugins=[named("cache", agm_answer_request=answer, agm_request_finished=keep)],
    )
    first = await running.fetch("POST", path(framing), body=BODY)
    second = await running.fetch("POST", path(framing), body=BODY)
    assert first.status == second.status == 200
    assert "x-cache" not in first.headers
    assert second.headers["x-cache"] == "hit"
    assert second.body == first.body
    assert first.headers["content-type"].partition(";")[0] == second.headers["content-type"].partition(";")[0]
    assert [entry.model for entry in emulator.log] == ["m"]


@pytest_twisted.ensureDeferred
async def test_no_answer_is_kept_that_is_an_error_or_too_large_or_broke_off(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    kept = Kept()
    running = await gateway(
        "[pool]\nmax_attempts = 1\n" + emulator.account("a"),
        plugins=[kept, named("cache", agm_answer_request=lambda request: KeepAnswer(200))],
    )
    for model, method in (("emu-400", "generateContent"), ("emu-bigunary-1", "generateContent")):
        await running.ask(model, method=method)
    with pytest.raises(Exception):  # noqa: B017  # the connection breaks off, in whichever way treq says it
        await running.ask("emu-cut", method="streamGenerateContent")
    await eventually(lambda: len(kept.records) == 3, "three records")
    assert [record.answer for record in kept.records] == [None, None, None]


@pytest.mark.parametrize("framing", list(WAYS))
@pytest_twisted.ensureDeferred
async def test_an_answer_that_plugins_edit_is_kept_as_edited_and_its_tokens_count(
    gateway: GatewayFactory, emulator: RunningEmulator, framing: Framing
) -> None:
    """A stream that a plugin ends early is whole."""

    def edit(event: dict[str, Any], request: GatewayRequest) -> Any:
        event = {"edited": True, "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 3}}
        return event if framing is Framing.UNARY else EndStream([event])

    kept = Kept()
    keep = named("cache", agm_answer_request=lambda request: KeepAnswer())
    running = await gateway(emulator.account("a"), plugins=[kept, keep, named("editor", agm_transform_event=edit)])
    found = await running.fetch("POST", path(framing), body=BODY)
    given = documents(framing, found.body)
    assert (given if framing is Framing.UNARY else given[0])["edited"]
    (record,) = kept.records
    assert (record.outcome, record.answer) == ("ok", found.body)
    assert record.usage is not None
    assert record.usage.prompt == 3


# Headers of answers without an upstream


@pytest_twisted.ensureDeferred
async def test_answers_of_plugins_get_the_headers_that_plugins_add(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Those of a document are of no account, those of a call of the account that answered it."""
    of: list[str | None] = []

    class Answers:
        gateway: Any = None

        @hookimpl
        def agm_started(self, gateway: Gateway) -> None:
            self.gateway = gateway

        @hookimpl
        async def agm_answer_request(self, request: GatewayRequest) -> Any:
            if request.model == "local":
                return LocalAnswer(DOCUMENT, headers={"x-cache": "hit"})
            return await self.gateway.call("n", request.body.raw, method=request.method, parent=request)

    def add(headers: dict[str, str], request: GatewayRequest, account: Account | None) -> dict[str, str]:
        of.append(None if account is None else account.name)
        return {"x-served-model": request.model, "x-cache": headers.get("x-cache", "none") + ", seen"}

    running = await gateway(emulator.account("a"), plugins=[Answers(), named("header", agm_answer_headers=add)])
    for model, cache in (("local", "hit, seen"), ("called", "none, seen")):
        found = await running.ask(model)
        assert (found.status, found.headers["x-served-model"], found.headers["x-cache"]) == (200, model, cache)
    assert of == [None, "a"]


# Calls as answers


class Hedge:
    """Asks two models, and answers with whichever begins first."""

    def __init__(self) -> None:
        self.gateway: Any = None

    @hookimpl
    def agm_started(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @hookimpl
    async def agm_answer_request(self, request: GatewayRequest) -> Any:
        if request.explaining:
            return None
        calls = [
            Deferred.fromCoroutine(self.gateway.call(model, request.body.raw, method=request.method, parent=request))
            for model in ("slow", "quick")
        ]
        first: Deferred[Any] = Deferred()
        for call in calls:
            call.addCallbacks(lambda answer: answer.close() if first.called else first.callback(answer), lambda _: None)
        answer = await first
        for call in calls:
            call.cancel()
        return answer


@pytest_twisted.ensureDeferred
async def test_a_hedge_answers_with_the_call_that_is_first_and_ends_the_other(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    kept = Kept()
    running = await gateway(account(upstream), plugins=[kept, Hedge()])
    asking = Deferred.fromCoroutine(running.ask("m", method="streamGenerateContent"))
    await eventually(lambda: sum(b"POST" in wire.received for wire in upstream.connections) == 2, "both calls")
    quick = next(wire for wire in upstream.connections if b"/quick:" in wire.received)
    slow = next(wire for wire in upstream.connections if b"/slow:" in wire.received)
    quick.send(SSE_HEAD + chunk(b'data: {"text":"one"}\r\n\r\n'))
    await slow.closed()
    assert not asking.called
    quick.send(chunk(b'data: {"text":"two"}\r\n\r\n') + b"0\r\n\r\n")
    found = await asking
    assert found.events == [{"text": "one"}, {"text": "two"}]
    await eventually(lambda: len(kept.records) == 3, "three records")
    by_model = {record.request.model: record for record in kept.records}
    assert {model: record.outcome for model, record in by_model.items()} == {
        "m": "ok",
        "quick": "ok",
        "slow": "cancelled",
    }
    assert by_model["quick"].request.parent == by_model["slow"].request.parent == by_model["m"].request.id
    assert running.gateway.pool.loads() == {"a": 0}


@pytest_twisted.ensureDeferred
async def test_a_call_that_breaks_off_breaks_off_the_answer_that_it_is(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    kept = Kept()
    running = await gateway(account(upstream), plugins=[kept, Hedge()])
    asking = Deferred.fromCoroutine(running.ask("m", method="streamGenerateContent"))
    await eventually(lambda: sum(b"POST" in wire.received for wire in upstream.connections) == 2, "both calls")
    quick = next(wire for wire in upstream.connections if b"/quick:" in wire.received)
    quick.send(SSE_HEAD + chunk(b'data: {"text":"one"}\r\n\r\n'))
    await eventually(lambda: running.gateway.live.totals()["streams"] == 2, "the answer flows")
    quick.transport.abortConnection()
    with pytest.raises(Exception):  # noqa: B017  # the connection breaks off, in whichever way treq says it
        await asking
    outcomes = {record.request.model: record.outcome for record in kept.records}
    assert (outcomes["m"], outcomes["quick"]) == ("aborted", "aborted")


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_calls_that_were_to_answer_it(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(account(upstream), plugins=[Hedge()])
    client = await connect(running.port)
    client.send(post("/v1beta/models/m:streamGenerateContent?alt=sse"))
    await eventually(lambda: sum(b"POST" in wire.received for wire in upstream.connections) == 2, "both calls")
    quick = next(wire for wire in upstream.connections if b"/quick:" in wire.received)
    quick.send(SSE_HEAD + chunk(b'data: {"text":"one"}\r\n\r\n'))
    await eventually(lambda: running.gateway.live.totals()["streams"] == 2, "the answer flows")
    await client.until(b'{"text":"one"}')
    client.transport.abortConnection()
    await quick.closed()
    await eventually(lambda: running.gateway.live.totals()["open"] == 0, "the end of all three")
    assert running.gateway.pool.loads() == {"a": 0}


# Looking up


@pytest_twisted.ensureDeferred
async def test_what_was_looked_up_is_there_for_every_decision_and_in_the_record(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    waiting: Deferred[None] = Deferred()
    seen: dict[str, Any] = {}

    async def look_up(request: GatewayRequest) -> dict[str, Any]:
        if not request.explaining:
            await waiting
        return {"team": "research"}

    def map_model(model: str, request: GatewayRequest) -> ModelChoice:
        seen["map"] = dict(request.found)
        return ModelChoice("gemini-2.5-pro", request.found["team"])

    def filter_accounts(accounts: Sequence[Account], request: GatewayRequest) -> None:
        seen["filter"] = dict(request.found)

    kept = Kept()
    running = await gateway(
        emulator.account("a"),
        plugins=[
            kept,
            named("directory", agm_look_up=look_up),
            named("other", agm_look_up=lambda request: {"tier": 2}),
            named("mapping", agm_map_model=map_model, agm_filter_accounts=filter_accounts),
        ],
    )
    asking = Deferred.fromCoroutine(running.ask("m"))
    await eventually(lambda: running.gateway.live.totals()["open"] == 1, "the request")
    assert not seen
    waiting.callback(None)
    assert (await asking).status == 200
    found = {"team": "research", "tier": 2}
    assert seen == {"map": found, "filter": found}
    assert dict(kept.records[0].request.found) == found
    assert emulator.log[0].model == "gemini-2.5-pro"
    explained = await running.explain("m")
    assert explained["model"]["reason"] == "research"
    seen.clear()
    assert (await running.fetch("GET", "/v1beta/files/abc")).status in (403, 404)
    assert seen["filter"] == found


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_look_up_that_fails_ends_the_request_in_its_own_words_if_it_has_any(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    async def down(request: GatewayRequest) -> None:
        if request.model == "m":
            raise Unavailable("The directory is down.", retry_after=5)
        raise OSError("refused")

    running = await gateway(emulator.account("a"), plugins=[named("directory", agm_look_up=down)])
    found = await running.ask("m")
    assert (found.status, found.headers["retry-after"]) == (503, "5")
    broken = await running.ask("other")
    assert (broken.status, "agm_look_up of plugin directory" in broken.body.decode()) == (500, True)
    assert not emulator.log


# Beginning and ending


@pytest_twisted.ensureDeferred
async def test_plugins_are_told_when_the_gateway_runs_and_when_it_stops(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """The gateway is there for what accounts are fetched with, and connections work until the plugin has ended."""
    told: list[str] = []
    held: dict[str, Gateway] = {}

    def started(gateway: Gateway) -> None:
        told.append("started")
        held["gateway"] = gateway

    async def accounts(config: Any) -> list[AccountSource]:
        told.append("accounts")
        assert held
        return [AccountSource(Account("vault", "api-key", (emulator.url,)), lambda refresher: ApiKey("a-key"))]

    async def stopping() -> None:
        if told[-1].startswith("stopping"):
            return  # the fixture stops it once more
        answer = await held["gateway"].call("m", BODY)
        told.append(f"stopping {answer.status}")
        answer.close()

    running = await gateway(
        emulator.account("a"),
        plugins=[named("vault", agm_started=started, agm_accounts=accounts, agm_stopping=stopping)],
    )
    assert told == ["started", "accounts"]
    await running.gateway.reload(running.gateway.config)
    assert told == ["started", "accounts", "accounts"]
    await running.stop()
    assert told[-1] == "stopping 200"


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_plugin_that_fails_at_the_start_or_the_end_holds_neither_up(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(
        emulator.account("a") + "[plugins]\ntimeout = 0.05\n",
        plugins=[
            named("bad", agm_started=lambda gateway: 1 / 0, agm_stopping=lambda: 1 / 0),
            named("slow", agm_stopping=lambda: Deferred()),
        ],
    )
    assert (await running.ask("m")).status == 200
    await running.stop()
    failures = running.gateway.hooks.failures
    assert [failures[key] for key in (("bad", "agm_started"), ("bad", "agm_stopping"), ("slow", "agm_stopping"))] == [
        1
    ] * 3


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_a_plugin_looks_something_up_is_no_failure_of_the_plugins(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    ended: list[str] = []

    async def look_up(request: GatewayRequest) -> None:
        try:
            await Deferred()
        finally:
            ended.append(request.id)

    running = await gateway(emulator.account("a"), plugins=[named("directory", agm_look_up=look_up)])
    client = await connect(running.port)
    client.send(post("/v1beta/models/m:generateContent"))
    await eventually(lambda: running.gateway.live.totals()["open"] == 1, "the request")
    client.transport.abortConnection()
    await eventually(lambda: ended, "the end of the look-up")
    assert not running.gateway.hooks.failures
