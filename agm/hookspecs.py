"""
Every hook of agm, in the order in which a request meets them.

A plugin is a module (or an object) with functions of these names, each marked with ``@agm.hookimpl``.  It names only
the arguments that it wants.  The values that hooks receive and return are in :mod:`agm.api`: they are frozen, hold no
Twisted object and no credential, and stay as they are from version to version.

The built-in behaviour is made of plugins behind the same hooks (:mod:`agm.plugins.builtin`), all ``trylast``: yours
are asked first, the one loaded last before the others, and ``tryfirst``, ``trylast`` and wrappers work as pluggy says.

Each hook says what an exception does.  It is always logged with the plugin, the hook and the request, and counted.  A
hook that *fails open* is then passed over, and the other plugins are asked; one that *fails closed* ends the request
with 500 (or the start with one line), because going on would do what nobody intended.  An :class:`agm.api.GatewayError`
is no failure but an answer: the client gets it.

The interface has a version, :data:`API_VERSION`.  What is renamed keeps its old name, with a warning at the start that
names the plugin, until the first number changes: a hook by a row in :data:`RENAMED`; an argument by staying beside the
new one, which the gateway passes both, with ``@hookspec(warn_on_impl_args={"old": FutureWarning("…")})``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pluggy

from agm.core.alerts import Alert
from agm.core.answer import Answer, KeepAnswer, LocalAnswer
from agm.core.classify import Verdict
from agm.core.client_keys import ClientKey
from agm.core.dialect import TranslatedCall
from agm.core.request import (
    Account,
    AccountChoice,
    AttemptRecord,
    GatewayRequest,
    ModelChoice,
    RequestRecord,
    UpstreamKind,
    UpstreamRequest,
)

if TYPE_CHECKING:
    from twisted.web.resource import IResource

    from agm.config import Config
    from agm.core.request import EndStream
    from agm.upstream.accounts import AccountSource

hookspec = pluggy.HookspecMarker("agm")

#: The version of this interface.  Its second number grows with each hook, argument or type of result more; its first
#: one where a plugin that keeps to the interface could break, and with nothing else.
API_VERSION = "1.1"
#: Since which version each hook is there; ``HOOK.ARGUMENT`` for arguments that are younger than their hook.
SINCE: Mapping[str, str] = {
    "agm_upstream_kinds": "1.1",
    "agm_settings": "1.1",
    "agm_configure": "1.0",
    "agm_client_keys": "1.0",
    "agm_accounts": "1.0",
    "agm_started": "1.1",
    "agm_look_up": "1.1",
    "agm_map_model": "1.0",
    "agm_answer_request": "1.1",
    "agm_transform_request": "1.0",
    "agm_filter_accounts": "1.0",
    "agm_select_account": "1.0",
    "agm_wrap_request": "1.0",
    "agm_classify_error": "1.0",
    "agm_answer_headers": "1.1",
    "agm_transform_event": "1.0",
    "agm_transform_event.account": "1.1",
    "agm_attempt_finished": "1.0",
    "agm_request_finished": "1.0",
    "agm_alert": "1.1",
    "agm_resources": "1.0",
    "agm_stopping": "1.1",
}
#: Hooks that have another name now, each with that and the version that gave it.
RENAMED: Mapping[str, tuple[str, str]] = {}


class Site(Protocol):
    """The site that resources are added to, with what an :class:`agm.api.ApiResource` is made of."""

    #: The gateway: an :class:`agm.api.Gateway`.
    gateway: Any
    #: Who may talk to it.
    access: Any
    #: Put a function here under the name of a dialect, and ``agm explain --dialect NAME`` explains its requests:
    #: ``translate(path, body) -> agm.api.TranslatedCall``, or a :class:`agm.api.GatewayError` that it raises.
    dialects: dict[str, Callable[[str, bytes], TranslatedCall]]


class ClientKeySource(Protocol):
    """Somewhere that client keys can be looked up."""

    def lookup(self, presented: str) -> ClientKey | Awaitable[ClientKey | None] | None:
        """
        The key that a client presented, or None if it is not known here; at once, or after a while.

        :param presented: the key as it was sent; it must not be logged or kept.
        """

    def __len__(self) -> int:
        """Return how many keys there are; 0 if there is certainly none.  A source that cannot tell returns 1."""


@hookspec
def agm_upstream_kinds() -> Iterable[UpstreamKind]:  # type: ignore[empty-body]
    """
    Add kinds of upstreams, for ``[[accounts]] kind = "NAME"``: other services than Google's, and other ways to them.

    Asked once, when the plugin is loaded, before any setting is read.

    :returns: what each kind can do, and how it is spoken to.

    Synchronous.  Takes no wrapper.  Fails closed: the start ends.  What its functions raise later ends the request.

    Example::

        @hookimpl
        def agm_upstream_kinds():
            return [UpstreamKind("mirror", {"generateContent", "countTokens"}, endpoints=("https://gemini.example.net",))]
    """


@hookspec
def agm_settings() -> Mapping[str, type[msgspec.Struct]]:  # type: ignore[empty-body]
    """
    Say what the plugin's own tables may hold, so that mistakes in them are found as in all others.

    Asked at the start and at each reload, before ``agm_configure``, and by ``agm config check``.

    :returns: a ``msgspec.Struct`` for each table, by the NAME of its ``[plugins.NAME]``: its fields are the keys, with
        types and defaults.  ``config.plugins.read(NAME, STRUCT)`` gives it, filled in.

    Synchronous.  Fails closed: the start ends, or the reload is refused and the old configuration stays.

    Example::

        class Night(msgspec.Struct):
            model: str = "gemini-2.5-flash"
            from_hour: int = 22

        @hookimpl
        def agm_settings():
            return {"night": Night}
    """


@hookspec
def agm_configure(config: Config) -> None:
    """
    Read the plugin's own settings; called at the start and at each reload, before every other hook.

    :param config: the whole configuration; ``config.plugins.tables.get("NAME", {})`` is the table ``[plugins.NAME]``.
    :returns: nothing.

    Synchronous.  Fails closed: the start ends, or the reload is refused and the old configuration stays.

    Example::

        @hookimpl
        def agm_configure(config):
            settings.clear()  # a reload may have taken some away
            settings.update(config.plugins.tables.get("night", {}))
    """


@hookspec
def agm_client_keys(config: Config) -> Iterable[ClientKeySource]:  # type: ignore[empty-body]
    """
    Add sources of client keys; they are asked in order until one knows the key.

    :param config: the whole configuration.
    :returns: sources: a fixed :class:`agm.api.KeyRing`, an :class:`agm.api.CachedKeys` around an asynchronous lookup,
        or anything with their two methods.

    Synchronous; a source's ``lookup`` may be asynchronous, under the time limit ``[plugins] timeout``.  Fails closed:
    the start ends.  Where a lookup fails and no other source knows the key, the client gets 503; a
    :class:`agm.api.GatewayError` that it raises is what the client gets.  A source may also have ``named(name)``,
    synchronous, which ``agm explain --key`` asks.

    Example::

        @hookimpl
        def agm_client_keys(config):
            return [KeyRing.of({"laptop": os.environ["LAPTOP_KEY"]})]
    """


@hookspec
def agm_accounts(  # type: ignore[empty-body]
    config: Config,
) -> Iterable[AccountSource] | Awaitable[Iterable[AccountSource]]:
    """
    Add accounts from elsewhere than the configuration: a vault, a database.

    :param config: the whole configuration.
    :returns: accounts with their credentials.

    May be asynchronous: the gateway serves from the other accounts meanwhile, after a reload also from those that came
    before.  Fails closed: the start ends, or the reload is refused; what fails later is logged, and its accounts are
    missing, or stay as they were before a reload.

    Example::

        @hookimpl
        async def agm_accounts(config):
            key = await vault.read("gemini")
            account = Account("vault", "api-key", ("https://generativelanguage.googleapis.com",))
            return [AccountSource(account, lambda refresher: ApiKey(key))]
    """


@hookspec
def agm_started(gateway: Any) -> Awaitable[None] | None:
    """
    Begin: the gateway runs, and serves from now on.

    It is called once, before the first request, and before what ``agm_accounts`` awaits; a reload does not call it.

    :param gateway: the :class:`agm.api.Gateway`, to be kept for other hooks.
    :returns: nothing.

    May be asynchronous; nobody waits for it.  Fails open.

    Example::

        @hookimpl
        def agm_started(gateway):
            state.gateway = gateway
    """


@hookspec
def agm_look_up(request: GatewayRequest) -> Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None:
    """
    Look up what the decisions need, slowly if it must be: they are synchronous, and find it in ``request.found``.

    :param request: the request as it came; its model is not mapped yet.
    :returns: what was found, by names that are the plugin's own; all of it together is ``request.found``.

    May be asynchronous, under the time limit ``[plugins] timeout``; plugins are asked one after the other.  Takes no
    wrapper.  Fails closed: decisions without what they need would be others.

    Example::

        @hookimpl
        async def agm_look_up(request):
            return {"team": await directory.team_of(request.client_key)}
    """


@hookspec(firstresult=True)
def agm_map_model(model: str, request: GatewayRequest) -> ModelChoice | str | None:
    """
    Name the upstream model that serves a request.

    :param model: what the client asked for, without ``models/``; a display name is already its id.
    :param request: the request; ``request.body.json()`` parses the body, once for all who look.
    :returns: the model, best with a reason; None leaves it to the next plugin.  The aliases of the configuration come
        last.

    Synchronous.  Fails open.

    Example::

        @hookimpl
        def agm_map_model(model, request):
            if model.startswith("claude-"):
                return ModelChoice("gemini-2.5-pro", "we have no Claude here")
    """


@hookspec(firstresult=True)
def agm_answer_request(
    request: GatewayRequest,
) -> LocalAnswer | Answer | KeepAnswer | Awaitable[LocalAnswer | Answer | KeepAnswer | None] | None:
    """
    Answer a call of a model without an upstream: from a cache, as a guard, or by calls of the plugin's own.

    :param request: the request, with the mapped model; its client key has been admitted.  A call that a plugin makes
        for a request is not offered.
    :returns: a :class:`agm.api.LocalAnswer`; or the :class:`agm.api.Answer` of ``gateway.call(…, parent=request)``,
        which is relayed as it comes; or a :class:`agm.api.KeepAnswer`, which asks for the answer of the upstream, and
        leaves the request to the next plugin, as None does.  Where ``request.explaining``, decide as ever, but call
        nothing.

    May be asynchronous, under the time limit ``[plugins] timeout``.  Takes no wrapper.  Fails closed: what a guard has
    not seen must not go out.  A cache expects its own failures, and returns None.

    Example::

        @hookimpl
        def agm_answer_request(request):
            if request.model == "echo":
                return LocalAnswer({"candidates": [{"content": {"role": "model", "parts": [{"text": "echo"}]}}]})
    """


@hookspec
def agm_transform_request(
    body: dict[str, Any], request: GatewayRequest
) -> dict[str, Any] | Awaitable[dict[str, Any] | None] | None:
    """
    Edit the body before it is sent.

    Every JSON body meets it, whole; ``request.method`` says what kind of document it is.  What cannot be shown, as the
    bytes of an upload, is refused with 501, unless the plugin has the attribute ``may_pass_unseen = True``.

    :param body: the document; each plugin gets what the one before it returned.
    :param request: the request as it came, with the mapped model.
    :returns: the document to send, which may be `body` itself, edited; None for no change.

    May be asynchronous, under the time limit ``[plugins] timeout``.  Takes no wrapper.  Fails closed: nothing is sent.
    Where no plugin has it, bodies pass byte for byte and are never parsed for it.

    Example::

        @hookimpl
        def agm_transform_request(body, request):
            body.setdefault("labels", {})["team"] = request.client_key or "none"
            return body
    """


@hookspec
def agm_filter_accounts(accounts: Sequence[Account], request: GatewayRequest) -> Mapping[str, str] | None:
    """
    Take accounts away that must not serve this request.

    :param accounts: those that could: neither resting nor full, of a kind that has the method, with the model.
    :param request: the request, with the mapped model.
    :returns: names of accounts, each with the reason; every plugin's answer counts.

    Synchronous; asked before every attempt.  Fails closed: the request must not reach an account that it was to be kept
    from.

    Example::

        @hookimpl
        def agm_filter_accounts(accounts, request):
            if request.client_key == "ci":
                return {a.name: "not for CI" for a in accounts if a.name.startswith("prod-")}
    """


@hookspec(firstresult=True)
def agm_select_account(
    accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]
) -> AccountChoice | Account | None:
    """
    Pick the account that serves the next attempt.

    :param accounts: the candidates, at least one.
    :param request: the request.  Where ``request.explaining``, decide as ever, but remember nothing.
    :param loads: how many requests each account is serving, by name.
    :returns: one of `accounts`, best with a reason; None leaves it to the next plugin.  The configured strategy comes
        last.

    Synchronous.  Fails open.

    Example::

        @hookimpl
        def agm_select_account(accounts, request, loads):
            free = [a for a in accounts if a.name.endswith("-free")]
            if free:
                return AccountChoice(free[0], "the free one first")
    """


@hookspec(firstresult=True)
def agm_wrap_request(request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest | None:
    """
    Build the request for an account's endpoint: its path, headers and body, without the credential.

    :param request: the request; its ``upstream_framing`` says how the answer is to come.
    :param account: the account that was picked.
    :param body: the client's body, or what ``agm_transform_request`` made of it.
    :returns: the upstream request; None leaves it to the next plugin.  The three built-in kinds come last.

    Synchronous; called for every attempt.  Fails closed.

    Example::

        @hookimpl
        def agm_wrap_request(request, account, body):
            if account.name == "mirror":
                path = f"/gemini/{quote_model(request.model)}:{request.method}"
                return UpstreamRequest(path, ((b"Content-Type", b"application/json"),), body, request.upstream_framing)
    """


@hookspec(firstresult=True)
def agm_classify_error(
    status: int, body: bytes, headers: Mapping[str, str], account: Account, request: GatewayRequest
) -> Verdict | None:
    """
    Say what a failed answer of an upstream means.

    Take care to tell what is about the account from what is about the request: a verdict about the account or the model
    changes what other clients get.

    :param status: its HTTP status, 400 or more.
    :param body: its body, 1 MiB at most; need not be JSON.
    :param headers: ``retry-after``, if it had one.
    :param account: the account that it came for.
    :param request: the request that was sent.
    :returns: what it means; None leaves it to the next plugin.  Google's own words are read last.

    Synchronous.  Fails open.

    Example::

        @hookimpl
        def agm_classify_error(status, body, account):
            if status == 418:
                return Verdict(Fault.RATE, "TEAPOT", delay=30)
    """


@hookspec
def agm_answer_headers(
    headers: Mapping[str, str], status: int, request: GatewayRequest, account: Account | None
) -> Mapping[str, str] | None:
    """
    Add headers to an answer, good or bad, of an upstream or of ``agm_answer_request``, before it is sent.

    :param headers: those that it has, with lower-case names.
    :param status: its HTTP status.
    :param request: the request, with the mapped model.
    :param account: the account whose answer it is; None where it is of several, or of none.
    :returns: headers to add, or to put in the place of those of the same name; every plugin's count, and of two the one
        of the plugin that is called first.  How the answer is sent (``Content-Length`` and the like) is agm's own.

    Synchronous.  Fails open.

    Example::

        @hookimpl
        def agm_answer_headers(request):
            return {"X-Served-Model": request.model}
    """


@hookspec
def agm_transform_event(
    event: dict[str, Any], request: GatewayRequest, account: Account
) -> dict[str, Any] | list[dict[str, Any]] | EndStream | None:
    """
    Edit a piece of the answer: an event of a stream, an element of a streamed array, or a unary answer as a whole.

    :param event: the document; each plugin gets what the one before it returned.
    :param request: the request, with the mapped model; its ``method`` says what kind of document it is.
    :param account: the account whose answer it is.
    :returns: the document for the client; None for no change; of a stream also a list of documents, which come in its
        place (an empty one drops it), or :class:`agm.api.EndStream` to end it well.

    Synchronous.  Takes no wrapper.  Fails closed: the answer breaks off, and does not look complete; before anything
    has gone to the client it is 500.  Where no plugin has it, answers pass byte for byte.

    Example::

        @hookimpl
        def agm_transform_event(event, request):
            event.pop("modelVersion", None)
            return event
    """


@hookspec
def agm_attempt_finished(attempt: AttemptRecord) -> Awaitable[None] | None:
    """
    Observe that an attempt at an upstream has ended: with its first byte, or without one.

    :param attempt: what was tried, and what came of it.
    :returns: nothing.

    May be asynchronous; nobody waits for it.  Fails open.

    Example::

        @hookimpl
        def agm_attempt_finished(attempt):
            if attempt.verdict is not None:
                failures[attempt.account, attempt.verdict.reason] += 1
    """


@hookspec
def agm_request_finished(record: RequestRecord) -> Awaitable[None] | None:
    """
    Observe that a request has ended, whichever way, with all its attempts.

    :param record: the request and what became of it.
    :returns: nothing.

    May be asynchronous; nobody waits for it.  Fails open.

    Example::

        @hookimpl
        async def agm_request_finished(record):
            await database.insert(record.request.client_key, record.status, record.ended)
    """


@hookspec
def agm_alert(alert: Alert) -> Awaitable[None] | None:
    """
    Hear of something that somebody may have to act on.

    :param alert: what it is; the same may be said again.
    :returns: nothing.

    May be asynchronous; nobody waits for it.  Fails open.

    Example::

        @hookimpl
        async def agm_alert(alert):
            if alert.kind == "account_off":
                await pager.call(alert.text)
    """


@hookspec
def agm_resources(site: Site) -> Mapping[str, IResource]:  # type: ignore[empty-body]
    """
    Add HTTP resources beside the API: another dialect, a page.

    :param site: the site; ``site.gateway`` is the gateway, whose ``call`` serves a call within the process, and whose
        ``http`` is a treq client over its connections; ``site.access`` says who may talk to it.
    :returns: twisted.web resources by the first segment of their path.  A subclass of :class:`agm.api.ApiResource`
        checks the Host, the Origin and the client key as the gateway's own do; a plain one checks nothing.  Below the
        versions of the Gemini API a path has several segments, ``v1/chat/completions``, and an ApiResource that says
        by ``claims(wire)`` which requests for it, or below it, are its own; all others stay the gateway's.

    Synchronous; called once.  Fails closed: the start ends.

    Example::

        @hookimpl
        def agm_resources(site):
            return {"hello": Hello(site.gateway, site.access)}
    """


@hookspec
def agm_stopping() -> Awaitable[None] | None:
    """
    End: no request is in flight any more, and connections to upstreams still work.

    :returns: nothing.

    May be asynchronous; the stop waits for it, up to the time limit ``[plugins] timeout``.  Fails open.

    Example::

        @hookimpl
        async def agm_stopping():
            await counts.flush()
    """
