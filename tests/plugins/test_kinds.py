"""Kinds of upstreams that plugins declare: what is refused at the start, and who knows them afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import Clock

from agm import cli, hookimpl
from agm.api import Account, AccountSource, ErrorInAnswer, Fault, ModelList, StaticToken, UpstreamKind, Verdict
from agm.core.pool.pool import Pool
from agm.core.request import BUILT_IN_KINDS
from agm.diagnose.trial import for_trials, try_account
from agm.plugins.hooks import Hooks
from agm.plugins.manager import PluginError, make_plugin_manager
from agm.serving.assemble import make_gateway
from agm.testing import GatewayFactory, RunningEmulator, check_plugin, parse_config
from tests.helpers.support import AnsweringUpstream

CHAT = frozenset({"generateContent", "streamGenerateContent"})


class House(msgspec.Struct):
    """Settings of accounts."""

    region: str
    depth: int = 1


def plugin(*kinds: UpstreamKind, name: str = "house", **hooks: Any) -> Any:
    """A plugin with kinds."""
    found = {hook: hookimpl(function) for hook, function in hooks.items()}
    return SimpleNamespace(__name__=name, agm_upstream_kinds=hookimpl(lambda: list(kinds)), **found)


def a_kind(name: str = "house", methods: Iterable[str] = CHAT, **more: Any) -> UpstreamKind:
    return UpstreamKind(name, methods, **more)


def account(url: str, lines: str = "", kind: str = "house", name: str = "one") -> str:
    return (
        f'[[accounts]]\nname = "{name}"\nkind = "{kind}"\nendpoints = ["{url}"]\napi_key = "canary-{name}"\n{lines}\n'
    )


# At the start


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (a_kind("House"), "the kind 'House' needs a name of lower-case letters"),
        (a_kind("vertx"), "the kind vertx would be taken for a mistyped vertex"),
        (a_kind("vertex"), "the kind vertex is built in; give yours another name"),
        (a_kind(methods=()), "the kind house has no methods"),
        (
            a_kind(methods=["generateContnet"]),
            "which is none of Google's; did you mean generateContent?",
        ),
        (a_kind(wrap=3), "wrap of the kind house is a int, and no function"),
        (a_kind(endpoints=("https://a/",)), "base URLs without a slash"),
        (a_kind(models="/models"), "models of the kind house is a str; give a ModelList"),
        (a_kind(settings=dict), "settings of the kind house are a msgspec.Struct"),
        (
            a_kind(settings=msgspec.defstruct("S", [("models", str)])),
            "house have models, which all accounts have",
        ),
        (a_kind(authenticate=lambda key: {"a b": key}), "authenticate of the kind house returns headers"),
        (a_kind(authenticate=lambda key: 1 / 0), "agm_upstream_kinds failed: ZeroDivisionError"),
        ("house", "it gave a str; an UpstreamKind is expected"),
    ],
)
def test_what_is_no_usable_kind_is_refused_at_the_start(kind: Any, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        make_plugin_manager([plugin(kind)], entry_points=False)
    assert message in str(caught.value)
    assert str(caught.value).startswith("plugin house: ")


def test_two_plugins_cannot_have_one_kind() -> None:
    with pytest.raises(PluginError, match="the kind house is one of plugin one's; give yours another name"):
        make_plugin_manager([plugin(a_kind(), name="one"), plugin(a_kind(), name="two")], entry_points=False)


def test_a_kind_takes_no_wrapper() -> None:
    def wrapper() -> Any:
        return (yield)

    wrapping = SimpleNamespace(__name__="w", agm_upstream_kinds=hookimpl(wrapper=True)(wrapper))
    with pytest.raises(PluginError, match="agm_upstream_kinds is"):
        make_plugin_manager([wrapping], entry_points=False)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('kind = "hous"', "kind: 'hous' is not one of api-key, vertex, code-assist, house; did you mean 'house'?"),
        ('kind = "zzz"', "kind: 'zzz' is not one of api-key, vertex, code-assist, house; a plugin that has it goes"),
        ('kind = "house"\nregion = "eu"\napi_key = "k"', "endpoints: is missing: house accounts each name their own"),
        ('kind = "house"\nregion = "eu"\nendpoints = ["https://a"]', "api_key: is missing: write one of api_key"),
        ('kind = "house"\napi_key = "k"\nendpoints = ["https://a"]', "region: is missing"),
        ('kind = "house"\nregion = 5\napi_key = "k"\nendpoints = ["https://a"]', "region: expected str, not int"),
        (
            'kind = "house"\nregion = "eu"\ndept = 2\napi_key = "k"\nendpoints = ["https://a"]',
            "dept: unknown key; did you mean 'depth'?",
        ),
        (
            'kind = "house"\nregion = "eu"\nproject = "p"\napi_key = "k"\nendpoints = ["https://a"]',
            "project: unknown key; house accounts have region, depth",
        ),
    ],
)
def test_a_mistake_in_an_account_of_a_kind_is_named_as_all_others(table: str, problem: str) -> None:
    hooks = Hooks(make_plugin_manager([plugin(a_kind(settings=House))], entry_points=False), Clock())
    config = parse_config(f'[[accounts]]\nname = "a"\n{table}')
    (found,) = map(str, hooks.settings_problems(config))
    assert found.startswith(f"configuration: accounts[0].{problem}")


@pytest_twisted.ensureDeferred
async def test_the_start_is_refused_without_the_plugin(gateway: GatewayFactory) -> None:
    """And the line names the cure."""
    with pytest.raises(SystemExit) as caught:
        await gateway(account("https://a.example"))
    assert "accounts[0].kind: 'house' is not one of api-key, vertex, code-assist" in str(caught.value)
    assert "[plugins] load" in str(caught.value)


# Serving


class Reader:
    """Reads answers whose text is in ``said``."""

    def read(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        if "fault" in document:
            raise ErrorInAnswer(429, json.dumps(document).encode())
        return [{"candidates": [{"content": {"role": "model", "parts": [{"text": str(document["said"])}]}}]}]

    def end(self, done: bool) -> list[dict[str, Any]]:
        return []


def read_error(status: int, body: bytes, headers: Mapping[str, str], account: Account, request: Any) -> Verdict:
    return Verdict(Fault.QUOTA, "SPENT", 30, f"house says {status}")


@pytest_twisted.ensureDeferred
async def test_an_account_of_a_kind_serves_by_what_the_kind_says(gateway: GatewayFactory) -> None:
    """Its headers, its settings, its reader; the built-in wrapping where it has none of its own."""
    seen: list[Any] = []

    def read_answer(request: Any, account: Account) -> Reader:
        seen.append(account.settings)
        return Reader()

    kind = a_kind(settings=House, authenticate=lambda key: {"X-House": key, "X-Two": "2"}, read_answer=read_answer)
    upstream = AnsweringUpstream(lambda asked: (200, {"said": "from the house"}))
    try:
        running = await gateway(account(upstream.url, 'region = "eu"'), plugins=[plugin(kind)])
        answer = await running.ask()
        assert answer.text == "from the house"
        assert seen == [House("eu")]
        (asked,) = upstream.asked
        assert asked.path == "/v1beta/models/gemini-2.5-flash:generateContent"
        assert (asked.headers["x-house"], asked.headers["x-two"]) == ("canary-one", "2")
        assert "authorization" not in asked.headers
        assert (await running.explain())["upstream"]["headers"]["X-House"] == "[redacted]"
    finally:
        await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_errors_of_a_kind_are_the_kinds_to_read(gateway: GatewayFactory) -> None:
    """By status, and in an answer; and never in the upstream's own form."""
    says: list[tuple[int, Any]] = [(418, {"error": {"own": "form"}}), (200, {"fault": "spent"})]
    upstream = AnsweringUpstream(lambda asked: says.pop(0))
    kind = a_kind(read_answer=lambda request, account: Reader(), read_error=read_error)
    try:
        tables = account(upstream.url) + account(upstream.url, name="two")
        running = await gateway(tables, plugins=[plugin(kind)])
        answer = await running.ask()
        assert (answer.status, answer.json["error"]["message"]) == (429, "house says 429")
        assert answer.json["error"]["details"][0]["reason"] == "SPENT"
        assert answer.headers["retry-after"] == "30"
    finally:
        await upstream.stop()


@pytest.mark.parametrize(
    ("wrong", "kind_of_error"),
    [
        (lambda document: 1 / 0, "ZeroDivisionError"),
        (lambda document: [], "TypeError"),
        (lambda document: ["x"], "TypeError"),
        (lambda document: [{"x": object()}], "TypeError"),
    ],
)
@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_reader_that_fails_is_blamed(gateway: GatewayFactory, wrong: Any, kind_of_error: str) -> None:
    upstream = AnsweringUpstream(lambda asked: (200, {"said": "a"}))
    reader = SimpleNamespace(read=wrong, end=lambda done: [])
    try:
        running = await gateway(account(upstream.url), plugins=[plugin(a_kind(read_answer=lambda r, a: reader))])
        answer = await running.ask()
        assert (answer.status, answer.json["error"]["details"][0]["reason"]) == (500, "PLUGIN_FAILED")
        assert f"plugin house failed: {kind_of_error}" in answer.json["error"]["message"]
        assert running.gateway.hooks.failures["house", "agm_upstream_kinds"] == 1
    finally:
        await upstream.stop()


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_wrap_that_fails_is_blamed_and_counted(gateway: GatewayFactory) -> None:
    kind = a_kind(wrap=lambda request, account, body: 1 / 0)
    running = await gateway(account("http://127.0.0.1:9"), plugins=[plugin(kind)])
    answer = await running.ask()
    assert (answer.status, answer.json["error"]["details"][0]["reason"]) == (500, "PLUGIN_FAILED")
    plugins = (await running.fetch("GET", "/_agm/plugins")).json["plugins"]
    assert [(one["name"], one["failures"]) for one in plugins if one["kinds"]] == [("house", 1)]


@pytest_twisted.ensureDeferred
async def test_plugins_give_accounts_of_kinds_too(gateway: GatewayFactory) -> None:
    """An account that a plugin makes needs no more than the name of its kind."""
    upstream = AnsweringUpstream(lambda asked: (200, {"said": "from the vault"}))

    def accounts(config: Any) -> list[AccountSource]:
        return [AccountSource(Account("v", "house", (upstream.url,)), lambda refresher: StaticToken("t"))]

    kind = a_kind(read_answer=lambda request, account: Reader())
    try:
        running = await gateway("", plugins=[plugin(kind, agm_accounts=accounts)])
        assert (await running.ask()).text == "from the vault"
        assert upstream.credentials == ["t"]
        assert running.gateway.pool.accounts[0].upstream is kind
    finally:
        await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_method_that_a_kind_lacks_is_another_accounts(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Those with the method serve, whatever other kinds share; without one the answer is 501."""
    upstream = AnsweringUpstream(lambda asked: (200, {"said": "a"}))
    kind = a_kind(read_answer=lambda request, account: Reader())
    tables = '[pool]\nstrategy = "priority"\n' + account(upstream.url, "priority = -1")
    try:
        both = await gateway(tables + emulator.account("work"), plugins=[plugin(kind)])
        assert (await both.ask()).text == "a"
        assert (await both.ask(method="countTokens")).json["totalTokens"] > 0
        assert [entry.path.rpartition(":")[2] for entry in emulator.log] == ["countTokens"]
        alone = await gateway(tables, plugins=[plugin(kind)])
        assert (await alone.ask(method="countTokens")).status == 501
    finally:
        await upstream.stop()


def test_methods_share_groups_as_far_as_the_kinds_in_the_pool_share_them() -> None:
    """One kind more, and they are told apart; it gone, they are not."""
    one = Account("a", "api-key", ("https://a",))
    other = Account("b", "house", ("https://b",), upstream=a_kind())
    pool = Pool([one, other], lambda: 0.0)
    assert [a.name for a in pool.candidates("m", "countTokens")] == ["a"]
    assert [a.name for a in pool.candidates("m", "generateContent")] == ["a", "b"]
    assert [e.account.name for e in pool.excluded("m", "countTokens")] == ["b"]
    pool.replace([other], ())
    assert not pool.candidates("m", "countTokens")
    assert [a.name for a in pool.candidates("m", "streamGenerateContent")] == ["b"]


# The conformance kit


class Careless(Reader):
    """Takes what an upstream sends for what it should be."""

    def read(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"text": document["choices"][0]["message"]}]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (a_kind(read_answer=lambda request, account: Careless()), "agm_upstream_kinds of plugin house raised KeyError"),
        (
            a_kind(wrap=lambda request, account, body: SimpleNamespace(path="x")),
            "agm_wrap_request of plugin house returned SimpleNamespace",
        ),
        (
            a_kind(read_error=lambda *given: Verdict(Fault.RATE, "")),
            "agm_classify_error of plugin house gave no reason",
        ),
        (
            a_kind(models=ModelList("/models", lambda document: document["models"])),
            "agm_upstream_kinds of plugin house raised KeyError",
        ),
    ],
)
def test_the_kit_finds_what_is_wrong_with_a_kind(kind: UpstreamKind, message: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_plugin(plugin(kind))
    assert message in str(caught.value)


# What shows and tries accounts


def listed(document: dict[str, Any]) -> list[Mapping[str, Any]]:
    return [{"name": f"models/{one}"} for one in document["ids"]]


@pytest.mark.parametrize(
    ("says", "ok", "reason"),
    [
        ((200, {"ids": ["a", "b"]}), True, None),
        ((401, {"error": {"own": "form"}}), False, "SPENT"),
        ((200, b"<html>"), False, "NOT_AN_ANSWER"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_account_that_counts_no_tokens_is_tried_by_its_models(says: Any, ok: bool, reason: str | None) -> None:
    upstream = AnsweringUpstream(lambda asked: says)
    kind = a_kind(models=ModelList("/list", listed), read_error=read_error)
    config = for_trials(parse_config(account(upstream.url)))
    gateway = make_gateway(reactor, config, "off", plugins=[plugin(kind)], installed=False)
    await gateway.start()
    try:
        trial = await try_account(gateway, gateway.pool.accounts[0])
        assert (trial.ok, trial.reason, trial.status) == (ok, reason, says[0])
        assert (upstream.asked[0].path, upstream.credentials) == ("/list", ["canary-one"])
        if ok:
            assert trial.answered == "2 models listed"
    finally:
        await gateway.stop()
        await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_an_account_of_which_nothing_can_be_asked_is_not_said_to_work() -> None:
    config = for_trials(parse_config(account("http://127.0.0.1:9")))
    gateway = make_gateway(reactor, config, "off", plugins=[plugin(a_kind())], installed=False)
    await gateway.start()
    try:
        trial = await try_account(gateway, gateway.pool.accounts[0])
        assert (trial.ok, trial.reason) == (False, "NOTHING_TO_TRY")
    finally:
        await gateway.stop()


CONFIGURED = '[plugins]\nload = ["agm.contrib.openai_upstream"]\n'


def test_the_command_line_adds_checks_and_lists_accounts_of_a_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agm.toml"
    path.write_text(CONFIGURED)
    path.chmod(0o600)
    monkeypatch.setenv("HOUSE_KEY", "k" * 20)

    def run(*args: str) -> tuple[int, str, str]:
        status = cli.main([*args, "--config", str(path)])
        out, err = capsys.readouterr()
        return status, out, err

    url = ("--endpoint", "http://127.0.0.1:8000/v1")
    status, _, err = run("account", "add", "local", "--kind", "openai", *url)
    assert status == 0
    assert "no key is asked for" in err
    more = ("--set", "max_tokens_field=max_completion_tokens", "--set", "stream_usage=false")
    assert run("account", "add", "far", "--kind", "openai", "--api-key-env", "HOUSE_KEY", *more)[0] == 0
    text = path.read_text()
    assert 'max_tokens_field = "max_completion_tokens"' in text
    assert "stream_usage = false" in text
    status, _, err = run("account", "add", "x", "--kind", "opnai", *url)
    assert status == 1
    assert "did you mean openai" in err
    status, _, err = run("account", "add", "x", "--kind", "openai", *url, "--set", "stream_usag=true")
    assert status == 1
    assert "stream_usag: unknown key; did you mean 'stream_usage'?" in err
    assert path.read_text() == text
    assert run("config", "check")[0] == 0
    status, out, _ = run("account", "list", "--offline", "--json")
    assert [(one["name"], one["kind"], one["credential"]) for one in json.loads(out)] == [
        ("local", "openai", None),
        ("far", "openai", "api_key_env"),
    ]
    assert run("account", "remove", "far", "--yes")[0] == 0
    path.write_text(path.read_text().replace("openai_upstream", "nothing_such"))
    status, out, err = run("config", "check")
    assert status == 1
    assert "agm.contrib.nothing_such cannot be imported" in out + err


def test_built_in_kinds_are_described_as_others_are() -> None:
    assert {name: kind.default_endpoints("us") for name, kind in BUILT_IN_KINDS.items()} == {
        "api-key": ("https://generativelanguage.googleapis.com",),
        "vertex": ("https://aiplatform.us.rep.googleapis.com",),
        "code-assist": ("https://cloudcode-pa.googleapis.com",),
    }
