"""The test kit for plugin authors: its fixtures, and the plugins that its check refuses, one for each rule."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.web.resource import Resource

from agm import hookimpl
from agm.api import (
    Account,
    AccountChoice,
    AccountSource,
    Alert,
    ApiKey,
    ApiResource,
    CachedKeys,
    ClientKey,
    Fault,
    Forbidden,
    Framing,
    Gateway,
    GatewayRequest,
    KeepAnswer,
    KeyRing,
    LocalAnswer,
    ModelChoice,
    UpstreamKind,
    UpstreamRequest,
    Verdict,
    digest,
)
from agm.plugins.builtin import make_plugins
from agm.plugins.manager import HOOKS
from agm.testing import GatewayFactory, PluginManagerFactory, RunningEmulator, build_request, check_plugin, parse_config

reactor: Any = _reactor
GOOGLE = "https://generativelanguage.googleapis.com"


def plugin(**hooks: Any) -> Any:
    """A plugin of some functions, each marked."""
    return SimpleNamespace(__name__="mine", **{name: hookimpl(function) for name, function in hooks.items()})


# The fixtures


class Bracketing:
    """A plugin as an object."""

    @hookimpl
    def agm_transform_event(self, event: dict[str, Any]) -> dict[str, Any]:
        for candidate in event.get("candidates", ()):
            for part in candidate.get("content", {}).get("parts", ()):
                part["text"] = "(" + part["text"]
        return event


@pytest.fixture
def prefixing() -> Iterator[str]:
    """A plugin as the dotted name of a module."""
    module = ModuleType("prefixing_plugin")
    module.agm_map_model = hookimpl(lambda model: ModelChoice("gemini-" + model, "a prefix"))  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module.__name__
    del sys.modules[module.__name__]


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest_twisted.ensureDeferred
async def test_a_gateway_takes_plugins_as_objects_and_by_their_names(
    gateway: GatewayFactory, emulator: RunningEmulator, prefixing: str, method: str
) -> None:
    running = await gateway(
        emulator.account("work") + "[gateway]\nshow_account = true\n", plugins=[Bracketing(), prefixing]
    )
    answer = await running.ask("pro", "Hello there", method=method)
    assert answer.status == 200
    assert answer.text.startswith("(")
    assert bool(answer.events) is (method == "streamGenerateContent")
    assert answer.account == "work"
    assert [(entry.account, entry.model) for entry in emulator.log] == [("work", "gemini-pro")]
    assert emulator.accounts == ["work"]
    assert emulator.documents == [{"contents": [{"role": "user", "parts": [{"text": "Hello there"}]}]}]


@pytest_twisted.ensureDeferred
async def test_a_gateway_can_be_asked_in_every_way(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """With a body, a key, headers, another path; and for an explanation."""
    running = await gateway(
        emulator.account(kind="code-assist")
        + '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "me"\nkey = "mine"\n[plugins.x]\n'
    )
    assert (await running.ask()).status == 401
    body = {"contents": [{"role": "user", "parts": [{"text": "tell"}]}]}
    assert (await running.ask(key="mine", body=body)).status == 200
    assert (await running.ask(body=json.dumps(body).encode(), headers={"x-api-key": "mine"})).status == 200
    assert [document["request"]["contents"] for document in emulator.documents] == [body["contents"]] * 2
    assert (await running.fetch("GET", "/healthz", key="mine")).json == {"status": "ok"}


@pytest_twisted.ensureDeferred
async def test_an_explanation_is_a_document(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(emulator.account("work"))
    explained = await running.explain("m", method="streamGenerateContent", query={"alt": "sse"}, body={"contents": []})
    assert explained["account"]["name"] == "work"
    assert not emulator.log


@pytest_twisted.ensureDeferred
async def test_each_kind_of_account_is_the_emulators(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    for kind in ("api-key", "vertex", "code-assist"):
        running = await gateway(emulator.account(kind, kind, "priority = 1"))
        assert (await running.ask()).status == 200
    assert emulator.accounts == ["api-key", "vertex", "code-assist"]


def test_a_plugin_manager_has_the_defaults_the_given_and_nothing_installed(
    plugin_manager: PluginManagerFactory, make_request: Callable[..., GatewayRequest]
) -> None:
    """And is configured."""
    seen: list[object] = []
    manager = plugin_manager(
        plugin(agm_configure=lambda config: seen.append(config.plugins.tables["mine"]["x"])),
        config='[models.aliases]\nfast = "gemini-2.5-flash"\n[plugins.mine]\nx = 1\n',
    )
    assert seen == [1]
    assert {origin.kind for origin in manager.origins.values()} == {"built-in", "module"}
    request = make_request(model="fast")
    assert manager.hook.agm_map_model(model="fast", request=request).model == "gemini-2.5-flash"
    plugin_manager(config=parse_config(""))


def test_a_request_has_sensible_values(make_request: Callable[..., GatewayRequest]) -> None:
    request = make_request()
    assert request.body.json() == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    assert (request.model, request.asked_model, request.client_key) == ("gemini-2.5-flash", "gemini-2.5-flash", None)
    assert (request.method, request.framing, request.upstream_framing) == (
        "generateContent",
        Framing.UNARY,
        Framing.UNARY,
    )
    assert request.path == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert make_request().id != request.id


def test_a_request_has_the_values_that_are_asked_for() -> None:
    request = build_request(
        model="m",
        asked_model="alias",
        body={"a": 1},
        client_key="laptop",
        method="streamGenerateContent",
        headers={"x": "y"},
        query={"alt": "sse"},
        version="v1",
        received_at=5.0,
        explaining=True,
    )
    assert request.body.json() == {"a": 1}
    assert (request.model, request.asked_model, request.client_key) == ("m", "alias", "laptop")
    assert (request.framing, request.headers, request.query) == (Framing.SSE, {"x": "y"}, {"alt": "sse"})
    assert (request.received_at, request.explaining) == (5.0, True)
    assert request.path == "/v1/models/alias:streamGenerateContent"
    assert build_request(body=b"raw", text="ignored").body.raw == b"raw"


def test_the_clock_stands_still(clock: Clock) -> None:
    assert clock.seconds() == 0
    clock.advance(2)
    assert clock.seconds() == 2


# The check: plugins that pass


class EveryHook:
    """A plugin with every hook, each of which does what it should; `called` counts them."""

    def __init__(self) -> None:
        self.called: set[str] = set()
        self.turn = 0

    @hookimpl
    def agm_configure(self, config: Any) -> None:
        self.called.add("agm_configure")

    @hookimpl
    def agm_upstream_kinds(self) -> list[UpstreamKind]:
        self.called.add("agm_upstream_kinds")
        return [UpstreamKind("mirror", {"generateContent"}, endpoints=(GOOGLE,))]

    @hookimpl
    def agm_settings(self) -> Mapping[str, type[msgspec.Struct]]:
        self.called.add("agm_settings")
        return {"every": msgspec.defstruct("Every", [("size", int, 3)])}

    @hookimpl
    def agm_client_keys(self, config: Any) -> list[object]:
        self.called.add("agm_client_keys")

        async def fetch(sha256: str) -> ClientKey | None:
            await deferLater(reactor, 0.001)
            return None

        return [KeyRing.of({"a": "key"}), CachedKeys(fetch)]

    @hookimpl
    async def agm_accounts(self, config: Any) -> list[AccountSource]:
        self.called.add("agm_accounts")
        await deferLater(reactor, 0.001)
        return [AccountSource(Account("vault", "api-key", (GOOGLE,)), lambda refresher: ApiKey("key"))]

    @hookimpl
    def agm_started(self, gateway: Gateway) -> None:
        self.called.add("agm_started")

    @hookimpl
    async def agm_look_up(self, request: GatewayRequest) -> Mapping[str, Any]:
        self.called.add("agm_look_up")
        await deferLater(reactor, 0.001)
        return {"every.team": "a"}

    @hookimpl
    def agm_answer_request(self, request: GatewayRequest) -> LocalAnswer | KeepAnswer:
        self.called.add("agm_answer_request")
        assert request.found == {"every.team": "a"}
        return LocalAnswer({"candidates": []}, headers={"x-cache": "hit"}) if request.explaining else KeepAnswer()

    @hookimpl
    async def agm_stopping(self) -> None:
        self.called.add("agm_stopping")

    @hookimpl
    def agm_map_model(self, model: str, request: GatewayRequest) -> ModelChoice:
        self.called.add("agm_map_model")
        return ModelChoice(model, "as it is")

    @hookimpl
    async def agm_transform_request(self, body: dict[str, Any], request: GatewayRequest) -> dict[str, Any]:
        self.called.add("agm_transform_request")
        return {**body, "labels": {"a": "b"}}

    @hookimpl
    def agm_filter_accounts(self, accounts: Sequence[Account], request: GatewayRequest) -> Mapping[str, str]:
        self.called.add("agm_filter_accounts")
        return {accounts[0].name: "the first"}

    @hookimpl
    def agm_select_account(
        self, accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]
    ) -> AccountChoice:
        self.called.add("agm_select_account")
        turn = self.turn
        if not request.explaining:
            self.turn += 1
        return AccountChoice(accounts[turn % len(accounts)], "its turn")

    @hookimpl
    def agm_wrap_request(self, request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest:
        self.called.add("agm_wrap_request")
        return UpstreamRequest("/x?alt=sse", ((b"X-Team", b"a"),), body, request.upstream_framing)

    @hookimpl
    def agm_classify_error(self, status: int, body: bytes, headers: Mapping[str, str], account: Account) -> Verdict:
        self.called.add("agm_classify_error")
        return Verdict(Fault.RATE, "BUSY", 1)

    @hookimpl
    def agm_answer_headers(self, headers: Mapping[str, str], account: Account | None) -> Mapping[str, str]:
        self.called.add("agm_answer_headers")
        return {"X-Account": "none" if account is None else account.name}

    @hookimpl
    def agm_transform_event(self, event: dict[str, Any], request: GatewayRequest) -> dict[str, Any]:
        self.called.add("agm_transform_event")
        return {**event, "modelVersion": "mine"}

    @hookimpl
    def agm_attempt_finished(self, attempt: Any) -> None:
        self.called.add("agm_attempt_finished")

    @hookimpl
    async def agm_request_finished(self, record: Any) -> None:
        self.called.add("agm_request_finished")

    @hookimpl
    async def agm_alert(self, alert: Alert) -> None:
        self.called.add("agm_alert")

    @hookimpl
    def agm_resources(self, site: Any) -> Mapping[str, Resource]:
        self.called.add("agm_resources")
        return {"hello": ApiResource(site.gateway, site.access), "plain": Resource()}


def test_a_plugin_with_every_hook_passes_and_each_is_called() -> None:
    every = EveryHook()
    check_plugin(every)
    assert every.called == set(HOOKS)


def test_a_refusal_is_an_answer_and_no_failure() -> None:
    """A GatewayError passes where it would reach the client."""

    def refuse(**_: object) -> None:
        raise Forbidden("not you")

    check_plugin(
        plugin(
            agm_map_model=lambda model: refuse(),
            agm_transform_request=lambda body: refuse(),
            agm_filter_accounts=lambda accounts: refuse(),
            agm_select_account=lambda accounts: refuse(),
            agm_wrap_request=lambda body: refuse(),
            agm_transform_event=lambda event: refuse(),
        )
    )
    with pytest.raises(AssertionError, match="agm_classify_error of plugin mine raised Forbidden"):
        check_plugin(plugin(agm_classify_error=lambda status: refuse()))


def test_a_wrapper_passes() -> None:
    """One around a first result, and one around a list."""

    class Wrapping:
        @hookimpl(wrapper=True)
        def agm_map_model(self, model: str) -> Any:
            choice = yield
            return choice or ModelChoice(model, "wrapped")

        @hookimpl(wrapper=True)
        def agm_client_keys(self) -> Any:
            yield
            return [[KeyRing.of({"only": "mine"})]]

    check_plugin(Wrapping())


def test_a_plugin_is_checked_with_settings_as_well() -> None:
    """Without a table, with an empty one, with the given, and back to none."""
    seen: list[Any] = []
    check_plugin(
        plugin(agm_configure=lambda config: seen.append(config.plugins.tables.get("shop"))),
        name="shop",
        settings="[plugins.shop]\nopen = true\n",
    )
    assert seen == [None, {}, {"open": True}, None]


def test_a_plugin_is_checked_by_its_dotted_name(prefixing: str) -> None:
    check_plugin(prefixing)
    with pytest.raises(AssertionError, match="plugin no_such_plugin cannot be imported"):
        check_plugin("no_such_plugin")


# The check: plugins that are refused


def unmarked() -> Any:
    return SimpleNamespace(__name__="mine", agm_map_model=lambda model: None)


async def coroutine(**_: object) -> None: ...


def raising(*_: object) -> None:
    raise KeyError("prompt")


def chat(body: dict[str, Any]) -> None:
    body["contents"][0]["parts"][0]["text"].lower()


def source(name: str = "own", kind: Any = "api-key", endpoints: Any = (GOOGLE,)) -> AccountSource:
    return AccountSource(Account(name, kind, endpoints), lambda refresher: ApiKey("key"))


class Source:
    """A source of client keys that a test makes wrong."""

    def __init__(self, found: object, length: int = 1) -> None:
        self._found, self._length = found, length

    def lookup(self, presented: str) -> Any:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    def __len__(self) -> int:
        return self._length


class NoLength:
    def lookup(self, presented: str) -> None: ...


def wrapped(**changes: Any) -> Callable[..., UpstreamRequest]:
    values: dict[str, Any] = {"path": "/x", "headers": (), "body": b"", "framing": Framing.UNARY, **changes}
    return lambda request: UpstreamRequest(**values)


def alternating() -> Callable[[Sequence[Account]], Account]:
    """Takes turns, explaining or not."""
    turns = iter(range(10**9))
    return lambda accounts: accounts[next(turns) % len(accounts)]


def counting() -> Callable[[str], str]:
    numbers = iter(range(10**9))
    return lambda model: f"{model}-{next(numbers)}"


def dropping() -> Callable[[Sequence[Account]], dict[str, str]]:
    numbers = iter(range(10**9))
    return lambda accounts: {accounts[0].name: "odd"} if next(numbers) % 2 else {}


def editing(model: str, request: GatewayRequest) -> None:
    if request.body.raw:
        request.body.json()["edited"] = True


def slow(model: str) -> None:
    time.sleep(0.15)


async def never(config: Any) -> None:
    await Deferred()


def resources(found: object) -> Callable[[Any], object]:
    return lambda site: found


#: The sentence that a plugin is refused with, and the plugin.
REFUSED: Mapping[str, Callable[[], Any]] = {
    # loading
    "has no hook": lambda: SimpleNamespace(__name__="mine"),
    "there is no hook agm_map_modle; did you mean agm_map_model": lambda: plugin(agm_map_modle=lambda model: None),
    "agm_map_model is not marked with @agm.hookimpl": unmarked,
    "agm_map_model has no argument modle; did you mean model": lambda: plugin(agm_map_model=lambda modle: None),
    "agm_map_model is a synchronous hook and cannot be an async def": lambda: plugin(agm_map_model=coroutine),
    "agm_map_model of plugin mine returned an awaitable": lambda: plugin(agm_map_model=lambda model: coroutine()),
    "agm_select_account of plugin mine returned an awaitable": lambda: plugin(
        agm_select_account=lambda accounts: Deferred()
    ),
    # failing
    "agm_configure of plugin mine raised KeyError: 'mine'.*give every setting a default": lambda: plugin(
        agm_configure=lambda config: config.plugins.tables["mine"]
    ),
    "agm_configure of plugin mine raised KeyError: 'url', called with an empty": lambda: plugin(
        agm_configure=lambda config: [table["url"] for table in config.plugins.tables.values()] or None
    ),
    "agm_configure of plugin mine returned dict": lambda: plugin(agm_configure=lambda config: {}),
    "agm_transform_request of plugin mine raised .*expect whatever a client": lambda: plugin(
        agm_transform_request=chat
    ),
    "agm_transform_event of plugin mine raised KeyError: 'candidates', called with an event": lambda: plugin(
        agm_transform_event=lambda event: event["candidates"] and None
    ),
    "agm_request_finished of plugin mine raised KeyError": lambda: plugin(agm_request_finished=raising),
    "agm_map_model of plugin mine blocked the event loop for .* ms": lambda: plugin(agm_map_model=slow),
    "changed request.body.json\\(\\), which all plugins share": lambda: plugin(agm_map_model=editing),
    # decisions
    "agm_map_model of plugin mine decided otherwise": lambda: plugin(agm_map_model=counting()),
    "agm_filter_accounts of plugin mine decided otherwise": lambda: plugin(agm_filter_accounts=dropping()),
    "agm_select_account of plugin mine decided otherwise": lambda: plugin(agm_select_account=alternating()),
    "agm_select_account of plugin mine decided otherwise.*chance from request.id": lambda: plugin(
        agm_select_account=lambda accounts: random.choice(list(accounts))
    ),
    # client keys and accounts
    "agm_client_keys of plugin mine returned KeyRing": lambda: plugin(agm_client_keys=lambda: KeyRing.of({"a": "b"})),
    "agm_client_keys of plugin mine gave str 'key' without lookup": lambda: plugin(agm_client_keys=lambda: ["key"]),
    "gave NoLength .* without __len__": lambda: plugin(agm_client_keys=lambda: [NoLength()]),
    "let in a key that nobody has": lambda: plugin(agm_client_keys=lambda: [Source(ClientKey("anybody", digest("x")))]),
    "has a lookup that returned bool True": lambda: plugin(agm_client_keys=lambda: [Source(True)]),
    "agm_client_keys of plugin mine raised ValueError: no, called with lookup": lambda: plugin(
        agm_client_keys=lambda: [Source(ValueError("no"))]
    ),
    "agm_accounts of plugin mine gave Account": lambda: plugin(
        agm_accounts=lambda: [Account("a", "api-key", (GOOGLE,))]
    ),
    "gave a second account called first": lambda: plugin(agm_accounts=lambda: [source("first")]),
    "gave an account of kind 'openai'": lambda: plugin(agm_accounts=lambda: [source(kind="openai")]),
    "gave an account without endpoints": lambda: plugin(agm_accounts=lambda: [source(endpoints=())]),
    "gave the endpoint 'https://h/'; give https://HOST": lambda: plugin(
        agm_accounts=lambda: [source(endpoints=("https://h/",))]
    ),
    "gave a credential that is no function": lambda: plugin(
        agm_accounts=lambda: [AccountSource(Account("a", "api-key", (GOOGLE,)), ApiKey("key"))]  # type: ignore[arg-type]
    ),
    # what is returned
    "agm_map_model of plugin mine returned bool True": lambda: plugin(agm_map_model=lambda model: True),
    "chose the model 'models/x'": lambda: plugin(agm_map_model=lambda model: "models/x"),
    "agm_map_model of plugin mine gave no reason": lambda: plugin(agm_map_model=lambda model: ModelChoice("m", "")),
    "agm_filter_accounts of plugin mine returned list": lambda: plugin(
        agm_filter_accounts=lambda accounts: [accounts[0].name]
    ),
    "took away 'ghost', which is no candidate": lambda: plugin(agm_filter_accounts=lambda: {"ghost": "gone"}),
    "agm_filter_accounts of plugin mine gave no reason": lambda: plugin(
        agm_filter_accounts=lambda accounts: {accounts[0].name: ""}
    ),
    "agm_select_account of plugin mine returned str 'first'": lambda: plugin(agm_select_account=lambda: "first"),
    "picked an account that is no candidate": lambda: plugin(
        agm_select_account=lambda: Account("first", "api-key", (GOOGLE,))
    ),
    "agm_select_account of plugin mine gave no reason": lambda: plugin(
        agm_select_account=lambda accounts: AccountChoice(accounts[0], "")
    ),
    "agm_wrap_request of plugin mine returned tuple": lambda: plugin(agm_wrap_request=lambda: ("/x", b"")),
    "built the path 'https://h/x'; begin it with a slash": lambda: plugin(agm_wrap_request=wrapped(path="https://h/x")),
    "built the path '/a b'; quote": lambda: plugin(agm_wrap_request=wrapped(path="/a b")),
    "put a credential into the query": lambda: plugin(agm_wrap_request=wrapped(path="/x?key=secret")),
    "built the header Authorization": lambda: plugin(
        agm_wrap_request=wrapped(headers=((b"Authorization", b"Bearer x"),))
    ),
    "give pairs of bytes": lambda: plugin(agm_wrap_request=wrapped(headers=(("X-Team", "a"),))),
    "header with a line break": lambda: plugin(agm_wrap_request=wrapped(headers=((b"X-Team", b"a\r\nb: c"),))),
    "built a body of dict": lambda: plugin(agm_wrap_request=wrapped(body={})),
    "gave the framing 'sse'": lambda: plugin(agm_wrap_request=wrapped(framing="sse")),
    "agm_transform_request of plugin mine returned str": lambda: plugin(agm_transform_request=lambda body: "{}"),
    "agm_transform_request of plugin mine returned what JSON cannot hold": lambda: plugin(
        agm_transform_request=lambda body: {**body, "x": object()}
    ),
    "agm_transform_request of plugin mine returned what JSON cannot hold .an infinite number": lambda: plugin(
        agm_transform_request=lambda body: {**body, "x": [float("nan")]}
    ),
    "agm_transform_event of plugin mine returned str": lambda: plugin(agm_transform_event=lambda event: ["x"]),
    "agm_transform_event of plugin mine made 2 documents of a unary answer": lambda: plugin(
        agm_transform_event=lambda event: [event, event]
    ),
    "agm_answer_headers of plugin mine is wrong: it returned the header content-length": lambda: plugin(
        agm_answer_headers=lambda status: {"Content-Length": "1"}
    ),
    "agm_classify_error of plugin mine returned str 'rate'": lambda: plugin(agm_classify_error=lambda status: "rate"),
    "agm_classify_error of plugin mine gave no reason": lambda: plugin(
        agm_classify_error=lambda status: Verdict(Fault.RATE, "")
    ),
    "said to wait -1": lambda: plugin(agm_classify_error=lambda status: Verdict(Fault.RATE, "R", -1)),
    "agm_attempt_finished of plugin mine returned bool True": lambda: plugin(agm_attempt_finished=lambda attempt: True),
    "agm_resources of plugin mine returned Resource": lambda: plugin(agm_resources=resources(Resource())),
    "named the segment 'a/b'": lambda: plugin(agm_resources=resources({"a/b": Resource()})),
    "took the segment 'v1beta', the gateway's own": lambda: plugin(agm_resources=resources({"v1beta": Resource()})),
    "took the segment 'ui', the gateway's own": lambda: plugin(agm_resources=resources({"ui": Resource()})),
    "agm_resources of plugin mine gave bytes": lambda: plugin(agm_resources=resources({"hello": b"hello"})),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_plugin_that_breaks_a_rule_is_refused_with_a_sentence(sentence: str) -> None:
    """It names the hook, and the cure after a semicolon."""
    with pytest.raises(AssertionError, match=sentence) as caught:
        check_plugin(REFUSED[sentence]())
    assert "mine" in str(caught.value)


def test_what_never_ends_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"agm_accounts of plugin mine was not done after 0\.05 seconds"):
        check_plugin(plugin(agm_accounts=never), patience=0.05)


def test_a_call_that_is_slow_once_is_no_fault() -> None:
    """A busy machine, or a first import."""
    calls: list[None] = []

    def first_slow(model: str) -> None:
        if not calls:
            time.sleep(0.15)
        calls.append(None)

    check_plugin(plugin(agm_map_model=first_slow))
    assert len(calls) > 1


@pytest.mark.parametrize("plugin", [p for name, p in make_plugins() if not name.endswith(".accounts")])
def test_the_builtin_plugins_keep_the_rules(plugin: object) -> None:
    """But for that of the accounts, whose names the check has taken."""
    check_plugin(plugin)
