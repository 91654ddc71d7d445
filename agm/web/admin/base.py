"""
What a person asks the running gateway: ``/_agm/explain``, ``/_agm/plugins`` and ``/_agm/accounts``; how it stands as
a whole is told by :mod:`agm.web.admin.status`, and :mod:`agm.web.admin.request_log` is about the request log.

Open to this machine itself, through no proxy, and to client keys with ``admin = true``; nobody else.  Nothing here
changes how requests are served.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
from twisted.logger import Logger
from twisted.web.resource import IResource, Resource

from agm.core.client_keys import ClientKey
from agm.core.documents import undense
from agm.core.errors import NOT_JSON, Forbidden, InvalidRequest, NotFound
from agm.core.pool.cooldown import KnownRest, Remembered
from agm.core.pool.exclusions import Cause
from agm.core.remedies import fix_for
from agm.core.request import Account
from agm.core.wire.target import MAX_MODEL, METHODS, VERSIONS, bare_model, parse_call, quote_model
from agm.diagnose.explain import explain
from agm.plugins.manager import HOOKS, PluginManager
from agm.serving.gateway import Gateway
from agm.serving.prepare import Incoming
from agm.web.access import Access
from agm.web.request import GatewayRequestOnWire
from agm.web.resources import CREDENTIAL_HEADERS, CREDENTIAL_PARAMETERS, ApiResource, Unknown, Visit, framing_of

log = Logger()

#: RFC 9110, section 5.1: a header's name is a token; and what Twisted lets through of a value.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\u0100-\U0010ffff]*")


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_agm/explain``; what may be of any size is left as it is written."""

    model: str
    method: str = "generateContent"
    body: msgspec.Raw = msgspec.Raw(b"{}")
    version: str = "v1beta"
    #: Parameters of the query, ``{"alt": "sse"}``, and headers.
    written_query: msgspec.Raw = msgspec.field(name="query", default=msgspec.Raw(b"{}"))
    written_headers: msgspec.Raw = msgspec.field(name="headers", default=msgspec.Raw(b"{}"))
    #: The name of a client key, to explain a request that comes with it.
    key: str | None = None

    @property
    def query(self) -> dict[str, str]:
        """The parameters.  :raises msgspec.ValidationError: if they are none."""
        return _TEXTS.decode(self.written_query)

    @property
    def headers(self) -> dict[str, str]:
        """The headers.  :raises msgspec.ValidationError: if they are none."""
        return _TEXTS.decode(self.written_headers)


#: Bytes that the parameters and the headers of a question may have: more than a request's head.
MAX_HEAD = 64 * 1024
_TEXTS = msgspec.json.Decoder(dict[str, str])


class Reset(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be taken back: for one model, or all of it."""

    model: str | None = None


class AdminResource(ApiResource):
    """A resource for the person who runs the gateway."""

    nothing_below = True
    #: Whether a client key that is shown has to be one with ``admin = true``, on the gateway's own machine, too.
    for_admins = False

    async def respond(self, visit: Visit) -> None:
        if visit.key is None or not visit.key.admin:
            if not visit.wire.sender.local:
                raise Forbidden(
                    "This is open to the gateway's own machine (but not through a proxy, unless it is in [gateway] "
                    "trusted_proxies), and to client keys with admin = true.",
                    reason="ADMIN_ONLY",
                )
            if self.for_admins and visit.key is not None:
                raise Forbidden("This needs a client key with admin = true.", reason="ADMIN_ONLY")
        await self.respond_to_admin(visit)

    async def respond_to_admin(self, visit: Visit) -> None:
        """Answer."""
        raise NotImplementedError

    def tell(self, visit: Visit, document: object) -> None:
        """Answer 200 with a document, from which secrets are taken that a plugin or an upstream may have put there."""
        text = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        visit.wire.send(200, [], self.gateway.redactor.body(text))


class Explain(AdminResource):
    """``POST /_agm/explain``: what would happen to a request."""

    methods = ("POST",)

    async def respond_to_admin(self, visit: Visit) -> None:
        question = read_question(visit.wire.body)
        self.tell(visit, await explain(self.gateway, incoming(self.gateway, question, visit.wire.id)))


def read_question(body: bytes) -> Question:
    """
    A question from JSON.

    :raises InvalidRequest: if it is not one.  No header of it is repeated: keys get pasted into wrong places.
    """
    try:
        question = msgspec.json.decode(undense(body), type=Question)
        if len(bytes(question.written_query)) + len(bytes(question.written_headers)) > MAX_HEAD:
            raise InvalidRequest(f"The parameters and headers of the question are larger than {MAX_HEAD} bytes.")
        headers, _ = question.headers, question.query
    except NOT_JSON as e:
        raise InvalidRequest(f"This is not a question to explain: {e}") from None
    if len(question.model) > 2 * MAX_MODEL:
        raise InvalidRequest(f"The model's name is longer than {MAX_MODEL} characters.")
    if question.method not in METHODS:
        raise InvalidRequest(f"There is no method {question.method[:60]!r}; there are {', '.join(METHODS)}.")
    if question.version not in VERSIONS:
        raise InvalidRequest(f"There is no version {question.version[:60]!r}; there are {', '.join(VERSIONS)}.")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidRequest("One of the headers cannot be one: a name is a token, a value one line of Latin-1.")
    return question


def incoming(gateway: Gateway, question: Question, request_id: str) -> Incoming:
    """
    The call that a question is about, read from a path as a client would write it.

    :raises NotFound: if it names no model.
    :raises InvalidRequest: if it names what no model can be called, or a client key that is not known.
    """
    path = f"/{question.version}/models/{quote_model(bare_model(question.model))}:{question.method}"
    key = None if question.key is None else gateway.key_named(question.key)
    return Incoming(
        id=request_id,
        path=path,
        call=parse_call(path.encode("ascii")),
        framing=framing_of(question.method, question.query, gateway.config.gateway.stream_default),
        query={name: value for name, value in question.query.items() if name not in CREDENTIAL_PARAMETERS},
        headers={
            name.lower(): value
            for name, value in question.headers.items()
            if name.lower().encode("ascii") not in CREDENTIAL_HEADERS
        },
        key=key,
        body=bytes(question.body),
        received_at=gateway.wall(),
    )


class Plugins(AdminResource):
    """``GET /_agm/plugins``: the plugins in the order in which they are asked, and how often each failed."""

    async def respond_to_admin(self, visit: Visit) -> None:
        hooks = self.gateway.hooks
        self.tell(visit, describe_plugins(hooks.manager, hooks.failures))


def describe_plugins(manager: PluginManager, failures: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """
    Plugins and hooks, in the order in which they are asked, as a JSON document.

    :param failures: how often a plugin's hook raised, by (plugin, hook).
    """
    plugins: list[Mapping[str, Any]] = []
    for name, origin in reversed(manager.origins.items()):
        plugin = manager.get_plugin(name)
        hooks = [caller.name for caller in manager.get_hookcallers(plugin) or ()]
        plugins.append(
            {
                "name": name,
                "origin": origin.kind,
                "where": origin.where,
                "version": origin.version,
                "hooks": sorted(hooks, key=HOOKS.index),
                "failures": sum(count for (plugin_name, _), count in failures.items() if plugin_name == name),
            }
        )
    hooks_in_order: list[Mapping[str, Any]] = [
        {"hook": hook, "plugins": [_named(impl) for impl in reversed(getattr(manager.hook, hook).get_hookimpls())]}
        for hook in HOOKS
    ]
    return {"plugins": plugins, "hooks": hooks_in_order}


def _named(impl: Any) -> str:
    name: str = impl.plugin_name
    return f"{name} (wrapper)" if impl.wrapper or impl.hookwrapper else name


class Accounts(AdminResource):
    """
    ``GET /_agm/accounts``: how each account stands; ``POST /_agm/accounts/NAME/reset``: take back what is held against
    one.
    """

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        match wire.postpath:
            case [] | [b""]:
                return self.methods
            case [_, b"reset"]:
                return ("POST",)
        return ()

    async def respond_to_admin(self, visit: Visit) -> None:
        match visit.wire.postpath:
            case [] | [b""]:
                self.tell(visit, {"accounts": describe_accounts(self.gateway)})
            case [name, *_]:
                self._reset(visit, name.decode("utf-8", "replace"))

    def _reset(self, visit: Visit, name: str) -> None:
        try:
            asked = msgspec.json.decode(visit.wire.body or b"{}", type=Reset)
        except NOT_JSON as e:
            raise InvalidRequest(f"This does not say what to reset: {e}") from None
        try:
            found = self.gateway.pool.reset(name, asked.model)
        except KeyError:
            raise NotFound("There is no account of this name; GET /_agm/accounts lists them.") from None
        log.info(
            "{request_id}: the cooldowns and errors of account {account} are cleared, for {model}",
            request_id=visit.wire.id,
            account=name,
            model=asked.model or "all models",
        )
        self.tell(visit, {"account": name, "model": asked.model, "reset": found})


def describe_accounts(gateway: Gateway) -> list[dict[str, Any]]:
    """
    The accounts in the order of the configuration, as a JSON document; docs/accounts.md describes its fields.

    No credential is in it; an upstream's error is told by its status and reason, and not by what it repeats of a
    request.
    """
    known, loads = gateway.pool.remember(), gateway.pool.loads()
    return [
        _standing(account, known.get(account.name, Remembered()), loads[account.name], gateway)
        for account in gateway.pool.accounts
    ]


def _standing(account: Account, known: Remembered, load: int, gateway: Gateway) -> dict[str, Any]:
    failed = gateway.last_failures.get(account.name)
    last = None if failed is None else failed.record
    return {
        "name": account.name,
        "kind": account.kind,
        "project": gateway.code_assist.known(account).project,
        "in_flight": load,
        "max_concurrency": account.max_concurrency,
        "disabled": known.disabled,
        "held": None if known.held is None else describe_rest(account, known.held),
        "models": [describe_rest(account, rest) for rest in known.all_rests],
        "quotas": [
            {"model": model, "remaining": round(remaining, 4), "seconds_left": round(left, 1)}
            for model, remaining, left in known.quotas
        ],
        "last_failure": None
        if failed is None or last is None or last.verdict is None
        else {
            "seconds_ago": round(gateway.reactor.seconds() - failed.at, 1),
            "model": last.model,
            "status": last.status,
            "reason": last.verdict.reason,
        },
    }


def describe_rest(account: Account, rest: KnownRest) -> dict[str, Any]:
    """A rest as a JSON document: for which model (``*`` is all), why, for how long, and the act that helps."""
    left = rest.left
    return {
        "model": rest.model,
        # after a rest, one request tries the account before the others do
        "state": "probe due" if left is not None and left <= 0 else _STATES.get(rest.cause, rest.cause.lower()),
        "reason": rest.reason,
        "seconds_left": None if left is None else max(round(left, 1), 0.0),
        "message": rest.message,
        "link": rest.link,
        "fix": fix_for(account, rest),
    }


class Keys(AdminResource):
    """``GET /_agm/keys``: the limits of each client key, and what it has used of them today."""

    async def respond_to_admin(self, visit: Visit) -> None:
        self.tell(visit, {"client_keys": [describe_key(self.gateway, key) for key in self.gateway.client_keys]})


def describe_key(gateway: Gateway, key: ClientKey) -> dict[str, Any]:
    """A client key's name, limits and use since midnight UTC, as a JSON document."""
    requests, tokens = gateway.allowances.today(key.name)
    return {
        "name": key.name,
        "models": list(key.models),
        **attrs.asdict(key.limits),
        "expires": key.expires,
        "admin": key.admin,
        "today": {"requests": requests, "tokens": tokens},
    }


#: How a person reads the cause of a rest.
_STATES = {Cause.RESTING.name: "resting", Cause.DISABLED.name: "disabled", Cause.ASIDE.name: "set aside"}


class AdminRoot(Resource):
    """Everything below ``/_agm``."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        from agm.web.admin.request_log import Log  # they are made of what is above
        from agm.web.admin.status import Events, Status

        super().__init__()
        self._unknown = Unknown(gateway, access)
        self.putChild(b"accounts", Accounts(gateway, access))
        self.putChild(b"events", Events(gateway, access))
        self.putChild(b"explain", Explain(gateway, access))
        self.putChild(b"keys", Keys(gateway, access))
        self.putChild(b"log", Log(gateway, access))
        self.putChild(b"plugins", Plugins(gateway, access))
        self.putChild(b"status", Status(gateway, access))

    def getChild(self, path: bytes, request: Any) -> IResource:
        """There is nothing else."""
        return self._unknown

    def render(self, request: Any) -> int:
        """Nor is it something itself."""
        return self._unknown.render(request)
