"""
Finding plugins and calling their hooks, so that one that fails does what its hookspec says and nothing else.

:func:`make_plugin_manager` loads the built-in plugins, those of the entry-point group ``agm`` and those that a person
named.  :class:`Hooks` is how the gateway calls them: typed, in order, with every exception named, counted and, where a
hook fails open, swallowed.  Nothing here knows about HTTP.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import pluggy
from twisted.logger import Logger

from agm import defaults, hookspecs
from agm.core.classify import Verdict
from agm.core.errors import GatewayError
from agm.core.request import (
    Account,
    AccountChoice,
    AttemptRecord,
    GatewayRequest,
    ModelChoice,
    RequestRecord,
    UpstreamRequest,
)
from agm.hookspecs import ClientKeySource

if TYPE_CHECKING:
    from twisted.web.resource import IResource

    from agm.config import Config
    from agm.upstream.accounts import AccountSource
    from agm.web.site import GatewaySite


class PluginError(Exception):
    """A plugin cannot be used; the message names it and says why."""


class HookFailed(Exception):
    """A hook that fails closed has raised; the message names the plugin and the hook, not the exception's text."""


def make_plugin_manager(modules: Iterable[str] = (), *, entry_points: bool = True) -> pluggy.PluginManager:
    """
    A plugin manager with the built-in plugins, the installed ones and `modules`.

    :raises PluginError: if a plugin cannot be imported, or implements a hook that does not exist.
    """
    manager = pluggy.PluginManager("agm")
    manager.add_hookspecs(hookspecs)
    for name, plugin in defaults.make_plugins():
        manager.register(plugin, name)
    if entry_points:
        try:
            manager.load_setuptools_entrypoints("agm")
        except Exception as e:
            raise PluginError(f"an installed plugin cannot be loaded: {_last_line(e)}") from e
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as e:
            raise PluginError(f"plugin {name} cannot be imported: {_last_line(e)}") from e
        if manager.get_name(module) is None:
            manager.register(module, name)
    _check(manager)
    return manager


def _last_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _check(manager: pluggy.PluginManager) -> None:
    known = [name for name in vars(hookspecs) if name.startswith("agm_")]
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as e:
        raise PluginError(str(e).splitlines()[0]) from e
    for name, plugin in manager.list_name_plugin():
        for attribute in dir(plugin):
            if attribute.startswith("agm_") and attribute not in known and callable(getattr(plugin, attribute)):
                near = difflib.get_close_matches(attribute, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise PluginError(f"plugin {name}: there is no hook {attribute}{hint}")


@attrs.define(eq=False)
class Hooks:
    """
    The hooks as the gateway calls them.

    :param manager: the plugins.
    :ivar failures: how often a plugin's hook raised, by (plugin, hook).
    """

    manager: pluggy.PluginManager
    failures: Counter[tuple[str, str]] = attrs.Factory(Counter)
    _log: Logger = attrs.Factory(lambda: Logger("agm.plugins"))

    def __attrs_post_init__(self) -> None:
        for plugin in self.manager.get_plugins():
            for caller in self.manager.get_hookcallers(plugin) or ():
                for impl in caller.get_hookimpls():
                    if impl.plugin is plugin and not (impl.wrapper or impl.hookwrapper):
                        impl.function = self._guarded(impl, caller.name)  # type: ignore[misc]  # final for type checkers only

    @property
    def edits_requests(self) -> bool:
        """Whether any plugin edits bodies."""
        return bool(self.manager.hook.agm_transform_request.get_hookimpls())

    @property
    def edits_events(self) -> bool:
        """Whether any plugin edits answers."""
        return bool(self.manager.hook.agm_transform_event.get_hookimpls())

    def configure(self, config: Config) -> None:
        """Fire ``agm_configure``.  :raises HookFailed: a plugin that cannot be configured must not run."""
        self.manager.hook.agm_configure(config=config)

    def client_key_sources(self, config: Config) -> list[ClientKeySource]:
        """All sources of client keys.  :raises HookFailed:"""
        return [s for found in self.manager.hook.agm_client_keys(config=config) for s in found]

    def account_sources(self, config: Config) -> list[AccountSource]:
        """All accounts.  :raises HookFailed:"""
        return [s for found in self.manager.hook.agm_accounts(config=config) for s in found]

    def map_model(self, model: str, request: GatewayRequest) -> ModelChoice:
        """The model that serves `model`; itself where no plugin says another."""
        choice = self.manager.hook.agm_map_model(model=model, request=request)
        if isinstance(choice, str):
            return ModelChoice(choice, "a plugin's choice")
        return choice if isinstance(choice, ModelChoice) else ModelChoice(model, "as asked")

    def filter_accounts(self, accounts: Sequence[Account], request: GatewayRequest) -> dict[str, str]:
        """The names of accounts that must not serve, each with the reason."""
        excluded: dict[str, str] = {}
        for found in self.manager.hook.agm_filter_accounts(accounts=accounts, request=request):
            excluded.update(found)
        return excluded

    def select_account(
        self, accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]
    ) -> AccountChoice:
        """One of `accounts`, which are not empty; the first where no plugin picks one of them."""
        choice = self.manager.hook.agm_select_account(accounts=accounts, request=request, loads=loads)
        if isinstance(choice, Account):
            choice = AccountChoice(choice, "a plugin's choice")
        if isinstance(choice, AccountChoice) and choice.account in accounts:
            return choice
        return AccountChoice(accounts[0], "the first candidate")

    def wrap_request(self, request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest:
        """The request for an upstream.  :raises HookFailed: if no plugin, or a broken one, builds it."""
        wrapped = self.manager.hook.agm_wrap_request(request=request, account=account, body=body)
        if not isinstance(wrapped, UpstreamRequest):
            raise HookFailed(f"no plugin wraps requests for {account.kind} accounts")
        return wrapped

    def transform_request(self, body: dict[str, Any], request: GatewayRequest) -> dict[str, Any]:
        """The body after all plugins' edits.  :raises HookFailed:"""
        return self._chain(self.manager.hook.agm_transform_request, "body", body, request)

    def transform_event(self, event: dict[str, Any], request: GatewayRequest) -> dict[str, Any]:
        """The event after all plugins' edits.  :raises HookFailed:"""
        return self._chain(self.manager.hook.agm_transform_event, "event", event, request)

    def classify_error(self, status: int, body: bytes, headers: Mapping[str, str], account: Account) -> Verdict:
        """What a failed answer means."""
        return self.manager.hook.agm_classify_error(status=status, body=body, headers=headers, account=account)

    def attempt_finished(self, attempt: AttemptRecord) -> None:
        """Tell the observers."""
        self.manager.hook.agm_attempt_finished(attempt=attempt)

    def request_finished(self, record: RequestRecord) -> None:
        """Tell the observers."""
        self.manager.hook.agm_request_finished(record=record)

    def resources(self, site: GatewaySite) -> dict[str, IResource]:
        """HTTP resources by the first segment of their path; of two for one segment the first plugin's counts."""
        found: dict[str, IResource] = {}
        for resources in self.manager.hook.agm_resources(site=site):
            for segment, resource in resources.items():
                found.setdefault(segment, resource)
        return found

    def _chain(
        self, caller: pluggy.HookCaller, argument: str, value: dict[str, Any], request: GatewayRequest
    ) -> dict[str, Any]:
        for impl in reversed(caller.get_hookimpls()):
            given = {argument: value, "request": request}
            changed: Any = impl.function(*[given[name] for name in impl.argnames])
            if changed is not None:
                value = changed
        return value

    def _guarded(self, impl: pluggy.HookImpl, hook: str) -> Callable[..., object]:
        function, closed = impl.function, hook in FAIL_CLOSED

        def call(*args: object) -> object:
            try:
                result = function(*args)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(f"{hook} is a synchronous hook, but {impl.plugin_name} returned a coroutine")
                return result
            except GatewayError:  # an answer that the hook wants the client to get
                raise
            except Exception as e:
                self.failures[impl.plugin_name, hook] += 1
                self._log.failure("hook {hook} of plugin {plugin} failed", hook=hook, plugin=impl.plugin_name)
                if closed:
                    raise HookFailed(f"hook {hook} of plugin {impl.plugin_name} failed: {type(e).__name__}") from e
                return None

        return call


#: Hooks whose failure fails the request (or the start): going on would send what nobody intended.
FAIL_CLOSED = frozenset(
    {
        "agm_configure",
        "agm_client_keys",
        "agm_accounts",
        "agm_filter_accounts",
        "agm_wrap_request",
        "agm_transform_request",
        "agm_transform_event",
    }
)
