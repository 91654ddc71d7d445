"""
Call the hooks of plugins, so that one that fails does what its hookspec says and nothing else.

:class:`Hooks` is how the gateway calls them: typed, in order, with every exception named, counted and, where a hook
fails open, passed over.  Nothing here knows about HTTP.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import msgspec
import pluggy
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger
from twisted.python.failure import Failure

from agm.config.accounts import kind_problems
from agm.config.plugin_settings import problems_of
from agm.config.problems import Problem
from agm.core.alerts import Alert
from agm.core.answer import Answer, KeepAnswer, LocalAnswer
from agm.core.classify import Fault, Verdict
from agm.core.errors import GatewayError
from agm.core.request import (
    Account,
    AccountChoice,
    AttemptRecord,
    EndStream,
    ErrorInAnswer,
    GatewayRequest,
    ModelChoice,
    RequestRecord,
    UpstreamRequest,
)
from agm.core.wire.target import VERSIONS
from agm.hookspecs import ClientKeySource, Site
from agm.plugins.manager import HOOKS, MAY_AWAIT, PluginError, PluginManager, last_line
from agm.plugins.results import checked, checked_wrapper
from agm.plugins.watch import Watch
from agm.upstream.accounts import of_kind, why_refused

if TYPE_CHECKING:
    from twisted.web.resource import IResource

    from agm.config import Config
    from agm.upstream.accounts import AccountSource

T = TypeVar("T")

#: Hooks whose failure ends the request (or the start): going on would do what nobody intended.
FAIL_CLOSED = frozenset(
    {
        "agm_upstream_kinds",
        "agm_settings",
        "agm_configure",
        "agm_client_keys",
        "agm_accounts",
        "agm_look_up",
        "agm_answer_request",
        "agm_filter_accounts",
        "agm_wrap_request",
        "agm_transform_request",
        "agm_transform_event",
        "agm_resources",
    }
)
#: Hooks of the start and of a reload.
AT_START = frozenset(
    {"agm_upstream_kinds", "agm_settings", "agm_configure", "agm_client_keys", "agm_accounts", "agm_resources"}
)
#: The attribute of a plugin by which it says that what no chain can be shown may pass its own.
ALLOWS_UNSEEN = "may_pass_unseen"
#: How the names of agm's own plugins begin that are loaded by name.
CONTRIB = "agm.contrib."
#: The first segment of a path as an address has it.
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")
#: What hooks return as a rule, and nobody can await.
_DECISIONS = frozenset(
    {ModelChoice, AccountChoice, Account, UpstreamRequest, Verdict, KeepAnswer, LocalAnswer, dict, str}
)


class HookFailed(Exception):
    """
    A hook that fails closed has raised; the message names the plugin and the hook, not the exception's text.

    :ivar plugin: the plugin's name; empty where no one plugin is to blame.
    """

    def __init__(self, message: str, plugin: str = "") -> None:
        super().__init__(message)
        self.plugin = plugin


@attrs.frozen
class Call:
    """What one plugin's implementation of a hook returned, or the error that it refuses with, for an explanation."""

    hook: str
    plugin: str
    result: object


@attrs.frozen
class EditedEvents:
    """What plugins made of an event: the events in its place as JSON, and whether the stream ends well with them."""

    documents: Sequence[bytes]
    ends: bool


#: What is put down where :meth:`Hooks.recorded` asks for it; every request has a context of its own.
_record: ContextVar[list[Call] | None] = ContextVar("agm_record", default=None)


def _note(hook: str, plugin: str, result: object) -> None:
    record = _record.get()
    if record is not None and result is not None:
        record.append(Call(hook, plugin, result))


@attrs.define(eq=False)
class Hooks:
    """
    The hooks as the gateway calls them.

    :param manager: the plugins.
    :param reactor: for the time limit of hooks that await.
    :param limit: that time limit, in seconds.
    :ivar failures: how often a plugin's hook raised, by (plugin, hook).
    """

    manager: PluginManager
    reactor: Any
    limit: float = 10.0
    failures: Counter[tuple[str, str]] = attrs.Factory(Counter)
    #: Resources that plugins have added at paths of several segments, in the order in which they are asked.
    paths: list[tuple[str, Any]] = attrs.field(init=False, factory=list)
    #: The request that is being decided, for the log; "-" at the start.  Hooks are called one at a time.
    _request_id: str = attrs.field(init=False, default="-")
    _log: Logger = attrs.field(init=False, factory=lambda: Logger("agm.plugins.hooks"))

    #: Whether any plugin edits bodies, any edits answers, and any adds headers to answers.
    edits_requests: bool = attrs.field(init=False)
    edits_events: bool = attrs.field(init=False)
    edits_headers: bool = attrs.field(init=False)
    #: Whether any plugin looks something up, and whether any answers requests.
    looks_up: bool = attrs.field(init=False)
    answers: bool = attrs.field(init=False)
    #: The plugins that answer, each with its implementation.
    _answer_request: Sequence[tuple[str, Callable[..., object]]] = attrs.field(init=False)
    #: The implementations of what is awaited one by one, in the order of their calls.
    _look_up: Sequence[pluggy.HookImpl] = attrs.field(init=False)
    _transform_request: Sequence[pluggy.HookImpl] = attrs.field(init=False)
    _transform_event: Sequence[pluggy.HookImpl] = attrs.field(init=False)
    #: The verdict that agm itself came to last.
    _own_verdict: object = attrs.field(init=False, default=None)
    _map_model: Callable[..., object] = attrs.field(init=False)
    _filter_accounts: Callable[..., list[Any]] | None = attrs.field(init=False)
    _select_account: Callable[..., object] = attrs.field(init=False)
    #: Whether nobody but agm itself has a hand in the choice.
    _selects_itself: bool = attrs.field(init=False)
    _wrap_request: Callable[..., object] = attrs.field(init=False)
    _attempt_finished: Callable[..., list[Any]] | None = attrs.field(init=False)
    _request_finished: Callable[..., list[Any]] | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.manager.use()
        for hook in HOOKS:
            for impl in getattr(self.manager.hook, hook).get_hookimpls():
                if impl.wrapper:
                    impl.function = self._guarded_wrapper(impl, hook)
                elif self._is_ours(impl.plugin_name):
                    impl.function = self._trusted(impl, hook)
                elif not impl.hookwrapper:  # pluggy's old form, which takes care of its own errors
                    impl.function = self._guarded(impl, hook)
        calls = self.manager.hook
        self._transform_request = calls.agm_transform_request.get_hookimpls()[::-1]
        self._transform_event = calls.agm_transform_event.get_hookimpls()[::-1]
        self.edits_requests = bool(self._transform_request)
        self.edits_events = bool(self._transform_event)
        self.edits_headers = bool(calls.agm_answer_headers.get_hookimpls())
        self._look_up = calls.agm_look_up.get_hookimpls()[::-1]
        self.looks_up = bool(self._look_up)
        answering = calls.agm_answer_request.get_hookimpls()[::-1]
        self._answer_request = [(i.plugin_name, _taking_all(i.function, [0] * len(i.argnames), 1)) for i in answering]
        self.answers = bool(answering)
        self._map_model = _first(calls.agm_map_model)
        self._filter_accounts = _all(calls.agm_filter_accounts)
        self._select_account = _first(calls.agm_select_account)
        self._selects_itself = all(self._is_ours(impl.plugin_name) for impl in calls.agm_select_account.get_hookimpls())
        self._wrap_request = _first(calls.agm_wrap_request)
        self._attempt_finished = _all(calls.agm_attempt_finished)
        self._request_finished = _all(calls.agm_request_finished)

    @contextmanager
    def recorded(self) -> Iterator[list[Call]]:
        """While this lasts, what each implementation returns is put down, in order."""
        calls: list[Call] = []
        token = _record.set(calls)
        try:
            yield calls
        finally:
            _record.reset(token)

    def configure(self, config: Config) -> None:
        """
        Check the plugins' tables, and fire ``agm_configure``.

        :raises HookFailed: a plugin that cannot be configured must not run.
        """
        if problems := self.settings_problems(config):
            raise HookFailed("; ".join(map(str, problems)))
        self.manager.hook.agm_configure(config=config)

    def settings_problems(self, config: Config) -> list[Problem]:
        """
        Say what plugins find wrong with a configuration: with their tables, and with accounts of their kinds.

        :raises HookFailed:
        """
        tables = config.plugins.tables
        found = [
            problem
            for schemas in self.manager.hook.agm_settings()
            for name, schema in schemas.items()
            for problem in problems_of(f"plugins.{name}", tables.get(name, {}), schema, config.path)
        ]
        return [*found, *kind_problems(config.accounts, self.manager.kinds, config.path)]

    def client_key_sources(self, config: Config) -> list[tuple[str, ClientKeySource]]:
        """All sources of client keys, each with the name of the plugin that it is of.  :raises HookFailed:"""
        with self.recorded() as calls:
            results = self.manager.hook.agm_client_keys(config=config)
        of = {id(call.result): call.plugin for call in calls}
        return [(of.get(id(found), "a wrapper"), source) for found in results for source in found]

    def account_sources(self, config: Config) -> tuple[list[AccountSource], list[Awaitable[list[AccountSource]]]]:
        """Return the accounts that are known at once, and those that have to be waited for.  :raises HookFailed:"""
        known: list[AccountSource] = []
        awaited: list[Awaitable[list[AccountSource]]] = []
        for found in self.manager.hook.agm_accounts(config=config):
            if inspect.isawaitable(found):
                awaited.append(self._sources(found))
            else:
                known += found
        return known, awaited

    async def _sources(self, found: Awaitable[Iterable[AccountSource] | None]) -> list[AccountSource]:
        return list(await found or ())

    def started(self, gateway: Any) -> None:
        """Say that the gateway runs; nobody waits."""
        for waiting in self.manager.hook.agm_started(gateway=gateway):
            _start(waiting)

    async def stopping(self) -> None:
        """Say that the gateway stops, and wait for those who have something to end."""
        for waiting in self.manager.hook.agm_stopping():
            if inspect.isawaitable(waiting):
                await waiting

    async def look_up(self, request: GatewayRequest) -> GatewayRequest:
        """Return the request with what plugins have found for it.  :raises HookFailed:"""
        if not self.looks_up:
            return request
        found: dict[str, Any] = {}
        for impl in self._look_up:
            self._request_id = request.id  # each time: others were served while a plugin was waited for
            result: Any = _called(impl, {"request": request})
            if inspect.isawaitable(result):
                result = await result
            if result is not None:
                found.update(result)
        return attrs.evolve(request, found=MappingProxyType(found))

    async def answer_request(self, request: GatewayRequest) -> LocalAnswer | Answer | KeepAnswer | None:
        """The answer of the first plugin that has one, or the wish to keep the upstream's.  :raises HookFailed:"""
        kept: KeepAnswer | None = None
        for plugin, function in self._answer_request:
            self._request_id = request.id  # each time: others were served while a plugin was waited for
            result: Any = function(request)
            if type(result) not in _DECISIONS and inspect.isawaitable(result):
                result = await result
            if result is None:
                continue
            if isinstance(result, KeepAnswer):
                kept = result if kept is None else _both(kept, result)
                continue
            if isinstance(result, LocalAnswer):
                try:
                    result.body(request.framing, request.method)
                except (TypeError, ValueError, RecursionError) as e:
                    self._failed(TypeError(str(e)), plugin, "agm_answer_request", request.id)
            elif isinstance(result, Answer) and (wrong := _unfit(result, request)):
                result.close()
                self._failed(TypeError(wrong), plugin, "agm_answer_request", request.id)
            answer: LocalAnswer | Answer = result
            return answer
        return kept

    def map_model(self, model: str, request: GatewayRequest) -> ModelChoice:
        """Return the model that serves `model`; itself where no plugin says another."""
        self._request_id = request.id
        choice = self._map_model(model, request)
        if isinstance(choice, str):
            return ModelChoice(choice, "a plugin's choice")
        if isinstance(choice, ModelChoice):
            return choice
        return ModelChoice(model, "unchanged")

    def filter_accounts(self, accounts: Sequence[Account], request: GatewayRequest) -> dict[str, str]:
        """Return the names of accounts that must not serve, each with the reason.  :raises HookFailed:"""
        excluded: dict[str, str] = {}
        if self._filter_accounts is None:
            return excluded
        self._request_id = request.id
        for found in self._filter_accounts(accounts, request):
            excluded.update(found)
        return excluded

    def select_account(
        self, accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]
    ) -> AccountChoice:
        """One of `accounts`, which are not empty; the first where no plugin picks one of them."""
        self._request_id = request.id
        choice = self._select_account(accounts, request, loads)
        if isinstance(choice, Account):
            choice = AccountChoice(choice, "a plugin's choice")
        if isinstance(choice, AccountChoice):
            if self._selects_itself or choice.account in accounts:
                return choice
            self._log.error(
                "{request_id}: a plugin selected account {account}, which is not a candidate; the first one is taken",
                request_id=request.id,
                account=choice.account.name,
            )
        return AccountChoice(accounts[0], "the first candidate")

    def wrap_request(self, request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest:
        """Return the request for an upstream.  :raises HookFailed: if no plugin, or a broken one, builds it."""
        self._request_id = request.id
        wrapped = self._wrap_request(request, account, body)
        if not isinstance(wrapped, UpstreamRequest):
            raise HookFailed(f"no plugin wraps requests for {account.kind} accounts")
        return wrapped

    async def edit_body(self, body: dict[str, Any], request: GatewayRequest) -> bytes:
        """
        Return the body after all plugins' edits, as JSON.

        :param body: a document of its own: it may be edited in place.
        :raises HookFailed: if a plugin fails, or makes what JSON cannot hold.
        """
        encoded = b""
        for impl in self._transform_request:
            self._request_id = request.id  # each time: others were served while a plugin was waited for
            changed: Any = _called(impl, {"body": body, "request": request})
            if inspect.isawaitable(changed):
                changed = await changed
            body = body if changed is None else changed
            encoded = self._encoded(body, impl.plugin_name, "agm_transform_request", request)
        return encoded or msgspec.json.encode(body)

    def edit_event(
        self, event: dict[str, Any], request: GatewayRequest, account: Account, *, alone: bool
    ) -> EditedEvents:
        """
        Return what comes in the place of an event after all plugins' edits.

        :param event: a document of its own: it may be edited in place.
        :param account: whose answer it is of.
        :param alone: whether the answer has no other, and cannot be without it.
        :raises HookFailed: if a plugin fails, or makes what JSON or the answer cannot hold.
        """
        self._request_id = request.id
        hook, events, encoded, ends = "agm_transform_event", [event], [b""], False
        for impl in self._transform_event:
            edited: list[dict[str, Any]] = []
            for each in events:
                changed: Any = _called(impl, {"event": each, "request": request, "account": account})
                if isinstance(changed, EndStream):
                    edited += changed.events
                    ends = True
                    break
                edited += [each] if changed is None else changed if isinstance(changed, list) else [changed]
            if alone and len(edited) != 1:
                wrong = TypeError(f"it made {len(edited)} documents of an answer that is one")
                self._failed(wrong, impl.plugin_name, hook, request.id)
            events, encoded = edited, [self._encoded(each, impl.plugin_name, hook, request) for each in edited]
        return EditedEvents(encoded, ends)

    def _encoded(self, document: object, plugin: str, hook: str, request: GatewayRequest) -> bytes:
        """Encode what a plugin made.  :raises HookFailed: if JSON cannot hold it."""
        try:
            return msgspec.json.encode(document)
        except Exception as e:  # whatever the objects in it raise
            self._failed(TypeError(f"it made what JSON cannot hold: {last_line(e)}"), plugin, hook, request.id)
            raise AssertionError("both chains fail closed") from e

    def read_answer(
        self,
        read: Callable[[], Iterable[dict[str, Any]]],
        request: GatewayRequest,
        account: Account,
        *,
        alone: bool,
    ) -> list[tuple[dict[str, Any], bytes]]:
        """
        Return the documents that the reader of an account's kind gives, each with its JSON.

        :param read: calls the reader, or makes it.
        :param alone: whether the answer is one document.
        :raises ErrorInAnswer: if the reader says that it is an error.
        :raises HookFailed: if the reader fails, or gives what JSON or the answer cannot hold.
        """
        hook, plugin, watch = "agm_upstream_kinds", self.manager.kind_plugins.get(account.kind, "?"), Watch()
        found: list[tuple[dict[str, Any], bytes]] = []
        try:
            documents = list(read())
            if alone and len(documents) != 1:
                raise TypeError(f"its reader made {len(documents)} documents of an answer that is one")
            for document in documents:
                if not isinstance(document, dict):
                    raise TypeError(f"its reader gave a {type(document).__name__}, and no document")
                found.append((document, msgspec.json.encode(document)))
        except (GatewayError, ErrorInAnswer):
            raise
        except Exception as e:
            self._failed(e, plugin, hook, request.id)
        finally:
            self._blame(watch, plugin, hook, request.id)
        return found

    def unseeing(self, hook: str) -> list[str]:
        """Return the names of the plugins that have this chain, and do not say that bodies may pass it unseen."""
        impls = self._transform_request if hook == "agm_transform_request" else self._transform_event
        return [impl.plugin_name for impl in impls if getattr(impl.plugin, ALLOWS_UNSEEN, None) is not True]

    def answer_headers(
        self, headers: Mapping[str, str], status: int, request: GatewayRequest, account: Account | None
    ) -> dict[str, str]:
        """
        Return the headers that plugins add to an answer, or put in the place of others.

        :param headers: those that it has, with lower-case names.
        """
        self._request_id = request.id
        added: dict[str, str] = {}
        for found in reversed(
            self.manager.hook.agm_answer_headers(headers=headers, status=status, request=request, account=account)
        ):  # the first that is asked has the last word
            added.update(found)
        return added

    def classify_error(
        self, status: int, body: bytes, headers: Mapping[str, str], account: Account, request: GatewayRequest
    ) -> Verdict:
        """Classify a failed answer; one that no plugin knows is about the request."""
        self._request_id = request.id
        verdict = self.manager.hook.agm_classify_error(
            status=status, body=body, headers=headers, account=account, request=request
        )
        return verdict if isinstance(verdict, Verdict) else Verdict(Fault.FINAL, f"HTTP_{status}")

    def is_own(self, verdict: Verdict) -> bool:
        """Return whether agm itself came to a verdict, the last one, and no plugin."""
        return verdict is self._own_verdict

    def attempt_finished(self, attempt: AttemptRecord) -> None:
        """Tell the observers; nobody waits for them."""
        if self._attempt_finished is not None:
            self._request_id = attempt.request_id
            for waiting in self._attempt_finished(attempt):
                _start(waiting)

    def request_finished(self, record: RequestRecord) -> None:
        """Tell the observers; nobody waits for them."""
        if self._request_finished is not None:
            self._request_id = record.request.id
            for waiting in self._request_finished(record):
                _start(waiting)

    def alert(self, alert: Alert) -> None:
        """Tell of something that somebody may have to act on; nobody waits."""
        for waiting in self.manager.hook.agm_alert(alert=alert):
            _start(waiting)

    def resources(self, site: Site, reserved: Collection[str]) -> dict[str, IResource]:
        """
        HTTP resources by the first segment of their path; :attr:`paths` has those of longer paths.

        :param reserved: the segments that are the gateway's own.
        :raises PluginError: if a plugin takes one of them, or one that another plugin has, or what is no path.
        """
        found: dict[str, tuple[str, IResource]] = {}
        self.paths = []
        with self.recorded() as calls:
            results = self.manager.hook.agm_resources(site=site)
        of = {id(call.result): call.plugin for call in calls}
        for resources in results:
            plugin = of.get(id(resources), "a wrapper")
            for segment, resource in resources.items():
                parts = segment.split("/") if isinstance(segment, str) else ()
                if not parts or any(_SEGMENT.fullmatch(part) is None for part in parts):
                    raise PluginError(
                        f"agm_resources of plugin {plugin}: {segment!r} is no path; give one word, like"
                        " 'hello', and let its resource have children, or a path below a version, like 'v1/hello'"
                    )
                if len(parts) > 1 and parts[0] in VERSIONS and hasattr(resource, "claims"):
                    self.paths.append((segment, resource))
                    continue
                if len(parts) > 1:
                    raise PluginError(
                        f"agm_resources of plugin {plugin}: {segment} has several segments, and those are for what an"
                        f" ApiResource claims below {', '.join(VERSIONS)}; give the first one, and let its resource"
                        " have children"
                    )
                if segment in reserved:
                    raise PluginError(
                        f"agm_resources of plugin {plugin}: /{segment} is the gateway's own; choose another first"
                        " segment"
                    )
                if segment in found:
                    raise PluginError(
                        f"agm_resources: plugins {found[segment][0]} and {plugin} both have /{segment}; [plugins]"
                        " disable leaves one of them out"
                    )
                found[segment] = plugin, resource
        return {segment: resource for segment, (plugin, resource) in found.items()}

    def _is_ours(self, plugin: str) -> bool:
        """Return whether a plugin comes with agm."""
        origin = self.manager.origins.get(plugin)
        if origin is None:
            return False
        return origin.kind == "built-in" or (origin.kind == "module" and origin.where.startswith(CONTRIB))

    def _trusted(self, impl: pluggy.HookImpl, hook: str) -> Callable[..., object]:
        """As :meth:`_guarded` for what is agm's own: it is quick and returns what it says, and only may fail."""
        function, plugin, classifies = impl.function, impl.plugin_name, hook == "agm_classify_error"

        def call(*args: object) -> object:
            try:
                result = function(*args)
            except GatewayError as e:
                _note(hook, plugin, e)
                raise
            except Exception as e:
                return self._failed(e, plugin, hook, self._request_id)
            if classifies:
                self._own_verdict = result
            if result is not None and _record.get() is not None:
                _note(hook, plugin, result)
            return result

        return call

    def _guarded(self, impl: pluggy.HookImpl, hook: str) -> Callable[..., object]:
        function, plugin = impl.function, impl.plugin_name

        def call(*args: object) -> object:
            request_id, watch = self._request_id, Watch()
            try:
                result = function(*args)
                if result is None:
                    return None
                if type(result) not in _DECISIONS and inspect.isawaitable(result):
                    if hook in MAY_AWAIT:
                        return self._awaited(result, plugin, hook, request_id)
                    if inspect.iscoroutine(result):
                        result.close()
                    raise TypeError(f"{hook} is a synchronous hook, but {plugin} returned an awaitable")
                result = self._usable(checked(hook, result), plugin, hook)
            except GatewayError as e:  # an answer that the plugin wants the client to get
                _note(hook, plugin, e)
                raise
            except (Exception, SystemExit) as e:
                return self._failed(e, plugin, hook, request_id)
            finally:
                self._blame(watch, plugin, hook, request_id)
            _note(hook, plugin, result)
            return result

        return call

    def _blame(self, watch: Watch, plugin: str, hook: str, request_id: str) -> None:
        """Name who has held everybody else up."""
        if (held := watch.held()) is not None:
            self._log.warn(
                "{request_id}: hook {hook} of plugin {plugin} blocked the event loop for {ms} ms",
                request_id=request_id,
                hook=hook,
                plugin=plugin,
                ms=round(held * 1000),
            )

    def _guarded_wrapper(self, impl: pluggy.HookImpl, hook: str) -> Callable[..., Generator[None, object, object]]:
        """A wrapper whose own errors are as those of any implementation, and never hide what it wraps."""
        function: Any = impl.function
        plugin = impl.plugin_name
        spec = getattr(self.manager.hook, hook).spec
        first = bool(spec.opts["firstresult"])

        def returned(inner: object, outer: object, request_id: str) -> object:
            try:
                return checked_wrapper(hook, first, inner, outer)
            except TypeError as e:
                self._failed(e, plugin, hook, request_id)
                return inner

        def call(*args: object) -> Generator[None, object, object]:
            request_id = self._request_id
            wrapper = function(*args)
            try:
                next(wrapper)
            except GatewayError as e:
                _note(hook, plugin, e)
                raise
            except Exception as e:  # StopIteration too: it has not yielded
                self._failed(e, plugin, hook, request_id)
                return (yield)
            try:
                result = yield
            except Exception as inner:
                try:
                    wrapper.throw(inner)
                except StopIteration as stop:
                    if stop.value is None and hook in FAIL_CLOSED:
                        self._failed(TypeError("its wrapper turned an error into nothing"), plugin, hook, request_id)
                    return returned(None, stop.value, request_id)
                except Exception as e:
                    if e is not inner and not isinstance(e, GatewayError):
                        self._failed(e, plugin, hook, request_id)
                        raise inner from None
                    _note(hook, plugin, None if e is inner else e)
                    raise
                raise
            try:
                wrapper.send(result)
            except StopIteration as stop:
                return returned(result, stop.value, request_id)
            except GatewayError as e:
                _note(hook, plugin, e)
                raise
            except Exception as e:
                self._failed(e, plugin, hook, request_id)
            else:
                wrapper.close()
                self._failed(TypeError("a wrapper yields once"), plugin, hook, request_id)
            return result

        return call

    async def limited(self, result: Awaitable[T]) -> T:
        """
        Wait for what a plugin returned, as long as a plugin may take.

        :raises TimeoutError: if it takes longer.
        :raises CancelledError: if nobody waits for it any more.
        """
        given_up = False

        def give_up(_: object) -> None:
            nonlocal given_up
            given_up = True
            waiting.cancel()

        waiting: Deferred[T] = Deferred.fromCoroutine(_coroutine(result))
        waiting.addTimeout(self.limit, self.reactor)
        done: Deferred[T] = Deferred(give_up)
        waiting.addCallbacks(done.callback, done.errback)
        try:
            return await done
        except CancelledError:
            if given_up:
                raise
            raise RuntimeError("what it awaited was cancelled") from None
        except DeferredTimeout:
            raise TimeoutError(f"it took longer than {self.limit:g} seconds") from None

    async def _awaited(self, result: Awaitable[object], plugin: str, hook: str, request_id: str) -> object:
        try:
            found = self._usable(checked(hook, await self.limited(result)), plugin, hook)
        except GatewayError as e:
            _note(hook, plugin, e)
            raise
        except CancelledError:  # the client has left, or its time is over: no plugin is to blame
            raise
        except Exception as e:
            return self._failed(e, plugin, hook, request_id)
        _note(hook, plugin, found)
        return found

    def _usable(self, result: object, plugin: str, hook: str) -> object:
        """Return the result without accounts that cannot serve: one of them would make every request fail."""
        if hook != "agm_accounts" or not isinstance(result, list):
            return result
        usable = []
        for source in result:
            if (refused := why_refused(source, self.manager.kinds)) is None:
                usable.append(of_kind(source, self.manager.kinds))
                continue
            what, cure = refused
            self._log.error(
                "plugin {plugin} gave {what}, {account}, which is left out: {cure}",
                plugin=plugin,
                what=what,
                account=getattr(source.account, "name", "nameless"),
                cure=cure,
            )
        return usable

    def _failed(self, error: BaseException, plugin: str, hook: str, request_id: str) -> object:
        self.failures[plugin, hook] += 1
        self._log.failure(
            "{request_id}: hook {hook} of plugin {plugin} failed",
            failure=Failure(error),
            request_id=request_id,
            hook=hook,
            plugin=plugin,
        )
        if hook in FAIL_CLOSED:
            # at the start a person reads it, and has the cure in hand; a client gets no more than the kind of error
            why = last_line(error) if hook in AT_START else type(error).__name__
            raise HookFailed(f"hook {hook} of plugin {plugin} failed: {why}", plugin) from error
        return None


def _unfit(answer: Answer, request: GatewayRequest) -> str:
    """Explain why the answer of a call is none to a request; "" if it is one."""
    if request.method.startswith(("openai.", "interactions.")):
        return f"the answer of gateway.call is in another form than those of {request.method}; give a LocalAnswer"
    if answer.status < 400 and answer.framing is not request.framing:
        return f"the client wants {request.framing.value}, and the Answer is {answer.framing.value}"
    return ""


def _both(first: KeepAnswer, second: KeepAnswer) -> KeepAnswer:
    """Make the wish of two plugins; of two headers of one name that of the first one that was asked counts."""
    return KeepAnswer(max(first.most, second.most), {**second.headers, **first.headers})


def _first(caller: pluggy.HookCaller) -> Callable[..., object]:
    """
    Make a call of a hook's implementations until one decides; arguments come in the order of the hookspec.

    pluggy would do as well, but for the time it takes to bind arguments by name; hooks with wrappers are left to it.
    """
    plain = _plain(caller)
    if plain is None:
        return _by_pluggy(caller)
    if len(plain) == 1:
        return plain[0]

    def call(*args: object) -> object:
        for function in plain:
            result = function(*args)
            if result is not None:
                return result
        return None

    return call


def _all(caller: pluggy.HookCaller) -> Callable[..., list[Any]] | None:
    """As :func:`_first`, but each implementation is called; returns what is not None.  None if there are none."""
    plain = _plain(caller)
    if plain is None:
        return _by_pluggy(caller)

    if not plain:
        return None
    if len(plain) == 1:
        only = plain[0]

        def call_it(*args: object) -> list[Any]:
            result = only(*args)
            return [] if result is None else [result]

        return call_it

    def call(*args: object) -> list[Any]:
        results = [function(*args) for function in plain]
        return [result for result in results if result is not None]

    return call


def _plain(caller: pluggy.HookCaller) -> list[Callable[..., object]] | None:
    """Return the implementations, in the order of their calls, each taking all arguments; None if one is a wrapper."""
    assert caller.spec is not None, "there are no hooks but those of the hookspecs"
    names = caller.spec.argnames
    impls = caller.get_hookimpls()
    if any(impl.wrapper or impl.hookwrapper for impl in impls):
        return None
    return [
        _taking_all(impl.function, [names.index(name) for name in impl.argnames], len(names))
        for impl in reversed(impls)
    ]


def _taking_all(function: Callable[..., object], places: list[int], count: int) -> Callable[..., object]:
    if places == list(range(count)):
        return function
    return lambda *args: function(*[args[place] for place in places])


def _by_pluggy(caller: pluggy.HookCaller) -> Callable[..., Any]:
    assert caller.spec is not None
    names = caller.spec.argnames
    return lambda *args: caller(**dict(zip(names, args, strict=True)))


def _called(impl: pluggy.HookImpl, given: Mapping[str, object]) -> object:
    return impl.function(*[given[name] for name in impl.argnames])


async def _coroutine(result: Awaitable[T]) -> T:
    return await result


def _start(waiting: object) -> None:
    """Let an observer's coroutine run; its failure is handled where it is awaited."""
    if inspect.iscoroutine(waiting):
        Deferred.fromCoroutine(waiting)
