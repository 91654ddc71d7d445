"""
The check that a plugin's author runs in one line: does each hook do what its hookspec asks?

:func:`check_plugin` loads a plugin as the gateway does, calls each of its hooks with what a gateway would hand it (odd
requests too, since clients send them) and looks at what comes back.  Nothing is sent and nothing is listened on.
:func:`build_request` makes the requests; it is there for tests of single hooks as well.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from agm import config as configuration
from agm.config import Config
from agm.config.plugin_settings import problems_of
from agm.core.alerts import Alert
from agm.core.answer import Answer, KeepAnswer, LocalAnswer
from agm.core.classify import Fault, Verdict
from agm.core.client_keys import ClientKey
from agm.core.errors import GatewayError
from agm.core.request import (
    Account,
    AccountChoice,
    AttemptRecord,
    Body,
    EndStream,
    ErrorInAnswer,
    GatewayRequest,
    ModelChoice,
    RequestRecord,
    UpstreamKind,
    UpstreamRequest,
)
from agm.core.wire.answer_filters import Framing
from agm.plugins.manager import HOOKS, MAY_AWAIT, KindHooks, PluginError, make_plugin_manager
from agm.plugins.results import checked, checked_wrapper
from agm.plugins.watch import TOO_LONG, Watch
from agm.upstream.accounts import AccountSource, why_refused

#: Seconds that a hook which may await is waited for.
PATIENCE = 10.0
#: How often a slow call is repeated before it counts as slow: a busy machine is not the plugin's fault.
TRIES = 3

#: The configuration that a plugin is checked with: an account of each kind, and an alias.
_ACCOUNTS = """
[[accounts]]
name = "first"
kind = "api-key"
api_key = "key-of-first"

[[accounts]]
name = "second"
kind = "vertex"
access_token = "token-of-second"
project = "project-2"

[[accounts]]
name = "third"
kind = "code-assist"
access_token = "token-of-third"
project = "project-3"

[models.aliases]
"gpt-4o" = "gemini-2.5-flash"
"""

_CHAT: Mapping[str, Any] = {
    "systemInstruction": {"parts": [{"text": "Answer in one sentence."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Why is the sky blue?"}]},
        {"role": "model", "parts": [{"text": "Because of scattering.", "thoughtSignature": "c2ln"}]},
        {"parts": [{"text": "And at night?"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}]},
    ],
    "generationConfig": {"temperature": 0.5, "maxOutputTokens": 100},
    "tools": [{"functionDeclarations": [{"name": "look", "parameters": {"type": "OBJECT"}}]}],
}
#: Methods with bodies that clients send, and some that only an upstream would refuse.
_BODIES: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("generateContent", _CHAT),
    ("streamGenerateContent", _CHAT),
    ("countTokens", {"generateContentRequest": {"model": "models/gemini-2.5-flash", "contents": _CHAT["contents"]}}),
    ("embedContent", {"content": {"parts": [{"text": "sky"}]}}),
    ("batchEmbedContents", {"requests": [{"model": "models/m", "content": {"parts": [{"text": "sky"}]}}]}),
    ("predict", {"instances": [{"prompt": "a sky"}], "parameters": {"sampleCount": 1}}),
    ("generateContent", {"contents": [{"role": "user", "parts": [{"text": "lorem ipsum " * 20_000}]}]}),
    ("generateContent", {}),
    ("generateContent", {"contents": []}),
    ("generateContent", {"contents": None, "tools": None}),
    ("generateContent", {"contents": "sky"}),
    ("generateContent", {"contents": ["sky", {"parts": "sky"}, {"parts": [None, "sky", {}, {"text": 1}]}]}),
)
_EVENTS: Sequence[Mapping[str, Any]] = (
    {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "Because"}]}, "index": 0}],
        "usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 9},
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r",
    },
    {
        "candidates": [
            {"content": {"parts": [{"functionCall": {"name": "look", "args": {}}}]}, "finishReason": "STOP"}
        ],
        "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 4, "totalTokenCount": 12},
    },
    {"candidates": [{"finishReason": "SAFETY", "index": 0}]},
    {"promptFeedback": {"blockReason": "SAFETY"}},
    {"totalTokens": 8},
    {"embedding": {"values": [0.1, 0.2]}},
    {"predictions": [{"mimeType": "image/png", "bytesBase64Encoded": "iVBORw0KGgo="}]},
    {},
)
_QUOTA = (
    b'{"error": {"code": 429, "message": "Please retry in 20s.", "status": "RESOURCE_EXHAUSTED", "details": '
    b'[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "20s"}]}}'
)
_ERRORS: Sequence[tuple[int, bytes, Mapping[str, str]]] = (
    (429, _QUOTA, {"retry-after": "20"}),
    (400, b'{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}', {}),
    (401, b"", {}),
    (403, b"[]", {}),
    (500, b'{"error": "no"}', {}),
    (503, b"<html>\xff</html>", {}),
)
#: What an upstream may answer that is not the one it should be.
_ODD_ANSWERS: Sequence[dict[str, Any]] = (
    {},
    {"choices": None},
    {"choices": [{}], "usage": None},
    {"choices": [{"index": "0", "delta": "x", "message": None, "finish_reason": 5}]},
    {
        "choices": [
            {"delta": {"tool_calls": [{"index": 0}]}, "message": {"tool_calls": [{"function": {"arguments": "{"}}]}}
        ]
    },
    {"data": [None]},
    {"candidates": [{"content": None}]},
    {"error": {}},
    {"error": "no"},
)
#: Hooks in which a GatewayError is an answer for the client.
_MAY_REFUSE = frozenset(
    {
        "agm_upstream_kinds",  # what reads answers
        "agm_look_up",
        "agm_map_model",
        "agm_answer_request",
        "agm_transform_request",
        "agm_filter_accounts",
        "agm_select_account",
        "agm_wrap_request",
        "agm_transform_event",
    }
)
_SECRET_HEADERS = frozenset({b"authorization", b"proxy-authorization", b"x-goog-api-key", b"x-api-key", b"cookie"})
_SECRET_PARAMETERS = frozenset({"key", "access_token", "oauth_token", "api_key"})


def build_request(
    *,
    model: str = "gemini-2.5-flash",
    body: Mapping[str, Any] | bytes | None = None,
    text: str = "Hello",
    method: str = "generateContent",
    client_key: str | None = None,
    asked_model: str | None = None,
    framing: Framing | None = None,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    version: str = "v1beta",
    received_at: float = 1_800_000_000.0,
    explaining: bool = False,
) -> GatewayRequest:
    """
    A request as hooks get it, with a sensible value for everything that is left out.

    :param model: the mapped model; `asked_model` is the same unless it is given.
    :param body: the document, or its bytes; a question with `text` where it is left out.
    :param client_key: the name of the client's key.
    :param framing: SSE for ``streamGenerateContent``, else unary, where it is left out.
    :param headers: with lower-case names.
    :param received_at: seconds since the epoch.
    """
    if body is None:
        body = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
    asked = asked_model or model
    framing = framing or (Framing.SSE if method == "streamGenerateContent" else Framing.UNARY)
    return GatewayRequest(
        id=uuid.uuid4().hex[:16],
        path=f"/{version}/models/{asked}:{method}",
        version=version,
        method=method,
        asked_model=asked,
        model=model,
        framing=framing,
        query=query or {},
        headers=headers or {},
        client_key=client_key,
        received_at=received_at,
        body=Body(body if isinstance(body, bytes) else msgspec.json.encode(body)),
        upstream_framing=framing,
        explaining=explaining,
    )


def check_plugin(plugin: object, *, name: str | None = None, settings: str = "", patience: float = PATIENCE) -> None:
    """
    Check that a plugin can be loaded, and that each of its hooks does what its hookspec asks.

    To be called from a plain test function.  A hook that awaits something is waited for, with the reactor of
    pytest-twisted.

    :param plugin: a module, an object with hooks, or the dotted name of a module.
    :param name: the NAME of its ``[plugins.NAME]``; the module's name without ``agm_`` in front, by default.
    :param settings: TOML to check it with as well, after it has been checked without any settings.
    :param patience: seconds for which a hook that awaits something is waited for.
    :raises AssertionError: with a sentence that names the hook and the cure.
    """
    if isinstance(plugin, str):
        try:
            plugin = importlib.import_module(plugin)
        except ImportError as e:
            raise AssertionError(f"plugin {plugin} cannot be imported: {e}") from e
    check = _Check(plugin, name, patience)
    for text in dict.fromkeys(("", f"[plugins.{check.table}]\n", settings)):
        check.run(configuration.parse(_ACCOUNTS + text, environ={}), configured=bool(text and text == settings))
    check.call(
        "agm_configure", {"config": configuration.parse(_ACCOUNTS, environ={})}, "the configuration it began with"
    )
    check.nothing("agm_stopping", {}, "nothing")


@attrs.define
class _Refused:
    """A hook's answer that is an error for the client."""

    status: int


class _NotDone(Exception):
    """What a hook awaits takes too long."""


class _Check:
    """One plugin among the built-in ones, and what it is called with."""

    def __init__(self, plugin: object, table: str | None, patience: float) -> None:
        self._patience = patience
        self._started = False
        try:
            self._manager = make_plugin_manager([plugin], entry_points=False)
        except PluginError as e:
            raise AssertionError(str(e)) from e
        self._others = make_plugin_manager(entry_points=False)
        self.name = next(reversed(self._manager.origins))
        self.table = table or self.name.rpartition(".")[2].removeprefix("agm_")
        self._hooks = {
            hook: [
                impl
                for impl in getattr(self._manager.hook, hook).get_hookimpls()
                if impl.plugin is plugin or (isinstance(impl.plugin, KindHooks) and impl.plugin.of is plugin)
            ]
            for hook in HOOKS
        }
        if not any(self._hooks.values()):
            raise AssertionError(
                f"plugin {self.name} has no hook; define a function named after one of {', '.join(HOOKS)} "
                "and mark it with @agm.hookimpl"
            )

    def refuse(self, hook: str, problem: str, cure: str) -> NoReturn:
        raise AssertionError(f"{hook} of plugin {self.name} {problem}; {cure}")

    def run(self, config: Config, *, configured: bool) -> None:
        """Check every hook under a configuration."""
        self._settings(config)
        self._others.hook.agm_configure(config=config)
        for impl in self._manager.hook.agm_configure.get_hookimpls():
            if impl not in self._hooks["agm_configure"]:
                impl.function(config)
        with_what = "the settings given" if configured else f"an empty [plugins.{self.table}]"
        for result in self.call("agm_configure", {"config": config}, with_what):
            if result is not None:
                self.refuse("agm_configure", f"returned {_sort(result)}", "it returns nothing")
        accounts = [
            Account(entry.name, entry.kind, entry.endpoints, entry.project, entry.location) for entry in config.accounts
        ]
        kinds = [kind for name, kind in self._manager.kinds.items() if name in self._manager.kind_plugins]
        own = [self._of_kind(kind) for kind in kinds]
        self._client_keys(config)
        self._account_sources(config, {account.name for account in accounts})
        if self._hooks["agm_started"] and not self._started:
            self._started = True
            self.nothing("agm_started", {"gateway": _site(config).gateway}, "a gateway")
        requests = [
            build_request(method=method, body=body, client_key=key, headers={"user-agent": "curl/8"})
            for method, body in _BODIES
            for key in ("laptop", None)
        ]
        unread = build_request(body=b"")
        requests, unread = [self._looked_up(request) for request in requests], self._looked_up(unread)
        for request in [*requests, unread]:
            self._answer(request)
            for model in ("gemini-2.5-flash", "gpt-4o", "publishers/google/models/x", "modell/größe:neu"):
                self._model(attrs.evolve(request, model=model, asked_model=model))
            self._filter(accounts, request)
            self._selection(accounts, request)
            for account in (*accounts, *(one for one in own if request.method in one.methods)):
                self._wrapping(request, account)
        for request in requests:
            self._edited_body(request)
            self._headers(request, accounts[0])
            for event in _EVENTS:
                self._edited_event(event, request, accounts[0])
        for status, body, headers in _ERRORS:
            for account in (accounts[0], *own):
                self._classification(status, body, headers, account, requests[0])
        for account in own:
            self._reading(account, requests)
        self._observers(requests, accounts[0])
        if self._hooks["agm_resources"]:
            self._resources(config)

    # Calling

    def call(self, hook: str, given: Mapping[str, Any], what: str) -> list[object]:
        """Call the plugin's implementations, and return their results; awaited if the hook may await."""
        found: list[object] = []
        for impl in self._hooks[hook]:
            if impl.wrapper or impl.hookwrapper:
                caller = getattr(self._manager.hook, hook)
                result = self._timed(hook, what, lambda caller=caller: caller(**given))  # type: ignore[misc]
                first = caller.spec.opts["firstresult"]
                if not isinstance(result, _Refused):
                    self._unwrapped(hook, given, first, result)
                results = [result] if first or isinstance(result, _Refused) else list(result)
            else:
                arguments = [given[argument] for argument in impl.argnames]
                results = [
                    self._timed(
                        hook,
                        what,
                        lambda impl=impl, arguments=arguments: impl.function(*arguments),  # type: ignore[misc]
                    )
                ]
            found += [self._settled(hook, what, result) for result in results]
        return found

    def _unwrapped(self, hook: str, given: Mapping[str, Any], first: bool, outer: object) -> None:
        """Compare what a wrapper made of a hook's result with what it was."""
        inner = getattr(self._others.hook, hook)(**given)
        try:
            checked_wrapper(hook, first, inner, outer)
        except TypeError as e:
            self.refuse(hook, f"is wrong: {e}", "end the wrapper with return, and what is to be used")

    def _timed(self, hook: str, what: str, function: Callable[[], Any]) -> Any:
        held = None
        for _ in range(TRIES):
            watch = Watch()
            result = self._guarded(hook, what, function)
            held = watch.held()
            if held is None:
                return result
            if inspect.iscoroutine(result):
                result.close()
        self.refuse(
            hook,
            f"blocked the event loop for {(held or 0) * 1000:.0f} ms, called with {what}",
            f"{TOO_LONG * 1000:.0f} ms are the most: do slow work ahead, in a thread, or in a hook that may await",
        )

    def _guarded(self, hook: str, what: str, function: Callable[[], Any]) -> Any:
        try:
            result = function()
        except Exception as e:
            return self._raised(hook, what, e)
        if inspect.isawaitable(result) and hook not in MAY_AWAIT:
            if inspect.iscoroutine(result):
                result.close()
            self.refuse(hook, "returned an awaitable", "it is a synchronous hook: return the value itself")
        return result

    def _raised(self, hook: str, what: str, error: Exception) -> _Refused:
        if isinstance(error, GatewayError | ErrorInAnswer) and hook in _MAY_REFUSE:
            return _Refused(error.status)
        if hook == "agm_configure":
            cure = 'give every setting a default, config.plugins.tables.get("NAME", {}).get("SETTING", DEFAULT)'
        elif hook in _MAY_REFUSE:
            cure = "expect whatever a client or an upstream may send, or raise a GatewayError that says what is wrong"
        else:
            cure = "it must go well with every value that its hookspec allows"
        raise AssertionError(
            f"{hook} of plugin {self.name} raised {type(error).__name__}: {error}, called with {what}; {cure}"
        ) from error

    def _settled(self, hook: str, what: str, result: Any) -> Any:
        if not inspect.isawaitable(result):
            return result
        try:
            return _waited(result, self._patience)
        except _NotDone:
            self.refuse(hook, f"was not done after {self._patience:g} seconds", "see that what it awaits always ends")
        except Exception as e:
            return self._raised(hook, what, e)

    def _decided(self, hook: str, given: Mapping[str, Any], what: str, meant: Callable[[Any], object]) -> list[Any]:
        """A decision: the same whenever it is explained, and then when it is made."""
        explaining = {**given, "request": attrs.evolve(given["request"], explaining=True)}
        explained = [self.call(hook, explaining, what) for _ in range(3)]
        made = self.call(hook, given, what)
        for other in (*explained[1:], made):
            if [meant(result) for result in other] != [meant(result) for result in explained[0]]:
                self.refuse(
                    hook,
                    "decided otherwise when it was asked again",
                    "where request.explaining, remember nothing, and take chance from request.id",
                )
        self._untouched(hook, given["request"])
        return made

    def _untouched(self, hook: str, request: GatewayRequest) -> None:
        if request.body.raw and request.body.json() != msgspec.json.decode(request.body.raw):
            self.refuse(
                hook,
                "changed request.body.json(), which all plugins share",
                "edit a copy, or edit `body` in agm_transform_request",
            )

    # The hooks

    def _settings(self, config: Config) -> None:
        hook = "agm_settings"
        found: list[Any] = self.call(hook, {}, "nothing")
        for schemas in found:
            try:
                checked(hook, schemas)
            except TypeError as e:
                self.refuse(hook, f"is wrong: {e}", "return {NAME: STRUCT}")
            for name, schema in (schemas or {}).items():
                if problems := list(problems_of(f"plugins.{name}", config.plugins.tables.get(name, {}), schema, None)):
                    what = "the settings given" if config.plugins.tables.get(name) else f"no table [plugins.{name}]"
                    self.refuse(
                        hook, f"refuses {what} ({problems[0]})", "give every setting that can have one a default"
                    )

    def _of_kind(self, kind: UpstreamKind) -> Account:
        hook = "agm_upstream_kinds"
        settings = None
        if kind.settings is not None:
            try:
                settings = msgspec.convert({}, kind.settings)
            except msgspec.ValidationError:  # which accounts must have: nothing is known of them here
                settings = None
        if kind.models is not None:
            for document in ({}, {"data": None}, {"models": [None]}, {"data": [{"id": 1}, {"id": "one"}]}):
                look = f"the list of models {document}"
                listed = self._guarded(hook, look, lambda document=document: list(kind.models.read(document)))  # type: ignore[misc]
                if not all(isinstance(model, Mapping) for model in listed):
                    self.refuse(hook, f"made no model resources of {look}", "give dicts, each with its name")
        endpoints = kind.default_endpoints() or ("https://upstream.invalid",)
        return Account("of-a-kind", kind.name, endpoints, settings=settings, upstream=kind)

    def _reading(self, account: Account, requests: Sequence[GatewayRequest]) -> None:
        """Have a kind's reader read what an upstream may send, sense or none."""
        hook, make = "agm_upstream_kinds", account.upstream.read_answer
        if make is None:
            return
        for request in requests:
            if request.method not in account.methods:
                continue
            for document in _ODD_ANSWERS:
                what = f"an answer {document} to {_shown(request)}"
                reader = make(request, account)
                for read in (
                    lambda reader=reader, document=document: list(reader.read(copy.deepcopy(document))),
                    *((lambda reader=reader: list(reader.end(done=True)),) if request.framing is Framing.SSE else ()),
                ):
                    documents = self._timed(hook, what, read)
                    for found in documents if isinstance(documents, list) else ():
                        self._document(hook, found)
                    if request.framing is Framing.UNARY and isinstance(documents, list) and len(documents) != 1:
                        self.refuse(
                            hook,
                            f"made {len(documents)} documents of {what}",
                            "read() gives one for an answer that is no stream, or raises ErrorInAnswer",
                        )

    def _client_keys(self, config: Config) -> None:
        hook = "agm_client_keys"
        for sources in self.call(hook, {"config": config}, "a configuration"):
            for source in self._each(hook, sources, "sources of client keys, as [KeyRing.of({…})]"):
                if not callable(getattr(source, "lookup", None)):
                    self.refuse(hook, f"gave {_sort(source)} without lookup", "give KeyRing, CachedKeys or the like")
                if not hasattr(type(source), "__len__"):
                    self.refuse(
                        hook, f"gave {_sort(source)} without __len__", "let __len__ say how many keys there are, or 1"
                    )
                if len(source) < 0:
                    self.refuse(hook, "gave a source of a negative length", "let __len__ return 0 or more")
                for key in (uuid.uuid4().hex, "clé-№1"):
                    look = f"lookup({key!r})"
                    found = self._timed(hook, look, lambda source=source, key=key: _Later(source.lookup(key)))  # type: ignore[misc]
                    known = self._settled(hook, look, found.result)
                    if isinstance(known, ClientKey):
                        self.refuse(hook, "let in a key that nobody has", "let lookup return None for a key unknown")
                    if known is not None:
                        self.refuse(hook, f"has a lookup that returned {_sort(known)}", "return a ClientKey or None")

    def _account_sources(self, config: Config, taken: set[str]) -> None:
        hook = "agm_accounts"
        for sources in self.call(hook, {"config": config}, "a configuration"):
            names = set(taken)
            for source in self._each(hook, sources, "accounts, as [AccountSource(account, credential)]"):
                if not isinstance(source, AccountSource) or not isinstance(source.account, Account):
                    self.refuse(hook, f"gave {_sort(source)}", "give AccountSource(Account(…), credential)")
                account = source.account
                if account.name in names:
                    self.refuse(hook, f"gave a second account called {account.name}", "give each a name of its own")
                names.add(account.name)
                if refused := why_refused(source, self._manager.kinds):
                    what, cure = refused
                    self.refuse(hook, f"gave {what}", cure)

    def _model(self, request: GatewayRequest) -> None:
        hook = "agm_map_model"
        given = {"model": request.asked_model, "request": request}
        for choice in self._decided(hook, given, _shown(request), lambda c: getattr(c, "model", c)):
            if choice is None or isinstance(choice, _Refused):
                continue
            if not isinstance(choice, str | ModelChoice):
                self.refuse(hook, f"returned {_sort(choice)}", "return ModelChoice(model, reason), its name or None")
            model = choice if isinstance(choice, str) else choice.model
            if not isinstance(model, str) or not model or model.startswith("models/"):
                self.refuse(hook, f"chose the model {model!r}", "name a model without models/, or return None")
            if isinstance(choice, ModelChoice) and not choice.reason:
                self.refuse(hook, "gave no reason", "say why, for agm explain: ModelChoice(model, reason)")

    def _looked_up(self, request: GatewayRequest) -> GatewayRequest:
        hook = "agm_look_up"
        found: dict[str, Any] = {}
        for result in self.call(hook, {"request": request}, _shown(request)):
            if result is None or isinstance(result, _Refused):
                continue
            if not isinstance(result, Mapping) or not all(isinstance(name, str) for name in result):
                self.refuse(hook, f"returned {_sort(result)}", "return what was found by names, a dict, or None")
            found.update(result)
        self._untouched(hook, request)
        return attrs.evolve(request, found=MappingProxyType(found)) if found else request

    def _answer(self, request: GatewayRequest) -> None:
        hook = "agm_answer_request"
        for explaining in (True, False):
            asked = attrs.evolve(request, explaining=explaining)
            for answer in self.call(hook, {"request": asked}, _shown(request)):
                if answer is None or isinstance(answer, _Refused | KeepAnswer):
                    continue
                if isinstance(answer, Answer):
                    answer.close()
                    continue
                if not isinstance(answer, LocalAnswer):
                    self.refuse(hook, f"returned {_sort(answer)}", "return LocalAnswer, Answer, KeepAnswer or None")
                try:
                    checked(hook, answer)
                    answer.body(request.framing)
                except (TypeError, ValueError, RecursionError) as e:
                    self.refuse(hook, f"gave an answer that cannot go out ({e})", "give documents and plain headers")
        self._untouched(hook, request)

    def _filter(self, accounts: Sequence[Account], request: GatewayRequest) -> None:
        hook = "agm_filter_accounts"
        given = {"accounts": accounts, "request": request}
        for refused in self._decided(hook, given, _shown(request), _names):
            if refused is None or isinstance(refused, _Refused):
                continue
            if not isinstance(refused, Mapping):
                self.refuse(hook, f"returned {_sort(refused)}", "return {account.name: reason} or None")
            for name, reason in refused.items():
                if name not in {account.name for account in accounts}:
                    self.refuse(hook, f"took away {name!r}, which is no candidate", "name accounts of `accounts`")
                if not isinstance(reason, str) or not reason:
                    self.refuse(hook, "gave no reason", "return {account.name: reason}, for agm explain")

    def _selection(self, accounts: Sequence[Account], request: GatewayRequest) -> None:
        hook = "agm_select_account"
        for candidates in (accounts, accounts[1:], accounts[:1]):
            given = {"accounts": candidates, "request": request, "loads": {a.name: 0 for a in accounts}}
            for choice in self._decided(hook, given, _shown(request), _account_name):
                if choice is None or isinstance(choice, _Refused):
                    continue
                if not isinstance(choice, Account | AccountChoice):
                    self.refuse(hook, f"returned {_sort(choice)}", "return AccountChoice(account, reason) or None")
                account = choice if isinstance(choice, Account) else choice.account
                if account not in candidates:
                    self.refuse(hook, "picked an account that is no candidate", "pick one of `accounts`, or None")
                if isinstance(choice, AccountChoice) and not choice.reason:
                    self.refuse(hook, "gave no reason", "say why, for agm explain: AccountChoice(account, reason)")

    def _wrapping(self, request: GatewayRequest, account: Account) -> None:
        hook = "agm_wrap_request"
        given = {"request": request, "account": account, "body": request.body.raw or b"{}"}
        for wrapped in self.call(hook, given, f"{_shown(request)}, for a {account.kind} account"):
            if wrapped is None or isinstance(wrapped, _Refused):
                continue
            if not isinstance(wrapped, UpstreamRequest):
                self.refuse(hook, f"returned {_sort(wrapped)}", "return an UpstreamRequest or None")
            path = wrapped.path
            if not isinstance(path, str) or not path.startswith("/"):
                self.refuse(hook, f"built the path {path!r}", "begin it with a slash: the endpoint has host and scheme")
            if not path.isascii() or not path.isprintable() or " " in path:
                self.refuse(hook, f"built the path {path!r}", "quote what is not plain: agm.api.quote_model(model)")
            if _SECRET_PARAMETERS & {parameter for parameter, _ in parse_qsl(urlsplit(path).query)}:
                self.refuse(hook, "put a credential into the query", "leave it out: agm adds the account's own")
            for header in wrapped.headers:
                if len(header) != 2 or not all(isinstance(part, bytes) for part in header):
                    self.refuse(hook, f"built the header {header!r}", "give pairs of bytes")
                if header[0].lower() in _SECRET_HEADERS:
                    self.refuse(
                        hook,
                        f"built the header {header[0].decode()}",
                        "leave it out: agm adds the account's credential",
                    )
                if b"\r" in header[0] + header[1] or b"\n" in header[0] + header[1]:
                    self.refuse(hook, "built a header with a line break", "keep every header on one line")
            if not isinstance(wrapped.body, bytes):
                self.refuse(hook, f"built a body of {_sort(wrapped.body)}", "give bytes")
            if not isinstance(wrapped.framing, Framing):
                self.refuse(hook, f"gave the framing {wrapped.framing!r}", "give request.upstream_framing")
        self._untouched(hook, request)

    def _edited_body(self, request: GatewayRequest) -> None:
        hook = "agm_transform_request"
        for explaining in (True, False):
            asked = attrs.evolve(request, explaining=explaining)
            given = {"body": copy.deepcopy(request.body.json()), "request": asked}
            for edited in self.call(hook, given, _shown(request)):
                self._document(hook, edited)
            self._untouched(hook, asked)

    def _headers(self, request: GatewayRequest, account: Account) -> None:
        hook = "agm_answer_headers"
        shown = {"content-type": "application/json", "content-length": "2"}
        for status in (200, 429):
            for given_account in (account, None):
                given = {"headers": shown, "status": status, "request": request, "account": given_account}
                for added in self.call(hook, given, f"{_shown(request)}, answered with {status}"):
                    try:
                        checked(hook, None if isinstance(added, _Refused) else added)
                    except TypeError as e:
                        self.refuse(hook, f"is wrong: {e}", 'return headers, {"X-Name": "value"}, or None')

    def _edited_event(self, event: Mapping[str, Any], request: GatewayRequest, account: Account) -> None:
        hook = "agm_transform_event"
        given = {"event": copy.deepcopy(dict(event)), "request": request, "account": account}
        what = f"an event with {', '.join(event) or 'nothing in it'}"
        for edited in self.call(hook, given, what):
            self._document(hook, edited)
            alone = request.framing is Framing.UNARY
            several = edited.events if isinstance(edited, EndStream) else edited
            if alone and isinstance(several, list | tuple) and len(several) != 1:
                self.refuse(
                    hook,
                    f"made {len(several)} documents of a unary answer, called with {what}",
                    "only a stream (request.framing) has events that can be dropped, added or the last",
                )
        self._untouched(hook, request)

    def _document(self, hook: str, document: object) -> None:
        if document is None or isinstance(document, _Refused):
            return
        if hook == "agm_transform_event" and isinstance(document, list | EndStream):
            for event in document.events if isinstance(document, EndStream) else document:
                self._document("agm_transform_event", event)
            return
        if not isinstance(document, dict):
            self.refuse(hook, f"returned {_sort(document)}", "return the document, a dict, or None for no change")
        try:
            msgspec.json.encode(document)
        except (TypeError, ValueError, RecursionError) as e:
            self.refuse(hook, f"returned what JSON cannot hold ({e})", "put in only what JSON has")
        if not _finite(document):
            self.refuse(
                hook, "returned what JSON cannot hold (an infinite number, or none)", "put in only what JSON has"
            )

    def _classification(
        self, status: int, body: bytes, headers: Mapping[str, str], account: Account, request: GatewayRequest
    ) -> None:
        hook = "agm_classify_error"
        given = {"status": status, "body": body, "headers": headers, "account": account, "request": request}
        for verdict in self.call(hook, given, f"the status {status} and the body {body[:40]!r}"):
            if verdict is None:
                continue
            if not isinstance(verdict, Verdict) or not isinstance(verdict.fault, Fault):
                self.refuse(hook, f"returned {_sort(verdict)}", "return Verdict(Fault.…, reason) or None")
            if not isinstance(verdict.reason, str) or not verdict.reason:
                self.refuse(hook, "gave no reason", "write Verdict(fault, reason)")
            delay = verdict.delay
            if delay is not None and (isinstance(delay, bool) or not isinstance(delay, int | float) or not delay >= 0):
                self.refuse(hook, f"said to wait {delay!r}", "give seconds, 0 or more, or None")

    def _observers(self, requests: Sequence[GatewayRequest], account: Account) -> None:
        good = AttemptRecord("r", 1, account.name, "its turn", account.endpoints[0], "m", 1.8e9, 0.5, 0.5, 200, None)
        failed = attrs.evolve(good, first_byte=None, status=429, verdict=Verdict(Fault.RATE, "RATE_LIMIT", 20.0))
        silent = attrs.evolve(good, first_byte=None, status=None, verdict=Verdict(Fault.ENDPOINT, "CONNECT_FAILED"))
        for attempt in (good, failed, silent):
            self.nothing("agm_attempt_finished", {"attempt": attempt}, f"an attempt with status {attempt.status}")
        for request in requests:
            ok = RequestRecord(request, 1.8e9, 0.7, 0.5, 200, "ok", 1234, (failed, good))
            for record in (
                ok,
                attrs.evolve(ok, first_byte=None, status=503, outcome="error", sent=0, attempts=()),
                attrs.evolve(ok, outcome="aborted"),
                attrs.evolve(ok, first_byte=None, outcome="cancelled", sent=0, attempts=(silent,)),
            ):
                self.nothing("agm_request_finished", {"record": record}, f"a record of outcome {record.outcome!r}")

        for alert in (
            Alert("account_off", account.name, f"Account {account.name} is off.", {"account": account.name}),
            Alert("budget", "team:search", "80 % of the budget is spent.", {"spent": 160.0, "limit": 200.0}),
            Alert("quota_storm", "all accounts", "10 requests found no account with quota left."),
        ):
            self.nothing("agm_alert", {"alert": alert}, f"an alert of kind {alert.kind}")

    def nothing(self, hook: str, given: Mapping[str, Any], what: str) -> None:
        """Check a hook that returns nothing."""
        for result in self.call(hook, given, what):
            if result is not None:
                self.refuse(hook, f"returned {_sort(result)}", "an observer returns nothing")

    def _resources(self, config: Config) -> None:
        hook = "agm_resources"
        site = _site(config)
        for resources in self.call(hook, {"site": site}, "a site"):
            if not isinstance(resources, Mapping):
                self.refuse(hook, f"returned {_sort(resources)}", "return {segment: resource}")
            for segment, resource in resources.items():
                if not isinstance(segment, str) or not segment or "/" in segment:
                    self.refuse(hook, f"named the segment {segment!r}", "give the first segment of a path, no slash")
                if segment in site.resource.segments:
                    self.refuse(hook, f"took the segment {segment!r}, the gateway's own", "choose another")
                if not IResource.providedBy(resource):
                    self.refuse(hook, f"gave {_sort(resource)}", "give an ApiResource or another twisted.web resource")

    def _each(self, hook: str, found: Any, what: str) -> Iterable[Any]:
        if isinstance(found, str) or not isinstance(found, Iterable):
            self.refuse(hook, f"returned {_sort(found)}", f"return {what}")
        return found


def _finite(value: object) -> bool:
    """Return whether every number in a document is one that JSON has; the gateway would send null for any other."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@attrs.frozen
class _Later:
    """A result that may be an awaitable where the hook itself may not return one."""

    result: Any


def _waited(result: Awaitable[Any], patience: float) -> Any:
    """Wait for an awaitable, running the reactor if necessary, and return its result."""

    async def coroutine() -> Any:
        return await result

    found: list[Any] = []
    failures: list[Failure] = []
    waiting: Deferred[Any] = Deferred.fromCoroutine(coroutine())
    if not waiting.called:
        _run_the_reactor_until(waiting, patience)
    waiting.addCallbacks(found.append, failures.append)
    if failures:
        failures[0].raiseException()
    return found[0]


def _run_the_reactor_until(waiting: Deferred[Any], patience: float) -> None:
    """Turn the reactor by hand: the test that called is itself one of its callbacks, and cannot leave it."""
    from twisted.internet import reactor as the_reactor

    reactor: Any = the_reactor
    end = reactor.seconds() + patience
    while reactor.running and not waiting.called and reactor.seconds() < end:
        reactor.iterate(0.01)
    if not waiting.called:
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        if not reactor.running:
            raise RuntimeError("it awaits the reactor, which does not run: call check_plugin under pytest-twisted")
        raise _NotDone


def _site(config: Config) -> Any:
    """A site that nobody listens on."""
    from twisted.internet import reactor

    from agm.plugins.hooks import Hooks
    from agm.serving.gateway import Gateway
    from agm.upstream.client import HTTPUpstreamClient
    from agm.upstream.credentials.refresher import Refresher
    from agm.web.access import Access
    from agm.web.root import make_site

    loop: Any = reactor
    client = HTTPUpstreamClient(loop, connect_timeout=config.timeouts.connect)
    hooks = Hooks(make_plugin_manager(entry_points=False), loop)
    gateway = Gateway(loop, config, hooks, client, Refresher(loop, client.treq), "off")
    return make_site(gateway, Access.of((), ["127.0.0.1"], ()))


def _sort(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {repr(value)[:60]}"


def _shown(request: GatewayRequest) -> str:
    body = request.body.raw[:60].decode("utf-8", "replace")
    return f"{request.method} of {request.asked_model} and the body {body!r}"


def _names(refused: Any) -> object:
    return sorted(map(str, refused)) if isinstance(refused, Mapping) else refused


def _account_name(choice: Any) -> object:
    account = getattr(choice, "account", choice)
    return getattr(account, "name", account)
