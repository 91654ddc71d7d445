"""Explaining: what is explained is what happens, nothing happens by explaining, and only the right people may ask."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from agm.api import (
    AccountChoice,
    AccountSource,
    ApiKey,
    ClientKey,
    Forbidden,
    GatewayError,
    ModelChoice,
    UpstreamRequest,
    digest,
    hookimpl,
)
from agm.core.sender import Sender
from agm.testing import Answer, GatewayFactory, RunningEmulator, RunningGateway
from agm.web.access import Access
from agm.web.admin.explain import Explain
from agm.web.admin.plugins import Plugins
from agm.web.base import Visit
from tests.helpers.support import AnsweringUpstream, Asked, google_error, reactor, retry

GOOD = {"candidates": [{"content": {"parts": [{"text": "good"}]}, "finishReason": "STOP"}]}
#: What the connection says of itself, not the request.
HOP = {"host", "content-length", "connection"}
CREDENTIALS = {"[redacted]", "Bearer [redacted]"}


def answer(asked: Asked) -> tuple[Any, ...]:
    """Answer well in the form that was asked for; the key `tired` is refused for half a minute."""
    if asked.credential == "tired":
        return 429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("30s"))
    document: Any = {"response": GOOD} if "v1internal" in asked.path else GOOD
    if "alt=sse" in asked.uri:
        return 200, b"data: " + json.dumps(document).encode() + b"\r\n\r\n", {"content-type": "text/event-stream"}
    return 200, [document] if "streamGenerateContent" in asked.path else document


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[AnsweringUpstream]:
    answering = AnsweringUpstream(answer)
    yield answering
    await answering.stop()


def account(name: str, kind: str = "api-key", *lines: str, key: str = "") -> str:
    """An account at URL, with a key that is its name."""
    credential = (
        f'access_token = "{key or name}"\nproject = "proj"'
        if kind in ("code-assist", "vertex")
        else f'api_key = "{key or name}"'
    )
    return "\n".join(
        [
            "[[accounts]]",
            f'name = "{name}"',
            f'kind = "{"vertex" if kind == "express" else kind}"',
            credential,
            'endpoints = ["URL"]',
            *lines,
            "",
        ]
    )


THREE = account("a0") + account("a1") + account("a2")


def prompt(text: str = "hi") -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}]}


@attrs.define
class Setting:
    """A gateway before an upstream that answers."""

    running: RunningGateway
    upstream: AnsweringUpstream

    async def question(self, document: object) -> Answer:
        """Ask for an explanation, in any form."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return await self.running.fetch("POST", "/_agm/explain", body=body)

    async def real(self, question: Mapping[str, Any], key: str | None = None) -> Answer:
        """The request that a question is about."""
        method = question.get("method", "generateContent")
        query = "&".join(f"{name}={value}" for name, value in question.get("query", {}).items())
        return await self.running.fetch(
            "POST",
            f"/v1beta/models/{question['model']}:{method}{'?' if query else ''}{query}",
            body=json.dumps(question.get("body", prompt())).encode(),
            key=key,
            headers=question.get("headers"),
        )


Setup = Callable[..., Awaitable[Setting]]


@pytest.fixture
def setup(gateway: GatewayFactory, upstream: AnsweringUpstream) -> Setup:
    async def make(config: str, *plugins: object, **options: Any) -> Setting:
        text = "[gateway]\nshow_account = true\n" + config.replace("URL", upstream.url)
        return Setting(await gateway(text, plugins=plugins, **options), upstream)

    return make


# Plugins of scenarios


class Filter:
    @hookimpl
    def agm_filter_accounts(self, accounts: Any, request: Any) -> Any:
        return {a.name: "not today" for a in accounts if a.name != "a2"}


class Select:
    @hookimpl
    def agm_select_account(self, accounts: Any) -> Any:
        return AccountChoice(accounts[-1], "the last one")


class SelectNone:
    @hookimpl
    def agm_select_account(self, accounts: Any) -> Any:
        return attrs.evolve(accounts[0], name="nobody")


class Transform:
    @hookimpl
    def agm_transform_request(self, body: Any, request: Any) -> Any:
        return {**body, "labels": {"team": request.model}}


class SlowTransform:
    @hookimpl
    async def agm_transform_request(self, body: Any) -> Any:
        await deferLater(reactor, 0.01)
        return {**body, "labels": {"slow": "yes"}}


class Wrap:
    @hookimpl
    def agm_wrap_request(self, request: Any, account: Any, body: bytes) -> Any:
        headers = ((b"Content-Type", b"application/json"), (b"X-Mirror", b"1"))
        return UpstreamRequest(f"/mirror/{request.model}", headers, body, request.upstream_framing)


class MapByText:
    @hookimpl
    def agm_map_model(self, request: Any) -> Any:
        return "short" if len(request.body.raw) < 1000 else "long"


class MapByHeader:
    @hookimpl
    def agm_map_model(self, request: Any) -> Any:
        return ModelChoice(request.headers["x-want"], "the header says so") if "x-want" in request.headers else None


class MapWrapper:
    @hookimpl(wrapper=True)
    def agm_map_model(self) -> Any:
        choice = yield
        return ModelChoice(choice.model + "-wrapped", "wrapped")


class Refuse:
    @hookimpl
    def agm_map_model(self) -> Any:
        raise Forbidden("This is the night's rest.", reason="NIGHT")


class EditEvents:
    @hookimpl
    def agm_transform_event(self, event: Any) -> Any:
        return event


async def ask(setting: Setting, *questions: tuple[str, str]) -> None:
    for model, text in questions:
        await setting.real({"model": model, "body": prompt(text)})


@attrs.frozen
class Scenario:
    """A gateway, what happened before, and a request; what the explanation holds beyond what the request proves."""

    config: str
    question: Mapping[str, Any]
    expected: Mapping[str, Any]
    plugins: tuple[object, ...] = ()
    before: tuple[tuple[str, str], ...] = ()
    key: str | None = None


KEYS = '[[auth.keys]]\nname = "ci"\nkey = "ci-key"\nmodels = ["gemini-*"]\nrequests_per_minute = 1\n'
ALIASES = '[models.aliases]\nexact = "served"\n"ex*" = "short"\n"exa*" = "specific"\n'
M = {"model": "m"}

SCENARIOS = {
    "an exact alias": Scenario(
        ALIASES + account("a0"),
        {"model": "exact"},
        {"model.served": "served", "model.reason": "alias 'exact'", "model.plugin": "agm.defaults.aliases"},
    ),
    "the most specific wildcard": Scenario(
        ALIASES + account("a0"), {"model": "example"}, {"model.served": "specific", "model.reason": "alias 'exa*'"}
    ),
    "a new conversation": Scenario(
        THREE,
        {**M, "body": prompt("new")},
        {"account.name": "a1", "account.reason": "sticky: a new conversation, by its hash"},
        before=(("m", "old"),),
    ),
    "a known conversation": Scenario(
        THREE,
        {**M, "body": prompt("old")},
        {"account.name": "a1", "account.reason": "sticky: it served this conversation before"},
        before=(("m", "old"), ("m", "other")),
    ),
    "round-robin": Scenario(
        '[pool]\nstrategy = "round-robin"\n' + THREE,
        M,
        {"account.name": "a2", "account.reason": "round-robin: its turn"},
        before=(("m", "1"), ("m", "2")),
    ),
    "least-loaded": Scenario('[pool]\nstrategy = "least-loaded"\n' + THREE, M, {"account.name": "a0"}),
    "priority": Scenario(
        '[pool]\nstrategy = "priority"\n' + account("a0", "api-key", "priority = 1") + account("a1"),
        M,
        {"account.name": "a1", "account.reason": "priority 0"},
    ),
    "an account that rests": Scenario(
        account("a0", key="tired") + account("a1"),
        M,
        {"candidates": ["a1"], "excluded.0.account": "a0", "excluded.0.cause": "resting"},
        before=tuple(("m", str(number)) for number in range(6)),
    ),
    "an account that lacks the model": Scenario(
        account("a0", "api-key", 'models = ["n"]') + account("a1"),
        M,
        {"candidates": ["a1"], "excluded.0.cause": "it lacks the model"},
    ),
    "an endpoint that is left alone": Scenario(
        account("a0").replace('"URL"', '"http://127.0.0.1:1", "URL"'),
        M,
        {"account.name": "a0"},
        before=tuple(("m", str(number)) for number in range(6)),
    ),
    "an account that is switched off": Scenario(
        account("a0", "api-key", "enabled = false") + account("a1"), M, {"candidates": ["a1"], "excluded": []}
    ),
    "a filter": Scenario(
        THREE,
        M,
        {"candidates": ["a2"], "excluded.1.reason": "not today", "excluded.1.plugin": "a plugin"},
        plugins=(Filter(),),
    ),
    "a selection": Scenario(
        THREE,
        M,
        {"account.name": "a2", "account.reason": "the last one", "account.plugin": "a plugin"},
        plugins=(Select(),),
    ),
    "a selection of no candidate": Scenario(
        THREE, M, {"account.name": "a0", "account.plugin": None}, plugins=(SelectNone(),)
    ),
    "an edited body": Scenario(
        account("a0"), M, {"edited_by.0": "a plugin", "upstream.body.labels": {"team": "m"}}, plugins=(Transform(),)
    ),
    "a body that is edited after a while": Scenario(
        account("a0"), M, {"upstream.body.labels": {"slow": "yes"}}, plugins=(SlowTransform(),)
    ),
    "a mirror": Scenario(account("a0"), M, {"upstream.plugin": "a plugin"}, plugins=(Wrap(),)),
    "a model by the text": Scenario(account("a0"), M, {"model.served": "short"}, plugins=(MapByText(),)),
    "a model by a header": Scenario(
        account("a0"),
        {**M, "headers": {"X-Want": "special"}},
        {"model.served": "special", "model.reason": "the header says so"},
        plugins=(MapByHeader(),),
    ),
    "a wrapper around the mapping": Scenario(
        ALIASES + account("a0"),
        {"model": "exact"},
        {"model.served": "served-wrapped", "model.plugin": "a plugin"},
        plugins=(MapWrapper(),),
    ),
    "Code Assist": Scenario(
        account("a0", "code-assist"),
        M,
        {
            "account.kind": "code-assist",
            "upstream.body.project": "proj",
            "upstream.body.request.contents.0.role": "user",
        },
    ),
    "a stream from Code Assist": Scenario(
        account("a0", "code-assist"), {**M, "method": "streamGenerateContent", "query": {"alt": "sse"}}, {}
    ),
    "tokens counted by Code Assist": Scenario(account("a0", "code-assist"), {**M, "method": "countTokens"}, {}),
    "Vertex AI": Scenario(account("a0", "vertex", 'location = "us-central1"'), M, {"account.kind": "vertex"}),
    "Vertex AI, express": Scenario(account("a0", "express"), M, {"account.kind": "vertex"}),
    "a stream in an array": Scenario(
        account("a0"), {**M, "method": "streamGenerateContent", "query": {"alt": "json"}}, {"request.framing": "array"}
    ),
    "a stream whose events are edited": Scenario(
        account("a0"),
        {**M, "method": "streamGenerateContent", "query": {"alt": "json"}},
        {"request.framing": "array"},
        plugins=(EditEvents(),),
    ),
    "a header for the upstream": Scenario(
        account("a0"), {**M, "headers": {"X-Server-Timeout": "30"}}, {"upstream.headers.X-Server-Timeout": "30"}
    ),
    "a model with a colon and a space": Scenario(
        account("a0"), {"model": "my/model:free%20one"}, {"model.served": "my/model:free one"}
    ),
    "a key with limits": Scenario(
        KEYS + account("a0"), {"model": "gemini-x", "key": "ci"}, {"client_key": "ci"}, key="ci-key"
    ),
    "a model that the key may not use": Scenario(
        KEYS + account("a0"), {**M, "key": "ci"}, {"error.code": 403}, key="ci-key"
    ),
    "no account": Scenario("", M, {"error.code": 503, "candidates": [], "excluded": []}),
    "a method that no account has": Scenario(
        account("a0", "code-assist"),
        {**M, "method": "embedContent", "body": {"content": {"parts": [{"text": "x"}]}}},
        {"error.code": 501, "excluded.0.cause": "its kind lacks the method"},
    ),
    "a model that no account has": Scenario(
        account("a0", "api-key", 'models = ["n"]'), M, {"error.code": 404, "excluded.0.account": "a0"}
    ),
    "nobody but one who rests": Scenario(
        account("a0", key="tired"), M, {"error.code": 429, "candidates": []}, before=(("m", "1"),)
    ),
    "a plugin that refuses": Scenario(account("a0"), M, {"error.code": 403}, plugins=(Refuse(),)),
}


def part(document: Any, path: str) -> Any:
    """``account.name`` of a document."""
    for step in path.split("."):
        document = document[int(step) if isinstance(document, list) else step]
    return document


def settled(document: Any) -> Any:
    """Without what time or chance changes."""
    text = json.loads(json.dumps(document))
    body = text.get("upstream", {}).get("body", text)
    if isinstance(body, dict):
        body.pop("requestId", None)
    for each in text.get("excluded", ()):
        each["retry_after"] = each["retry_after"] is not None
    if "error" in text:
        text["error"] = (text["error"]["code"], text["error"]["status"], reason(text["error"]))
    return text


def reason(error: Mapping[str, Any]) -> Any:
    return next(detail["reason"] for detail in error["details"] if "reason" in detail)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_what_is_explained_is_what_happens(setup: Setup, name: str) -> None:
    scenario = SCENARIOS[name]
    setting = await setup(scenario.config, *scenario.plugins)
    await ask(setting, *scenario.before)
    asked = len(setting.upstream.asked)
    # a question holds the model's name, a request its place in a path
    question = {**scenario.question, "model": scenario.question["model"].replace("%20", " ")}
    question.setdefault("body", prompt())
    found = (await setting.question(question)).json
    again = (await setting.question(question)).json
    assert settled(found) == settled(again)
    assert len(setting.upstream.asked) == asked
    origins = setting.running.gateway.hooks.manager.origins
    (plugin,) = [name for name, origin in origins.items() if origin.kind != "built-in"] or [None]
    known = {"a plugin": plugin}
    for path, expected in scenario.expected.items():
        assert part(found, path) == (known.get(expected, expected) if isinstance(expected, str) else expected)

    answered = await setting.real(scenario.question, scenario.key)
    if "error" in found:
        assert len(setting.upstream.asked) == asked
        assert answered.status == found["error"]["code"]
        assert reason(answered.json["error"]) == reason(found["error"])
        return
    assert answered.status == 200, answered.body
    (got,) = setting.upstream.asked[asked:]
    assert answered.account == found["account"]["name"]
    assert setting.upstream.url + got.uri == found["upstream"]["url"]
    headers = {header.lower(): value for header, value in found["upstream"]["headers"].items()}
    assert headers.keys() == got.headers.keys() - HOP
    assert {value for header, value in headers.items() if value != got.headers[header]} <= CREDENTIALS
    sent = json.loads(got.body)
    assert (sent.pop("requestId", None) is None) == (found["upstream"]["body"].pop("requestId", None) is None)
    assert sent == found["upstream"]["body"]


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_filter_that_fails_ends_the_explanation_as_it_ends_the_request(setup: Setup) -> None:
    class Broken:
        @hookimpl
        def agm_filter_accounts(self) -> Any:
            raise RuntimeError("a-private-reason")

    setting = await setup(account("a0"), Broken())
    found = await setting.question(M)
    answered = await setting.real(M)
    assert found.status == 200
    assert answered.status == found.json["error"]["code"] == 500
    assert answered.json["error"] == found.json["error"]
    assert "a-private-reason" not in found.body.decode()


# Nothing happens


@pytest_twisted.ensureDeferred
async def test_explaining_takes_nobody_s_turn(setup: Setup) -> None:
    setting = await setup('[pool]\nstrategy = "round-robin"\n' + THREE)
    served = []
    for _ in range(4):
        for _ in range(2):
            await setting.question(M)
        served.append((await setting.real(M)).account)
    assert served == ["a0", "a1", "a2", "a0"]


@pytest_twisted.ensureDeferred
async def test_explaining_a_conversation_does_not_begin_it(setup: Setup) -> None:
    setting = await setup(THREE)
    question = {**M, "body": prompt("x")}
    for _ in range(3):
        found = (await setting.question(question)).json
        assert found["account"]["reason"] == "sticky: a new conversation, by its hash"
    served = (await setting.real(question)).account
    found = (await setting.question(question)).json
    assert (found["account"]["name"], found["account"]["reason"]) == (
        served,
        "sticky: it served this conversation before",
    )


@pytest_twisted.ensureDeferred
async def test_explaining_uses_up_no_limit_and_shows_one_that_is_used_up(setup: Setup) -> None:
    setting = await setup(KEYS + account("a0"))
    question = {"model": "gemini-x", "key": "ci"}
    for _ in range(3):
        assert "error" not in (await setting.question(question)).json
    assert (await setting.real(question, "ci-key")).status == 200
    refused = await setting.real(question, "ci-key")
    found = (await setting.question(question)).json
    assert refused.status == found["error"]["code"] == 429
    assert reason(refused.json["error"]) == reason(found["error"]) == "CLIENT_KEY_LIMIT"


@pytest_twisted.ensureDeferred
async def test_plugins_are_told_that_nothing_will_be_sent_and_observers_of_nothing(setup: Setup) -> None:
    seen: list[object] = []

    class Watch:
        @hookimpl
        def agm_map_model(self, request: Any) -> None:
            seen.append(request.explaining)

        @hookimpl
        def agm_attempt_finished(self, attempt: Any) -> None:
            seen.append(attempt)

        @hookimpl
        def agm_request_finished(self, record: Any) -> None:
            seen.append(record)

    setting = await setup(account("a0"), Watch())
    await setting.question(M)
    assert seen == [True]
    assert setting.running.gateway.pool.loads() == {"a0": 0}


# Questions


@pytest.mark.parametrize(
    ("question", "status", "said"),
    [
        (b"{", 400, "not a question"),
        (b"[]", 400, "not a question"),
        (b"\xff", 400, "not a question"),
        ({}, 400, "`model`"),
        ({"model": 1}, 400, "$.model"),
        ({"model": "m", "modle": "x"}, 400, "`modle`"),
        ({"model": "m", "method": "generate"}, 400, "generateContent"),
        ({"model": "m", "version": "v2"}, 400, "v1beta"),
        ({"model": "m", "method": "streamGenerateContent", "query": {"alt": "media"}}, 400, "alt=sse"),
        ({"model": "m", "key": "nobody"}, 400, "agm key list"),
        ({"model": "m", "headers": {"a b": "c"}}, 400, "headers"),
        ({"model": "m", "headers": {"a": "b\r\nc: d"}}, 400, "headers"),
        ({"model": "m", "headers": {"a": "€"}}, 400, "headers"),
        ({"model": "a/../b"}, 400, "segment"),
        ({"model": "a\nb"}, 400, "character"),
        ({"model": ""}, 404, "names no method"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_question_is_refused_with_what_is_wrong(
    setup: Setup, question: object, status: int, said: str
) -> None:
    answered = await (await setup(account("a0"))).question(question)
    assert answered.status == answered.json["error"]["code"] == status
    assert said in answered.json["error"]["message"]


@pytest_twisted.ensureDeferred
async def test_only_post_asks_and_only_get_lists(setup: Setup) -> None:
    running = (await setup("")).running
    assert (await running.fetch("GET", "/_agm/explain")).headers["allow"] == "POST, OPTIONS"
    assert (await running.fetch("POST", "/_agm/plugins", body=b"{}")).headers["allow"] == "GET, HEAD, OPTIONS"
    assert (await running.fetch("GET", "/_agm/else")).status == 404


# Secrets


@pytest_twisted.ensureDeferred
async def test_no_secret_is_in_any_answer(setup: Setup) -> None:
    class Vault:
        @hookimpl
        def agm_accounts(self) -> Any:
            from agm.api import Account

            return [AccountSource(Account("vault", "api-key", ("http://127.0.0.1:9",)), lambda _: ApiKey("CANARY-1"))]

        @hookimpl
        def agm_wrap_request(self, request: Any, account: Any, body: bytes) -> Any:
            if request.model == "m":
                return None
            headers = ((b"X-Vault-Token", b"CANARY-2"), (b"Cookie", b"CANARY-3"), (b"X-Plain", b"shown"))
            return UpstreamRequest("/x?key=CANARY-4&alt=sse&access_token=CANARY-5", headers, body, request.framing)

    seen: list[Mapping[str, str]] = []

    class Look:
        @hookimpl
        def agm_map_model(self, request: Any) -> None:
            seen.extend((request.headers, request.query))

    config = (
        '[[auth.keys]]\nname = "ci"\nkey = "CANARY-6"\n'
        + account("one", key="CANARY-7")
        + account("two", "vertex", key="CANARY-8")
        + account("three", "code-assist", key="CANARY-9")
    )
    setting = await setup(config, Vault(), Look())
    credentials = {"Authorization": "Bearer CANARY-10", "x-goog-api-key": "CANARY-11", "Cookie": "CANARY-12"}
    shown = ""
    for model in ("m", "n"):
        for only in ("one", "two", "three", "vault"):
            question = {"model": model, "headers": credentials, "query": {"key": "CANARY-13"}, "body": prompt(only)}
            answered = await setting.question({**question, "key": "ci"})
            assert answered.json["upstream"]["url"]
            shown += answered.body.decode()
    shown += (await setting.running.fetch("GET", "/_agm/plugins")).body.decode()
    shown += (await setting.question({"model": "m", "key": "CANARY-14"})).body.decode()
    shown += (await setting.question({"model": "m", "headers": {"CANARY 15": "x"}})).body.decode()
    assert "CANARY" not in shown
    assert "CANARY" not in str(seen)
    assert "/x?key=[redacted]&alt=sse&access_token=[redacted]" in shown
    assert '"X-Plain": "shown"' in shown


@pytest_twisted.ensureDeferred
async def test_each_kind_shows_where_its_credential_goes(setup: Setup) -> None:
    places = {}
    for kind in ("api-key", "express", "vertex", "code-assist"):
        headers = (await (await setup(account("a0", kind))).question(M)).json["upstream"]["headers"]
        places[kind] = [name.lower() for name, value in headers.items() if "[redacted]" in value]
    assert places == {
        "api-key": ["x-goog-api-key"],
        "express": ["x-goog-api-key"],
        "vertex": ["authorization"],
        "code-assist": ["authorization"],
    }


@pytest_twisted.ensureDeferred
async def test_a_long_body_is_cut(setup: Setup) -> None:
    found = (await (await setup(account("a0"))).question({**M, "body": prompt("x" * 100_000)})).json
    assert len(found["upstream"]["body"]) < 70_000
    assert found["upstream"]["body"].endswith("bytes)")


# Who may ask


class FakeWire:
    """As much of a request as the resources below ``/_agm`` look at, from a sender of a test's choice."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.id = "0123456789abcdef"
        self.body = b'{"model": "m"}'
        self.site = SimpleNamespace(dialects={})
        self.sent: list[int] = []

    def send(self, status: int, headers: object, body: bytes) -> None:
        self.sent.append(status)


HERE = [Sender("127.0.0.1", local=True), Sender("unix", local=True)]
ELSEWHERE = [Sender("192.0.2.7", local=False), Sender("127.0.0.1", local=False, forwarded=True)]
ORDINARY = ClientKey("ordinary", digest("k"))
ADMIN = ClientKey("admin", digest("k"), admin=True)


@pytest.mark.parametrize("resource", [Explain, Plugins])
@pytest.mark.parametrize(
    ("sender", "key", "open_"),
    [
        *((sender, None, True) for sender in HERE),
        *((sender, ADMIN, True) for sender in HERE),
        *((sender, None, False) for sender in ELSEWHERE),
        *((sender, ORDINARY, False) for sender in ELSEWHERE),
        *((sender, ADMIN, True) for sender in ELSEWHERE),
    ],
)
@pytest_twisted.ensureDeferred
async def test_this_machine_and_admin_keys_may_ask_and_nobody_else(
    setup: Setup, resource: Any, sender: Sender, key: ClientKey | None, open_: bool
) -> None:
    gateway = (await setup(account("a0"))).running.gateway
    wire: Any = FakeWire(sender)
    responding = resource(gateway, Access.of([], [], [])).respond(Visit(wire, {}, key))
    if open_:
        await responding
        assert wire.sent == [200]
        return
    with pytest.raises(GatewayError) as refused:
        await responding
    assert (refused.value.status, refused.value.error_reason) == (403, "ADMIN_ONLY")
    assert wire.sent == []


@pytest_twisted.ensureDeferred
async def test_where_keys_are_asked_for_this_machine_shows_one_too(setup: Setup) -> None:
    setting = await setup('[[auth.keys]]\nname = "ci"\nkey = "ci-key"\n' + account("a0"), auth_mode="all_except_health")
    for target, body in (("/_agm/explain", b'{"model": "m"}'), ("/_agm/plugins", None)):
        method = "GET" if body is None else "POST"
        assert (await setting.running.fetch(method, target, body=body)).status == 401
        assert (await setting.running.fetch(method, target, body=body, key="ci-key")).status == 200
    found = (await setting.running.fetch("POST", "/_agm/explain", body=b'{"model": "m"}', key="ci-key")).json
    assert (found["client_key"], found["client_key_required"]) == (None, True)


@pytest_twisted.ensureDeferred
async def test_web_pages_may_not_ask(setup: Setup) -> None:
    running = (await setup("")).running
    headers = {"Origin": "https://example.com"}
    assert (await running.fetch("GET", "/_agm/plugins", headers=headers)).status == 403
    assert (await running.fetch("GET", "/_agm/plugins", headers={"Host": "rebound.example.com"})).status == 421


# The list of plugins


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_plugins_are_listed_as_they_are_asked_with_their_failures(setup: Setup) -> None:
    class Failing:
        @hookimpl
        def agm_map_model(self) -> Any:
            raise RuntimeError

    class First:
        @hookimpl(tryfirst=True)
        def agm_map_model(self) -> None:
            pass

        @hookimpl(wrapper=True)
        def agm_select_account(self) -> Any:
            return (yield)

    setting = await setup(account("a0"), First(), Failing())
    for _ in range(2):
        assert (await setting.real(M)).status == 200
    found = (await setting.running.fetch("GET", "/_agm/plugins")).json
    failing, first = (plugin for plugin in found["plugins"] if plugin["origin"] != "built-in")
    assert (failing["failures"], failing["hooks"]) == (2, ["agm_map_model"])
    assert (first["failures"], first["hooks"]) == (0, ["agm_map_model", "agm_select_account"])
    asked = {each["hook"]: each["plugins"] for each in found["hooks"]}
    assert asked["agm_map_model"] == [first["name"], failing["name"], "agm.defaults.aliases"]
    assert asked["agm_select_account"] == [f"{first['name']} (wrapper)", "agm.defaults.strategies"]


# A request that would wait


@pytest_twisted.ensureDeferred
async def test_a_request_that_would_wait_in_line_is_not_said_to_be_refused(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Until the rest is over; no longer than it would, and not where nobody waits."""
    work = emulator.account("work")
    running = await gateway(f"[pool]\nmax_attempts = 1\nmax_wait = 60\n{work}")
    await running.ask("emu-429rpm-40")
    found = await running.explain("emu-429rpm-40")
    assert 30 < found["waits"]["seconds"] <= 40
    assert found["waits"]["at_most"] == 60
    assert (found["candidates"], "error" in found, "account" in found) == ([], False, False)
    assert [each["cause"] for each in found["excluded"]] == ["resting"]
    for max_wait in (0, 5):
        short = await gateway(f"[pool]\nmax_attempts = 1\nmax_wait = {max_wait}\n{work}")
        await short.ask("emu-429rpm-40")
        found = await short.explain("emu-429rpm-40")
        assert (found["error"]["code"], "waits" in found) == (429, False)


@pytest_twisted.ensureDeferred
async def test_behind_an_account_that_is_full_a_request_waits_for_any_moment(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Nobody knows when the other one ends."""
    running = await gateway(emulator.account("work", extra="max_concurrency = 1"))
    (only,) = running.gateway.pool.accounts
    lease = running.gateway.pool.lease(only, "m")
    assert (await running.explain("m"))["waits"] == {"seconds": 0.0, "at_most": 5.0}
    lease.release()
    assert "waits" not in await running.explain("m")
