"""The host of plugins: finding them, their order, their failures, and that every hook fires on every route."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
import pytest_twisted
import treq
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.web.client import Agent

from agm import hookimpl
from agm.api import (
    Account,
    AccountSource,
    Alert,
    ApiKey,
    ApiResource,
    ClientKey,
    Fault,
    Forbidden,
    Framing,
    KeyRing,
    ModelChoice,
    UpstreamRequest,
    Verdict,
    Visit,
    digest,
    send_json,
)
from agm.plugins.hooks import FAIL_CLOSED, HookFailed, Hooks
from agm.plugins.manager import HOOKS, MAY_AWAIT, PluginError, make_plugin_manager
from agm.testing import GatewayFactory, RunningGateway, parse_config
from tests.helpers.support import AnsweringUpstream, Asked, account, eventually, google_error, reactor, settle

GOOD = {"candidates": [{"content": {"parts": [{"text": "good"}]}}], "usageMetadata": {"totalTokenCount": 3}}


def plugin(**hooks: Any) -> Any:
    """A plugin of some functions, each marked."""
    return SimpleNamespace(__name__="mine", **{name: hookimpl(function) for name, function in hooks.items()})


def answer(asked: Asked) -> tuple[Any, ...]:
    """What each kind of upstream answers to each method."""
    document: Any = GOOD
    if "v1internal" in asked.path and "countTokens" not in asked.path:
        document = {"response": GOOD, "traceId": "t"}
    if "streamGenerateContent" not in asked.path:
        return 200, document
    if "alt=sse" in asked.uri:
        return 200, f"data: {json.dumps(document)}\r\n\r\n".encode() * 2, {"content-type": "text/event-stream"}
    return 200, f"[{json.dumps(document)}\n,\r\n{json.dumps(document)}\n]".encode()


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[AnsweringUpstream]:
    answering = AnsweringUpstream(answer)
    yield answering
    await answering.stop()


async def ask(
    running: RunningGateway, target: str = "/v1beta/models/m:generateContent", **kw: Any
) -> tuple[int, bytes]:
    client = treq.client.HTTPClient(Agent(reactor))
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}).encode()
    headers = {"Content-Type": "application/json", "Connection": "close", **kw.pop("headers", {})}
    found = await client.post(running.url + target, data=kw.pop("data", body), headers=headers)
    return found.code, await found.content()


# Every hook, on every route


ROUTES = [
    ("generateContent", ""),
    ("streamGenerateContent", "?alt=sse"),
    ("streamGenerateContent", "?alt=json"),
    ("streamGenerateContent", ""),
    ("countTokens", ""),
    ("embedContent", ""),
    ("predict", ""),
]
#: The hooks of a request that is served, in the order in which they fire.
PER_REQUEST = [
    "agm_map_model",
    "agm_transform_request",
    "agm_filter_accounts",
    "agm_select_account",
    "agm_wrap_request",
    "agm_attempt_finished",
    "agm_transform_event",
    "agm_request_finished",
]


class Recorder:
    """A plugin with every hook of a request, which only puts down that it was called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def _seen(self, name: str) -> None:
        if not self.called or self.called[-1] != name:
            self.called.append(name)

    @hookimpl
    def agm_map_model(self, model: str, request: Any) -> None:
        self._seen("agm_map_model")

    @hookimpl
    def agm_transform_request(self, body: Any, request: Any) -> None:
        self._seen("agm_transform_request")

    @hookimpl
    def agm_filter_accounts(self, accounts: Any, request: Any) -> None:
        self._seen("agm_filter_accounts")

    @hookimpl
    def agm_select_account(self, accounts: Any, request: Any, loads: Any) -> None:
        self._seen("agm_select_account")

    @hookimpl
    def agm_wrap_request(self, request: Any, account: Any, body: bytes) -> None:
        self._seen("agm_wrap_request")

    @hookimpl
    def agm_classify_error(self, status: int, body: bytes, headers: Any, account: Any) -> None:
        self._seen("agm_classify_error")

    @hookimpl
    def agm_transform_event(self, event: Any, request: Any) -> None:
        self._seen("agm_transform_event")

    @hookimpl
    def agm_attempt_finished(self, attempt: Any) -> None:
        self._seen("agm_attempt_finished")

    @hookimpl
    def agm_request_finished(self, record: Any) -> None:
        self._seen("agm_request_finished")


@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
@pytest.mark.parametrize(("method", "query"), ROUTES)
@pytest_twisted.ensureDeferred
async def test_every_hook_fires_the_same_on_every_route_and_framing(
    gateway: GatewayFactory, upstream: AnsweringUpstream, kind: str, method: str, query: str
) -> None:
    recorder = Recorder()
    running = await gateway(account(upstream, kind), plugins=[recorder])
    status, _ = await ask(running, f"/v1beta/models/m:{method}{query}")
    await eventually(lambda: "agm_request_finished" in recorder.called)
    if kind == "code-assist" and method in ("embedContent", "predict"):
        assert status == 501
        assert recorder.called == ["agm_map_model", "agm_transform_request", "agm_request_finished"]
    else:
        assert status == 200
        # an event is edited before its attempt is over: it is the first byte that ends the attempt
        order = [name for name in recorder.called if name != "agm_transform_event"]
        assert order == [name for name in PER_REQUEST if name != "agm_transform_event"]
        assert "agm_transform_event" in recorder.called


@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
@pytest.mark.parametrize(("method", "query"), ROUTES[:5])
@pytest_twisted.ensureDeferred
async def test_a_failure_is_classified_and_each_attempt_reported_on_every_route(
    gateway: GatewayFactory, kind: str, method: str, query: str
) -> None:
    failing = AnsweringUpstream(lambda _: (503, google_error(503, "UNAVAILABLE")))
    recorder = Recorder()
    running = await gateway(account(failing, kind) + account(failing, kind, "b"), plugins=[recorder])
    assert (await ask(running, f"/v1beta/models/m:{method}{query}"))[0] == 503
    attempt = [
        "agm_filter_accounts",
        "agm_select_account",
        "agm_wrap_request",
        "agm_classify_error",
        "agm_attempt_finished",
    ]
    assert recorder.called[:7] == ["agm_map_model", "agm_transform_request", *attempt]
    assert recorder.called[7:12] == attempt
    assert recorder.called[-1] == "agm_request_finished"
    await failing.stop()


@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
@pytest.mark.parametrize(("method", "query"), ROUTES[:4])
@pytest_twisted.ensureDeferred
async def test_bodies_and_events_are_edited_on_every_route(
    gateway: GatewayFactory, upstream: AnsweringUpstream, kind: str, method: str, query: str
) -> None:
    def agm_transform_request(body: dict[str, Any], request: Any) -> dict[str, Any]:
        return {**body, "labels": {"by": request.model}}

    def agm_transform_event(event: dict[str, Any]) -> dict[str, Any]:
        return {**event, "edited": True}

    running = await gateway(
        account(upstream, kind),
        plugins=[plugin(agm_transform_request=agm_transform_request, agm_transform_event=agm_transform_event)],
    )
    status, body = await ask(running, f"/v1beta/models/m:{method}{query}")
    assert status == 200
    sent = json.loads(upstream.asked[-1].body)
    assert sent.get("request", sent)["labels"] == {"by": "m"}
    edited = {**GOOD, "edited": True}
    if method == "generateContent":
        assert json.loads(body) == edited
    elif query == "?alt=json":
        assert json.loads(body) == [edited, edited]
    else:
        assert [json.loads(line[6:]) for line in body.split(b"\r\n\r\n") if line] == [edited, edited]


# What nobody implements costs nothing


@pytest.mark.parametrize(("method", "query"), ROUTES)
@pytest_twisted.ensureDeferred
async def test_without_a_plugin_no_body_is_parsed_and_no_event_split(
    gateway: GatewayFactory, upstream: AnsweringUpstream, monkeypatch: pytest.MonkeyPatch, method: str, query: str
) -> None:
    from agm.core.request import Body
    from agm.core.wire import sse as eventstream

    bodies: list[Body] = []
    split: list[bytes] = []
    made = Body.__init__
    fed = eventstream.EventReader.feed

    def counting_body(self: Body, raw: bytes) -> None:
        bodies.append(self)
        made(self, raw)

    def counting_feed(self: Any, chunk: bytes) -> list[bytes]:
        split.append(chunk)
        return fed(self, chunk)

    monkeypatch.setattr(Body, "__init__", counting_body)
    monkeypatch.setattr(eventstream.EventReader, "feed", counting_feed)
    running = await gateway(account(upstream))
    status, body = await ask(running, f"/v1beta/models/m:{method}{query}")
    assert (status, body) == (200, answer(upstream.asked[-1])[1] if "stream" in method else json.dumps(GOOD).encode())
    assert [b.parses for b in bodies] == [0]
    assert not split


@pytest_twisted.ensureDeferred
async def test_a_body_is_parsed_once_however_many_plugins_look(
    gateway: GatewayFactory, upstream: AnsweringUpstream
) -> None:
    seen: list[Any] = []

    def agm_map_model(request: Any) -> None:
        assert request.body.json()["contents"]
        seen.append(request.body)

    def agm_filter_accounts(request: Any) -> None:
        assert request.body.json()["contents"]
        seen.append(request.body)

    running = await gateway(
        account(upstream), plugins=[plugin(agm_map_model=agm_map_model, agm_filter_accounts=agm_filter_accounts)]
    )
    assert (await ask(running))[0] == 200
    assert len({id(body) for body in seen}) == 1
    assert seen[0].parses == 1


# The four customisations


@pytest_twisted.ensureDeferred
async def test_a_plugin_maps_models_before_the_aliases(gateway: GatewayFactory, upstream: AnsweringUpstream) -> None:
    def agm_map_model(model: str) -> ModelChoice | None:
        return ModelChoice("chosen", "for a test") if model == "x" else None

    running = await gateway(
        '[models.aliases]\n"x" = "aliased"\n"y" = "aliased"\n' + account(upstream),
        plugins=[plugin(agm_map_model=agm_map_model)],
    )
    await ask(running, "/v1beta/models/x:generateContent")
    await ask(running, "/v1beta/models/y:generateContent")
    assert [asked.path for asked in upstream.asked] == [
        "/v1beta/models/chosen:generateContent",
        "/v1beta/models/aliased:generateContent",
    ]


@pytest_twisted.ensureDeferred
async def test_a_plugin_filters_and_picks_accounts(gateway: GatewayFactory, upstream: AnsweringUpstream) -> None:
    def agm_filter_accounts(accounts: Any) -> dict[str, str]:
        return {a.name: "not this one" for a in accounts if a.name == "a"}

    def agm_select_account(accounts: Any) -> Account:
        assert [a.name for a in accounts] == ["b", "c"]
        return accounts[1]  # type: ignore[no-any-return]

    chosen: list[Any] = []

    def agm_request_finished(record: Any) -> None:
        chosen.append(record.attempts)

    running = await gateway(
        "".join(account(upstream, name=name) for name in "abc"),
        plugins=[
            plugin(
                agm_filter_accounts=agm_filter_accounts,
                agm_select_account=agm_select_account,
                agm_request_finished=agm_request_finished,
            )
        ],
    )
    assert (await ask(running))[0] == 200
    assert [(attempt.account, attempt.chosen) for attempt in chosen[0]] == [("c", "a plugin's choice")]


@pytest_twisted.ensureDeferred
async def test_when_a_plugin_takes_every_account_away_the_client_is_told(
    gateway: GatewayFactory, upstream: AnsweringUpstream
) -> None:
    running = await gateway(
        account(upstream), plugins=[plugin(agm_filter_accounts=lambda accounts: {a.name: "no" for a in accounts})]
    )
    status, body = await ask(running)
    assert status == 503
    assert "taken away by a plugin" in json.loads(body)["error"]["message"]


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_an_account_that_is_no_candidate_is_not_taken(
    gateway: GatewayFactory, upstream: AnsweringUpstream, lines: list[str]
) -> None:
    other = Account("elsewhere", "api-key", ("http://127.0.0.1:9",))
    running = await gateway(account(upstream), plugins=[plugin(agm_select_account=lambda accounts: other)])
    assert (await ask(running))[0] == 200
    assert any("elsewhere, which is not a candidate" in line for line in lines)


@pytest_twisted.ensureDeferred
async def test_a_plugin_builds_the_upstream_request(gateway: GatewayFactory, upstream: AnsweringUpstream) -> None:
    def agm_wrap_request(request: Any, body: bytes) -> UpstreamRequest:
        return UpstreamRequest("/mine?x=1", ((b"X-Mine", b"yes"),), b"wrapped:" + body, request.upstream_framing)

    running = await gateway(account(upstream), plugins=[plugin(agm_wrap_request=agm_wrap_request)])
    assert (await ask(running))[0] == 200
    asked = upstream.asked[-1]
    assert asked.uri == "/mine?x=1"
    assert asked.headers["x-mine"] == "yes"
    assert asked.body.startswith(b"wrapped:{")
    assert asked.credential == "k"


@pytest_twisted.ensureDeferred
async def test_client_keys_come_from_a_fixed_set_and_from_an_awaited_lookup(gateway: GatewayFactory) -> None:
    class Looked:
        def __len__(self) -> int:
            return 1

        async def lookup(self, presented: str) -> ClientKey | None:
            await deferLater(reactor, 0.01)
            return ClientKey("later", digest(presented)) if presented == "slow" else None

    running = await gateway(
        "",
        plugins=[plugin(agm_client_keys=lambda config: [KeyRing.of({"now": "quick"}), Looked()])],
        auth_mode="strict",
    )
    for key, status in (("quick", 503), ("slow", 503), ("wrong", 401)):
        assert (await ask(running, headers={"x-api-key": key}))[0] == status


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("way", ["raises", "hangs"])
@pytest_twisted.ensureDeferred
async def test_a_key_lookup_that_fails_is_no_fault_of_the_client_and_names_no_key(
    gateway: GatewayFactory, lines: list[str], way: str
) -> None:
    class Broken:
        def __len__(self) -> int:
            return 1

        def lookup(self, presented: str) -> Any:
            if way == "raises":
                raise RuntimeError(presented)
            return Deferred()

    running = await gateway(
        "[plugins]\ntimeout = 0.1\n", plugins=[plugin(agm_client_keys=lambda: [Broken()])], auth_mode="strict"
    )
    assert (await ask(running, headers={"x-api-key": "canary-key"}))[0] == 503
    assert any("could not be looked up" in line for line in lines)
    assert not any("canary-key" in line for line in lines)
    assert sum(running.gateway.hooks.failures.values()) == 1


@pytest_twisted.ensureDeferred
async def test_a_plugin_adds_accounts_at_once_or_after_a_while(
    gateway: GatewayFactory, upstream: AnsweringUpstream
) -> None:
    def source(name: str) -> AccountSource:
        return AccountSource(Account(name, "api-key", (upstream.url,)), lambda refresher: ApiKey(f"key-{name}"))

    async def agm_accounts() -> list[AccountSource]:
        await deferLater(reactor, 0.01)
        return [source("late")]

    running = await gateway(
        "", plugins=[plugin(agm_accounts=lambda: [source("early")]), _named("b", agm_accounts=agm_accounts)]
    )
    assert [a.name for a in running.gateway.pool.accounts] == ["early", "late"]
    assert (await ask(running))[0] == 200
    assert upstream.credentials[-1] in ("key-early", "key-late")


def _named(name: str, **hooks: Any) -> Any:
    found = plugin(**hooks)
    found.__name__ = name
    return found


@pytest_twisted.ensureDeferred
async def test_a_plugin_says_what_an_error_means(gateway: GatewayFactory) -> None:
    failing = AnsweringUpstream(lambda asked: (418, {}) if asked.credential == "k" else (200, GOOD))
    running = await gateway(
        account(failing) + account(failing, name="b").replace('"k"', '"k2"') + '[pool]\nstrategy = "priority"\n',
        plugins=[
            plugin(agm_classify_error=lambda status: Verdict(Fault.RATE, "TEAPOT", 30) if status == 418 else None)
        ],
    )
    for _ in range(3):
        assert (await ask(running))[0] == 200
    assert failing.credentials.count("k") == 1
    await failing.stop()


@pytest_twisted.ensureDeferred
async def test_a_plugin_adds_a_resource_that_is_as_guarded_as_the_gateways_own(gateway: GatewayFactory) -> None:
    class Hello(ApiResource):
        methods = ("POST",)

        async def respond(self, visit: Visit) -> None:
            send_json(visit.wire, {"hello": visit.key.name if visit.key else None})

    running = await gateway(
        "",
        plugins=[
            plugin(
                agm_resources=lambda site: {"hello": Hello(site.gateway, site.access)},
                agm_client_keys=lambda: [KeyRing.of({"laptop": "k"})],
            )
        ],
        auth_mode="strict",
    )
    assert (await ask(running, "/hello", headers={"x-api-key": "k"}))[1].split() == b'{ "hello": "laptop" }'.split()
    assert (await ask(running, "/hello"))[0] == 401
    assert (await ask(running, "/hello", headers={"x-api-key": "k", "Origin": "https://evil.example"}))[0] == 403


# Failure


OPEN = {
    "agm_map_model": lambda: 1 / 0,
    "agm_select_account": lambda: 1 / 0,
    "agm_attempt_finished": lambda: 1 / 0,
    "agm_request_finished": lambda: 1 / 0,
}
CLOSED = {
    "agm_filter_accounts": lambda: 1 / 0,
    "agm_wrap_request": lambda: 1 / 0,
    "agm_transform_request": lambda: 1 / 0,
    "agm_transform_event": lambda: 1 / 0,
}


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("hook", [*OPEN, *CLOSED])
@pytest_twisted.ensureDeferred
async def test_a_hook_that_raises_is_named_counted_and_does_what_its_spec_says(
    gateway: GatewayFactory, upstream: AnsweringUpstream, lines: list[str], hook: str
) -> None:
    sibling = Recorder()
    running = await gateway(account(upstream), plugins=[sibling, plugin(**{hook: {**OPEN, **CLOSED}[hook]})])
    status, body = await ask(running)
    assert status == (200 if hook in OPEN else 500)
    if hook in CLOSED:
        error = json.loads(body)["error"]
        assert error["status"] == "INTERNAL"
        assert hook in error["message"]
        assert "ZeroDivisionError" in error["message"]
    else:
        assert hook in sibling.called, "a sibling is asked all the same"
    named = [line for line in lines if f"hook {hook} of plugin mine failed" in line]
    assert named
    assert len(named[0].split(":")[0].split()[-1]) == 24, "the line starts with the request's id"
    assert running.gateway.hooks.failures["mine", hook] >= 1


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("query", ["?alt=sse", "?alt=json"])
@pytest_twisted.ensureDeferred
async def test_an_event_hook_that_fails_midway_breaks_the_answer_off(
    gateway: GatewayFactory, upstream: AnsweringUpstream, query: str
) -> None:
    from testbed.answers import dechunk
    from tests.helpers.support import SSE_HEAD, ScriptedUpstream, chunk, connect, post

    scripted = ScriptedUpstream()
    seen: list[Any] = []

    def agm_transform_event(event: Any) -> None:
        seen.append(event)
        if len(seen) == 2:
            raise RuntimeError("the second one")

    running = await gateway(
        f'[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{scripted.url}"]\n',
        plugins=[plugin(agm_transform_event=agm_transform_event)],
    )
    client = await connect(running.port)
    client.send(post(f"/v1beta/models/m:streamGenerateContent{query}"))
    up = await scripted.connection()
    up.send(SSE_HEAD + chunk(b'data: {"n": 1}\r\n\r\n'))
    await client.until(b'{"n":1}')
    up.send(chunk(b'data: {"n": 2}\r\n\r\n'))
    body, complete = dechunk(await client.closed())
    assert not complete
    assert b'{"n":2}' not in body
    assert (b'data: {"error":' in body) is (query == "?alt=sse")
    await up.closed()
    await scripted.stop()


@pytest.mark.parametrize("hook", ["agm_map_model", "agm_filter_accounts", "agm_wrap_request", "agm_transform_request"])
@pytest_twisted.ensureDeferred
async def test_an_error_that_a_plugin_means_reaches_the_client_as_it_is(
    gateway: GatewayFactory, upstream: AnsweringUpstream, hook: str
) -> None:
    def refuse() -> None:
        raise Forbidden("not after eight", reason="NIGHT")

    running = await gateway(account(upstream), plugins=[plugin(**{hook: refuse})])
    status, body = await ask(running)
    assert (status, json.loads(body)["error"]["message"]) == (403, "not after eight")
    assert not running.gateway.hooks.failures


@pytest_twisted.ensureDeferred
async def test_a_hook_that_holds_everything_up_is_named(
    gateway: GatewayFactory, upstream: AnsweringUpstream, lines: list[str]
) -> None:
    running = await gateway(account(upstream), plugins=[plugin(agm_map_model=lambda: time.sleep(0.11))])
    assert (await ask(running))[0] == 200
    assert any("hook agm_map_model of plugin mine blocked the event loop for 1" in line for line in lines)


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("hook", sorted(MAY_AWAIT - {"agm_accounts"}))
@pytest.mark.parametrize("way", ["awaits", "deferred", "raises", "hangs"])
@pytest_twisted.ensureDeferred
async def test_a_hook_that_may_await_is_awaited_under_a_time_limit(
    gateway: GatewayFactory, upstream: AnsweringUpstream, hook: str, way: str
) -> None:
    done: list[str] = []

    async def awaiting() -> None:
        await deferLater(reactor, 0.02)
        if way == "raises":
            raise RuntimeError("after a while")
        if way == "hangs":
            await Deferred()
        done.append(hook)

    function = (lambda: Deferred.fromCoroutine(awaiting())) if way == "deferred" else awaiting
    running = await gateway("[plugins]\ntimeout = 0.2\n" + account(upstream), plugins=[plugin(**{hook: function})])
    status, _ = await ask(running)
    good = way in ("awaits", "deferred")
    assert status == (200 if good or hook not in FAIL_CLOSED else 500)
    if hook == "agm_alert":
        running.gateway.hooks.alert(Alert("budget", "team:a", "It is spent."))
    if hook == "agm_stopping":
        await running.gateway.hooks.stopping()
    await eventually(lambda: done if good else running.gateway.hooks.failures["mine", hook])


@pytest_twisted.ensureDeferred
async def test_awaited_edits_come_in_order(gateway: GatewayFactory, upstream: AnsweringUpstream) -> None:
    def adding(name: str, delay: float) -> Any:
        async def agm_transform_request(body: dict[str, Any]) -> dict[str, Any]:
            await deferLater(reactor, delay)
            return {**body, "order": [*body.get("order", []), name]}

        return _named(name, agm_transform_request=agm_transform_request)

    running = await gateway(account(upstream), plugins=[adding("first loaded", 0), adding("last loaded", 0.05)])
    await ask(running)
    assert json.loads(upstream.asked[-1].body)["order"] == ["last loaded", "first loaded"]


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_accounts_that_cannot_be_fetched_are_missing_and_the_others_serve(
    gateway: GatewayFactory, upstream: AnsweringUpstream, lines: list[str]
) -> None:
    async def agm_accounts() -> None:
        await deferLater(reactor, 0.01)
        raise RuntimeError("the vault is closed")

    running = await gateway(account(upstream), plugins=[plugin(agm_accounts=agm_accounts)])
    assert (await ask(running))[0] == 200
    assert any("accounts from a plugin cannot be used" in line for line in lines)


# Finding and refusing


def test_the_order_is_deterministic_and_the_last_one_loaded_is_asked_first(tmp_path: Path) -> None:
    """Built-in, installed, folder, named: each later group before the ones before it."""
    for name in ("b_second", "a_first", "_not_this"):
        (tmp_path / f"{name}.py").write_text(
            "from agm import hookimpl\n\n@hookimpl\ndef agm_map_model(model):\n    return None\n"
        )
    (tmp_path / "notes.txt").write_text("not a plugin")
    manager = make_plugin_manager([plugin(agm_map_model=lambda: None)], folder=tmp_path, entry_points=False)
    asked = [impl.plugin_name for impl in reversed(manager.hook.agm_map_model.get_hookimpls())]
    assert asked == ["mine", "agm_plugins.b_second", "agm_plugins.a_first", "agm.defaults.aliases"]
    assert manager.origins["agm_plugins.a_first"].kind == "file"
    for name in ("a_first", "b_second"):
        del sys.modules[f"agm_plugins.{name}"]


def test_tryfirst_trylast_and_wrappers_work() -> None:
    """They mean what pluggy says."""
    order: list[str] = []

    class First:
        @hookimpl(tryfirst=True)
        def agm_map_model(self) -> None:
            order.append("first")

    class Wrapper:
        @hookimpl(wrapper=True)
        def agm_map_model(self) -> Any:
            order.append("before")
            result = yield
            order.append("after")
            return f"wrapped {result}"

    class Last:
        @hookimpl
        def agm_map_model(self) -> str:
            order.append("last")
            return "found"

    hooks = Hooks(make_plugin_manager([First(), Wrapper(), Last()], entry_points=False), Clock())
    assert hooks.map_model("m", SimpleNamespace(id="x")).model == "wrapped found"  # type: ignore[arg-type]
    assert order == ["before", "first", "last", "after"]


REFUSED = {
    "a misspelt hook": (
        plugin(agm_map_modle=lambda: None),
        "there is no hook agm_map_modle; did you mean agm_map_model?",
    ),
    "a hook without its mark": (
        SimpleNamespace(__name__="mine", agm_map_model=lambda model: None),
        "agm_map_model is not marked with @agm.hookimpl",
    ),
    "an argument that the hook does not have": (
        plugin(agm_map_model=lambda modell: None),
        "agm_map_model has no argument modell; did you mean model?",
    ),
    "a wrapper on a chain": (
        SimpleNamespace(__name__="mine", agm_transform_event=hookimpl(wrapper=True)(lambda: (yield))),
        "agm_transform_event is a chain and takes no wrapper",
    ),
}


async def _coroutine_decision() -> None: ...


def _yielding() -> Any:
    yield


REFUSED["a generator that is no wrapper"] = (plugin(agm_map_model=_yielding), "mark it with @hookimpl(wrapper=True)")
REFUSED["an async decision"] = (
    plugin(agm_select_account=_coroutine_decision),
    "agm_select_account is a synchronous hook and cannot be an async def",
)


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_silently_do_nothing_is_refused(case: str) -> None:
    """A plugin that is loaded does what its author wrote."""
    broken, message = REFUSED[case]
    with pytest.raises(PluginError, match="plugin mine") as refused:
        make_plugin_manager([broken], entry_points=False)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "last_line"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("x = (", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_tracebacks_last_line(
    tmp_path: Path, text: str, last_line: str
) -> None:
    """From a folder, and by its dotted name."""
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(PluginError, match=r"broken\.py cannot be imported: " + last_line):
        make_plugin_manager(folder=tmp_path, entry_points=False)
    assert "agm_plugins.broken" not in sys.modules
    with pytest.raises(PluginError, match=r"plugin no\.such\.module cannot be imported: ModuleNotFoundError"):
        make_plugin_manager(["no.such.module"], entry_points=False)
    with pytest.raises(PluginError, match=r"\[plugins\] path"):
        make_plugin_manager(folder=tmp_path / "missing", entry_points=False)


MAPS = "from agm import hookimpl\n\n@hookimpl\ndef agm_map_model(model):\n    return None\n"


@pytest.mark.parametrize("mode", [0o020, 0o002, 0o022])
@pytest.mark.parametrize("what", [".", "one.py", "__pycache__"])
def test_a_plugin_folder_that_others_can_write_to_is_refused(tmp_path: Path, what: str, mode: int) -> None:
    """So is a file in it: whoever writes there decides what the gateway does.  Nothing of it is run."""
    folder = tmp_path / "plugins"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "one.py").write_text("raise AssertionError('it was run')")
    (folder / what).chmod((folder / what).stat().st_mode | mode)
    with pytest.raises(PluginError) as refused:
        make_plugin_manager(folder=folder, entry_points=False)
    named = folder / what
    assert str(refused.value) == (
        f"[plugins] path: others than its owner can change {named}, and so what the gateway does; chmod go-w {named}"
    )
    (folder / what).chmod((folder / what).stat().st_mode & ~0o022)
    (folder / "one.py").write_text(MAPS)
    assert make_plugin_manager(folder=folder, entry_points=False).has_plugin("agm_plugins.one")
    del sys.modules["agm_plugins.one"]


@pytest.mark.parametrize(
    "what",
    ["loose_one.py", ".", "loose_pack", "loose_pack/__init__.py", "loose_pack/inner.py", "loose_pack/__pycache__"],
)
def test_a_plugin_by_name_that_others_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A module, and one in a package; nothing of it is run, the package around it included."""
    folder = tmp_path / "code"
    (folder / "loose_pack" / "__pycache__").mkdir(parents=True)
    for file in ("loose_one.py", "loose_pack/__init__.py", "loose_pack/inner.py"):
        (folder / file).write_text(MAPS)
    monkeypatch.syspath_prepend(str(folder))
    (folder / what).chmod((folder / what).stat().st_mode | 0o020)
    name = "loose_one" if what in ("loose_one.py", ".") else "loose_pack.inner"
    with pytest.raises(PluginError) as refused:
        make_plugin_manager([name], entry_points=False)
    assert str(refused.value).startswith(f"plugin {name}: others than its owner can change {folder / what}, and so")
    assert str(refused.value).endswith(f"; chmod go-w {folder / what}")
    assert name not in sys.modules
    (folder / what).chmod((folder / what).stat().st_mode & ~0o022)
    assert make_plugin_manager([name], entry_points=False).has_plugin(name)
    for module in ("loose_one", "loose_pack", "loose_pack.inner"):
        sys.modules.pop(module, None)


def test_an_installation_that_its_group_may_change_holds_no_plugin_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Debian's folder of what pip installs is one of the group staff; the module itself has to be closed."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "installed_one.py").write_text(MAPS)
    folder.chmod(0o775)
    monkeypatch.syspath_prepend(str(folder))
    assert make_plugin_manager(["installed_one"], entry_points=False).has_plugin("installed_one")
    del sys.modules["installed_one"]


def test_a_synchronous_hook_that_returns_an_awaitable_is_a_failure() -> None:
    """A coroutine would otherwise win as the first result that is not None."""
    hooks = Hooks(make_plugin_manager([plugin(agm_select_account=lambda: Deferred())], entry_points=False), Clock())
    only = Account("a", "api-key", ("http://127.0.0.1:9",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "_log", SimpleNamespace(failure=lambda *a, **k: None, error=lambda *a, **k: None))
        request: Any = SimpleNamespace(body=SimpleNamespace(fingerprint=None), explaining=False, id="x")
        assert hooks.select_account([only], request, {}).account is only  # type: ignore[arg-type]
    assert hooks.failures["mine", "agm_select_account"] == 1


@pytest.mark.parametrize("hook", ["agm_settings", "agm_configure", "agm_client_keys", "agm_accounts", "agm_resources"])
@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_hook_of_the_start_that_raises_ends_the_start_with_its_name(gateway: GatewayFactory, hook: str) -> None:
    with pytest.raises((SystemExit, HookFailed), match=f"hook {hook} of plugin mine failed: ZeroDivisionError"):
        await gateway("", plugins=[plugin(**{hook: lambda: 1 / 0})])


def test_every_hook_is_specified_and_every_builtin_hook_is_one_of_them() -> None:
    """The list of hooks is the contract's."""
    assert set(HOOKS) == {
        "agm_upstream_kinds",
        "agm_settings",
        "agm_configure",
        "agm_client_keys",
        "agm_accounts",
        "agm_started",
        "agm_look_up",
        "agm_map_model",
        "agm_answer_request",
        "agm_transform_request",
        "agm_filter_accounts",
        "agm_select_account",
        "agm_wrap_request",
        "agm_classify_error",
        "agm_answer_headers",
        "agm_transform_event",
        "agm_attempt_finished",
        "agm_request_finished",
        "agm_alert",
        "agm_resources",
        "agm_stopping",
    }
    manager = make_plugin_manager(entry_points=False)
    assert isinstance(manager, pluggy.PluginManager)
    assert [name for name in HOOKS if getattr(manager.hook, name).get_hookimpls()] == [
        "agm_configure",
        "agm_client_keys",
        "agm_accounts",
        "agm_started",
        "agm_map_model",
        "agm_select_account",
        "agm_wrap_request",
        "agm_classify_error",
        "agm_alert",
        "agm_resources",
        "agm_stopping",
    ]


@pytest_twisted.ensureDeferred
async def test_replacing_a_builtin_plugin_needs_no_change_elsewhere(
    gateway: GatewayFactory, upstream: AnsweringUpstream
) -> None:
    """With every built-in decision blocked, a user's own plugin serves."""
    from agm.web.access import Access
    from agm.web.root import make_site

    config = parse_config("")
    manager = make_plugin_manager(
        [
            plugin(
                agm_accounts=lambda: [
                    AccountSource(Account("own", "api-key", (upstream.url,)), lambda r: ApiKey("own"))
                ],
                agm_wrap_request=lambda request, body: UpstreamRequest("/own", (), body, request.upstream_framing),
            )
        ],
        entry_points=False,
    )
    for name in [name for name, origin in manager.origins.items() if origin.kind == "built-in"]:
        manager.unregister(name=name)
    from agm.serving.gateway import Gateway
    from agm.upstream.client import HTTPUpstreamClient
    from agm.upstream.credentials.refresher import Refresher

    client = HTTPUpstreamClient(reactor, connect_timeout=5)
    made = Gateway(reactor, config, Hooks(manager, reactor), client, Refresher(reactor, client.treq), "off")
    site = make_site(made, Access.of((), ["127.0.0.1"], ()))
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    await made.start()
    running = RunningGateway(f"http://127.0.0.1:{port.getHost().port}", made, site, port)
    assert (await ask(running))[0] == 200
    assert upstream.asked[-1].path == "/own"
    await running.stop()
    await settle(0)


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("hook", ["agm_map_model", "agm_attempt_finished", "agm_select_account", "agm_wrap_request"])
@pytest.mark.parametrize("when", ["before", "after", "twice", "never yields"])
@pytest_twisted.ensureDeferred
async def test_a_wrapper_that_fails_never_hides_what_it_wraps(
    gateway: GatewayFactory, upstream: AnsweringUpstream, hook: str, when: str
) -> None:
    def wrapper() -> Any:
        if when == "before":
            raise RuntimeError(when)
        if when == "never yields":
            return None
        result = yield
        if when == "after":
            raise RuntimeError(when)
        yield
        return result

    wrapping = SimpleNamespace(__name__="mine", **{hook: hookimpl(wrapper=True)(wrapper)})
    running = await gateway(account(upstream), plugins=[wrapping])
    closed = hook == "agm_wrap_request"
    assert (await ask(running))[0] == (500 if closed else 200)
    assert running.gateway.hooks.failures["mine", hook] == 1


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_wrapper_sees_the_error_of_what_it_wraps_and_may_answer_for_it(
    gateway: GatewayFactory, upstream: AnsweringUpstream
) -> None:
    def wrapper() -> Any:
        try:
            return (yield)
        except Forbidden:
            return "instead"

    def refuse() -> None:
        raise Forbidden("no")

    wrapping = SimpleNamespace(__name__="wrapping", agm_map_model=hookimpl(wrapper=True)(wrapper))
    running = await gateway(account(upstream), plugins=[plugin(agm_map_model=refuse), wrapping])
    assert (await ask(running))[0] == 200
    assert upstream.asked[-1].path == "/v1beta/models/instead:generateContent"


@pytest_twisted.ensureDeferred
async def test_a_request_that_is_refused_before_its_first_attempt_is_finished_all_the_same(
    gateway: GatewayFactory, upstream: AnsweringUpstream
) -> None:
    records: list[Any] = []

    def refuse() -> None:
        raise Forbidden("no")

    running = await gateway(
        account(upstream),
        plugins=[plugin(agm_map_model=refuse, agm_request_finished=lambda record: records.append(record))],
    )
    assert (await ask(running))[0] == 403
    assert [(record.status, record.outcome, record.attempts) for record in records] == [(403, "error", ())]


WRONG: dict[str, list[Any]] = {
    "agm_map_model": [5, ""],
    "agm_transform_request": ["x"],
    "agm_transform_event": ["x"],
    "agm_filter_accounts": [["a"]],
    "agm_select_account": ["a"],
    "agm_wrap_request": [
        "x",
        UpstreamRequest("no-slash", (), b"", Framing.UNARY),
        UpstreamRequest("/a b", (), b"", Framing.UNARY),
        UpstreamRequest("/", (("A", "b"),), b"", Framing.UNARY),  # type: ignore[arg-type]
        UpstreamRequest("/", (), "text", Framing.UNARY),  # type: ignore[arg-type]
    ],
    "agm_request_finished": [],
}


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize(("hook", "result"), [(hook, result) for hook, results in WRONG.items() for result in results])
@pytest_twisted.ensureDeferred
async def test_a_result_of_the_wrong_type_is_a_failure_of_its_plugin(
    gateway: GatewayFactory, upstream: AnsweringUpstream, lines: list[str], hook: str, result: Any
) -> None:
    aliased = '[models.aliases]\n"m" = "aliased"\n' + account(upstream)
    running = await gateway(aliased, plugins=[plugin(**{hook: lambda: result})])
    status, body = await ask(running)
    if hook in FAIL_CLOSED:
        assert status == 500
        assert json.loads(body)["error"]["details"][0]["reason"] == "PLUGIN_FAILED"
        assert b"plugin mine" in body
    else:
        assert status == 200
        assert upstream.asked[-1].path.endswith("/aliased:generateContent"), "the next plugin was asked"
    assert running.gateway.hooks.failures["mine", hook] >= 1
    assert any(f"hook {hook} of plugin mine failed" in line for line in lines)


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize(
    ("hook", "result"),
    [("agm_client_keys", 5), ("agm_client_keys", [5]), ("agm_accounts", ["x"]), ("agm_resources", 5)],
)
@pytest_twisted.ensureDeferred
async def test_a_result_of_the_wrong_type_at_the_start_ends_it_in_one_line(
    gateway: GatewayFactory, hook: str, result: Any
) -> None:
    with pytest.raises(SystemExit, match=f"hook {hook} of plugin mine failed: TypeError: it returned a"):
        await gateway("", plugins=[plugin(**{hook: lambda: result})])


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_plugin_that_refuses_its_settings_says_why(gateway: GatewayFactory) -> None:
    def agm_configure() -> None:
        raise ValueError("[plugins.mine] limit must be a number")

    with pytest.raises(SystemExit, match=r"failed: ValueError: \[plugins\.mine\] limit must be a number"):
        await gateway("", plugins=[plugin(agm_configure=agm_configure)])


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_what_a_lookup_returns_must_be_a_client_key(gateway: GatewayFactory, lines: list[str]) -> None:
    class Wrong:
        def __len__(self) -> int:
            return 1

        async def lookup(self, presented: str) -> Any:
            return "yes"

    running = await gateway("", plugins=[plugin(agm_client_keys=lambda: [Wrong()])], auth_mode="strict")
    assert (await ask(running, headers={"x-api-key": "any"}))[0] == 503
    assert running.gateway.hooks.failures["mine", "agm_client_keys"] == 1
    assert any("of agm_client_keys of plugin mine" in line for line in lines)


def _exits() -> None:
    raise SystemExit(3)


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_hook_that_exits_is_a_failure_like_another(
    gateway: GatewayFactory, upstream: AnsweringUpstream
) -> None:
    running = await gateway(account(upstream), plugins=[plugin(agm_map_model=_exits)])
    assert (await ask(running))[0] == 200
    assert running.gateway.hooks.failures["mine", "agm_map_model"] == 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_is_recorded_as_such(gateway: GatewayFactory) -> None:
    from tests.helpers.support import SSE_HEAD, ScriptedUpstream, chunk, connect, post

    scripted = ScriptedUpstream()
    records: list[Any] = []
    running = await gateway(
        f'[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{scripted.url}"]\n',
        plugins=[plugin(agm_request_finished=lambda record: records.append(record))],
    )
    for begun in (False, True):
        client = await connect(running.port)
        client.send(post("/v1beta/models/m:streamGenerateContent"))
        up = await scripted.connection(int(begun))
        if begun:
            up.send(SSE_HEAD + chunk(b"data: {}\r\n\r\n"))
            await client.until(b"data: {}")
        client.transport.loseConnection()
        await eventually(lambda n=int(begun): len(records) > n)  # type: ignore[misc]
    assert [record.outcome for record in records] == ["cancelled", "cancelled"]
    await scripted.stop()


def test_two_plugins_of_one_name_are_refused() -> None:
    """One of them would silently not be loaded."""
    with pytest.raises(PluginError, match="another plugin of this name"):
        make_plugin_manager(
            [plugin(agm_map_model=lambda: None), plugin(agm_map_model=lambda: None)], entry_points=False
        )


@pytest_twisted.ensureDeferred
async def test_a_plugin_cannot_take_the_gateways_own_paths(gateway: GatewayFactory) -> None:
    with pytest.raises(SystemExit, match="/healthz is the gateway's own"):
        await gateway("", plugins=[plugin(agm_resources=lambda: {"healthz": None})])


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"a": 1e400}', b'{"a": "\xff"}'])
@pytest_twisted.ensureDeferred
async def test_a_body_that_cannot_be_edited_is_refused_in_googles_words(
    gateway: GatewayFactory, upstream: AnsweringUpstream, body: bytes
) -> None:
    running = await gateway(account(upstream), plugins=[plugin(agm_transform_request=lambda: None)])
    status, answered = await ask(running, data=body)
    assert status == 400
    assert b"Invalid JSON payload received." in answered
