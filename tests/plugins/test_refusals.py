"""What plugins do wrong without noticing: it is refused, left out or blamed, and never silent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from agm import hookimpl
from agm.api import Account, AccountSource, ApiKey, ModelChoice, UpstreamRequest
from agm.core.wire.answer_filters import Framing
from agm.plugins import watch
from agm.plugins.hooks import Hooks
from agm.plugins.manager import DIALECTS, PluginError, PluginManager, make_plugin_manager
from agm.plugins.results import checked
from agm.testing import GatewayFactory, RunningEmulator, check_plugin


def named(name: str, **functions: Any) -> Any:
    """A plugin of some functions, each marked."""
    return SimpleNamespace(__name__=name, **{hook: hookimpl(function) for hook, function in functions.items()})


def source(name: str, kind: str, url: object) -> AccountSource:
    """An account as a plugin gives it."""
    return AccountSource(Account(name, kind, (url,)), lambda refresher: ApiKey("a-key"))  # type: ignore[arg-type]


UNUSABLE = {
    "kind": ("gopher", "https://example.net", "an account of kind 'gopher'"),
    "clear": ("api-key", "http://example.net", "the endpoint 'http://example.net'"),
    "slash": ("api-key", "https://example.net/", "the endpoint 'https://example.net/'"),
    "bytes": ("api-key", b"https://example.net", "the endpoint b'https://example.net'"),
}


@pytest.mark.parametrize("awaits", [False, True])
@pytest.mark.parametrize("case", UNUSABLE)
@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_an_account_that_cannot_serve_is_left_out_and_the_others_serve(
    gateway: GatewayFactory, emulator: RunningEmulator, lines: list[str], case: str, awaits: bool
) -> None:
    """The line names the plugin, the account and the cure; every request is served by the others."""
    kind, url, what = UNUSABLE[case]

    def agm_accounts() -> Any:
        return [source("wrong", kind, url), source("right", "api-key", emulator.url)]

    async def later() -> Any:
        return agm_accounts()

    running = await gateway(
        emulator.account("work"), plugins=[named("vault", agm_accounts=later if awaits else agm_accounts)]
    )
    assert {account.name for account in running.gateway.pool.accounts} == {"work", "right"}
    assert any(f"plugin vault gave {what}, wrong, which is left out" in line for line in lines)
    assert [(await running.ask()).status for _ in range(4)] == [200] * 4


def wrapper(name: str, hook: str, replace: Callable[[Any], Any]) -> Any:
    """A plugin that wraps a hook, and returns what `replace` makes of its result."""

    def wrap() -> Any:
        return replace((yield))

    return SimpleNamespace(__name__=name, **{hook: hookimpl(wrapper=True)(wrap)})


@pytest.mark.parametrize("made", [lambda found: None, lambda found: 5, lambda found: [found]])
@pytest.mark.parametrize(
    ("hook", "status"),
    [("agm_map_model", 200), ("agm_select_account", 200), ("agm_wrap_request", 500), ("agm_filter_accounts", 500)],
)
@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_wrapper_whose_result_is_wrong_is_named_and_counted(
    gateway: GatewayFactory, emulator: RunningEmulator, hook: str, status: int, made: Callable[[Any], Any]
) -> None:
    """Most often it has forgotten its ``return``: what it wraps counts, or the request ends, as the hookspec says."""
    text = emulator.account("work") + '[models.aliases]\n"gemini-2.5-flash" = "gemini-2.5-pro"\n'
    running = await gateway(text, plugins=[wrapper("mine", hook, made)])
    answer = await running.ask()
    assert answer.status == status
    assert running.gateway.hooks.failures["mine", hook] == 1
    if status == 500:
        assert f"hook {hook} of plugin mine failed" in answer.json["error"]["message"]


@pytest.mark.parametrize("hook", ["agm_map_model", "agm_wrap_request", "agm_filter_accounts"])
def test_the_kit_refuses_a_wrapper_that_forgets_to_return(hook: str) -> None:
    """With the plugin's name, as all that it refuses; one that returns what it got conforms."""
    with pytest.raises(AssertionError, match=f"{hook} of plugin mine is wrong: its wrapper returned nothing"):
        check_plugin(wrapper("mine", hook, lambda found: None))
    check_plugin(wrapper("mine", hook, lambda found: found))


SEGMENTS = {
    "another plugin's": ({"hello": Resource()}, "plugins one and two both have /hello; .plugins. disable leaves"),
    "two words": ({"hello/world": Resource()}, "plugin two: hello/world has several segments"),
    "two words of which none is claimed": ({"v1/hello": Resource()}, "plugin two: v1/hello has several segments"),
    "nothing": ({"": Resource()}, "plugin two: '' is no path"),
    "bytes": ({b"hello": Resource()}, "plugin two: b'hello' is no path"),
    "the gateway's": ({"healthz": Resource()}, "plugin two: /healthz is the gateway's own"),
}


@pytest.mark.parametrize("case", SEGMENTS)
@pytest.mark.expects_logged_failures
def test_a_resource_that_could_not_be_reached_is_refused(case: str) -> None:
    """Its plugin is named, and the other one where two want the same."""
    found, message = SEGMENTS[case]
    one = named("one", agm_resources=lambda: {"hello": Resource()})
    plugins = [named("two", agm_resources=lambda: found), one]
    hooks = Hooks(make_plugin_manager(plugins, entry_points=False, disable=DIALECTS), Clock())
    with pytest.raises(PluginError, match=message):
        hooks.resources(None, {"healthz"})


@pytest.mark.parametrize(
    "header",
    [(b"X-One", b"a\r\nX-Two: b"), (b"X-One\n", b"a"), (b"X One", b"a"), (b"", b"a"), (b"X-One", b"a\x00")],
)
def test_a_header_that_would_make_another_one_is_refused(header: tuple[bytes, bytes]) -> None:
    """Nothing of it reaches the wire."""
    with pytest.raises(TypeError, match="whose path, headers or body cannot be sent"):
        checked("agm_wrap_request", UpstreamRequest("/v1/x", (header,), b"{}", Framing.UNARY))
    assert checked("agm_wrap_request", UpstreamRequest("/v1/x", ((b"X-One", "ü".encode()),), b"{}", Framing.UNARY))


def test_a_hook_by_another_name_is_called_or_refused() -> None:
    """``specname`` names a hook that there is; ``optionalhook`` says that there need not be one."""

    class Renamed:
        @hookimpl(specname="agm_map_model")
        def choose(self, model: str) -> str:
            return f"{model}-2"

        @hookimpl(optionalhook=True)
        def agm_of_a_later_version(self, model: str) -> None: ...

    manager = make_plugin_manager([Renamed()], entry_points=False)
    chosen = Hooks(manager, Clock()).map_model("m", SimpleNamespace(id="x"))  # type: ignore[arg-type]
    assert chosen == ModelChoice("m-2", "a plugin's choice")
    misspelt = SimpleNamespace(__name__="mine", choose=hookimpl(specname="agm_map_modle")(lambda model: None))
    with pytest.raises(PluginError, match="plugin mine: there is no hook agm_map_modle; did you mean agm_map_model"):
        make_plugin_manager([misspelt], entry_points=False)


def test_a_plugin_can_be_left_out(tmp_path: Path) -> None:
    """By the name that ``agm plugins`` shows, wherever it comes from, and it is not imported."""
    (tmp_path / "broken.py").write_text("raise AssertionError('it was imported')")
    left_out = ["agm_plugins.broken", "no.such.module", "mine", "agm.defaults.aliases"]
    manager = make_plugin_manager(
        ["no.such.module", named("mine")], folder=tmp_path, entry_points=False, disable=left_out
    )
    assert not any(manager.has_plugin(name) for name in left_out)
    with pytest.raises(PluginError, match=r"there is no plugin agm_plugins.brokem; did you"):
        make_plugin_manager(folder=tmp_path, entry_points=False, disable=["agm_plugins.brokem", "agm_plugins.broken"])


@pytest_twisted.ensureDeferred
async def test_the_configuration_leaves_plugins_out(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Here the aliases."""
    text = emulator.account("work") + '[models.aliases]\n"short" = "gemini-2.5-flash"\n'
    running = await gateway(text + '[plugins]\ndisable = ["agm.defaults.aliases"]\n')
    await running.ask("short")
    assert emulator.log[-1].model == "short"


@pytest.fixture
def manager() -> PluginManager:
    """A manager whose hooks are in use."""
    made = make_plugin_manager(entry_points=False)
    Hooks(made, Clock())
    return made


def test_what_would_see_only_some_calls_is_refused(manager: PluginManager) -> None:
    """A plugin that is registered late, and pluggy's monitoring."""
    with pytest.raises(PluginError, match=r"plugin late is registered too late.*\[plugins\] load"):
        manager.register(named("late"), "late")
    with pytest.raises(PluginError, match="agm explain shows"):
        manager.add_hookcall_monitoring(print, print)
    with pytest.raises(PluginError, match="agm explain shows"):
        manager.enable_tracing()


@pytest.mark.parametrize("holds", ["computes", "waits", "is kept from the processor"])
def test_a_plugin_is_blamed_for_its_own_time_alone(monkeypatch: pytest.MonkeyPatch, holds: str) -> None:
    """The clock says the same in each case; the processor's does not."""
    now = 0.0
    monkeypatch.setattr(watch.time, "perf_counter", lambda: now)
    used = SimpleNamespace(ru_utime=0.0, ru_stime=0.0, ru_nvcsw=7)
    monkeypatch.setattr(watch, "getrusage", lambda who: SimpleNamespace(**vars(used)))
    seen = watch.Watch()
    now = 1.5
    if holds == "computes":
        used.ru_utime = 1.4
    elif holds == "waits":
        used.ru_nvcsw += 1
    assert seen.held() == (None if holds == "is kept from the processor" else 1.5)


def test_the_watch_knows_who_waits() -> None:
    """With the system's own figures: a plugin that sleeps leaves the processor of its own accord."""
    seen = watch.Watch()
    time.sleep(watch.TOO_LONG * 1.1)
    assert seen.held() is not None
