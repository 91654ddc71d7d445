"""
What a person asks the running gateway: ``/_agm/explain`` and ``/_agm/plugins``.

Open to this machine, and to client keys with ``admin = true``; nobody else.  Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.internet.address import UNIXAddress
from twisted.web.resource import IResource, Resource

from agm.core.errors import Forbidden, InvalidRequest
from agm.core.target import METHODS, VERSIONS, ModelCall, bare_model
from agm.exchange import Incoming
from agm.explain import explain
from agm.gateway import Gateway
from agm.plugins import HOOKS
from agm.web.access import Access, is_loopback
from agm.web.resources import ApiResource, Unknown, Visit, framing_of, send_json
from agm.web.site import GatewayRequestOnWire


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_agm/explain``."""

    model: str
    method: str = "generateContent"
    body: msgspec.Raw = msgspec.Raw(b"{}")
    version: str = "v1beta"
    #: Parameters of the query, ``{"alt": "sse"}``.
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    #: The name of a client key, to explain a request that comes with it.
    key: str | None = None


class AdminResource(ApiResource):
    """A resource for the person who runs the gateway."""

    async def respond(self, visit: Visit) -> None:
        if not (is_local(visit.wire) or (visit.key is not None and visit.key.admin)):
            raise Forbidden(
                "This is open to the gateway's own machine, and to client keys with admin = true.", reason="ADMIN_ONLY"
            )
        await self.respond_to_admin(visit)

    async def respond_to_admin(self, visit: Visit) -> None:
        """Answer."""
        raise NotImplementedError


def is_local(wire: GatewayRequestOnWire) -> bool:
    """Whether a request comes from this machine itself."""
    client = wire.getClientAddress()
    return isinstance(client, UNIXAddress) or is_loopback(getattr(client, "host", ""))


class Explain(AdminResource):
    """``POST /_agm/explain``: what would happen to a request."""

    methods = ("POST",)

    async def respond_to_admin(self, visit: Visit) -> None:
        question = read_question(visit.wire.content.getvalue())
        send_json(visit.wire, await explain(self.gateway, incoming(self.gateway, question, visit.wire.id)))


def read_question(body: bytes) -> Question:
    """
    A question from JSON.

    :raises InvalidRequest: if it is not one.
    """
    try:
        question = msgspec.json.decode(body, type=Question)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"This is not a question to explain: {e}") from None
    if question.method not in METHODS:
        raise InvalidRequest(f"There is no method {question.method[:60]!r}; there are {', '.join(METHODS)}.")
    if question.version not in VERSIONS:
        raise InvalidRequest(f"There is no version {question.version[:60]!r}; there are {', '.join(VERSIONS)}.")
    return question


def incoming(gateway: Gateway, question: Question, request_id: str) -> Incoming:
    """
    The call that a question is about.

    :raises InvalidRequest: if it names a client key that is not known.
    """
    model = bare_model(question.model)
    key = None if question.key is None else gateway.key_named(question.key)
    return Incoming(
        id=request_id,
        path=f"/{question.version}/models/{model}:{question.method}",
        call=ModelCall(question.version, model, question.method),
        framing=framing_of(question.method, question.query, gateway.config.gateway.stream_default),
        query=question.query,
        headers={name.lower(): value for name, value in question.headers.items()},
        key=key,
        body=bytes(question.body),
        received_at=gateway.wall(),
    )


class Plugins(AdminResource):
    """``GET /_agm/plugins``: the plugins in the order in which they are asked, and how often each failed."""

    async def respond_to_admin(self, visit: Visit) -> None:
        send_json(visit.wire, describe_plugins(self.gateway))


def describe_plugins(gateway: Gateway) -> dict[str, Any]:
    """Plugins and hooks of a gateway, as a JSON document."""
    manager, failures = gateway.hooks.manager, gateway.hooks.failures
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


class AdminRoot(Resource):
    """Everything below ``/_agm``."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__()
        self._unknown = Unknown(gateway, access)
        self.putChild(b"explain", Explain(gateway, access))
        self.putChild(b"plugins", Plugins(gateway, access))

    def getChild(self, path: bytes, request: Any) -> IResource:
        """There is nothing else."""
        return self._unknown
